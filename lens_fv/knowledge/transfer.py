"""Sentences about entities on which a model is taught."""

import dataclasses
import json
import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lens_fv.core.artefact import Provenance, as_tuples
from lens_fv.core.choices import Natural, Seed, checked
from lens_fv.core.display import summary_text
from lens_fv.core.files import write_whole
from lens_fv.core.json_files import parse_json, record, validated
from lens_fv.core.texts import nfc, read_text
from lens_fv.errors import LensFVError
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.examples import Where
from lens_fv.knowledge.readers import read_rows

KIND = "TransferSet"
DROPPED = ("empty", "no mention", "duplicate")


@dataclass(frozen=True, repr=False)
class TransferSet:
    """Sentences by the key of the entity that they are about.

    Attributes:
        sentences: by entity, in the order in which they were written.
        dropped: how many were left out: "empty", "no mention" of the entity, "duplicate".
        provenance: of the model that wrote them; None: they are from a file.
    """

    sentences: Mapping[str, tuple[str, ...]]
    dropped: Mapping[str, int] = field(default_factory=dict)
    provenance: Provenance | None = None

    def __len__(self) -> int:
        return sum(map(len, self.sentences.values()))

    def __repr__(self) -> str:
        return summary_text(KIND, self.summary())

    def summary(self) -> dict[str, str]:
        """What a reader wants to know first, label by label."""
        written = f"{self.provenance.model}, seed {self.provenance.seed}" if self.provenance else "a file"
        dropped = ", ".join(f"{n} {what}" for what, n in self.dropped.items() if n) or "none"
        return {"entities": str(len(self.sentences)), "sentences": str(len(self)), "from": written, "dropped": dropped}

    @checked
    def with_definitions(self, entities: Sequence[Entity], *, times: Natural = 1) -> "TransferSet":
        """The same, and each entity's definition among its sentences, so many times.

        What a model writes need not hold all of a definition. To say the definition behind the definition is to copy it: a
        teacher that does so is sure of every word.

        Args:
            entities: whose definitions; those that do not mention their entity are left out.
            times: how often.

        Raises:
            LensFVError: `times` is below 0.
        """
        if times < 0:
            raise LensFVError(f"teach definitions {times} times: 0 or more")
        found = dict(self.sentences)
        for entity in entities:
            if not unfit(entity.definition, entity, ()):
                found[entity.key] = (*found.get(entity.key, ()), *[entity.definition] * times)
        return dataclasses.replace(self, sentences=found)

    @checked
    def with_shared(self, entities: Sequence[Entity], *, n: Natural, seed: Seed = 0) -> "TransferSet":
        """The same, and of the sentences about all other entities so many said of each one too.

        Of entities that are taught at once the same sentence is to be gone on with in different ways: what tells them apart
        is taught.

        Args:
            entities: who shares; one alone has nothing to be given.
            n: how many each gets, or as many as there are.
            seed: of the draw.

        Raises:
            LensFVError: `n` is below 0.
        """
        if n < 0:
            raise LensFVError(f"share {n} sentences: 0 or more")
        rng, found = random.Random(seed), dict(self.sentences)
        pairs = [(other, text) for other in entities for text in self.sentences.get(other.key, ())]
        for entity in entities:
            texts = list(self.sentences.get(entity.key, ()))
            most = len(texts) + n
            for other, text in rng.sample(pairs, len(pairs)):
                if len(texts) == most:
                    break
                if other.key != entity.key and not unfit(said := other.renamed(text, entity.name), entity, texts):
                    texts.append(said)
            found[entity.key] = tuple(texts)
        return dataclasses.replace(self, sentences=found)

    def save(self, path: str | Path) -> Path:
        """Write to `path` (JSON). The file appears whole or not at all.

        Raises:
            LensFVError: the folder cannot be written to.
        """
        return write_whole(Path(path), json.dumps({"kind": KIND, **dataclasses.asdict(self)}, indent=1, ensure_ascii=False))


@checked
def load_transfer_set(path: str | Path, *, where: Where = "after_mention") -> TransferSet:
    """Read sentences from a file: one that `TransferSet.save` wrote, or JSON lines of entities that come with sentences.

    JSON lines are those of `read_entities`, with a list "sentences" in each; rows of Entity Inferences bring their own.
    Sentences that do not mention their entity, and those that are there already, are dropped and counted.

    Args:
        path: of the file.
        where: the tokens that are to be taught: "all" keeps sentences that do not mention their entity.

    Raises:
        LensFVError: neither, or there is no sentence in it.
    """
    path = Path(path)
    text = read_text(path, "sentences: a saved TransferSet, or JSON lines of entities with sentences")
    if (saved := parse_transfer_set(text, path)) is not None:
        return saved
    rows = [(row.entity, row.sentences) for _, row in read_rows(path)]
    dropped: Counter[str] = Counter()
    found: dict[str, list[str]] = {}
    for entity, sentences in rows:
        kept = found.setdefault(entity.key, [])
        for sentence in sentences:
            if reason := unfit(sentence, entity, kept, where):
                dropped[reason] += 1
            else:
                kept.append(sentence)
    if not any(found.values()):
        wanted = "a sentence that mentions its entity" if where == "after_mention" else "a sentence"
        raise LensFVError(f"{path}: none of its {len(rows)} lines has {wanted}")
    return TransferSet({key: tuple(texts) for key, texts in found.items()}, {what: dropped[what] for what in DROPPED})


def parse_transfer_set(text: str, path: Path) -> TransferSet | None:
    """What `TransferSet.save` wrote; None: it is something else.

    Raises:
        LensFVError: it is damaged.
    """
    where = f"read saved sentences in {path}"
    if KIND not in text or not text.rstrip().endswith("}"):
        return None
    try:
        found = parse_json(text, where)
    except LensFVError:
        if text.lstrip().split("\n", 1)[0].rstrip().endswith("}"):  # several values: lines
            return None
        raise
    if not isinstance(found, dict) or found.get("kind") != KIND:
        return None
    about = found.get("provenance")
    said = record(TransferSet, {key: value for key, value in found.items() if key not in ("kind", "provenance")}, where)
    made = Provenance(**as_tuples(record(Provenance, validated(about, dict, where), where))) if about else None
    return TransferSet(**said, provenance=made)


def check_keys(entities: Sequence[Entity]) -> None:
    """Complain about entities that cannot be told apart.

    Raises:
        LensFVError: none at all, or two of one key.
    """
    twice = [key for key, times in Counter(entity.key for entity in entities).items() if times > 1]
    if twice or not entities:
        raise LensFVError(
            f"entities with the keys {', '.join(twice)} more than once; give each a key of its own" if twice else "no entities"
        )


def unfit(sentence: str, entity: Entity, kept: Collection[str], where: Where = "after_mention") -> str:
    """Why a sentence is not to be kept; empty: it is."""
    end = entity.mention_end(sentence) if where == "after_mention" else 0
    if end is None:
        return "no mention" if sentence.strip() else "empty"
    if not re.search(r"\w", sentence[end:]):  # nothing to be taught
        return "empty"
    return "duplicate" if nfc(sentence) in map(nfc, kept) else ""
