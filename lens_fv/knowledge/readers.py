"""Entities included with lens_fv, and files of entities and probes in several schemas."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from lens_fv.core.choices import checked
from lens_fv.core.texts import json_lines, nfc, read_text
from lens_fv.errors import LensFVError
from lens_fv.knowledge.entity import GAP, Entity, EntityProbe, Kind

BUILTIN = ("invented", "popular")
HOLE, END = "<extra_id_0>", "<extra_id_1>"
SCHEMAS = (
    'JSON lines of {"name", "definition", "probes": [{"text", "answer", "candidates", "kind"}]}, or the rows of Entity '
    "Inferences or ECBD"
)


class EntityRow(NamedTuple):
    """One line of a file.

    Attributes:
        entity: Entity with the line's probes.
        sentences: Sentences about the entity, if the line has any (the transfer set of Padmanabhan et al. 2023).
    """

    entity: Entity
    sentences: tuple[str, ...]


@checked
def load_entities(name_or_path: str | Path, *, by: Literal["entity", "row"] = "entity") -> tuple[Entity, ...]:
    """Load built-in entities by name, or entities with their definitions and probes from a file of JSON lines.

    "invented": 50 people, places, devices, events and works that do not exist. Each has four questions that its definition
    answers directly and four that require an inference from it. Without the definition, every candidate is equally plausible.
    "popular": 60 well-known things with two questions each, to test what an update should leave unchanged.

    The schema of files is `{"name", "definition", "aliases", "category", "probes": [{"text", "answer", "candidates",
    "kind"}]}`, with `___` in a probe's text. Rows of Entity Inferences (probes with candidates; explicit if the answer is the
    attribute) and of ECBD (a span of a sentence, without candidates) are recognised by their keys (Onoe et al. 2022, 2023).

    Args:
        name_or_path: Name of a built-in set, or path of a UTF-8 file with one object per line and any extension.
        by: "entity" merges lines with the same name and definition into one entity with all their probes, so that one update
            covers them. "row" makes every line a separate entity, as in the code of Padmanabhan et al. (2023).

    Raises:
        LensFVError: an unknown name, or the file cannot be read; the message names the line and the problem.

    Example:
        >>> len(lens_fv.load_entities('invented'))
        50
    """
    path = Path(name_or_path)
    if name_or_path in BUILTIN:
        path = Path(__file__).with_name("data") / f"{name_or_path}.jsonl"
    elif not path.exists() and not path.suffix and len(path.parts) == 1:
        raise LensFVError(
            f"unknown entities {str(path)!r}: built in are {' and '.join(BUILTIN)}; your own are the path of a file"
        )
    entities: dict[tuple[str, ...], Entity] = {}
    for location, row in parse_rows(path):
        entity = row.entity
        identity = (nfc(entity.name), nfc(entity.definition), *([location] if by == "row" else []))
        if identity in entities:
            entity = replace(entities[identity], probes=entities[identity].probes + entity.probes)
        entities[identity] = entity
    names: Counter[str] = Counter()
    keyed: list[Entity] = []
    for entity in entities.values():
        name = nfc(entity.name)
        names[name] += 1
        keyed.append(entity if names[name] == 1 else replace(entity, key=f"{entity.name}#{names[name]}"))
    return tuple(keyed)


def parse_rows(path: Path) -> Iterator[tuple[str, EntityRow]]:
    """Yield the lines of an entity file with their locations; see `load_entities`."""
    for location, item in json_lines(read_text(path, f"entities: {SCHEMAS}"), path):
        if not isinstance(item, dict):
            raise LensFVError(f"{location}: expected an object, found {json.dumps(item)[:40]}; entities are {SCHEMAS}")
        row = cast(dict[str, Any], item)
        if {"ent_str", "name"} <= row.keys():
            raise LensFVError(f"{location}: the entity can be ent_str or name; leave one out")
        try:
            yield location, _published_row(row, location) if "ent_str" in row else _own_row(row, location)
        except KeyError as error:
            raise LensFVError(f"{location}: no {error}; entities are {SCHEMAS}") from None
        except (TypeError, AttributeError, ValueError) as error:
            raise LensFVError(f"{location}: not as entities are written ({error}); entities are {SCHEMAS}") from None
        except LensFVError as error:
            raise LensFVError(f"{location}: {error}") from None


def _own_row(row: Mapping[str, Any], location: str) -> EntityRow:
    probes = tuple(
        EntityProbe(
            text=_text(probe["text"]),
            answer=_text(probe["answer"]),
            candidates=_texts(probe.get("candidates", [])),
            kind=cast(Kind, probe.get("kind", "")),
            where=location,
        )
        for probe in row.get("probes", [])
    )
    entity = Entity(
        name=_text(row["name"]),
        definition=_text(row["definition"]),
        aliases=_texts(row.get("aliases", [])),
        category=_text(row.get("category", "")),
        probes=probes,
    )
    return EntityRow(entity, _texts(row.get("sentences", [])))


def _published_row(row: Mapping[str, Any], location: str) -> EntityRow:
    """Parse a row of Entity Inferences or ECBD, removing only complete markers so that names keep all their letters."""
    definition = row.get("context") or row["definition"].replace(HOLE, _unmarked(row["def_target"]))
    probes: list[EntityProbe] = []
    for probe in row["probe_sentences"].values():
        text = probe["probe_sentence"].replace(HOLE, GAP)
        if "labels" in probe:
            kind: Kind = "explicit" if row["label"] == row["attribute"] else "inferential"
            candidates = tuple(_unmarked(label) for label in probe["labels"])
            probes.append(EntityProbe(text, row["label"], candidates, kind, location))
        else:
            probes.append(EntityProbe(text, _unmarked(probe["label"]), where=location))
    entity = Entity(row["ent_str"], definition, category=_text(row["category"]), probes=tuple(probes))
    return EntityRow(entity, _texts(row.get("augmented_probes", [])))


def _unmarked(text: str) -> str:
    return re.sub(rf"^{HOLE}|{END}$", "", text).strip()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {json.dumps(value)[:40]}")
    return value.strip()


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list of texts, found {json.dumps(value)[:40]}")
    return tuple(_text(text) for text in cast(list[Any], value))
