"""The examples in the docstrings of the public names run, with a tiny model, a task of made-up words and an empty folder."""

import doctest
import inspect

import pytest
import torch
from helpers import toy_task

import lens_fv

PUBLIC = [name for name in lens_fv.__all__ if not inspect.ismodule(getattr(lens_fv, name))]
LONG = {
    "Trajectory",
    "compare_baselines",
    "evaluate_analogies",
    "fit_map",
    "make_task_probe",
    "track_checkpoints",
    "universal_heads",
    "verdicts",
}
"""Without an example: what they need takes long to make, or belongs to another of them."""


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_runs(name, tiny_model, model_folder, tmp_path):
    names = {"lens_fv": lens_fv, "torch": torch, "model": tiny_model("llama"), "task": toy_task(), "folder": tmp_path}
    names["model_folder"] = model_folder
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(getattr(lens_fv, name)) or "", names, name, None, 0)
    assert bool(example.examples) == (name not in LONG)
    said: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=said.append).failed == 0, "".join(said)
