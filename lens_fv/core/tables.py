"""Results as tables: one tidy row per unit, columns named by field terms and units."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lens_fv.core.estimate import Estimate

if TYPE_CHECKING:
    from pandas import DataFrame as DataFrame
else:
    DataFrame = "pd.DataFrame"  # its name, because pandas takes half a second to import

COLUMNS = {
    "top1": "top1_accuracy",
    "top3": "top3_accuracy",
    "logprob_per_answer": "logprob_per_answer_nats",
    "logprob_per_token": "logprob_per_token_nats",
    "knowledge": "knowledge_change_nats_per_token",
}
"""Columns that say more than the field they come from: the unit, or the whole term."""


def table_rows(records: Iterable[Any]) -> list[dict[str, Any]]:
    """Rows of plain values: each `Estimate` becomes its mean and the ends of its interval.

    In a table with a single estimate, the columns of its interval are `ci_low` and `ci_high`. With several, they are named
    after the estimate, as in `top1_accuracy_ci_low`. Unless the records have a field `n`, it is that of the first estimate.

    Args:
        records: Mappings, named tuples or dataclasses with the same fields; None in place of an estimate leaves cells empty.

    Example:
        >>> from lens_fv.core.estimate import Estimate
        >>> table_rows([{"layer": 3, "effect": Estimate(0.5, 0.25, 0.75, 9)}])
        [{'layer': 3, 'effect': 0.5, 'ci_low': 0.25, 'ci_high': 0.75, 'n': 9}]
    """
    plain = [field_values(record) for record in records]
    estimates = list(dict.fromkeys(key for row in plain for key, value in row.items() if isinstance(value, Estimate)))
    single = len(estimates) == 1
    rows: list[dict[str, Any]] = []
    for fields in plain:
        row: dict[str, Any] = {}
        for key, value in fields.items():
            column = COLUMNS.get(key, key)
            if key not in estimates:
                row[column] = value
                continue
            mean, low, high, n = value or (None, None, None, 0)
            prefix = "" if single else f"{column}_"
            row |= {column: mean, f"{prefix}ci_low": low, f"{prefix}ci_high": high}
            if key == estimates[0]:
                row.setdefault("n", n)
        rows.append(row)
    return rows


def data_frame(records: Iterable[Any]) -> DataFrame:
    """The rows of `table_rows` as a pandas data frame."""
    import pandas as pd

    return pd.DataFrame(table_rows(records))


def field_values(record: Any) -> Mapping[str, Any]:
    """The values of a mapping, dataclass or named tuple, by name."""
    if dataclasses.is_dataclass(record):
        return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return record if isinstance(record, Mapping) else record._asdict()
