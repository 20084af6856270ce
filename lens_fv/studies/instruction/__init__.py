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
from lens_fv.studies.tables import Contrast, Table, select, values_by

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
        return {"claims": CLAIMS, "results": {run.name: _results(run) for run in runs}}

    @classmethod
    def headline(cls, run: Results) -> Mapping[str, Any]:
        """Numbers of tracked runs, and of tasks by what became of them."""
        judged = Counter(select(run.part("sequences"), {"measure": ("trained", "not_trained")})["condition"])
        counts = {judgement: judged[judgement] for judgement in get_args(Judgement)}
        lost = sum(counts[judgement] for judgement in ("suppressed", "overwritten", "undecided"))
        return {"runs": run.part("sequences").groupby(["seed", "job"]).ngroups, "lost": lost, **counts}


STUDY = InstructionStudy


def _results(run: Results) -> Mapping[str, Any]:
    rows, injection = run.part("sequences"), run.part("injection")
    lost = select(rows, {"measure": "change", "condition": "accuracy"})
    jaccard = values_by(select(rows, {"measure": "jaccard"}), "condition")
    heads = values_by(select(injection, {"condition": "heads"}), "measure")
    counterparts = Table().estimates(run.part("counterparts"))
    by_model = injection.assign(model=injection["job"].str.split("/").str[0])
    measures = ("change", "cosine_to_initial", "recovered_share", "correlation_with_accuracy")
    return {
        "start": _start(run),
        "metrics": _metrics(run),
        "judged": _judged(run),
        "n_lost": len(lost),
        "n_lost_tasks": lost["unit"].nunique(),
        "differences": {name: claim.estimate(rows) for name, claim in CLAIMS.items()},
        **{measure: Table(where={"measure": measure}).estimates(rows) for measure in measures},
        "jaccard": {condition: fmean(values) for condition, values in jaccard.items()},
        "injection": Table(columns="model", where={"measure": "top1_accuracy"}).estimates(by_model),
        "heads": {measure: fmean(values) for measure, values in heads.items()},
        "p_values": heads.get("p_value"),
        "counterparts": {kind.replace("_", " "): {**row, "tasks": row["jaccard"].n} for kind, row in counterparts.items()},
        "figures": _figures(run),
        "verdicts": select(rows, {"condition": "verdict"}).pivot_table("value", ["unit", "seed"], "measure", sort=False),
        "moments": rows.loc[rows["condition"].str.contains("/") | (rows["condition"] == "0")],
    }


def _start(run: Results) -> dict[str, dict[str, Any]]:
    """By task: accuracy before and after the mixture over all seeds' items, the majority's, and the seeds it enters with."""
    rows = run.part("start")
    correct = select(rows, {"measure": "correct"})
    accuracies = values_by(correct, ["unit", "condition"])
    by_seed = values_by(select(correct, {"condition": "after"}), ["unit", "seed"])
    majorities = values_by(select(rows, {"measure": "majority_accuracy"}), ["unit", "seed"])
    table: dict[str, dict[str, Any]] = {}
    for task in dict.fromkeys(rows["unit"]):
        entered = [enters(items, majorities[key][-1]) for key, items in by_seed.items() if key[0] == task]
        table[task] = {
            **{key[1]: proportion(sum(items), len(items)) for key, items in accuracies.items() if key[0] == task},
            "majority": fmean(fmean(values) for key, values in majorities.items() if key[0] == task),
            "enters": f"{sum(entered)} of {len(entered)}",
        }
    return table


def _metrics(run: Results) -> dict[tuple[str, str], dict[str, str]]:
    """Mean and range over seeds of each metric, by sequence and its tasks."""
    rows = select(run.part("sequences"), {"condition": "run", "measure": METRICS})
    table = {(name, ", ".join(tasks)): dict[str, str]() for name, tasks in run.settings["sequences"].items()}
    for sequence, cells in table.items():
        for metric, values in values_by(select(rows, {"unit": sequence[0]}), "measure").items():
            cells[metric] = f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
    return table


def _judged(run: Results) -> dict[str, dict[str, int]]:
    """Number of tasks of runs by judgement, among trained and other tasks; "absent" only if there are any."""
    rows = select(run.part("sequences"), {"condition": get_args(Judgement)})
    judgements = [name for name in get_args(Judgement) if name != "absent" or name in set(rows["condition"])]
    names = {"trained": "trained", "not_trained": "not trained"} if len(rows) else {}
    counts = {who: Counter(rows.loc[rows["measure"] == who, "condition"]) for who in names}
    return {names[who]: {judgement: count[judgement] for judgement in judgements} for who, count in counts.items()}


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
