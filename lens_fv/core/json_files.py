"""Reading of untrusted JSON: size and depth are limited, and values are validated against the expected types."""

import json
import re
from dataclasses import MISSING, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lens_fv.errors import LensFVError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

R = TypeVar("R")
MAX_BYTES = 1 << 28
MAX_DEPTH = 64
MAX_DIGITS = 19
"""Maximum number of digits of an integer, enough for 64 bits."""


def read_json(path: Path, kind: Any = Any, *, what: str = "", remedy: str = "make it again") -> Any:
    """Read the value in a JSON file.

    Args:
        path: Path of the file.
        kind: Expected type, such as `dict[str, Any]`, checked by pydantic; tuples are lists in the file.
        what: Description of the content for the message, such as "the settings of a run".
        remedy: What to do if the file cannot be read.

    Raises:
        LensFVError: the file is missing, exceeds 256 MB or is not UTF-8, or `parse_json` or `validated` raises.
    """
    context = f"read {what + ' in ' if what else ''}{path}"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise LensFVError(f"{context}: {error.strerror or error}; {remedy}") from error
    if len(data) > MAX_BYTES:
        raise LensFVError(f"{context}: it has more than {MAX_BYTES >> 20} MB; {remedy}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LensFVError(f"{context}: not UTF-8 text; {remedy}") from error
    return validated(parse_json(text, context, remedy=remedy), kind, context, remedy=remedy)


def parse_json(text: str, context: str, *, remedy: str = "make it again") -> Any:
    """Parse a JSON text. NaN and infinities, which Python writes, are accepted.

    Args:
        text: JSON text.
        context: Description of the content and its source, for the message.
        remedy: What to do if the text cannot be read.

    Raises:
        LensFVError: the text is not JSON, repeats a key within an object, nests deeper than 64 levels, or holds an integer
            beyond 64 bits or an unpaired surrogate, which no file can store as text.
    """
    numbers = _bounded if re.search(rf"\d{{{MAX_DIGITS}}}", text) else None
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_int=numbers)
        _check_levels(value)
        if re.search(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]", text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise LensFVError(f"{context}: not valid JSON ({error.msg}, line {error.lineno}); {remedy}") from error
    except RecursionError as error:
        raise LensFVError(f"{context}: not valid JSON (more than {MAX_DEPTH} levels); {remedy}") from error
    except UnicodeEncodeError as error:
        raise LensFVError(f"{context}: not valid JSON (half of a surrogate pair); {remedy}") from error
    except ValueError as error:
        raise LensFVError(f"{context}: not valid JSON ({error}); {remedy}") from error
    return value


def validated(value: Any, kind: Any, context: str, *, remedy: str = "make it again") -> Any:
    """Validate a value read from JSON; lists become tuples where the type asks for it, and nothing else is converted.

    Raises:
        LensFVError: the value has another type; the message gives the place.
    """
    if kind is Any or (kind is dict and isinstance(value, dict)):
        return value
    if kind is dict:
        raise LensFVError(f"{context}: expected an object, found {_brief(value)}; {remedy}")
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        at = ".".join(str(part) for part in first["loc"] if not re.search(r"[\[(]", str(part)))
        raise LensFVError(
            f"{context}: {at + ': ' if at else ''}{first['msg']}, found {_brief(first['input'])}; {remedy}"
        ) from error


def record(kind: type[R], values: Any, context: str, *, remedy: str = "make it again") -> R:
    """A dataclass made of a JSON object, each value of which is validated against the field's annotation.

    Raises:
        LensFVError: the value is no object, or a field is missing, unknown, or has the wrong type.
    """
    values = validated(values, dict, context, remedy=remedy)
    known = {field.name: field for field in fields(cast(Any, kind))}
    missing = [n for n, f in known.items() if n not in values and f.default is MISSING and f.default_factory is MISSING]
    unknown = [n for n in values if n not in known]
    if missing or unknown:
        problem = f"no {', '.join(missing)}" if missing else f"an unknown {_brief(unknown[0])}"
        raise LensFVError(f"{context}: {kind.__name__} with {problem}; {remedy}")
    return kind(**{n: validated(v, known[n].type, f"{context}: {n}", remedy=remedy) for n, v in values.items()})


@lru_cache(maxsize=500)
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {_brief(next(name for name in content if names.count(name) > 1))} twice in one object")
    return content


def _bounded(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS or abs(value := int(digits)) >= 2**63:
        raise ValueError(f"the whole number {_brief(digits)} is too large")
    return value


def _check_levels(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        inside = [container for container in level if type(container) is dict or type(container) is list]
        level = [part for container in inside for part in (container.values() if type(container) is dict else container)]
        if not level:
            return
    raise RecursionError


def _brief(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
