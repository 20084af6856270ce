"""Commands for a model's knowledge of entities: distill, and knowledge write, evaluate, export."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, command, pick
from lens_fv.cli.inputs import Loading, open_model
from lens_fv.cli.leaving import resumes_in
from lens_fv.cli.output import Printout, table
from lens_fv.core.choices import Count
from lens_fv.errors import LensFVError

if TYPE_CHECKING:
    from lens_fv.knowledge import Entity, KnowledgeResult

HELP = "Knowledge of entities: write sentences about them, evaluate updates, export updates."
Entities = Annotated[str, Parameter(help="Built-in entities (invented or popular), or a file of entities.")]
Names = Annotated[Sequence[str] | None, Parameter(help="Entity to use, by name or key; repeatable; default: all.")]
UpdateFile = Annotated[Path, Parameter(help="Update written by `distill`: file or folder.")]
UPDATE, TRANSFER, UNFINISHED = "update.safetensors", "transfer.json", "unfinished"
"""Files and folder that `distill` writes into its folder."""


@command
def distill(
    *,
    loading: Loading,
    entities: Entities = "invented",
    entity: Names = None,
    transfer: Path | None = None,
    n_sentences: Count | None = None,
    target: Literal["reading", "definition", "sentences"] = "reading",
    preset: Literal["usual", "released"] = "usual",
    options: Annotated[Options, OptionsOf("lens_fv:DistillConfig", leave_out=("n_checkpoints",))],
    out: Path = Path("knowledge-update"),
) -> Printout:
    """Distil entities' definitions into a model, so that it predicts as it does with them in context.

    Writes to the folder --out: update.safetensors (the change of the weights) and, unless --transfer is given,
    transfer.json (the sentences). Run it again with the same options to resume.

    Args:
        transfer: File of sentences about the entities; default: the model writes its own.
        n_sentences: Number of sentences written about each entity; default: 10, or 5 for one entity or `preset` released.
        target: Training target: predictions given the definition (distillation), or as baselines the texts themselves.
        preset: Defaults of the settings below: ours, or those of the paper's released code.
        out: Folder for the update.
    """
    from lens_fv.knowledge import DistillConfig, TransferSet, entity_swapped_anchors, finetune_on_texts, load_transfer_set

    taught = chosen_entities(entities, entity)
    if preset == "released":
        settings = DistillConfig.released(**options, n_checkpoints=2)
    elif target == "reading":
        settings = DistillConfig.for_entities(len(taught), **options, n_checkpoints=2)
    else:
        settings = DistillConfig(**options, n_checkpoints=2)
    if n_sentences is not None and (transfer is not None or target == "definition"):
        raise LensFVError("distill with --n-sentences: no sentences are written here; leave it out")
    model = open_model(**loading)
    resumes_in(out)
    run: Any = {"folder": out / UNFINISHED, "progress": True}
    if target == "definition":
        sentences = TransferSet({each.key: (each.definition,) for each in taught})
    elif transfer is not None:
        sentences = load_transfer_set(transfer, target_tokens=settings.target_tokens)
    else:
        n = n_sentences or (5 if len(taught) == 1 or preset == "released" else 10)
        sentences = fv.generate_transfer_set(
            model, taught, n_sentences=n, seed=settings.seed, path=out / TRANSFER, progress=True
        )
    if target == "reading":
        delta = fv.distill(model, taught, sentences, settings, **run)
    else:
        n_copies = settings.n_definitions if target == "sentences" else 0
        texts = sentences.with_definitions(taught, n_copies=n_copies).sentences
        n_anchors = settings.epochs * settings.n_anchors
        anchors = entity_swapped_anchors(taught, sentences, n_per_sentence=n_anchors, seed=settings.seed)
        by_entity = [texts.get(each.key, ()) for each in taught]
        delta = finetune_on_texts(model, taught, by_entity, settings, anchors=anchors, **run)
    path = delta.save(out / UPDATE)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    payload = {
        "model": model.name,
        "entities": [each.key for each in taught],
        "sentences": delta.provenance.options["n_examples"],
        "anchors": delta.provenance.options["anchors"],
        "dropped": dict(sentences.dropped),
        "skipped": dict(delta.skipped),
        "by_layer": delta.by_layer(model),
        "update": str(path),
        "transfer": None if target == "definition" else str(transfer or out / TRANSFER),
    }
    return Printout(payload, repr(delta), f"written to {path}; `lens-fv knowledge evaluate {path}` tests it")


@command
def write(
    *,
    loading: Loading,
    entities: Entities = "invented",
    entity: Names = None,
    options: Annotated[Options, OptionsOf("lens_fv:generate_transfer_set")],
    out: Path = Path("transfer.json"),
) -> Printout:
    """Generate sentences about entities by a model that has their definitions in context.

    Writes the sentences to --out (JSON), for `distill --transfer`, which may train a different model.

    Args:
        out: Output file (JSON).
    """
    chosen = chosen_entities(entities, entity)
    model = open_model(**loading)
    sentences = fv.generate_transfer_set(model, chosen, **options, progress=True)
    path = sentences.save(out)
    payload = {"model": model.name, "sentences": sentences.sentences, "dropped": dict(sentences.dropped), "file": str(path)}
    return Printout(payload, repr(sentences), f"written to {path}")


@command
def evaluate(
    update: Annotated[Sequence[Path] | None, Parameter(help="Updates written by `distill`: files or folders.")] = None,
    *,
    loading: Loading,
    entities: Entities = "invented",
    entity: Names = None,
    locality: str | None = "popular",
    options: Annotated[Options, OptionsOf("lens_fv:evaluate_knowledge")],
    scoring: Annotated[Options, OptionsOf("lens_fv.knowledge:gap_closed", only=("norm",))],
) -> Printout:
    """Probe knowledge of entities with and without definitions and updates, and of entities that should not change.

    Writes nothing unless --out is given.

    Args:
        locality: Entities that updates should leave unchanged: built-in ones, a file, or none.
    """
    from lens_fv.knowledge import WeightDelta, gap_closed, majority

    asked = chosen_entities(entities, entity)
    others = () if locality is None else fv.load_entities(locality)
    updates = {_name(path): WeightDelta.load(path) for path in map(_update_file, update or ())}
    model, scored = open_model(**loading), scoring | pick(options, "seed")
    results = fv.evaluate_knowledge(model, asked, updates, locality=others, **options, progress=True)
    base = results[0].scores
    read = next(result.scores for result in results if result.condition == "definition")
    rows: list[dict[str, Any]] = []
    for result in results:
        row = {"condition": result.condition, **_estimates(result, scored)}
        if result.condition in updates:
            row |= {f"gap_closed_{of}": gap_closed(base, result.scores, read, of=of, **scored) for of in ("accuracy", "loss")}
        rows.append({key: value._asdict() if hasattr(value, "_asdict") else value for key, value in row.items()})
    payload = {
        "model": model.name,
        "entities": len(asked),
        "chance": base.chance,
        "majority": majority(asked),
        "conditions": rows,
    }
    chance = f"chance {base.chance:.2f}, always the most frequent answer {majority(asked):.2f}"
    return Printout(payload, table(rows, title="knowledge by condition", without=("locality_perplexity",)), chance)


@command
def export(
    update: UpdateFile,
    *,
    loading: Loading,
    adapter: bool = False,
    out: Path = Path("updated"),
) -> Printout:
    """Export an updated model that every --model accepts, or a PEFT adapter.

    Writes to the folder --out: the updated weights and the tokenizer in transformers' format, or the adapter.

    Args:
        adapter: Export a low-rank update as a PEFT adapter.
        out: New folder; its name becomes the model's.
    """
    delta, model = fv.knowledge.WeightDelta.load(_update_file(update)), open_model(**loading)
    folder = delta.export_adapter(model, out) if adapter else delta.export(model, out)
    return Printout({"model": model.name, "adapter": adapter, "folder": str(folder)}, repr(delta), f"written to {folder}")


def chosen_entities(source: str, names: Sequence[str] | None) -> "tuple[Entity, ...]":
    """Load the entities of a source, or the named ones."""
    entities = fv.load_entities(source)
    unknown = [name for name in names or () if all(name not in (each.key, each.name) for each in entities)]
    if unknown:
        some = ", ".join(each.key for each in entities[:5])
        raise LensFVError(f"entities {', '.join(unknown)} of {source}: its {len(entities)} have other names, such as {some}")
    return tuple(each for each in entities if not names or each.key in names or each.name in names)


def _update_file(path: Path) -> Path:
    return path / UPDATE if path.is_dir() else path


def _name(path: Path) -> str:
    """Name of an update: its folder, or its file."""
    return path.parent.name if path.name == UPDATE else path.stem


def _estimates(result: "KnowledgeResult", options: Options) -> dict[str, Any]:
    scores, others, seed = result.scores, result.locality, pick(options, "seed")
    return {
        "accuracy": scores.accuracy(**options),
        "explicit": scores.accuracy(kind="explicit", **options),
        "inferential": scores.accuracy(kind="inferential", **options),
        "perplexity": scores.perplexity(**seed),
        "locality_accuracy": others and others.accuracy(**options),
        "locality_perplexity": others and others.perplexity(**seed),
        "kl_to_base": result.kl_to_base,
    }


COMMANDS = (write, evaluate, export)
