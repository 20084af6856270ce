"""Read files of entities and probes in several schemas, with errors that name the offending line."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from lens_fv.core.choices import checked
from lens_fv.core.texts import json_lines, nfc, read_text
from lens_fv.errors import LensFVError
from lens_fv.knowledge.entity import GAP, Entity, EntityProbe, Kind

HOLE, END = "<extra_id_0>", "<extra_id_1>"
SCHEMAS = (
    'JSON lines of {"name", "definition", "probes": [{"text", "answer", "candidates", "kind"}]}, or the rows of Entity '
    "Inferences or ECBD"
)


class EntityRow(NamedTuple):
    """One line of a file.

    Attributes:
        entity: entity with the line's probes.
        sentences: sentences about the entity, if the line has any (the transfer set of Padmanabhan et al. 2023).
    """

    entity: Entity
    sentences: tuple[str, ...]


@checked
def parse_entities(path: str | Path, *, by: Literal["entity", "row"] = "entity") -> tuple[Entity, ...]:
    """Read entities with their definitions and probes from JSON lines.

    Our schema is `{"name", "definition", "aliases", "category", "probes": [{"text", "answer", "candidates", "kind"}]}`, with
    `___` in a probe's text. Rows of Entity Inferences (probes with candidates; explicit if the answer is the attribute) and of
    ECBD (a span of a sentence, without candidates) are recognised by their keys (Onoe et al. 2022, 2023).

    Args:
        path: UTF-8 file with one object per line; any file extension works.
        by: "entity" merges lines with the same name and definition into one entity with all their probes, so that one update
            covers them. "row" makes every line a separate entity, as in the code of Padmanabhan et al. (2023).

    Raises:
        LensFVError: the file cannot be read; the message names the line and the problem.
    """
    found: dict[tuple[str, ...], Entity] = {}
    for where, row in parse_rows(path):
        one = row.entity
        at = (nfc(one.name), nfc(one.definition), *([where] if by == "row" else []))
        found[at] = replace(found[at], probes=found[at].probes + one.probes) if at in found else one
    return tuple(_with_keys(found.values()))


def parse_rows(path: str | Path) -> Iterator[tuple[str, EntityRow]]:
    """Yield the lines of an entity file with their locations; see `load_entities`."""
    path = Path(path)
    for where, item in json_lines(read_text(path, f"entities: {SCHEMAS}"), path):
        if not isinstance(item, dict):
            raise LensFVError(f"{where}: expected an object, found {json.dumps(item)[:40]}; entities are {SCHEMAS}")
        row = cast(dict[str, Any], item)
        if {"ent_str", "name"} <= row.keys():
            raise LensFVError(f"{where}: the entity can be ent_str or name; leave one out")
        try:
            yield where, _published_row(row, where) if "ent_str" in row else _row(row, where)
        except KeyError as error:
            raise LensFVError(f"{where}: no {error}; entities are {SCHEMAS}") from None
        except (TypeError, AttributeError, ValueError) as error:
            raise LensFVError(f"{where}: not as entities are written ({error}); entities are {SCHEMAS}") from None
        except LensFVError as error:
            raise LensFVError(f"{where}: {error}") from None


def _row(row: Mapping[str, Any], where: str) -> EntityRow:
    probes = tuple(
        EntityProbe(
            text=_text(probe["text"]),
            answer=_text(probe["answer"]),
            candidates=_texts(probe.get("candidates", [])),
            kind=_kind(probe.get("kind", "")),
            where=where,
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


def _published_row(row: Mapping[str, Any], where: str) -> EntityRow:
    """Parse a row of Entity Inferences or ECBD, removing only complete markers so that names keep all their letters."""
    definition = row.get("context") or row["definition"].replace(HOLE, _unmarked(row["def_target"]))
    probes: list[EntityProbe] = []
    for asked in row["probe_sentences"].values():
        text = asked["probe_sentence"].replace(HOLE, GAP)
        if "labels" in asked:
            kind: Kind = "explicit" if row["label"] == row["attribute"] else "inferential"
            candidates = tuple(_unmarked(label) for label in asked["labels"])
            probes.append(EntityProbe(text, row["label"], candidates, kind, where))
        else:
            probes.append(EntityProbe(text, _unmarked(asked["label"]), where=where))
    entity = Entity(row["ent_str"], definition, category=_text(row["category"]), probes=tuple(probes))
    return EntityRow(entity, _texts(row.get("augmented_probes", [])))


def _unmarked(text: str) -> str:
    return re.sub(rf"^{HOLE}|{END}$", "", text).strip()


def _with_keys(entities: Any) -> Iterator[Entity]:
    """Make keys unique where entities share a name."""
    seen: dict[str, int] = {}
    for entity in entities:
        name = nfc(entity.name)
        seen[name] = seen.get(name, 0) + 1
        yield entity if seen[name] == 1 else replace(entity, key=f"{entity.name}#{seen[name]}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is wanted, found {json.dumps(value)[:40]}")
    return value.strip()


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"a list of texts is wanted, found {json.dumps(value)[:40]}")
    return tuple(_text(each) for each in cast(list[Any], value))


def _kind(value: Any) -> Kind:
    if value not in ("explicit", "inferential", ""):
        raise LensFVError(f"a probe is explicit or inferential, found {value!r}")
    return value
