"""The page's sections on what vectors do: completion, tuning, other kinds, carried norms."""

from collections.abc import Sequence

from lens_fv.plotting import interval_dots, interval_lines, relation_scatter
from lens_fv.statistics import Estimate
from lens_fv.studies.relational.markdown import Block, Picture, Sheet, folded, interval, points, table
from lens_fv.studies.relational.pooling import Scores, result_scores, tuning_scores
from lens_fv.studies.relational.recorded import Recorded, having
from lens_fv.studies.relational.words import CARRYING, COMPLETION, CONDITIONS, KINDS, TUNING, labelled

CLAIM = 0.20
"""By how much tuned vectors are claimed to beat extracted ones, as a share of test pairs."""


def completion(runs: Sequence[Recorded]) -> list[Block]:
    """Tuned vectors beside extracted ones and controls."""
    found = {run.name: (run, result_scores(records, "top1")) for run, records in having(runs, "completion")}
    if not found:
        return []
    blocks: list[Block] = [
        COMPLETION,
        beats(
            "Tuned vectors beat extracted ones",
            {n: scores.difference("tuned", "extracted") for n, (_, scores) in found.items()},
        ),
    ]
    for name, (run, top1) in found.items():
        among = {group: [r for r in run.relations if run.groups[r] == group] for group in dict.fromkeys(run.groups.values())}
        columns = [run.relations, *among.values()]
        header = ["all", *among]
        full, logprob = (result_scores(run.part("completion"), measure) for measure in ("full", "mean_logprob"))
        chosen = _in_order(top1)
        blocks += [
            f"### {name}\n\n{len(top1.relations)} of {len(run.relations)} relations; seeds {_seeds(top1)}.",
            table(
                ["condition", *(f"{h} ({len(c)})" for h, c in zip(header, columns))],
                [[labelled(c), *(interval(top1.mean(c, some)) for some in columns)] for c in chosen],
            ),
            "Differences, in percentage points:",
            table(
                ["difference", *header],
                [
                    [f"tuned - {labelled(c)}", *(points(top1.difference("tuned", c, some)) for some in columns)]
                    for c in ("extracted", "k_shot", "heads", "extracted_matched", "shuffled", "random")
                    if c in chosen
                ],
            ),
            "Whole answers (greedy decoding) and log-probabilities (nats, whole answer), all relations:",
            table(
                ["condition", "whole answers", "log-probability"],
                [[labelled(c), interval(full.mean(c)), interval(logprob.mean(c))] for c in chosen],
            ),
        ]
    return [*blocks, *_completion_figures(list(found.values())), _completion_sheet(runs)]


def beats(what: str, differences: dict[str, Estimate | None]) -> str:
    """Whether a claimed difference was found, model by model."""
    known = {name: d for name, d in differences.items() if d is not None}
    said = [f"{name}: {'met' if d.mean >= CLAIM else 'not met'}, {points(d)} points" for name, d in known.items()]
    on_all = all(d.mean >= CLAIM for d in known.values()) if known else False
    return (
        f"**{what} by at least {100 * CLAIM:.0f} points on each model: {'met' if on_all else 'not met'}.** {'; '.join(said)}."
    )


def per_relation(runs: Sequence[Recorded]) -> list[Block]:
    """Every relation's accuracies, folded."""
    blocks: list[Block] = []
    for run, records in having(runs, "completion"):
        top1 = result_scores(records, "top1")
        chosen = [c for c in ("none", "k_shot", "extracted", "heads", "tuned") if c in top1.conditions]
        means = {c: top1.by_relation(c) for c in chosen}
        rows = [
            [run.groups[r], run.families[r], r, *(means[c].get(r) for c in chosen)]
            for r in run.relations
            if r in top1.relations
        ]
        inside = table(["group", "family", "relation", *map(labelled, chosen)], rows, words=3)
        blocks.append(folded(f"{run.name}: {len(rows)} relations", inside))
    return ["## Relation by relation\n\nFirst-token accuracy, mean over seeds.", *blocks] if blocks else []


def _completion_figures(found: Sequence[tuple[Recorded, Scores]]) -> list[Block]:
    shown = ("none", "k_shot", "extracted", "heads", "tuned", "shuffled")
    panels = {}
    for run, top1 in found:
        among = {g: [r for r in run.relations if run.groups[r] == g] for g in dict.fromkeys(run.groups.values())}
        among["all"] = run.relations
        panels[run.name] = {
            labelled(c): {g: e for g, some in among.items() for e in [top1.mean(c, some)] if e}
            for c in shown
            if c in top1.values
        }
    axis = "first-token accuracy"
    dots = interval_dots(panels, title="Completion by group of relations", axis=axis, limits=(-0.02, 1.02))
    pairs = {run.name: (top1.by_relation("extracted"), top1.by_relation("tuned")) for run, top1 in found}
    points = {
        name: {r: (x, tuned[r]) for r, x in extracted.items() if r in tuned} for name, (extracted, tuned) in pairs.items()
    }
    groups = {r: group for run, _ in found for r, group in run.groups.items()}
    scatter = relation_scatter(
        points, groups, title="Each relation's vectors", x_axis="extracted vector", y_axis="tuned vector", limits=(-0.02, 1.02)
    )
    return [
        Picture("completion-groups", "First-token accuracy by group of relations, with 95 % intervals over relations.", dots),
        Picture("completion-relations", "First-token accuracy of extracted and tuned vectors, a point a relation.", scatter),
    ]


def _completion_sheet(runs: Sequence[Recorded]) -> Sheet:
    header = ("model", "relation", "group", "family", "seed", "condition", "top1", "full", "mean_logprob", "n")
    return Sheet(
        "completion",
        header,
        [
            (run.name, name, run.groups[name], run.families[name], seed, *(row[k] for k in header[5:]))
            for run, records in having(runs, "completion")
            for key, rows in records.items()
            for seed, name in [key.split("/", 1)]
            for row in rows
        ],
    )


def tuning(runs: Sequence[Recorded]) -> list[Block]:
    """Pairs, layers and starts."""
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
            drawn = interval_lines(
                lines, title=f"Tuned vectors by {title}", x_axis=title, y_axis="first-token accuracy", log=what == "pairs"
            )
            blocks.append(Picture(f"tuning-{what}", f"First-token accuracy of tuned vectors by {title}.", drawn))
    return [TUNING, _on(runs_with), *blocks] if blocks else []


def kinds(runs: Sequence[Recorded]) -> list[Block]:
    """Other things made from the same pairs."""
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
    drawn = interval_dots({"": dots}, title="Kinds from the same pairs", axis="first-token accuracy", limits=(-0.02, 1.02))
    return [
        KINDS,
        _on(runs_with),
        table(header, rows),
        Picture("kinds", "First-token accuracy of everything that the same pairs can be made into.", drawn),
    ]


def carrying(runs: Sequence[Recorded], *, alone: str = "present-past") -> list[Block]:
    """Where vectors have to be put in models with a norm behind attention."""
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


def _seeds(scores: Scores) -> str:
    counts: dict[str, set[str]] = {}
    for found in scores.values.values():
        for name, values in found.items():
            for seed in values:
                counts.setdefault(seed, set()).add(name)
    most = max(len(names) for names in counts.values())
    return ", ".join(s if len(names) == most else f"{s} ({len(names)} relations so far)" for s, names in sorted(counts.items()))


def _in_order(scores: Scores) -> list[str]:
    known = [c for c in CONDITIONS if c in scores.values]
    return known + [c for c in scores.conditions if c not in known]
