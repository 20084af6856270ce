"""Training examples for distillation: the tokens that teacher and student read, and the positions that are trained."""

from typing import Literal, NamedTuple

from lens_fv.core.choices import checked
from lens_fv.errors import LensFVError
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.measure import after_definition
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks.token_classes import token_spans

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
    """
    mention_end = entity.mention_end(sentence)
    if target_tokens == "after_mention" and mention_end is None:
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
    if target_tokens == "after_mention" and mention_end is not None:
        first = max(first, tokens_before(model, sentence, mention_end))
    targets = tuple(range(first, len(student)))
    return DistillationExample(entity.key, tuple(teacher), tuple(student), targets) if targets else "no target tokens"


def text_example(model: LensModel, key: str, text: str) -> DistillationExample | None:
    """Make an example that trains on every token of a text (ordinary language modelling)."""
    tokens = tuple(model.encode(text))
    if len(tokens) > model.n_ctx:
        raise LensFVError(f"teach {model.name} about {key}: a text has {len(tokens)} tokens, it reads {model.n_ctx} at most")
    return DistillationExample(key, tokens, tokens, tuple(range(1, len(tokens)))) if len(tokens) > 1 else None


def tokens_before(model: LensModel, text: str, index: int) -> int:
    """Count the tokens that begin before a character index, ignoring leading spaces of words."""
    starts = [end - len(text[start:end].lstrip()) for start, end in token_spans(model, text)]
    n_before = next((i for i, start in enumerate(starts) if start >= index), len(starts))
    return n_before + model.prepend_bos
