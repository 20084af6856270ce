"""Fitting the map from scores to weights on analogies."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor
from torch.nn import Parameter

from lens_fv.composition.analogies import ScoredAnalogies
from lens_fv.composition.compose import TEMPERATURE
from lens_fv.composition.library import VectorLibrary
from lens_fv.composition.shape import Form, LogitMap, fit_logit_map
from lens_fv.composition.weights import Score, WeightMap
from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Positive, Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, Analogy, PromptTemplate, Task
from lens_fv.vectors.batches import Batch
from lens_fv.vectors.fitting import Best, fit


@checked
def fit_map(
    model: LensModel,
    library: VectorLibrary,
    analogies: Sequence[Analogy],
    held_out: Sequence[Analogy],
    *,
    form: Form = "diagonal",
    score: Score = "logprob",
    epochs: Count = 3,
    learning_rate: Positive = 0.05,
    exclude_own_relation: bool = True,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
) -> WeightMap:
    """Learn the map that makes D likely after C, with model and basis frozen (Kang, Wu and Lu 2026).

    Weights are softmax(matrix · scores + bias), and the weighted sum is multiplied by `scale`. Matrix and bias are first
    learned from scores alone, so that the weights of one pair explain other pairs of its relation (`fit_logit_map`). Their
    sharpness and the scale are then learned through the model: Adam minimises the mean negative log-probability of the answers'
    tokens, in batches of similar length. The weight decay and step of the first stage, and the epoch, are chosen on held-out
    analogies.

    Args:
        model: Model, which stays frozen.
        library: Basis vectors.
        analogies: Training analogies; only of training relations if the map should generalise to new ones.
        held_out: Analogies for model selection: of other relations if the map is for new relations, otherwise of the same.
        form: Form of the matrix: "temperature" (a multiple of the identity), "diagonal" or "full"; the latter two have a bias.
        score: Score of a basis vector on a pair: the "logprob" per token of the output, or its probability ("prob").
        epochs: Number of passes over the analogies.
        learning_rate: Learning rate of Adam through the model.
        exclude_own_relation: Give a relation's own vector no weight in its analogies, as if the relation were new.
        template: Prompt template.
        seed: Seed of the batch order.
        progress: Show a progress bar.

    Raises:
        LensFVError: no analogies are given, the library is empty or mixed, or a loss is not finite.

    Example:
        >>> split = lens_fv.split_pairs(task, seed=0)
        >>> analogies = lens_fv.make_analogies(task, split.train, split.test)
        >>> held_out = lens_fv.make_analogies(task, split.train, split.validation)
        >>> weight_map = lens_fv.fit_map(model, library, analogies, held_out, form='temperature', epochs=1)
        >>> weight_map.matrix.shape  # a diagonal matrix is one row
        torch.Size([1, 2])
    """
    maps = fit_maps(
        model,
        library,
        analogies,
        held_out,
        forms=(form,),
        score=score,
        epochs=epochs,
        learning_rate=learning_rate,
        exclude_own_relation=exclude_own_relation,
        template=template,
        seed=seed,
        progress=progress,
    )
    return maps[form]


@checked
def fit_maps(
    model: LensModel,
    library: VectorLibrary,
    analogies: Sequence[Analogy],
    held_out: Sequence[Analogy],
    *,
    forms: Sequence[Form] = get_args(Form),
    score: Score = "logprob",
    epochs: Count = 3,
    learning_rate: Positive = 0.05,
    exclude_own_relation: bool = True,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
) -> dict[Form, WeightMap]:
    """Run `fit_map` in several forms, scoring and preparing the analogies only once.

    Example:
        >>> split = lens_fv.split_pairs(task)
        >>> analogies = lens_fv.make_analogies(task, split.train, split.validation)
        >>> maps = lens_fv.composition.fit_maps(model, library, analogies, analogies, forms=['temperature'], epochs=1)
        >>> list(maps)
        ['temperature']
    """
    if not analogies or not held_out:
        raise LensFVError(f"fit a map on {len(analogies)} analogies, {len(held_out)} held out: give some of both")
    basis = library.basis(model)
    train, validation = (
        ScoredAnalogies(model, basis, part, score, template, exclude_own_relation) for part in (analogies, held_out)
    )
    provenance = Provenance.of(
        model,
        task=f"{len(analogies)} analogies of {len({a.relation for a in analogies})} relations",
        task_hash=Task("analogies", tuple(a.target for a in analogies)).fingerprint,
        prompts=[prompt.tokens for prompt in train.encoded],
        seed=seed,
        method="fitted",
        options={
            "score": score,
            "epochs": epochs,
            "learning_rate": learning_rate,
            "exclude_own_relation": exclude_own_relation,
        },
    )
    couples = train.couples(), validation.couples()
    maps: dict[Form, WeightMap] = {}
    for form in forms:
        shape = fit_logit_map(form, *couples, temperature=TEMPERATURE, seed=seed)
        form_provenance = replace(provenance, options={**provenance.options, "form": form})
        maps[form] = _fit_sharpness(shape, train, validation, form_provenance, epochs, learning_rate, progress)
    return maps


def _fit_sharpness(
    shape: LogitMap,
    train: ScoredAnalogies,
    validation: ScoredAnalogies,
    provenance: Provenance,
    epochs: int,
    learning_rate: float,
    progress: bool,
) -> WeightMap:
    """Learn the sharpness and the scale of a shape through the model."""
    log_sharpness, log_scale = (Parameter(torch.zeros((), device=train.basis.vectors.device)) for _ in range(2))
    batches = _shuffled(train.batches, provenance.seed)
    best = Best[WeightMap]()

    def loss() -> Tensor:
        return train.losses(next(batches), shape.times(log_sharpness.exp()), log_scale.exp()).mean()

    def check(step: int) -> None:
        sharpened = shape.times(log_sharpness.exp())
        weight_map = WeightMap(
            provenance=provenance,
            names=train.basis.names,
            matrix=sharpened.matrix.float().cpu(),
            bias=sharpened.bias.float().cpu(),
            scale=float(log_scale.exp()),
            score=train.score,
        )
        best.update(step, torch.tensor([validation.logprob_per_token(weight_map)]), lambda _: weight_map)

    context, steps = f"a map on {provenance.model}", epochs * len(train.batches)
    fit(
        [log_sharpness, log_scale],
        loss,
        check,
        steps=steps,
        context=context,
        checks=range(0, steps + 1, len(train.batches)),
        learning_rate=learning_rate,
        cosine=False,
        progress=progress,
    )
    return best.require(context)


def _shuffled(batches: Sequence[Batch], seed: int) -> Iterator[Batch]:
    """Yield all batches in a new random order, again and again."""
    rng = torch.Generator().manual_seed(seed)
    while True:
        order: list[int] = torch.randperm(len(batches), generator=rng).tolist()
        yield from (batches[i] for i in order)
