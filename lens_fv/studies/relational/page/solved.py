"""The page's section on analogies."""

from collections.abc import Mapping, Sequence
from typing import Any

from lens_fv.plotting import plot_interval_dots
from lens_fv.studies.page.markdown import Block, Picture, Sheet, interval, p_value, points, table
from lens_fv.studies.relational.page.pooling import Scores, analogy_scores, folds
from lens_fv.studies.relational.page.recorded import Recorded, having
from lens_fv.studies.relational.page.summaries import Foreseen, foreseen
from lens_fv.studies.relational.page.words import ANALOGIES, CONFIDENCE, labelled
from lens_fv.studies.relational.solving import FOLDS

MEASURES = {
    "top1": "first token",
    "full": "whole answer",
    "logprob": "log-probability",
    "choice": "choice",
    "calibrated": "choice, calibrated",
}
OTHERS = ("one_shot", "composite")
PARTS = {"relations": "relations that no map has seen", "pairs": "new pairs of relations that maps have seen"}
VARIANTS = {
    "composite, 1 vector": ("top 1", "composite"),
    "composite, 3 vectors": ("top 3", "composite"),
    "composite, 10 vectors": ("top 10", "composite"),
    **{
        f"{said}, {n} pairs": (f"{n} pairs", condition)
        for said, condition in (
            ("composite", "composite"),
            ("prompt", "few_shot"),
            ("prompt and composite", "few_shot_composite"),
        )
        for n in (2, 4, 8)
    },
    **{f"composite, 1/{share} of the basis": (f"1/{share} of the basis", "composite") for share in (2, 4)},
    "composite of extracted vectors": ("untuned", "composite"),
    "the same, lengthened": ("untuned", "lengthened"),
    "composite by probabilities": ("scores", "probability"),
}


def analogies(runs: Sequence[Recorded]) -> list[Block]:
    """The section on analogies: composites compared with other ways to solve them."""
    runs_with = having(runs, "analogies")
    if not runs_with:
        return []
    blocks: list[Block] = [ANALOGIES]
    for part, said in PARTS.items():
        for run, records in runs_with:
            if folds(records, part):
                blocks += _table(f"{run.name}: {said}", records, part)
        blocks += _picture(runs_with, part, said)
    for run, records in runs_with:
        blocks += _near_and_far(run.name, records) + _variants(run.name, records)
    said = [f"- {run.name}: {_foreseen(foreseen(records))}" for run, records in runs_with if folds(records, "relations")]
    if said:
        blocks += [CONFIDENCE, "\n".join(said)]
    return [*blocks, _sheet(runs_with)]


def _table(title: str, records: Mapping[str, Any], part: str) -> list[Block]:
    scores = {measure: analogy_scores(records, part, measure) for measure in MEASURES}
    conditions = scores["top1"].conditions
    n = sum(len(found["relations"]) for _, found in folds(records, part))
    done = sorted(fold for fold, _ in folds(records, part))
    so_far = "" if len(done) == FOLDS else f" Folds so far: {', '.join(done)}."
    rows = [[labelled(c), *(interval(s.mean(c)) for s in scores.values())] for c in conditions]
    versus = [[labelled(c), *(said for other in OTHERS for said in _versus(scores, c, other))] for c in conditions]
    header = [f"{what} - {labelled(other)}" for other in OTHERS for what in ("first token (points)", "log-prob")]
    return [
        f"### {title}\n\n{n} analogies of {len(scores['top1'].relations)} relations.{so_far}",
        table(["condition", *MEASURES.values()], rows),
        table(["difference", *header], versus),
    ]


def _versus(scores: Mapping[str, Scores], condition: str, other: str) -> tuple[str | None, str | None]:
    if condition == other:
        return None, None
    top1, logprob = (scores[measure].difference(condition, other) for measure in ("top1", "logprob"))
    return points(top1), interval(logprob, signed=True)


def _picture(runs_with: Sequence[tuple[Recorded, Mapping[str, Any]]], part: str, said: str) -> list[Block]:
    panels = {
        axis: {
            run.name: {labelled(c): e for c in scores.conditions for e in [scores.mean(c)] if e}
            for run, records in runs_with
            for scores in [analogy_scores(records, part, measure)]
        }
        for measure, axis in (("top1", "first-token accuracy"), ("logprob", "log-probability a token (nats)"))
    }
    if not any(row for rows in panels.values() for row in rows.values()):
        return []
    drawn = plot_interval_dots(panels, title=f"Analogies of {said}")
    return [Picture(f"analogies-{part}", f"Analogies of {said}, with 95 % intervals over relations.", drawn)]


def _near_and_far(name: str, records: Mapping[str, Any]) -> list[Block]:
    columns = {
        f"{where}: {said}": analogy_scores(records, "relations", measure, far=far)
        for where, far in (("near", False), ("far", True))
        for measure, said in (("top1", "first token"), ("logprob", "log-probability"))
    }
    conditions = list(dict.fromkeys(c for scores in columns.values() for c in scores.conditions))
    if not conditions:
        return []
    return [
        f"### {name}: near and far\n\nHeld-out relations; far: the half of the analogies whose A and C are farther apart.",
        table(["condition", *columns], [[labelled(c), *(interval(s.mean(c)) for s in columns.values())] for c in conditions]),
    ]


def _variants(name: str, records: Mapping[str, Any]) -> list[Block]:
    if not _tried(records):
        return []
    scores = {measure: variant_scores(records, measure) for measure in ("top1", "logprob")}
    conditions = scores["top1"].conditions
    rows = [[c, *(interval(s.mean(c)) for s in scores.values()), *_versus(scores, c, "composite")] for c in conditions]
    header = ["variant", "first token", "log-probability", "first token - composite (points)", "log-prob - composite"]
    return [f"### {name}: variants\n\nThe same analogies of held-out relations by other means.", table(header, rows)]


def variant_scores(records: Mapping[str, Any], measure: str) -> Scores:
    """Scores of all composite variants on held-out relations, as conditions next to the plain composite."""
    whole, tried = analogy_scores(records, "relations", measure).values.get("composite", {}), _tried(records)
    found: dict[str, Mapping[str, Mapping[str, float]]] = {
        "composite": {name: values for name, values in whole.items() if name in tried}
    }
    for said, (variant, condition) in VARIANTS.items():
        found[said] = analogy_scores(records, f"variants/{variant}", measure).values.get(condition, {})
    return Scores({name: values for name, values in found.items() if values})


def _tried(records: Mapping[str, Any]) -> set[str]:
    """Relations on which variants were evaluated."""
    return {name for key, found in records.items() if key.split("/")[1] == "variants" for name in found["relations"]}


def _foreseen(found: Foreseen | str) -> str:
    if isinstance(found, str):
        return f"no number: {found}."
    chance = f"AUC {found.auc:.2f} (0.5 is chance), p {p_value(found.p)}"
    return f"the composite helps in {found.helped:.0%} of {found.n} analogies; {chance}."


def _sheet(runs_with: Sequence[tuple[Recorded, Mapping[str, Any]]]) -> Sheet:
    rows: list[Sequence[object]] = []
    for run, records in runs_with:
        parts = [part for part in PARTS if folds(records, part)] + ["variants"] * bool(_tried(records))
        for part in parts:
            means = {measure: _of(records, part, measure) for measure in MEASURES}
            for condition in means["top1"].conditions:
                by = [scores.by_relation(condition) for scores in means.values()]
                counts = means["top1"].values[condition]
                rows += [(run.name, part, condition, name, *(m[name] for m in by), len(counts[name])) for name in by[0]]
    return Sheet("analogies", ("model", "part", "condition", "relation", *MEASURES, "n"), rows)


def _of(records: Mapping[str, Any], part: str, measure: str) -> Scores:
    return variant_scores(records, measure) if part == "variants" else analogy_scores(records, part, measure)
