"""The study of instructed tasks: are abilities that fine-tuning loses erased or suppressed?"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, get_args

from lens_fv.core.files import file_name
from lens_fv.core.statistics import proportion
from lens_fv.dynamics import Trajectory, verdicts
from lens_fv.dynamics.verdict import Judgement
from lens_fv.plotting import (
    plot_abilities,
    plot_forgetting,
    plot_head_change,
    plot_recovery,
    plot_vector_plane,
    plot_vector_similarity,
)
from lens_fv.studies.instruction.parts import counterparts, injection, sequences, start
from lens_fv.studies.instruction.settings import InstructedStudy, InstructionSettings, enters
from lens_fv.studies.study import Results
from lens_fv.studies.tables import Contrast, Table, mean, select

METRICS = ("average", "final", "forgetting", "general_before", "general", "in_context")
CLAIMS = {
    "knowledge": Contrast("knowledge", "instruction", "change", "sequences", "Knowledge falls less than following"),
    "vector": Contrast("vector", "random_heads", "cosine_to_initial", "sequences", "The vector moves less than random heads"),
    "random": Contrast(
        "with_vector", "with_random", "recovered_share", "sequences", "The vector restores more than a random vector"
    ),
    "other": Contrast(
        "with_vector", "with_other", "recovered_share", "sequences", "The vector restores more than another task's vector"
    ),
}


class InstructionStudy(InstructedStudy[InstructionSettings]):
    """Fine-tuning on task sequences, and what it does to abilities, instruction vectors and knowledge."""

    name = "instruction"
    settings_type = InstructionSettings
    parts: ClassVar = {"start": start, "sequences": sequences, "injection": injection, "counterparts": counterparts}

    @classmethod
    def context(cls, runs: Sequence[Results]) -> Mapping[str, Any]:
        """See `Study.context`: everything by run."""
        return {"claims": CLAIMS, "judgements": get_args(Judgement), "found": {run.name: _found(run) for run in runs}}

    @classmethod
    def headline(cls, run: Results) -> Mapping[str, Any]:
        """Numbers of tracked runs, and of tasks by what became of them."""
        judged = _judged(run)
        lost = {judgement: sum(counts.get(judgement, 0) for counts in judged.values()) for judgement in get_args(Judgement)}
        runs = run.part("sequences").groupby(["seed", "job"]).ngroups
        return {"runs": runs, "lost": sum(lost[kind] for kind in ("suppressed", "overwritten", "undecided")), **lost}


STUDY = InstructionStudy


def _found(run: Results) -> Mapping[str, Any]:
    rows = run.part("sequences")
    lost = select(rows, {"measure": "change", "condition": "accuracy"})
    heads = select(run.part("injection"), {"condition": "heads"})
    taught, untaught = (
        Table(where={"measure": "top1_accuracy"}).estimates(_jobs(run, "injection", when)) for when in ("taught", "untaught")
    )
    return {
        "start": _start(run),
        "metrics": _metrics(run),
        "judged": _judged(run),
        "n_lost": len(lost),
        "n_lost_tasks": lost["unit"].nunique(),
        "differences": {name: claim.estimate(rows) for name, claim in CLAIMS.items()},
        **{
            measure: {name: row[measure] for name, row in Table(where={"measure": measure}).estimates(rows).items()}
            for measure in ("change", "cosine_to_initial", "recovered_share", "correlation_with_accuracy")
        },
        "jaccard": {name: some["value"].mean() for name, some in select(rows, {"measure": "jaccard"}).groupby("condition")},
        "taught": {name: row["top1_accuracy"] for name, row in taught.items()},
        "untaught": {name: row["top1_accuracy"] for name, row in untaught.items()},
        "heads": {measure: some["value"].tolist() for measure, some in heads.groupby("measure")},
        "counterparts": Table().estimates(run.part("counterparts")),
        "figures": _figures(run),
        "verdicts": select(rows, {"condition": "verdict"}).pivot_table("value", ["unit", "seed"], "measure", sort=False),
        "moments": rows.loc[rows["condition"].str.contains("/") | (rows["condition"] == "0")],
    }


def _jobs(run: Results, part: str, prefix: str) -> Any:
    rows = run.part(part)
    return rows.loc[rows["job"].str.startswith(f"{prefix}/")]


def _start(run: Results) -> list[dict[str, Any]]:
    """For each task, its accuracy before and after the mixture over all seeds' items, and the seeds it enters with."""
    table: list[dict[str, Any]] = []
    for task, rows in run.part("start").groupby("unit", sort=False):
        row: dict[str, Any] = {"task": task, "majority": mean(select(rows, {"measure": "majority_accuracy"}), over="seed")}
        for when in ("before", "after"):
            correct = select(rows, {"measure": "correct", "condition": when})["value"].tolist()
            row[when] = proportion(sum(correct), len(correct))
        after = select(rows, {"condition": "after"})
        row["seeds"] = after["seed"].nunique()
        row["enters"] = 0
        for _, some in after.groupby("seed"):
            correct, majority = (some.loc[some["measure"] == m, "value"].tolist() for m in ("correct", "majority_accuracy"))
            row["enters"] += enters(correct, majority[0])
        table.append(row)
    return table


def _metrics(run: Results) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Mean and range over seeds of each metric, by sequence."""
    rows = select(run.part("sequences"), {"condition": "run", "measure": METRICS})
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for (sequence, measure), some in rows.groupby(["unit", "measure"], sort=False):
        values: list[float] = some["value"].tolist()
        found.setdefault(sequence, {})[measure] = fmean(values), min(values), max(values)
    return found


def _judged(run: Results) -> dict[str, dict[str, int]]:
    """Number of tasks of runs by judgement, among trained and other tasks."""
    rows = select(run.part("sequences"), {"condition": get_args(Judgement)})
    return {who: dict(Counter(rows.loc[rows["measure"] == who, "condition"])) for who in ("trained", "not_trained")}


def _figures(run: Results) -> list[tuple[str, str, Any]]:
    """Name, caption and figure of what the trajectories of the first seed show; none where their files are not kept."""
    figures: list[tuple[str, str, Any]] = []
    seed = run.settings["seeds"][0]
    for sequence, tasks in run.settings["sequences"].items():
        file = run.folder / f"{seed}-{file_name(sequence)}" / "trajectory.safetensors"
        if not file.is_file():
            continue
        trajectory = Trajectory.load(file)
        judged = verdicts(trajectory)
        about = f"{run.name}, {sequence} ({', then '.join(Path(task).stem for task in tasks)}), seed {seed}."
        drawn: dict[str, tuple[str, Any]] = {
            "forgetting": ("Accuracy after the instruction.", plot_forgetting(trajectory)),
            "recovery": ("Accuracy with and without vectors.", plot_recovery(judged)),
            "abilities": ("Increase in the log-probability of answers.", plot_abilities(trajectory)),
            "similarity": ("Cosine to the initial state.", plot_vector_similarity(trajectory)),
        }
        if len(trajectory.tasks) > 2:
            drawn["plane"] = ("Vectors from before to after training.", plot_vector_plane(trajectory))
        for verdict in [verdict for verdict in judged if verdict.lost][:1]:
            if not trajectory.effects[[0, -1], trajectory.tasks.index(verdict.task)].isnan().any():
                drawn["heads"] = (f"Effects of heads on {verdict.task}.", plot_head_change(trajectory, verdict.task))
        figures += [(f"{run.slug}-{name}-{sequence}", f"{caption} {about}", plot) for name, (caption, plot) in drawn.items()]
    return figures
