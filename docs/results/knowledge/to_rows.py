"""Turn the records of the study of knowledge updates into rows; run once, from the root of the repository."""

import json
from dataclasses import asdict
from pathlib import Path

from lens_fv.core.statistics import Estimate
from lens_fv.dynamics import Trajectory
from lens_fv.knowledge import KnowledgeResult, KnowledgeScores, KnowledgeTrace
from lens_fv.studies.knowledge import KnowledgeSettings
from lens_fv.studies.knowledge.mechanism import TUNING_LOGPROB, change_rows, layer_rows, task_rows, trace_rows
from lens_fv.studies.knowledge.updates import chance_row, result_rows, score_rows
from lens_fv.studies.rows import Job, Row, RowStore
from lens_fv.studies.study import settings_hash

FOLDER = Path("docs/results/knowledge/records/smollm2-135m")
PARTS = {"own": "entities", "outside": "external", "more": "sizes"}
CONTEXTS = {"base": "base", "definition": "definition_in_context", "random_definition": "random_definition_in_context"}
METHODS = {
    "distill": "distillation",
    "definition": "finetuning_definition",
    "definition_gently": "finetuning_definition_gentle",
    "sentences": "finetuning_sentences",
    "unanchored": "distillation_unanchored",
    "anchored_definition": "finetuning_definition_anchored",
    "other_sentences": "distillation_swapped_sentences",
    "wrong_definition": "distillation_wrong_definition",
}
FIELDS = {
    "elsewhere": "locality",
    "outside": "external_entities",
    "most_outside": "max_external",
    "every": "tuning_stride",
    "keep_every": "stride",
    "n_alone": "n_sentences_single",
    "ways": "recipes",
    "at_once": "entities_per_update",
    "numbers": "update_sizes",
    "elsewhere_step": "locality_stride",
    "moments": "epochs",
}
CONFIG = {"method": "update", "where": "target_tokens", "clip": "max_grad_norm", "at_once": "micro_batch_size"}


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def result(condition, record):
    locality, kl = record["elsewhere"], record["drift"]
    scores = KnowledgeScores.of_rows(record["scores"])
    return KnowledgeResult(
        condition, scores, KnowledgeScores.of_rows(locality) if locality else None, Estimate(*kl.values()) if kl else None
    )


def jobs():
    base, ways, numbers, steps, vectors = map(read, ("base", "ways", "numbers", "steps", "vectors"))
    for source, part in PARTS.items():
        results = [result(name, base[f"{source}/{key}"]) for key, name in CONTEXTS.items()]
        yield part, 0, "base", [chance_row(results[0].scores), *(row for each in results for row in result_rows(each))]
    for key, record in ways.items():
        source, seed, way = key.split("/")
        yield PARTS[source], int(seed), f"10/{METHODS[way]}", result_rows(result(METHODS[way], record), record["skipped"])
    for key, record in numbers.items():
        n, way = key.split("/")
        yield "sizes", 0, f"{n}/{METHODS[way]}", result_rows(result(METHODS[way], record), record["skipped"])
    first = {row["entity"] for row in steps["1"]["scores"]}
    begin = [row for row in base["own/base"]["scores"] if row["entity"] in first]
    yield "epochs", 0, "0/base", score_rows("base", KnowledgeScores.of_rows(begin))
    for n, record in steps.items():
        yield "epochs", 0, f"{n}/distillation", [*result_rows(result("distillation", record)), *change_rows(record["moved"])]
    yield "epochs", 0, "tasks", task_rows(Trajectory.load(FOLDER / "trajectory.safetensors"))
    for condition in ("base", "distillation", "definition_in_context"):
        yield "traces", 0, condition, trace_rows(KnowledgeTrace.load(FOLDER / f"trace-{condition}.safetensors"), condition)
    scores = {key: KnowledgeScores.of_rows(rows) for key, rows in vectors.items() if key != "layer"}
    rows = list(layer_rows([scores[f"chosen/{layer}"] for layer in range(30)], scores["chosen/none"]))
    rows.append(Row("all", "definition_vector", "best_layer", float(vectors["layer"])))
    rows += score_rows("definition_vector", scores["reported/own"])
    rows += score_rows("other_definition_vector", scores["reported/another's"])
    assert sum(row.measure == TUNING_LOGPROB for row in rows) == 2 * 80
    yield "vectors", 0, "vectors", rows


for old, new in (("updated", "distillation"), ("definition", "definition_in_context")):
    (FOLDER / f"trace-{old}.safetensors").rename(FOLDER / f"trace-{new}.safetensors")
for seed in range(3):
    (FOLDER / f"sentences-own-{seed}.json").rename(FOLDER / f"sentences-entities-{seed}.json")
recorded, versions = read("study"), read("versions")
settings = json.loads(json.dumps(asdict(KnowledgeSettings(external_entities=recorded["outside"]))))
for key, value in recorded.items():
    if key == "ways":  # the defaults are what was run; only that rate was not written out
        value = {METHODS[way]: configs for way, configs in value.items()}
        value["finetuning_definition"][1]["learning_rate"] = 5e-4
        for config in (config for pair in value.values() for config in pair):
            for old, new in CONFIG.items():
                config[new] = config.pop(old)
    if key not in ("model", "revision"):
        assert settings[FIELDS.get(key, key)] == value, key
run = {key: recorded[key] for key in ("model", "revision")} | {"fingerprint": None, "weights": versions.pop("weights")}
store = RowStore(FOLDER / "rows.jsonl", recorded["model"], settings_hash(settings))
for part, seed, name, rows in jobs():
    store.compute(Job(part, name, lambda rows=rows: rows, seed))
for name in ("base", "ways", "numbers", "steps", "vectors", "versions"):
    (FOLDER / f"{name}.json").unlink()
(FOLDER / "study.json").write_text(json.dumps(run | settings | {"versions": versions}, indent=1))
