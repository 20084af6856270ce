"""The command that has a model generate answers: write."""

from typing import Annotated

import typer

from lens_fv.cli.heads import columns
from lens_fv.cli.options import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Dtype,
    EvaluationFile,
    Force,
    Items,
    ModelName,
    Scale,
    Seed,
    Shots,
    TaskName,
    Vectors,
    emit,
    open_model,
    read_vectors,
)
from lens_fv.core.tables import table_rows


def write(
    model: ModelName = DEFAULT_MODEL,
    task: TaskName = "present-past",
    vector: Vectors = None,
    instruction: Annotated[str | None, typer.Option(help="Instruction sentence placed before every prompt.")] = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of new tokens per text.")] = 32,
    scale: Scale = 1.0,
    force: Force = False,
    shots: Shots = 10,
    items: Items = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    out: EvaluationFile = None,
) -> None:
    """Generate answers with and without vectors, and score the texts by ROUGE-L.

    Writes nothing unless --out is given.
    """
    from lens_fv.evaluation import evaluate_texts
    from lens_fv.tasks import load_task

    the_task, vectors = load_task(task), read_vectors(vector or [], scale)
    lens = open_model(model, device, dtype)
    found = evaluate_texts(
        lens,
        the_task,
        vectors,
        instruction=instruction,
        n_shots=shots,
        max_new_tokens=new_tokens,
        max_items=items,
        seed=seed,
        force=force,
        progress=True,
    )
    written = None if out is None else str(found.save(out))
    payload = {
        "model": lens.name,
        "task": the_task.name,
        "instruction": instruction,
        "results": table_rows(found.results),
        "texts": [
            {"input": asked, "written": dict(zip(found.conditions, texts, strict=True))}
            for asked, texts in zip(found.inputs, found.texts, strict=True)
        ],
        "file": written,
    }
    table = columns("condition", "ROUGE-L [95 %]", "exact match [95 %]", "n", title="on the test split")
    for r in found.results:
        table.add_row(r.condition, str(r.rouge_l), str(r.exact_match), str(r.rouge_l.n))
    emit(payload, as_json, table, *([f"written to {written}"] if written else []))
