"""What a model is to learn of, and the sentences that ask whether it has."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lens_fv.core.choices import checked
from lens_fv.core.texts import nfc, nfd
from lens_fv.errors import LensFVError
from lens_fv.tasks import Pair, Prompt

GAP = "___"
Kind = Literal["explicit", "inferential", ""]


@checked
@dataclass(frozen=True)
class EntityProbe:
    """A sentence about an entity, with a gap.

    Attributes:
        text: the sentence, with the gap (`___`) once.
        answer: what belongs there.
        candidates: what else could stand there, and the answer; none: the answer's perplexity is all that can be asked.
        kind: "explicit": the definition says it. "inferential": it follows from the definition.
        where: the file and line it is from.

    Raises:
        LensFVError: no gap or several, a text that is empty, or candidates that repeat or lack the answer.
    """

    text: str
    answer: str
    candidates: tuple[str, ...] = ()
    kind: Kind = ""
    where: str = ""

    def __post_init__(self) -> None:
        asked = f"probe {self.text[:60]!r}"
        if self.text.count(GAP) != 1:
            raise LensFVError(f"{asked}: it has {self.text.count(GAP)} gaps; mark the one place of the answer by {GAP}")
        if not self._parts[0].strip():
            raise LensFVError(f"{asked}: it begins with the gap; a model that reads from left to right needs words before it")
        if not all(text.strip() for text in (self.answer, *self.candidates)):
            raise LensFVError(f"{asked}: its answer or one of its candidates is empty; found {list(self.candidates)}")
        if self.candidates and (self.answer not in self.candidates or len(set(self.candidates)) < len(self.candidates)):
            raise LensFVError(
                f"{asked}: its candidates have to differ and hold the answer {self.answer!r}; found {list(self.candidates)}"
            )

    @cached_property
    def _parts(self) -> tuple[str, str]:
        before, _, after = self.text.partition(GAP)
        return before, after

    def prompt(self, *, whole: bool = False) -> Prompt:
        """What stands before the gap, to be gone on with by the candidates (or by the answer alone), in their order.

        Args:
            whole: with the rest of the sentence behind each of them.
        """
        before, after = self._parts
        text = before.rstrip()
        rest = after if whole else ""
        answers = tuple(f"{before[len(text) :]}{filled}{rest}" for filled in self.candidates or (self.answer,))
        return Prompt(text=text, answers=answers, demonstrations=(), query=Pair(text, answers))

    def filled(self, text: str | None = None) -> str:
        """The sentence with the answer, or another text, in its gap."""
        return self.text.replace(GAP, self.answer if text is None else text)


@dataclass(frozen=True)
class Entity:
    """Something with a name, and what is to be known of it.

    Attributes:
        name: as sentences call it.
        definition: what the teacher reads; empty: nothing to be learned.
        aliases: what else it is called.
        category: such as "person".
        probes: sentences that ask about it.
        key: what tells it from others; default: the name.

    Raises:
        LensFVError: a name that is empty.
    """

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

    def mention_end(self, text: str) -> int | None:
        """Where its first mention in a text ends, as an index of characters; None: it is not mentioned."""
        found = self.mention(text)
        return found[1] if found else None

    def mention(self, text: str) -> tuple[int, int] | None:
        """Where its first mention in a text begins and ends, as indices of characters; None: it is not mentioned.

        Names count in any case, in either Unicode normalisation, and as whole words.
        """
        spelt = {form(name) for name in (self.name, *self.aliases) for form in (str, nfc, nfd)}
        names = sorted(spelt, key=lambda name: (-len(name), name))
        found = re.search(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", text, re.IGNORECASE)
        return found.span() if found else None

    def renamed(self, text: str, name: str) -> str:
        """A text about it with another name in every place of its own."""
        begin = 0
        while (place := self.mention(text[begin:])) is not None:
            at, end = begin + place[0], begin + place[1]
            said = name if at else name[0].upper() + name[1:]
            text, begin = text[:at] + said + text[end:], at + len(name)
        return text
