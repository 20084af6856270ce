"""Rows of the study of relations, and the tables and figures that the template makes from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from plotly.graph_objects import Figure

from lens_fv.composition import fit_confidence, roc_auc
from lens_fv.core.statistics import Estimate
from lens_fv.errors import LensFVError
from lens_fv.plotting import plot_interval_dots, plot_interval_lines, plot_relations
from lens_fv.studies.markdown import label, p_value
from lens_fv.studies.study import Results
from lens_fv.studies.tables import Contrast, Curve, Table, select, unit_means
from lens_fv.tasks import load_task

if TYPE_CHECKING:
    import pandas as pd

Estimates = dict[str, dict[str, Estimate]]
"""Estimates by row and column of a table."""
LIMITS = (-0.02, 1.02)
"""Ends of an axis of accuracy, with room for the dots."""


@dataclass(frozen=True)
class View:
    """Some rows, and the tables and figures that the template makes from them.

    Attributes:
        rows: Rows of all runs, with the columns of `classified`.
    """

    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, **where: Any) -> "View":
        """The rows whose columns have these values; see `select`."""
        return View(select(self.rows, where))

    def with_all(self, column: str) -> "View":
        """Every row twice: with "all" in a column, and as it is."""
        import pandas as pd

        return View(pd.concat([self.rows.assign(**{column: "all"}), self.rows]))

    def unique(self, column: str) -> list[Any]:
        """The values of a column."""
        return list(self.rows[column].unique())

    def estimates(self, down: str, across: str) -> Estimates:
        """Means over relations, by the values of two columns."""
        return Table(down, across).estimates(self.rows)

    def contrast(self, contrast: Contrast, across: str) -> dict[str, Estimate]:
        """A contrast by the values of a column, where it was measured."""
        cells = {str(value): contrast.estimate(own) for value, own in self.rows.groupby(across, sort=False)}
        return {value: cell for value, cell in cells.items() if cell is not None}

    def differences(self, compared: Iterable[str], across: str, paired: Sequence[str] = ("seed", "job", "item")) -> Estimates:
        """Differences of pairs of conditions, each named "one - other", by the values of a column; rows of one measure."""
        table = Estimates()
        for pair in compared if len(self) else ():
            of, minus = pair.split(" - ")
            contrast = Contrast(of, minus, self.rows["measure"].iloc[0], self.rows["part"].iloc[0], paired=paired)
            if cells := self.contrast(contrast, across):
                table[pair] = cells
        return table

    def analogy_differences(self, compared: Iterable[str], **options: Any) -> Estimates:
        """Differences on analogies by model, in points of first-token accuracy and in log-probability."""
        names = {"top1_accuracy": "first token (points)", "logprob_per_token_nats": "log-probability"}
        tables = {name: self.where(measure=m).differences(compared, "model", **options) for m, name in names.items()}
        return joined(tables)

    def csv(self, index: Sequence[str], columns: str) -> "pd.DataFrame":
        """Means by the columns `index`, with one column for each value of `columns`."""
        table = self.rows.pivot_table(index=list(index), columns=columns, values="value", sort=False).reset_index()
        return table.rename(columns={"unit": "relation"})

    def dots(
        self, title: str, series: str, categories: str, words: Mapping[str, str], *, panels: str | None = None, axis: str = ""
    ) -> Figure:
        """Estimates by the values of two or three columns."""

        def table(own: View) -> Estimates:
            cells = own.estimates(series, categories)
            return {label(s, words): {label(c, words): cell for c, cell in row.items()} for s, row in cells.items()}

        views = {"": self} if panels is None else {value: self.where(**{panels: value}) for value in self.unique(panels)}
        tables = {label(name, words): table(own) for name, own in views.items()}
        return plot_interval_dots(tables, title=title, axis=axis, limits=LIMITS if "accuracy" in axis else None)

    def lines(self, title: str, *, log: bool) -> Figure:
        """First-token accuracy along the conditions, which are numbers."""
        lines = Curve("condition", "model").estimates(self.rows)
        axes = {"x_axis": title, "y_axis": "first-token accuracy"}
        return plot_interval_lines(lines, title=f"Tuned vectors by {title}", **axes, log=log)

    def scatter(self) -> Figure:
        """Extracted and tuned vectors of each relation."""
        points: dict[str, dict[str, tuple[float, float]]] = {}
        for model in self.unique("model"):
            extracted, tuned = (unit_means(self.where(model=model, condition=c).rows) for c in ("extracted", "tuned"))
            points[model] = {name: (x, tuned[name]) for name, x in extracted.items() if name in tuned}
        groups = dict(zip(self.rows["unit"], self.rows["group"], strict=True))
        axes = {"x_axis": "extracted vector", "y_axis": "tuned vector"}
        return plot_relations(points, groups, title="Each relation's vectors", **axes, limits=LIMITS)

    def taxonomies(self) -> dict[tuple[str, str], dict[str, Any]]:
        """AUC (mean over seeds) and p (the largest) of each model, by level of the classes and kind of similarity."""
        table: dict[tuple[str, str], dict[str, Any]] = {}
        for (level, kind, model), own in self.rows.groupby(["unit", "condition", "model"], sort=False):
            values = own.groupby("measure")["value"]
            cells = {f"{model}: AUC": values.mean()["auc"], f"{model}: p": p_value(values.max()["auc_p_value"])}
            table.setdefault((level, kind), {}).update(cells)
        return table

    def confidence(self) -> dict[str, float] | str:
        """How well features of a composite predict whether it helps more than the one-shot prompt, or why this is unknown.

        The regression of `fit_confidence` is learned on the other folds. Keys: "helped" (fraction of analogies), "auc" (area
        under the ROC curve; 0.5 is chance), "p" (Mann-Whitney test), and "n" (number of analogies).
        """
        table = self.rows.pivot_table(
            index=["job", "unit", "item"], columns=["condition", "measure"], values="value", sort=False
        )
        folds = table.index.get_level_values("job")
        if len(set(folds)) < 2:
            return "a confidence takes two folds at least"
        features = table["composite"][["weight_entropy_nats", "source_gain_nats_per_token"]]
        gain = table["composite", "logprob_per_token_nats"] - table["one_shot", "logprob_per_token_nats"]
        x, helped = torch.tensor(features.to_numpy(np.float32)), torch.tensor((gain > 0).to_numpy())
        predicted = torch.zeros(len(helped))
        try:
            for fold in dict.fromkeys(folds):
                own = torch.tensor(folds == fold)
                predicted[own] = fit_confidence(x[~own], helped[~own])(x[own])
            auc, p = roc_auc(predicted, helped)
        except LensFVError as error:
            return str(error)
        return {"helped": float(helped.double().mean()), "auc": auc, "p": p, "n": len(helped)}


def joined(tables: Mapping[str, Estimates]) -> Estimates:
    """Tables side by side, each with its name added to its columns."""
    down = dict.fromkeys(chain.from_iterable(tables.values()))
    return {
        row: {f"{column}: {name}": cell for name, table in tables.items() for column, cell in table.get(row, {}).items()}
        for row in down
    }


def classified(run: Results) -> "pd.DataFrame":
    """A run's rows with its name and further columns.

    `group` of a relation; `taxonomy`: "GROUP / FAMILY / RELATION"; `kind` and `detail`: the name of a job, split at "/";
    `is_far`: whether an analogy's A and C are far apart.
    """
    tasks = [load_task(name) for name in run.settings["relations"]]
    rows: Any = run.rows
    words, group = rows["job"].str.split("/").str, {task.name: task.group for task in tasks}
    taxonomy = {task.name: f"{task.group} / {task.family} / {task.name}" for task in tasks}
    rows = rows.assign(model=run.name, kind=words[0], detail=words[-1])
    rows = rows.assign(group=rows["unit"].map(group), taxonomy=rows["unit"].map(taxonomy))
    far = rows.loc[rows["measure"] == "is_far", ["job", "unit", "item", "value"]].rename(columns={"value": "is_far"})
    return rows.merge(far, on=["job", "unit", "item"], how="left")


def best_vectors(run: Results) -> "pd.DataFrame":
    """Rows of the part "best vectors": the effect on a relation of its own vector, and of the other relations' vectors.

    Conditions: "own", "others" (their mean), "best_other", "best_of_family" (the best other of its family; not measured if it
    has none), and "own_is_best" (1 if no other vector is better).
    """
    import pandas as pd

    families = {name: load_task(name).family for name in run.settings["relations"]}
    values: list[tuple[str, str, str, float]] = []
    for (measure, name), effects in run.part("transfer").groupby(["measure", "unit"], sort=False):
        others = dict(zip(families, effects["value"], strict=True))
        own = others.pop(name)
        related = [value for other, value in others.items() if families[other] == families[name]]
        best = max(others.values(), default=np.nan)
        row = {"own": own, "others": np.mean([*others.values()] or [np.nan]), "best_other": best}
        row |= {"best_of_family": max(related, default=np.nan), "own_is_best": float(own >= best)}
        values += [(name, condition, measure, value) for condition, value in row.items()]
    rows = pd.DataFrame(values, columns=["unit", "condition", "measure", "value"])
    return rows.assign(model=run.name, part="best vectors", seed=0, job="", item=0, n=1)
