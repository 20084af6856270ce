"""The model changed rather than its states: a low-rank update of attention's queries and values."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from lens_fv.artefact import Artefact, Provenance, require_shape
from lens_fv.errors import LensFVError
from lens_fv.kinds.fitting import fit
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import AnswerScores, score_answers
from lens_fv.tasks import TODD, EncodedPrompt, PromptTemplate, Split, Task, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors.extract import validation_prompts

PARTS = ("q", "v")


@dataclass(frozen=True, repr=False, eq=False)
class Adapter(Artefact):
    """Low-rank updates of the query and value projections of every layer with attention (LoRA: Hu et al. 2022).

    The weights change by `up @ down`, layer by layer.

    Attributes:
        layers: which layers.
        q_down, q_up, v_down, v_up: of the queries and the values.
    """

    layers: tuple[int, ...]
    q_down: Float[Tensor, "layers rank d_in"]
    q_up: Float[Tensor, "layers d_q rank"]
    v_down: Float[Tensor, "layers rank d_in"]
    v_up: Float[Tensor, "layers d_v rank"]

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        n, rank, _ = self.q_down.shape
        for name, up, down in (("queries", self.q_up, self.q_down), ("values", self.v_up, self.v_down)):
            require_shape(f"adapter of the {name}, down", down, (len(self.layers), rank, down.shape[-1]))
            require_shape(f"adapter of the {name}, up", up, (n, up.shape[1], rank))

    @contextmanager
    def applied(self, model: LensModel, *, force: bool = False) -> Iterator[None]:
        """Inside the block the model's own weights are changed; behind it they are, bit for bit, what they were.

        Raises:
            LensFVError: it belongs to another model, or the model's projections are out of reach.
        """
        if not force:
            self.provenance.check(model)
        modules = projections(model)
        updates = [
            up @ down for ups, downs in ((self.q_up, self.q_down), (self.v_up, self.v_down)) for up, down in zip(ups, downs)
        ]
        weights = [modules[layer, part].weight.data for part in PARTS for layer in self.layers]
        before = [weight.clone() for weight in weights]
        try:
            for weight, update in zip(weights, updates, strict=True):
                weight += update.to(weight)
            yield
        finally:
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)

    @torch.no_grad()
    def score(
        self,
        model: LensModel,
        prompts: Sequence[EncodedPrompt],
        *,
        what: str = "adapter",
        force: bool = False,
        progress: bool = False,
    ) -> AnswerScores:
        """What the model makes of prompts' answers while it is applied: one branch."""
        with self.applied(model, force=force):
            return score_answers(model, prompts, [[]], what=what, progress=progress)

    def facts(self) -> dict[str, str]:
        """See `Artefact.facts`."""
        n = sum(x.numel() for x in (self.q_down, self.q_up, self.v_down, self.v_up))
        return super().facts() | {"update": f"rank {self.q_down.shape[1]} in {len(self.layers)} layers, {n} numbers"}


def train_adapter(
    model: LensModel,
    task: Task,
    *,
    rank: int = 4,
    alpha: float = 8.0,
    pairs: int = 20,
    learning_rate: float = 2e-3,
    steps: int = 40,
    split: Split | None = None,
    template: PromptTemplate = TODD,
    seed: int = 0,
    progress: bool = False,
) -> Adapter:
    """Train a low-rank update of the model on a few pairs (LoRA: Hu et al. 2022); the model itself stays as it is.

    Minimises the mean negative log-probability of the answers' tokens behind zero-shot prompts, as `tune` does. The step that
    makes the *validation* answers likeliest is kept.

    Args:
        model: the model.
        task: the task.
        rank: of each update.
        alpha: updates are multiplied with `alpha / rank` while they are trained; kept, they hold that factor.
        pairs: training pairs.
        learning_rate: of Adam.
        steps: of Adam.
        split: default: `split_pairs(task, seed=seed)`.
        template: how prompts are written.
        seed: of the split and of the start.
        progress: draw a progress bar.

    Raises:
        LensFVError: too few pairs, a rank below 1, a model whose query and value projections are out of reach, or a loss that
            is not finite.
    """
    split = split or split_pairs(task, seed=seed)
    if rank < 1 or not 1 <= pairs <= len(split.train):
        raise LensFVError(
            f"train an adapter of rank {rank} for {task.name} on {pairs} pairs: its training split has {len(split.train)}; "
            "give at least rank 1 and one pair"
        )
    modules, factor = projections(model), alpha / rank
    layers = tuple(sorted({layer for layer, _ in modules}))
    rng = torch.Generator().manual_seed(seed)
    downs: dict[tuple[int, str], nn.Parameter] = {}
    ups: dict[tuple[int, str], nn.Parameter] = {}
    for place, module in modules.items():
        draw = (torch.rand(rank, module.in_features, generator=rng) * 2 - 1) / module.in_features**0.5
        downs[place] = nn.Parameter(draw.to(model.device))
        ups[place] = nn.Parameter(torch.zeros(module.out_features, rank, device=model.device))
    training = encode_prompts(model, [zero_shot(pair, template=template) for pair in split.train[:pairs]])
    held_out = validation_prompts(model, split, template)

    def adapted(place: tuple[int, str]) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG001
            x = inputs[0].to(downs[place])
            return output + factor * linear(linear(x, downs[place]), ups[place]).to(output)

        return hook

    def logprobs(group: Sequence[EncodedPrompt]) -> Float[Tensor, "prompts answer"]:
        answers = torch.tensor([prompt.answers[0] for prompt in group], device=model.device)
        tokens = torch.tensor([[*prompt.tokens, *prompt.answers[0][:-1]] for prompt in group])
        logits = model.forward(tokens)[:, -answers.shape[1] :].float()
        return logits.log_softmax(-1).gather(-1, answers[..., None])[..., 0]

    batches, checks = _alike(training), _alike(held_out)

    def loss() -> Tensor:
        return -torch.cat([logprobs(group).mean(1) for group in batches]).mean()

    def score() -> Tensor:
        return torch.cat([logprobs(group).sum(1) for group in checks]).mean()[None]

    handles = [module.register_forward_hook(adapted(place)) for place, module in modules.items()]
    try:
        best = fit(
            [*downs.values(), *ups.values()],
            loss,
            score,
            learning_rate=learning_rate,
            steps=steps,
            what=f"{task.name}: adapter",
            progress=progress,
        )
    finally:
        for handle in handles:
            handle.remove()
    values = dict(zip([*(("down", p) for p in downs), *(("up", p) for p in ups)], best.values, strict=True))

    def stacked(which: str, part: str) -> Tensor:
        found = torch.stack([values[which, (layer, part)] for layer in layers]).float().cpu()
        return found * factor if which == "up" else found

    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in (*training, *held_out)],
        seed=seed,
        method="lora",
        options={
            "rank": rank,
            "alpha": alpha,
            "pairs": pairs,
            "steps": steps,
            "learning_rate": learning_rate,
            **best.options,
        },
    )
    parts = {f"{part}_{which}": stacked(which, part) for part in PARTS for which in ("down", "up")}
    return Adapter(provenance=provenance, layers=layers, **parts)


def _alike(prompts: Sequence[EncodedPrompt]) -> list[list[EncodedPrompt]]:
    """Prompts of one length with answers of one length together: they run as a batch without padding."""
    groups: dict[tuple[int, int], list[EncodedPrompt]] = defaultdict(list)
    for prompt in prompts:
        groups[len(prompt.tokens), len(prompt.answers[0])].append(prompt)
    return list(groups.values())


def projections(model: LensModel) -> dict[tuple[int, str], nn.Linear]:
    """The linear maps to queries ("q") and values ("v") of every layer with attention, by layer and part.

    Raises:
        LensFVError: the model does not keep them as linear maps of the same shape in all layers.
    """
    found = {}
    for layer in model.attention_layers:
        for part in PARTS:
            bridge = getattr(model.tl.blocks[layer].attn, part, None)
            found[layer, part] = getattr(bridge, "original_component", None)
    shapes = {(part, tuple(m.weight.shape)) for (_, part), m in found.items() if isinstance(m, nn.Linear)}
    if len(shapes) != len(PARTS) or not all(isinstance(m, nn.Linear) for m in found.values()):
        raise LensFVError(
            f"adapt {model.name}: its query and value projections are not linear maps of one shape in all layers that "
            f"{model.backend} gives access to; compare it without an adapter"
        )
    return found
