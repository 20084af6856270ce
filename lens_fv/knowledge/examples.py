"""What a teacher and a student read, and where the student is to say what the teacher says."""

from typing import Literal, NamedTuple

from lens_fv.core.choices import checked
from lens_fv.errors import LensFVError
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.measure import behind
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks.token_classes import token_spans

Where = Literal["after_mention", "all"]
Unfit = Literal["no mention", "nothing to teach", "too long"]
"""Why a sentence is no lesson: it does not name the entity, has no token that could be taught, or exceeds the context."""


class DistillationExample(NamedTuple):
    """One sentence, as both read it.

    Attributes:
        entity: key of the entity.
        teacher, student: token ids; they end alike.
        targets: indices, among the student's tokens, of those whose prediction is taught.
    """

    entity: str
    teacher: tuple[int, ...]
    student: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def offset(self) -> int:
        """How much later the teacher reads each of the tokens that both read."""
        return len(self.teacher) - len(self.student)


@checked
def make_example(
    model: LensModel, entity: Entity, sentence: str, *, where: Where = "after_mention"
) -> DistillationExample | Unfit:
    """A sentence with the entity's definition before it for the teacher, and alone for the student.

    Args:
        model: whose tokenizer and context.
        entity: with its definition; an empty one gives the teacher nothing that the student lacks.
        sentence: about it.
        where: "after_mention": teach predictions of tokens that begin behind the first mention of the entity: what stands
            before says nothing of it (Padmanabhan et al. 2023). "all": of all tokens that both read alike, whether or not the
            sentence mentions the entity.

    Returns:
        The lesson, or why there is none: the sentence does not mention the entity, it has no token to be taught, or definition
        and sentence are longer than the context.
    """
    begin = entity.mention_end(sentence) if where == "after_mention" else 0
    if begin is None:
        return "no mention"
    teacher = model.encode(behind(entity.definition, sentence))
    student = model.encode(sentence)
    if len(teacher) > model.n_ctx:
        return "too long"
    # Behind a definition the first word of a sentence may be another token than at the beginning of a text.
    alike = next((n for n, (a, b) in enumerate(zip(teacher[::-1], student[::-1])) if a != b), min(len(teacher), len(student)))
    first = max(len(student) - alike, 1)
    if where == "after_mention":
        first = max(first, tokens_before(model, sentence, begin))
    targets = tuple(range(first, len(student)))
    return DistillationExample(entity.key, tuple(teacher), tuple(student), targets) if targets else "nothing to teach"


def text_example(model: LensModel, key: str, text: str) -> DistillationExample | None:
    """A text that the student is to predict, token after token."""
    tokens = tuple(model.encode(text))
    if len(tokens) > model.n_ctx:
        raise LensFVError(f"teach {model.name} about {key}: a text has {len(tokens)} tokens, it reads {model.n_ctx} at most")
    return DistillationExample(key, tokens, tokens, tuple(range(1, len(tokens)))) if len(tokens) > 1 else None


def tokens_before(model: LensModel, text: str, place: int) -> int:
    """How many of a text's tokens begin before a place, an index of characters; blanks in front of a word do not count."""
    starts = [a + len(text[a:b]) - len(text[a:b].lstrip()) for a, b in token_spans(model, text)]
    inside = next((i for i, start in enumerate(starts) if start >= place), len(starts))
    return inside + model.prepend_bos
