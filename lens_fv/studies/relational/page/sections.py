"""The page's section on completing every relation with vectors."""

from collections.abc import Sequence

from lens_fv.core.statistics import Estimate
from lens_fv.plotting import plot_interval_dots, plot_relations
from lens_fv.studies.page.markdown import Block, Picture, Sheet, folded, interval, points, table
from lens_fv.studies.relational.page.pooling import Scores, measured, result_scores
from lens_fv.studies.relational.page.recorded import Recorded, having
from lens_fv.studies.relational.page.words import COMPLETION, CONDITIONS, labelled

CLAIM = 0.20
"""Claimed advantage of tuned over extracted vectors, as a fraction of test pairs."""


def completion(runs: Sequence[Recorded]) -> list[Block]:
    """The section on completion: tuned vectors compared with extracted ones and controls."""
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
        full, logprob = (result_scores(run.part("completion"), measure) for measure in ("full", "logprob_per_answer"))
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
    """A sentence per model on whether a claimed difference was found."""
    known = {name: d for name, d in differences.items() if d is not None}
    said = [f"{name}: {'met' if d.mean >= CLAIM else 'not met'}, {points(d)} points" for name, d in known.items()]
    on_all = all(d.mean >= CLAIM for d in known.values()) if known else False
    return (
        f"**{what} by at least {100 * CLAIM:.0f} points on each model: {'met' if on_all else 'not met'}.** {'; '.join(said)}."
    )


def per_relation(runs: Sequence[Recorded]) -> list[Block]:
    """Accuracies of every relation, in a collapsed table."""
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
    dots = plot_interval_dots(panels, title="Completion by group of relations", axis=axis, limits=(-0.02, 1.02))
    pairs = {run.name: (top1.by_relation("extracted"), top1.by_relation("tuned")) for run, top1 in found}
    points = {
        name: {r: (x, tuned[r]) for r, x in extracted.items() if r in tuned} for name, (extracted, tuned) in pairs.items()
    }
    groups = {r: group for run, _ in found for r, group in run.groups.items()}
    scatter = plot_relations(
        points, groups, title="Each relation's vectors", x_axis="extracted vector", y_axis="tuned vector", limits=(-0.02, 1.02)
    )
    return [
        Picture("completion-groups", "First-token accuracy by group of relations, with 95 % intervals over relations.", dots),
        Picture("completion-relations", "First-token accuracy of extracted and tuned vectors, a point a relation.", scatter),
    ]


def _completion_sheet(runs: Sequence[Recorded]) -> Sheet:
    header = ("model", "relation", "group", "family", "seed", "condition", "top1", "full", "logprob_per_answer", "n")
    return Sheet(
        "completion",
        header,
        [
            (run.name, name, run.groups[name], run.families[name], seed, *(measured(row, k) for k in header[5:]))
            for run, records in having(runs, "completion")
            for key, rows in records.items()
            for seed, name in [key.split("/", 1)]
            for row in rows
        ],
    )


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
