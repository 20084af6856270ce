"""Report section on the targets of the study."""

from collections.abc import Mapping

from lens_fv.studies.knowledge.page.known import WAYS, changed, paired, source_name
from lens_fv.studies.knowledge.page.recorded import Condition, Recorded, closed
from lens_fv.studies.knowledge.settings import OWN
from lens_fv.studies.page.markdown import Block, interval, points, verdict

MOST_POINTS, MOST_PERPLEXITY, LEAST_GAP = 1.0, 2.0, 0.6
"""Targets: maximum loss of unrelated accuracy (points), maximum rise of unrelated perplexity (%), minimum share of the gap."""


def aims(run: Recorded) -> list[Block]:
    """Report whether the targets were met by updates of several entities and of one."""
    lines: list[str] = []
    for source in run.sources:
        said = f"{source_name(run, source)}, {run.settings['entities_per_update']} at once"
        lines += _reached_by(run, said, source, run.conditions(source))
    alone = {way: found for (n, way), found in run.numbers.items() if n == 1}
    if OWN in run.sources:
        lines += _reached_by(run, f"{source_name(run, OWN)}, one alone", OWN, alone)
    return ["### What was aimed at\n\n" + "\n".join(lines)] if lines else []


def _reached_by(run: Recorded, said: str, source: str, ways: Mapping[str, Condition]) -> list[str]:
    if "distill" not in ways:
        return []
    base, read, found = run.base(source), run.base(source, "definition"), ways["distill"]
    gap, loss = (closed(base, found.scores, read, of=of) for of in ("accuracy", "loss"))
    off, ratio = (change.mean for change in changed(run.unrelated, found))
    lines = [
        f"- {said}: at least {LEAST_GAP:.0%} of the gap in accuracy closed: "
        f"{_reached(gap is not None and gap.mean >= LEAST_GAP)} ({interval(gap)}; of the gap in loss {interval(loss)}).",
        f"- {said}: unrelated accuracy at most {MOST_POINTS:.0f} point lower: {_reached(off >= -MOST_POINTS / 100)} "
        f"({100 * off:+.2f}); perplexity less than {MOST_PERPLEXITY:.0f} % above the base's: "
        f"{_reached(ratio < MOST_PERPLEXITY)} ({ratio:+.1f} %).",
    ]
    for way in (name for name in ("definition", "definition_gently", "sentences") if name in ways):
        other = ways[way].scores
        more = paired(other.correct(), found.scores.correct())
        lines.append(
            f"- {said}: distillation answers {points(more)} points more of the probes than {WAYS[way]} does, which closes "
            f"{interval(closed(base, other, read, of='accuracy'))} of the gap in accuracy and "
            f"{interval(closed(base, other, read, of='loss'))} in loss; clearly more: {verdict(more)}."
        )
    return lines


def _reached(yes: bool) -> str:
    return "reached" if yes else "not reached"
