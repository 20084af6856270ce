"""What is read from the source of functions is what Python says of them."""

import importlib
import inspect
import operator
import re
from typing import Any

import pytest
from test_commands import commands

from lens_fv.cli.signatures import Opaque, Option, options_of
from lens_fv.core.choices import wrong_value

SOURCES = sorted({source.path for command in commands().values() for source in command.sources.values()})
VALUES = (None, -1, 0, 1, 0.5, 2.5, 2**33, float("nan"), "all", "mean", "zero", "lora", "something", True, [0], ["all"], (0.5,))


def real(path: str) -> Any:
    module, _, name = path.partition(":")
    return operator.attrgetter(name)(importlib.import_module(module))


def test_the_sources_are_many():
    assert len(SOURCES) > 25


@pytest.mark.parametrize("path", SOURCES)
def test_names_defaults_and_rules_are_those_of_the_function(path):
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(real(path)).parameters.items()
        if parameter.default is not parameter.empty
    }
    options = options_of(path)
    assert list(options) == list(parameters)
    for name, option in options.items():
        parameter = parameters[name]
        if not isinstance(option.default, Opaque):
            assert callable(option.default) or option.default == parameter.default, name
        for value in VALUES:
            assert wrong_value(option.annotation, value) == wrong_value(parameter.annotation, value), (name, value)


@pytest.mark.parametrize("path", SOURCES)
def test_help_is_that_of_the_docstring(path):
    text = " ".join((inspect.getdoc(real(path)) or "").split())
    for name, option in options_of(path).items():
        followed = re.search(rf"\b{name}: [Ss]ee `", text)
        assert option.help in text or followed, name


def test_help_of_another_function_is_followed():
    assert options_of("lens_fv.composition:Extracted")["n_shots"] == Option(
        "n_shots", options_of("lens_fv:rank_heads")["n_shots"].annotation, 10, options_of("lens_fv:rank_heads")["n_shots"].help
    )
