"""Entities with their definitions, and the cloze probes that test what a model knows about them."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from lens_fv.core.choices import Seed, checked
from lens_fv.core.texts import nfc, nfd
from lens_fv.errors import LensFVError
from lens_fv.tasks import Pair, Prompt

GAP = "___"
Kind = Literal["explicit", "inferential", ""]


@checked
@dataclass(frozen=True)
class EntityProbe:
    """A sentence about an entity with a gap.

    Attributes:
        text: Sentence with exactly one gap (`___`).
        answer: Correct filler of the gap.
        candidates: Answer options, including the answer. Without candidates, only the answer's perplexity can be measured.
        kind: "explicit" if the definition states the answer, "inferential" if the answer follows from the definition.
        where: File and line that the probe comes from.

    Raises:
        LensFVError: not exactly one gap, an empty text, or candidates that repeat or lack the answer.
    """

    text: str
    answer: str
    candidates: tuple[str, ...] = ()
    kind: Kind = ""
    where: str = ""

    def __post_init__(self) -> None:
        context = f"probe {self.text[:60]!r}"
        if self.text.count(GAP) != 1:
            raise LensFVError(f"{context}: it has {self.text.count(GAP)} gaps; mark the one place of the answer by {GAP}")
        if not self._parts[0].strip():
            raise LensFVError(f"{context}: it begins with the gap; a model that reads from left to right needs words before it")
        if not all(text.strip() for text in (self.answer, *self.candidates)):
            raise LensFVError(f"{context}: its answer or one of its candidates is empty; found {list(self.candidates)}")
        if self.candidates and (self.answer not in self.candidates or len(set(self.candidates)) < len(self.candidates)):
            raise LensFVError(
                f"{context}: its candidates have to differ and include the answer {self.answer!r}; "
                f"found {list(self.candidates)}"
            )

    @cached_property
    def _parts(self) -> tuple[str, str]:
        before, _, after = self.text.partition(GAP)
        return before, after

    def prompt(self, *, full_sentence: bool = False) -> Prompt:
        """Return the text before the gap as a prompt, with the candidates (or the answer alone) as answers, in order.

        Args:
            full_sentence: Append the rest of the sentence to each answer.
        """
        before, after = self._parts
        text = before.rstrip()
        rest = after if full_sentence else ""
        answers = tuple(f"{before[len(text) :]}{option}{rest}" for option in self.candidates or (self.answer,))
        return Prompt(text=text, answers=answers, demonstrations=(), query=Pair(text, answers))

    @property
    def answer_index(self) -> int:
        """Index of the answer among the candidates; 0 without candidates."""
        return self.candidates.index(self.answer) if self.candidates else 0

    def filled(self) -> str:
        """Return the sentence with the answer in the gap."""
        return self.text.replace(GAP, self.answer)


@dataclass(frozen=True)
class Entity:
    """A named entity and what a model should know about it.

    Attributes:
        name: Name used in sentences.
        definition: Text that the teacher reads; empty for entities that are only probed.
        aliases: Alternative names.
        category: Category, such as "person".
        probes: Probes about the entity.
        key: Unique identifier; default: the name.

    Raises:
        LensFVError: an empty name.

    Example:
        >>> entity = lens_fv.load_entities('invented')[0]
        >>> entity.name in entity.definition
        True
    """

    _MADE_BY: ClassVar[str] = "load_entities"

    name: str
    definition: str
    aliases: tuple[str, ...] = ()
    category: str = ""
    probes: tuple[EntityProbe, ...] = ()
    key: str = ""

    def __post_init__(self) -> None:
        if not all(name.strip() for name in (self.name, *self.aliases)):
            raise LensFVError(f"entity {self.name!r}, also {list(self.aliases)}: a name is empty")
        if not self.key:
            object.__setattr__(self, "key", self.name)

    def __repr__(self) -> str:
        return f"Entity({self.key}: {self.category or 'no category'}, {len(self.probes)} probes, {self.definition[:40]!r})"

    @cached_property
    def _mentions(self) -> re.Pattern[str]:
        """Names as whole words, longer ones first, in any case and in either Unicode normalisation."""
        spellings = {form(name) for name in (self.name, *self.aliases) for form in (str, nfc, nfd)}
        names = sorted(spellings, key=lambda name: (-len(name), name))
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", re.IGNORECASE)

    def mention(self, text: str) -> tuple[int, int] | None:
        """Return the character indices at which the first mention begins and ends, or None if the entity is not mentioned.

        Names match as whole words, in any case and in either Unicode normalisation.
        """
        match = self._mentions.search(text)
        return match.span() if match else None

    def renamed(self, text: str, name: str) -> str:
        """Replace every mention of the entity in a text by another name, capitalised at the start of the text."""
        capitalised = name[0].upper() + name[1:]
        return self._mentions.sub(lambda match: name if match.start() else capitalised, text)


def all_probes(entities: Sequence[Entity]) -> list[tuple[Entity, EntityProbe]]:
    """List every probe with its entity, entity by entity."""
    return [(entity, probe) for entity in entities for probe in entity.probes]


def after_definition(definition: str, text: str) -> str:
    """Put the definition before the text, or return the text alone if the definition is empty."""
    return f"{definition} {text}" if definition else text


@checked
def definitions(entities: Sequence[Entity]) -> dict[str, str]:
    """Return each entity's definition by key, as context for the upper bound.

    Example:
        >>> lens_fv.knowledge.definitions(entities)['Velm']
        'Velm is a city in Norway.'
    """
    return {entity.key: entity.definition for entity in entities}


@checked
def random_definitions(entities: Sequence[Entity], seed: Seed = 0) -> dict[str, str]:
    """Assign each entity another entity's definition, each used once: a control, in context or for distillation.

    Raises:
        LensFVError: fewer than two entities.

    Example:
        >>> swapped = lens_fv.knowledge.random_definitions(entities)
        >>> swapped[entities[0].key] == entities[1].definition
        True
    """
    if len(entities) < 2:
        raise LensFVError("give each entity another one's definition: there is only one entity")
    order = random.Random(seed).sample(entities, len(entities))
    following = [*order[1:], order[0]]  # a random cyclic permutation, so that no entity gets its own definition
    return {entity.key: other.definition for entity, other in zip(order, following, strict=True)}


@checked
def true_sentences(entities: Sequence[Entity]) -> list[str]:
    """Return the sentences of the entities' probes with the gaps filled by the answers.

    Example:
        >>> lens_fv.knowledge.true_sentences(entities)[0]
        'Velm is in Norway.'
    """
    return [probe.filled() for _, probe in all_probes(entities)]


@checked
def majority(entities: Sequence[Entity]) -> float:
    """Compute the accuracy of always giving a question's most frequent answer.

    Probes with the same candidates and kind count as one question. A question with a single probe scores at chance.

    Example:
        >>> lens_fv.knowledge.majority(entities)
        0.5
    """
    questions: dict[tuple[frozenset[str], str], Counter[str]] = {}
    for _, probe in all_probes(entities):
        if probe.candidates:
            questions.setdefault((frozenset(probe.candidates), probe.kind), Counter())[probe.answer] += 1
    n_probes, n_correct = 0, 0.0
    for (candidates, _), answers in questions.items():
        n_probes += answers.total()
        n_correct += max(answers.values()) if answers.total() > 1 else 1 / len(candidates)
    return n_correct / n_probes if n_probes else float("nan")
