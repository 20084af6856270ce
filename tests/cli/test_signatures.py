"""What is read from the source of functions is what Python says of them."""

import importlib
import inspect
import operator
import re
from typing import Any, get_args

import pytest
from test_commands import commands

from lens_fv.cli.command import OptionsOf
from lens_fv.cli.options import text_type
from lens_fv.cli.signatures import Opaque, options_of
from lens_fv.core.choices import wrong_value

MARKS = [mark for command in commands().values() for mark in command.marked.values()]
SOURCES = sorted({mark.path for mark in MARKS if isinstance(mark, OptionsOf)})
VALUES = (None, -1, 0, 1, 0.5, 2.5, 2**33, float("nan"), "all", "mean", "zero", "lora", "something", True, [0], ["all"], (0.5,))


def real(path: str) -> Any:
    module, _, name = path.partition(":")
    return operator.attrgetter(name)(importlib.import_module(module))


def test_the_sources_are_many():
    assert len(SOURCES) > 25


def parameters_of(path: str) -> dict[str, inspect.Parameter]:
    """The parameters with defaults, and those of the settings that `**options` stands for, as Python knows them."""
    function = real(path)
    parameters = {p.name: p for p in inspect.signature(function).parameters.values() if p.default is not p.empty}
    parameters.pop("config", None)
    if stands_for := re.search(r"\*\*options: .*?see `(\w+)`", inspect.getdoc(function) or "", re.DOTALL):
        module = importlib.import_module(function.__module__)
        parameters |= inspect.signature(getattr(module, stands_for[1])).parameters
    return parameters


def documented(thing: Any) -> str:
    """The docstring; of a class also those of its bases."""
    kinds = inspect.getmro(thing) if inspect.isclass(thing) else (thing,)
    return " ".join(" ".join((inspect.getdoc(kind) or "").split()) for kind in kinds)


def is_opaque(annotation: Any) -> bool:
    """Whether a class that is not imported is among the accepted ones."""
    if isinstance(annotation, type) and issubclass(annotation, Opaque):
        return True
    return any(map(is_opaque, get_args(annotation)))


@pytest.mark.parametrize("path", SOURCES)
def test_names_defaults_and_rules_are_those_of_the_function(path):
    options, parameters = options_of(path), parameters_of(path)
    assert set(options) == set(parameters)
    for name, option in options.items():
        parameter = parameters[name]
        if not isinstance(option.default, Opaque) and not callable(parameter.default):
            assert option.default == parameter.default, name
        if text_type(option.annotation, option.default) is None:  # no command has it
            continue
        for value in VALUES:
            wrong, expected = (wrong_value(annotation, value) for annotation in (option.annotation, parameter.annotation))
            if not is_opaque(option.annotation):
                assert wrong == expected, (name, value)
            elif isinstance(value, str):  # the message lacks the class that is not imported
                assert bool(wrong) == bool(expected), (name, value)


@pytest.mark.parametrize("path", SOURCES)
def test_help_is_that_of_the_docstring(path):
    function = real(path)
    text = documented(function)
    if stands_for := re.search(r"\*\*options: .*?see `(\w+)`", text):
        text += documented(getattr(importlib.import_module(function.__module__), stands_for[1]))
    for name, option in options_of(path).items():
        followed = re.search(rf"\b{name}: [Ss]ee `", text)
        assert option.help in text or followed, name


def test_help_of_another_function_is_followed():
    text = "Number of corrupted prompts on which effects are measured."
    assert options_of("lens_fv.composition:ExtractRecipe")["n_trials"].help == text
    assert options_of("lens_fv:rank_heads")["n_trials"].help == text
