"""Signatures and help texts of public functions and dataclasses, read from their source.

Importing the rooms takes seconds, because they import torch; reading their source takes milliseconds. `--help` and errors in
options are therefore immediate.
"""

import ast
import builtins
import importlib
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from inspect import cleandoc
from pathlib import Path
from typing import Any, NamedTuple

import lens_fv

ROOT = Path(lens_fv.__file__).parent
LIGHT = ("typing", "collections.abc", "pathlib", "os", "annotated_types", "cyclopts", "lens_fv.core.choices")
"""Modules whose names are imported when an annotation or default refers to them."""


class Option(NamedTuple):
    """A parameter with a default.

    Attributes:
        annotation: Its annotation. A class that would be costly to import is replaced by a subclass of `Opaque`.
        default: Its default; an instance of `Opaque` if the default belongs to such a class.
        help: Its entry in the docstring.
    """

    name: str
    annotation: Any
    default: Any
    help: str


class _Unknown(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _opaque(name)


class Opaque(metaclass=_Unknown):
    """Stands for a class or module that is not imported."""

    def __init__(self, *_: Any, **__: Any) -> None: ...


def _opaque(name: str) -> type[Opaque]:
    return _Unknown(name, (Opaque,), {})


@lru_cache
def options_of(path: str) -> dict[str, Option]:
    """Read the options of a public function or dataclass, given as "module:name" or "module:class.method".

    Example:
        >>> option = options_of("lens_fv:tune")["steps"]
        >>> option.default, option.help
        (40, 'Number of Adam steps.')
    """
    module, _, name = path.partition(":")
    return {option.name: option for option in _options(_names_of(module), name)}


def entries(docstring: str) -> dict[str, str]:
    """Return the entries below `Args:` or `Attributes:` by name; one entry may name several parameters."""
    section = re.search(r"^(?:Args|Attributes):\n((?: {4}.+\n?)+)", cleandoc(docstring) + "\n", re.MULTILINE)
    entries = re.finditer(r"^ {4}([\w, *]+): (.+(?:\n {8}.+)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(entry[2].split()) for entry in entries for name in entry[1].split(", ")}


class _Names(dict[str, Any]):
    """The names of a module, evaluated from its source when they are looked up."""

    def __init__(self, tree: ast.Module) -> None:
        self.nodes: dict[str, ast.stmt] = {}
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.nodes |= {alias.asname or alias.name: node for alias in node.names}
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                self.nodes[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                self.nodes |= {target.id: node for target in targets if isinstance(target, ast.Name)}

    def evaluate(self, node: ast.expr) -> Any:
        """Evaluate an annotation or default."""
        return eval(compile(ast.Expression(node), "<signature>", "eval"), {}, self)

    def __missing__(self, name: str) -> Any:
        node = self.nodes.get(name)
        if isinstance(node, ast.ImportFrom) and node.module in LIGHT:
            return getattr(importlib.import_module(node.module), _original(node, name))
        if isinstance(node, ast.Import) and name in LIGHT:
            return importlib.import_module(name)
        names, definition = self.definition(name) or (self, None)
        if isinstance(definition, ast.Assign | ast.AnnAssign) and definition.value is not None:
            return names.evaluate(definition.value)
        return getattr(builtins, name) if node is None and hasattr(builtins, name) else _opaque(name)

    def definition(self, name: str) -> "tuple[_Names, ast.stmt] | None":
        """Find the function, class, method ("class.name") or assignment that a name refers to, here or where it comes from."""
        name, _, method = name.partition(".")
        node = self.nodes.get(name)
        if isinstance(node, ast.ImportFrom):
            module = f"lens_fv.{node.module}" if node.level else str(node.module)
            original = ".".join(filter(None, (_original(node, name), method)))
            return _names_of(module).definition(original) if module.startswith("lens_fv.") else None
        if method and isinstance(node, ast.ClassDef):
            node = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == method), None)
        return None if node is None else (self, node)

    def help_of(self, text: str, parameter: str) -> str:
        """The help of a parameter; a text that only names another function stands for that function's."""
        pointer = re.fullmatch(r"[Ss]ee `([\w.]+)`\.?", text)
        if pointer is None:
            return text
        options = [*_options(self, pointer[1]), *_options(_names_of("lens_fv"), pointer[1])]
        return next((option.help for option in options if option.name == parameter), "")


@lru_cache
def _names_of(module: str) -> _Names:
    path = ROOT.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return _Names(ast.parse((file.with_suffix(".pyi") if path == ROOT else file).read_text(encoding="utf-8")))


def _options(names: _Names, name: str) -> Iterator[Option]:
    """Yield the options of a function or dataclass, those of bases and of other dataclasses first."""
    names, node = names.definition(name) or (names, None)
    if not isinstance(node, ast.ClassDef | ast.FunctionDef):
        return
    helps = entries(ast.get_docstring(node) or "")
    for source in _sources(node, helps):
        yield from _options(names, source)
    for parameter, annotation, default in _fields(node) if isinstance(node, ast.ClassDef) else _arguments(node.args):
        if annotation is not None and default is not None:
            text = names.help_of(helps.get(parameter, ""), parameter)
            yield Option(parameter, names.evaluate(annotation), names.evaluate(default), text)


def _sources(node: ast.ClassDef | ast.FunctionDef, helps: Mapping[str, str]) -> list[str]:
    """Dataclasses whose options are also this one's: bases; those of `takes_options` or named by the help of `**options`."""
    if isinstance(node, ast.ClassDef):
        return [base.id for base in reversed(node.bases) if isinstance(base, ast.Name)]  # the first base overrides the others
    calls = [call for call in node.decorator_list if isinstance(call, ast.Call) and ast.unparse(call.func) == "takes_options"]
    keywords = f"**{node.args.kwarg.arg}" if node.args.kwarg else ""
    return [*(ast.unparse(call.args[0]) for call in calls), *re.findall(r"[Ss]ee `(\w+)`", helps.get(keywords, ""))]


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            yield part.target.id, part.annotation, part.value


def _arguments(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + [*arguments.defaults, *arguments.kw_defaults]
    for argument, default in zip([*positional, *arguments.kwonlyargs], defaults, strict=True):
        yield argument.arg, argument.annotation, default


def _original(node: ast.ImportFrom, name: str) -> str:
    return next(alias.name for alias in node.names if name in (alias.asname, alias.name))
