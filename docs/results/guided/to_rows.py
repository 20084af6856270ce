"""Convert the measured records of the study of guided fine-tuning to rows. Run once, from the root of the repository."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from lens_fv.studies.guided import STUDY
from lens_fv.studies.guided.parts import metric_rows
from lens_fv.studies.rows import Row
from lens_fv.studies.study import settings_hash

FOLDER = Path("docs/results/guided/records/smollm2-135m")
TRAJECTORY = {
    "accuracy": "exact_match",
    "with_vector": "exact_match_with_vector",
    "knowledge": "knowledge_logprob_per_token_nats",
    "vectors": "vector_cosine",
    "heads": "head_cosine",
    "alignment": "residual_cosine",
}


def renamed(name):
    return name.replace("crossed", "swap", 1) if name.startswith("crossed") else name


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def end(record, name):
    yield from ((task, name, "exact_match", [int(x) for x in items], 1) for task, items in record["end"].items())
    yield from ((task, name, "exact_match_in_context", [int(x) for x in items], 1) for task, items in record["context"].items())


def run(record, name, entered):
    for last, scores in record["after"].items():
        yield from ((task, name, f"exact_match_after_{last}", [int(x) for x in items], 1) for task, items in scores.items())
    yield from end(record, name)
    for key, measure in TRAJECTORY.items():
        if "followed" in record:
            for task, values in zip(entered, zip(*record["followed"][key], strict=True), strict=True):
                yield task, name, f"checkpoint_{measure}", values, 1


settings = json.loads(json.dumps(asdict(STUDY.settings_type())))
old, start, begin = read("study"), read("ground/start"), read("begin")
for key, value in old["ground"].items():  # the settings are those that are usual now
    known = {**value, "update": value["method"]} if isinstance(value, dict) and "method" in value else value
    now = settings[key]
    assert all(now[k] == v for k, v in known.items() if k in now) if isinstance(now, dict) else now == known, key
assert {renamed(name): len(each) for name, each in old["methods"].items()} == {k: len(v) for k, v in settings["methods"].items()}
for name, candidates in old["methods"].items():
    for candidate, new in zip(candidates, settings["methods"][renamed(name)], strict=True):
        print(name, candidate["share"], {k: v for k, v in candidate["training"].items() if k != "guide"}, new, file=sys.stderr)
lines = []


def add(part, seed, job, rows, sequence=None):
    rows = list(rows)
    if sequence:
        scores = [Row(*row) for row in rows if row[2].startswith("exact_match")]
        rows += metric_rows(scores, old["ground"]["sequences"][sequence], f"{seed}/{sequence}")
    lines.append({"model": old["model"], "settings_hash": settings_hash(settings), "part": part, "seed": seed, "job": job, "rows": list(rows)})


for key, record in start.items():
    seed, when, task = key.split("/")
    right = [int(x) for x in record["right"]]
    rows = [(task, when, "correct", right, 1), (task, when, "majority_accuracy", record["majority"], 1)]
    add("start", int(seed), f"{when}/{task}", rows)
for key, record in begin.items():
    seed, sequence = key.split("/")
    add("choosing" if sequence == "choosing" else "methods", int(seed), f"{sequence}/initial", end(record, "initial"), sequence)
for key, record in read("choosing").items():
    method, index = key.split("/")
    changes = settings["methods"][renamed(method)][int(index)]
    name = ", ".join([renamed(method), *(f"{k} {v}" for k, v in changes.items())])
    add("choosing", 0, f"choosing/{name}", run(record, name, ()), "choosing")
tasks = list(dict.fromkeys(task for sequence in old["ground"]["sequences"].values() for task in sequence))
for key, record in read("methods").items():
    seed, sequence, method = key.split("/", 2)
    entered = list(record["end"])
    add("methods", int(seed), f"{sequence}/{renamed(method)}", run(record, renamed(method), tasks), sequence)
for name, record in read("ablations").items():
    add("ablations", 0, f"forms/{renamed(name)}", run(record, renamed(name), ()), "forms")
steps = []
for step in read("costs")["steps"]:
    name = renamed(step["method"])
    for measure, key, n in (("seconds", "seconds", 5), ("time_ratio", "time_ratio", 5), ("peak_memory_bytes", "bytes", 1), ("memory_ratio", "memory_ratio", 1)):
        steps.append(("step", name, measure, step[key], n))
add("costs", 0, "steps", steps)
versions = read("versions")
weights = versions.pop("weights")
out = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
out.mkdir(parents=True, exist_ok=True)
about = {"model": old["model"], "revision": None, "fingerprint": None, "weights": weights, **settings, "versions": versions}
(out / "study.json").write_text(json.dumps(about, indent=1))
text = (json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
(out / "rows.jsonl").write_text("".join(text))
