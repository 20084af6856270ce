"""The guide in transformers' Trainer: a loop of one's own does the same, and without weights it does nothing."""

import logging
from dataclasses import replace
from functools import partial

import pytest
import torch
from test_guide import adapted, batch, vector_of
from transformers import Trainer

from lens_fv.finetuning.examples import collated
from lens_fv.finetuning.regularizers import Guide, GuideConfig, guided
from lens_fv.finetuning.regularizers.hook_points import IGNORED
from lens_fv.finetuning.trainer import trainer_arguments

SETTINGS = GuideConfig(intervene=-1.0, distill=1.0, distill_all=0.1, heads=1.0, site="heads")


def examples():
    """Rows of different lengths."""
    rng, rows = torch.Generator().manual_seed(1), []
    for n in (6, 4, 7, 5):
        ids = torch.randint(1, 300, (n,), generator=rng).tolist()
        rows.append({"input_ids": ids, "labels": [IGNORED] * (n - 2) + ids[-2:]})
    return rows


@pytest.fixture
def trained(huggingface_model, tiny_model, tmp_path):
    """`trained(settings, steps=...)`: the updates behind a run, and the Trainer; settings None: plain Trainer."""

    def run(settings, *, steps=3, batch_size=2, accumulation=1, folder="run", save=None, resume=None):
        model = adapted(huggingface_model("llama"), trained=False)
        arguments = trainer_arguments(
            tmp_path / folder,
            "cpu",
            steps,
            save,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            seed=0,
        )
        options = {"model": model, "args": arguments, "train_dataset": examples(), "data_collator": partial(collated, pad=0)}
        if settings is None:
            trainer = Trainer(**options)
        else:
            guide = Guide(model, vector_of(tiny_model("llama")), settings)
            trainer = guided(Trainer)(**options, guide=guide)
        trainer.train(resume_from_checkpoint=resume)
        return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}, trainer

    return run


def test_without_weights_it_is_plain_training_to_the_bit(trained):
    plain, _ = trained(None)
    idle, trainer = trained(GuideConfig())
    other, _ = trained(SETTINGS)
    assert type(trainer).__name__ == "GuidedTrainer"
    assert all(torch.equal(plain[name], idle[name]) for name in plain)
    assert not all(torch.equal(plain[name], other[name]) for name in plain)


def test_a_run_is_the_loop_by_hand(trained, huggingface_model, tiny_model):
    steps, found = 3, trained(SETTINGS, batch_size=4)[0]
    model = adapted(huggingface_model("llama"), trained=False).train()
    guide = Guide(model, vector_of(tiny_model("llama")), SETTINGS)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    whole = collated(examples(), 0)  # the order of rows does not matter
    for step in range(steps):
        optimiser.zero_grad()
        guide.loss(model, whole, fraction=step / steps).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # as Trainer does unless told otherwise
        optimiser.step()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.detach(), atol=2e-4, rtol=1e-2)


def test_batches_of_a_step_add_up(trained):
    settings = replace(SETTINGS, distill_all=0.0)
    whole, in_parts = trained(settings, batch_size=4)[0], trained(settings, batch_size=2, accumulation=2)[0]
    for name in whole:
        torch.testing.assert_close(whole[name], in_parts[name], atol=2e-4, rtol=1e-2)


def test_evaluation_is_not_guided(trained):
    _, trainer = trained(SETTINGS)
    inputs = batch()
    trainer.model.eval()
    with torch.no_grad():
        expected = trainer.model(**inputs).loss
        torch.testing.assert_close(trainer.compute_loss(trainer.model, inputs), expected)


def test_maps_are_learned_and_a_run_that_was_stopped_goes_on_with_them(trained, tmp_path):
    settings = GuideConfig(heads=5.0, learn_projection=True)
    found, trainer = trained(settings, steps=4)
    maps = trainer.guide.maps
    assert len(maps) == 3
    assert not any(torch.equal(each, torch.eye(len(each))) for each in maps.values())
    trained(settings, steps=4, folder="stopped", save=2)
    again, resumed = trained(settings, steps=4, folder="stopped", save=2, resume=str(tmp_path / "stopped" / "checkpoint-2"))
    for name in found:
        torch.testing.assert_close(again[name], found[name], rtol=0, atol=0)
    for name, value in resumed.guide.maps.items():
        torch.testing.assert_close(value, maps[name], rtol=0, atol=0)


def test_a_gate_that_never_opens_is_said_at_the_end(trained, caplog):
    with caplog.at_level(logging.WARNING):
        trained(replace(SETTINGS, heads_gate=1e6))
    said = [record.getMessage() for record in caplog.records if record.name.startswith("lens_fv")]
    assert said == ["guide: the gate of heads never opened in 3 steps; lower it, or leave the term out"]
