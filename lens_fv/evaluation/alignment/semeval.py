"""Relations with human typicality ratings: SemEval-2012 Task 2."""

import re
from dataclasses import dataclass
from pathlib import Path

from lens_fv.core.choices import checked
from lens_fv.core.texts import read_text
from lens_fv.errors import LensFVError
from lens_fv.tasks import Pair

_RATED = re.compile(r'\s*(-?\d+(?:\.\d+)?)\s+"([^":]+):([^":]+)"\s*')


@dataclass(frozen=True, repr=False)
class RatedRelation:
    """A relation with the human-rated typicality of its pairs.

    Attributes:
        name: Identifier, such as "1a".
        group, family: Class and sub-category, such as "CLASS-INCLUSION" and "Taxonomic".
        examples: Unrated pairs that define the relation.
        pairs: Rated pairs, many of them in both directions with different ratings.
        typicality: Rating of each pair; comparable within the relation only.
        definition: Definition in words.

    Raises:
        LensFVError: no examples, fewer than three rated pairs, or constant ratings.
    """

    name: str
    group: str
    family: str
    examples: tuple[Pair, ...]
    pairs: tuple[Pair, ...]
    typicality: tuple[float, ...]
    definition: str = ""

    def __post_init__(self) -> None:
        if not self.examples or len(self.pairs) < 3 or len(self.pairs) != len(self.typicality):
            counts = f"{len(self.examples)} examples, {len(self.pairs)} pairs, {len(self.typicality)} ratings"
            raise LensFVError(f"rated relation {self.name}: {counts}; it takes an example, three pairs and a rating for each")
        if len(set(self.typicality)) < 2:
            raise LensFVError(f"rated relation {self.name}: all ratings are {self.typicality[0]:g}; they order nothing")

    def __repr__(self) -> str:
        return f"RatedRelation({self.name}, {self.group}: {self.family}, {len(self.pairs)} rated pairs)"


@checked
def load_semeval(folder: str | Path) -> list[RatedRelation]:
    """Read the relations of SemEval-2012 Task 2 with their typicality ratings (Jurgens et al. 2012).

    Reads `subcategories-paradigms.txt`, `subcategories-definitions.txt` (if present) and
    `Phase2AnswersScaled/Phase2Answers-ID.txt`. A score is the percentage of raters who chose a pair as the most illustrative
    minus the percentage who chose it as the least. The files are sorted by score; here pairs are sorted alphabetically, so that
    taking the first ones does not select by rating.

    Args:
        folder: Folder that contains these files.

    Raises:
        LensFVError: a missing file or a malformed line; the message names file and line.

    Example:
        >>> relations = lens_fv.evaluation.alignment.load_semeval('SemEval-2012-Task-2')  # doctest: +SKIP
    """
    folder = Path(folder)
    definitions = folder / "subcategories-definitions.txt"
    definition_of = {name: text for _, name, _, _, text in _listed(definitions)} if definitions.is_file() else {}
    relations: list[RatedRelation] = []
    for location, name, group, family, text in _listed(folder / "subcategories-paradigms.txt"):
        examples = tuple(_pair(location, *example.split(":")) for example in text.split(","))
        rated = _rated(folder / "Phase2AnswersScaled" / f"Phase2Answers-{name}.txt")
        pairs = sorted(rated, key=lambda pair: (pair.input, pair.output))
        typicality = tuple(rated[pair] for pair in pairs)
        try:
            definition = definition_of.get(name, "")
            relations.append(RatedRelation(name, group, family, examples, tuple(pairs), typicality, definition))
        except LensFVError as error:
            raise LensFVError(f"{location}: {error}") from None
    return relations


def _listed(path: Path) -> list[tuple[str, str, str, str, str]]:
    """List location, name, class, title and remaining text of each sub-category."""
    rows: list[tuple[str, str, str, str, str]] = []
    for location, line in _lines(path):
        number, letter, group, family, rest = (cell.strip() for cell in (line + 4 * ",").split(",", 4))
        name = number + letter
        if not all((number, letter, group, family, rest.strip(", "))):
            raise LensFVError(f"{location}: expected class number, letter, class, sub-category and more, parted by commas")
        if any(row[1] == name for row in rows):
            raise LensFVError(f"{location}: sub-category {name} is listed twice")
        rows.append((location, name, group, family, rest.rstrip(", ")))
    return rows


def _rated(path: Path) -> dict[Pair, float]:
    rated: dict[Pair, float] = {}
    for location, line in _lines(path):
        row = _RATED.fullmatch(line)
        if row is None:
            raise LensFVError(
                f'{location}: expected a score and a pair such as 47.1 "weapon:spear", found {line.strip()[:40]!r}'
            )
        pair = _pair(location, row[2], row[3])
        if pair in rated:
            raise LensFVError(f"{location}: {pair.input}:{pair.output} is rated twice")
        rated[pair] = float(row[1])
    return rated


def _lines(path: Path) -> list[tuple[str, str]]:
    text = read_text(path, "the files of SemEval-2012 Task 2")
    numbered = [(f"{path}, line {i}", line) for i, line in enumerate(text.splitlines(), 1)]
    return [(location, line) for location, line in numbered if line.strip() and not line.startswith("#")]


def _pair(location: str, *words: str) -> Pair:
    if len(words) != 2 or not all(word.strip() for word in words):
        raise LensFVError(f"{location}: {':'.join(words)!r} is not a pair X:Y")
    return Pair(words[0].strip(), (words[1].strip(),))
