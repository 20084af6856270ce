"""The command `lens-fv distill`: teach a model the definitions of entities."""

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import lens_fv as fv
from lens_fv.cli.command import Options, OptionsOf, command
from lens_fv.cli.inputs import Loading, open_model
from lens_fv.cli.knowledge import UPDATE, Entities, Names, chosen_entities
from lens_fv.cli.leaving import resumes_in
from lens_fv.cli.output import Printout
from lens_fv.core.choices import Count
from lens_fv.errors import LensFVError

TRANSFER, UNFINISHED = "transfer.json", "unfinished"
"""File and folder that are written into the folder of the update."""


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
        preset: Defaults of the settings below: ours, or those of the paper's released code. Those shown are for the baselines
            and for `update` full. Low-rank distillation takes 3 epochs and 1 anchor; for one entity a learning rate of 0.002,
            for several 0.001, rank 32, batches of 8 by length, 5 definitions and 10 shared sentences.
        out: Folder for the update.
    """
    taught = chosen_entities(entities, entity)
    options["n_checkpoints"] = 2
    if preset == "released":
        settings = fv.DistillConfig.released(**options)
    elif target == "predictions":
        settings = fv.DistillConfig.for_entities(len(taught), **options)
    else:
        settings = fv.DistillConfig(**options)
    if n_sentences is not None and (transfer is not None or target == "definition"):
        raise LensFVError("distill with --n-sentences: no sentences are written here; leave it out")
    model = open_model(**loading)
    resumes_in(out)
    resuming: Any = {"folder": out / UNFINISHED, "progress": True}
    if target == "definition":
        sentences = fv.knowledge.TransferSet({member.key: (member.definition,) for member in taught})
    elif transfer is not None:
        sentences = fv.knowledge.load_transfer_set(transfer, target_tokens=settings.target_tokens)
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
        anchors = fv.knowledge.entity_swapped_anchors(taught, sentences, n_per_sentence=n_anchors, seed=settings.seed)
        by_entity = [texts.get(member.key, ()) for member in taught]
        delta = fv.knowledge.finetune_on_texts(model, taught, by_entity, settings, anchors=anchors, **resuming)
    path = delta.save(out / UPDATE)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    payload = {
        "model": model.name,
        "entities": [member.key for member in taught],
        "sentences": delta.provenance.options["n_examples"],
        "anchors": delta.provenance.options["anchors"],
        "dropped": sentences.dropped,
        "skipped": delta.skipped,
        "by_layer": delta.by_layer(model),
        "update": path,
        "transfer": None if target == "definition" else transfer or out / TRANSFER,
    }
    return Printout(payload, repr(delta), f"written to {path}; `lens-fv knowledge evaluate {path}` tests it")
