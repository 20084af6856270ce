"""Options that a dataclass states and a function takes as keywords."""

import inspect
from dataclasses import dataclass, fields
from typing import Literal

import pytest

from lens_fv import rank_heads
from lens_fv.core.choices import Count, checked
from lens_fv.core.options import option_help, takes_options
from lens_fv.errors import LensFVError
from lens_fv.heads import InstructionRankingConfig, RankingConfig, UniversalHeadsConfig
from lens_fv.heads.classes import ClassEffectsConfig
from lens_fv.vectors import TuneConfig


@checked
@dataclass(frozen=True, kw_only=True)
class Config:
    """Words and numbers.

    Attributes:
        n_trials: Number of trials,
            over all tasks.
        metric: Metric.
    """

    n_trials: Count = 25
    metric: Literal["prob", "logit"] = "prob"


@checked
@dataclass(frozen=True, kw_only=True)
class CountConfig(Config):
    """All options.

    Attributes:
        tags: Tags.

    Raises:
        LensFVError: never.
    """

    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LongerConfig(CountConfig):
    """Options of another function that calls `count`."""

    more: int = 0


@takes_options(CountConfig)
def count(model: str, task: str, options: CountConfig) -> str:
    """Count trials.

    Args:
        model: Model.
        task: Task.
        options: Keywords,
            all of them.

    Raises:
        LensFVError: always.
    """
    return f"{model} {task} {options.n_trials} {options.metric} {options.tags}"


def test_options_are_keywords_and_override_a_config():
    assert count("m", "t") == "m t 25 prob ()"
    assert count("m", "t", n_trials=3, tags=("a",)) == "m t 3 prob ('a',)"
    assert count("m", "t", CountConfig(n_trials=4, metric="logit"), metric="prob") == "m t 4 prob ()"
    assert count("m", "t", LongerConfig(tags=("a",)), n_trials=1) == "m t 1 prob ('a',)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_trails": 3}, "count(n_trails=...): it has no such option; did you mean 'n_trials'?"),
        ({"zzz": 3}, "count(zzz=...): it has no such option"),
        ({"metric": "logits"}, "count(metric='logits'): it has to be 'prob' or 'logit'; did you mean 'logit'?"),
        ({"n_trials": 0}, "count(n_trials=0): it has to be a whole number at least 1"),
    ],
)
def test_one_line_names_the_function_and_the_option(options, message):
    with pytest.raises(LensFVError) as error:
        count("m", "t", **options)
    assert str(error.value) == message


@pytest.mark.parametrize("positional", [(), ("m",), ("m", "t", None, 1)])
def test_a_call_without_model_or_data_is_pythons_own_error(positional):
    with pytest.raises(TypeError, match="positional argument"):
        count(*positional)


def test_model_data_and_config_may_be_keywords_but_not_twice():
    assert count(model="model", task="t", config=CountConfig(n_trials=4)) == "model t 4 prob ()"
    with pytest.raises(TypeError, match="multiple values for argument 'model'"):
        count("m", "t", model="other")


def test_signature_and_help_state_every_option():
    assert list(inspect.signature(count).parameters) == ["model", "task", "config", "n_trials", "metric", "tags"]
    assert inspect.signature(count).parameters["n_trials"].default == 25
    assert option_help(CountConfig) == {
        "n_trials": "Number of trials,\n        over all tasks.",
        "metric": "Metric.",
        "tags": "Tags.",
    }
    expected = [
        "Args:",
        "    model: Model.",
        "    task: Task.",
        "    config: `CountConfig` whose fields the keywords override.",
        "    n_trials: Number of trials,",
        "        over all tasks.",
        "    metric: Metric.",
        "    tags: Tags.",
        "",
        "Raises:",
    ]
    lines = inspect.getdoc(count).splitlines()
    start = lines.index("Args:")
    assert lines[start : start + len(expected)] == expected


@pytest.mark.parametrize(
    "config", [RankingConfig, InstructionRankingConfig, UniversalHeadsConfig, ClassEffectsConfig, TuneConfig]
)
def test_every_option_has_help(config):
    assert option_help(config).keys() == {field.name for field in fields(config)}


def test_help_of_a_ranking_describes_its_options():
    assert "    n_clean: Number of clean prompts" in inspect.getdoc(rank_heads)


def test_a_third_argument_that_is_no_config_of_the_function_is_refused():
    with pytest.raises(LensFVError, match=r"count\(config=Instruction.*\): it has to be a CountConfig"):
        count("model", "task", InstructionRankingConfig())
    with pytest.raises(LensFVError, match="it has to be a CountConfig"):
        count("model", "task", {"n_trials": 3})
