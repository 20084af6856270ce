"""The fitting loop, against a loop of torch written out."""

import math

import pytest
import torch
from helpers import toy_task
from torch.nn import Parameter

from lens_fv.composition import TuneRecipe, fit_map
from lens_fv.errors import LensFVError
from lens_fv.tasks import split_pairs
from lens_fv.vectors import TuneConfig, extract, tune, tune_many
from lens_fv.vectors.fitting import Best, fit

TARGET = torch.tensor([1.0, -2.0, 3.0])


def by_hand(steps: int, learning_rate: float, cosine: bool) -> list[torch.Tensor]:
    """The parameter before each step, and after the last."""
    x = Parameter(torch.zeros(3))
    optimiser = torch.optim.Adam([x], lr=learning_rate)
    seen = [x.detach().clone()]
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * (0.5 + 0.5 * math.cos(math.pi * step / steps) if cosine else 1.0)
        optimiser.zero_grad()
        (x - TARGET).square().sum().backward()
        optimiser.step()
        seen.append(x.detach().clone())
    return seen


@pytest.mark.parametrize("cosine", [True, False])
def test_steps_are_adams(cosine):
    x, seen = Parameter(torch.zeros(3)), {}

    def check(step: int) -> None:
        assert not torch.is_grad_enabled()
        seen[step] = x.detach().clone()

    fit([x], lambda: (x - TARGET).square().sum(), check, steps=12, context="it", learning_rate=0.3, cosine=cosine)
    expected = by_hand(12, 0.3, cosine)
    assert list(seen) == [0, 5, 10, 12]
    for step, value in seen.items():
        torch.testing.assert_close(value, expected[step])


def test_independent_runs_train_as_if_alone():
    """Two runs, of which the sum of the losses is minimised."""
    both, alone = Parameter(torch.zeros(2, 3)), Parameter(torch.zeros(3))
    targets = torch.stack([TARGET, 10 * TARGET])
    fit([both], lambda: (both - targets).square().sum(1), lambda step: None, steps=7, context="two")
    fit([alone], lambda: (alone - targets[1]).square().sum(), lambda step: None, steps=7, context="one")
    torch.testing.assert_close(both[1], alone)


def test_the_best_step_and_candidate_are_kept():
    scores = {0: [1.0, 0.0], 1: [0.0, math.nan], 2: [2.0, 3.0], 3: [3.0, 3.0]}
    x, best = Parameter(torch.zeros(3)), Best[str]()

    def check(step: int) -> None:
        best.update(step, torch.tensor(scores[step]), lambda candidate: f"{candidate} at {step}")

    fit([x], lambda: x.sum(), check, steps=3, context="it", checks=range(4))
    assert (best.score, best.step, best.candidate, best.require("it")) == (3.0, 2, 1, "1 at 2")
    assert best.options == {"best_step": 2, "validation_logprob": 3.0}


def test_a_check_ends_training():
    x, steps = Parameter(torch.zeros(3)), []

    def check(step: int) -> bool:
        steps.append(step)
        return step < 2

    fit([x], lambda: x.square().sum(), check, steps=9, context="it", checks=range(10))
    assert steps == [0, 1, 2]


def test_a_loss_that_is_not_finite_is_named_with_its_run_and_step():
    x, calls = Parameter(torch.zeros(2)), []

    def loss() -> torch.Tensor:
        calls.append(0)
        return x.square() * torch.tensor([1.0, math.inf if len(calls) == 4 else 1.0])

    with pytest.raises(LensFVError, match="tuning second: the loss is nan at step 3, after finite ones; lower the learning"):
        fit([x], loss, lambda step: None, steps=9, context="tuning", names=["first", "second"])
    with pytest.raises(LensFVError, match="it: the loss is nan before anything is learned"):
        fit([x], lambda: x.sum() * math.nan, lambda step: None, steps=9, context="it")


def test_without_a_finite_score_there_is_no_result():
    best = Best[int]()
    best.update(0, torch.tensor([math.nan, 1.0]), int)
    best.update(1, torch.tensor([-math.inf, -math.inf]), int)
    with pytest.raises(LensFVError, match="it: no step gives the held-out answers a finite score"):
        best.require("it")


def test_settings_are_keywords_or_a_config(tiny_model):
    """A keyword overrides the config; what is neither a setting nor in range is refused."""
    model, task = tiny_model("llama"), toy_task()
    one = tune(model, task, n_pairs=4, steps=3, layers=1, learning_rate=0.2)
    other = tune(model, task, TuneConfig(n_pairs=4, steps=2, layers=1, learning_rate=0.2), steps=3)
    assert torch.equal(one.vector, other.vector)
    assert one.provenance.options == other.provenance.options
    with pytest.raises(LensFVError, match=r"tune\(step=...\): it has no such option; did you mean 'steps'"):
        tune(model, task, step=3)
    with pytest.raises(LensFVError, match=r"tune_many\(steps=0\): it has to be .* at least 1"):
        tune_many(model, [task], steps=0)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (fit_map, {"epoch": 1}, r"fit_map\(epoch=...\): it has no such option; did you mean 'epochs'\?"),
        (fit_map, {"epochs": 0}, r"fit_map\(epochs=0\): it has to be"),
        (extract, {"layers": 1}, r"extract\(layers=...\): .* did you mean 'layer'\?"),
        (TuneRecipe, {"step": 1}, r"TuneRecipe\(step=...\): .* did you mean 'steps'\?"),
    ],
)
def test_unknown_keywords_are_named_with_the_nearest(function, options, message):
    with pytest.raises(LensFVError, match=message):
        function(**options)


def test_what_several_tasks_cannot_share_is_refused(tiny_model):
    model, tasks = tiny_model("llama"), [toy_task(name="one"), toy_task(name="two")]
    with pytest.raises(LensFVError, match="on one split: give a mapping"):
        tune_many(model, tasks, split=split_pairs(tasks[0], seed=0))
    with pytest.raises(LensFVError, match="tune two: the initial values are those of one"):
        tune_many(model, tasks, init={"one": "zero"})
    for options in ({"layers": []}, {"learning_rate": []}):
        with pytest.raises(LensFVError, match="none given"):
            tune(model, tasks[0], **options)
