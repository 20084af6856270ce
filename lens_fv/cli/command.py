"""Commands made from functions: their options come from signatures and docstrings, and their results are printed.

A command is a function that returns a `Printout`. A parameter annotated with `OptionsOf` stands for all options of a public
function or dataclass; the command receives those that the user gave, by name, and passes them on. Names, defaults, ranges and
help texts are therefore stated once, where the function is defined. A parameter annotated with `Loaded` is named on the command
line and loaded before the command runs. A text in an annotation is the parameter's help; longer ones stand below `Args:`.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from lens_fv.cli.options import Loaded, marks, option_parameter, option_value, text_type
from lens_fv.cli.output import Printout, print_out
from lens_fv.cli.signatures import Option, entries, options_of

Options = dict[str, Any]
"""The options of a function that the user gave, by name."""
NEVER = frozenset({"progress", "tick", "split", "splits", "template", "folder", "path", "cache_dir"})
"""Options of functions that commands do not have."""
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
            if included and text_type(option.annotation, option.default) is not None:
                yield option


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
        given = dict(zip(self._parameters, positional)) | keywords
        values = {name: option_value(value, self.options[name]) for name, value in given.items()}
        as_json = values.pop("json", False)
        out = values.pop("out", None) if self._writes_json else None
        arguments = {name: value for name, value in values.items() if name in self._parameters}
        for name, mark in self.marked.items():
            if isinstance(mark, OptionsOf):
                arguments[name] = pick(values, *(option.name for option in mark.options()))
            else:
                arguments[name] = mark.load(arguments.get(name, self.options[name].default))
        return print_out(self.function(**arguments), as_json=as_json, out=out)

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters

    @cached_property
    def marked(self) -> dict[str, OptionsOf | Loaded]:
        """The parameters that stand for a function's options or are loaded, with the marks that say so."""
        return {
            name: mark
            for name, parameter in self._parameters.items()
            for mark in marks(parameter.annotation)
            if isinstance(mark, OptionsOf | Loaded)
        }

    @property
    def _writes_json(self) -> bool:
        """Whether `--out` is for the JSON object, as in commands that have nothing else to write."""
        return "out" not in self._parameters

    @cached_property
    def options(self) -> dict[str, Option]:
        """All options by name; the command's own may override those of the functions."""
        sources = {name: list(mark.options()) for name, mark in self.marked.items() if isinstance(mark, OptionsOf)}
        helps = {option.name: option.help for options in reversed(sources.values()) for option in options}
        own_helps = entries(self.function.__doc__ or "")
        options: dict[str, Option] = {}
        for name, parameter in self._parameters.items():
            mark = self.marked.get(name)
            if not isinstance(mark, OptionsOf):
                is_given = parameter.default is not inspect.Parameter.empty
                default = parameter.default if is_given or mark is None else mark.default
                texts = [text for text in marks(parameter.annotation) if isinstance(text, str)]
                text = next((text for text in (own_helps.get(name), *texts, helps.get(name)) if text), "")
                options[name] = Option(name, parameter.annotation, default, text)
            for option in sources.get(name, ()):
                if option.name not in self._parameters:
                    options.setdefault(option.name, option)
        shared = (JSON_FILE, JSON) if self._writes_json else (JSON,)
        return options | {option.name: option for option in shared}

    @cached_property
    def __signature__(self) -> inspect.Signature:
        parameters = [option_parameter(option, self._kind(option.name), self.options) for option in self.options.values()]
        return inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))

    def _kind(self, name: str) -> Any:
        """Parameters before the `*` are written without their names."""
        positional = name in self._parameters and self._parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter.POSITIONAL_ONLY if positional else inspect.Parameter.KEYWORD_ONLY


command = Command


def commands_of(*modules: ModuleType) -> list[Command]:
    """The commands that modules define, in the order in which they define them."""
    return [value for module in modules for value in vars(module).values() if isinstance(value, Command)]


def chosen(options: Options, path: str, name: str) -> Any:
    """The value of a function's option: the user's, or the default."""
    return options.get(name, options_of(path)[name].default)


def pick(options: Options, *names: str) -> Options:
    """Those options of these names that the user gave."""
    return {name: options[name] for name in names if name in options}
