"""Results that are not artefacts: records and lists of records, with a summary, a table and a JSON file.

Every result has `summary()`, `to_dataframe()` and `save()`. Those that hold tensors and belong to one model are artefacts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from lens_fv.core.display import Displayed
from lens_fv.core.estimate import Estimate
from lens_fv.core.files import write_atomically
from lens_fv.core.json_files import read_json, record, validated
from lens_fv.core.tables import DataFrame, data_frame, field_values
from lens_fv.errors import LensFVError

R = TypeVar("R")
S = TypeVar("S", bound="Saved")
T = TypeVar("T", bound="Records[Any]")


class Saved(Displayed):
    """A result in a JSON file, which states its kind."""

    def to_json(self) -> Any:
        """The result as JSON values."""
        raise NotImplementedError

    @classmethod
    def from_json(cls: type[S], values: Any, context: str) -> S:
        """The result that `to_json` wrote.

        Raises:
            LensFVError: the values are of another kind.
        """
        raise NotImplementedError

    def save(self, path: str | Path) -> Path:
        """Write a JSON file. The write is atomic: the file appears complete or not at all.

        Raises:
            LensFVError: the folder cannot be written to.
        """
        text = json.dumps({"kind": type(self).__name__, "values": self.to_json()}, ensure_ascii=False)
        write_atomically(Path(path), text + "\n")
        return Path(path)

    @classmethod
    def load(cls: type[S], path: str | Path) -> S:
        """Read a file that `save` wrote.

        Raises:
            LensFVError: the file is missing or damaged, or holds another kind of result.
        """
        content = read_json(Path(path), dict)
        if content.get("kind") != cls.__name__ or "values" not in content:
            raise LensFVError(f"load {path} as {cls.__name__}: it holds {content.get('kind') or 'no result'}")
        return cls.from_json(content["values"], f"load {path}")


@dataclass(frozen=True, repr=False)
class Record(Saved):
    """Base of small results: a frozen dataclass of plain values and estimates.

    Example:
        >>> overlap = lens_fv.heads.head_overlap([(0, 1)], [(0, 1), (2, 3)], 8)
        >>> path = overlap.save(folder / 'overlap.json')
        >>> lens_fv.heads.Overlap.load(path) == overlap
        True
    """

    def records(self) -> list[Mapping[str, Any]]:
        """The records of the table; by default the fields, in one row."""
        return [field_values(self)]

    def to_dataframe(self) -> DataFrame:
        """The result as a pandas data frame."""
        return data_frame(self.records())

    def summary(self) -> dict[str, str]:
        """The key facts as labels and values."""
        return {name.replace("_", " "): format_value(value) for name, value in field_values(self).items()}

    def to_json(self) -> Any:
        """The result as JSON values."""
        return field_values(self)

    @classmethod
    def from_json(cls: type[S], values: Any, context: str) -> S:
        """The result that `to_json` wrote; see `Saved.from_json`."""
        return record(cls, values, context)


class Records(Saved, tuple[R, ...], Generic[R]):
    """Base of lists of results: a tuple of named tuples or of `Record`s of the kind `row`."""

    row: ClassVar[type]

    def to_dataframe(self) -> DataFrame:
        """One row per result."""
        return data_frame(row for result in self for row in _records(result))

    def summary(self) -> dict[str, str]:
        """One line per result, labelled by its first field."""
        lines: dict[str, str] = {}
        for result in self:
            label, *values = _records(result)[0].values()
            lines[str(label)] = ", ".join(format_value(value) for value in values)
        return lines

    def _repr_html_(self) -> str:
        return self.to_dataframe().to_html(index=False)

    def to_json(self) -> Any:
        """The results as a list of JSON values."""
        return [result.to_json() if isinstance(result, Record) else result for result in self]

    @classmethod
    def from_json(cls: type[T], values: Any, context: str) -> T:
        """The results that `to_json` wrote; see `Saved.from_json`."""
        rows = validated(values, list[Any], context)
        if issubclass(cls.row, Record):
            return cls(cls.row.from_json(row, context) for row in rows)
        return cls(validated(rows, tuple[cls.row, ...], context))


def _records(result: Any) -> list[Mapping[str, Any]]:
    return result.records() if isinstance(result, Record) else [field_values(result)]


def format_value(value: Any) -> str:
    """A value in a summary: estimates with their intervals, other numbers with three significant digits."""
    if isinstance(value, Estimate):
        return str(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
