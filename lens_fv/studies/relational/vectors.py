"""Parts that evaluate single vectors: completion, transfer, options of tuning, baselines, injection, lists, decoding."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import torch

from lens_fv.core.statistics import Estimate
from lens_fv.evaluation import compare_baselines, compose_lists, evaluate, evaluate_decoding
from lens_fv.evaluation.ranks import Measure, Targets
from lens_fv.heads import rank_heads
from lens_fv.patching import score_answers
from lens_fv.studies.relational.settings import RelationalRun, evaluation_rows
from lens_fv.studies.rows import Row, part
from lens_fv.tasks import TODD, Task, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors import FunctionVector, extract, tune_many
from lens_fv.vectors.tune import Start

N_TRANSFER_ITEMS = 5
"""Number of test pairs per relation in the transfer of vectors between relations."""
LISTED = ("antonym", "country-capital", "present-past")
LOGITS: Mapping[str, Mapping[str, Any]] = {
    "direct": {},
    "direct, centred": {"centred": True},
    "later layers": {"through_layers": True},
    "later layers, centred": {"through_layers": True, "centred": True},
}
"""Decoding options: directly or through the later layers, with the whole vector or only what distinguishes a relation."""
RANKS: Mapping[str, Measure] = {
    "median_rank": "median_rank",
    "best_reciprocal_rank": "best_reciprocal",
    "top10_hit_rate": "hit10",
}


def _relations(run: RelationalRun) -> list[tuple[int, str]]:
    return [(run.seed, name) for name in run.tasks]


def _subset(run: RelationalRun) -> list[tuple[int, str]]:
    return [(run.seed, name) for name in run.subset]


@part(lambda run: product(run.settings.seeds, run.tasks))
def completion(run: RelationalRun, seed: int, name: str) -> Iterator[Row]:
    """Evaluate the vectors of every relation and seed on test pairs.

    Conditions in addition to those of `evaluate`: "extracted" (layer chosen on validation pairs), "heads" (the same heads,
    each in its own layer), "extracted_matched" (at the tuned vector's layer, with its norm), "tuned", and for the first seed
    "shuffled" (tuned on wrong answers).
    """
    extracted, tuned = run.library("extracted", seed)[name], run.library("tuned", seed)[name]
    shuffled = {"shuffled": run.library("shuffled", seed)[name]} if seed == run.seed else {}
    vectors = {
        **shuffled,
        "extracted": extracted,
        "heads": extracted.at(site="heads"),
        "extracted_matched": matched(extracted, tuned),
        "tuned": tuned,
    }
    return run.evaluate(name, vectors, seed=seed)


def matched(vector: FunctionVector, like: FunctionVector) -> FunctionVector:
    """A vector moved to another vector's layer and scaled to its norm."""
    norm = float(vector.vector.norm())
    return vector.at(layer=like.layer, scale=float(like.vector.norm()) * like.scale / norm if norm else 0.0)


@part(_relations)
@torch.no_grad()
def transfer(run: RelationalRun, seed: int, name: str) -> Iterator[Row]:
    """Evaluate every relation's tuned vector on every relation. Items are vectors, in the order of the relations."""
    library = run.library("tuned", seed)
    pairs = split_pairs(run.tasks[name], seed=seed).test[:N_TRANSFER_ITEMS]
    prompts = encode_prompts(run.model, [zero_shot(pair) for pair in pairs])
    scores = score_answers(run.model, prompts, [[], *(library[other].edits() for other in run.tasks)])
    gain = (scores.logprob[:, 1:] - scores.logprob[:, :1]).mean(0)
    yield Row(name, "tuned", "top1_accuracy", scores.top1[:, 1:].float().mean(0).tolist(), len(pairs))
    yield Row(name, "tuned", "logprob_gain_nats", gain.tolist(), len(pairs))


def _variations(run: RelationalRun) -> Iterator[tuple[int, str, int | float | str]]:
    values = {"pairs": run.settings.n_pairs, "layer": run.settings.depths, "start": ("zero", "random", "extracted")}
    for varied, alternatives in values.items():
        yield from ((run.seed, varied, value) for value in alternatives)


@part(_variations)
def tuning(run: RelationalRun, seed: int, varied: str, value: int | float | str) -> Iterator[Row]:
    """Vary training pairs, layer and start of tuning, one at a time, for relations with enough pairs for all variations."""
    s, middle, enough = run.settings, run.model.layer_at(0.5), max(run.settings.pairs, *run.settings.n_pairs)
    splits = {name: split_pairs(run.tasks[name], seed=seed) for name in run.subset}
    splits = {name: split for name, split in splits.items() if len(split.train) >= enough}
    n_pairs = int(value) if varied == "pairs" else s.pairs
    layer = round(float(value) * (run.model.n_layers - 1)) if varied == "layer" else middle
    if (n_pairs, layer) == (s.pairs, middle) and value not in ("random", "extracted"):
        vectors = [run.library("tuned", seed)[name] for name in splits]  # the default, which has been tuned
    else:
        extracted = run.library("extracted", seed) if value == "extracted" else None
        plain: Start = "random" if value == "random" else "zero"
        vectors = tune_many(
            run.model,
            [run.tasks[name] for name in splits],
            init={name: extracted[name].at(layer=layer) if extracted else plain for name in splits},
            n_pairs=n_pairs,
            layers=layer,
            steps=s.steps,
            split=splits,
            seed=seed,
        )
    for name, vector in zip(splits, vectors, strict=True):
        result = evaluate(run.model, run.tasks[name], {"tuned": vector}, n_shots=0, max_items=s.max_items, seed=seed)
        without, tuned = result["none"], result["tuned"]
        measures = {
            "zero_shot_top1_accuracy": without.top1.mean,
            "top1_accuracy": tuned.top1.mean,
            "logprob_per_answer_nats": tuned.logprob_per_answer.mean,
            "logprob_gain_nats": tuned.logprob_per_answer.mean - without.logprob_per_answer.mean,
            "best_step": float(vector.provenance.options["best_step"]),
            "vector_norm": vector.norm,
        }
        yield from (Row(name, str(value), measure, number, tuned.top1.n) for measure, number in measures.items())


@part(_subset)
def baselines(run: RelationalRun, seed: int, name: str) -> Iterator[Row]:
    """Compare other vectors, soft prompts and adapters made from the same pairs."""
    s = run.settings
    result = compare_baselines(
        run.model,
        run.tasks[name],
        n_pairs=s.pairs,
        n_heads=s.n_heads,
        n_shots=s.n_shots,
        n_clean=s.n_clean,
        n_trials=s.n_trials,
        steps=s.steps,
        max_items=s.max_items,
        seed=seed,
    )
    return evaluation_rows(name, result)


@part(_subset)
def norms(run: RelationalRun, seed: int, name: str) -> Iterator[Row]:
    """Compare ways to inject an extracted vector into models with a norm after attention.

    "summed" sums the heads' projected outputs as if they entered the residual stream unchanged. "normed" passes the sum
    through the linear part of the norm, as the model does. "heads" patches each head's mean output into its own layer.
    """
    s, task, split = run.settings, run.tasks[name], split_pairs(run.tasks[name], seed=seed)
    ranking = rank_heads(run.model, task, split=split, n_shots=s.n_shots, n_clean=s.n_clean, n_trials=s.n_trials, seed=seed)
    unscaled = replace(ranking, post_attn_gain=torch.ones_like(ranking.post_attn_gain))
    summed, normed = (extract(run.model, task, r, n_heads=s.n_heads, split=split) for r in (unscaled, ranking))
    return run.evaluate(name, {"summed": summed, "normed": normed, "heads": normed.at(site="heads")}, seed=seed)


@part(lambda run: product([run.seed], [name for name in LISTED if name in run.tasks], ["tuned", "extracted"]))
def lists(run: RelationalRun, seed: int, name: str, method: str) -> Iterator[Row]:
    """Predict the vector of "the last word's output" from three others (Todd et al. 2024)."""

    def extracted(tasks: Sequence[Task]) -> list[FunctionVector]:
        splits = {task.name: split_pairs(task, seed=seed) for task in tasks}
        return run.extracted(run.model.layer_at(0.5)).make(run.model, tasks, splits, template=TODD, seed=seed)

    s, make = run.settings, extracted if method == "extracted" else None
    result = compose_lists(run.model, run.tasks[name], make, n_shots=s.n_shots, max_items=s.max_items, seed=seed)
    return evaluation_rows(name, result.evaluation)


@part(lambda run: product(run.settings.seeds, LOGITS))
def decoding(run: RelationalRun, seed: int, logits: str) -> Iterator[Row]:
    """Rank relation words and answers in the decoding of extracted and tuned vectors, and test the difference in each seed."""
    vectors = {method: run.library(method, seed) for method in ("extracted", "tuned")}
    ranks = evaluate_decoding(run.model, list(run.tasks.values()), vectors, **LOGITS[logits], seed=seed, progress=run.progress)
    for ranked in get_args(Targets):
        for name, measure in RANKS.items():
            for condition in ranks.conditions:
                yield from interval_rows(ranked, condition, name, ranks.mean(condition, measure, of=ranked).value)
            difference = ranks.difference("extracted", "tuned", measure, of=ranked)
            yield from interval_rows(ranked, "tuned - extracted", name, difference.value)
            yield Row(ranked, "tuned - extracted", f"{name}_p_value", difference.p_value, difference.value.n)


def interval_rows(unit: str, condition: str, measure: str, value: Estimate) -> Iterator[Row]:
    """Rows of a mean over relations and of its interval."""
    for end, number in (("", value.mean), ("_ci_low", value.ci_low), ("_ci_high", value.ci_high)):
        yield Row(unit, condition, f"{measure}{end}", number, value.n)
