"""The examples in the docstrings of the public names run, with a tiny model, a task of made-up words and an empty folder."""

import doctest
import inspect

import pytest
import torch
from helpers import toy_task
from planted import planted_tasks, planted_weights

import lens_fv
from lens_fv.model import load_model

PUBLIC = [name for name in lens_fv.__all__ if not inspect.ismodule(getattr(lens_fv, name))]


@pytest.fixture(scope="module")
def capable_model(tmp_path_factory):
    """A model that can do its tasks, unlike one with random weights."""
    folder = tmp_path_factory.mktemp("capable")
    planted_weights(folder).save_pretrained(folder)
    return load_model(folder)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_runs(name, tiny_model, model_folder, capable_model, tmp_path):
    names = {"lens_fv": lens_fv, "torch": torch, "model": tiny_model("llama"), "task": toy_task(), "folder": tmp_path}
    names |= {"model_folder": model_folder, "capable_model": capable_model, "capable_tasks": planted_tasks()}
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(getattr(lens_fv, name)) or "", names, name, None, 0)
    assert example.examples
    said: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=said.append).failed == 0, "".join(said)
