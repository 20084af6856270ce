"""The examples in all docstrings run, with a tiny model, a task of made-up words, a library of two and an empty folder."""

import doctest
import inspect
from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import pytest
import torch
from helpers import toy_task
from planted import planted_tasks, planted_weights

import lens_fv
from lens_fv.model import load_model

PUBLIC = [name for name in lens_fv.__all__ if not inspect.ismodule(getattr(lens_fv, name))]


def documented() -> Iterator[tuple[str, Any]]:
    """Functions, classes and their methods, by where they are defined."""
    for module in walk_packages(lens_fv.__path__, "lens_fv."):
        for name, thing in vars(import_module(module.name)).items():
            if getattr(thing, "__module__", None) == module.name and callable(thing):
                yield f"{module.name}.{name}", thing
                for method, function in vars(thing).items() if inspect.isclass(thing) else ():
                    if isinstance(function, property | classmethod | staticmethod) or callable(function):
                        yield f"{module.name}.{name}.{method}", function


EXAMPLES = {where: text for where, thing in documented() if ">>>" in (text := inspect.getdoc(thing) or "")}


@pytest.fixture(scope="module")
def capable_model(tmp_path_factory):
    """A model that can do its tasks, unlike one with random weights."""
    folder = tmp_path_factory.mktemp("capable")
    planted_weights(folder).save_pretrained(folder)
    return load_model(folder)


@pytest.fixture(scope="module")
def library(tiny_model, tmp_path_factory):
    """A library of two relations."""
    recipe = lens_fv.composition.TuneRecipe(layer=1, n_pairs=4, steps=2)
    tasks = [toy_task(), lens_fv.load_task("antonym")]
    return lens_fv.build_library(tiny_model("llama"), tasks, tmp_path_factory.mktemp("examples") / "library", recipe)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_an_example(name):
    assert ">>>" in (inspect.getdoc(getattr(lens_fv, name)) or "")


@pytest.mark.parametrize("where", EXAMPLES)
def test_the_example_runs(where, tiny_model, model_folder, capable_model, library, tmp_path):
    module = next(where.rsplit(".", n)[0] for n in (1, 2) if not where.rsplit(".", n)[0].rpartition(".")[2][0].isupper())
    names = {**vars(import_module(module)), "lens_fv": lens_fv, "torch": torch, "folder": tmp_path}
    names |= {"model": tiny_model("llama"), "model_folder": model_folder, "task": toy_task(), "library": library}
    names |= {"capable_model": capable_model, "capable_tasks": planted_tasks()}
    example = doctest.DocTestParser().get_doctest(EXAMPLES[where], names, where, None, 0)
    said: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=said.append).failed == 0, "".join(said)
