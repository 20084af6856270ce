"""Extension of griffe for the API: functions that take a dataclass's fields as keywords (`takes_options`) show them."""

import re
from collections.abc import Iterator
from typing import Any

import griffe


class KeywordOptions(griffe.Extension):
    """Gives each such function the signature, and the entries below `Args:`, that `help` shows."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Expand the options of every function in the package."""
        for module in _modules(pkg):
            functions = (function for function in module.functions.values() if not function.is_alias)
            for function in functions:
                for call in (decorator.value for decorator in function.decorators):
                    if isinstance(call, griffe.ExprCall) and call.function.canonical_path.endswith(".takes_options"):
                        options, config = (pkg.modules_collection[name.canonical_path] for name in call.arguments)
                        _expand(function, options, config)


def _modules(module: griffe.Module) -> Iterator[griffe.Module]:
    yield module
    for child in module.modules.values():
        if not child.is_alias:
            yield from _modules(child)


def _expand(function: griffe.Function, options: griffe.Class, config: griffe.Class) -> None:
    """Replace the parameter `options` by the optional config and one keyword per field."""
    kinds = griffe.ParameterKind
    own = [parameter for parameter in function.parameters if parameter.name != "options"]
    for parameter in own:
        parameter.kind = kinds.positional_only
    keywords: dict[str, griffe.Parameter] = {}
    texts: dict[str, str] = {}
    for source in reversed((options, *options.mro())):  # a class comes after its bases, and overrides their defaults
        texts |= _attribute_texts(source)
        for name, field in source.attributes.items():
            keywords[name] = griffe.Parameter(name, annotation=field.annotation, kind=kinds.keyword_only, default=field.value)
    third = griffe.Parameter("config", annotation=f"{config.name} | None", kind=kinds.positional_only, default="None")
    function.parameters = griffe.Parameters(*own, third, *keywords.values())

    entries = [f"    config: `{config.name}` whose fields the keywords override."]
    entries += [f"    {name}: " + texts[name].replace("\n", "\n        ") for name in keywords]
    pattern = r"^    options: .+(?:\n {8}.+)*"
    text = re.sub(pattern, lambda _: "\n".join(entries), function.docstring.value, flags=re.MULTILINE)
    function.docstring.value = text


def _attribute_texts(source: griffe.Class) -> dict[str, str]:
    sections = source.docstring.parse("google") if source.docstring else []
    kind = griffe.DocstringSectionKind.attributes
    return {entry.name: entry.description for section in sections if section.kind is kind for entry in section.value}
