"""What distillation trains on: the tokens that teacher and student read, and the targets that the teacher gives."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.core.choices import checked
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import padded
from lens_fv.knowledge.entity import Entity, after_definition
from lens_fv.model.finite import plain_logits
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks.token_classes import token_spans

TOKENS_PER_PASS = 512
"""Approximate number of tokens per forward pass of the teacher."""
TargetTokens = Literal["after_mention", "all"]
Unfit = Literal["no mention", "no target tokens", "too long"]
"""Reason why a sentence gives no example: it lacks the entity's name, has no token to train on, or exceeds the context."""


class DistillationExample(NamedTuple):
    """One sentence as the teacher and the student read it.

    Attributes:
        entity: Key of the entity; empty for an anchor.
        teacher, student: Token ids of the two inputs, which share their last tokens.
        targets: Indices of the student's tokens that are trained on.
    """

    entity: str
    teacher: tuple[int, ...]
    student: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def offset(self) -> int:
        """Difference between a shared token's position in the teacher's input and in the student's."""
        return len(self.teacher) - len(self.student)


@checked
def make_example(
    model: LensModel, entity: Entity, sentence: str, *, target_tokens: TargetTokens = "after_mention"
) -> DistillationExample | Unfit:
    """Put the entity's definition before the sentence for the teacher, and leave it out for the student.

    Args:
        model: Model that provides the tokenizer and the context length.
        entity: Entity with its definition. With an empty definition the teacher and the student read the same text.
        sentence: Sentence about the entity.
        target_tokens: Tokens to train on. "after_mention": tokens after the entity's first mention, since earlier tokens cannot
            depend on the name (Padmanabhan et al. 2023). "all": all tokens that the two inputs share, whether or not the
            sentence mentions the entity.

    Returns:
        The example, or the reason why none can be made: the sentence does not mention the entity, it has no token to train on,
        or the definition and the sentence together exceed the context.

    Example:
        >>> entity = entities[0]
        >>> example = lens_fv.knowledge.make_example(model, entity, f'In {entity.name} it rains.')
        >>> len(example.teacher) > len(example.student)
        True
    """
    mention = entity.mention(sentence)
    if target_tokens == "after_mention" and mention is None:
        return "no mention"
    teacher = model.encode(after_definition(entity.definition, sentence))
    student = model.encode(sentence)
    if len(teacher) > model.n_ctx:
        return "too long"
    # After a definition, the first word of a sentence may be tokenised differently than at the beginning of a text.
    n_shared = 0
    while n_shared < min(len(teacher), len(student)) and teacher[-1 - n_shared] == student[-1 - n_shared]:
        n_shared += 1
    first = max(len(student) - n_shared, 1)
    if target_tokens == "after_mention" and mention is not None:
        first = max(first, tokens_before(model, sentence, mention[1]))
    targets = tuple(range(first, len(student)))
    return DistillationExample(entity.key, tuple(teacher), tuple(student), targets) if targets else "no target tokens"


def text_example(model: LensModel, key: str, text: str) -> DistillationExample | Unfit:
    """Make an example that trains on every token of a text (ordinary language modelling)."""
    tokens = tuple(model.encode(text))
    if len(tokens) > model.n_ctx:
        raise LensFVError(f"teach {model.name} about {key}: a text has {len(tokens)} tokens, it reads {model.n_ctx} at most")
    targets = tuple(range(1, len(tokens)))
    return DistillationExample(key, tokens, tokens, targets) if targets else "no target tokens"


def tokens_before(model: LensModel, text: str, index: int) -> int:
    """Count the tokens that begin before a character index, ignoring leading spaces of words."""
    starts = [end - len(text[start:end].lstrip()) for start, end in token_spans(model, text)]
    n_before = next((i for i, start in enumerate(starts) if start >= index), len(starts))
    return n_before + model.prepend_bos


class Target(NamedTuple):
    """Next-token distributions at the targets of one example.

    Attributes:
        logprobs: Log-probabilities of some or all tokens; with `rest`, the last column holds the total of all other tokens.
        tokens: Token id of each column; None if the columns are the whole vocabulary in order.
        rest: Whether the last column stands for all tokens not in `tokens`.
    """

    logprobs: Float[Tensor, "targets columns"]
    tokens: Int[Tensor, "targets kept"] | None
    rest: bool


@torch.no_grad()
def teacher_targets(
    plain: Any,
    examples: Sequence[DistillationExample],
    *,
    pad: int,
    temperature: float,
    top_k: int | None,
    tick: Callable[[], None] = lambda: None,
) -> list[Target]:
    """Compute the teacher's distributions at each example's targets, with the definitions in context.

    `plain` is a transformers model without dropout. With `top_k`, only that many most likely tokens are kept, and the rest is
    summed into one value. `tick` is called after each example.

    Raises:
        LensFVError: non-finite logits.
    """
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].teacher))
    targets: dict[int, Target] = {}
    while order:
        longest = len(examples[order[-1]].teacher)
        n_rows = max(1, TOKENS_PER_PASS // longest)
        batch, order = order[-n_rows:], order[:-n_rows]
        predicting = [
            [t + examples[i].offset - 1 for t in examples[i].targets] for i in batch
        ]  # a token is predicted one before
        first = min(positions[0] for positions in predicting)  # before it are definitions, without targets
        tokens = padded([examples[i].teacher for i in batch], pad, plain.device)
        logits = plain_logits(plain, "what the teacher says", tokens, logits_to_keep=longest - first)
        for row, i, positions in zip(logits, batch, predicting, strict=True):
            row_logits = row[[position - first for position in positions]].float()
            targets[i] = _most_likely((row_logits / temperature).log_softmax(-1), top_k)
            tick()
    return [targets[i] for i in range(len(examples))]


def token_targets(examples: Sequence[DistillationExample]) -> list[Target]:
    """Return the examples' own tokens as targets, as in ordinary fine-tuning on text."""
    columns = [torch.tensor([example.student[t] for t in example.targets])[:, None] for example in examples]
    return [Target(torch.zeros(tokens.shape), tokens, rest=False) for tokens in columns]


def _most_likely(logprobs: Float[Tensor, "targets vocab"], top_k: int | None) -> Target:
    if top_k is None or top_k >= logprobs.shape[1] - 1:
        return Target(logprobs.cpu(), None, rest=False)
    kept, tokens = logprobs.topk(top_k, dim=-1)
    return Target(with_rest(kept).cpu(), tokens.cpu(), rest=True)


def with_rest(kept: Float[Tensor, "targets kept"]) -> Float[Tensor, "targets columns"]:
    """Append the log of the remaining probability mass, clamped to the smallest value that single precision resolves."""
    rest = (-torch.expm1(kept.logsumexp(-1, keepdim=True).clamp(max=-1e-7))).log()
    return torch.cat([kept, rest], -1)
