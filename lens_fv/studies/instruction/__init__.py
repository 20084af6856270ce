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
from lens_fv.studies.rows import COLUMNS
from lens_fv.studies.study import Results
from lens_fv.studies.tables import Contrast, View

METRICS = ("average", "final", "forgetting", "general_before", "general", "in_context")
JUDGEMENTS = get_args(Judgement)
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

    @staticmethod
    def derived(run: Results) -> Any:
        """See `Study.derived`: the first word of a job is its `kind`."""
        return run.rows.frame.assign(kind=run.rows.frame["job"].str.partition("/")[0])

    @staticmethod
    def context(rows: View, runs: Sequence[Results]) -> Mapping[str, Any]:
        """See `Study.context`: everything by run."""
        return {"claims": CLAIMS, "results": {run.name: _results(rows.where(model=run.name), run) for run in runs}}

    @staticmethod
    def headline(rows: View, _: Results) -> Mapping[str, Any]:
        """Numbers of tracked runs, and of tasks by what became of them."""
        sequences = rows.where(part="sequences")
        judged = Counter(sequences.where(measure=("trained", "not_trained")).frame["condition"])
        counts = {judgement: judged[judgement] for judgement in JUDGEMENTS}
        lost = sum(counts[judgement] for judgement in ("suppressed", "overwritten", "undecided"))
        return {"runs": sequences.frame.groupby(["seed", "job"]).ngroups, "lost": lost, **counts}


STUDY = InstructionStudy


def _results(rows: View, run: Results) -> Mapping[str, Any]:
    tracked, counterparts = rows.where(part="sequences"), rows.where(part="counterparts").estimates()
    return {
        "start": _start(rows.where(part="start")),
        "metrics": _metrics(tracked, run.settings["sequences"]),
        "judged": _judged(tracked.where(condition=JUDGEMENTS)),
        "differences": {name: claim.estimate(rows) for name, claim in CLAIMS.items()},
        "counterparts": {kind.replace("_", " "): {**row, "tasks": row["jaccard"].n} for kind, row in counterparts.items()},
        "figures": _figures(run),
        "checkpoints": _checkpoints(tracked),
    }


def _checkpoints(rows: View) -> Any:
    """What was measured at each checkpoint: "0" is before training, others are named TASK/STEP."""
    conditions = rows.frame["condition"]
    return rows.frame.loc[conditions.str.contains("/") | (conditions == "0"), list(COLUMNS)]


def _start(rows: View) -> dict[str, dict[str, Any]]:
    """By task: accuracy before and after the mixture over all seeds' items, the majority's, and the seeds it enters with."""
    table: dict[str, dict[str, Any]] = {}
    for task in rows.unique("unit"):
        correct, majority = (rows.where(unit=task, measure=measure) for measure in ("correct", "majority_accuracy"))
        accuracies = {when: proportion(sum(items), len(items)) for when, items in correct.values("condition").items()}
        majorities = majority.values("seed")
        by_seed = correct.where(condition="after").values("seed")
        entered = [enters(items, majorities[seed][-1]) for seed, items in by_seed.items()]
        mean = fmean(map(fmean, majorities.values()))
        table[task] = {**accuracies, "majority": mean, "enters": f"{sum(entered)} of {len(entered)}"}
    return table


def _metrics(rows: View, sequences: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], dict[str, str]]:
    """Mean and range over seeds of each metric, by sequence and its tasks."""
    table: dict[tuple[str, str], dict[str, str]] = {}
    for name, tasks in sequences.items():
        by_metric = rows.where(condition="run", measure=METRICS, unit=name).values("measure")
        table[name, ", ".join(tasks)] = {
            metric: f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})" for metric, values in by_metric.items()
        }
    return table


def _judged(rows: View) -> dict[str, dict[str, int]]:
    """Number of tasks of runs by judgement, among trained and other tasks; "absent" only if there are any."""
    judgements = [name for name in JUDGEMENTS if name != "absent" or name in rows.unique("condition")]
    counts = rows.frame.groupby(["measure", "condition"]).size()
    names = {"trained": "trained", "not_trained": "not trained"} if len(rows) else {}
    return {words: {name: int(counts.get((who, name), 0)) for name in judgements} for who, words in names.items()}


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
