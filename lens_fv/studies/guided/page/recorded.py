"""A study of guided fine-tuning as it lies in its folder."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lens_fv.statistics import Estimate, estimate
from lens_fv.studies.guided.settings import GuidedSettings
from lens_fv.studies.page.recorded import RecordedStudy
from lens_fv.training import Trajectory


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


class Recorded(RecordedStudy):
    """What one model's folder holds; its settings are `GuidedSettings`, and the model."""

    study = "guided"

    @cached_property
    def runs(self) -> dict[str, dict[str, Metrics]]:
        """By method, by seed and sequence."""
        found: dict[str, dict[str, Metrics]] = {}
        for key, record in self.part("methods").items():
            seed, sequence, method = key.split("/", 2)
            found.setdefault(method, {})[f"{seed}/{sequence}"] = self._metrics(record, f"{seed}/{sequence}")
        return found

    @cached_property
    def ablations(self) -> dict[str, Metrics]:
        """By what was changed, of the first sequence with the first seed."""
        return {name: self._metrics(record, self.first) for name, record in self.part("ablations").items()}

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
    def trajectories(self) -> dict[str, Trajectory]:
        """By method, of the first sequence with the first seed."""
        files = sorted((self.folder / "trajectories").glob("*.safetensors"))
        return {file.stem: Trajectory.load(file) for file in files}

    @property
    def seconds(self) -> dict[str, float]:
        """Of training, by method, over those of plain low-rank fine-tuning of the same sequence and seed; the median."""
        records = self.part("methods")
        found: dict[str, list[float]] = {}
        for key, record in records.items():
            where, _, method = key.rpartition("/")
            plain = records.get(f"{where}/lora")
            if plain:
                found.setdefault(method, []).append(record["seconds"] / plain["seconds"])
        return {method: float(np.median(values)) for method, values in found.items()}

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


def _mean(items: list[list[float]]) -> float:
    """Over tasks of their shares."""
    return float(np.mean([np.mean(each) for each in items])) if items else float("nan")
