"""Commands made from functions: their options come from signatures and docstrings, and their results are printed.

A command is a function that returns a `Printout`. A parameter annotated with `OptionsOf` stands for all options of a public
function or dataclass; the command receives those that the user gave, by name, and passes them on. Names, defaults, ranges and
help texts are therefore stated once, where the function is defined.
"""

import importlib
import inspect
import operator
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
JSON = Option("json", bool, False, "Print a single JSON object to standard output, and nothing else.")
JSON_FILE = Option("out", Path | None, None, "File for the JSON object; default: not written.")


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
        for option in options_of(self.path).values():
            included = option.name in self.only if self.only else option.name not in (*NEVER, *self.leave_out)
            if included and _text_type(option.annotation, option.default) is not None:
                yield option


class Loaded(NamedTuple):
    """Mark of a parameter that is named on the command line and loaded before the command runs.

    Attributes:
        load: The function that loads it, as "module:name".
        text: Type of the name.
        default: Name that is loaded if none is given.
    """

    load: str
    text: Any = Path
    default: Any = inspect.Parameter.empty


class Command:
    """A function as a command; its signature is built when it is needed, because building all of them takes time."""

    def __init__(self, function: Callable[..., Printout]) -> None:
        self.function = function
        self.name = function.__name__.rstrip("_")
        self.path = f"{function.__module__}:{function.__name__}"
        paragraphs = inspect.cleandoc(function.__doc__ or "").partition("\n\nArgs:")[0].split("\n\n")
        if not any(paragraph.startswith("Writes ") for paragraph in paragraphs):
            paragraphs.append("Writes nothing unless --out is given.")
        self.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        self.__annotations__: dict[str, Any] = {}

    def __call__(self, *positional: Any, **keywords: Any) -> int:
        """Run the function with the values that the user gave and print its result; returns the exit code."""
        as_json = keywords.pop("json", False)
        out = keywords.pop("out", None) if self._writes_json else None
        values = dict(zip(self._parameters, positional)) | keywords
        values = {name: _value(value, self.options[name]) for name, value in values.items()}
        arguments = {name: value for name, value in values.items() if name in self._parameters}
        for name, source in self.sources.items():
            arguments[name] = {option.name: values[option.name] for option in source.options() if option.name in values}
        for name, parameter in self._parameters.items():
            for mark in _marks(parameter.annotation):
                if isinstance(mark, Loaded):
                    arguments[name] = _loaded(mark, arguments.get(name, self.options[name].default))
        return print_out(self.function(**arguments), as_json=as_json, out=out)

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters

    @cached_property
    def sources(self) -> dict[str, OptionsOf]:
        """The functions whose options are the command's, by the parameter that receives them."""
        return {
            name: mark
            for name, parameter in self._parameters.items()
            for mark in _marks(parameter.annotation)
            if isinstance(mark, OptionsOf)
        }

    @property
    def _writes_json(self) -> bool:
        """Whether `--out` is for the JSON object, as in commands that have nothing else to write."""
        return "out" not in self._parameters

    @cached_property
    def options(self) -> dict[str, Option]:
        """All options by name; the command's own may override those of the functions."""
        sources = {name: list(source.options()) for name, source in self.sources.items()}
        helps = {option.name: option.help for options in reversed(sources.values()) for option in options}
        own_helps = entries(self.function.__doc__ or "")
        options: dict[str, Option] = {}
        for name, parameter in self._parameters.items():
            if name not in sources:
                texts = [mark for mark in _marks(parameter.annotation) if isinstance(mark, str)]
                text = next((text for text in (own_helps.get(name), *texts, helps.get(name)) if text), "")
                options[name] = Option(name, parameter.annotation, _default(parameter), text)
            for option in sources.get(name, ()):
                if option.name not in self._parameters:
                    options.setdefault(option.name, option)
        shared = (JSON_FILE, JSON) if self._writes_json else (JSON,)
        return options | {option.name: option for option in shared}

    @cached_property
    def __signature__(self) -> inspect.Signature:
        parameters = [_parameter(option, self._kind(option.name), self.options) for option in self.options.values()]
        return inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))

    def _kind(self, name: str) -> Any:
        """Parameters before the `*` are written without their names."""
        positional = name in self._parameters and self._parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter.POSITIONAL_ONLY if positional else inspect.Parameter.KEYWORD_ONLY


command = Command


def chosen(options: Options, path: str, name: str) -> Any:
    """The value of a function's option: the user's, or the default."""
    return options.get(name, options_of(path)[name].default)


def pick(options: Options, *names: str) -> Options:
    """Those options of these names that the user gave."""
    return {name: options[name] for name in names if name in options}


def _default(parameter: inspect.Parameter) -> Any:
    """The default of a command's own parameter; of one that is loaded, the name that is loaded by default."""
    names = [mark.default for mark in _marks(parameter.annotation) if isinstance(mark, Loaded)]
    return names[0] if names and parameter.default is inspect.Parameter.empty else parameter.default


def _parameter(option: Option, kind: Any, options: Collection[str]) -> inspect.Parameter:
    """Describe an option to the parser: its type and range, its help text and how its default is shown."""
    flag = _flag(option.name) if kind is inspect.Parameter.KEYWORD_ONLY else option.name.upper()
    text_type = _text_type(option.annotation, option.default)
    types = list(_parts(text_type))

    def check(_: Any, value: Any) -> None:
        if wrong := wrong_value(option.annotation, _value(value, option)):
            raise LensFVError(f"{flag} {_shown(value)}: {wrong}")

    about = Parameter(
        help=_help_text(option.help, options).replace("None", NONE if _can_be_none(option) else "None"),
        negative=f"--no-{flag[2:]}" if option.default is True else (),
        show_default=_shown(option.default) or False,
        validator=check,
        converter=_whole_numbers if int in types or list[int] in types else None,
    )
    return inspect.Parameter(option.name, kind, default=option.default, annotation=Annotated[(text_type, about)])


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


def _value(value: Any, option: Option) -> Any:
    """What a function receives for a value of the command line."""
    if isinstance(value, list):
        return tuple(value)
    return None if value == NONE and _can_be_none(option) else value


def _can_be_none(option: Option) -> bool:
    """Whether None is written out, because it is not the default."""
    return option.default is not None and NoneType in _parts(option.annotation)


def _loaded(mark: Loaded, name: Any) -> Any:
    """Load what a name stands for; each of several names."""
    if name is None:
        return None
    if isinstance(name, tuple):
        return tuple(_loaded(mark, single) for single in name)
    module, _, function = mark.load.partition(":")
    return operator.attrgetter(function)(importlib.import_module(module))(name)


def _text_type(annotation: Any, default: Any) -> Any:
    """The type of what is written on the command line; None if there is no way to write it."""
    types = list(_parts(annotation))
    words = [word for kind in types if get_origin(kind) is Literal for word in get_args(kind)]
    accepted: list[Any] = [Literal[tuple(words)]] if words else []
    accepted += [kind for kind in types if kind in (int, float, str, bool, Path)]
    sequences = [kind for kind in types if isinstance(origin := get_origin(kind), type) and issubclass(origin, Sequence)]
    if sequences:
        item = _text_type(get_args(sequences[0])[0], ...)
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


def _marks(annotation: Any) -> Iterator[Any]:
    """What `Annotated` adds to a type, to the members of a union or to the items of a sequence."""
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from _marks(part)
