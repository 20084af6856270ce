"""The page's sections on experiments with some relations: tuning, other kinds of vectors, lists, norms after attention."""

from collections.abc import Sequence

from lens_fv.plotting import plot_interval_dots, plot_interval_lines
from lens_fv.studies.page.markdown import Block, Picture, interval, points, table
from lens_fv.studies.relational.page.pooling import Scores, result_scores, tuning_scores
from lens_fv.studies.relational.page.recorded import Recorded, having
from lens_fv.studies.relational.page.words import BASELINES, CARRYING, LISTS, TUNING, labelled


def tuning(runs: Sequence[Recorded]) -> list[Block]:
    """The section on tuning: pairs, layers and starts."""
    runs_with = having(runs, "tuning")
    blocks: list[Block] = []
    for what, title in (("pairs", "training pairs"), ("layer", "layer, as a share of the depth"), ("start", "start")):
        top1 = {run.name: tuning_scores(records, what, "top1") for run, records in runs_with}
        gain = {run.name: tuning_scores(records, what, "gain") for run, records in runs_with}
        values = list(dict.fromkeys(value for scores in top1.values() for value in scores.conditions))
        if not values:
            continue
        header = [title, *(f"{name}: {measure}" for name in top1 for measure in ("accuracy", "gain (nats)"))]
        rows = [[v, *(interval(s.mean(v)) for name in top1 for s in (top1[name], gain[name]))] for v in values]
        blocks += [f"### By {title}", table(header, rows)]
        if what != "start":
            lines = {
                name: {float(v): e for v in scores.conditions for e in [scores.mean(v)] if e} for name, scores in top1.items()
            }
            drawn = plot_interval_lines(
                lines, title=f"Tuned vectors by {title}", x_axis=title, y_axis="first-token accuracy", log=what == "pairs"
            )
            blocks.append(Picture(f"tuning-{what}", f"First-token accuracy of tuned vectors by {title}.", drawn))
    return [TUNING, _on(runs_with), *blocks] if blocks else []


def kinds(runs: Sequence[Recorded]) -> list[Block]:
    """The section on other kinds of vectors, prompts and adapters from the same pairs."""
    runs_with = having(runs, "kinds")
    top1 = {run.name: result_scores(records, "top1") for run, records in runs_with}
    conditions = list(dict.fromkeys(c for scores in top1.values() for c in scores.conditions))
    if not conditions:
        return []
    rows = [
        [labelled(c), *(said for s in top1.values() for said in (interval(s.mean(c)), points(s.difference("tuned", c))))]
        for c in conditions
    ]
    header = ["kind", *(f"{name}: {what}" for name in top1 for what in ("accuracy", "tuned - it (points)"))]
    dots = {name: {labelled(c): e for c in conditions for e in [s.mean(c)] if e} for name, s in top1.items()}
    drawn = plot_interval_dots({"": dots}, title="Kinds from the same pairs", axis="first-token accuracy", limits=(-0.02, 1.02))
    return [
        BASELINES,
        _on(runs_with),
        table(header, rows),
        Picture("kinds", "First-token accuracy of everything that the same pairs can be made into.", drawn),
    ]


def lists(runs: Sequence[Recorded]) -> list[Block]:
    """The section on predicting the vector of a composed task from its parts."""
    runs_with = having(runs, "lists")
    found = {
        f"{run.name}, {method}": result_scores(
            {key.removesuffix(f"/{method}"): rows for key, rows in records.items() if key.endswith(f"/{method}")}, "top1"
        )
        for run, records in runs_with
        for method in ("extracted", "tuned")
    }
    conditions = list(dict.fromkeys(c for scores in found.values() for c in scores.conditions))
    if not conditions:
        return []
    rows = [[labelled(c), *(interval(s.mean(c)) for s in found.values())] for c in conditions]
    lists = max(len(scores.relations) for scores in found.values())
    return [LISTS, f"{lists} relations.", table(["vector", *found], rows)]


def carrying(runs: Sequence[Recorded], *, alone: str = "present-past") -> list[Block]:
    """The section on where to inject vectors in models with a norm after attention."""
    runs_with = having(runs, "carrying")
    top1 = {run.name: result_scores(records, "top1") for run, records in runs_with}
    conditions = list(dict.fromkeys(c for scores in top1.values() for c in scores.conditions))
    if not conditions:
        return []
    rows = [
        [labelled(c), *(said for s in top1.values() for said in (interval(s.mean(c)), s.by_relation(c).get(alone)))]
        for c in conditions
    ]
    rows += [
        [
            f"{one} - {other} (points)",
            *(x for s in top1.values() for x in (points(s.difference(one, other)), _alone(s, one, other, alone))),
        ]
        for one, other in (("carried", "naive"), ("heads", "carried"))
    ]
    header = ["extracted vector", *(f"{name}: {what}" for name in top1 for what in ("all", f"{alone} alone"))]
    return [CARRYING, _on(runs_with), table(header, rows)]


def _alone(scores: Scores, one: str, other: str, relation: str) -> str | None:
    found = scores.differences(one, other).get(relation)
    return None if found is None else f"{100 * found:+.0f}"


def _on(runs_with: Sequence[tuple[Recorded, object]]) -> str:
    few = dict.fromkeys(name for run, _ in runs_with for name in run.settings["few"] if name in run.groups)
    return f"Up to {len(few)} relations: {', '.join(few)}."
