"""The effect of pairs, layer and start on tuning, and a comparison with other kinds of vectors from the same pairs."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from lens_fv.composition.recipes import middle_layer
from lens_fv.core.progress import progress_bar
from lens_fv.evaluation import compare_baselines, evaluate
from lens_fv.studies.records import stored_rows
from lens_fv.studies.relational.settings import Study
from lens_fv.tasks import Split, Task, split_pairs
from lens_fv.vectors import FunctionVector, tune_many
from lens_fv.vectors.options import Start


class Variation(NamedTuple):
    """One variation of tuning.

    Attributes:
        what: Quantity that is varied: "pairs", "layer" or "start".
        value: Its value.
        pairs, layer: See `tune`.
    """

    what: str
    value: float | str
    pairs: int
    layer: int


def variations(study: Study) -> Iterator[Variation]:
    """Yield variations of one quantity at a time, around the middle layer and the study's number of pairs."""
    s, last, middle = study.settings, study.model.n_layers - 1, middle_layer(study.model)
    yield from (Variation("pairs", n, n, middle) for n in s.n_pairs)
    yield from (Variation("layer", depth, s.pairs, round(depth * last)) for depth in s.depths)
    yield from (Variation("start", start, s.pairs, middle) for start in ("zero", "random", "extracted"))


def vary(study: Study) -> None:
    """Tune and test vectors under every variation, with the first seed, for relations with enough pairs for all variations.

    The record of a variation holds, for each relation, first-token accuracy without and with the vector, the mean
    log-probability with it and its gain, the best step and the norm.
    """
    records, ways, seed = study.records("tuning"), list(variations(study)), study.settings.seeds[0]
    with progress_bar("ways to tune", len(ways), show=study.progress) as tick:
        for way in ways:
            records.get_or_compute(f"{seed}/{way.what}/{way.value}", partial(_tuned, study, way, seed))
            tick()


def _tuned(study: Study, way: Variation, seed: int) -> dict[str, dict[str, float]]:
    s, most = study.settings, max(study.settings.pairs, *study.settings.n_pairs)
    splits = {name: split_pairs(task, seed=seed) for name, task in study.some(s.few).items()}
    tasks = {name: study.tasks[name] for name, split in splits.items() if len(split.train) >= most}
    made = _made(study, way, tasks, splits, seed)
    found: dict[str, dict[str, float]] = {}
    for (name, task), vector in zip(tasks.items(), made, strict=True):
        tested = evaluate(study.model, task, {"tuned": vector}, n_shots=0, max_items=s.max_items, seed=seed)
        without, with_it = tested["none"], tested["tuned"]
        found[name] = {
            "none": without.top1.mean,
            "top1": with_it.top1.mean,
            "logprob": with_it.logprob_per_answer.mean,
            "gain": with_it.logprob_per_answer.mean - without.logprob_per_answer.mean,
            "step": vector.provenance.options["best_step"],
            "norm": vector.norm,
        }
    return found


def _made(
    study: Study, way: Variation, tasks: Mapping[str, Task], splits: Mapping[str, Split], seed: int
) -> Sequence[FunctionVector]:
    s = study.settings
    if (way.pairs, way.layer) == (s.pairs, middle_layer(study.model)) and way.value not in ("random", "extracted"):
        # The default setting is already in the library.
        return [study.library("tuned", seed)[name] for name in tasks]
    return tune_many(
        study.model,
        list(tasks.values()),
        start={name: _start(study, str(way.value), name, way.layer, seed) for name in tasks},
        pairs=way.pairs,
        layer=way.layer,
        steps=s.steps,
        splits=splits,
        seed=seed,
    )


def _start(study: Study, value: str, name: str, layer: int, seed: int) -> Start:
    if value == "extracted":
        return study.library("extracted", seed)[name].at(layer=layer)
    return "random" if value == "random" else "zero"


def compare(study: Study) -> None:
    """Compare other vectors, soft prompts and adapters from the same pairs, with the first seed; one record per relation."""
    s, records, tasks = study.settings, study.records("kinds"), study.some(study.settings.few)
    seed = s.seeds[0]
    with progress_bar("other kinds", len(tasks), show=study.progress) as tick:
        for name in tasks:
            records.get_or_compute(f"{seed}/{name}", partial(_compared, study, name, seed))
            tick()


def _compared(study: Study, name: str, seed: int) -> list[dict[str, Any]]:
    s = study.settings
    found = compare_baselines(
        study.model,
        study.tasks[name],
        pairs=s.pairs,
        n_heads=s.n_heads,
        n_shots=s.n_shots,
        n_clean=s.n_clean,
        n_trials=s.n_trials,
        steps=s.steps,
        max_items=s.max_items,
        seed=seed,
    )
    return stored_rows(found.results)
