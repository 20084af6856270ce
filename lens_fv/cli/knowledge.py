"""Commands for a model's knowledge of entities: knowledge write, evaluate, export."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, ModelName, Seed, emit, open_model

if TYPE_CHECKING:
    from lens_fv.core.statistics import Estimate
    from lens_fv.knowledge import Entity, KnowledgeResult

knowledge = typer.Typer(
    help="Knowledge of entities: write sentences about them, evaluate updates, export updates.", no_args_is_help=True
)
Entities = Annotated[str, typer.Option("--entities", help="Built-in entities (invented or popular), or a file of entities.")]
Names = Annotated[list[str] | None, typer.Option("--entity", help="Entity to use, by name or key; repeatable; default: all.")]
Sentences = Annotated[int, typer.Option("--sentences", min=1, help="Number of sentences written about each entity.")]
UPDATE = "update.safetensors"
"""File that `distill` writes into its folder."""


@knowledge.command()
def write(
    model: ModelName = DEFAULT_MODEL,
    entities: Entities = "invented",
    entity: Names = None,
    sentences: Sentences = 10,
    tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens per sentence.")] = 24,
    opening: Annotated[
        list[str] | None, typer.Option(help="Opening of the sentences, with {name}; repeatable, used in turn.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.01, help="Sampling temperature.")] = 0.5,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Probability mass of nucleus sampling.")] = 0.95,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option("--out", help="Output file (JSON).")] = Path("transfer.json"),
) -> None:
    """Generate sentences about entities by a model that has their definitions in context.

    Writes the sentences to --out (JSON), for `distill --transfer`, which may train a different model.
    """
    from lens_fv.knowledge import OPENINGS, generate_transfer_set

    asked = chosen_entities(entities, entity)
    found = generate_transfer_set(
        open_model(model, device, dtype),
        asked,
        n=sentences,
        max_new_tokens=tokens,
        openings=opening or OPENINGS,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        progress=True,
    )
    path = found.save(out)
    payload = {"model": model, "sentences": found.sentences, "dropped": dict(found.dropped), "file": str(path)}
    emit(payload, as_json, repr(found), f"written to {path}")


@knowledge.command()
def evaluate(
    update: Annotated[list[Path] | None, typer.Argument(help="Updates written by `distill`: files or folders.")] = None,
    model: ModelName = DEFAULT_MODEL,
    entities: Entities = "invented",
    entity: Names = None,
    elsewhere: Annotated[
        str, typer.Option(help="Entities that updates should leave unchanged: built-in ones, a file, or none.")
    ] = "popular",
    norm: Annotated[
        Literal["mean", "sum"],
        typer.Option(help="Score that ranks the candidates: mean or summed log-probability of their tokens."),
    ] = "mean",
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option(help="File for the numbers (JSON); default: not written.")] = None,
) -> None:
    """Probe knowledge of entities with and without definitions and updates, and of entities that should not change.

    Writes nothing unless --out is given.
    """
    from lens_fv.knowledge import WeightDelta, evaluate_knowledge, gap_closed, load_entities, majority

    asked = chosen_entities(entities, entity)
    others = () if elsewhere == "none" else load_entities(elsewhere)
    paths = [path / UPDATE if path.is_dir() else path for path in update or ()]
    updates = {_name(path): WeightDelta.load(path) for path in paths}
    lens = open_model(model, device, dtype)
    found = evaluate_knowledge(lens, asked, updates, locality=others, seed=seed, progress=True)
    base, read = found[0].scores, next(each.scores for each in found if each.condition == "definition")
    rows: list[dict[str, Any]] = []
    for each in found:
        closed = {
            f"gap_closed_{of}": gap_closed(base, each.scores, read, of=of, norm=norm, seed=seed) for of in ("accuracy", "loss")
        }
        rows.append({"condition": each.condition, **_scored(each, norm, seed), **(closed if each.condition in updates else {})})
    table = Table(
        "condition",
        "accuracy",
        "explicit",
        "inferential",
        "perplexity",
        "gap closed",
        "locality",
        "KL",
        box=None,
        pad_edge=False,
    )
    for row in rows:
        table.add_row(
            row["condition"],
            *(_said(row[key]) for key in ("accuracy", "explicit", "inferential", "perplexity")),
            _said(row.get("gap_closed_accuracy")),
            _said(row["locality_accuracy"]),
            _said(row["kl_to_base"], 4),
        )
    said = [{key: value._asdict() if hasattr(value, "_asdict") else value for key, value in row.items()} for row in rows]
    payload = {
        "model": lens.name,
        "entities": len(asked),
        "chance": base.chance,
        "majority": majority(asked),
        "conditions": said,
    }
    chance = f"chance {base.chance:.2f}, always the most frequent answer {majority(asked):.2f}"
    emit(payload, as_json, table, chance, out=out)


@knowledge.command()
def export(
    update: Annotated[Path, typer.Argument(help="Update written by `distill`: file or folder.")],
    model: ModelName = DEFAULT_MODEL,
    adapter: Annotated[bool, typer.Option("--adapter", help="Export a low-rank update as a PEFT adapter.")] = False,
    as_json: AsJson = False,
    seed: Seed = 0,  # noqa: ARG001 - nothing is random here; every command has it
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option("--out", help="New folder; its name becomes the model's.")] = Path("updated"),
) -> None:
    """Export an updated model that every --model accepts, or a PEFT adapter.

    Writes to the folder --out: the updated weights and the tokenizer in transformers' format, or the adapter.
    """
    from lens_fv.knowledge import WeightDelta

    delta, lens = WeightDelta.load(update / UPDATE if update.is_dir() else update), open_model(model, device, dtype)
    folder = delta.export_adapter(lens, out) if adapter else delta.export(lens, out)
    payload = {"model": lens.name, "adapter": adapter, "folder": str(folder)}
    emit(payload, as_json, repr(delta), f"written to {folder}")


def chosen_entities(source: str, names: Sequence[str] | None) -> "tuple[Entity, ...]":
    """Load the entities of a source, or the named ones."""
    from lens_fv.errors import LensFVError
    from lens_fv.knowledge import load_entities

    found = load_entities(source)
    unknown = [name for name in names or () if name not in {each.key for each in found} | {each.name for each in found}]
    if unknown:
        some = ", ".join(each.key for each in found[:5])
        raise LensFVError(f"entities {', '.join(unknown)} of {source}: its {len(found)} have other names, such as {some}")
    return tuple(each for each in found if not names or each.key in names or each.name in names)


def _name(path: Path) -> str:
    """Name of an update: its folder, or its file."""
    return path.parent.name if path.name == UPDATE else path.stem


def _scored(result: "KnowledgeResult", norm: Any, seed: int) -> "dict[str, Estimate | None]":
    scores, others = result.scores, result.locality
    return {
        "accuracy": scores.accuracy(norm=norm, seed=seed),
        "explicit": scores.accuracy(norm=norm, kind="explicit", seed=seed),
        "inferential": scores.accuracy(norm=norm, kind="inferential", seed=seed),
        "perplexity": scores.perplexity(seed=seed),
        "locality_accuracy": others and others.accuracy(norm=norm, seed=seed),
        "locality_perplexity": others and others.perplexity(seed=seed),
        "kl_to_base": result.kl_to_base,
    }


def _said(found: "Estimate | None", digits: int = 2) -> str:
    return "" if found is None else f"{found:.{digits}f}"
