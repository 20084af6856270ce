"""The study of extracted, tuned and composite vectors on all built-in relations."""

from typing import Any, ClassVar

from lens_fv.studies.relational import page
from lens_fv.studies.relational.alignment import alignment
from lens_fv.studies.relational.analogies import analogies
from lens_fv.studies.relational.settings import RelationalRun, RelationalSettings
from lens_fv.studies.relational.vectors import baselines, completion, decoding, lists, norms, transfer, tuning
from lens_fv.studies.study import Results
from lens_fv.tasks import load_task


def derived(run: Results) -> Any:
    """See `Study.derived`: further columns, and rows of the part "best vectors".

    `relation`: the unit; `group` of a relation; `taxonomy`: "GROUP / FAMILY / RELATION"; `kind` and `detail`: the name of a
    job, split at "/"; `is_far`: whether an analogy's A and C are far apart.
    """
    import pandas as pd

    tasks = [load_task(name) for name in run.settings["relations"]]
    rows = run.rows.frame
    words, group = rows["job"].str.split("/").str, {task.name: task.group for task in tasks}
    taxonomy = {task.name: f"{task.group} / {task.family} / {task.name}" for task in tasks}
    rows = rows.assign(relation=rows["unit"], kind=words[0], detail=words[-1])
    rows = rows.assign(group=rows["unit"].map(group), taxonomy=rows["unit"].map(taxonomy))
    far = rows.loc[rows["measure"] == "is_far", ["job", "unit", "item", "value"]].rename(columns={"value": "is_far"})
    return pd.concat([rows.merge(far, on=["job", "unit", "item"], how="left"), best_vectors(run)])


def best_vectors(run: Results) -> Any:
    """Rows of the part "best vectors": the effect on a relation of its own vector, and of the other relations' vectors.

    Conditions: "own", "others" (their mean), "best_other", "best_of_family" (the best other of its family; not measured if it
    has none), and "own_is_best" (1 if no other vector is better).
    """
    import pandas as pd

    families = {name: load_task(name).family for name in run.settings["relations"]}
    effects, keys = run.rows.where(part="transfer").frame, ["measure", "unit"]
    vector = effects["item"].map(dict(enumerate(families)))
    others, related = vector != effects["unit"], vector.map(families) == effects["unit"].map(families)
    own = effects.loc[~others].set_index(keys)["value"]
    by_relation = effects.loc[others].groupby(keys)["value"]
    table = pd.DataFrame({"own": own, "others": by_relation.mean(), "best_other": by_relation.max()}, own.index)
    table["best_of_family"] = effects.loc[others & related].groupby(keys)["value"].max()
    table["own_is_best"] = (table["own"] >= table["best_other"]).astype(float)
    values: Any = table.rename_axis(columns="condition").stack(future_stack=True)
    rows = values.rename("value").reset_index()
    return rows.assign(relation=rows["unit"], part="best vectors", seed=0, job="", item=0, n=1)


class RelationalStudy(RelationalRun):
    """The study of extracted, tuned and composite vectors on all built-in relations; see `Study`."""

    name = "relational"
    settings_type = RelationalSettings
    models = ("smollm2-135m", "gemma-3-270m")
    external = ("semeval",)
    parts: ClassVar = {
        "completion": completion,
        "transfer": transfer,
        "analogies": analogies,
        "decoding": decoding,
        "tuning": tuning,
        "norms": norms,
        "baselines": baselines,
        "lists": lists,
        "alignment": alignment,
    }
    derived = staticmethod(derived)
    context = staticmethod(page.context)
    headline = staticmethod(page.headline)


STUDY = RelationalStudy
