"""Fitting the map from scores to weights on analogies."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch

from lens_fv.composition.compose import TEMPERATURE
from lens_fv.composition.library import Basis, VectorLibrary
from lens_fv.composition.problems import AnalogyBatches
from lens_fv.composition.shape import Form, LogitMap, fit_logit_map
from lens_fv.composition.weights import Score, WeightMap
from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Positive, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.model.finite import loss_not_finite
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, Analogy, PromptTemplate, Task


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
        model: the model.
        library: basis vectors.
        analogies: training analogies; only of training relations if the map should generalise to new ones.
        held_out: analogies for model selection: of other relations if the map is for new relations, otherwise of the same.
        form: form of the matrix: "temperature" (a multiple of the identity), "diagonal" or "full"; the latter two have a bias.
        score: see `relation_scores`.
        epochs: number of passes over the analogies.
        learning_rate: learning rate of Adam through the model.
        exclude_own_relation: give a relation's own vector no weight in its analogies, as if the relation were new.
        template: prompt template.
        seed: seed of the batch order.
        progress: draw a progress bar.

    Raises:
        LensFVError: no analogies, an empty or mixed library, or a loss that is not finite.
    """
    found = fit_maps(
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
    return found[form]


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
    """Run `fit_map` in several forms, scoring and preparing the analogies only once."""
    if not analogies or not held_out:
        raise LensFVError(f"fit a map on {len(analogies)} analogies, {len(held_out)} held out: give some of both")
    basis = library.basis(model)
    train = AnalogyBatches(model, basis, analogies, score, template, exclude_own_relation)
    test = AnalogyBatches(model, basis, held_out, score, template, exclude_own_relation)
    options: dict[str, Any] = {"score": score, "epochs": epochs, "learning_rate": learning_rate}
    provenance = Provenance.of(
        model,
        task=f"{len(analogies)} analogies of {len({a.relation for a in analogies})} relations",
        task_hash=Task("analogies", tuple(a.target for a in analogies)).fingerprint,
        prompts=[prompt.tokens for prompt in train.encoded],
        seed=seed,
        method="fitted",
        options=options | {"exclude_own_relation": exclude_own_relation},
    )
    couples = train.couples(), test.couples()
    with progress_bar("fitting weights", len(forms) * epochs * len(train.batches), show=progress) as tick:
        found: dict[Form, WeightMap] = {}
        for form in forms:
            shape = fit_logit_map(form, *couples, temperature=TEMPERATURE, seed=seed)
            said = replace(provenance, options={**provenance.options, "form": form})
            found[form] = _fitted(basis, shape, train, test, said, tick)
        return found


def _fitted(
    basis: Basis, shape: LogitMap, train: AnalogyBatches, test: AnalogyBatches, provenance: Provenance, tick: Callable[[], None]
) -> WeightMap:
    """Learn the temperature and scale of a shape through the model."""
    options = provenance.options
    hotter, log_scale = (torch.nn.Parameter(torch.zeros((), device=basis.vectors.device)) for _ in range(2))
    optimiser = torch.optim.Adam([hotter, log_scale], lr=options["learning_rate"])

    def now() -> WeightMap:
        sharp = shape.times(hotter.detach().exp())
        return WeightMap(
            provenance=provenance,
            names=basis.names,
            matrix=sharp.matrix.float().cpu(),
            bias=sharp.bias.float().cpu(),
            scale=float(log_scale.detach().exp()),
            score=options["score"],
        )

    best, kept, updates = -math.inf, now(), 0
    rng = torch.Generator().manual_seed(provenance.seed)
    for epoch in range(options["epochs"] + 1):
        with torch.no_grad():
            found = test.logprob_per_token(now())
        if found > best:
            best, kept = found, now()
        if epoch == options["epochs"]:
            break
        for at in torch.randperm(len(train.batches), generator=rng).tolist():
            batch = train.batches[at]
            with torch.enable_grad():
                weights = train.logits(batch, shape.times(hotter.exp())).softmax(-1)
                vectors = log_scale.exp() * (weights @ basis.vectors)
                loss = batch.losses([basis.layer], train.by_owner(vectors, batch)).mean()
            if not torch.isfinite(loss):
                raise loss_not_finite(f"fit a map on {provenance.model}", float(loss.detach()), updates)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            updates += 1
            tick()
    return kept
