"""The examples in all docstrings run with what `docs/api.md` lists, and every public function has one."""

import doctest
import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest
import torch
from helpers import toy_task
from planted import planted_tasks, planted_weights

import lens_fv
from lens_fv.model import LensModel

ROOMS = (
    "tasks",
    "model",
    "patching",
    "heads",
    "vectors",
    "vectors.baselines",
    "composition",
    "evaluation",
    "evaluation.alignment",
    "finetuning",
    "finetuning.regularizers",
    "dynamics",
    "knowledge",
    "plotting",
)


def public() -> Iterator[str]:
    """What `lens_fv` itself offers, and every function that a room offers."""
    for name in lens_fv.__all__:
        if not inspect.ismodule(getattr(lens_fv, name)):
            yield f"lens_fv.{name}"
    for room in ROOMS:
        module = import_module(f"lens_fv.{room}")
        yield from (f"lens_fv.{room}.{name}" for name in module.__all__ if inspect.isfunction(getattr(module, name)))


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


class Given:
    """What examples may use without making it; each thing is made when the first example asks for it."""

    def __init__(self, model_folder: Path, folder: Path) -> None:
        self.model_folder, self._folder = model_folder, folder
        self.task = toy_task()
        self.capable_tasks = planted_tasks()

    @cached_property
    def model(self) -> LensModel:
        return lens_fv.load_model(self.model_folder)

    @cached_property
    def capable_folder(self) -> Path:
        folder = self._folder / "capable"
        folder.mkdir()
        planted_weights(folder).save_pretrained(folder)
        return folder

    @cached_property
    def capable_model(self) -> LensModel:
        """A model that can do its tasks, unlike one with random weights."""
        return lens_fv.load_model(self.capable_folder)

    @cached_property
    def ranking(self) -> lens_fv.heads.HeadRanking:
        return lens_fv.rank_heads(self.model, self.task, n_shots=2, n_clean=4, n_trials=3)

    @cached_property
    def vector(self) -> lens_fv.FunctionVector:
        return lens_fv.tune(self.model, self.task, n_pairs=4, steps=2, layers=1)

    @cached_property
    def library(self) -> lens_fv.VectorLibrary:
        recipe = lens_fv.composition.TuneRecipe(layer=1, n_pairs=4, steps=2)
        tasks = [self.task, lens_fv.load_task("antonym")]
        return lens_fv.build_library(self.model, tasks, self._folder / "library", recipe)

    @cached_property
    def probes(self) -> list[lens_fv.dynamics.TaskProbe]:
        return [self._probe(task) for task in self.capable_tasks]

    def _probe(self, task: lens_fv.Task) -> lens_fv.dynamics.TaskProbe:
        model, options = self.capable_model, lens_fv.heads.InstructionRankingConfig(n_shots=0, n_clean=2, n_trials=2)
        prompts = lens_fv.heads.make_instruction_prompts(model, task, options)
        ranking = lens_fv.rank_instruction_heads(model, task, options)
        vector = lens_fv.extract(model, task, ranking, n_heads=2, layer=0)
        return lens_fv.make_task_probe(model, task, vector, patching_prompts=prompts, n_context=2, max_items=4)

    @cached_property
    def run(self) -> lens_fv.FinetuneRun:
        config = lens_fv.FinetuneConfig(n_examples=4, batch_size=4, n_checkpoints=1, rank=2)
        return lens_fv.finetune(self.capable_folder, self.capable_tasks, self._folder / "run", config)

    @cached_property
    def trajectory(self) -> lens_fv.dynamics.Trajectory:
        return lens_fv.track_checkpoints(self.capable_model, self.run, self.probes)

    @cached_property
    def entities(self) -> list[lens_fv.Entity]:
        return [self._city("Velm", "Norway", "Spain"), self._city("Dorne", "Spain", "Norway")]

    def _city(self, name: str, country: str, other: str) -> lens_fv.Entity:
        probe = lens_fv.knowledge.EntityProbe(f"{name} is in ___.", country, (country, other), "explicit")
        return lens_fv.Entity(name, f"{name} is a city in {country}.", probes=(probe,))

    @cached_property
    def update(self) -> lens_fv.knowledge.WeightDelta:
        transfer = lens_fv.knowledge.TransferSet({entity.key: (f"In {entity.name} it rains.",) for entity in self.entities})
        config = lens_fv.DistillConfig(epochs=1, n_anchors=0, rank=2)
        return lens_fv.distill(self.model, self.entities, transfer, config)


GIVEN = ("task", "model", "model_folder", "capable_model", "capable_tasks", "ranking", "vector", "library", "probes", "run")
GIVEN += ("trajectory", "entities", "update")


@pytest.fixture(scope="module")
def given(model_folder, tmp_path_factory):
    return Given(model_folder, tmp_path_factory.mktemp("given"))


@pytest.mark.parametrize("name", list(dict.fromkeys(public())))
def test_a_public_name_has_an_example(name):
    room, _, name = name.rpartition(".")
    assert ">>>" in (inspect.getdoc(getattr(import_module(room), name)) or "")


@pytest.mark.parametrize("where", EXAMPLES)
def test_the_example_runs(where, given, tmp_path):
    module = next(where.rsplit(".", n)[0] for n in (1, 2) if not where.rsplit(".", n)[0].rpartition(".")[2][0].isupper())
    names = {**vars(import_module(module)), "lens_fv": lens_fv, "torch": torch, "folder": tmp_path}
    words = set(re.findall(r"\w+", EXAMPLES[where]))
    names |= {name: getattr(given, name) for name in GIVEN if name in words}
    example = doctest.DocTestParser().get_doctest(EXAMPLES[where], names, where, None, 0)
    output: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=output.append).failed == 0, "".join(output)
