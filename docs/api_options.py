"""Extension of griffe for the API: functions that take a dataclass's fields as keywords (`takes_options`) show them."""

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import griffe


class KeywordOptions(griffe.Extension):
    """Gives each such function the signature and the help text that `help` shows."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Expand the options of every function in the package."""
        for module in _modules(pkg):
            functions = (function for function in module.functions.values() if not function.is_alias)
            for function in functions:
                for call in (decorator.value for decorator in function.decorators):
                    if isinstance(call, griffe.ExprCall) and call.function.canonical_path.endswith(".takes_options"):
                        _expand(function, pkg.modules_collection[call.arguments[0].canonical_path])


def _modules(module: griffe.Module) -> Iterator[griffe.Module]:
    yield module
    for child in module.modules.values():
        if not child.is_alias:
            yield from _modules(child)


def _expand(function: griffe.Function, config: griffe.Class) -> None:
    """Replace the parameter `options` by the optional config and one keyword per field, with types as the source has them."""
    kinds = griffe.ParameterKind
    own = [parameter for parameter in function.parameters if parameter.name != "options"]
    for parameter in own:
        parameter.kind = kinds.positional_only
    keywords: dict[str, griffe.Parameter] = {}
    for source in reversed((config, *config.mro())):  # a class comes after its bases, and overrides their defaults
        for name, field in source.attributes.items():
            keywords[name] = griffe.Parameter(name, annotation=field.annotation, kind=kinds.keyword_only, default=field.value)
    third = griffe.Parameter("config", annotation=f"{config.name} | None", kind=kinds.positional_only, default="None")
    function.parameters = griffe.Parameters(*own, third, *keywords.values())
    function.docstring.value = inspect.getdoc(getattr(import_module(function.module.path), function.name))
