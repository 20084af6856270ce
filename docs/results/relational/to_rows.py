"""Run once: turn the records of the relational study into rows. Values that were 32-bit floats get their shortest form."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lens_fv.studies.relational.analogies import MEASURES
from lens_fv.studies.relational.settings import RelationalSettings
from lens_fv.studies.relational.vectors import RANKS
from lens_fv.studies.study import settings_hash

HERE = Path(__file__).parent / "records"
PARTS = ("completion", "transfer", "analogies", "decoding", "tuning", "carrying", "kinds", "lists", "alignment")
SETTINGS = {"few": "subset", "rated_every": "rated_stride"}
LOGITS = {"plain": "direct", "centred": "direct, centred", "through": "later layers", "through, centred": "later layers, centred"}
NORMS = {"naive": "summed", "carried": "normed"}
VARIANTS = {
    **{f"top {k}": (f"{k} vector{'s' * (k > 1)}", {"composite": "composite"}) for k in (1, 3, 10)},
    **{f"{n} pairs": (f"{n} pairs", {c: c for c in ("composite", "few_shot", "few_shot_composite")}) for n in (2, 4, 8)},
    **{f"1/{n} of the basis": (f"1/{n} of the basis", {"composite": "composite"}) for n in (2, 4)},
    "untuned": ("extracted vectors", {"composite": "composite", "lengthened": "rescaled"}),
    "scores": ("probabilities as scores", {"probability": "probability"}),
}


def short(value):
    """A number in its shortest form: a 32-bit float if it is one."""
    if isinstance(value, list):
        return [short(v) for v in value]
    if isinstance(value, float) and value == float(np.float32(value)):
        value = float(str(np.float32(value)))
    return int(value) if value in (0, 1) else value


def evaluated(unit, results, renamed=None):
    for r in results:
        logprob = r.get("logprob_per_answer", r.get("mean_logprob"))
        measures = {"top1_accuracy": r["top1"], "top3_accuracy": r["top3"], "exact_match": r["full"]}
        for measure, value in (measures | {"logprob_per_answer_nats": logprob}).items():
            yield unit, (renamed or {}).get(r["condition"], r["condition"]), measure, value, r["n"]


def analogies(found, conditions, features):
    owners = np.array(found["relations"])
    for name in dict.fromkeys(found["relations"]):
        own = np.flatnonzero(owners == name)
        for condition, recorded in conditions.items():
            i = found["conditions"].index(condition)
            for measure, key in MEASURES.items():
                yield name, recorded, measure, [found[key][j][i] for j in own], 1
    if features:
        for name in dict.fromkeys(found["relations"]):
            own = np.flatnonzero(owners == name)
            yield name, "composite", "is_far", [int(found["far"][j]) for j in own], 1
            for i, measure in enumerate(("weight_entropy_nats", "source_gain_nats_per_token")):
                yield name, "composite", measure, [found["features"][j][i] for j in own], 1


def taxonomy(level, kinds):
    for kind, s in kinds.items():
        for measure in ("same", "different", "difference", "difference_p_value", "auc", "auc_p_value"):
            n = {"same": s["n_same"], "different": s["n_different"]}.get(measure, s["n_items"])
            yield level, kind, measure, s[measure.removesuffix("_value")], n


def jobs(folder):
    """Part, seed, job and rows of every record."""
    records = {part: json.loads((folder / f"{part}.json").read_text()) for part in PARTS}
    n_items = {name: r[0]["n"] for key, r in records["completion"].items() for name in [key.split("/", 1)[1]] if key[0] == "0"}
    for key, results in records["completion"].items():
        seed, name = key.split("/", 1)
        yield "completion", int(seed), name, evaluated(name, results)
    for name, r in records["transfer"].items():
        n = min(5, n_items[name])
        yield "transfer", 0, name, [
            (name, "tuned", "top1_accuracy", r["top1"], n),
            (name, "tuned", "logprob_gain_nats", r["gain"], n),
        ]
    solved = [(key, r) for key, r in sorted(records["analogies"].items()) if "variants" not in key]
    for key, r in sorted(solved, key=lambda item: item[0].split("/")[1] == "pairs"):
        fold, split = key.split("/")
        yield "analogies", 0, f"{split}/{fold}", analogies(r, {c: c for c in r["conditions"]}, True)
    for key, (name, conditions) in VARIANTS.items():
        renamed = {c: f"{new}, {name}" for c, new in conditions.items()}
        yield "analogies", 0, f"variants/{name}", analogies(records["analogies"][f"0/variants/{key}"], renamed, False)
    for key, r in records["decoding"].items():
        seed, how = key.split("/", 1)
        rows = []
        for row in [*r["results"], *({**d, "condition": "tuned - extracted"} for d in r["differences"])]:
            name = next(new for new, old in RANKS.items() if old == row["measure"])
            for end, column in (("", "mean"), ("_ci_low", "low"), ("_ci_high", "high"), ("_p_value", "p")):
                if column in row:
                    rows.append((row["of"], row["condition"], f"{name}{end}", row[column], row["n"]))
        yield "decoding", int(seed), LOGITS[how], rows
    tuning = {"none": "zero_shot_top1_accuracy", "top1": "top1_accuracy", "logprob": "logprob_per_answer_nats"}
    tuning |= {"gain": "logprob_gain_nats", "step": "best_step", "norm": "vector_norm"}
    for key, r in records["tuning"].items():
        seed, varied, value = key.split("/", 2)
        rows = [(name, value, tuning[k], v, n_items[name]) for name, row in r.items() for k, v in row.items()]
        yield "tuning", int(seed), f"{varied}/{value}", rows
    for part, new, renamed in (("carrying", "norms", NORMS), ("kinds", "baselines", {}), ("lists", "lists", {})):
        for key, results in records[part].items():
            seed, name = key.split("/", 1)
            yield new, int(seed), name, evaluated(name.split("/")[0], results, renamed)
    for key, r in records["alignment"].items():
        seed, name = key.split("/", 1)
        if name == "built-in":
            yield "alignment", int(seed), name, [row for level, kinds in r.items() for row in taxonomy(level, kinds)]
        else:
            measures = [result["measure"] for result in r["results"]]
            rows = [(u, m, "spearman", v, 1) for u, by in r["by_relation"].items() for m, v in zip(measures, by, strict=True)]
            yield "alignment", int(seed), name, [*rows, *taxonomy("SemEval class", r["classes"])]


def main():
    for folder in sorted(HERE.iterdir()):
        old, versions = (json.loads((folder / f"{name}.json").read_text()) for name in ("study", "versions"))
        settings = {SETTINGS.get(key, key): value for key, value in old.items() if key not in ("model", "revision")}
        for_maps, for_tests = settings.pop("n_analogies")
        settings |= {"n_map_analogies": for_maps, "n_test_analogies": for_tests}
        settings = {key: settings[key] for key in json.loads(json.dumps(asdict(RelationalSettings())))}
        run = {"model": old["model"], "revision": old["revision"], "fingerprint": None, "weights": versions.pop("weights")}
        (folder / "study.json").write_text(json.dumps(run | settings | {"versions": versions}, indent=1))
        key = settings_hash(settings)
        with (folder / "rows.jsonl").open("w") as file:
            for part, seed, job, rows in jobs(folder):
                rows = [(u, c, m, short(v), n) for u, c, m, v, n in rows]
                line = {"model": old["model"], "settings_hash": key, "part": part, "seed": seed, "job": job, "rows": rows}
                file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
        for name in ("versions", *PARTS):
            (folder / f"{name}.json").unlink()


if __name__ == "__main__":
    main()
