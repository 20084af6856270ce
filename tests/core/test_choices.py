"""No option takes what is none of its choices, or out of its range; found by reflection, so that none is forgotten."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints  # noqa: TID251 - to look for it

import jaxtyping
import numpy as np
import pandas
import pytest

import lens_fv
from lens_fv.core.artefact import Artefact
from lens_fv.core.choices import Count, Finite, Whole, checked
from lens_fv.core.results import Saved
from lens_fv.errors import LensFVError
from lens_fv.evaluation import alignment
from lens_fv.finetuning import regularizers
from lens_fv.tasks import Pair, Task
from lens_fv.vectors import baselines

ROOMS = [name for name in lens_fv.__all__ if inspect.ismodule(getattr(lens_fv, name))]
NO_OPTIONS = {
    "Checkpoint",
    "Branch.answers",
    "Confidence",
    "Entry",
    "Provenance",
    "Provenance.of",
    "Edit.check",
    "FinetuneRun.stage_folder",
    "Guide.around",
    "Guide.loss",
    "GuideConfig.strength",
    "LensModel.decode",
}
"""Numbers that lens_fv itself hands over, as it does an artefact's."""


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function, dataclass and method; what one inherits from lens_fv is its own."""
    rooms = [lens_fv, *(getattr(lens_fv, name) for name in ROOMS), baselines, alignment, regularizers]
    things = {name: getattr(room, name) for room in rooms for name in room.__all__}
    for name, thing in things.items():
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing):
            if dataclasses.is_dataclass(thing):
                yield name, thing
            for method in dir(thing):
                found = inspect.getattr_static(thing, method)
                found = getattr(found, "__func__", found)
                if inspect.isfunction(found) and found.__module__.startswith("lens_fv") and not method.startswith("_"):
                    yield f"{name}.{method}", found


def leaves(annotation: Any) -> Iterator[Any]:
    """What an option may be: the parts of unions; and of collections, of which a wrong value is a list."""
    if get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from leaves(part)
    else:
        yield annotation


def options() -> Iterator[tuple[str, Callable[..., Any], str, list[Any]]]:
    for name, thing in public():
        owner = thing.__init__ if inspect.isclass(thing) else thing
        hints = get_type_hints(inspect.unwrap(owner), include_extras=True, localns={**vars(lens_fv), "pd": pandas})
        if hasattr(thing, "__signature__"):  # options that a dataclass states
            hints |= {each.name: each.annotation for each in inspect.signature(thing).parameters.values()}
        for parameter in inspect.signature(thing).parameters.values():
            if parameter.name in hints:
                yield name, thing, parameter.name, list(leaves(hints[parameter.name]))


OPTIONS = list(options())
CHOICES = [(name, thing, option, parts) for name, thing, option, parts in OPTIONS if Literal in map(get_origin, parts)]
NUMBERS = [(name, thing, option, parts) for name, thing, option, parts in OPTIONS if Annotated in map(get_origin, parts)]


def refused(thing: Callable[..., Any], option: str, value: Any) -> str:
    """What is said of a value, in one line; whatever else the function needs is not asked for first."""
    is_method = next(iter(inspect.signature(thing).parameters), "") in ("self", "cls")
    with pytest.raises(LensFVError) as found:
        thing(*[None] * is_method, **{option: value})
    said = str(found.value)
    assert f"{option}=" in said
    assert "\n" not in said
    return said


@pytest.mark.parametrize(("name", "thing", "option", "parts"), CHOICES, ids=[f"{c[0]}-{c[2]}" for c in CHOICES])
def test_what_is_no_choice_is_refused_with_all_choices_and_the_nearest(name, thing, option, parts):
    choices = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    wrong = max(choices, key=len) + "s"
    said = refused(thing, option, wrong)
    assert all(repr(choice) in said for choice in choices)
    assert said.endswith(f"did you mean {get_close_matches(wrong, choices, n=1)[0]!r}?")


@pytest.mark.parametrize(("name", "thing", "option", "parts"), NUMBERS, ids=[f"{n[0]}-{n[2]}" for n in NUMBERS])
def test_numbers_out_of_range_are_refused(name, thing, option, parts):
    ranges = [get_args(part) for part in parts if get_origin(part) is Annotated]
    wrong: list[Any] = [math.nan, "one", *[1.5] * all(kind is int for kind, *_ in ranges)]
    for _, *bounds in ranges:
        for bound in bounds:
            wrong += [at - 1 for key in ("ge", "gt") if (at := getattr(bound, key, None)) is not None]
            wrong += [at + 1 for key in ("le", "lt") if (at := getattr(bound, key, None)) is not None]
    for value in wrong:
        assert "it has to be" in refused(thing, option, value)


def test_every_number_that_is_an_option_has_a_range():
    bare = {(name, option) for name, _, option, parts in OPTIONS if {int, float} & set(parts)}
    results = {name for name, thing in public() if inspect.isclass(thing) and issubclass(thing, Artefact | Saved)}
    assert {(name, option) for name, option in bare if name not in NO_OPTIONS | results} == set()
    assert len(CHOICES) > 60
    assert len(NUMBERS) > 150


@checked
def ask(
    metric: Literal["prob", "logit"] | None = None,
    *,
    kinds: Sequence[Literal["words", "answers"]] = (),
    start: Mapping[str, Literal["zero"]] | Literal["zero", "random"] | Task = "zero",
    layer: Whole | Sequence[Whole] | None = None,
    scale: Finite = 1.0,
    name: str | None = None,
) -> str:
    """Ask."""
    return f"{metric} {kinds} {start} {layer} {scale} {name}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "Logits"}, r"ask(metric='Logits'): it has to be 'prob', 'logit' or None; did you mean 'logit'?"),
        ({"metric": 3}, "ask(metric=3): it has to be 'prob', 'logit' or None"),
        (
            {"kinds": ["words", "answer"]},
            "ask(kinds=['words', 'answer']): it has to be 'words' or 'answers'; did you mean 'answers'?",
        ),
        (
            {"start": "extract"},
            "ask(start='extract'): it has to be 'zero', 'random', a Task, made by load_task or a mapping to 'zero'",
        ),
        ({"start": {"one": "zeros"}}, "ask(start={'one': 'zeros'}): it has to be 'zero'; did you mean 'zero'?"),
        ({"layer": [0, 1.5]}, "ask(layer=[0, 1.5]): it has to be a whole number"),
        ({"scale": math.inf}, "ask(scale=inf): it has to be a finite number"),
        ({"metric": "a\nb"}, r"ask(metric='a\nb'): it has to be 'prob', 'logit' or None"),
    ],
)
def test_one_line_says_what_it_has_to_be(options, said):
    with pytest.raises(LensFVError) as found:
        ask(**options)
    assert str(found.value) == said


def test_what_may_be_passed_is_passed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user has no type checker at run time
    task = Task("mine", (Pair("hot", ("cold",)),))
    assert ask("prob", kinds=("words",), layer=-1, name="any") == "prob ('words',) zero -1 1.0 any"
    assert ask(None, start=task, layer=[0, 2]).startswith(f"None () {task} [0, 2]")
    assert ask(layer=np.int64(3), scale=np.float32(2)).endswith("zero 3 2.0 None")
    assert ask(start={"one": "zero"}, scale=2).endswith("2 None")
    assert inspect.signature(ask).parameters["scale"].default == 1.0


def test_a_dataclass_is_checked_whenever_one_is_made():
    with pytest.raises(
        LensFVError, match=r"^FinetuneConfig\(update='LoRA'\): it has to be 'lora' or 'full'; did you mean 'lora'\?$"
    ):
        dataclasses.replace(lens_fv.FinetuneConfig(), update="LoRA")


def test_an_unknown_keyword_is_named_with_the_nearest():
    @checked
    def rank(*, n_trials: Count = 25) -> int:
        return n_trials

    @checked
    def rank_all(*, n_trials: Count = 25, **others: int) -> int:
        return n_trials + sum(others.values())

    assert rank(n_trials=3) == 3
    with pytest.raises(LensFVError, match=r"rank\(n_trails=...\): it has no such option; did you mean 'n_trials'\?"):
        rank(n_trails=3)  # pyright: ignore[reportCallIssue]
    assert rank_all(n_trails=3) == 28
