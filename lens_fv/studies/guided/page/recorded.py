"""A study of guided fine-tuning as it lies in its folder."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_fv.core.statistics import Estimate, estimate
from lens_fv.studies.guided.methods import CONTROLS, best, kept, method_of
from lens_fv.studies.guided.settings import GuidedSettings
from lens_fv.studies.page.recorded import RecordedStudy


class Metrics(NamedTuple):
    """Of continual learning, after Jiang et al. (2025): shares of items whose answer is written.

    Attributes:
        average: of trained tasks, each right after it was trained ("AP").
        final: of trained tasks at the end ("FP").
        forgetting: the first less the second ("Forget").
        general: of tasks that were not trained, at the end ("GP").
        in_context: the same with demonstrations ("IP").
        lost: of tasks that were not trained, what they had at the beginning less the end.
    """

    average: float
    final: float
    forgetting: float
    general: float
    in_context: float
    lost: float


METRICS = Metrics._fields
Followed = Mapping[str, NDArray[np.float64]]
"""By measure, "moments tasks"; see `training.means`."""


class Tried(NamedTuple):
    """Settings of a method, on the sequence to choose by.

    Attributes:
        method: its name.
        settings: what is set; "" if nothing else was tried.
        learned, held_out: share right at the end, of tasks learned and of all others.
        taken: what was tried with it keeps less.
    """

    method: str
    settings: str
    learned: float
    held_out: float
    taken: bool


SAME_STEPS = {"replay": "lora", "average": "lora", **{name: of for name, (of, _) in CONTROLS.items()}}
"""Methods whose steps are those of another."""


class Recorded(RecordedStudy):
    """What one model's folder holds; its settings are `GuidedSettings`, and the model."""

    study = "guided"

    @property
    def shown(self) -> dict[str, Any]:
        """The settings that the page lists: those of methods stand by what they were chosen by, ablations by what they did."""
        settings = {key: value for key, value in super().shown.items() if key not in ("methods", "ablations")}
        return {"seeds": settings.pop("seeds"), **settings.pop("ground"), **settings}

    @cached_property
    def runs(self) -> dict[str, dict[str, Metrics]]:
        """By method, by seed and sequence."""
        found: dict[str, dict[str, Metrics]] = {}
        for key, record in self.part("methods").items():
            seed, sequence, method = key.split("/", 2)
            found.setdefault(method, {})[f"{seed}/{sequence}"] = self._metrics(record, f"{seed}/{sequence}")
        return {name: found[name] for name in (*self.settings["methods"], *CONTROLS) if name in found}

    @cached_property
    def ablations(self) -> dict[str, Metrics]:
        """By what was changed, of the first sequence with the first seed."""
        return {name: self._metrics(record, self.first) for name, record in self.part("ablations").items()}

    def beside(self, name: str) -> tuple[Estimate, Estimate] | None:
        """An ablation less its method, over the items that both were asked: of tasks when learned, and of tasks held out."""
        now, was = self.part("ablations")[name], self.part("methods").get(f"{self.first}/{method_of(name)}")
        if was is None:
            return None
        held_out = [task for task in now["end"] if task not in now["trained"]]
        learned = [_less(now["after"][task][task], was["after"][task][task]) for task in now["trained"]]
        kept = [_less(now["end"][task], was["end"][task]) for task in held_out]
        return estimate(np.concatenate(learned).tolist()), estimate(np.concatenate(kept).tolist())

    @property
    def first(self) -> str:
        """The first seed and sequence that is reported."""
        sequences = [name for name in self.settings["ground"]["sequences"] if name != "choosing"]
        return f"{self.settings['seeds'][0]}/{sequences[0]}"

    def mean(self, method: str, metric: str) -> Estimate:
        """Over runs: sequences and seeds."""
        return estimate([getattr(each, metric) for each in self.runs[method].values()])

    def difference(self, method: str, other: str, metric: str) -> Estimate | None:
        """Of two methods over the runs that both have."""
        both = [key for key in self.runs[method] if key in self.runs.get(other, {})]
        values = [getattr(self.runs[method][key], metric) - getattr(self.runs[other][key], metric) for key in both]
        return estimate(values) if values else None

    @property
    def followed(self) -> dict[str, Followed]:
        """By method, of the first sequence with the first seed."""
        records = {key.rpartition("/")[2]: record for key, record in self.part("methods").items() if "followed" in record}
        return {
            method: {name: np.array(values) for name, values in record["followed"].items()}
            for method, record in records.items()
        }

    @property
    def costs(self) -> dict[str, tuple[float, float]]:
        """Time and memory of a step by method, beside a step of plain low-rank fine-tuning."""
        found = {step["method"]: (step["time_ratio"], step["memory_ratio"]) for step in self.part("costs").get("steps", ())}
        same = {name: found.get(of, found.get("lora")) for name, of in SAME_STEPS.items()}
        return found | {name: cost for name, cost in same.items() if cost}

    @property
    def tried(self) -> list[Tried]:
        """What settings were chosen by."""
        records = self.part("choosing")
        found: list[Tried] = []
        for name, each in self.settings["methods"].items():
            shares = [kept(records[f"{name}/{i}"]) for i in range(len(each)) if f"{name}/{i}" in records]
            said, taken = _differences(each), best(shares) if shares else None
            found += [Tried(name, said[i], *both, i == taken) for i, both in enumerate(shares)]
        return found

    @property
    def command(self) -> str | None:
        """The command that runs the same; None: its options cannot say it."""
        seeds = self.settings["seeds"]
        for quick in (False, True):
            said = GuidedSettings.chosen(quick=quick, first_seed=seeds[0], n_seeds=len(seeds)).said
            said["ground"].pop("seeds")
            if {**said, "model": self.settings["model"], "seeds": seeds} == self.settings:
                words = ["lens-fv reproduce guided", f"--model {self.settings['model']}", *["--quick"] * quick]
                return " ".join([*words, f"--seeds {len(seeds)} --seed {seeds[0]}"])
        return None

    def _metrics(self, record: Mapping[str, Any], where: str) -> Metrics:
        trained, end, begin = record["trained"], record["end"], self.part("begin")[where]["end"]
        others = [name for name in end if name not in trained]
        average = _mean([record["after"][name][name] for name in trained])
        final, general = _mean([end[name] for name in trained]), _mean([end[name] for name in others])
        in_context = _mean([record["context"][name] for name in others])
        return Metrics(average, final, average - final, general, in_context, _mean([begin[name] for name in others]) - general)


def _differences(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of several settings, what is not the same in all of them."""
    flat = [dict(_flat(each)) for each in settings]
    keys = [key for key in flat[0] if len({str(each.get(key)) for each in flat}) > 1]
    return [", ".join(f"{key} {each.get(key)}" for key in keys) for each in flat]


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield key, value


def _less(items: list[float], others: list[float]) -> NDArray[np.float64]:
    return np.subtract(items, others)


def _mean(items: list[list[float]]) -> float:
    """Over tasks of their shares."""
    return float(np.mean([np.mean(each) for each in items])) if items else float("nan")
