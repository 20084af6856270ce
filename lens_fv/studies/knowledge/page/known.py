"""Report sections on the knowledge gained, and on unrelated changes."""

from collections.abc import Mapping, Sequence

import numpy as np

from lens_fv.core.statistics import Estimate, estimate
from lens_fv.knowledge import KnowledgeScores
from lens_fv.plotting import interval_dots, interval_lines
from lens_fv.studies.knowledge.page.recorded import Condition, Recorded, closed
from lens_fv.studies.knowledge.settings import OUTSIDE, OWN
from lens_fv.studies.page.markdown import NONE, Block, Picture, interval, points, table

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


def known(run: Recorded) -> list[Block]:
    """Report knowledge in every condition, by source."""
    blocks: list[Block] = []
    drawn: dict[str, dict[str, dict[str, Estimate]]] = {}
    for source in run.sources:
        base, read, ways = run.base(source), run.base(source, "definition"), run.conditions(source)
        rows: list[list[object]] = [[said, *_scores(run.base(source, name)), NONE, NONE] for name, said in READ.items()]
        for way, said in WAYS.items():
            if way in ways:
                scores = ways[way].scores
                gaps = {of: closed(base, scores, read, of=of) for of in ("accuracy", "loss")}
                rows.append([f"{said} ({ways[way].seeds})", *_scores(scores), *map(interval, gaps.values())])
                for of, gap in gaps.items():
                    if gap:
                        drawn.setdefault(source_name(run, source), {}).setdefault(of, {})[said] = gap
        header = ["condition (seeds)", "accuracy", "explicit", "inferential", "perplexity", "gap closed", "gap closed, loss"]
        n = len(set(base.entities))
        blocks += [
            f"### What is known: {source_name(run, source)}\n\n{n} entities, taught "
            f"{run.settings['entities_per_update']} at once; "
            f"{len(base.entities)} probes; chance {base.chance:.2f}. A candidate counts by its log-probability a token.",
            table(header, rows),
        ]
    if drawn:
        figure = interval_dots(drawn, title="Gap closed, by way to teach", axis="share of the gap")
        blocks.append(Picture(f"{run.slug}-gap", f"{run.name}: share of the gap closed, by way to teach.", figure))
    return blocks


def specific(run: Recorded) -> list[Block]:
    """Report the effect of updates on unrelated probes."""
    if not run.sources or not run.part("ways"):
        return []
    base = run.unrelated
    before, perplexity = base.accuracy(), base.perplexity()
    rows: list[list[object]] = []
    for source in run.sources:
        for way, found in run.conditions(source).items():
            rows.append([source_name(run, source), WAYS[way], *moved(base, found)])
    header = ["entities", "taught by", "accuracy (points)", "perplexity (%)", "KL (nats a token)"]
    return [
        f"### What else moves\n\nProbes of {len(set(base.entities))} things that everybody knows: accuracy {interval(before)}, "
        f"perplexity {interval(perplexity)} without an update; differences from that with one, paired by thing.",
        table(header, rows, words=2),
    ]


def moved(base: KnowledgeScores, found: Condition) -> tuple[str, str, str]:
    """Format the changes from the base: accuracy in points, perplexity in percent, and KL.

    The intervals of accuracy and perplexity are over unrelated entities; that of KL is over seeds, given several.
    """
    accuracy, percent = changed(base, found)
    kl = estimate([each.mean for each in found.drift]) if len(found.drift) > 1 else found.drift[0]
    return points(accuracy), interval(percent, digits=1, signed=True), interval(kl, digits=3)


def changed(base: KnowledgeScores, found: Condition) -> tuple[Estimate, Estimate]:
    """Return the differences from the base in accuracy (as a share) and perplexity (in percent), paired by unrelated entity."""
    assert found.locality is not None
    after = found.locality
    accuracy, loss = paired(base.correct(), after.correct()), paired(base.span_loss(), after.span_loss())
    mean, low, high = (100 * float(np.expm1(x)) for x in loss[:3])
    return accuracy, Estimate(mean, low, high, loss.n)


def source_name(run: Recorded, source: str) -> str:
    """Return the display name of a source."""
    return "entities from outside" if source == OUTSIDE else f"{run.settings['entities'].rpartition('/')[2]} entities"


def paired(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> Estimate:
    """Estimate the mean change per entity, over the entities in `after`."""
    return estimate([float(np.mean(each) - np.mean(before[key])) for key, each in after.items()])


def numbers(run: Recorded) -> list[Block]:
    """Report knowledge gained and unrelated changes by the number of entities per update, on the same entities."""
    found = run.numbers
    if not found:
        return []
    base, read, own = run.everything("base"), run.everything("definition"), set(run.base(OWN).entities)
    rows: list[list[object]] = []
    gaps: dict[str, dict[float, Estimate]] = {}
    locality: dict[str, dict[float, Estimate]] = {}
    for (n, way), condition in found.items():
        for source in (OWN, OUTSIDE):
            asked = [row for row in condition.scores.rows() if (row["entity"] in own) == (source == OWN)]
            if not asked:
                continue
            some = KnowledgeScores.of_rows(asked)
            accuracy, loss = (closed(base, some, read, of=of) for of in ("accuracy", "loss"))
            said = [n, WAYS[way], source_name(run, source), interval(accuracy), interval(loss)]
            rows.append([*said, *moved(run.unrelated, condition)])
            if source == OWN and accuracy is not None:
                gaps.setdefault(WAYS[way], {})[float(n)] = accuracy
        locality.setdefault(WAYS[way], {})[float(n)] = _in_points(changed(run.unrelated, condition)[0])
    header = ["at once", "taught by", "of these", "gap closed", "gap closed, loss"]
    header += ["accuracy elsewhere (points)", "perplexity elsewhere (%)", "KL elsewhere"]
    blocks: list[Block] = [
        "### How many at once\n\nSo many entities in one update, with the first seed. One alone has settings of its own, which "
        "were chosen as those of several were.",
        table(header, rows, words=3),
    ]
    about = {"numbers": (gaps, "gap in accuracy closed", "share"), "specific": (locality, "accuracy elsewhere", "points")}
    for name, (lines, said, unit) in about.items():
        if lines:
            title = f"{said.capitalize()}, by entities at once"
            figure = interval_lines(lines, title=title, x_axis="entities in one update", y_axis=unit, log=True)
            blocks.append(Picture(f"{run.slug}-{name}", f"{run.name}: {said}, by entities in one update.", figure))
    return blocks


def _scores(scores: KnowledgeScores) -> list[str]:
    found = [scores.accuracy(), *(scores.accuracy(kind=kind) for kind in ("explicit", "inferential")), scores.perplexity()]
    return [*map(interval, found[:3]), interval(found[3], digits=1)]


def _in_points(found: Estimate) -> Estimate:
    return Estimate(100 * found.mean, 100 * found.ci_low, 100 * found.ci_high, found.n)
