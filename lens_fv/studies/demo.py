"""The demonstration: head rankings and function vectors of a few relations."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lens_fv.core.files import write_atomically
from lens_fv.core.tables import table_rows
from lens_fv.evaluation import Evaluation, evaluate
from lens_fv.model.lens_model import LensModel
from lens_fv.studies.demo_report import write_demo_report
from lens_fv.studies.task_study import DEMO_TASKS, DemoSettings, TaskStudy, study_task
from lens_fv.tasks import load_task

__all__ = ["DEMO_TASKS", "DemoSettings", "run_demo"]


def run_demo(
    model: LensModel, out: str | Path, settings: DemoSettings | None = None, *, progress: bool = False
) -> dict[str, Any]:
    """Run the demonstration and write it to the folder `out`.

    Writes `report.html` (self-contained), `report.json` (every number) and `figures/`, and saves each relation's head ranking
    and vectors under `artefacts/` as soon as they are computed.

    Returns:
        The content of `report.json`.

    Raises:
        LensFVError: a task is unknown, or the folder cannot be written.
    """
    settings, out = settings or DemoSettings(), Path(out)
    begin = time.perf_counter()
    studies: list[TaskStudy] = []
    for name in settings.tasks:
        study = study_task(model, load_task(name), settings, progress=progress)
        folder = out / "artefacts" / study.slug
        study.ranking.save(folder / "ranking.safetensors")
        study.extracted.save(folder / "extracted.safetensors")
        study.tuned.save(folder / "tuned.safetensors")
        studies.append(study)
    evaluations: list[Evaluation] = []
    for i, study in enumerate(studies):
        found = evaluate(
            model,
            study.task,
            {"extracted": study.extracted, "tuned": study.tuned},
            other=studies[i - 1].tuned if len(studies) > 1 else None,
            split=study.split,
            n_shots=settings.n_shots,
            max_items=settings.max_items,
            seed=settings.seed,
            progress=progress,
        )
        found.save(out / "artefacts" / study.slug / "evaluation.safetensors")
        evaluations.append(found)
    seconds = time.perf_counter() - begin
    report = _report(model, settings, studies, evaluations, seconds)
    write_atomically(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False))
    write_demo_report(out, model, {s.task.name: s for s in studies}, {e.provenance.task: e for e in evaluations}, seconds)
    return report


def _report(
    model: LensModel,
    settings: DemoSettings,
    studies: Sequence[TaskStudy],
    evaluations: Sequence[Evaluation],
    seconds: float,
) -> dict[str, Any]:
    return {
        "model": model.name,
        "revision": model.revision,
        "versions": dict(studies[0].ranking.provenance.versions),
        "settings": vars(settings) | {"tasks": list(settings.tasks)},
        "seconds": seconds,
        "tasks": {study.task.name: _task_report(study, found) for study, found in zip(studies, evaluations, strict=True)},
    }


def _task_report(study: TaskStudy, evaluation: Evaluation) -> dict[str, Any]:
    answers = [pair.output for pair in study.split.test]
    return {
        "pairs": len(study.task),
        "split": {"train": len(study.split.train), "validation": len(study.split.validation), "test": len(study.split.test)},
        "heads": table_rows(study.ranking.top()),
        "baseline": float(study.ranking.baseline.mean()),
        "layers": {
            "top1_accuracy": study.by_layer.mean("top1")[:, 0].tolist(),
            "logprob_per_answer_nats": study.by_layer.mean()[:, 0].tolist(),
        },
        "results": table_rows(evaluation.results),
        "vectors": {
            name: {
                "layer": vector.layer,
                "norm": float(vector.vector.norm()),
                "norm_in_residuals": vector.norm,
                "options": dict(vector.provenance.options),
                "decoded": study.decoded[name].tokens,
                "ranks": {word: study.decoded[name].ranks[word] for word in study.task.relation_words},
                "median_answer_rank": sorted(study.decoded[name].ranks[a] for a in answers)[len(answers) // 2],
            }
            for name, vector in (("extracted", study.extracted), ("tuned", study.tuned))
        },
    }
