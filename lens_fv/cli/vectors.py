"""Commands that make vectors and sweep them: extract, tune, sweep."""

from pathlib import Path
from typing import Annotated, Any

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, command, pick
from lens_fv.cli.inputs import ItemsFile, Loading, OutFile, OwnTask, RankingInput, TaskInput, VectorInput, open_model, own_task
from lens_fv.cli.output import Printout, artefact_printout, queries_used, table
from lens_fv.core.choices import Seed
from lens_fv.core.tables import table_rows
from lens_fv.errors import LensFVError


@command
def extract(
    *,
    loading: Loading,
    task: OwnTask = None,
    ranking: Annotated[RankingInput | None, "Ranking file written by `lens-fv rank`; default: rank now."] = None,
    options: Annotated[Options, OptionsOf("lens_fv:extract")],
    ranking_options: Annotated[
        Options, OptionsOf("lens_fv:rank_heads", only=("n_shots", "n_clean", "n_trials", "queries", "seed"))
    ],
    out: OutFile = None,
) -> Printout:
    """Extract a function vector from the strongest heads.

    Writes the vector to --out (default: TASK-extracted.safetensors).
    """
    task = own_task(task, ranking)
    check_ranking_options(ranking, ranking_options)
    model = open_model(**loading)
    heads = ranking or fv.rank_heads(model, task, **ranking_options, progress=True)
    vector = fv.extract(model, task, heads, **options)
    return extracted_printout(vector, out, "extracted", site=vector.site, norm=float(vector.vector.norm()))


def check_ranking_options(ranking: "fv.heads.HeadRanking | None", options: Options) -> None:
    """Raise `LensFVError` if options are given that only a new ranking has."""
    if ranking is not None and (unused := sorted(options.keys() - {"queries"})):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise LensFVError(
            f"extract from the ranking of {ranking.provenance.task} with {flags}: the ranking is made already; leave out either"
        )


def extracted_printout(vector: "fv.FunctionVector", out: Path | None, ending: str, **values: Any) -> Printout:
    """Save and describe a vector that was made from heads."""
    values |= {"layer": vector.layer, "queries": queries_used(vector), "norm_in_residuals": vector.norm}
    return artefact_printout(vector, out=out, ending=ending, heads=vector.heads, **values)


@command
def tune(
    *,
    loading: Loading,
    task: TaskInput,
    init: Annotated[str, "Initial vector: zero, random, extracted (ranks heads first) or a vector file."] = "zero",
    options: Annotated[Options, OptionsOf("lens_fv:tune")],
    test_options: Annotated[Options, OptionsOf("lens_fv:evaluate", only=("n_shots", "max_items"))],
    out: OutFile = None,
) -> Printout:
    """Fine-tune a vector on a few pairs with the model frozen, and test it.

    Writes the vector to --out (default: TASK-tuned.safetensors).
    """
    model, seed = open_model(**loading), pick(options, "seed")
    initial: Any = init
    if init == "extracted":
        ranking = fv.rank_heads(model, task, **pick(test_options, "n_shots"), **seed, progress=True)
        initial = fv.extract(model, task, ranking)
    elif init not in ("zero", "random"):
        initial = fv.FunctionVector.load(init)
    split = fv.split_pairs(task, **seed)
    vector = fv.tune(model, task, **options | {"init": initial}, split=split, progress=True)
    vectors = {"extracted": initial, "tuned": vector} if isinstance(initial, fv.FunctionVector) else {"tuned": vector}
    rows = table_rows(fv.evaluate(model, task, vectors, split=split, **test_options, **seed, progress=True).results)
    values = {"layer": vector.layer, "options": vector.provenance.options, "results": rows}
    return artefact_printout(vector, repr(vector), table(rows, title="on the test split"), out=out, ending="tuned", **values)


@command
def sweep(
    vector: VectorInput,
    *,
    loading: Loading,
    task: OwnTask = None,
    options: Annotated[Options, OptionsOf("lens_fv:sweep_injection")],
    seed: Annotated[Seed | None, "Seed of the split; default: the vector's own."] = None,
    out: ItemsFile = None,
) -> Printout:
    """Evaluate a vector injected at every layer and scale."""
    task = own_task(task, vector)
    split = None if seed is None else fv.split_pairs(task, seed=seed)
    result = fv.sweep_injection(open_model(**loading), task, vector, **options, split=split, progress=True)
    rows = [
        {"layer": layer, **{f"x {scale:g}": share for scale, share in zip(result.scales, shares)}}
        for layer, shares in zip(result.layers, result.mean("top1").tolist(), strict=True)
    ]
    view = table(rows, title=f"top-1 on {len(result.top1)} {result.subset} pairs")
    values = {"subset": result.subset, "cells": table_rows(result.cells()), "best": table_rows([result.best()])[0]}
    return artefact_printout(result, view, repr(result), out=out, **values)
