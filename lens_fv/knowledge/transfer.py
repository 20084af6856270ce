"""Transfer sets: sentences about entities that a model is trained on."""

import dataclasses
import json
import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Natural, Seed, checked
from lens_fv.core.display import Displayed
from lens_fv.core.files import write_atomically
from lens_fv.core.json_files import parse_json, record
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.core.texts import nfc, read_text
from lens_fv.errors import LensFVError
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.examples import TargetTokens
from lens_fv.knowledge.readers import parse_rows

KIND = "TransferSet"
DROPPED = ("empty", "no mention", "duplicate")


@dataclass(frozen=True, repr=False)
class TransferSet(Displayed):
    """Training sentences, keyed by the entity they are about.

    Attributes:
        sentences: Sentences by entity key, in the order in which they were generated.
        dropped: Number of rejected sentences by reason: "empty", "no mention" (of the entity), "duplicate".
        provenance: Provenance of generated sentences; None if they come from a file.
    """

    sentences: Mapping[str, tuple[str, ...]]
    dropped: Mapping[str, int] = field(default_factory=dict)
    provenance: Provenance | None = None

    def __len__(self) -> int:
        return sum(map(len, self.sentences.values()))

    def to_dataframe(self) -> DataFrame:
        """One row per sentence."""
        return data_frame({"entity": key, "sentence": text} for key, texts in self.sentences.items() for text in texts)

    def summary(self) -> dict[str, str]:
        """Return the key facts by label."""
        source = f"{self.provenance.model}, seed {self.provenance.seed}" if self.provenance else "a file"
        dropped = ", ".join(f"{n} {reason}" for reason, n in self.dropped.items() if n) or "none"
        return {"entities": str(len(self.sentences)), "sentences": str(len(self)), "from": source, "dropped": dropped}

    @checked
    def with_definitions(self, entities: Sequence[Entity], *, n_copies: Natural = 1) -> "TransferSet":
        """Add each entity's definition to its sentences, a given number of times.

        Generated sentences need not cover the whole definition. Given the definition in context, the teacher predicts its
        repetition by copying, with near certainty for every word.

        Args:
            entities: Entities with their definitions. Definitions that do not mention their entity are left out.
            n_copies: Number of copies of each definition.

        Raises:
            LensFVError: `n_copies` is negative.
        """
        sentences = dict(self.sentences)
        for entity in entities:
            if not rejection(entity.definition, entity, ()):
                sentences[entity.key] = (*sentences.get(entity.key, ()), *[entity.definition] * n_copies)
        return dataclasses.replace(self, sentences=sentences)

    @checked
    def with_shared(self, entities: Sequence[Entity], *, n: Natural, seed: Seed = 0) -> "TransferSet":
        """Rewrite sentences about the other entities for each entity, and add up to `n` of them to its sentences.

        When entities are taught together, the same words then need different continuations, so the model must attend to the
        entity's name.

        Args:
            entities: Entities that share sentences. A single entity gets none.
            n: Maximum number of shared sentences per entity.
            seed: Seed of the random draw.
        """
        rng, sentences = random.Random(seed), dict(self.sentences)
        pairs = [(other, text) for other in entities for text in self.sentences.get(other.key, ())]
        for entity in entities:
            texts = list(self.sentences.get(entity.key, ()))
            limit = len(texts) + n
            for other, text in rng.sample(pairs, len(pairs)):
                if len(texts) == limit:
                    break
                rewritten = other.renamed(text, entity.name)
                if other.key != entity.key and not rejection(rewritten, entity, texts):
                    texts.append(rewritten)
            sentences[entity.key] = tuple(texts)
        return dataclasses.replace(self, sentences=sentences)

    def save(self, path: str | Path) -> Path:
        """Write the transfer set to `path` as JSON, atomically.

        Raises:
            LensFVError: the folder is not writable.
        """
        return write_atomically(
            Path(path), json.dumps({"kind": KIND, **dataclasses.asdict(self)}, indent=1, ensure_ascii=False)
        )


@checked
def load_transfer_set(path: str | Path, *, target_tokens: TargetTokens = "after_mention") -> TransferSet:
    """Load sentences from a file saved by `TransferSet.save`, or from JSON lines of entities with sentences.

    JSON lines follow the format of `load_entities` with an extra list "sentences"; rows of Entity Inferences have their own.
    Sentences that do not mention their entity and duplicates are dropped and counted.

    Args:
        path: File to read.
        target_tokens: Tokens to be trained on; "all" keeps sentences that do not mention their entity.

    Raises:
        LensFVError: the file has neither format, or contains no usable sentence.

    Example:
        >>> transfer = lens_fv.knowledge.TransferSet({'velm': ('In Velm it rains.',)})
        >>> lens_fv.knowledge.load_transfer_set(transfer.save(folder / 'transfer.json')).sentences
        {'velm': ('In Velm it rains.',)}
    """
    path = Path(path)
    text = read_text(path, "sentences: a saved TransferSet, or JSON lines of entities with sentences")
    if (saved := parse_transfer_set(text, path)) is not None:
        return saved
    rows = [row for _, row in parse_rows(path)]
    dropped: Counter[str] = Counter(dict.fromkeys(DROPPED, 0))
    sentences: dict[str, list[str]] = {}
    for row in rows:
        texts = sentences.setdefault(row.entity.key, [])
        for text in row.sentences:
            if reason := rejection(text, row.entity, texts, target_tokens):
                dropped[reason] += 1
            else:
                texts.append(text)
    if not any(sentences.values()):
        needed = "a sentence that mentions its entity" if target_tokens == "after_mention" else "a sentence"
        raise LensFVError(f"{path}: none of its {len(rows)} lines has {needed}")
    return TransferSet({key: tuple(texts) for key, texts in sentences.items()}, dict(dropped))


def parse_transfer_set(text: str, path: Path) -> TransferSet | None:
    """Parse the output of `TransferSet.save`; return None for any other format, and raise an error for a damaged file."""
    context = f"read saved sentences in {path}"
    if KIND not in text or not text.rstrip().endswith("}"):
        return None
    try:
        values = parse_json(text, context)
    except LensFVError:
        if text.lstrip().split("\n", 1)[0].rstrip().endswith("}"):  # several values: lines
            return None
        raise
    if not isinstance(values, dict) or values.get("kind") != KIND:
        return None
    provenance = values.get("provenance")
    fields = {key: value for key, value in values.items() if key not in ("kind", "provenance")}
    transfer_set = record(TransferSet, fields, context)
    return (
        dataclasses.replace(transfer_set, provenance=Provenance.from_json(provenance, context)) if provenance else transfer_set
    )


def check_keys(entities: Sequence[Entity]) -> None:
    """Check that the list of entities is not empty and that keys are unique."""
    if not entities:
        raise LensFVError("no entities: give at least one")
    duplicates = [key for key, n in Counter(entity.key for entity in entities).items() if n > 1]
    if duplicates:
        raise LensFVError(f"entities with the keys {', '.join(duplicates)} more than once; give each a key of its own")


def rejection(sentence: str, entity: Entity, others: Collection[str], target_tokens: TargetTokens = "after_mention") -> str:
    """Return why a sentence is unusable, or an empty string if it is usable; `others` are the entity's other sentences."""
    mention = entity.mention(sentence) if target_tokens == "after_mention" else (0, 0)
    if mention is None:
        return "no mention" if sentence.strip() else "empty"
    if not re.search(r"\w", sentence[mention[1] :]):  # no words to train on
        return "empty"
    return "duplicate" if nfc(sentence) in map(nfc, others) else ""
