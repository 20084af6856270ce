"""The examples in all docstrings run, with a tiny model, a task of made-up words and an empty folder."""

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
def finetuned(model_folder, tmp_path_factory):
    """A fine-tuning run, and a probe of the task that it trains."""
    model, task = load_model(model_folder), lens_fv.load_task("antonym")
    ranking = lens_fv.rank_instruction_heads(model, task, n_shots=0, n_clean=2, n_trials=2)
    vector = lens_fv.extract_instruction(model, task, ranking, n_heads=2, layer=1)
    config = lens_fv.FinetuneConfig(n_examples=4, batch_size=4, n_checkpoints=1, rank=2)
    return {
        "run": lens_fv.finetune(model_folder, [task], tmp_path_factory.mktemp("run"), config),
        "probe": lens_fv.make_task_probe(model, task, vector, n_context=2, max_items=4),
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_an_example(name):
    assert ">>>" in (inspect.getdoc(getattr(lens_fv, name)) or "")


@pytest.mark.parametrize("where", EXAMPLES)
def test_the_example_runs(where, tiny_model, model_folder, capable_model, finetuned, tmp_path):
    module = next(where.rsplit(".", n)[0] for n in (1, 2) if not where.rsplit(".", n)[0].rpartition(".")[2][0].isupper())
    names = {**vars(import_module(module)), "lens_fv": lens_fv, "torch": torch, "folder": tmp_path}
    names |= {"model": tiny_model("llama"), "model_folder": model_folder, "task": toy_task()}
    names |= {"capable_model": capable_model, "capable_tasks": planted_tasks()} | finetuned
    example = doctest.DocTestParser().get_doctest(EXAMPLES[where], names, where, None, 0)
    report: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=report.append).failed == 0, "".join(report)
