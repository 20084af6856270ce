"""Recorded results of the study of guided fine-tuning."""

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
    """Continual learning metrics, after Jiang et al. (2025); accuracies are shares of items answered correctly.

    Attributes:
        average: accuracy of the trained tasks, each right after its training ("AP").
        final: accuracy of the trained tasks at the end ("FP").
        forgetting: `average` minus `final` ("Forget").
        general: accuracy of the tasks that were not trained, at the end ("GP").
        in_context: the same as `general`, with demonstrations ("IP").
        lost: initial accuracy of the tasks that were not trained, minus `general`.
    """

    average: float
    final: float
    forgetting: float
    general: float
    in_context: float
    lost: float


METRICS = Metrics._fields
Followed = Mapping[str, NDArray[np.float64]]
"""Values by measure, "moments tasks"; see `training.means`."""


class Tried(NamedTuple):
    """Candidate settings of a method, with results on the tuning sequence.

    Attributes:
        method: name of the method.
        settings: settings that differ between candidates; empty for a single candidate.
        learned, held_out: final accuracy on the trained tasks and on all others.
        taken: whether these settings were chosen.
    """

    method: str
    settings: str
    learned: float
    held_out: float
    taken: bool


SAME_STEPS = {"replay": "lora", "average": "lora", **{name: of for name, (of, _) in CONTROLS.items()}}
"""Methods with the same steps, and so the same costs, as another method."""


class Recorded(RecordedStudy):
    """Results in one model's folder; its settings are `GuidedSettings` and the model."""

    study = "guided"

    @property
    def shown(self) -> dict[str, Any]:
        """Settings listed on the page, without those of methods and ablations, which appear next to their results."""
        settings = {key: value for key, value in super().shown.items() if key not in ("methods", "ablations")}
        return {"seeds": settings.pop("seeds"), **settings.pop("ground"), **settings}

    @cached_property
    def runs(self) -> dict[str, dict[str, Metrics]]:
        """Metrics by method, and by seed and sequence."""
        found: dict[str, dict[str, Metrics]] = {}
        for key, record in self.part("methods").items():
            seed, sequence, method = key.split("/", 2)
            found.setdefault(method, {})[f"{seed}/{sequence}"] = self._metrics(record, f"{seed}/{sequence}")
        return {name: found[name] for name in (*self.settings["methods"], *CONTROLS) if name in found}

    @cached_property
    def ablations(self) -> dict[str, Metrics]:
        """Metrics by ablation, for the first sequence and seed."""
        return {name: self._metrics(record, self.first) for name, record in self.part("ablations").items()}

    def beside(self, name: str) -> tuple[Estimate, Estimate] | None:
        """Return an ablation's difference from its method, after learning and on held-out tasks, over items that both have."""
        now, was = self.part("ablations")[name], self.part("methods").get(f"{self.first}/{method_of(name)}")
        if was is None:
            return None
        held_out = [task for task in now["end"] if task not in now["trained"]]
        learned = [_less(now["after"][task][task], was["after"][task][task]) for task in now["trained"]]
        kept = [_less(now["end"][task], was["end"][task]) for task in held_out]
        return estimate(np.concatenate(learned).tolist()), estimate(np.concatenate(kept).tolist())

    @property
    def first(self) -> str:
        """The first seed and reported sequence."""
        sequences = [name for name in self.settings["ground"]["sequences"] if name != "choosing"]
        return f"{self.settings['seeds'][0]}/{sequences[0]}"

    def mean(self, method: str, metric: str) -> Estimate:
        """Return a metric's mean over runs, that is, over sequences and seeds."""
        return estimate([getattr(each, metric) for each in self.runs[method].values()])

    def difference(self, method: str, other: str, metric: str) -> Estimate | None:
        """Return the mean difference between two methods over their common runs."""
        both = [key for key in self.runs[method] if key in self.runs.get(other, {})]
        values = [getattr(self.runs[method][key], metric) - getattr(self.runs[other][key], metric) for key in both]
        return estimate(values) if values else None

    @property
    def followed(self) -> dict[str, Followed]:
        """Tracked measures by method, for the first sequence and seed."""
        records = {key.rpartition("/")[2]: record for key, record in self.part("methods").items() if "followed" in record}
        return {
            method: {name: np.array(values) for name, values in record["followed"].items()}
            for method, record in records.items()
        }

    @property
    def costs(self) -> dict[str, tuple[float, float]]:
        """Time and memory per step by method, relative to plain low-rank fine-tuning."""
        found = {step["method"]: (step["time_ratio"], step["memory_ratio"]) for step in self.part("costs").get("steps", ())}
        same = {name: found.get(of, found.get("lora")) for name, of in SAME_STEPS.items()}
        return found | {name: cost for name, cost in same.items() if cost}

    @property
    def tried(self) -> list[Tried]:
        """Results that the settings were chosen by."""
        records = self.part("choosing")
        found: list[Tried] = []
        for name, each in self.settings["methods"].items():
            shares = [kept(records[f"{name}/{i}"]) for i in range(len(each)) if f"{name}/{i}" in records]
            said, taken = _differences(each), best(shares) if shares else None
            found += [Tried(name, said[i], *both, i == taken) for i, both in enumerate(shares)]
        return found

    @property
    def command(self) -> str | None:
        """Command that reproduces the run, or None if its options cannot express the settings."""
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
    """Describe the values that differ between several settings."""
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
    """Average over tasks of the tasks' mean scores."""
    return float(np.mean([np.mean(each) for each in items])) if items else float("nan")
