"""Fine-tune the vector, not the model."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import AnswerScorer, Branch, Edit, OpenPrompts, resid_norms
from lens_fv.patching.check import Method
from lens_fv.patching.readout import answer_logprobs
from lens_fv.progress import progress_bar
from lens_fv.tasks import TODD, EncodedPrompt, PromptTemplate, Split, Task, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors.extract import validation_prompts
from lens_fv.vectors.function_vector import FunctionVector

Start = FunctionVector | Literal["zero", "random"]
DEPTHS = (0.3, 0.5)
LEARNING_RATES = (0.05, 0.1)
CHECK_EVERY = 5
PATIENCE = 15
"""Steps without a better validation score after which training stops."""


def tune(
    model: LensModel,
    task: Task,
    *,
    start: Start = "zero",
    pairs: int = 20,
    layer: int | Sequence[int] | None = None,
    learning_rate: float | Sequence[float] = LEARNING_RATES,
    steps: int = 40,
    l2: float = 0.0,
    l2_to: Literal["zero", "start"] = "zero",
    start_norm: float = 0.25,
    split: Split | None = None,
    template: PromptTemplate = TODD,
    seed: int = 0,
    progress: bool = False,
) -> FunctionVector:
    """Fine-tune a function vector on a few pairs; the model stays frozen (Kang, Wu and Lu 2026).

    Minimises the mean negative log-probability of the answers' tokens behind zero-shot prompts, the vector added to the
    residual stream after a layer at the last prompt token. Full batch, Adam, cosine schedule. All combinations of layer and
    learning rate are trained side by side, the better half going on after a quarter and after half of the steps; the one,
    and the step, that make the *validation* answers likeliest are kept.

    Args:
        model: the model.
        task: the task.
        start: a vector to start from, "zero", or "random".
        pairs: training pairs.
        layer: one or several to choose from; default: at 0.3 and 0.5 of the depth, and the start's own.
        learning_rate: one or several, in units of the residual stream's typical length at the layer over sqrt(d_model).
        steps: of Adam.
        l2: weight of the squared distance (in units of the residual stream's typical length) to zero or to the start.
        l2_to: which of the two.
        start_norm: length of a random start, in units of the residual stream's typical length.
        split: default: `split_pairs(task, seed=seed, n_train=pairs)`.
        template: how prompts are written.
        seed: of the split and of a random start.
        progress: draw a progress bar.

    Raises:
        LensFVError: too few pairs, a start of another model, no such layer, or a loss that is not finite.
    """
    split = split or split_pairs(task, seed=seed, n_train=pairs)
    if len(split.train) < pairs:
        raise LensFVError(f"tune on {pairs} pairs of {task.name}: its training split has {len(split.train)}; ask for fewer")
    if isinstance(start, FunctionVector):
        start.provenance.check(model)
    train = encode_prompts(model, [zero_shot(pair, template=template) for pair in split.train[:pairs]])
    held_out = validation_prompts(model, split, template)
    units = resid_norms(model, [p.tokens for p in train])
    rates = (learning_rate,) if isinstance(learning_rate, float | int) else tuple(learning_rate)
    candidates = [(at, rate) for at in _layers(model, layer, start) for rate in rates]
    starts = [_start(model, start, start_norm * float(units[at]), seed) for at, _ in candidates]
    found = _train(
        model,
        train,
        held_out,
        starts,
        candidates,
        units=units,
        steps=steps,
        l2=l2,
        anchors=starts if l2_to == "start" else [torch.zeros_like(v) for v in starts],
        progress=progress,
    )
    at, rate = candidates[found.candidate]
    options = {
        "start": start.provenance.method if isinstance(start, FunctionVector) else start,
        "pairs": pairs,
        "learning_rate": rate,
        "steps": steps,
        "best_step": found.step,
        "l2": l2,
        "l2_to": l2_to,
        "validation_logprob": found.logprob,
        "candidates": [list(c) for c in candidates],
    }
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in (*train, *held_out)],
        seed=seed,
        method="tuned",
        options=options,
    )
    return FunctionVector(
        provenance=provenance,
        vector=found.vector,
        head_outputs=torch.zeros(0, model.d_head),
        layer=at,
        resid_norm=float(units[at]),
    )


class _Best:
    """The best validation score so far, over candidates and steps."""

    logprob = -math.inf
    candidate = 0
    step = 0
    vector: Tensor

    def update(self, scores: Tensor, alive: Sequence[int], vectors: Sequence[Tensor], step: int) -> None:
        at = int(scores.argmax())
        if float(scores[at]) > self.logprob:
            candidate = alive[at]
            self.logprob, self.candidate, self.step = float(scores[at]), candidate, step
            self.vector = vectors[candidate].detach().float().cpu().clone()


def _train(
    model: LensModel,
    train: Sequence[EncodedPrompt],
    held_out: Sequence[EncodedPrompt],
    starts: Sequence[Float[Tensor, " d_model"]],
    candidates: Sequence[tuple[int, float]],
    *,
    units: Float[Tensor, " layers"],
    steps: int,
    l2: float,
    anchors: Sequence[Tensor],
    progress: bool,
) -> _Best:
    vectors = [torch.nn.Parameter(v.clone()) for v in starts]
    groups = [
        {"params": [v], "lr": rate * float(units[layer]) / math.sqrt(model.d_model)}
        for v, (layer, rate) in zip(vectors, candidates, strict=True)
    ]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=max(steps, 1))
    batches = open_batches(model, train)
    scorer = AnswerScorer(model, held_out)
    alive, best = list(range(len(candidates))), _Best()
    with progress_bar("tuning", steps, show=progress) as tick:
        for step in range(steps + 1):
            edits = [Edit(candidates[c][0], vectors[c], mode="add") for c in alive]
            if step % CHECK_EVERY == 0 or step in (steps // 4, steps // 2, steps):
                scores = scorer.score([(edit,) for edit in edits]).logprob.mean(0)
                best.update(scores, alive, vectors, step)
                if step in (steps // 4, steps // 2):  # successive halving: the better half goes on
                    alive = [alive[i] for i in scores.argsort(descending=True)[: (len(alive) + 1) // 2].tolist()]
                    edits = [Edit(candidates[c][0], vectors[c], mode="add") for c in alive]
            if step == steps or step - best.step >= PATIENCE:
                break
            with torch.enable_grad():
                parts = [batch.loss(edits) * (len(batch.answers) / len(train)) for batch in batches]
                losses = torch.stack(parts).sum(0)
                units_from_anchor = [(vectors[c] - anchors[c]) / float(units[candidates[c][0]]) for c in alive]
                # Candidates share no parameter and no row sees another, so the sum trains each on its own loss.
                total = losses.sum() + l2 * torch.stack([d.square().sum() for d in units_from_anchor]).sum()
            if not torch.isfinite(total):
                raise LensFVError(f"tune on {model.name}: the loss is not finite at step {step}; lower the learning rate")
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            schedule.step()
            tick()
    return best


class Batch(NamedTuple):
    """Training prompts, opened, and their answers."""

    opened: OpenPrompts
    answers: tuple[tuple[int, ...], ...]

    def loss(self, edits: Sequence[Edit]) -> Float[Tensor, " branches"]:
        """Negative log-probability of the answers' tokens: mean over tokens, then over prompts; for each edit."""
        branches = [Branch((edit,), tokens=self.answers) for edit in edits]
        logprobs = self.opened.run(branches, readout=answer_logprobs)
        lengths = torch.tensor([len(answer) for answer in self.answers], device=logprobs.device)
        return -(logprobs.sum(-1) / lengths[:, None]).mean(0)


def open_batches(model: LensModel, prompts: Sequence[EncodedPrompt], *, size: int = 10, method: Method = "auto") -> list[Batch]:
    """Prompts with their primary answers; answers of like length together, so that little is padding."""
    items = sorted(prompts, key=lambda prompt: len(prompt.answers[0]))
    parts = [items[at : at + size] for at in range(0, len(items), size)]
    return [
        Batch(OpenPrompts(model, [p.tokens for p in part], method=method), tuple(p.answers[0] for p in part)) for part in parts
    ]


def _layers(model: LensModel, layer: int | Sequence[int] | None, start: Start) -> list[int]:
    if layer is None:
        own = [start.layer] if isinstance(start, FunctionVector) else []
        layer = [*own, *(round(depth * (model.n_layers - 1)) for depth in DEPTHS)]
    layers = [layer] if isinstance(layer, int) else layer
    return sorted({model.check_layer(at) for at in layers})


def _start(model: LensModel, start: Start, norm: float, seed: int) -> Float[Tensor, " d_model"]:
    if isinstance(start, FunctionVector):
        return start.vector.to(model.device) * start.scale
    draw = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed)).to(model.device)
    return draw * (norm / draw.norm() if start == "random" else 0.0)
