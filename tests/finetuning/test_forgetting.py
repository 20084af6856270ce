"""Methods against forgetting: guides, penalties, replay, and interpolation with the initial weights."""

import sys
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import pytest
import torch
from helpers import toy_task
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lens_fv.errors import LensFVError
from lens_fv.finetuning import FinetuneConfig, FinetuneRun, finetune, instruction_swapped_prompts, interpolate_weights
from lens_fv.finetuning.forgetting import with_replay
from lens_fv.finetuning.regularizers import PRESETS, GuideConfig
from lens_fv.heads import rank_instruction_heads
from lens_fv.model import load_model
from lens_fv.model.quiet import quiet_logs
from lens_fv.tasks import split_pairs
from lens_fv.vectors import extract, random_like

SMALL = FinetuneConfig(n_examples=8, batch_size=4, n_checkpoints=2, learning_rate=1e-2, rank=2)
TASKS = [replace(toy_task(name=name), instructions=(f"Say {name}.", f"Write {name}.")) for name in ("one", "two", "three")]


@pytest.fixture(scope="module")
def vectors(model_folder):
    model = load_model(str(model_folder))
    few = {"n_clean": 2, "n_trials": 1}
    return {task.name: extract(model, task, rank_instruction_heads(model, task, **few), n_heads=3) for task in TASKS}


def updates(checkpoint):
    return load_file(checkpoint.folder / "adapter_model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_replay_takes_the_place_of_some_examples():
    examples = [[{"input_ids": [10 * t + i]} for i in range(10)] for t in range(3)]
    mixed = with_replay(examples, 0.3, 0)
    assert mixed[0] == examples[0]
    for t in (1, 2):
        tasks = [example["input_ids"][0] // 10 for example in mixed[t]]
        assert (len(tasks), tasks.count(t)) == (10, 7)
        assert max(tasks) == t
    assert with_replay(examples, 0.0, 0) == examples
    assert with_replay(examples, 0.3, 0) == mixed


def test_a_guide_without_weights_is_plain_fine_tuning_to_the_bit(model_folder, vectors, tmp_path):
    runs = [
        finetune(model_folder, TASKS[:2], tmp_path / name, replace(SMALL, guide=guide), vectors=vectors)
        for name, guide in (("plain", None), ("idle", GuideConfig()), ("guided", PRESETS["iv"]))
    ]
    plain, idle, guided = (updates(run.checkpoint()) for run in runs)
    assert same(plain, idle)
    assert not same(plain, guided)


@pytest.mark.parametrize(
    "methods",
    [
        {"guide": replace(PRESETS["fv"], learn_projection=True, distill_gate=0.0, heads_gate=0.0), "replay": 0.25},
        {"guide": PRESETS["lwf"], "ewc": 10.0, "fisher": "example"},
        {"guide": replace(PRESETS["swap"], swap_heads=1.0)},
        {"orthogonal": 0.5},
    ],
)
@pytest.mark.parametrize("steps", [2, 3])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(model_folder, vectors, tmp_path, monkeypatch, methods, steps):
    """Stopped after the first task, or in the middle of the second."""
    settings = replace(SMALL, **methods)
    whole = finetune(model_folder, TASKS, tmp_path / "whole", settings, vectors=vectors)

    @contextmanager
    def stopping(*_, **__):
        turns = count()

        def tick():
            if next(turns) == steps:
                raise KeyboardInterrupt

        yield tick

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["lens_fv.finetuning.finetune"], "progress_bar", stopping)
        with pytest.raises(KeyboardInterrupt):
            finetune(model_folder, TASKS, tmp_path / "stopped", settings, vectors=vectors)
    assert len(FinetuneRun(tmp_path / "stopped").checkpoints) == steps
    resumed = finetune(model_folder, TASKS, tmp_path / "stopped", settings)
    for checkpoint in whole.checkpoints:
        assert same(updates(checkpoint), updates(resumed.checkpoint(checkpoint.name))), checkpoint.name


def test_each_task_has_updates_of_its_own(model_folder, tmp_path):
    run = finetune(model_folder, TASKS[:2], tmp_path / "run", replace(SMALL, orthogonal=0.1))
    first, last = updates(run.checkpoint("0-one/2")), updates(run.checkpoint())
    for name, value in last.items():
        before = first[name]
        one, two = (slice(0, 2), slice(2, 4)) if "lora_A" in name else ((slice(None), slice(0, 2)), (slice(None), slice(2, 4)))
        assert torch.equal(value[one], before[one]), name
        assert not torch.equal(value[two], before[two]), name
        if "lora_B" in name:
            assert before[one].any()
            assert not before[two].any()


def test_interpolated_weights_are_halfway(model_folder, tmp_path):
    run = finetune(model_folder, TASKS[:1], tmp_path / "run", SMALL)
    half = interpolate_weights(run, tmp_path / "half", share=0.5)
    assert [c.name for c in half.checkpoints] == [c.name for c in run.checkpoints]
    initial = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).state_dict()

    def weights(checkpoint):
        model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        with quiet_logs():
            return PeftModel.from_pretrained(model, str(checkpoint.folder)).merge_and_unload().state_dict()

    for one, other in zip(run.checkpoints, half.checkpoints, strict=True):
        tuned, interpolated = weights(one), weights(other)
        for name, value in interpolated.items():
            torch.testing.assert_close(value, (initial[name] + tuned[name]) / 2, atol=1e-6, rtol=1e-5)
    for share, message in ((0.0, "share=0.0.*above 0"), (1.5, "share=1.5.*at most 1")):
        with pytest.raises(LensFVError, match=message):
            interpolate_weights(run, tmp_path / "other", share=share)
    with pytest.raises(LensFVError, match="there already"):
        interpolate_weights(run, tmp_path / "half")


def test_random_vectors_keep_heads_and_lengths(vectors):
    vector = vectors["one"].at(scale=2.0)
    control = random_like(vector, seed=3, heads=True)
    assert control.heads == vector.heads
    torch.testing.assert_close(control.head_outputs.norm(dim=-1), 2 * vector.head_outputs.norm(dim=-1))
    torch.testing.assert_close(control.vector.norm(), 2 * vector.vector.norm())
    assert not torch.allclose(control.head_outputs, 2 * vector.head_outputs)
    assert torch.equal(random_like(vector, seed=3).vector, control.vector)


def test_bad_requests(model_folder, tiny_model, vectors, tmp_path):
    settings = replace(SMALL, guide=PRESETS["iv"])
    with pytest.raises(LensFVError, match="no vector of it"):
        finetune(model_folder, TASKS[:2], tmp_path / "a", settings, vectors={"one": vectors["one"]})
    with pytest.raises(LensFVError, match="no vector of it"):  # the vectors kept for that run are not those of this one
        finetune(model_folder, TASKS[:1], tmp_path / "a", settings)
    for change, message in (({"model": "elsewhere"}, "made on elsewhere"), ({"weight_processing": "compat"}, "weights compat")):
        other = replace(vectors["one"], provenance=replace(vectors["one"].provenance, **change))
        with pytest.raises(LensFVError, match=f"the vector was .*{message}"):
            finetune(model_folder, TASKS[:1], tmp_path / "b", settings, vectors={"one": other})
    begun = finetune(model_folder, TASKS[:1], tmp_path / "b", replace(settings, epochs=2), vectors=vectors)
    assert begun.about["settings"]["epochs"] == 2, "nothing had been trained yet"
    finetune(model_folder, TASKS[:1], tmp_path / "c", settings, vectors=vectors)
    with pytest.raises(LensFVError, match="guided by another vector of one"):
        finetune(model_folder, TASKS[:1], tmp_path / "c", settings, vectors={"one": random_like(vectors["one"])})
    for options, message in (
        ({"update": "full", "guide": PRESETS["iv"]}, "takes low-rank updates"),
        ({"update": "full", "orthogonal": 1.0}, "takes low-rank updates"),
        ({"mixed": True, "ewc": 1.0}, "there are none"),
        ({"replay": 1.0}, "replay=1.0"),
        ({"ewc": -1.0}, "ewc=-1.0"),
    ):
        with pytest.raises(LensFVError, match=message):
            FinetuneConfig(**options)


def test_swapped_prompts_are_inputs_after_other_instructions(tiny_model):
    model, settings = tiny_model("llama"), replace(SMALL, n_examples=40)
    prompts = instruction_swapped_prompts(model, TASKS[0], TASKS, settings)
    texts = [model.tokenizer.decode(prompt) for prompt in prompts]
    inputs, unseen = split_pairs(TASKS[0], seed=settings.seed).train, split_pairs(TASKS[0], seed=settings.seed).test
    assert len(prompts) == 40
    for text in texts:
        assert [name for name in ("one", "two", "three") if f" {name}." in text] in (["two"], ["three"])
        assert any(pair.input in text for pair in inputs)
        assert not any(f" {pair.input}\n" in text for pair in unseen)
    assert any("two" in text for text in texts)
    assert any("three" in text for text in texts)
    assert prompts == instruction_swapped_prompts(model, TASKS[0], TASKS, settings)
    assert prompts != instruction_swapped_prompts(model, TASKS[0], TASKS, replace(settings, seed=1))
    with pytest.raises(LensFVError, match="put one after the instructions of 1 tasks: they have none"):
        instruction_swapped_prompts(model, TASKS[0], TASKS[:1], settings)


def test_a_run_says_whose_instructions_it_was_guided_by(model_folder, tmp_path):
    settings = replace(SMALL, guide=PRESETS["swap"])
    run = finetune(model_folder, TASKS[:1], tmp_path / "run", settings, swap_tasks=TASKS)
    assert run.about["swap_tasks"] == ["two", "three"]
    assert not same(
        updates(run.checkpoint()), updates(finetune(model_folder, TASKS[:1], tmp_path / "plain", SMALL).checkpoint())
    )
    with pytest.raises(LensFVError, match=r"swap_tasks \['two', 'three'\] \(requested: \['two'\]\)"):
        finetune(model_folder, TASKS[:1], tmp_path / "run", settings, swap_tasks=TASKS[:2])
    with pytest.raises(LensFVError, match="there are 0"):
        finetune(model_folder, TASKS[:1], tmp_path / "none", settings, swap_tasks=TASKS[:1])
