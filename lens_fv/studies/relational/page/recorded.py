"""A study of relations, read from its folder."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from lens_fv.studies.page.recorded import RecordedStudy
from lens_fv.studies.relational.settings import RelationalSettings
from lens_fv.tasks import load_task


class Recorded(RecordedStudy):
    """The content of one model's folder; the settings are `RelationalSettings` with the model's name and revision."""

    study = "relational"

    @cached_property
    def _tasks(self) -> dict[str, tuple[str, str]]:
        return {name: (task.group, task.family) for name in self.settings["relations"] for task in [load_task(name)]}

    @property
    def relations(self) -> list[str]:
        """Relations, ordered by group and family."""
        return sorted(self._tasks, key=lambda name: (*self._tasks[name], name))

    @property
    def groups(self) -> dict[str, str]:
        """Group by relation."""
        return {name: self._tasks[name][0] for name in self.relations}

    @property
    def families(self) -> dict[str, str]:
        """Family by relation."""
        return {name: self._tasks[name][1] for name in self.relations}


def having(runs: Sequence[Recorded], part: str) -> list[tuple[Recorded, dict[str, Any]]]:
    """The runs with records of a part, paired with these records."""
    return [(run, records) for run in runs for records in [run.part(part)] if records]


def command(runs: Sequence[Recorded]) -> str | None:
    """The command that repeats the runs; None if its options cannot express them."""
    s = {key: value for key, value in runs[0].settings.items() if key not in ("model", "revision")}
    if any({**run.settings, "model": 0, "revision": 0} != {**s, "model": 0, "revision": 0} for run in runs):
        return None
    words = ["lens-fv reproduce relational", *(f"--model {run.settings['model']}" for run in runs)]
    for quick in (False, True):
        usual = RelationalSettings.chosen(quick=quick)
        given = RelationalSettings.chosen(
            quick=quick,
            relations=tuple(s["relations"]),
            first_seed=s["seeds"][0],
            n_seeds=len(s["seeds"]),
            semeval=s["semeval"],
        )
        if json.loads(json.dumps(vars(given))) == s:
            tasks = () if given.relations == usual.relations else given.relations
            words += [f"--task {name}" for name in tasks] + ["--quick"] * quick
            words += [f"--seeds {len(given.seeds)} --seed {given.seeds[0]}", *(["--semeval FOLDER"] if given.semeval else [])]
            return " ".join(words)
    return None
