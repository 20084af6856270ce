"""Commands for composite vectors: compose, analogy."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lens_fv.cli.options import AsJson, Device, Dtype, Seed, emit, open_model
from lens_fv.core.tables import table_row

if TYPE_CHECKING:
    from torch import Tensor

    from lens_fv.composition import VectorLibrary
    from lens_fv.evaluation import AnalogyEvaluation, AnalogyResult
    from lens_fv.model import LensModel

PROMPT = "one_shot"
"""Condition that composites are compared with: A:B as a demonstration."""
Library = Annotated[Path, typer.Option("--library", help="Library folder (see `lens-fv library build`).")]
Map = Annotated[Path | None, typer.Option("--map", help="Map file written by `library fit`; default: softmax of 3 x score.")]
OwnModel = Annotated[
    str | None,
    typer.Option(
        "--model", help="Model: a default one (see `lens-fv models`), a folder or a Hub name; default: the library's own."
    ),
]
TopK = Annotated[
    int | None, typer.Option("--top-k", min=1, help="Maximum number of relations with nonzero weight; default: all.")
]


def compose(
    pair: Annotated[list[str], typer.Argument(help="One or more pairs A:B of the relation to compose.")],
    library: Library,
    model: OwnModel = None,
    on: Annotated[
        list[str] | None, typer.Option("--on", help="Word to complete with the composite vector; repeatable.")
    ] = None,
    weight_map: Map = None,
    top_k: TopK = None,
    as_json: AsJson = False,
    seed: Seed = 0,  # noqa: ARG001
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option("--out", help="Vector file to write; default: composite.safetensors.")] = None,
) -> None:
    """Compose a vector for the relation between A and B from the vectors of known relations.

    Writes the vector to --out (default: composite.safetensors).
    """
    import torch

    from lens_fv.composition import VectorLibrary, WeightMap, compose as mix
    from lens_fv.errors import LensFVError
    from lens_fv.tasks import Pair, encode_prompt, zero_shot

    parts = [text.split(":") for text in pair]
    if any(len(part) != 2 for part in parts):
        raise LensFVError(f"compose from {' '.join(pair)}: give pairs as A:B, such as hot:cold")
    found = VectorLibrary.open(library)
    fitted = None if weight_map is None else WeightMap.load(weight_map)
    lens = _open_model(model, found, device, dtype)
    vector = mix(lens, found, [Pair(a, (b,)) for a, b in parts], weight_map=fitted, top_k=top_k)
    path = vector.save(out or Path("composite.safetensors"))
    said: dict[str, list[str]] = {}
    for word in on or []:
        tokens = torch.tensor([encode_prompt(lens, zero_shot(Pair(word, ("?",)))).tokens])
        with vector.applied(lens), torch.no_grad():
            said[word] = [lens.decode(i).strip() for i in lens.forward(tokens)[0, -1].topk(5).indices.tolist()]
    payload = {
        "model": lens.name,
        "pairs": pair,
        "weights": dict(vector.top(len(vector.names))),
        "entropy": vector.entropy,
        "coverage": vector.coverage,
        "stability": vector.stability,
        "completions": said,
        "file": str(path),
    }
    emit(payload, as_json, repr(vector), *(f"{c}: {', '.join(words)}" for c, words in said.items()), f"written to {path}")


def analogy(
    library: Library,
    file: Annotated[
        Path | None, typer.Option("--file", help="File of analogies: JSON lines, CSV, Google's format or SAT-style text.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", help="Relation to build analogies from, using its test pairs; repeatable; default: all in the library."
        ),
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Maximum number of analogies per relation.")] = 10,
    model: OwnModel = None,
    weight_map: Map = None,
    top_k: TopK = None,
    own: Annotated[
        bool, typer.Option("--own", help="Keep each relation's own vector in the mixture; default: leave it out.")
    ] = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option(help="File for the item-by-item evaluation; default: not written.")] = None,
) -> None:
    """Solve analogies A:B::C:? by composite vectors and their controls, in total and per relation.

    Writes nothing unless --out is given.
    """
    from lens_fv.composition import VectorLibrary, WeightMap
    from lens_fv.evaluation import evaluate_analogies
    from lens_fv.studies.relational.problems import reported_analogies
    from lens_fv.tasks import load_analogies

    found = VectorLibrary.open(library)
    fitted = {} if weight_map is None else {"fitted": WeightMap.load(weight_map)}
    problems = load_analogies(file) if file is not None else reported_analogies(task or found.names, most=most, seed=seed)
    lens = _open_model(model, found, device, dtype)
    made = evaluate_analogies(lens, found, problems, maps=fitted, top_k=top_k, leave_own_out=not own, seed=seed, progress=True)
    written = None if out is None else str(made.save(out))
    parts, far = {"all": made.results}, made.far()
    if far.any() and not far.all():
        for name, among in (("near", ~far), ("far", far)):
            parts[name] = [made.result(condition, among) for condition in made.conditions]
    relations = made.by_relation()
    compared = [c for name in ("composite", *fitted) for c in (name, f"{PROMPT}_{name}")]
    payload = {
        "model": lens.name,
        "analogies": len(problems),
        "results": [_row(r) for r in made.results],
        "near": [_row(r) for r in parts.get("near", [])],
        "far": [_row(r) for r in parts.get("far", [])],
        "by_relation": {
            name: [_row(made.result(condition, among)) for condition in made.conditions] for name, among in relations.items()
        },
        "differences": [
            {
                "condition": condition,
                "than": PROMPT,
                "measure": measure,
                **made.difference(condition, measure=measure)._asdict(),
            }
            for condition in compared
            for measure in ("top1", "logprob")
        ],
        "file": written,
    }
    tables = [_table(results, f"{name}: {results[0].top1.n} analogies") for name, results in parts.items()]
    tables += [_relations(made, relations, ("none", "best", "composite", *fitted, PROMPT)), _differences(made, compared)]
    emit(payload, as_json, *tables, *([f"written to {written}"] if written else []))


def _open_model(name: str | None, library: "VectorLibrary", device: str | None, dtype: str | None) -> "LensModel":
    """Load the requested model, or by default the library's own."""
    from lens_fv.errors import LensFVError

    own = sorted({entry.model for entry in library.entries})
    if name is None and len(own) != 1:
        raise LensFVError(f"open the model of {library!r}: its vectors are of {', '.join(own) or 'none'}; choose by --model")
    try:
        return open_model(name or own[0], device, dtype)
    except LensFVError as e:
        if name is not None:
            raise
        raise LensFVError(f"the library's own model: {e}; say where it is by --model") from e


def _row(result: "AnalogyResult") -> dict[str, object]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in table_row(result).items()}


def _table(results: "Sequence[AnalogyResult]", title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("condition", "top-1 [95 %]", "exact match", "log-prob per token", "choice [95 %]", "calibrated"):
        table.add_column(column)
    for r in results:
        choice = (str(r.mc_accuracy), f"{r.calibrated_mc_accuracy:.2f}") if r.n_choice else ("", "")
        scores = (str(r.top1), f"{r.exact_match.mean:.2f}", f"{r.logprob_per_token.mean:.2f}")
        table.add_row(r.condition, *scores, *choice)
    return table


def _relations(made: "AnalogyEvaluation", relations: "Mapping[str, Tensor]", conditions: Sequence[str]) -> Table:
    """Make the table of first-token accuracy per relation, with the composite's difference from the prompt."""
    title = f"top-1 by relation, and composite less {PROMPT} (analogy by analogy)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("relation", "n", *conditions, "difference [95 %]"):
        table.add_column(column)
    for name, among in relations.items():
        shares = [made.result(condition, among).top1 for condition in conditions]
        paired = made.difference("composite", PROMPT, among=among)
        cells = (f"{share.mean:.2f}" for share in shares)
        table.add_row(name or "(none given)", str(paired.n), *cells, f"{paired:+.2f}")
    return table


def _differences(made: "AnalogyEvaluation", conditions: Sequence[str]) -> Table:
    title = f"less {PROMPT}, analogy by analogy: {len(made.relations)} analogies"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("condition", "top-1 [95 %]", "log-prob per token [95 %]"):
        table.add_column(column)
    for condition in conditions:
        table.add_row(condition, *(f"{made.difference(condition, PROMPT, measure=m):+.2f}" for m in ("top1", "logprob")))
    return table
