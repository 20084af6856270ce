"""Commands made from functions: their options come from signatures and docstrings, and their results are printed.

A command is a function that returns a `Printout`. A parameter annotated with `OptionsOf` stands for all options of a public
function or dataclass; the command receives those that the user gave, by name, and passes them on. Names, defaults, ranges and
help texts are therefore stated once, where the function is defined.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin  # noqa: TID251

from cyclopts import Parameter

from lens_fv.cli.output import Printout, print_out
from lens_fv.cli.signatures import Option, entries, options_of
from lens_fv.core.choices import wrong_value
from lens_fv.errors import LensFVError

Options = dict[str, Any]
"""The options of a function that the user gave, by name."""
NEVER = frozenset({"progress", "tick", "split", "splits", "template", "folder", "path", "cache_dir"})
"""Options of functions that commands do not have."""
NONE = "none"
"""How None is written where it is not the default."""
SHARED = {
    "json": Option("json", bool, False, "Print a single JSON object to standard output, and nothing else."),
    "out": Option("out", Path | None, None, "File for the JSON object; default: not written."),
}


class OptionsOf(NamedTuple):
    """Mark of a parameter that stands for the options of a public function or dataclass.

    Attributes:
        path: The function, as "module:name".
        only: Names of the options to take; empty: all whose values can be written on a command line.
        leave_out: Names of options to leave out.
    """

    path: str
    only: Collection[str] = ()
    leave_out: Collection[str] = ()

    def options(self) -> Iterator[Option]:
        """Yield the options."""
        unwanted = {*NEVER, *self.leave_out}
        for option in options_of(self.path).values():
            wanted = option.name in self.only if self.only else option.name not in unwanted
            if wanted and _written_type(option.annotation, option.default) is not None:
                yield option


class Command:
    """A function as a command; its signature is built when it is needed, because building all of them takes time."""

    def __init__(self, function: Callable[..., Printout]) -> None:
        self.function = function
        self.name = function.__name__.rstrip("_")
        self.path = f"{function.__module__}:{function.__name__}"
        paragraphs = inspect.cleandoc(function.__doc__ or "").partition("\n\nArgs:")[0].split("\n\n")
        self.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        self.__annotations__: dict[str, Any] = {}

    def __call__(self, *arguments: Any, **given: Any) -> int:
        """Run the function with what the user gave and print its result; returns the exit code."""
        as_json = given.pop("json", False)
        out = given.pop("out", None) if self._writes_json else None
        values = {name: _value(value, self.options[name]) for name, value in given.items()}
        own = {name: value for name, value in values.items() if name in self._parameters}
        for name, source in self.sources.items():
            own[name] = {option.name: values[option.name] for option in source.options() if option.name in values}
        return print_out(self.function(*arguments, **own), as_json=as_json, out=out)

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters

    @cached_property
    def sources(self) -> dict[str, OptionsOf]:
        """The functions whose options are the command's, by the parameter that receives them."""
        marks = {name: getattr(parameter.annotation, "__metadata__", ()) for name, parameter in self._parameters.items()}
        return {name: those[0] for name, those in marks.items() if those and isinstance(those[0], OptionsOf)}

    @property
    def _writes_json(self) -> bool:
        """Whether `--out` is for the JSON object, as in commands that have nothing else to write."""
        return "out" not in self._parameters

    @cached_property
    def options(self) -> dict[str, Option]:
        """All options by name; the command's own may override those of the functions."""
        taken = {name: list(source.options()) for name, source in self.sources.items()}
        helps = {option.name: option.help for source in reversed(taken.values()) for option in source}
        helps |= entries(self.function.__doc__ or "")
        options: dict[str, Option] = {}
        for name, parameter in self._parameters.items():
            if name not in taken:
                options[name] = Option(name, parameter.annotation, parameter.default, helps.get(name, ""))
            for option in taken.get(name, ()):
                if option.name not in self._parameters:
                    options.setdefault(option.name, option)
        return options | (SHARED if self._writes_json else {"json": SHARED["json"]})

    @cached_property
    def __signature__(self) -> inspect.Signature:
        parameters = [_parameter(option, self._kind(option.name), self.options) for option in self.options.values()]
        return inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))

    def _kind(self, name: str) -> Any:
        """Parameters before the `*` are written without their names."""
        positional = name in self._parameters and self._parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter.POSITIONAL_ONLY if positional else inspect.Parameter.KEYWORD_ONLY


command = Command


def _parameter(option: Option, kind: Any, options: Collection[str]) -> inspect.Parameter:
    """Describe an option to the parser: its type and range, its help text and how its default is shown."""
    marks = getattr(option.annotation, "__metadata__", ())
    given = [mark for mark in marks if isinstance(mark, Parameter)]
    bounds = [mark for mark in marks if not isinstance(mark, Parameter)]
    accepted = option.annotation
    if given:
        accepted = Annotated[(option.annotation.__origin__, *bounds)] if bounds else option.annotation.__origin__
    flag = _flag(option.name) if kind is inspect.Parameter.KEYWORD_ONLY else option.name.upper()

    def check(_: Any, value: Any) -> None:
        if wrong := wrong_value(accepted, _value(value, option)):
            raise LensFVError(f"{flag} {_shown(value)}: {wrong}")

    about = Parameter(
        help=_help_text(option.help, options),
        negative=f"--no-{flag[2:]}" if option.default is True else (),
        show_default=_shown(option.default) or False,
        validator=check,
    )
    written_type = _written_type(accepted, option.default)
    if int in (whole := list(_parts(written_type))) or list[int] in whole:
        about = Parameter.combine(about, Parameter(converter=_whole_numbers))
    written = Annotated[(written_type, Parameter.combine(about, *given))]
    return inspect.Parameter(option.name, kind, default=option.default, annotation=written)


def _whole_numbers(kind: Any, tokens: Sequence[Any]) -> Any:
    """Convert what is written to whole numbers; what is none (cyclopts would round it) is left to the check of the range."""
    values = [int(token.value) if re.fullmatch(r"[+-]?\d+", token.value) else token.value for token in tokens]
    return values if list[int] in _parts(kind) else values[0]


def _help_text(text: str, options: Collection[str]) -> str:
    """Write a docstring's text for the command line: options by their flags, without pointers to functions."""
    text = re.sub(r"[;,]? ?\(?\b[Ss]ee `[\w.]+`\)?", "", text).lstrip(". ")
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


def chosen(options: Options, path: str, name: str) -> Any:
    """The value of a function's option: the user's, or the default."""
    return options.get(name, options_of(path)[name].default)


def pick(options: Options, *names: str) -> Options:
    """Those options of these names that the user gave."""
    return {name: options[name] for name in names if name in options}


def _value(value: Any, option: Option) -> Any:
    """What a function receives for a value of the command line."""
    if isinstance(value, list):
        return tuple(value)
    return None if value == NONE and _can_be_none(option) else value


def _can_be_none(option: Option) -> bool:
    return option.default is not None and NoneType in _parts(option.annotation)


def _written_type(annotation: Any, default: Any) -> Any:
    """The type of what is written on the command line; None if there is no way to write it."""
    parts = list(_parts(annotation))
    scalars: list[Any] = [part for part in parts if get_origin(part) is Literal or part in (int, float, str, bool, Path)]
    several = [part for part in parts if isinstance(origin := get_origin(part), type) and issubclass(origin, Sequence)]
    if several:
        item = _written_type(get_args(several[0])[0], ...)
        scalars = [] if item is None else [list[item]]
    if not scalars:
        return None
    if default is None:
        scalars.append(NoneType)
    elif NoneType in parts:
        scalars.insert(0, Literal[NONE])
    return Union[tuple(scalars)]  # noqa: UP007 - made of what there is


def _parts(annotation: Any) -> Iterator[Any]:
    """The members of a union, without bounds; a path of any kind is a `Path`."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _parts(member)
    elif origin is Annotated:
        yield from _parts(annotation.__origin__)
    else:
        yield Path if origin is PathLike else annotation
