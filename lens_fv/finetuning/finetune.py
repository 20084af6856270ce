"""Fine-tune a model on a sequence of tasks and save checkpoints."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from lens_fv.core.choices import checked
from lens_fv.core.files import explain_disk_errors, folder_lock, write_atomically
from lens_fv.core.progress import progress_bar
from lens_fv.core.store import differences
from lens_fv.errors import LensFVError
from lens_fv.finetuning.checkpoints import load_into
from lens_fv.finetuning.examples import TokenizerEncoder, collated, instruction_swapped_prompts, training_examples
from lens_fv.finetuning.forgetting import VECTORS, save_vectors, stage_regularizers, with_replay
from lens_fv.finetuning.loop import complete_checkpoints, pad_token
from lens_fv.finetuning.regularizers import guided
from lens_fv.finetuning.run import RUN, FinetuneRun, save_tasks
from lens_fv.finetuning.settings import FinetuneConfig
from lens_fv.model.fingerprint import Fingerprint
from lens_fv.model.loading import parse_device, parse_dtype
from lens_fv.model.quiet import quiet_logs
from lens_fv.model.weights import find_model, load_transformers, writes_bos
from lens_fv.tasks import Task, list_tasks, load_task
from lens_fv.vectors import FunctionVector


@checked
def finetune(
    model: str | Path,
    tasks: Sequence[Task],
    folder: str | Path,
    settings: FinetuneConfig | None = None,
    *,
    vectors: Mapping[str, FunctionVector] | None = None,
    swap_tasks: Sequence[Task] | None = None,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> FinetuneRun:
    """Fine-tune on one task, a sequence of tasks or a mixture of tasks, with transformers' Trainer and PEFT.

    The same low-rank updates are trained throughout the sequence, so every checkpoint is a single adapter of the initial model.
    The optimiser is reset for each task. An interrupted run resumes from its last complete checkpoint and gives the same result
    as an uninterrupted one.

    Args:
        model: Model name or path for `load_model`.
        tasks: Tasks in training order, with distinct names.
        folder: Folder of the run. It holds `run.json` (with the fingerprint of the initial weights), a copy of the tasks, and a
            folder of Trainer checkpoints for each task or for the mixture.
        settings: Training settings; default: `FinetuneConfig()`.
        vectors: Vectors of the initial model by task name, which guide the training (`settings.guide`). The run keeps a copy.
        swap_tasks: Tasks that provide the instructions of the guide's instruction-swapped prompts (`GuideConfig.swap`);
            default: all built-in tasks that are not trained.
        device: See `load_model`.
        dtype: See `load_model`; low-rank updates use the same type.
        cache_dir: See `load_model`.
        progress: Show a progress bar.

    Raises:
        LensFVError: no tasks or duplicate names, a folder that holds another run or is in use by another process, an
            architecture unknown to PEFT, a non-finite loss, vectors that are missing or belong to another model, or any error
            of `load_model`, `training_examples` and `Guide`.

    Example:
        >>> settings = lens_fv.FinetuneConfig(n_examples=4, batch_size=4, n_checkpoints=1, rank=2)
        >>> run = lens_fv.finetune(model_folder, [lens_fv.load_task('antonym')], folder / 'run', settings)
        >>> [checkpoint.name for checkpoint in run.checkpoints]
        ['0-antonym/1']
    """
    settings, folder = settings or FinetuneConfig(), Path(folder)
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise LensFVError(f"fine-tune on {len(names)} tasks: give at least one, and each a name of its own: {', '.join(names)}")
    device, torch_dtype = parse_device(device), parse_dtype(dtype)
    source = find_model(model, None, cache_dir)
    if settings.active_guide is None or not settings.active_guide.uses_swap:
        swap_tasks = []
    elif swap_tasks is None:
        swap_tasks = [load_task(name) for name in list_tasks()]
    swap_tasks = [task for task in swap_tasks if task.name not in names]
    with folder_lock(folder, what="fine-tune"):
        hf_model, tokenizer = load_transformers(source, device=device, dtype=torch_dtype)
        about: dict[str, Any] = {
            "model": source.name,
            "source": source.source,
            "revision": source.revision,
            "fingerprint": Fingerprint(hf_model).value(),
            "dtype": str(torch_dtype).removeprefix("torch."),
            "settings": asdict(settings),
            "tasks": [{"name": task.name, "fingerprint": task.fingerprint} for task in tasks],
        }
        if swap_tasks:
            about["swap_tasks"] = [task.name for task in swap_tasks]
        run = _open_run(folder, about, tasks)
        save_vectors(run, vectors, settings)
        if not run.finished:
            _train(run, hf_model, tokenizer, tasks, settings, swap_tasks, device, progress)
    return run


def _open_run(folder: Path, about: Mapping[str, Any], tasks: Sequence[Task]) -> FinetuneRun:
    """Return the run in the folder, new or resumed. A run without checkpoints may be restarted with other settings."""
    if (folder / RUN).is_file():
        run = FinetuneRun(folder)
        saved, requested = ({**values, "source": None} for values in (run.about, json.loads(json.dumps(about))))
        saved.setdefault("fingerprint", about["fingerprint"])  # runs of older versions have none
        changes = differences(saved, requested)
        if changes and run.checkpoints:
            raise LensFVError(f"resume the run in {folder}: it was made with {', '.join(changes)}; choose another folder")
        if not changes:
            return run
        shutil.rmtree(folder / VECTORS, ignore_errors=True)
    save_tasks(folder, tasks)
    write_atomically(folder / RUN, json.dumps(about, indent=1))
    return FinetuneRun(folder)


def _train(
    run: FinetuneRun,
    hf_model: Any,
    tokenizer: Any,
    tasks: Sequence[Task],
    settings: FinetuneConfig,
    swap_tasks: Sequence[Task],
    device: str,
    progress: bool,
) -> None:
    """Train the rest of a run, from its last complete checkpoint."""
    from transformers import Trainer  # takes seconds to import

    from lens_fv.finetuning.trainer import train_from_checkpoint, trainer_arguments

    checkpoints = run.checkpoints
    encoder = TokenizerEncoder(run.about["model"], tokenizer, hf_model.config.max_position_embeddings, writes_bos(tokenizer))
    examples = [training_examples(encoder, task, settings, end=tokenizer.eos_token_id) for task in tasks]
    examples = [list(chain(*examples))] if settings.mixed else with_replay(examples, settings.replay, settings.seed)
    collate = partial(collated, pad=pad_token(tokenizer))
    swap_prompts = [instruction_swapped_prompts(encoder, task, swap_tasks, settings) if swap_tasks else [] for task in tasks]

    def batches(index: int) -> Iterator[dict[str, torch.Tensor]]:
        for start in range(0, len(examples[index]), settings.batch_size):
            batch = collate(examples[index][start : start + settings.batch_size])
            yield {key: value.to(device) for key, value in batch.items()}

    trainer_class: Any = guided(Trainer)
    steps = settings.steps(len(tasks) if settings.mixed else 1)
    disk_errors = explain_disk_errors(
        f"fine-tune in {run.folder}", otherwise="its checkpoints are complete: make room and run it again to resume"
    )
    with disk_errors, quiet_logs(), progress_bar("fine-tuning", len(examples) * steps, show=progress) as tick:
        model = _trainable(hf_model, settings, len(tasks), checkpoints[-1].folder if checkpoints else None)
        for index, stage_examples in enumerate(examples):
            folder = run.stage_folder(index)
            if steps in complete_checkpoints(folder):
                for _ in range(steps):
                    tick()
                continue
            arguments = trainer_arguments(
                folder,
                device,
                steps,
                -(-steps // settings.n_checkpoints),
                per_device_train_batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                lr_scheduler_type="constant",
                seed=settings.seed + index,
            )
            with stage_regularizers(model, run, index, settings, batches, swap_prompts[index]) as regularizers:
                trainer: Any = trainer_class(
                    **regularizers,
                    model=model,
                    args=arguments,
                    train_dataset=stage_examples,
                    data_collator=collate,
                )
                train_from_checkpoint(trainer, folder, steps, tick, index=index)


def _trainable(hf_model: Any, settings: FinetuneConfig, n_tasks: int, checkpoint: Path | None) -> Any:
    """Return the model ready to train, with its weights or updates restored from the checkpoint, if given."""
    if checkpoint is not None:
        return load_into(hf_model, checkpoint, settings.update, trainable=True)
    if settings.update == "full":
        return hf_model
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(settings.seed)
    blocks = n_tasks if settings.orthogonal else 1  # alpha grows with r, so a block is as strong as a single one
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=blocks * settings.rank,
        lora_alpha=blocks * settings.alpha,
        lora_dropout=settings.dropout,
        bias="none",
    )
    try:
        return get_peft_model(hf_model, config)
    except ValueError as error:
        architecture = hf_model.config.model_type
        raise LensFVError(
            f"low-rank updates of a {architecture} model: PEFT knows no projections to update ({error})"
        ) from None
