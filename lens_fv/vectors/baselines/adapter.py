"""Low-rank adapters of attention's queries and values, which change the model's weights instead of its states."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig
from torch import Tensor

from lens_fv.core.artefact import Artefact, require_shape
from lens_fv.core.choices import Count, Positive, checked
from lens_fv.core.options import takes_options
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import AnswerScores, score_answers
from lens_fv.tasks import EncodedPrompt, Task
from lens_fv.vectors.baselines.lora import PARTS, Update, adapted
from lens_fv.vectors.examples import FittingExamples
from lens_fv.vectors.fitting import Best, fit
from lens_fv.vectors.options import FitConfig


@dataclass(frozen=True, repr=False, eq=False)
class Adapter(Artefact):
    """Low-rank updates of the query and value projections of every layer with attention (LoRA: Hu et al. 2022).

    The weights of each layer change by `up @ down`; PEFT trains and applies the update.

    Attributes:
        layers: Layers with an update.
        q_down, q_up, v_down, v_up: Factors of the updates of queries and values.
    """

    layers: tuple[int, ...]
    q_down: Float[Tensor, "layers rank d_in"]
    q_up: Float[Tensor, "layers d_q rank"]
    v_down: Float[Tensor, "layers rank d_in"]
    v_up: Float[Tensor, "layers d_v rank"]

    def __post_init__(self) -> None:
        """Check that the factors fit together."""
        n, rank, _ = self.q_down.shape
        for name, down, up in (("queries", *self.factors("q")), ("values", *self.factors("v"))):
            require_shape(f"adapter of the {name}, down", down, (len(self.layers), rank, down.shape[-1]))
            require_shape(f"adapter of the {name}, up", up, (n, up.shape[1], rank))

    def factors(self, part: str) -> tuple[Tensor, Tensor]:
        """The factors (down, up) of the updates of queries ("q") or values ("v")."""
        return getattr(self, f"{part}_down"), getattr(self, f"{part}_up")

    @contextmanager
    def applied(self, model: LensModel, *, force: bool = False) -> Iterator[None]:
        """Insert PEFT's layers into the model inside the block; afterwards the model is restored bit for bit.

        Raises:
            LensFVError: the adapter belongs to another model, or the model's projections are not accessible.
        """
        if not force:
            self.provenance.check(model)
        rank = self.q_down.shape[1]
        with adapted(model, LoraConfig(r=rank, lora_alpha=rank)) as parts, torch.no_grad():
            for part in PARTS:
                for layer, down, up in zip(self.layers, *self.factors(part), strict=True):
                    parts[layer, part].down.copy_(down)
                    parts[layer, part].up.copy_(up)
            yield

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
        """Score prompts' answers with the adapter applied: one branch."""
        with self.applied(model, force=force):
            return score_answers(model, prompts, [[]], what=what, progress=progress)

    def to_dataframe(self) -> DataFrame:
        """One row per layer and projection: the rank of the update and the norm of the change in weights."""
        rank = self.q_down.shape[1]
        rows: list[dict[str, Any]] = []
        for i, layer in enumerate(self.layers):
            for part, name in (("q", "query"), ("v", "value")):
                down, up = self.factors(part)
                rows.append({"layer": layer, "projection": name, "rank": rank, "norm": float((up[i] @ down[i]).norm())})
        return data_frame(rows)

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        n = sum(x.numel() for x in (self.q_down, self.q_up, self.v_down, self.v_up))
        return super().summary() | {"update": f"rank {self.q_down.shape[1]} in {len(self.layers)} layers, {n} numbers"}


@checked
@dataclass(frozen=True, kw_only=True)
class AdapterConfig(FitConfig):
    """Options of `train_adapter`.

    Attributes:
        rank: Rank of each update.
        alpha: Numerator of LoRA's scaling factor `alpha / rank`; the stored factors include it.
        learning_rate: Learning rate of Adam.
    """

    rank: Count = 4
    alpha: Count = 8
    learning_rate: Positive = 2e-3


@takes_options(AdapterConfig)
def train_adapter(model: LensModel, task: Task, options: AdapterConfig) -> Adapter:
    """Train a low-rank update of the model on a few pairs (LoRA: Hu et al. 2022); the model itself is unchanged.

    Minimises the mean negative log-probability of the answers' tokens after zero-shot prompts, as `tune` does. The step with
    the likeliest *validation* answers is kept.

    Args:
        model: Model, which stays frozen.
        task: Task to learn.
        options: Keywords: the fields of `AdapterConfig` and `FitConfig`.

    Raises:
        LensFVError: the task has too few pairs, the model's query and value projections are not accessible, or a loss is not
            finite.

    Example:
        >>> adapter = lens_fv.vectors.baselines.train_adapter(model, task, n_pairs=4, steps=2)
        >>> evaluation = lens_fv.evaluate(model, task, {'adapter': adapter}, n_shots=2, max_items=4)
        >>> 'adapter' in evaluation.conditions
        True
    """
    rank, alpha = options.rank, options.alpha
    examples = FittingExamples.of(model, task, options, what="adapter")
    best = Best[dict[str, Tensor]]()
    batches, held_out = _of_one_length(examples.train), _of_one_length(examples.validation)

    def logprobs(prompts: Sequence[EncodedPrompt]) -> Float[Tensor, "prompts answer"]:
        answers = torch.tensor([prompt.answers[0] for prompt in prompts], device=model.device)
        tokens = torch.tensor([[*prompt.tokens, *prompt.answers[0][:-1]] for prompt in prompts])
        logits = model.forward(tokens)[:, -answers.shape[1] :].float()
        return logits.log_softmax(-1).gather(-1, answers[..., None])[..., 0]

    def loss() -> Tensor:
        return -torch.cat([logprobs(prompts).mean(1) for prompts in batches]).mean()

    def score() -> Tensor:
        return torch.cat([logprobs(prompts).sum(1) for prompts in held_out]).mean()[None]

    with torch.random.fork_rng():  # PEFT draws initial values from torch's global generator
        torch.manual_seed(options.seed)
        with adapted(model, LoraConfig(r=rank, lora_alpha=alpha)) as parts:
            layers = tuple(sorted({layer for layer, _ in parts}))

            def factors(_: int) -> dict[str, Tensor]:
                rows = {
                    f"{part}_{factor}": [getattr(parts[layer, part], factor).detach().float().cpu() for layer in layers]
                    for part in PARTS
                    for factor in Update._fields
                }
                return {name: torch.stack(matrices) for name, matrices in rows.items()}

            def check(step: int) -> None:
                best.update(step, score(), factors)

            weights = [weight for part in parts.values() for weight in part]
            fit(
                weights,
                loss,
                check,
                learning_rate=options.learning_rate,
                steps=options.steps,
                context=examples.context,
                progress=options.progress,
            )
    trained = best.require(examples.context)
    scaled = {name: value * alpha / rank if name.endswith("up") else value for name, value in trained.items()}
    recorded = {"rank": rank, "alpha": alpha, "learning_rate": options.learning_rate, **best.options}
    return Adapter(provenance=examples.provenance(model, "lora", recorded), layers=layers, **scaled)


def _of_one_length(prompts: Sequence[EncodedPrompt]) -> list[list[EncodedPrompt]]:
    """Group prompts by prompt and answer length, so that each group runs without padding."""
    groups: dict[tuple[int, int], list[EncodedPrompt]] = defaultdict(list)
    for prompt in prompts:
        groups[len(prompt.tokens), len(prompt.answers[0])].append(prompt)
    return list(groups.values())
