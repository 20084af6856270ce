"""Recorded results of the study of instructed tasks."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from lens_fv.core.files import file_name
from lens_fv.dynamics import ContinualMetrics, Trajectory, Verdict, continual_metrics, verdicts
from lens_fv.finetuning import FinetuneRun
from lens_fv.studies.instruction.settings import InstructionSettings
from lens_fv.studies.page.recorded import RecordedStudy


class Followed(NamedTuple):
    """One tracked run: a sequence with a seed.

    Attributes:
        seed, sequence: seed and name of the sequence.
        trained: tasks of the sequence, in order.
        path: trajectory of all tasks.
        verdicts: judgements at the end of the run.
    """

    seed: int
    sequence: str
    trained: tuple[str, ...]
    path: Trajectory
    verdicts: Sequence[Verdict]

    @property
    def metrics(self) -> ContinualMetrics | None:
        """Continual learning metrics; None if a trained task did not enter the study."""
        return continual_metrics(self.path, self.trained) if set(self.trained) <= set(self.path.tasks) else None

    @property
    def general_before(self) -> float:
        """Initial accuracy on the tasks that GP averages over, for comparison with GP."""
        present = self.path.present()
        others = [at for at, task in enumerate(self.path.tasks) if task not in self.trained and present[at]]
        return float(self.path.accuracy[0, others].mean())


class Recorded(RecordedStudy):
    """Results in one model's folder; its settings are `InstructionSettings` and the model."""

    study = "instruction"

    @cached_property
    def followed(self) -> list[Followed]:
        """Runs that were tracked to their end."""
        return list(self._followed())

    def _followed(self) -> Iterator[Followed]:
        for name in self.settings["sequences"]:
            for seed in self.settings["seeds"]:
                file = self.folder / f"{seed}-{file_name(name)}" / "trajectory.safetensors"
                if file.is_file():
                    path = Trajectory.load(file)
                    trained = tuple(FinetuneRun(file.parent / "run").tasks)
                    yield Followed(seed, name, trained, path, verdicts(path))

    @property
    def command(self) -> str | None:
        """Command that reproduces the run, or None if its options cannot express the settings."""
        s = self.settings
        for quick in (False, True):
            for sequences in (None, list(s["sequences"].values())):
                given = InstructionSettings.chosen(
                    quick=quick,
                    sequences=sequences,
                    n_heads=s["n_heads"],
                    first_seed=s["seeds"][0],
                    n_seeds=len(s["seeds"]),
                )
                if {"model": s["model"], **given.said} == s:
                    words = ["lens-fv reproduce instruction", f"--model {s['model']}"]
                    words += [f"--sequence {','.join(tasks)}" for tasks in sequences or ()] + ["--quick"] * quick
                    words += [f"--n-heads {given.n_heads}"] * (given.n_heads != InstructionSettings.n_heads)
                    return " ".join([*words, f"--seeds {len(s['seeds'])} --seed {s['seeds'][0]}"])
        return None
