"""The page's sections on transfer, decoding and agreement with people."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, get_args

import numpy as np

from lens_fv.core.statistics import estimate
from lens_fv.evaluation.ranks import Of
from lens_fv.plotting import interval_dots, transfer_heatmap
from lens_fv.studies.page.markdown import Block, Picture, Sheet, interval, p_value, table
from lens_fv.studies.relational.page.pooling import typicality_scores
from lens_fv.studies.relational.page.recorded import Recorded, having
from lens_fv.studies.relational.page.summaries import Structure, decoded, structures, transfers
from lens_fv.studies.relational.page.words import DECODING, TAXONOMIES, TRANSFER, TYPICALITY
from lens_fv.studies.relational.reading import HOW

Record = Mapping[str, Any]


def transfer(runs: Sequence[Recorded]) -> list[Block]:
    """The section on transfer: every vector on every relation."""
    rows: list[list[object]] = []
    sheet: list[list[object]] = []
    pictures: list[Block] = []
    for run, records in having(runs, "transfer"):
        vectors = run.settings["relations"]
        for measure, said in (("gain", "gain (nats)"), ("top1", "accuracy")):
            found = transfers(records, vectors, run.families, measure)
            if not found:
                continue
            related = [t.related for t in found.values() if t.related is not None]
            columns = [[getattr(t, key) for t in found.values()] for key in ("own", "others", "best")]
            wins = estimate([float(t.wins) for t in found.values()])
            family = f"{interval(estimate(related))} ({len(related)})" if related else None
            rows.append([run.name, said, *(interval(estimate(column)) for column in columns), family, interval(wins)])
            sheet += [[run.name, name, measure, *t] for name, t in found.items()]
        values = np.full((len(vectors), len(vectors)), np.nan)
        for name, record in records.items():
            values[:, vectors.index(name)] = record["gain"]
        at = [vectors.index(name) for name in run.relations]
        drawn = transfer_heatmap(
            values[np.ix_(at, at)],
            run.relations,
            list(run.groups.values()),
            title=f"What every vector does to every relation: {run.name}",
            unit="gain (nats)",
            limit=float(np.nanquantile(np.abs(values), 0.98)) or None,
        )
        caption = (
            f"{run.name}: gain in log-probability (nats) of each relation (column) with the vector of each (row), by group and "
            "family; colours end at the 98th percentile."
        )
        pictures.append(Picture(f"transfer-{run.slug}", caption, drawn))
    if not rows:
        return []
    header = ["model", "measure", "own vector", "mean of others", "best other", "best other of its family (relations)"]
    names = ["model", "relation", "measure", "own", "others", "best_other", "best_of_family", "own_is_best"]
    return [
        TRANSFER,
        table([*header, "own is best"], rows, words=2),
        *pictures,
        Sheet("transfer", names, sheet),
    ]


def decoding(runs: Sequence[Recorded]) -> list[Block]:
    """The section on decoding vectors into their relation's words."""
    blocks: list[Block] = []
    sheet: list[list[object]] = []
    for run, records in having(runs, "decoding"):
        rows: list[list[object]] = []
        sheet += _ranks(run.name, records)
        for how, of, measure in product(HOW, get_args(Of), MEASURES):
            if found := decoded(records, how, of, measure):
                digits = ".0f" if measure == "median_rank" else ".3f"
                d = found.difference
                said = [f"{found.extracted:{digits}}", f"{found.tuned:{digits}}"]
                said += [f"{d:+{digits}}", p_value(found.p)]
                rows.append([how, of, MEASURES[measure], *said, found.n])
        header = ["logits", "of", "measure", "extracted", "tuned", "tuned - extracted", "p", "relations"]
        blocks += [f"### {run.name}", table(header, rows, words=3)]
    if not blocks:
        return []
    columns = ("model", "seed", "logits", "of", "measure", "condition", "mean", "low", "high", "p", "n")
    return [DECODING, *blocks, Sheet("decoding", columns, sheet)]


def _ranks(name: str, records: Record) -> Iterator[list[object]]:
    """Rows of ranks, one seed after another."""
    for key, found in records.items():
        seed, how = key.split("/", 1)
        for row in [*found["results"], *({**d, "condition": "tuned - extracted"} for d in found["differences"])]:
            columns = (row[k] for k in ("of", "measure", "condition", "mean", "low", "high"))
            yield [name, seed, how, *columns, row.get("p"), row["n"]]


MEASURES = {
    "median_rank": "median rank",
    "best_reciprocal": "1 / rank of the best",
    "hit10": "share with one among the first 10",
}


def alignment(runs: Sequence[Recorded]) -> list[Block]:
    """The section on agreement with people: rated typicality and taxonomies of relations."""
    runs_with = having(runs, "alignment")
    blocks = [*_typicality(runs_with), *_structure(runs_with)]
    return ["## Agreement with people", *blocks] if blocks else []


def _typicality(runs_with: Sequence[tuple[Recorded, Record]]) -> list[Block]:
    scores = {run.name: found for run, records in runs_with for found in [typicality_scores(records)] if found.values}
    measures = list(dict.fromkeys(m for found in scores.values() for m in found.conditions))
    if not measures:
        return []
    pairs = [
        (f"{one} {how}".strip(), f"{other} {how}".strip())
        for how in ("", "gain", "direction")
        for one, other in (("tuned", "extracted"), ("tuned", "shuffled"), ("composite", "extracted"))
    ]
    pairs += [(kind, "none") for kind in ("extracted", "tuned", "shuffled", "composite")]
    known = [(a, b) for a, b in pairs if a in measures and b in measures]
    first = next(iter(scores.values()))
    drawn = interval_dots(
        {"": {name: {m: e for m in measures for e in [s.mean(m)] if e} for name, s in scores.items()}},
        title="Human typicality",
        axis="Spearman's correlation",
    )
    return [
        TYPICALITY,
        f"{len(first.relations)} relations.",
        table(["measure", *scores], [[m, *(interval(s.mean(m), signed=True) for s in scores.values())] for m in measures]),
        table(
            ["difference", *scores],
            [[f"{a} - {b}", *(interval(s.difference(a, b), signed=True) for s in scores.values())] for a, b in known],
        ),
        Picture("typicality", "Agreement with human typicality within relations.", drawn),
        Sheet(
            "typicality",
            ("model", "measure", "relation", "seed", "spearman"),
            [
                (name, measure, relation, seed, value)
                for name, s in scores.items()
                for measure, by in s.values.items()
                for relation, values in by.items()
                for seed, value in values.items()
            ],
        ),
    ]


def _structure(runs_with: Sequence[tuple[Recorded, Record]]) -> list[Block]:
    found = {run.name: structures(records) for run, records in runs_with}
    keys = list(dict.fromkeys(key for rows in found.values() for key in rows))
    rows = [[level, kind, *(cell for own in found.values() for cell in _cells(own.get((level, kind))))] for level, kind in keys]
    if not rows:
        return []
    return [
        TAXONOMIES,
        table(["same", "similarity of", *(f"{name}: {x}" for name in found for x in ("AUC", "p"))], rows, words=2),
    ]


def _cells(found: Structure | None) -> tuple[object, object]:
    return (found.auc, p_value(found.p)) if found else (None, None)
