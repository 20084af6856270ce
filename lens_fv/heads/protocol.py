"""The head-ranking protocol (Todd et al. 2024), from top to bottom.

1. Clean prompts show the task; corrupted prompts withhold it (`make_ranking_prompts`).
2. Head outputs z at the last token are averaged over the clean prompts (`lens_fv.heads.means`).
3. One run per corrupted prompt and head patches the head's mean into the last token (`indirect_effects`).
4. The indirect effect is the resulting change in the metric of the answer's first token (`patched_metric`).
5. `HeadRanking` holds the effects per trial, and computes means, intervals and p-values from them.

`lens_fv.heads.instructed` replaces step 1 by prompts for instructions; the other steps are the same.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Seed, checked
from lens_fv.core.options import takes_options
from lens_fv.core.progress import progress_bar
from lens_fv.core.store import load_or_compute
from lens_fv.errors import LensFVError
from lens_fv.heads.competence import CompetenceConfig, choose_queries
from lens_fv.heads.means import HeadMeans, head_outputs, input_states
from lens_fv.heads.options import MediationConfig, RankingConfig, Source
from lens_fv.heads.ranking import HeadRanking, Metric
from lens_fv.model.finite import all_finite
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.edit import Branch, Edit
from lens_fv.patching.readout import AnswerLogits, answer_logprobs
from lens_fv.patching.run import OpenPrompts
from lens_fv.tasks import (
    EncodedPrompt,
    Pair,
    Prompt,
    PromptTemplate,
    Split,
    Task,
    build_prompts,
    encode_prompt,
    encode_prompts,
    split_pairs,
    zero_shot,
)
from lens_fv.tasks.prompts import Shuffle
from lens_fv.tasks.token_classes import token_classes


@takes_options(RankingConfig)
def rank_heads(model: LensModel, task: Task, options: RankingConfig) -> HeadRanking:
    """Rank all attention heads by causal mediation (Todd et al. 2024).

    For every head, its mean output over clean few-shot prompts replaces its output at the last token of prompts with
    shuffled labels. The indirect effect is the resulting change in the metric of the answer's first token. Effects are exact
    and computed for all heads at once.

    Args:
        model: Model to rank.
        task: Task; demonstrations come from its training split, queries from its validation split.
        options: Keywords: the fields of `RankingConfig` and its bases.

    Raises:
        LensFVError: the model has no heads, the task has too few pairs, a prompt exceeds the context, the corruption changes
            nothing, no query is answered, no head has any effect, or the budget is smaller than one row.

    Example:
        >>> ranking = lens_fv.rank_heads(model, task, n_shots=2, n_clean=4, n_trials=3)
        >>> len(ranking.top(3))
        3
    """
    return rank_prompts(model, task, make_ranking_prompts(model, task, options), options)


class PatchingPrompts(NamedTuple):
    """The prompts of a head ranking.

    Attributes:
        clean: Prompts from which head outputs are taken, as token ids.
        corrupted: Prompts into which they are patched, as token ids.
        clean_texts, corrupted_texts: The same prompts as texts.
        partners: For each corrupted prompt, the index of a random clean one, with another query if possible.
        noise: Edits of each corrupted prompt that add noise to embeddings; empty unless noise is the corruption.
        foils: First token of each query's foil; None: the strongest wrong one.
        recorded: The options that made the prompts, for provenance.
    """

    clean: list[EncodedPrompt]
    corrupted: list[EncodedPrompt]
    clean_texts: list[Prompt]
    corrupted_texts: list[Prompt]
    partners: list[int]
    noise: list[list[Edit]]
    foils: list[int | None]
    recorded: Mapping[str, Any]

    @checked
    def provenance(self, model: LensModel, task: Task, *, seed: Seed, method: str, options: Mapping[str, Any]) -> Provenance:
        """Provenance of a measurement on these prompts; options that are None are left out."""
        return Provenance.of(
            model,
            task=task.name,
            task_hash=task.fingerprint,
            prompts=[prompt.tokens for prompt in (*self.clean, *self.corrupted)],
            seed=seed,
            method=method,
            options={name: value for name, value in {**self.recorded, **options}.items() if value is not None},
        )


@takes_options(RankingConfig)
def make_ranking_prompts(model: LensModel, task: Task, options: RankingConfig) -> PatchingPrompts:
    """Build the clean and corrupted prompts of `rank_heads`; the corrupted ones are drawn with `seed` + 1.

    Args:
        model: Model that reads the prompts.
        task: Task of the prompts.
        options: Keywords of `rank_heads`.

    Raises:
        LensFVError: the model has no heads, no query is answered, or the prompts cannot be built.

    Example:
        >>> prompts = lens_fv.heads.make_ranking_prompts(model, task, n_shots=2, n_clean=4, n_trials=3)
        >>> len(prompts.clean), len(prompts.corrupted)
        (4, 3)
    """
    corruption = options.corruption
    corrupted = PromptForm(
        n_shots=0 if corruption == "zero_shot" else options.n_shots,
        instruction=options.other_instruction if corruption == "instruction" else options.instruction,
        shuffle=corruption if corruption == "permutation" or corruption == "derangement" else "none",
    )

    def demonstrations(prompt: Prompt) -> list[int]:
        classes = token_classes(model, prompt, template=options.template).classes
        return [i for i, name in enumerate(classes) if name is not None and not name.startswith("query")]

    return pair_prompts(
        model,
        task,
        options,
        clean=PromptForm(options.n_shots, options.instruction),
        corrupted=corrupted,
        noised_tokens=demonstrations if corruption == "noise" else None,
        recorded={
            "corruption": corruption,
            "instruction": options.instruction,
            "other_instruction": options.other_instruction,
        },
    )


class PromptForm(NamedTuple):
    """How clean or corrupted prompts show the task; see `build_prompts`."""

    n_shots: int
    instruction: str | Sequence[str | None] | None
    shuffle: Shuffle = "none"


def ranking_split(
    model: LensModel, task: Task, options: MediationConfig, instruction: str | Sequence[str | None] | None
) -> tuple[Split, dict[str, Any]]:
    """The split with the chosen queries as validation part, and what provenance records about the choice."""
    if not model.attention_layers:
        raise LensFVError(f"rank heads of {model.name}: it {model.no_heads()}")
    split = options.split or split_pairs(task, seed=options.seed)
    settings = CompetenceConfig(
        split=split,
        n_shots=options.n_shots,
        template=options.template,
        instruction=instruction,
        seed=options.seed,
        folder=options.folder,
    )
    queries = choose_queries(model, task, options.queries, settings)
    return replace(split, validation=queries.of(split.validation)), queries.recorded


def pair_prompts(
    model: LensModel,
    task: Task,
    options: MediationConfig,
    *,
    clean: PromptForm,
    corrupted: PromptForm,
    noised_tokens: Callable[[Prompt], list[int]] | None,
    recorded: Mapping[str, Any],
) -> PatchingPrompts:
    """Build and encode clean and corrupted prompts with their foils; draw partners, and noise on the `noised_tokens`, if any.

    Raises:
        LensFVError: no query is answered or has a foil, or the foil begins like an acceptable answer.
    """
    split, queries_record = ranking_split(model, task, options, clean.instruction)

    def prompts(form: PromptForm, n_prompts: int, seed: int) -> list[Prompt]:
        return build_prompts(
            split.validation,
            split.train,
            n_shots=form.n_shots,
            n_prompts=n_prompts,
            template=options.template,
            shuffle=form.shuffle,
            instruction=form.instruction,
            seed=seed,
        )

    clean_texts = prompts(clean, options.n_clean, options.seed)
    corrupted_texts = prompts(corrupted, options.n_trials, options.seed + 1)
    rng = random.Random(f"{options.seed}/partners")
    partners: list[int] = []
    for prompt in corrupted_texts:
        others = [i for i, other in enumerate(clean_texts) if other.query != prompt.query]
        partners.append(rng.choice(others or range(len(clean_texts))))
    encoded = encode_prompts(model, corrupted_texts)
    noise: list[list[Edit]] = [[] for _ in corrupted_texts]
    if noised_tokens is not None:
        noise = noise_on(model, encoded, [noised_tokens(prompt) for prompt in corrupted_texts], options.noise, options.seed)
    queries, foil = [prompt.query for prompt in corrupted_texts], options.foil
    return PatchingPrompts(
        clean=encode_prompts(model, clean_texts),
        corrupted=encoded,
        clean_texts=clean_texts,
        corrupted_texts=corrupted_texts,
        partners=partners,
        noise=noise,
        foils=[None if foil is None else _foil_token(model, query, foil, options.template) for query in queries],
        recorded={
            "n_shots": options.n_shots,
            "n_clean": options.n_clean,
            "n_trials": options.n_trials,
            "foil": {query.input: foil[query.input] for query in queries} if isinstance(foil, Mapping) else foil,
            "noise": None if noised_tokens is None else options.noise,
            **recorded,
            **queries_record,
        },
    )


def _foil_token(model: LensModel, query: Pair, foil: str | Mapping[str, str], template: PromptTemplate) -> int:
    """The first token of a query's foil."""
    text = foil if isinstance(foil, str) else foil.get(query.input)
    if text is None:
        raise LensFVError(f"compare the answer to {query.input!r}: `foil` names no alternative; give one for every query")
    answers = (*query.outputs, text)
    *right, wrong = encode_prompt(model, zero_shot(replace(query, outputs=answers), template=template)).answers
    if text in query.outputs or wrong[0] in {answer[0] for answer in right}:
        raise LensFVError(f"compare {query.output!r} with {text!r}: they begin with the same token in {model.name}")
    return wrong[0]


def noise_on(
    model: LensModel, prompts: Sequence[EncodedPrompt], tokens: Sequence[Sequence[int]], multiple: float, seed: int
) -> list[list[Edit]]:
    """Edits that add Gaussian noise to the embeddings of selected tokens of each prompt, at the input of the first block.

    The noise has `multiple` times the standard deviation of these embeddings (over all entries).
    """
    selected = [input_states(model, prompt.tokens)[list(at)] for prompt, at in zip(prompts, tokens, strict=True)]
    size, rng = multiple * float(torch.cat(selected).std()), torch.Generator().manual_seed(seed)

    def noise_at(position: int) -> Edit:
        return Edit(0, size * torch.randn(model.d_model, generator=rng), site="resid_pre", mode="add", position=position)

    return [[noise_at(position) for position in indices] for indices in tokens]


@checked
@torch.no_grad()
def rank_prompts(model: LensModel, task: Task, prompts: PatchingPrompts, options: MediationConfig) -> HeadRanking:
    """Rank heads on given prompts: steps 2 to 5 of the protocol, shared by all rankings.

    Args:
        model: Model to rank.
        task: Task of the prompts.
        prompts: Clean and corrupted prompts, such as those of `make_instruction_prompts`.
        options: Options; those that describe how prompts are drawn have no effect here.

    Raises:
        LensFVError: the source is a ranking of another model, no head has any effect, or the budget is too small.

    Example:
        >>> options = lens_fv.heads.RankingConfig(n_shots=2, n_clean=4, n_trials=3)
        >>> prompts = lens_fv.heads.make_ranking_prompts(model, task, options)
        >>> lens_fv.heads.rank_prompts(model, task, prompts, options).effects.shape  # trials, layers, heads
        torch.Size([3, 3, 4])
    """
    if isinstance(options.source, HeadRanking):
        options.source.provenance.check(model)
    provenance = prompts.provenance(
        model,
        task,
        seed=options.seed,
        method="causal mediation",
        options={
            "metric": options.metric,
            "source": _source_name(options.source),
            "mode": options.mode,
            "unit": options.unit,
            "site": "attn.hook_z",
            "position": "last prompt token",
            "engine": options.backend,
        },
    )

    def compute() -> HeadRanking:
        total = len(prompts.clean) + len(prompts.corrupted)
        with progress_bar(f"{task.name}: heads", total, show=options.progress) as bar:
            tick = options.tick or bar
            means, clean_outputs = head_outputs(model, [prompt.tokens for prompt in prompts.clean], tick=tick)
            outputs = _source_outputs(options.source, means, clean_outputs, prompts.partners)
            effects, baseline = indirect_effects(model, prompts, outputs, options, tick=tick)
        return HeadRanking(
            provenance=provenance,
            effects=effects,
            baseline=baseline,
            z=means.z.cpu(),
            post_attn_gain=means.post_attn_gain.cpu(),
            resid_norm=means.resid_norm.cpu(),
            metric=options.metric,
            unit=options.unit,
        )

    return load_or_compute(options.folder, HeadRanking, provenance, compute)


def _source_name(source: Source) -> str:
    """The source as recorded in provenance, which identifies head outputs by a digest."""
    if isinstance(source, str):
        return source
    return f"given {sha256(source.z.float().cpu().numpy().tobytes()).hexdigest()[:16]}"


def _source_outputs(
    source: Source, means: HeadMeans, clean: Float[Tensor, "clean layers heads d_head"], partners: Sequence[int]
) -> Float[Tensor, "trials layers heads d_head"]:
    """The head outputs to patch in, per trial; `partners` are the clean prompts that the trials resample from."""
    if source == "resample":
        return clean[list(partners)]
    z = means.z if source == "mean" else torch.zeros_like(means.z) if source == "zero" else source.z.to(means.z)
    if z.shape != means.z.shape:
        raise LensFVError(f"patch with head outputs of shape {tuple(z.shape)}: this model's are {tuple(means.z.shape)}")
    return z.expand(len(partners), *z.shape)


def indirect_effects(
    model: LensModel,
    prompts: PatchingPrompts,
    outputs: Float[Tensor, "trials layers heads d_head"],
    options: MediationConfig,
    *,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Float[Tensor, "trials layers units"], Float[Tensor, " trials"]]:
    """Each head's effect on the first answer token of each corrupted prompt, and the metric with no head patched.

    `outputs` are patched in, as `options` say. Effects are zero in layers without attention heads.

    Raises:
        LensFVError: no head has any effect.
    """
    layers, n_units = list(model.attention_layers), model.n_heads if options.unit == "head" else model.n_kv_heads
    size = model.n_heads // n_units  # query heads that share keys and values are adjacent
    units = [[(layer, first + i) for i in range(size)] for layer in layers for first in range(0, model.n_heads, size)]
    rows: list[Tensor] = []
    any_effect = False
    for prompt, noise, foil, z in zip(prompts.corrupted, prompts.noise, prompts.foils, outputs, strict=True):
        opened = OpenPrompts(model, [prompt.tokens], shared=noise, backend=options.backend, budget=options.budget)
        patches = [[Edit(layer, z[layer, head], head=head, mode=options.mode) for layer, head in unit] for unit in units]
        values, changed = patched_metric(opened, prompt, patches, metric=options.metric, foil=foil)
        rows.append(values)
        any_effect |= changed
        tick()
    if not any_effect:
        raise LensFVError(
            f"rank heads of {model.name}: no head changes anything in {options.metric!r} beyond rounding; run verify to see "
            "whether its hooks fire, or take another metric"
        )
    values = torch.stack(rows)
    effects = values.new_zeros(len(rows), model.n_layers, n_units)
    effects[:, layers] = (values[:, 1:] - values[:, :1]).unflatten(1, (len(layers), n_units))
    return effects, values[:, 0]


def patched_metric(
    opened: OpenPrompts,
    prompt: EncodedPrompt,
    patches: Sequence[Sequence[Edit]],
    *,
    metric: Metric,
    foil: int | None = None,
) -> tuple[Float[Tensor, " runs"], bool]:
    """The metric of the primary answer's first token without a patch, then under every patch; and whether any changes it.

    Args:
        opened: The prompt, with the edits that all runs share.
        prompt: The same prompt with its answers.
        patches: The edits of each run.
        metric: "prob" or "logprob" (nats) of the answer, its "logit", or "logit_diff", its logit minus the foil's. Only
            these tokens are unembedded for logits.
        foil: First token of the wrong answer for "logit_diff"; None: the likeliest one, without a patch, that begins no
            acceptable answer.
    """
    branches = [Branch(tuple(edits), tokens=prompt.answers[0][:1]) for edits in ((), *patches)]
    if metric in ("prob", "logprob"):
        columns = opened.run(branches, readout=answer_logprobs, keep=False)[0]
        if metric == "prob":
            columns = columns.exp()
    else:
        tokens = [prompt.answers[0][0]]
        if metric == "logit_diff":
            tokens.append(_strongest_foil(opened, branches[0], prompt) if foil is None else foil)
        columns = opened.run(branches, readout=AnswerLogits(torch.tensor([tokens])))[0].float()
    columns = columns.cpu()
    # Even unpatched rows differ by rounding.
    rounding = min(64 * torch.finfo(opened.model.dtype).eps, 0.05) * columns[0].abs()
    changed = bool(((columns - columns[0]).abs() > rounding).any())
    return columns @ torch.tensor([1.0, -1.0]) if metric == "logit_diff" else columns[:, 0], changed


def _strongest_foil(opened: OpenPrompts, unpatched: Branch, prompt: EncodedPrompt) -> int:
    logits = opened.model.unembed(opened.run([unpatched])[0, 0, 0]).float()
    if not all_finite(logits.amax()):
        raise LensFVError(f"the strongest wrong answer of {opened.model.name}: its logits are not finite; run verify")
    logits[list(prompt.first_tokens)] = -torch.inf
    return int(logits.argmax())
