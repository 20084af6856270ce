"""Tasks: relations as word pairs."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from lens_fv.core.files import write_atomically
from lens_fv.errors import LensFVError


@dataclass(frozen=True)
class Pair:
    """One input and its acceptable outputs, the most common first.

    Raises:
        LensFVError: empty text, or no output.

    Example:
        >>> lens_fv.Pair('hot', ('cold', 'cool')).output
        'cold'
    """

    input: str
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.outputs, str):
            # A string is a sequence too, so every letter would silently become an acceptable answer.
            raise LensFVError(f"pair {self.input!r}: outputs is the text {self.outputs!r}; give a tuple of texts")
        if not self.input.strip():
            raise LensFVError(f"pair with the outputs {list(self.outputs)}: its input is empty")
        if not self.outputs or not all(output.strip() for output in self.outputs):
            raise LensFVError(f"pair {self.input!r}: it needs outputs that are not empty, found {list(self.outputs)}")

    @property
    def output(self) -> str:
        """Primary output, shown in demonstrations."""
        return self.outputs[0]


@dataclass(frozen=True, repr=False)
class Task:
    """Word pairs that share one relation.

    Attributes:
        name: Name in reports and artefacts.
        pairs: One or more pairs; file readers merge repeated inputs.
        relation_words: Words that name the relation, ranked when a vector is decoded.
        instructions: Paraphrases that ask for the relation.
        clozes: Sentences about `{input}` that the output completes, as queries without an instruction.
        group, family: Relation type at two levels, such as "morphology" and "inflection".
        languages: Languages of inputs and outputs; "-" for none.
        source, licence: Origin and licence of the pairs.

    Raises:
        LensFVError: no pair, or an empty text.

    Example:
        >>> task = lens_fv.Task('opposites', (lens_fv.Pair('hot', ('cold',)), lens_fv.Pair('big', ('small',))))
        >>> len(task)
        2
    """

    _MADE_BY: ClassVar[str] = "load_task"

    name: str
    pairs: tuple[Pair, ...]
    relation_words: tuple[str, ...] = ()
    instructions: tuple[str, ...] = ()
    clozes: tuple[str, ...] = ()
    group: str = ""
    family: str = ""
    languages: tuple[str, ...] = ()
    source: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise LensFVError(f"task of {len(self.pairs)} pairs: it has no name; give it one")
        if not self.pairs:
            raise LensFVError(f"task {self.name!r} has no pairs; it needs at least one")
        if not all(text.strip() for text in self.relation_words + self.instructions):
            raise LensFVError(f"task {self.name!r} has an empty relation word or instruction; leave it out")
        for cloze in self.clozes:
            if "{input}" not in cloze or cloze[-1].isspace():
                raise LensFVError(f"task {self.name!r}: cloze {cloze!r} needs {{input}} in it and no blank at its end")

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        count = f"{len(self)} pair{'s' * (len(self) != 1)}"
        kind = "".join(f", {level}" for level in (self.group, self.family) if level)
        return f"Task({self.name}: {count}{kind}, {self.pairs[0].input!r} -> {self.pairs[0].output!r})"

    @property
    def fingerprint(self) -> str:
        """Hash of the pairs (16 hexadecimal digits), independent of their order and the task's name."""
        rows = sorted([pair.input, *pair.outputs] for pair in self.pairs)
        content = json.dumps([rows, self.relation_words, self.instructions])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def majority(self) -> tuple[str, float]:
        """Most frequent primary output and its share of the pairs, the accuracy of a constant answer."""
        label, count = Counter(pair.output for pair in self.pairs).most_common(1)[0]
        return label, count / len(self)

    def save(self, path: str | Path) -> Path:
        """Write the task as a file that `load_task` reads, in the format of the built-in relations.

        Raises:
            LensFVError: The file cannot be written.
        """
        about = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "pairs"}
        content = {key: value for key, value in about.items() if value}
        content["pairs"] = [{"input": pair.input, "output": pair.outputs} for pair in self.pairs]
        return write_atomically(Path(path), json.dumps(content, ensure_ascii=False, indent=1) + "\n")
