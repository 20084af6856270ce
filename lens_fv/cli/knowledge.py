"""Commands for a model's knowledge of entities: distill, and knowledge write, evaluate, export."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, command, pick
from lens_fv.cli.inputs import Loading, open_model
from lens_fv.cli.leaving import resumes_in
from lens_fv.cli.output import Printout, table
from lens_fv.core.choices import Count
from lens_fv.core.estimate import Estimate
from lens_fv.errors import LensFVError

if TYPE_CHECKING:
    from lens_fv.knowledge import Entity

HELP = "Knowledge of entities: write sentences about them, evaluate updates, export updates."
Entities = Annotated[str, "Built-in entities (invented or popular), or a file of entities."]
Names = Annotated[Sequence[str], "Entity to use, by name or key; repeatable; default: all."]
UPDATE, TRANSFER, UNFINISHED = "update.safetensors", "transfer.json", "unfinished"
"""Files and folder that `distill` writes into its folder."""


@command
def distill(
    *,
    loading: Loading,
    entities: Entities = "invented",
    entity: Names = (),
    transfer: Path | None = None,
    n_sentences: Count | None = None,
    target: Literal["predictions", "definition", "sentences"] = "predictions",
    preset: Literal["default", "released"] = "default",
    options: Annotated[Options, OptionsOf("lens_fv:DistillConfig", leave_out=("n_checkpoints",))],
    out: Path = Path("knowledge-update"),
) -> Printout:
    """Distil entities' definitions into a model, so that it predicts as it does with them in context.

    Writes to the folder --out: update.safetensors (the change of the weights) and, unless --transfer is given,
    transfer.json (the sentences). Run it again with the same options to resume.

    Args:
        transfer: File of sentences about the entities; default: the model writes its own.
        n_sentences: Number of sentences written about each entity; default: 10, or 5 for one entity or `preset` released.
        target: What to train on: the predictions that the model makes with the definition in context (distillation); or, as
            baselines, the definition or the sentences themselves.
        preset: Defaults of the settings below: ours (those shown are for the baselines; for distillation they depend on the
            number of entities), or those of the paper's released code.
        out: Folder for the update.
    """
    from lens_fv.knowledge import DistillConfig, TransferSet, entity_swapped_anchors, finetune_on_texts, load_transfer_set

    taught = _entities(entities, entity)
    options["n_checkpoints"] = 2
    if preset == "released":
        settings = DistillConfig.released(**options)
    elif target == "predictions":
        settings = DistillConfig.for_entities(len(taught), **options)
    else:
        settings = DistillConfig(**options)
    if n_sentences is not None and (transfer is not None or target == "definition"):
        raise LensFVError("distill with --n-sentences: no sentences are written here; leave it out")
    model = open_model(**loading)
    resumes_in(out)
    resuming: Any = {"folder": out / UNFINISHED, "progress": True}
    if target == "definition":
        sentences = TransferSet({member.key: (member.definition,) for member in taught})
    elif transfer is not None:
        sentences = load_transfer_set(transfer, target_tokens=settings.target_tokens)
    else:
        n = n_sentences or (5 if len(taught) == 1 or preset == "released" else 10)
        sentences = fv.generate_transfer_set(
            model, taught, n_sentences=n, seed=settings.seed, path=out / TRANSFER, progress=True
        )
    if target == "predictions":
        delta = fv.distill(model, taught, sentences, settings, **resuming)
    else:
        n_copies = settings.n_definitions if target == "sentences" else 0
        texts = sentences.with_definitions(taught, n_copies=n_copies).sentences
        n_anchors = settings.epochs * settings.n_anchors
        anchors = entity_swapped_anchors(taught, sentences, n_per_sentence=n_anchors, seed=settings.seed)
        by_entity = [texts.get(member.key, ()) for member in taught]
        delta = finetune_on_texts(model, taught, by_entity, settings, anchors=anchors, **resuming)
    path = delta.save(out / UPDATE)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    payload = {
        "model": model.name,
        "entities": [member.key for member in taught],
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
    entity: Names = (),
    options: Annotated[Options, OptionsOf("lens_fv:generate_transfer_set")],
    out: Path = Path("transfer.json"),
) -> Printout:
    """Generate sentences about entities by a model that has their definitions in context.

    Writes the sentences to --out (JSON), for `distill --transfer`, which may train a different model.

    Args:
        out: Output file (JSON).
    """
    described, model = _entities(entities, entity), open_model(**loading)
    sentences = fv.generate_transfer_set(model, described, **options, progress=True)
    path = sentences.save(out)
    payload = {"model": model.name, "sentences": sentences.sentences, "dropped": dict(sentences.dropped), "file": str(path)}
    return Printout(payload, repr(sentences), f"written to {path}")


@command
def evaluate(
    update: Annotated[Sequence[Path], "Updates written by `lens-fv distill`: files or folders."] = (),
    *,
    loading: Loading,
    entities: Entities = "invented",
    entity: Names = (),
    locality: str | None = "popular",
    options: Annotated[Options, OptionsOf("lens_fv:evaluate_knowledge")],
    scoring: Annotated[Options, OptionsOf("lens_fv.knowledge:gap_closed", only=("norm",))],
) -> Printout:
    """Probe knowledge of entities with and without definitions and updates, and of entities that should not change.

    Args:
        locality: Entities that updates should leave unchanged: built-in ones, a file, or none.
    """
    from lens_fv.knowledge import WeightDelta, gap_closed, majority

    probed = _entities(entities, entity)
    others = () if locality is None else fv.load_entities(locality)
    files = [_update_file(path) for path in update]
    updates = {file.parent.name if file.name == UPDATE else file.stem: WeightDelta.load(file) for file in files}
    model, scoring = open_model(**loading), scoring | pick(options, "seed")
    results = fv.evaluate_knowledge(model, probed, updates, locality=others, **options, progress=True)
    scores = {result.condition: result.scores for result in results}
    base, in_context = scores["base"], scores["definition"]
    rows: list[dict[str, Any]] = []
    for result in results:
        row = dict(result.records(**scoring)[0])
        if result.condition in updates:
            for measure in ("accuracy", "loss"):
                row[f"gap_closed_{measure}"] = gap_closed(base, result.scores, in_context, of=measure, **scoring)
        rows.append({key: value._asdict() if isinstance(value, Estimate) else value for key, value in row.items()})
    payload = {
        "model": model.name,
        "entities": len(probed),
        "chance": base.chance,
        "majority": majority(probed),
        "conditions": rows,
    }
    chance = f"chance {base.chance:.2f}, always the most frequent answer {majority(probed):.2f}"
    return Printout(payload, table(rows, title="knowledge by condition", without=("locality_perplexity",)), chance)


@command
def export(
    update: Annotated[Path, "Update written by `lens-fv distill`: file or folder."],
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


def _entities(source: str, names: Sequence[str]) -> "tuple[Entity, ...]":
    """Load the entities of a source, or the named ones."""
    entities = fv.load_entities(source)
    unknown = [name for name in names if all(name not in (entity.key, entity.name) for entity in entities)]
    if unknown:
        some = ", ".join(entity.key for entity in entities[:5])
        raise LensFVError(f"entities {', '.join(unknown)} of {source}: its {len(entities)} have other names, such as {some}")
    return tuple(entity for entity in entities if not names or entity.key in names or entity.name in names)


def _update_file(path: Path) -> Path:
    return path / UPDATE if path.is_dir() else path


COMMANDS = (write, evaluate, export)
