"""The keys that the records of studies have had since they were measured."""

from collections.abc import Iterable
from typing import Any

from lens_fv.core.tables import table_row

STORED_KEYS = {
    "top1_accuracy": "top1",
    "top3_accuracy": "top3",
    "exact_match": "full",
    "logprob_per_answer_nats": "logprob_per_answer",
    "value": "mean",
    "ci_low": "low",
    "ci_high": "high",
    "p_value": "p",
    "difference_p_value": "difference_p",
    "auc_p_value": "auc_p",
}
"""Columns of results, and their keys in stored records."""


def stored_rows(results: Iterable[Any]) -> list[dict[str, Any]]:
    """The results of a part as its record holds them."""
    return [stored_row(result) for result in results]


def stored_row(result: Any) -> dict[str, Any]:
    """One result as its record holds it."""
    return {STORED_KEYS.get(column, column): value for column, value in table_row(result).items()}
