"""Soft prompts: learned states in front of a prompt."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from lens_fv.core.artefact import Artefact, Provenance, require_shape
from lens_fv.core.choices import Count, Positive, Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.model.padding import passes
from lens_fv.patching import AnswerScores, Branch, Edit, answer_logprobs, score_answers
from lens_fv.tasks import TODD, EncodedPrompt, PromptTemplate, Split, Task, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors.baselines.fitting import fit
from lens_fv.vectors.batches import Batch, open_batches
from lens_fv.vectors.extract import validation_prompts

LEARNING_RATES = (0.05, 0.2)
PLACE = "blocks.0.hook_resid_pre"


@dataclass(frozen=True, repr=False, eq=False)
class SoftPrompt(Artefact):
    """Learned states in front of a prompt, in place of token embeddings (Lester et al. 2021).

    They follow the beginning-of-sequence token if prompts have one, and otherwise come first. The engine replaces the states
    of placeholder tokens before the first layer, so in models with position embeddings the learned states include them.

    Attributes:
        states: States of the residual stream before the first layer.
    """

    states: Float[Tensor, "tokens d_model"]

    def __post_init__(self) -> None:
        """Check the width against the provenance."""
        require_shape("soft prompt", self.states, (len(self.states), self.provenance.shape[2]))

    @property
    def start(self) -> int:
        """Position of the first state in a prompt."""
        return int(self.provenance.prepend_bos)

    def lengthened(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """A prompt with placeholder tokens for the states. Any token works; the prompt's own last one is repeated."""
        return _lengthened(tokens, len(self.states), self.start)

    def edits(self) -> list[Edit]:
        """The edits that apply the states to `lengthened` prompts."""
        return _edits(self.states, self.start)

    @torch.no_grad()
    def score(
        self,
        model: LensModel,
        prompts: Sequence[EncodedPrompt],
        *,
        what: str = "soft prompt",
        force: bool = False,
        progress: bool = False,
    ) -> AnswerScores:
        """Score prompts' answers with the soft prompt: one branch.

        Raises:
            LensFVError: the soft prompt belongs to another model, or a prompt with it exceeds the context.
        """
        if not force:
            self.provenance.check(model)
        longer = [EncodedPrompt(self.lengthened(p.tokens), p.answers) for p in prompts]
        return score_answers(model, longer, [self.edits()], what=what, progress=progress)

    @contextmanager
    def applied(self, model: LensModel, *, force: bool = False) -> Iterator[None]:
        """Apply the states inside the block, to `model.generate` and to forward passes over `lengthened` token ids.

        A pass over fewer tokens than states is not changed. In a padded batch, the attention mask determines where each row's
        text begins, and the states come before it (see `FunctionVector.applied`).
        """
        if not force:
            self.provenance.check(model)

        def put_in(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            if x.shape[1] < self.start + len(self.states) or (model.generation is not None and model.generation.past > 0):
                return x
            x = x.clone()
            for i, state in enumerate(self.states.to(x), self.start):
                # `model.generate` runs rows of one length
                x[running.places(i, x.shape) if model.generation is None else (slice(None), i)] = state
            return x

        with passes(model) as running, model.hooks([(PLACE, put_in)]), model.placeholders(self.lengthened):
            yield

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        return super().summary() | {"states": f"{len(self.states)}, from position {self.start}"}


@checked
def train_soft_prompt(
    model: LensModel,
    task: Task,
    *,
    n_tokens: Count = 10,
    n_pairs: Count = 20,
    learning_rate: Positive | Sequence[Positive] = LEARNING_RATES,
    steps: Count = 40,
    split: Split | None = None,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    progress: bool = False,
) -> SoftPrompt:
    """Learn a soft prompt on a few pairs with the model frozen (prompt tuning: Lester et al. 2021).

    Minimises the mean negative log-probability of the answers' tokens, as `tune` does, starting from the embeddings of random
    tokens. All learning rates are trained together; the rate and step with the likeliest *validation* answers are kept.

    Args:
        model: Model, which stays frozen.
        task: Task to learn.
        n_tokens: Number of states.
        n_pairs: Number of training pairs.
        learning_rate: One rate or several, in units of an embedding's norm over sqrt(d_model).
        steps: Number of Adam steps.
        split: Split of the task's pairs; default: `split_pairs(task, seed=seed)`.
        template: Prompt template.
        seed: Seed of the split and of the initial tokens.
        progress: Show a progress bar.

    Raises:
        LensFVError: the task has too few pairs, a prompt with the states exceeds the context, or a loss is not finite.
    """
    split = split or split_pairs(task, seed=seed)
    if n_pairs > len(split.train):
        raise LensFVError(f"learn a soft prompt for {task.name} on {n_pairs} pairs: its training split has {len(split.train)}")
    training = encode_prompts(model, [zero_shot(pair, template=template) for pair in split.train[:n_pairs]])
    held_out = validation_prompts(model, split, template)
    rates = [learning_rate] if isinstance(learning_rate, float | int) else list(learning_rate)
    first = _embedded(model, n_tokens, training[0], seed)
    length = float(first.norm(dim=-1).mean())
    unit = torch.tensor(rates, device=model.device)[:, None, None] * length / model.d_model**0.5
    moved = Parameter(torch.zeros(len(rates), *first.shape, device=model.device))

    start = int(model.prepend_bos)

    def opened(part: Sequence[EncodedPrompt]) -> list[Batch]:
        longer = [EncodedPrompt(_lengthened(p.tokens, n_tokens, start), p.answers) for p in part]
        return open_batches(model, [(0, prompt) for prompt in longer])

    batches, checks = opened(training), opened(held_out)

    def logprobs(batch: Batch) -> Float[Tensor, "prompts rates"]:
        branches = [Branch(tuple(_edits(states, start)), tokens=batch.answers) for states in first + moved * unit]
        return batch.opened.run(branches, readout=answer_logprobs).sum(-1)

    def loss() -> Tensor:
        return torch.stack([-(logprobs(b) / b.lengths(model.device)).sum() for b in batches]).sum() / len(training)

    def score() -> Tensor:
        return torch.cat([logprobs(batch) for batch in checks]).mean(0)

    best = fit([moved], loss, score, steps=steps, what=f"{task.name}: soft prompt", progress=progress)
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[p.tokens for p in (*training, *held_out)],
        seed=seed,
        method="soft_prompt",
        options={
            "n_tokens": n_tokens,
            "n_pairs": n_pairs,
            "steps": steps,
            "learning_rate": rates[best.candidate],
            **best.options,
        },
    )
    return SoftPrompt(provenance=provenance, states=(first + best.values[0] * unit)[best.candidate].float().cpu())


def _lengthened(tokens: Sequence[int], n: int, start: int) -> tuple[int, ...]:
    return (*tokens[:start], *[tokens[-1]] * n, *tokens[start:])


def _edits(states: Tensor, start: int) -> list[Edit]:
    return [Edit(0, state, site="resid_pre", position=start + i) for i, state in enumerate(states)]


@torch.no_grad()
def _embedded(model: LensModel, n_tokens: int, prompt: EncodedPrompt, seed: int) -> Float[Tensor, "tokens d_model"]:
    """States of random tokens at the input of the first layer, after the prompt's beginning."""
    draw = torch.randint(model.d_vocab, (n_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
    at, seen = int(model.prepend_bos), []

    def keep(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        seen.append(x[0, at:].float())
        return x

    model.run_body(torch.tensor([[*prompt.tokens[:at], *draw]]), [(PLACE, keep)])
    return seen[0]
