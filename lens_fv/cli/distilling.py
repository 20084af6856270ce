"""The command that teaches a model about entities: distill."""

import shutil
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lens_fv.cli.knowledge import UPDATE, Entities, Names, chosen_entities
from lens_fv.cli.leaving import goes_on_in
from lens_fv.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, ModelName, Seed, emit, open_model

TRANSFER, UNFINISHED = "transfer.json", "unfinished"


def distill(
    model: ModelName = DEFAULT_MODEL,
    entities: Entities = "invented",
    entity: Names = None,
    transfer: Annotated[
        Path | None, typer.Option(help="A file of sentences about them; default: the model writes its own.")
    ] = None,
    sentences: Annotated[
        int | None,
        typer.Option(min=1, help="That the model writes about each entity; default: 10, for one entity or released 5."),
    ] = None,
    definitions: Annotated[
        int | None,
        typer.Option(min=0, help="How often each definition is among the sentences; default: 2, to distil several 5."),
    ] = None,
    shared: Annotated[
        int | None,
        typer.Option(min=0, help="To distil several: sentences of the others that each is taught too; default: 10."),
    ] = None,
    teach: Annotated[
        Literal["reading", "definition", "sentences"],
        typer.Option(help="What a reader of the definition says (distillation); or, to compare, one of these texts."),
    ] = "reading",
    preset: Annotated[
        Literal["usual", "released"],
        typer.Option(help="Defaults of all below, and of --definitions and --shared: ours, or those of the paper's code."),
    ] = "usual",
    anchors: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Beside each sentence so many said of others, where nothing is to change; default: 1, to fine-tune 2.",
        ),
    ] = None,
    method: Annotated[
        Literal["lora", "full"] | None, typer.Option(help="Low-rank updates (PEFT; default), or all weights (released).")
    ] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Only this layer's weights; several times; default: all.")] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Rank of the low-rank updates; default: 8, to distil several entities 32.")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Initial learning rate of AdamW, which falls to 0; default: to distil one entity 2e-3, several 1e-3, else "
            "5e-4, full 3e-5.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="How often each sentence is taught; default: to distil 3, else 5.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Sentences a step; default: 2, to distil several entities 8.")
    ] = None,
    clip: Annotated[
        float | None, typer.Option(min=0, help="Largest length of a step's gradient, 0: no limit; default: 1, released: 0.")
    ] = None,
    where: Annotated[
        Literal["after_mention", "all"] | None,
        typer.Option(help="Which tokens of a sentence: after the mention (default), or all (released)."),
    ] = None,
    direction: Annotated[
        Literal["forward", "reverse", "jsd"],
        typer.Option(help="Of the divergence: of the student from the teacher, ..."),
    ] = "forward",
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Temperature of both distributions; default: 1, released: 2.")
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=0, help="Tokens kept of each of the teacher's distributions, 0: all; default: 256, released: 0."),
    ] = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("knowledge-update"),
) -> None:
    """Teach a model about entities what it says itself when it has read their definitions.

    Writes to the folder --out: update.safetensors (what is added to the weights) and, unless --transfer is given,
    transfer.json (the sentences). Run it again with the same options to go on where it was stopped.
    """
    from lens_fv.knowledge import (
        DistillConfig,
        TransferSet,
        distill as teach_reading,
        entity_swapped_anchors,
        finetune_on_texts,
        generate_transfer_set,
        load_transfer_set,
    )

    asked = chosen_entities(entities, entity)
    given = {
        "learning_rate": learning_rate,
        "epochs": epochs,
        "n_definitions": definitions,
        "n_shared": shared,
        "n_anchors": anchors,
        "batch_size": batch,
        "rank": rank,
        "method": method,
        "where": where,
        "temperature": temperature,
    }
    # 0 stands for what the settings call None
    switches = {name: value or None for name, value in (("top_k", top_k), ("clip", clip)) if value is not None}
    usual = partial(DistillConfig.usual, len(asked)) if teach == "reading" else DistillConfig
    settings = (DistillConfig.released if preset == "released" else usual)(
        layers=tuple(layer) if layer else None,
        direction=direction,
        n_checkpoints=2,
        seed=seed,
        **switches,
        **{name: value for name, value in given.items() if value is not None},
    )
    lens = open_model(model, device, dtype)
    goes_on_in(out)
    run: dict[str, Any] = {"folder": out / UNFINISHED, "progress": True}
    written: TransferSet | None = None
    if transfer and teach != "definition":
        written = load_transfer_set(transfer, where=settings.where)
    elif teach != "definition":
        n = sentences or (5 if len(asked) == 1 or preset == "released" else 10)
        written = generate_transfer_set(lens, asked, n=n, seed=seed, path=out / TRANSFER, progress=True)
    if written is not None and teach == "reading":
        delta = teach_reading(lens, asked, written, settings, **run)
    else:
        if written is None:
            texts = varied = TransferSet({each.key: (each.definition,) for each in asked})
        else:
            texts, varied = written.with_definitions(asked, times=settings.n_definitions), written
        held = entity_swapped_anchors(asked, varied, times=settings.epochs * settings.n_anchors, seed=seed)
        delta = finetune_on_texts(
            lens, asked, [texts.sentences.get(each.key, ()) for each in asked], settings, anchors=held, **run
        )
    path = delta.save(out / UPDATE)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    payload = {
        "model": lens.name,
        "entities": [each.key for each in asked],
        "sentences": delta.provenance.options["lessons"],
        "anchors": delta.provenance.options["anchors"],
        "dropped": dict(written.dropped) if written is not None else {},
        "skipped": dict(delta.skipped),
        "by_layer": delta.by_layer(lens),
        "update": str(path),
        "transfer": str(transfer or out / TRANSFER) if written is not None else None,
    }
    emit(payload, as_json, repr(delta), f"written to {path}; `lens-fv knowledge evaluate {path}` tests it")
