"""Commands that mix known relations: compose, analogy."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lens_fv.cli.options import AsJson, Device, Dtype, Seed, emit, open_model

if TYPE_CHECKING:
    from lens_fv.composition import VectorLibrary
    from lens_fv.evaluation import AnalogyResult
    from lens_fv.model import LensModel

Library = Annotated[Path, typer.Option("--library", help="A library's folder (see `lens-fv library build`).")]
Map = Annotated[Path | None, typer.Option("--map", help="A map that `library fit` wrote; default: softmax of 3 x score.")]
OwnModel = Annotated[str | None, typer.Option("--model", help="Default: the one that the library's vectors are of.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="Give weight to so many relations at most.")]


def compose(
    pair: Annotated[list[str], typer.Argument(help="One or more pairs A:B of the relation that is sought.")],
    library: Library,
    model: OwnModel = None,
    on: Annotated[list[str] | None, typer.Option("--on", help="Complete this word with it; several times.")] = None,
    weight_map: Map = None,
    top_k: TopK = None,
    as_json: AsJson = False,
    seed: Seed = 0,  # noqa: ARG001
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option("--out", help="The vector's file; default: composite.safetensors.")] = None,
) -> None:
    """Mix the vector of the relation between A and B from those of known relations.

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
    file: Annotated[Path | None, typer.Option("--file", help="Analogies: JSON lines, CSV, or SAT-style text.")] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Make them of this relation's test pairs; several times. Default: all.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Analogies of each relation at most.")] = 10,
    model: OwnModel = None,
    weight_map: Map = None,
    top_k: TopK = None,
    own: Annotated[bool, typer.Option("--own", help="Let a relation's own vector take part; else it counts as new.")] = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option(help="Also write the evaluation, item by item, to this file.")] = None,
) -> None:
    """Solve analogies A:B::C:? by composites, beside their controls. Writes nothing unless --out is given."""
    from lens_fv.composition import VectorLibrary, WeightMap
    from lens_fv.evaluation import evaluate_analogies
    from lens_fv.studies.relational.problems import reported_analogies
    from lens_fv.tasks import read_analogies

    found = VectorLibrary.open(library)
    fitted = {} if weight_map is None else {"fitted": WeightMap.load(weight_map)}
    problems = read_analogies(file) if file is not None else reported_analogies(task or found.names, most=most, seed=seed)
    lens = _open_model(model, found, device, dtype)
    made = evaluate_analogies(lens, found, problems, maps=fitted, top_k=top_k, leave_own_out=not own, seed=seed, progress=True)
    written = None if out is None else str(made.save(out))
    parts, far = {"all": made.results}, made.far()
    if far.any() and not far.all():
        for name, among in (("near", ~far), ("far", far)):
            parts[name] = [made.result(condition, among) for condition in made.conditions]
    payload = {
        "model": lens.name,
        "analogies": len(problems),
        "results": [_row(r) for r in made.results],
        "near": [_row(r) for r in parts.get("near", [])],
        "far": [_row(r) for r in parts.get("far", [])],
        "file": written,
    }
    tables = [_table(results, f"{name}: {results[0].n} analogies") for name, results in parts.items()]
    emit(payload, as_json, *tables, *([f"written to {written}"] if written else []))


def _open_model(name: str | None, library: "VectorLibrary", device: str | None, dtype: str | None) -> "LensModel":
    """The model that was asked for, or else the library's own."""
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
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in result._asdict().items()}


def _table(results: "Sequence[AnalogyResult]", title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("condition", "top-1", "95 %", "whole", "log-prob a token", "choice", "95 % ", "calibrated"):
        table.add_column(column)
    for r in results:
        choice = ("", "", "")
        if r.n_choice:
            choice = (f"{r.choice:.2f}", f"[{r.choice_low:.2f}, {r.choice_high:.2f}]", f"{r.calibrated:.2f}")
        table.add_row(
            r.condition, f"{r.top1:.2f}", f"[{r.low:.2f}, {r.high:.2f}]", f"{r.full:.2f}", f"{r.logprob_per_token:.2f}", *choice
        )
    return table
