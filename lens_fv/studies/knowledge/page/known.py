"""The page's sections on what is known, and on what else moved."""

from collections.abc import Mapping, Sequence

import numpy as np

from lens_fv.knowledge import KnowledgeScores
from lens_fv.plotting import interval_lines
from lens_fv.statistics import Estimate, estimate
from lens_fv.studies.knowledge.page.recorded import Condition, Recorded, closed
from lens_fv.studies.knowledge.settings import OWN
from lens_fv.studies.page.markdown import NONE, Block, Picture, interval, points, table, verdict

WAYS = {
    "distill": "distillation",
    "sentences": "fine-tuning on the sentences",
    "definition": "fine-tuning on the definition",
    "definition_gently": "fine-tuning on the definition, gently",
    "unanchored": "distillation without anchors",
    "anchored_definition": "fine-tuning on the definition, with anchors",
    "other_sentences": "distillation on others' sentences",
    "wrong_definition": "distillation of a wrong definition",
}
READ = {"base": "base", "definition": "definition in context", "random_definition": "another's definition in context"}
MOST_POINTS, MOST_PERPLEXITY, LEAST_GAP = 1.0, 2.0, 0.6
"""What is aimed at: specificity in points of accuracy and percent of perplexity; and the gap closed."""


def known(run: Recorded) -> list[Block]:
    """What is known in every condition, source by source."""
    blocks: list[Block] = []
    for source in run.sources:
        base, read, ways = run.base(source), run.base(source, "definition"), run.conditions(source)
        rows: list[list[object]] = [[said, *_scores(run.base(source, name)), NONE, NONE] for name, said in READ.items()]
        for way, said in WAYS.items():
            if way in ways:
                scores = ways[way].scores
                gaps = (interval(closed(base, scores, read, of=of)) for of in ("accuracy", "loss"))
                rows.append([f"{said} ({ways[way].seeds})", *_scores(scores), *gaps])
        header = ["condition (seeds)", "accuracy", "explicit", "inferential", "perplexity", "gap closed", "gap closed, loss"]
        n = len(set(base.entities))
        blocks += [
            f"### What is known: {_source(run, source)}\n\n{n} entities, taught {run.settings['at_once']} at once; "
            f"{len(base.entities)} probes; chance {base.chance:.2f}. A candidate counts by its log-probability a token.",
            table(header, rows),
        ]
    return blocks


def specific(run: Recorded) -> list[Block]:
    """What updates do to unrelated probes."""
    if not run.sources or not run.part("ways"):
        return []
    base = run.unrelated
    before, perplexity = base.accuracy(), base.perplexity()
    rows: list[list[object]] = []
    for source in run.sources:
        for way, found in run.conditions(source).items():
            rows.append([_source(run, source), WAYS[way], *moved(base, found)])
    header = ["entities", "taught by", "accuracy (points)", "perplexity (%)", "KL (nats a token)"]
    return [
        f"### What else moves\n\nProbes of {len(set(base.entities))} things that everybody knows: accuracy {interval(before)}, "
        f"perplexity {interval(perplexity)} without an update; differences from that with one, paired by thing.",
        table(header, rows, words=2),
    ]


def moved(base: KnowledgeScores, found: Condition) -> tuple[str, str, str]:
    """Accuracy in points, perplexity in percent and KL, against the base, with intervals over unrelated things."""
    accuracy, percent = changed(base, found)
    kl = estimate([each.mean for each in found.drift]) if len(found.drift) > 1 else found.drift[0]
    return points(accuracy), interval(percent, digits=1, signed=True), interval(kl, digits=3)


def changed(base: KnowledgeScores, found: Condition) -> tuple[Estimate, Estimate]:
    """Accuracy less the base's, as a share, and perplexity above it, in percent: paired by unrelated things."""
    assert found.elsewhere is not None
    after = found.elsewhere
    accuracy, loss = _paired(base.correct(), after.correct()), _paired(base.span_loss(), after.span_loss())
    mean, low, high = (100 * float(np.expm1(x)) for x in loss[:3])
    return accuracy, Estimate(mean, low, high, loss.n)


def aims(run: Recorded) -> list[Block]:
    """Whether what was aimed at was reached: by updates of several entities, and of one."""
    lines: list[str] = []
    for source in run.sources:
        said = f"{_source(run, source)}, {run.settings['at_once']} at once"
        lines += _reached_by(run, said, source, run.conditions(source))
    alone = {way: found for (n, way), found in run.numbers.items() if n == 1}
    if OWN in run.sources:
        lines += _reached_by(run, f"{_source(run, OWN)}, one alone", OWN, alone)
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
        f"- {said}: unrelated accuracy within {MOST_POINTS:.0f} point: {_reached(off >= -MOST_POINTS / 100)} "
        f"({100 * off:+.1f}); perplexity less than {MOST_PERPLEXITY:.0f} % above the base's: "
        f"{_reached(ratio < MOST_PERPLEXITY)} ({ratio:+.1f} %).",
    ]
    for way in (name for name in ("definition", "definition_gently", "sentences") if name in ways):
        other = ways[way].scores
        more = _paired(other.correct(), found.scores.correct())
        lines.append(
            f"- {said}: distillation answers {points(more)} points more of the probes than {WAYS[way]} does, which closes "
            f"{interval(closed(base, other, read, of='accuracy'))} of the gap in accuracy and "
            f"{interval(closed(base, other, read, of='loss'))} in loss; clearly more: {verdict(more)}."
        )
    return lines


def _paired(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> Estimate:
    """What was added, mean over the probes of each entity of the latter."""
    return estimate([float(np.mean(each) - np.mean(before[key])) for key, each in after.items()])


def numbers(run: Recorded) -> list[Block]:
    """One entity alone, and more and more at once."""
    found = run.numbers
    if not found:
        return []
    base, read = run.everything("base"), run.everything("definition")
    rows: list[list[object]] = []
    lines: dict[str, dict[float, Estimate]] = {}
    for (n, way), condition in found.items():
        gaps = {of: closed(base, condition.scores, read, of=of) for of in ("accuracy", "loss")}
        if gaps["accuracy"] is not None:
            lines.setdefault(WAYS[way], {})[float(n)] = gaps["accuracy"]
        rows.append([n, WAYS[way], *(interval(gap) for gap in gaps.values()), *moved(run.unrelated, condition)])
    header = ["entities", "taught by", "gap closed", "gap closed, loss", "accuracy elsewhere (points)", "perplexity (%)", "KL"]
    blocks: list[Block] = [
        "### How many at once\n\nSo many entities in one update, with the first seed. One alone has settings of its own, which "
        "were chosen as those of several were.",
        table(header, rows, words=2),
    ]
    if lines:
        title = "Gap in accuracy closed by the number of entities at once"
        figure = interval_lines(lines, title=title, x_axis="entities in one update", y_axis="share of the gap", log=True)
        about = f"{run.name}: share of the gap closed, by entities in one update."
        blocks.append(Picture(f"{run.slug}-numbers", about, figure))
    return blocks


def _scores(scores: KnowledgeScores) -> list[str]:
    found = [scores.accuracy(), *(scores.accuracy(kind=kind) for kind in ("explicit", "inferential")), scores.perplexity()]
    return [*map(interval, found[:3]), interval(found[3], digits=1)]


def _source(run: Recorded, source: str) -> str:
    names = {"own": run.settings["entities"], "outside": run.settings["outside"]}
    return f"{str(names[source]).rpartition('/')[2]} entities" if source == "own" else "Entities from outside"


def _reached(yes: bool) -> str:
    return "reached" if yes else "not reached"
