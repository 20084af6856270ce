"""Soft prompts: learned states in front of a prompt."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from lens_fv.core.artefact import Artefact, require_shape
from lens_fv.core.choices import Count, Positive, checked
from lens_fv.core.options import takes_options
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.heads.means import input_states
from lens_fv.model.lens_model import LensModel
from lens_fv.model.padding import passes
from lens_fv.patching import AnswerScores, Branch, Edit, answer_logprobs, score_answers
from lens_fv.tasks import EncodedPrompt, Task
from lens_fv.vectors.batches import Batch
from lens_fv.vectors.examples import FittingExamples
from lens_fv.vectors.fitting import fit_answers
from lens_fv.vectors.options import FitConfig, as_list

LEARNING_RATES = (0.05, 0.2)
SITE = "blocks.0.hook_resid_pre"


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

        def insert(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            if x.shape[1] < self.start + len(self.states) or (model.generation is not None and model.generation.past > 0):
                return x
            x = x.clone()
            for i, state in enumerate(self.states.to(x), self.start):
                # `model.generate` runs rows of one length
                x[running.places(i, x.shape) if model.generation is None else (slice(None), i)] = state
            return x

        with passes(model) as running, model.hooks([(SITE, insert)]), model.placeholders(self.lengthened):
            yield

    def to_dataframe(self) -> DataFrame:
        """One row per learned state: its position in the prompt and its norm."""
        return data_frame(
            {"position": self.start + i, "norm": norm} for i, norm in enumerate(self.states.norm(dim=-1).tolist())
        )

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        return super().summary() | {"states": f"{len(self.states)}, from position {self.start}"}


@checked
@dataclass(frozen=True, kw_only=True)
class SoftPromptConfig(FitConfig):
    """Options of `train_soft_prompt`.

    Attributes:
        n_tokens: Number of states.
        learning_rate: One rate or several, in units of an embedding's norm over sqrt(d_model).
    """

    n_tokens: Count = 10
    learning_rate: Positive | Sequence[Positive] = LEARNING_RATES


@takes_options(SoftPromptConfig)
def train_soft_prompt(model: LensModel, task: Task, options: SoftPromptConfig) -> SoftPrompt:
    """Learn a soft prompt on a few pairs with the model frozen (prompt tuning: Lester et al. 2021).

    Minimises the mean negative log-probability of the answers' tokens, as `tune` does, starting from the embeddings of random
    tokens. All learning rates are trained together; the rate and step with the likeliest *validation* answers are kept.

    Args:
        model: Model, which stays frozen.
        task: Task to learn.
        options: Keywords: the fields of `SoftPromptConfig` and `FitConfig`.

    Raises:
        LensFVError: the task has too few pairs, a prompt with the states exceeds the context, or a loss is not finite.

    Example:
        >>> prompt = lens_fv.vectors.baselines.train_soft_prompt(model, task, n_pairs=4, steps=2, n_tokens=3)
        >>> prompt.states.shape
        torch.Size([3, 32])
    """
    n_tokens, start = options.n_tokens, int(model.prepend_bos)
    examples = FittingExamples.of(model, task, options, what="soft prompt")
    rates = as_list(options.learning_rate)
    initial = _random_embeddings(model, n_tokens, examples.train[0], options.seed)
    norm = float(initial.norm(dim=-1).mean())
    unit = torch.tensor(rates, device=model.device)[:, None, None] * norm / model.d_model**0.5
    moved = Parameter(torch.zeros(len(rates), *initial.shape, device=model.device))

    def lengthened(prompts: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
        return [EncodedPrompt(_lengthened(prompt.tokens, n_tokens, start), prompt.answers) for prompt in prompts]

    def logprobs(batch: Batch) -> Float[Tensor, "prompts rates"]:
        branches = [Branch(tuple(_edits(states, start)), tokens=batch.answers) for states in initial + moved * unit]
        return batch.opened.run(branches, readout=answer_logprobs).sum(-1)

    best = fit_answers(
        model,
        replace(examples, train=lengthened(examples.train), validation=lengthened(examples.validation)),
        [moved],
        logprobs,
        lambda candidate: (initial + moved * unit)[candidate].float().cpu(),
    )
    recorded = {"n_tokens": n_tokens, "learning_rate": rates[best.candidate], **best.options}
    return SoftPrompt(provenance=examples.provenance(model, "soft_prompt", recorded), states=best.require(examples.context))


def _lengthened(tokens: Sequence[int], n: int, start: int) -> tuple[int, ...]:
    return (*tokens[:start], *[tokens[-1]] * n, *tokens[start:])


def _edits(states: Tensor, start: int) -> list[Edit]:
    return [Edit(0, state, site="resid_pre", position=start + i) for i, state in enumerate(states)]


@torch.no_grad()
def _random_embeddings(model: LensModel, n_tokens: int, prompt: EncodedPrompt, seed: int) -> Float[Tensor, "tokens d_model"]:
    """States of random tokens at the input of the first layer, after the prompt's beginning."""
    draw = torch.randint(model.d_vocab, (n_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
    start = int(model.prepend_bos)
    return input_states(model, [*prompt.tokens[:start], *draw])[start:]
