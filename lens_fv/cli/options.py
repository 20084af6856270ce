"""How options are written on the command line: types, help texts, and values from texts."""

import importlib
import inspect
import operator
import re
from collections.abc import Collection, Iterator, Sequence
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, cast, get_args, get_origin  # noqa: TID251

from cyclopts import Parameter

from lens_fv.cli.signatures import Option
from lens_fv.core.choices import wrong_value
from lens_fv.errors import LensFVError

NONE = "none"
"""How None is written where it is not the default."""


class Loaded(NamedTuple):
    """Mark of a parameter that is named on the command line and loaded before the command runs.

    Attributes:
        path: The function that loads it, as "module:name".
        text: Type of the name.
        default: Name that is loaded if none is given.
    """

    path: str
    text: Any = Path
    default: Any = inspect.Parameter.empty

    def load(self, name: Any) -> Any:
        """Load what a name stands for; each of several names."""
        if name is None:
            return None
        if isinstance(name, tuple):
            return tuple(self.load(single) for single in cast(tuple[Any, ...], name))
        module, _, function = self.path.partition(":")
        return operator.attrgetter(function)(importlib.import_module(module))(name)


def option_parameter(option: Option, kind: Any, options: Collection[str]) -> inspect.Parameter:
    """Describe an option to the parser: its type and range, its help text and how its default is shown."""
    flag = _flag(option.name) if kind is inspect.Parameter.KEYWORD_ONLY else option.name.upper()
    kind_of_text = text_type(option.annotation, option.default)
    types = list(_parts(kind_of_text))

    def check(_: Any, value: Any) -> None:
        if wrong := wrong_value(option.annotation, option_value(value, option)):
            raise LensFVError(f"{flag} {_shown(value)}: {wrong}")

    about = Parameter(
        help=_help_text(option.help, options).replace("None", NONE if _can_be_none(option) else "None"),
        negative=f"--no-{flag[2:]}" if option.default is True else (),
        show_default=_shown(option.default) or False,
        validator=check,
        converter=_whole_numbers if int in types or list[int] in types else None,
    )
    return inspect.Parameter(option.name, kind, default=option.default, annotation=Annotated[(kind_of_text, about)])


def _whole_numbers(kind: Any, tokens: Sequence[Any]) -> Any:
    """Convert what is written to whole numbers; what is none (cyclopts would round it) is left to the check of the range."""
    values = [int(token.value) if re.fullmatch(r"[+-]?\d+", token.value) else token.value for token in tokens]
    return values if list[int] in _parts(kind) else values[0]


def _help_text(text: str, options: Collection[str]) -> str:
    """Write a docstring's text for the command line: options by their flags, without pointers to functions."""
    text = re.sub(r"[.;,]? ?\(?\b[Ss]ee `[\w.]+`\)?", "", text).lstrip(". ")
    text = re.sub(r"`([\w.]+)`", lambda word: _flag(word[1]) if word[1] in options else word[1], text)
    return text[:1].upper() + text[1:]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(value: Any) -> str:
    """How a value is written on the command line; empty for a default that needs no mention."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    if value is None or isinstance(value, bool) or value is inspect.Parameter.empty:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def option_value(value: Any, option: Option) -> Any:
    """What a function receives for a value of the command line."""
    if isinstance(value, list):
        return tuple(value)
    return None if value == NONE and _can_be_none(option) else value


def _can_be_none(option: Option) -> bool:
    """Whether None is written out, because it is not the default."""
    return option.default is not None and NoneType in _parts(option.annotation)


def text_type(annotation: Any, default: Any) -> Any:
    """The type of what is written on the command line; None if there is no way to write it."""
    types = list(_parts(annotation))
    words = [word for kind in types if get_origin(kind) is Literal for word in get_args(kind)]
    accepted: list[Any] = [Literal[tuple(words)]] if words else []
    accepted += [kind for kind in types if kind in (int, float, str, bool, Path)]
    sequences = [kind for kind in types if isinstance(origin := get_origin(kind), type) and issubclass(origin, Sequence)]
    if sequences:
        item = text_type(get_args(sequences[0])[0], ...)
        accepted = [] if item is None else [list[item]]
    if not accepted:
        return None
    if default is None:
        accepted.append(NoneType)
    elif NoneType in types:
        accepted.insert(0, Literal[NONE])
    return Union[tuple(accepted)]  # noqa: UP007 - made of what there is


def _parts(annotation: Any) -> Iterator[Any]:
    """The members of a union, without bounds; a path of any kind is a `Path`, and what is loaded is written as its name."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _parts(member)
    elif origin is Annotated:
        names = [mark.text for mark in annotation.__metadata__ if isinstance(mark, Loaded)]
        yield from _parts(names[0] if names else annotation.__origin__)
    else:
        yield Path if origin is PathLike else annotation


def marks(annotation: Any) -> Iterator[Any]:
    """What `Annotated` adds to a type, to the members of a union or to the items of a sequence."""
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from marks(part)
