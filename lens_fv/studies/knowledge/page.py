"""What the page shows: the tables, contrasts and curves of one model's rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from plotly.graph_objects import Figure

from lens_fv.core.statistics import Estimate, estimate
from lens_fv.knowledge.evaluate import share_of_gap
from lens_fv.knowledge.scores import perplexity_of
from lens_fv.knowledge.trace import PLACES
from lens_fv.plotting import interval_dots, interval_lines
from lens_fv.studies.knowledge.mechanism import TUNING_LOGPROB
from lens_fv.studies.knowledge.settings import ENTITIES, EXTERNAL, SIZES
from lens_fv.studies.knowledge.updates import ACCURACY, KL, LOCALITY, LOGPROB
from lens_fv.studies.study import Results
from lens_fv.studies.tables import Contrast, Curve, Table, mean, select, unit_means

if TYPE_CHECKING:
    import pandas as pd

CONTEXTS = {
    "chance": "chance",
    "base": "base",
    "definition_in_context": "definition in context",
    "random_definition_in_context": "another entity's definition in context",
}
METHODS = {
    "distillation": "distillation",
    "finetuning_sentences": "fine-tuning on the sentences",
    "finetuning_definition": "fine-tuning on the definition",
    "finetuning_definition_gentle": "fine-tuning on the definition, gently",
    "distillation_unanchored": "distillation without anchors",
    "finetuning_definition_anchored": "fine-tuning on the definition, with anchors",
    "distillation_swapped_sentences": "distillation on others' sentences",
    "distillation_wrong_definition": "distillation of a wrong definition",
}
VECTORS = {"definition_vector": "own vector", "other_definition_vector": "another entity's vector"}
NAMES = {**CONTEXTS, **METHODS, **VECTORS}
"""Conditions in words, in the order of the tables."""
TARGETS = {"gap": 0.6, "accuracy": -1, "perplexity": 2}
"""Least share of the gap in accuracy, least change of unrelated accuracy (points), greatest rise of unrelated perplexity (%)."""
CLAIMS = [
    Contrast("distillation", other, ACCURACY, part, where=number, paired=("seed", "kind", "item"))
    for part, number in ((ENTITIES, {}), (EXTERNAL, {}), (SIZES, {"number": "1"}))
    for other in ("finetuning_definition", "finetuning_definition_gentle", "finetuning_sentences")
]
"""Distillation answers more probes than fine-tuning, in updates of several entities and of one."""
PLACE_NAMES = {"mention": "at the end of the name", "last": "before the gap"}
CURVES = {
    "steps": (
        Curve("number", "kind", {"part": "epochs", "measure": LOGPROB}),
        "Log-probability of the answers",
        "epochs",
        "log-probability (nats per token)",
    ),
    "layers": (
        Curve("item", "number", {"part": "epochs", "measure": "weight_change_percent", "kind": ""}),
        "Change of each layer's weights, by epoch",
        "layer",
        "change (% of the weights' norm)",
    ),
    **{
        f"{what}-{place}": (
            Curve(where={"part": "traces", "measure": measure, "kind": place}),
            f"{title} restored {PLACE_NAMES[place]}",
            "layer",
            "indirect effect (nats)",
        )
        for place in PLACES
        for what, measure, title in (
            ("stream", "residual_effect_nats", "Residual stream"),
            ("heads", "strongest_head_effect_nats", "Strongest head"),
        )
    },
    "vectors": (
        Curve(where={"measure": TUNING_LOGPROB}),
        "Definition vectors on the tuning entities",
        "added after layer",
        "log-probability (nats per token)",
    ),
}
"""Figures by name: each a curve, its title, and the titles of its axes."""
SIZE_FIGURES = {
    "numbers": ("gap", "Gap in accuracy closed", "share"),
    "specific": ("accuracy", "Change of unrelated accuracy", "points"),
}
"""Figures of updates of growing size: each a field of `Effect`, a title, and the title of its axis."""


class Effect(NamedTuple):
    """What an update teaches, and what else it changes.

    Attributes:
        gap, gap_loss: Shares of the gaps in accuracy and in loss that it closes.
        accuracy: Difference from the base in accuracy on unrelated probes, in percentage points.
        perplexity: Difference from the base in perplexity on unrelated probes, in percent.
        kl: KL divergence from the base on unrelated sentences, in nats per token.
    """

    gap: Estimate | None = None
    gap_loss: Estimate | None = None
    accuracy: Estimate | None = None
    perplexity: Estimate | None = None
    kl: Estimate | None = None


@dataclass(frozen=True)
class View:
    """One model's results."""

    run: Results

    @cached_property
    def rows(self) -> "pd.DataFrame":
        """The rows, with MEASURE/KIND in two columns, and the number that a job's name begins with."""
        rows = self.run.rows
        measures, jobs = rows["measure"].str.partition("/"), rows["job"].str.partition("/")
        return rows.assign(measure=measures[0], kind=measures[2], number=jobs[0])

    @property
    def entities(self) -> dict[str, str]:
        """What the entities of each source are called."""
        return {ENTITIES: f"{self.run.settings['entities']} entities", EXTERNAL: "external entities"}

    def select(self, **where: Any) -> "pd.DataFrame":
        """The rows whose columns have these values."""
        return select(self.rows, where)

    def knowledge(self, part: str) -> dict[str, dict[str, Estimate | None]]:
        """What is known in each condition: accuracy (also by kind of probe), perplexity, and the shares of the gaps closed."""
        measures = Table(where={"part": part}).estimates(self.rows)
        kinds = Table(columns="kind", where={"part": part, "measure": ACCURACY}).estimates(self.rows)
        knowledge: dict[str, dict[str, Estimate | None]] = {}
        for name in [name for name in NAMES if measures.get(name, {}).keys() & {ACCURACY, LOGPROB}]:
            source = EXTERNAL if part == EXTERNAL else ENTITIES
            effect = Effect() if name in CONTEXTS else self._effect(self.select(part=part, condition=name), source)
            by_kind = {kind: kinds.get(name, {}).get(kind) for kind in ("explicit", "inferential")}
            scores = {
                "accuracy": measures[name].get(ACCURACY),
                **by_kind,
                "perplexity": perplexity(measures[name].get(LOGPROB)),
            }
            knowledge[name] = {**scores, "gap": effect.gap, "gap_loss": effect.gap_loss}
        return knowledge

    def n_seeds(self, part: str, condition: str) -> int:
        """Number of seeds of a condition."""
        return self.select(part=part, condition=condition)["seed"].nunique()

    def base(self, measure: str) -> Estimate | None:
        """A measure of the base model on unrelated probes."""
        return mean(self.select(measure=LOCALITY + measure, condition="base"))

    @cached_property
    def updates(self) -> dict[tuple[str, int], dict[str, Effect]]:
        """Effects by method, for each source of entities and number of entities per update, over all seeds."""
        several = self.run.settings["entities_per_update"]
        updates: dict[tuple[str, int], dict[str, Effect]] = {}
        for part, source, n in ((ENTITIES, ENTITIES, several), (EXTERNAL, EXTERNAL, several), (SIZES, ENTITIES, 1)):
            for method in METHODS:
                if len(rows := self.select(part=part, condition=method, number=str(n))):
                    updates.setdefault((source, n), {})[method] = self._effect(rows, source)
        return updates

    @cached_property
    def claims(self) -> dict[tuple[str, int], dict[str, Estimate]]:
        """How many more probes distillation answers than each other method, by source and number of entities per update."""
        claims: dict[tuple[str, int], dict[str, Estimate]] = {}
        for claim in CLAIMS:
            if difference := claim.estimate(self.rows):
                key = (ENTITIES, 1) if claim.part == SIZES else (claim.part, self.run.settings["entities_per_update"])
                claims.setdefault(key, {})[claim.minus] = difference
        return claims

    @cached_property
    def sizes(self) -> dict[tuple[int, str, str], Effect]:
        """Effects by number of entities per update, method and source, with the first seed."""
        settings, effects = self.run.settings, {}
        numbers = {int(n) for n in self.select(part=SIZES, condition=list(METHODS))["number"]}
        for n in sorted(numbers | {settings["entities_per_update"]} if numbers else ()):
            for method in settings["recipes"]:
                rows = self.select(part=[ENTITIES, SIZES], condition=method, number=str(n), seed=settings["seeds"][0])
                for source in (ENTITIES, EXTERNAL):
                    if set(rows["unit"]) & set(self._known(source, "base", LOGPROB)):
                        effects[n, method, source] = self._effect(rows, source)
        return effects

    @property
    def tasks(self) -> dict[str, dict[str, list[float]]]:
        """Measures of unrelated tasks at each measured epoch, by task."""
        rows = self.select(part="epochs", job="tasks")
        tasks = {task: rows.loc[rows["unit"] == task] for task in rows["unit"].unique()}
        return {task: {measure: list(of["value"]) for measure, of in some.groupby("measure")} for task, some in tasks.items()}

    @property
    def traces(self) -> dict[str, dict[str, Estimate]]:
        """Log-probabilities of the answers without noise ("clean") and with it ("noisy"), by condition."""
        return Table(columns="kind", where={"part": "traces", "measure": "logprob_per_answer_nats"}).estimates(self.rows)

    def strongest_heads(self, condition: str, place: str) -> str:
        """The three heads with the largest mean effects, with these in nats."""
        effects = unit_means(self.select(condition=condition, measure="head_effect_nats", kind=place))
        strongest = sorted(effects.items(), key=lambda item: -item[1])[:3]
        return ", ".join(f"{head} ({effect:+.2f})" for head, effect in strongest)

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """All figures for which there are rows."""
        figures: dict[str, Figure] = {}
        gaps: dict[str, dict[str, dict[str, Estimate]]] = {}
        for source, name in self.entities.items():
            for method, effect in self.updates.get((source, self.run.settings["entities_per_update"]), {}).items():
                for of, gap in (("accuracy", effect.gap), ("loss", effect.gap_loss)):
                    if gap:
                        gaps.setdefault(name, {}).setdefault(of, {})[METHODS[method]] = gap
        if gaps:
            figures["gap"] = interval_dots(gaps, title="Share of the gap closed, by method", axis="share of the gap")
        for name, (field, title, axis) in SIZE_FIGURES.items():
            lines: dict[str, dict[float, Estimate]] = {}
            for (n, method, source), effect in self.sizes.items():
                if source == ENTITIES and (value := getattr(effect, field)):
                    lines.setdefault(METHODS[method], {})[n] = value
            if lines:
                figures[name] = interval_lines(lines, title=title, x_axis="entities per update", y_axis=axis, log=True)
        for name, (curve, title, x_axis, y_axis) in CURVES.items():
            lines = {NAMES.get(line, line): values for line, values in curve.estimates(self.rows).items()}
            if lines:
                figures[name] = interval_lines(lines, title=title, x_axis=x_axis, y_axis=y_axis)
        return figures

    def _effect(self, rows: "pd.DataFrame", source: str) -> Effect:
        """What these rows say about the entities of a source, and about unrelated ones."""
        gaps = (self._gap(rows, measure, source) for measure in (ACCURACY, LOGPROB))
        accuracy, logprob = (self._change(rows, measure) for measure in (ACCURACY, LOGPROB))
        points = accuracy and Estimate(*(100 * share for share in accuracy[:3]), accuracy.n)
        percent = logprob and Estimate(*(100 * float(np.expm1(loss)) for loss in negated(logprob)[:3]), logprob.n)
        return Effect(*gaps, points, percent, kl_divergence(rows))

    def _gap(self, rows: "pd.DataFrame", measure: str, source: str) -> Estimate | None:
        """The share of the gap on the entities of a source that these rows are about."""
        base, definition = (self._known(source, condition, measure) for condition in ("base", "definition_in_context"))
        after = unit_means(select(rows, {"measure": measure}))
        units = [unit for unit in after if unit in base and unit in definition]
        return share_of_gap(*([values[unit] for unit in units] for values in (base, after, definition)))

    def _change(self, rows: "pd.DataFrame", measure: str) -> Estimate | None:
        """The difference from the base on unrelated probes."""
        before = unit_means(self.select(measure=LOCALITY + measure, condition="base"))
        after = unit_means(select(rows, {"measure": LOCALITY + measure}))
        differences = [value - before[unit] for unit, value in after.items() if unit in before]
        return estimate(differences) if differences else None

    def _known(self, source: str, condition: str, measure: str) -> dict[str, float]:
        """Each entity's value without an update; the largest updates are filled with further external entities."""
        parts = [EXTERNAL, SIZES] if source == EXTERNAL else [source]
        return unit_means(self.select(part=parts, measure=measure, condition=condition))


def perplexity(logprob: Estimate | None) -> Estimate | None:
    """Perplexity of a mean log-probability per token."""
    return logprob and perplexity_of(negated(logprob))


def negated(logprob: Estimate) -> Estimate:
    """The loss of a mean log-probability."""
    mean, low, high, n = logprob
    return Estimate(-mean, -high, -low, n)


def kl_divergence(rows: "pd.DataFrame") -> Estimate | None:
    """KL divergence over seeds; with one seed over its updates; of one update over sentences, as it was recorded."""
    rows = select(rows, {"measure": LOCALITY + KL})
    means = select(rows, {"kind": ""})
    for over in ("seed", "job"):
        if means[over].nunique() > 1:
            return mean(means, over=over)
    ends = unit_means(rows, over="kind")
    return Estimate(ends[""], ends["ci_low"], ends["ci_high"], int(means["n"].iloc[0])) if ends else None


def context(runs: Sequence[Results]) -> Mapping[str, Any]:
    """See `Study.context`."""
    views = [View(run) for run in runs]
    return {
        "views": views,
        "names": NAMES,
        "methods": METHODS,
        "targets": TARGETS,
        "places": PLACE_NAMES,
        "perplexity": perplexity,
    }


def headline(run: Results) -> Mapping[str, Any]:
    """See `Study.headline`."""
    return {
        f"gap in accuracy closed: {source}, {n} per update, {METHODS[method]}": effect.gap
        for (source, n), effects in View(run).updates.items()
        for method, effect in effects.items()
    }
