"""Signatures and help texts of public functions and dataclasses, read from their source.

Importing the rooms takes seconds, because they import torch; reading their source takes milliseconds. `--help` and errors in
options are therefore immediate.
"""

import ast
import builtins
import importlib
import re
from collections.abc import Iterator
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

    def __class_getitem__(cls, _: Any) -> "type[Opaque]":
        return cls


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
    found = _names_of(module).definition(name)
    if found is None:
        raise LookupError(f"{module} defines no {name}")
    return {option.name: option for option in _options(*found)}


def _options(names: "_Names", node: ast.stmt) -> Iterator[Option]:
    if isinstance(node, ast.ClassDef):
        for base in reversed(node.bases):  # the first base overrides the others
            if isinstance(base, ast.Name) and (found := names.definition(base.id)):
                yield from _options(*found)
        fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]
        parameters = [
            (field.target.id, field.annotation, field.value) for field in fields if isinstance(field.target, ast.Name)
        ]
    elif isinstance(node, ast.FunctionDef):
        yield from _options_elsewhere(names, node)
        several = [*node.args.posonlyargs, *node.args.args]
        defaults = [None] * (len(several) - len(node.args.defaults)) + list(node.args.defaults)
        several, defaults = several + node.args.kwonlyargs, defaults + node.args.kw_defaults
        parameters = [(arg.arg, arg.annotation, default) for arg, default in zip(several, defaults, strict=True)]
    else:
        raise TypeError(f"{ast.dump(node)[:60]} has no signature")
    helps = entries(ast.get_docstring(node) or "")
    for name, annotation, default in parameters:
        if annotation is not None and default is not None:
            text = names.followed(helps.get(name, ""), name)
            yield Option(name, names.evaluate(annotation), names.evaluate(default), text)


def _options_elsewhere(names: "_Names", node: ast.FunctionDef) -> Iterator[Option]:
    """Yield the options that a function takes from a dataclass: by `takes_options`, or as `**options` that its help names."""
    classes = [
        call.args[0].id
        for call in node.decorator_list
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "takes_options" and isinstance(call.args[0], ast.Name)
    ]
    if node.args.kwarg is not None:
        text = entries(ast.get_docstring(node) or "").get(f"**{node.args.kwarg.arg}", "")
        classes += re.findall(r"[Ss]ee `(\w+)`", text)
    for name in classes:
        found = names.definition(name)
        yield from _options(*found) if found else ()


def entries(docstring: str) -> dict[str, str]:
    """Return the entries below `Args:` or `Attributes:` by name; one entry may name several parameters."""
    section = re.search(r"^(?:Args|Attributes):\n((?: {4}.+\n?)+)", cleandoc(docstring) + "\n", re.MULTILINE)
    entries = re.finditer(r"^ {4}([\w, *]+): (.+(?:\n {8}.+)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(entry[2].split()) for entry in entries for name in entry[1].split(", ")}


@lru_cache
def _names_of(module: str) -> "_Names":
    path = ROOT.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if path == ROOT:
        file = file.with_suffix(".pyi")
    return _Names(ast.parse(file.read_text(encoding="utf-8")))


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
        return eval(compile(ast.Expression(node), "<signature>", "eval"), {}, self)

    def definition(self, name: str) -> "tuple[_Names, ast.stmt] | None":
        """Find the function, class, method ("class.name") or assignment that a name refers to, here or where it comes from."""
        name, _, method = name.partition(".")
        if method:
            found = self.definition(name)
            body = found[1].body if found and isinstance(found[1], ast.ClassDef) else []
            own = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == method]
            return (found[0], own[0]) if found and own else None
        node = self.nodes.get(name)
        if isinstance(node, ast.ImportFrom):
            module = f"lens_fv.{node.module}" if node.level else str(node.module)
            return _names_of(module).definition(_original(node, name)) if module.startswith("lens_fv.") else None
        return (self, node) if node is not None else None

    def help_of(self, function: str, parameter: str) -> str:
        """Return the help of a parameter of another function, known here or public."""
        found = self.definition(function) or _names_of("lens_fv").definition(function)
        if found is None or not isinstance(found[1], ast.FunctionDef | ast.ClassDef):
            return ""
        own = entries(ast.get_docstring(found[1]) or "")
        if parameter in own:
            return found[0].followed(own[parameter], parameter)
        return next((option.help for option in _options(*found) if option.name == parameter), "")

    def followed(self, text: str, parameter: str) -> str:
        """Replace a help text that only names another function by that function's."""
        elsewhere = re.fullmatch(r"[Ss]ee `([\w.]+)`\.?", text)
        return self.help_of(elsewhere[1], parameter) if elsewhere else text

    def __missing__(self, name: str) -> Any:
        node = self.nodes.get(name)
        if isinstance(node, ast.ImportFrom) and node.module in LIGHT:
            return getattr(importlib.import_module(node.module), _original(node, name))
        if isinstance(node, ast.Import) and name in LIGHT:
            return importlib.import_module(name)
        found = self.definition(name)
        if found is not None and isinstance(found[1], ast.Assign | ast.AnnAssign) and found[1].value is not None:
            return found[0].evaluate(found[1].value)
        return getattr(builtins, name) if node is None and hasattr(builtins, name) else _opaque(name)


def _original(node: ast.ImportFrom, name: str) -> str:
    return next(alias.name for alias in node.names if name in (alias.asname, alias.name))
