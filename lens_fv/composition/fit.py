"""A map from scores to weights, learned on analogies."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

from lens_fv.artefact import Provenance
from lens_fv.composition.compose import TEMPERATURE
from lens_fv.composition.library import Basis, VectorLibrary
from lens_fv.composition.problems import Problems
from lens_fv.composition.weights import Score, WeightMap
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.progress import progress_bar
from lens_fv.tasks import TODD, Analogy, PromptTemplate, Task

Form = Literal["temperature", "diagonal", "full"]


def fit_map(
    model: LensModel,
    library: VectorLibrary,
    analogies: Sequence[Analogy],
    held_out: Sequence[Analogy],
    *,
    form: Form = "diagonal",
    score: Score = "logprob",
    epochs: int = 8,
    learning_rate: float = 0.02,
    l2: float = 1e-3,
    leave_own_out: bool = True,
    template: PromptTemplate = TODD,
    seed: int = 0,
    progress: bool = False,
) -> WeightMap:
    """Learn the map that makes D likely behind C, the model and the basis frozen (Kang, Wu and Lu 2026).

    Minimises the mean negative log-probability of the answers' tokens under scale x softmax(matrix · scores + bias), from
    matrix = 3 x identity and scale 1, by Adam in batches of answers of like length. The epoch that makes the held-out answers
    likeliest is kept.

    Args:
        model: the model.
        library: the basis.
        analogies: to learn from. Of training relations only, if it is to hold for others.
        held_out: to choose the epoch on, better of other relations than the training ones.
        form: of the matrix: one number, its diagonal, or all of it. All but the number have a bias.
        score: see `relation_scores`.
        epochs: over the analogies.
        learning_rate: of Adam; the matrix' entries are of the order of 1.
        l2: weight of the mean squared distance of matrix and bias to where they started.
        leave_own_out: give a relation's own vector no weight in its analogies, as if it were new.
        template: how prompts are written.
        seed: of the order of batches.
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
        l2=l2,
        leave_own_out=leave_own_out,
        template=template,
        seed=seed,
        progress=progress,
    )
    return found[form]


def fit_maps(
    model: LensModel,
    library: VectorLibrary,
    analogies: Sequence[Analogy],
    held_out: Sequence[Analogy],
    *,
    forms: Sequence[Form] = get_args(Form),
    score: Score = "logprob",
    epochs: int = 8,
    learning_rate: float = 0.02,
    l2: float = 1e-3,
    leave_own_out: bool = True,
    template: PromptTemplate = TODD,
    seed: int = 0,
    progress: bool = False,
) -> dict[Form, WeightMap]:
    """`fit_map` in several forms, the analogies scored and opened once for all of them."""
    if not analogies or not held_out:
        raise LensFVError(f"fit a map on {len(analogies)} analogies, {len(held_out)} held out: give some of both")
    basis = library.basis(model)
    train = Problems(model, basis, analogies, score, template, leave_own_out)
    test = Problems(model, basis, held_out, score, template, leave_own_out)
    options: dict[str, Any] = {"score": score, "epochs": epochs, "learning_rate": learning_rate, "l2": l2}
    provenance = Provenance.of(
        model,
        task=f"{len(analogies)} analogies of {len({a.relation for a in analogies})} relations",
        task_hash=Task("analogies", tuple(a.target for a in analogies)).fingerprint,
        prompts=[prompt.tokens for prompt in train.encoded],
        seed=seed,
        method="fitted",
        options=options | {"leave_own_out": leave_own_out},
    )
    with progress_bar("fitting weights", len(forms) * epochs * len(train.batches), show=progress) as tick:
        return {
            form: _fitted(
                basis,
                train,
                test,
                replace(provenance, options={**provenance.options, "form": form}),
                form,
                tick,
            )
            for form in forms
        }


def _fitted(
    basis: Basis, train: Problems, test: Problems, provenance: Provenance, form: Form, tick: Callable[[], None]
) -> WeightMap:
    options = provenance.options
    n, device = len(basis.names), basis.vectors.device
    start = torch.full((1, n), TEMPERATURE, device=device) if form != "full" else TEMPERATURE * torch.eye(n, device=device)
    moved = torch.nn.Parameter(torch.zeros(() if form == "temperature" else start.shape, device=device))
    bias = torch.nn.Parameter(torch.zeros(n, device=device), requires_grad=form != "temperature")
    log_scale = torch.nn.Parameter(torch.zeros((), device=device))
    optimiser = torch.optim.Adam([p for p in (moved, bias, log_scale) if p.requires_grad], lr=options["learning_rate"])

    def now() -> WeightMap:
        return WeightMap(
            provenance=provenance,
            names=basis.names,
            matrix=(start + moved).detach().float().cpu(),
            bias=bias.detach().float().cpu(),
            scale=float(log_scale.detach().exp()),
            score=options["score"],
        )

    best, kept = -math.inf, now()
    rng = torch.Generator().manual_seed(provenance.seed)
    for epoch in range(options["epochs"] + 1):
        with torch.no_grad():
            found = test.mean_logprob(now())
        if found > best:
            best, kept = found, now()
        if epoch == options["epochs"]:
            break
        for at in torch.randperm(len(train.batches), generator=rng).tolist():
            batch = train.batches[at]
            with torch.enable_grad():
                logits = train.logits(batch, start + moved, bias)
                vectors = log_scale.exp() * (logits.softmax(-1) @ basis.vectors)
                loss = batch.losses([basis.layer], train.by_owner(vectors, batch)).mean()
                loss = loss + options["l2"] * (moved.square().mean() + bias.square().mean())
            if not torch.isfinite(loss):
                raise LensFVError(
                    f"fit a map on {provenance.model}: the loss is not finite in epoch {epoch}; lower the learning rate"
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            tick()
    return kept
