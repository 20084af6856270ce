"""Report sections on internal changes."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from lens_fv.core.statistics import Estimate, estimate
from lens_fv.dynamics import Trajectory
from lens_fv.knowledge import KnowledgeScores, KnowledgeTrace
from lens_fv.knowledge.trace import PLACES
from lens_fv.plotting import interval_lines
from lens_fv.studies.knowledge.inside import answer_logprobs
from lens_fv.studies.knowledge.page.recorded import Recorded, closed
from lens_fv.studies.page.markdown import Block, Picture, interval, table

TRACED = {"base": "base", "updated": "with the update", "definition": "behind the definition"}
AT = {"mention": "at the end of the name", "last": "before the gap"}


def steps(run: Recorded) -> list[Block]:
    """Report knowledge and layer changes over the course of an update, and its effect on other tasks' vectors."""
    records = run.part("steps")
    if not records:
        return []
    known: dict[str, dict[float, Estimate]] = {}
    taught = {row["entity"] for record in records.values() for row in record["scores"]}
    begin = [row for row in run.part("base")["own/base"]["scores"] if row["entity"] in taught]
    for n, rows in [("0", begin), *((key, record["scores"]) for key, record in records.items())]:
        scores = KnowledgeScores.of_rows(rows)
        for kind in ("explicit", "inferential"):
            losses = [-float(np.mean(each)) for each in scores.span_loss(kind=kind).values()]
            if losses:
                known.setdefault(kind, {})[float(n)] = estimate(losses)
    layers: dict[str, dict[float, Estimate]] = {
        f"after epoch {n}": {
            float(layer): Estimate(100 * x, 100 * x, 100 * x, 1) for layer, x in record["moved"].items() if layer != "others"
        }
        for n, record in records.items()
    }
    return [
        f"### On the way\n\nAn update of {len(taught)} entities at once.",
        Picture(
            f"{run.slug}-steps",
            f"{run.name}: log-probability of answers, a token, by epochs.",
            interval_lines(known, title="Answers on the way", x_axis="epochs", y_axis="log-probability (nats a token)"),
        ),
        Picture(
            f"{run.slug}-layers",
            f"{run.name}: length of each layer's change, in percent of its weights' length.",
            interval_lines(layers, title="How far layers moved", x_axis="layer", y_axis="change (%)"),
        ),
        *_others(run),
    ]


def _others(run: Recorded) -> list[Block]:
    file = run.folder / "trajectory.safetensors"
    if not file.is_file():
        return []
    path = Trajectory.load(file)
    accuracy, cosine = path.accuracy, path.similarity()
    (own, control), last = path.head_similarity(), len(path.checkpoints) - 1
    rows = [
        [task, *(f"{float(accuracy[m, t]):.2f}" for m in (0, last)), f"{float(cosine[last, t]):.3f}"]
        + [f"{float(each[last, t].mean()):.3f}" for each in (own, control)]
        for t, task in enumerate(path.tasks)
    ]
    return [
        "Instruction vectors of tasks that the update has nothing to do with (see "
        "[what fine-tuning does](../how-it-works.md#what-fine-tuning-does)), before it and at its end: accuracy of test pairs "
        "behind instructions with demonstrations, and cosines to the beginning, of the vector, of its heads, and of as many "
        "other heads.",
        table(["task", "before", "after", "cosine of the vector", "of its heads", "of other heads"], rows),
    ]


def traces(run: Recorded) -> list[Block]:
    """Report which states carry the knowledge."""
    found = {name: KnowledgeTrace.load(file) for name in TRACED if (file := run.folder / f"trace-{name}.safetensors").is_file()}
    if not found:
        return []
    rows: list[list[object]] = []
    for name, trace in found.items():
        clean, noisy = (estimate(values.tolist()) for values in (trace.clean, trace.noisy))
        rows.append([TRACED[name], interval(clean), interval(noisy), *(_heads(trace, place) for place in range(len(PLACES)))])
    blocks: list[Block] = [
        "### What carries it\n\nCausal tracing (Meng et al. 2022) with the first explicit probe of "
        f"{len(set(next(iter(found.values())).entities))} entities: the name is drowned in noise, and one state is restored "
        "from the run without noise. Log-probabilities of answers in nats, with intervals over probes; the heads that give "
        "back most.",
        table(["model", "clean", "noisy", *(f"heads {AT[place]}" for place in PLACES)], rows),
    ]
    for i, place in enumerate(PLACES):
        lines = {TRACED[name]: _by_layer(trace.layer_effects[:, i]) for name, trace in found.items()}
        strongest = {TRACED[name]: _by_layer(trace.head_effects[:, i].amax(-1)) for name, trace in found.items()}
        for what, drawn in (("stream", lines), ("heads", strongest)):
            title = f"{'The residual stream' if what == 'stream' else 'The strongest head'} restored {AT[place]}"
            figure = interval_lines(drawn, title=title, x_axis="layer", y_axis="gain (nats)")
            blocks.append(Picture(f"{run.slug}-{what}-{place}", f"{run.name}: {title.lower()}, by layer.", figure))
    return blocks


def vectors(run: Recorded) -> list[Block]:
    """Report the effect of definition vectors."""
    records = run.part("vectors")
    if "layer" not in records:
        return []
    layers = {
        int(key.split("/")[1]): rows for key, rows in records.items() if key.startswith("chosen/") and not key.endswith("none")
    }
    line: dict[float, Estimate] = {float(layer): estimate(answer_logprobs(rows)) for layer, rows in layers.items()}
    without = estimate(answer_logprobs(records["chosen/none"]))
    base, read = run.base("own"), run.base("own", "definition")
    rows: list[list[object]] = []
    for name in ("own", "another's"):
        scores = KnowledgeScores.of_rows(records[f"reported/{name}"])
        gaps = (interval(closed(base, scores, read, of=of)) for of in ("accuracy", "loss"))
        rows.append([f"{name} vector", interval(scores.accuracy()), interval(scores.perplexity(), digits=1), *gaps])
    drawn: Mapping[str, Mapping[float, Estimate]] = {"with the vector": line, "without": dict.fromkeys(line, without)}
    figure = interval_lines(
        drawn, title="Definition vectors by layer", x_axis="added after layer", y_axis="log-probability (nats a token)"
    )
    return [
        "### Without any training\n\nA definition vector is what reading the definition adds to the residual stream at the end "
        "of the name, mean over texts that are no probes. Added there when probes are asked, without the definition, after "
        f"layer {records['layer']}, which was chosen on other entities:",
        table(["added", "accuracy", "perplexity", "gap closed", "gap closed, loss"], rows),
        Picture(
            f"{run.slug}-vectors",
            f"{run.name}: answers with definition vectors, by layer, on the entities to choose by.",
            figure,
        ),
    ]


def _by_layer(effects: Tensor) -> dict[float, Estimate]:
    """Average a "probes layers" tensor over probes, by layer."""
    return {float(layer): estimate(column) for layer, column in enumerate(effects.T.tolist())}


def _heads(trace: KnowledgeTrace, place: int, n: int = 3) -> str:
    mean = trace.head_effects[:, place].mean(0)
    best = mean.flatten().topk(n).indices.tolist()
    width = mean.shape[1]
    return ", ".join(f"{i // width}.{i % width} ({float(mean.flatten()[i]):+.2f})" for i in best)
