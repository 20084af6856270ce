"""Fitting the map from scores to weights on analogies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, get_args

import torch
from torch import Tensor
from torch.nn import Parameter
from typing_extensions import Unpack

from lens_fv.composition.compose import TEMPERATURE
from lens_fv.composition.library import Basis, VectorLibrary
from lens_fv.composition.problems import AnalogyBatches
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
@dataclass(frozen=True)
class MapConfig:
    """Settings of `fit_map`, which takes each of them as a keyword argument.

    Attributes:
        score: Score of a basis vector on a pair: the "logprob" per token of the output, or its probability ("prob").
        epochs: Number of passes over the analogies.
        learning_rate: Learning rate of Adam through the model.
        exclude_own_relation: Give a relation's own vector no weight in its analogies, as if the relation were new.
    """

    score: Score = "logprob"
    epochs: Count = 3
    learning_rate: Positive = 0.05
    exclude_own_relation: bool = True


class MapOptions(TypedDict, total=False):
    """The settings of `MapConfig` as keyword arguments."""

    score: Score
    epochs: int
    learning_rate: float
    exclude_own_relation: bool


@checked
def fit_map(
    model: LensModel,
    library: VectorLibrary,
    analogies: Sequence[Analogy],
    held_out: Sequence[Analogy],
    *,
    form: Form = "diagonal",
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
    **options: Unpack[MapOptions],
) -> WeightMap:
    """Learn the map that makes D likely after C, with model and basis frozen (Kang, Wu and Lu 2026).

    Weights are softmax(matrix · scores + bias), and the weighted sum is multiplied by `scale`. Matrix and bias are first
    learned from scores alone, so that the weights of one pair explain other pairs of its relation (`fit_logit_map`). Their
    sharpness and the scale are then learned through the model: Adam minimises the mean negative log-probability of the answers'
    tokens, in batches of similar length. The weight decay and step of the first stage, and the epoch, are chosen on held-out
    analogies.

    Args:
        model: the model.
        library: basis vectors.
        analogies: training analogies; only of training relations if the map should generalise to new ones.
        held_out: analogies for model selection: of other relations if the map is for new relations, otherwise of the same.
        form: form of the matrix: "temperature" (a multiple of the identity), "diagonal" or "full"; the latter two have a bias.
        template: prompt template.
        seed: seed of the batch order.
        progress: draw a progress bar.
        **options: `score`, `epochs`, `learning_rate` and `exclude_own_relation`; see `MapConfig`.

    Raises:
        LensFVError: no analogies, an empty or mixed library, or a loss that is not finite.

    Example:
        >>> recipe = lens_fv.composition.TuneRecipe(layer=1, n_pairs=4, steps=2)
        >>> tasks = [task, lens_fv.load_task('antonym')]
        >>> library = lens_fv.build_library(model, tasks, folder / 'library', recipe)
        >>> split = lens_fv.split_pairs(task, seed=0)
        >>> analogies = lens_fv.make_analogies(task, split.train, split.test)
        >>> held_out = lens_fv.make_analogies(task, split.train, split.validation)
        >>> weight_map = lens_fv.fit_map(model, library, analogies, held_out, form='temperature', epochs=1)
        >>> weight_map.matrix.shape  # a diagonal matrix is one row
        torch.Size([1, 2])
    """
    fitted = fit_maps(
        model,
        library,
        analogies,
        held_out,
        forms=(form,),
        template=template,
        seed=seed,
        progress=progress,
        **options,
    )
    return fitted[form]


@checked
def fit_maps(
    model: LensModel,
    library: VectorLibrary,
    analogies: Sequence[Analogy],
    held_out: Sequence[Analogy],
    *,
    forms: Sequence[Form] = get_args(Form),
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
    **options: Unpack[MapOptions],
) -> dict[Form, WeightMap]:
    """Run `fit_map` in several forms, scoring and preparing the analogies only once."""
    config = MapConfig(**options)
    if not analogies or not held_out:
        raise LensFVError(f"fit a map on {len(analogies)} analogies, {len(held_out)} held out: give some of both")
    basis = library.basis(model)
    train, test = (
        AnalogyBatches(model, basis, part, config.score, template, config.exclude_own_relation)
        for part in (analogies, held_out)
    )
    provenance = Provenance.of(
        model,
        task=f"{len(analogies)} analogies of {len({a.relation for a in analogies})} relations",
        task_hash=Task("analogies", tuple(a.target for a in analogies)).fingerprint,
        prompts=[prompt.tokens for prompt in train.encoded],
        seed=seed,
        method="fitted",
        options=vars(config),
    )
    couples = train.couples(), test.couples()
    maps: dict[Form, WeightMap] = {}
    for form in forms:
        shape = fit_logit_map(form, *couples, temperature=TEMPERATURE, seed=seed)
        its_own = replace(provenance, options={**provenance.options, "form": form})
        maps[form] = _through_the_model(basis, shape, train, test, config, its_own, progress)
    return maps


def _through_the_model(
    basis: Basis,
    shape: LogitMap,
    train: AnalogyBatches,
    test: AnalogyBatches,
    config: MapConfig,
    provenance: Provenance,
    progress: bool,
) -> WeightMap:
    """Learn the sharpness and the scale of a shape through the model."""
    log_sharpness, log_scale = (Parameter(torch.zeros((), device=basis.vectors.device)) for _ in range(2))
    batches = _shuffled(train.batches, provenance.seed)
    best = Best[WeightMap]()

    def loss() -> Tensor:
        batch = next(batches)
        weights = train.logits(batch, shape.times(log_sharpness.exp())).softmax(-1)
        vectors = log_scale.exp() * (weights @ basis.vectors)
        return batch.losses([basis.layer], train.by_owner(vectors, batch)).mean()

    def check(step: int) -> None:
        sharp = shape.times(log_sharpness.exp())
        learned = WeightMap(
            provenance=provenance,
            names=basis.names,
            matrix=sharp.matrix.float().cpu(),
            bias=sharp.bias.float().cpu(),
            scale=float(log_scale.exp()),
            score=config.score,
        )
        best.update(step, torch.tensor([test.logprob_per_token(learned)]), lambda _: learned)

    what, steps = f"a map on {provenance.model}", config.epochs * len(train.batches)
    fit(
        [log_sharpness, log_scale],
        loss,
        check,
        steps=steps,
        what=what,
        checks=range(0, steps + 1, len(train.batches)),
        learning_rate=config.learning_rate,
        cosine=False,
        progress=progress,
    )
    return best.require(what)


def _shuffled(batches: Sequence[Batch], seed: int) -> Iterator[Batch]:
    """Yield all batches in a new random order, again and again."""
    rng = torch.Generator().manual_seed(seed)
    while True:
        order: list[int] = torch.randperm(len(batches), generator=rng).tolist()
        yield from (batches[at] for at in order)
