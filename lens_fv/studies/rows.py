"""Rows: the results of a study, one JSON line for each job. A job is what is resumed, and what one worker claims."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lens_fv.core.files import explain_disk_errors, file_lock, file_name, lock_file
from lens_fv.core.json_files import parse_json, record
from lens_fv.errors import LensFVError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("model", "part", "seed", "job", "unit", "condition", "measure", "item", "value", "n")
"""Columns of the table of all rows."""
REMEDY = "delete the line; its job is run again"


class Row(NamedTuple):
    """A measured value, or the values of all items of a unit.

    Attributes:
        unit: What intervals are taken over: a relation, task or entity.
        condition: What was done: "tuned", "lora", "definition".
        measure: Name of the measure, with its unit where it has one: "top1_accuracy", "logprob_per_token_nats".
        value: The value, or one value for each item (test pair, probe, analogy, layer); None: not measured.
        n: Number of observations that each value summarizes.
    """

    unit: str
    condition: str
    measure: str
    value: float | Sequence[float | None] | None
    n: int = 1


@dataclass(frozen=True)
class Job:
    """A piece of work that yields rows; it is computed completely or not at all.

    Attributes:
        part: Part of the study that it belongs to.
        name: Its name within the part and seed.
        run: Computes the rows.
        seed: Seed of splits, prompts and random draws.
    """

    part: str
    name: str
    run: Callable[[], Iterable[Row]]
    seed: int = 0


def part(
    arguments: Callable[[Any], Iterable[tuple[Any, ...]]],
) -> Callable[[Callable[..., Iterable[Row]]], Callable[[Any], Iterator[Job]]]:
    """Turn a function that computes the rows of one job into a part of a study, which yields its jobs.

    The part has the function's name. The function is called with the study and a job's arguments.

    Args:
        arguments: Returns the arguments of each job: a seed, and what names the job when joined by "/".
    """

    def decorate(rows: Callable[..., Iterable[Row]]) -> Callable[[Any], Iterator[Job]]:
        def jobs(study: Any) -> Iterator[Job]:
            for seed, *names in arguments(study):
                yield Job(rows.__name__, "/".join(map(str, names)), partial(rows, study, seed, *names), seed)

        jobs.__doc__ = rows.__doc__
        return jobs

    return decorate


@dataclass(frozen=True)
class Line:
    """The JSON line of a finished job.

    Raises:
        LensFVError: a value is not finite: it would not count in any mean.
    """

    model: str
    settings_hash: str
    part: str
    seed: int
    job: str
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        """Refuse values that are not finite."""
        for unit, condition, measure, value, _ in self.rows:
            values = value if isinstance(value, Sequence) else (value,)
            if not all(number is None or math.isfinite(number) for number in values):
                raise LensFVError(
                    f"study: {self.part}/{self.job} has a value that is not finite ({unit}, {condition}, {measure}); "
                    "None means not measured"
                )

    @property
    def key(self) -> tuple[str, int, str]:
        """Part, seed and name of the job."""
        return self.part, self.seed, self.job


class RowStore:
    """The rows of one model's run, in one file of JSON lines. Several workers may add to it at once.

    Args:
        path: File of the rows.
        model: Name of the model; rows of another one are refused.
        settings_hash: Hash of the settings; rows made with other settings are refused.

    Raises:
        LensFVError: the file is damaged, or holds rows of another model or made with other settings.
    """

    def __init__(self, path: Path, model: str, settings_hash: str) -> None:
        self._path, self._model, self._hash = path, model, settings_hash
        self._lines: dict[tuple[str, int, str], Line] = {}
        self._read_to = 0
        self._refresh()

    def __contains__(self, job: Job) -> bool:
        return (job.part, job.seed, job.name) in self._lines

    def lines(self) -> list[Line]:
        """All finished jobs, in the order in which they were added."""
        return list(self._lines.values())

    def rows(self, part: str, job: str, *, seed: int = 0) -> list[Row]:
        """The rows of a finished job; none if it is not finished."""
        line = self._lines.get((part, seed, job))
        return list(line.rows) if line else []

    def frame(self) -> "pd.DataFrame":
        """All rows as a tidy table with `COLUMNS`: one value per line, with items counted from 0 within a row."""
        import pandas as pd

        table = pd.DataFrame(
            [(line.model, line.part, line.seed, line.job, *row) for line in self.lines() for row in line.rows],
            columns=[column for column in COLUMNS if column != "item"],
        ).explode("value")
        table["item"] = table.groupby(level=0).cumcount()
        return table.reindex(columns=list(COLUMNS)).astype({"value": float}).reset_index(drop=True)

    def compute(self, job: Job, *, wait: bool = False) -> bool:
        """Compute a job and add its rows, unless they are there.

        Args:
            job: The job.
            wait: Wait for another worker that has claimed the job; default: leave it to the other one.

        Returns:
            Whether the job's rows are there.

        Raises:
            LensFVError: a value that is not finite, or whatever the job raises.
        """
        name = file_name(f"{job.part}-{job.seed}-{job.name}")
        with lock_file(self._path.parent / ".claims" / f"{name}.lock", wait=wait) as claimed:
            self._refresh()
            if claimed and job not in self:
                self._append(Line(self._model, self._hash, job.part, job.seed, job.name, tuple(job.run())))
                self._refresh()
        return job in self

    def _append(self, line: Line) -> None:
        """Add a line, over the part of a line that a killed worker may have written."""
        text = json.dumps(vars(line), ensure_ascii=False, separators=(",", ":"))
        with (
            file_lock(self._path),
            explain_disk_errors(f"write {self._path}", otherwise="make room; the study resumes from here"),
        ):
            self._refresh()
            with self._path.open("r+b" if self._path.exists() else "wb") as file:
                file.truncate(self._read_to)
                file.seek(self._read_to)
                file.write(f"{text}\n".encode())
                file.flush()
                os.fsync(file.fileno())

    def _refresh(self) -> None:
        """Read the lines that were added since the last time; a line without its end is not read."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._read_to)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        context = f"read the rows of a study in {self._path}"
        for encoded in complete.split(b"\n")[:-1]:  # names may hold other characters that end a line
            try:
                text = encoded.decode()
            except UnicodeDecodeError as error:
                raise LensFVError(f"{context}: not UTF-8 text; {REMEDY}") from error
            line = record(Line, parse_json(text, context, remedy=REMEDY), context, remedy=REMEDY)
            if (line.model, line.settings_hash) != (self._model, self._hash):
                other = f"the model {line.model}" if line.model != self._model else "other settings"
                raise LensFVError(f"{context}: {line.part}/{line.job} was run with {other}; choose another folder")
            self._lines.setdefault(line.key, line)
        self._read_to += len(complete)
