"""The demonstration: head rankings and function vectors of a few relations."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lens_fv.core.choices import Seed
from lens_fv.core.files import file_name, write_atomically
from lens_fv.core.tables import table_rows
from lens_fv.evaluation import Evaluation, evaluate
from lens_fv.heads import HeadRanking, rank_heads
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Split, Task, load_task, split_pairs
from lens_fv.vectors import Decoded, FunctionVector, InjectionSweep, decode, extract, sweep_injection, tune

__all__ = ["DEMO_TASKS", "DemoSettings", "run_demo"]

DEMO_TASKS = ("present-past", "singular-plural", "country-capital", "antonym")
"""Relations from morphology, world knowledge and lexical semantics that a small model partly knows."""


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demonstration; fewer prompts than the defaults of `rank_heads`, so that it takes minutes.

    Attributes:
        tasks: Names or files of the tasks.
        n_shots, n_clean, n_trials: Numbers of demonstrations per prompt, of clean prompts and of corrupted prompts.
        n_heads: Number of heads in the extracted vector.
        pairs, learning_rate, steps: Options of `tune`.
        layers: Candidate layers for tuning, as fractions of the depth.
        max_items: Maximum number of test pairs.
        seed: Seed of splits, prompts and random draws.
    """

    tasks: tuple[str, ...] = DEMO_TASKS
    n_shots: int = 5
    n_clean: int = 20
    n_trials: int = 8
    n_heads: int = 10
    pairs: int = 20
    layers: tuple[float, ...] = (0.3, 0.5)
    learning_rate: float = 0.1
    steps: int = 30
    max_items: int = 60
    seed: Seed = 0


@dataclass(frozen=True)
class TaskStudy:
    """Results for one relation."""

    task: Task
    split: Split
    ranking: HeadRanking
    by_layer: InjectionSweep
    extracted: FunctionVector
    tuned: FunctionVector
    decoded: Mapping[str, Decoded]

    @property
    def slug(self) -> str:
        """The task's name as a file name."""
        return file_name(self.task.name)


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
    from lens_fv.studies.reports import write_demo_report  # draws

    settings, out = settings or DemoSettings(), Path(out)
    begin = time.perf_counter()
    studies: list[TaskStudy] = []
    for name in settings.tasks:
        study = study_task(model, load_task(name), settings, progress=progress)
        for artefact in ("ranking", "extracted", "tuned"):
            getattr(study, artefact).save(out / "artefacts" / study.slug / f"{artefact}.safetensors")
        studies.append(study)
    evaluations: dict[str, Evaluation] = {}
    for i, study in enumerate(studies):
        evaluation = evaluate(
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
        evaluation.save(out / "artefacts" / study.slug / "evaluation.safetensors")
        evaluations[study.task.name] = evaluation
    report = {
        "model": model.name,
        "revision": model.revision,
        "versions": dict(studies[0].ranking.provenance.versions),
        "settings": asdict(settings),
        "seconds": time.perf_counter() - begin,
        "tasks": {study.task.name: _task_numbers(study, evaluations[study.task.name]) for study in studies},
    }
    write_atomically(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False))
    write_demo_report(out, model, studies, evaluations, report["seconds"])
    return report


def study_task(model: LensModel, task: Task, settings: DemoSettings, *, progress: bool = False) -> TaskStudy:
    """Rank heads and extract, tune and decode vectors for one relation, without using its test split."""
    s = settings
    split = split_pairs(task, seed=s.seed)
    ranking = rank_heads(
        model,
        task,
        split=split,
        n_shots=s.n_shots,
        n_clean=s.n_clean,
        n_trials=s.n_trials,
        seed=s.seed,
        progress=progress,
    )
    extracted = extract(model, task, ranking, n_heads=s.n_heads, split=split)
    by_layer = sweep_injection(model, task, extracted, scales=[1.0], split=split)
    tuned = tune(
        model,
        task,
        init=extracted,
        n_pairs=s.pairs,
        layers=[model.layer_at(depth) for depth in s.layers],
        learning_rate=s.learning_rate,
        steps=s.steps,
        split=split,
        seed=s.seed,
        progress=progress,
    )
    words = [*task.relation_words, *(pair.output for pair in split.test)]
    decoded = {name: decode(model, v, 10, words=words) for name, v in (("extracted", extracted), ("tuned", tuned))}
    return TaskStudy(task, split, ranking, by_layer, extracted, tuned, decoded)


def _task_numbers(study: TaskStudy, evaluation: Evaluation) -> dict[str, Any]:
    answers = [pair.output for pair in study.split.test]
    return {
        "pairs": len(study.task),
        "split": {name: len(getattr(study.split, name)) for name in ("train", "validation", "test")},
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
