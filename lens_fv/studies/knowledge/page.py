"""What the page of the study of knowledge updates shows: estimates, effects of updates, and claims."""

from collections.abc import Mapping, Sequence
from typing import Any

from lens_fv.core.statistics import Estimate
from lens_fv.knowledge.trace import PLACES
from lens_fv.studies.knowledge.effects import effect, gaps, perplexity, without_update
from lens_fv.studies.knowledge.settings import ENTITIES, EXTERNAL, SIZES
from lens_fv.studies.knowledge.updates import ACCURACY, LOCALITY, LOGPROB
from lens_fv.studies.study import Results
from lens_fv.studies.tables import Contrast, Estimates, View, verdict

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
NAMES = {
    "chance": "chance",
    "base": "base",
    "definition_in_context": "definition in context",
    "random_definition_in_context": "another entity's definition in context",
    **METHODS,
    "definition_vector": "own vector",
    "other_definition_vector": "another entity's vector",
}
"""Conditions in words, in the order of the tables."""
MAIN: Mapping[str, Mapping[str, str]] = {ENTITIES: {}, EXTERNAL: {}, SIZES: {"number": "1"}}
"""The updates that are compared, by part: of several entities, and of a single one."""
CLAIMS = [
    Contrast("distillation", other, ACCURACY, part, where=where, paired=("seed", "kind", "item"))
    for part, where in MAIN.items()
    for other in ("finetuning_definition", "finetuning_definition_gentle", "finetuning_sentences")
]
"""Distillation answers more probes than fine-tuning."""
TARGETS = {"gap": 0.6, "accuracy": -1, "perplexity": 2}
"""Least share of the gap in accuracy, least change in unrelated accuracy (points), largest rise of unrelated perplexity (%)."""
Cells = dict[str, Any]
"""A row of a table: estimates by column."""


def context(rows: View, runs: Sequence[Results]) -> Mapping[str, Any]:
    """See `Study.context`: everything by run."""
    by_run = {run.name: results(rows.where(model=run.name), run.settings) for run in runs}
    tools = (by_size, known, names_with_seeds, unrelated, traces, perplexity)
    return {
        "results": by_run,
        "names": NAMES,
        "methods": METHODS,
        "targets": TARGETS,
        **{tool.__name__: tool for tool in tools},
    }


def headline(rows: View, run: Results) -> Mapping[str, Any]:
    """See `Study.headline`: the share of the gap in accuracy that each method closes."""
    result = results(rows, run.settings)
    return {
        f"gap closed, {result['titles'][part]}: {METHODS[method]}": cells["gap"]
        for part, by_method in result["updates"].items()
        for method, cells in by_method.items()
    }


def results(rows: View, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The effects of all updates of one run, and what else its page shows; see `effect`.

    Keys: "entities" and "titles" (what the entities and the updates of a part are called), "updates" (by part and method),
    "side_effects" (by entities and method), "gaps" (by entities, measure and method), "claims" (how many more probes
    distillation answers, by part and method), "compared" (methods in words, by part and verdict of the claim), "sizes" (by
    number of entities per update, method and part) and "tasks" (see `tasks`).
    """
    n, parts = settings["entities_per_update"], {ENTITIES: f"{settings['entities']} entities", EXTERNAL: "external entities"}
    titles = {part: f"{name}, {n} per update" for part, name in parts.items()} | {SIZES: f"{parts[ENTITIES]}, 1 per update"}
    updates: dict[str, dict[str, Cells]] = {}
    for part, where in MAIN.items():
        for method in METHODS:
            if own := rows.where(part=part, condition=method, **where):
                updates.setdefault(part, {})[method] = effect(rows, own, part)
    side_effects = {(name, method): cells for part, name in parts.items() for method, cells in updates.get(part, {}).items()}
    closed: dict[str, dict[str, dict[str, Estimate]]] = {}
    for (name, method), cells in side_effects.items():
        for measure, gap in (("accuracy", cells["gap"]), ("loss", cells["gap_loss"])):
            if gap:
                closed.setdefault(name, {}).setdefault(measure, {})[METHODS[method]] = gap
    claims, compared = Estimates(), dict[str, dict[str, list[str]]]()
    for claim in CLAIMS:
        if difference := claim.estimate(rows):
            claims.setdefault(claim.part, {})[claim.minus] = difference
            compared.setdefault(claim.part, {}).setdefault(verdict(difference), []).append(NAMES[claim.minus])
    return {
        "entities": parts,
        "titles": titles,
        "updates": updates,
        "side_effects": side_effects,
        "gaps": closed,
        "claims": claims,
        "compared": compared,
        "sizes": sizes(rows, settings),
        "tasks": tasks(rows.where(part="epochs", job="tasks")),
    }


def sizes(rows: View, settings: Mapping[str, Any]) -> dict[tuple[int, str, str], Cells]:
    """Effects by number of entities per update, method and part of the entities, with the first seed; see `effect`."""
    table: dict[tuple[int, str, str], Cells] = {}
    numbers = {int(n) for n in rows.where(part=SIZES, condition=list(METHODS)).unique("number")}
    for n in sorted(numbers | {settings["entities_per_update"]} if numbers else ()):
        for method in settings["recipes"]:
            own = rows.where(part=[ENTITIES, SIZES], condition=method, number=str(n), seed=settings["seeds"][0])
            for part in (ENTITIES, EXTERNAL):
                if set(own.unique("unit")) & set(without_update(rows, part, "base", LOGPROB)):
                    table[n, method, part] = effect(rows, own, part)
    return table


def by_size(sizes: Mapping[tuple[int, str, str], Cells], column: str) -> dict[str, dict[float, Estimate]]:
    """A column of the effects on the study's own entities, by method and number of entities per update."""
    lines: dict[str, dict[float, Estimate]] = {}
    for (n, method, part), cells in sizes.items():
        if part == ENTITIES and cells[column]:
            lines.setdefault(METHODS[method], {})[float(n)] = cells[column]
    return lines


def known(rows: View, part: str) -> dict[str, Cells]:
    """What is known in each condition: accuracy (also by kind of probe), perplexity, and the shares of the gaps closed."""
    own = rows.where(part=part)
    kinds, knowledge = own.where(measure=ACCURACY).estimates("condition", "kind"), dict[str, Cells]()
    for name, cells in own.where(measure=[ACCURACY, LOGPROB]).estimates().items():
        measures = {"accuracy": cells.get(ACCURACY), "perplexity": perplexity(cells.get(LOGPROB)), **kinds.get(name, {})}
        updated = name in METHODS or name.endswith("vector")
        knowledge[name] = measures | (gaps(rows, own.where(condition=name), part) if updated else {})
    return knowledge


def names_with_seeds(rows: View, part: str) -> dict[str, str]:
    """Conditions in words, and methods with their numbers of seeds."""
    seeds = rows.where(part=part, condition=list(METHODS)).frame.groupby("condition")["seed"].nunique()
    return {name: f"{words} ({seeds[name]})" if name in seeds else words for name, words in NAMES.items()}


def unrelated(rows: View, measure: str) -> Estimate | None:
    """A measure of the base model on unrelated probes."""
    return rows.where(measure=LOCALITY + measure, condition="base").mean()


def tasks(rows: View) -> dict[str, dict[str, str]]:
    """Accuracy of unrelated tasks before and after the first update, and cosines after it."""
    table: dict[str, dict[str, str]] = {}
    for (task, measure), values in rows.values(["unit", "measure"]).items():
        digits = 2 if measure == "exact_match" else 3
        ends = {"before": values[0], "after": values[-1]}
        table.setdefault(task, {}).update({f"{measure}_{end}": f"{value:.{digits}f}" for end, value in ends.items()})
    return table


def traces(rows: View) -> dict[str, Cells]:
    """Log-probabilities of the answers with noise and without it, and the strongest heads at each place, by condition."""
    table: dict[str, Cells] = {}
    for condition, logprobs in rows.where(measure="logprob_per_answer_nats").estimates("condition", "kind").items():
        table[condition] = {**logprobs}
        for place in PLACES:
            means = rows.where(condition=condition, measure="head_effect_nats", kind=place).means()
            strongest = sorted(means, key=lambda head: -means[head])[:3]
            table[condition][place] = ", ".join(f"{head} ({means[head]:+.2f})" for head in strongest)
    return table
