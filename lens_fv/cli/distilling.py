"""The command that distils knowledge of entities into a model: distill."""

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
        Path | None, typer.Option(help="File of sentences about the entities; default: the model writes its own.")
    ] = None,
    sentences: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of sentences written about each entity; default: 10, or 5 for one entity or --preset released."
        ),
    ] = None,
    definitions: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of copies of each definition among the sentences; default: 2, or 5 to distil several entities."
        ),
    ] = None,
    shared: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of the other entities' sentences added for each, when distilling several; default: 10."
        ),
    ] = None,
    teach: Annotated[
        Literal["reading", "definition", "sentences"],
        typer.Option(
            help="Training target: predictions given the definition (distillation), or as baselines the texts themselves."
        ),
    ] = "reading",
    preset: Annotated[
        Literal["usual", "released"],
        typer.Option(
            help="Defaults of --definitions, --shared and all options below: ours, or those of the paper's released code."
        ),
    ] = "usual",
    anchors: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of anchors per sentence: the same sentence about another subject, where nothing may change; "
            "default: 1, or 2 to fine-tune.",
        ),
    ] = None,
    method: Annotated[
        Literal["lora", "full"] | None,
        typer.Option(help="Trained parameters: low-rank updates (PEFT; default), or all weights (released)."),
    ] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Layer to train; repeatable; default: all.")] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Rank of the low-rank updates; default: 8, or 32 to distil several entities.")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Initial learning rate of AdamW, which decays to 0; default: 2e-3 to distil one entity, 1e-3 to distil "
            "several, otherwise 5e-4, or 3e-5 for full.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Number of passes over the sentences; default: 3 to distil, otherwise 5.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Number of sentences per step; default: 2, or 8 to distil several entities.")
    ] = None,
    clip: Annotated[
        float | None, typer.Option(min=0, help="Maximum gradient norm, 0: no limit; default: 1, released: 0.")
    ] = None,
    where: Annotated[
        Literal["after_mention", "all"] | None,
        typer.Option(help="Trained tokens of a sentence: after the entity's mention (default), or all (released)."),
    ] = None,
    direction: Annotated[
        Literal["forward", "reverse", "jsd"],
        typer.Option(help="Direction of the divergence: forward KL (teacher to student), reverse KL or Jensen-Shannon."),
    ] = "forward",
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Softmax temperature of teacher and student; default: 1, released: 2.")
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of likeliest tokens kept per teacher distribution, 0: all; default: 256, released: 0."
        ),
    ] = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the update.")] = Path("knowledge-update"),
) -> None:
    """Distil entities' definitions into a model, so that it predicts as it does with them in context.

    Writes to the folder --out: update.safetensors (the change of the weights) and, unless --transfer is given,
    transfer.json (the sentences). Run it again with the same options to resume.
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
        "update": method,
        "target_tokens": where,
        "temperature": temperature,
    }
    # 0 on the command line is None in the settings
    switches = {name: value or None for name, value in (("top_k", top_k), ("max_grad_norm", clip)) if value is not None}
    usual = partial(DistillConfig.for_entities, len(asked)) if teach == "reading" else DistillConfig
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
        written = load_transfer_set(transfer, target_tokens=settings.target_tokens)
    elif teach != "definition":
        n = sentences or (5 if len(asked) == 1 or preset == "released" else 10)
        written = generate_transfer_set(lens, asked, n=n, seed=seed, path=out / TRANSFER, progress=True)
    if written is not None and teach == "reading":
        delta = teach_reading(lens, asked, written, settings, **run)
    else:
        if written is None:
            texts = varied = TransferSet({each.key: (each.definition,) for each in asked})
        else:
            texts, varied = written.with_definitions(asked, n_copies=settings.n_definitions), written
        held = entity_swapped_anchors(asked, varied, n_per_sentence=settings.epochs * settings.n_anchors, seed=seed)
        delta = finetune_on_texts(
            lens, asked, [texts.sentences.get(each.key, ()) for each in asked], settings, anchors=held, **run
        )
    path = delta.save(out / UPDATE)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    payload = {
        "model": lens.name,
        "entities": [each.key for each in asked],
        "sentences": delta.provenance.options["n_examples"],
        "anchors": delta.provenance.options["anchors"],
        "dropped": dict(written.dropped) if written is not None else {},
        "skipped": dict(delta.skipped),
        "by_layer": delta.by_layer(lens),
        "update": str(path),
        "transfer": str(transfer or out / TRANSFER) if written is not None else None,
    }
    emit(payload, as_json, repr(delta), f"written to {path}; `lens-fv knowledge evaluate {path}` tests it")
