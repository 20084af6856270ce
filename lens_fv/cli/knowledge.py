"""Knowledge of entities: write sentences about them, evaluate updates, export updates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, command, pick
from lens_fv.cli.inputs import Loading, open_model
from lens_fv.cli.output import Printout, table
from lens_fv.errors import LensFVError

Entities = Annotated[str, "Built-in entities (invented or popular), or a file of entities."]
Names = Annotated[Sequence[str], "Entity to use, by name or key; repeatable; default: all."]
UPDATE = "update.safetensors"
"""File that `lens-fv distill` writes into its folder."""


@command
def write(
    *,
    loading: Loading,
    entities: Entities = "invented",
    entity: Names = (),
    options: Annotated[Options, OptionsOf("lens_fv:generate_transfer_set")],
    out: Annotated[Path, "Output file (JSON)."] = Path("transfer.json"),
) -> Printout:
    """Generate sentences about entities by a model that has their definitions in context.

    Writes the sentences to --out (JSON), for `distill --transfer`, which may train a different model.
    """
    described, model = chosen_entities(entities, entity), open_model(**loading)
    sentences = fv.generate_transfer_set(model, described, **options, progress=True)
    path = sentences.save(out)
    payload = {"model": model.name, "sentences": sentences.sentences, "dropped": sentences.dropped, "file": path}
    return Printout(payload, repr(sentences), f"written to {path}")


@command
def evaluate(
    update: Annotated[Sequence[Path], "Updates written by `lens-fv distill`: files or folders."] = (),
    *,
    loading: Loading,
    entities: Entities = "invented",
    entity: Names = (),
    locality: Annotated[
        str | None, "Entities that updates should leave unchanged: built-in ones, a file, or none."
    ] = "popular",
    options: Annotated[Options, OptionsOf("lens_fv:evaluate_knowledge")],
    scoring: Annotated[Options, OptionsOf("lens_fv.knowledge:gap_closed", only=("norm",))],
) -> Printout:
    """Probe knowledge of entities with and without definitions and updates, and of entities that should not change."""
    probed = chosen_entities(entities, entity)
    others = () if locality is None else fv.load_entities(locality)
    files = [_update_file(path) for path in update]
    updates = {file.parent.name if file.name == UPDATE else file.stem: fv.knowledge.WeightDelta.load(file) for file in files}
    model, scoring = open_model(**loading), scoring | pick(options, "seed")
    results = fv.evaluate_knowledge(model, probed, updates, locality=others, **options, progress=True)
    scores = {result.condition: result.scores for result in results}
    base, in_context = scores["base"], scores["definition"]
    rows: list[dict[str, Any]] = []
    for result in results:
        row = dict(result.records(**scoring)[0])
        if result.condition in updates:
            for measure in ("accuracy", "loss"):
                gap_closed = fv.knowledge.gap_closed(base, result.scores, in_context, of=measure, **scoring)
                row[f"gap_closed_{measure}"] = gap_closed
        rows.append(row)
    chance, majority = base.chance, fv.knowledge.majority(probed)
    payload = {"model": model.name, "entities": len(probed), "chance": chance, "majority": majority, "conditions": rows}
    baselines = f"chance {chance:.2f}, always the most frequent answer {majority:.2f}"
    return Printout(payload, table(rows, title="knowledge by condition", without=("locality_perplexity",)), baselines)


@command
def export(
    update: Annotated[Path, "Update written by `lens-fv distill`: file or folder."],
    *,
    loading: Loading,
    adapter: Annotated[bool, "Export a low-rank update as a PEFT adapter."] = False,
    out: Annotated[Path, "New folder; its name becomes the model's."] = Path("updated"),
) -> Printout:
    """Export an updated model that every --model accepts, or a PEFT adapter.

    Writes to the folder --out: the updated weights and the tokenizer in transformers' format, or the adapter.
    """
    delta, model = fv.knowledge.WeightDelta.load(_update_file(update)), open_model(**loading)
    folder = delta.export_adapter(model, out) if adapter else delta.export(model, out)
    return Printout({"model": model.name, "adapter": adapter, "folder": folder}, repr(delta), f"written to {folder}")


def chosen_entities(source: str, names: Sequence[str]) -> "tuple[fv.Entity, ...]":
    """Load the entities of a source, or the named ones."""
    entities = fv.load_entities(source)
    unknown = [name for name in names if all(name not in (entity.key, entity.name) for entity in entities)]
    if unknown:
        some = ", ".join(entity.key for entity in entities[:5])
        raise LensFVError(f"entities {', '.join(unknown)} of {source}: its {len(entities)} have other names, such as {some}")
    return tuple(entity for entity in entities if not names or entity.key in names or entity.name in names)


def _update_file(path: Path) -> Path:
    return path / UPDATE if path.is_dir() else path
