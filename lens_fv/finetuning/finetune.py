"""Fine-tune a model on a sequence of tasks and save checkpoints."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from lens_fv.core.artefact_file import read_tensors
from lens_fv.core.files import explain_disk_errors, folder_lock, write_atomically
from lens_fv.core.progress import progress_bar
from lens_fv.core.store import differences
from lens_fv.errors import LensFVError
from lens_fv.finetuning.examples import Example, Reader, collated, instruction_swapped_prompts, training_examples
from lens_fv.finetuning.keeping import forget_vectors, keep_vectors, keeping, with_replay
from lens_fv.finetuning.loop import pad_token, trainer_arguments
from lens_fv.finetuning.regularizers import guided
from lens_fv.finetuning.run import RUN, UPDATES, FinetuneRun, clear_unfinished, keep_tasks
from lens_fv.finetuning.settings import FinetuneConfig
from lens_fv.finetuning.weights import load_all
from lens_fv.model.fingerprint import Fingerprint
from lens_fv.model.loading import parse_device, parse_dtype
from lens_fv.model.quiet import quiet_logs
from lens_fv.model.weights import ModelSource, find_model, load_transformers, writes_bos
from lens_fv.tasks import Task, list_tasks, load_task
from lens_fv.vectors import FunctionVector

if TYPE_CHECKING:
    from transformers import Trainer


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
        model: model name or path for `load_model`.
        tasks: tasks in training order, with distinct names.
        folder: folder of the run. It holds `run.json` (with the fingerprint of the initial weights), a copy of the tasks, and a
            folder of Trainer checkpoints for each task or for the mixture.
        settings: training settings; default: `FinetuneConfig()`.
        vectors: vectors of the initial model by task name, which guide the training (`settings.guide`). The run keeps a copy.
        swap_tasks: tasks that provide the instructions of the guide's instruction-swapped prompts (`GuideConfig.swap`);
            default: all built-in tasks that are not trained.
        device: see `load_model`.
        dtype: see `load_model`; low-rank updates use the same type.
        cache_dir: see `load_model`.
        progress: whether to show a progress bar.

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
    where, kind = parse_device(device), parse_dtype(dtype)
    place = find_model(model, None, cache_dir)
    swap_tasks = _others(tasks, swap_tasks) if settings.guides and settings.guide and settings.guide.uses_swap else []
    with folder_lock(folder, what="fine-tune"):
        loaded = load_transformers(place, device=where, dtype=kind)
        run = _begun(folder, place, Fingerprint(loaded[0]).value(), tasks, settings, kind, swap_tasks)
        keep_vectors(run, vectors, settings)
        if not run.finished:
            _go_on(run, place, loaded, tasks, settings, swap_tasks, where, progress)
    return run


def _go_on(
    run: FinetuneRun,
    place: ModelSource,
    loaded: tuple[Any, Any],
    tasks: Sequence[Task],
    settings: FinetuneConfig,
    swap_tasks: Sequence[Task],
    where: str,
    progress: bool,
) -> None:
    """Train the rest of a run, from its last complete checkpoint."""
    for index in range(len(run.stages)):
        clear_unfinished(run.stage_folder(index))
    done = run.checkpoints
    hf_model, tokenizer = loaded
    encoder = Reader(place.name, tokenizer, hf_model.config.max_position_embeddings, writes_bos(tokenizer))
    examples = [training_examples(encoder, task, settings, end=tokenizer.eos_token_id) for task in tasks]
    examples = [list(chain(*examples))] if settings.mixed else with_replay(examples, settings.replay, settings.seed)

    prompts = [instruction_swapped_prompts(encoder, task, swap_tasks, settings) for task in tasks] if swap_tasks else []

    def batches(index: int) -> Iterator[dict[str, torch.Tensor]]:
        shown, size = examples[index], settings.batch_size
        for at in range(0, len(shown), size):
            batch = collated(shown[at : at + size], pad_token(tokenizer))
            yield {key: value.to(where) for key, value in batch.items()}

    steps = settings.steps(len(tasks) if settings.mixed else 1)
    with quiet_logs():
        trained = _trainable(hf_model, settings, len(tasks), done[-1].folder if done else None)
    full = explain_disk_errors(
        f"fine-tune in {run.folder}", otherwise="its checkpoints are whole: make room and run it again to go on"
    )
    with full, quiet_logs(), progress_bar("fine-tuning", len(examples) * steps, show=progress) as tick:
        for index, shown in enumerate(examples):
            before = max((c.step for c in done if c.index == index), default=0)
            for _ in range(before):
                tick()
            if before < steps:
                at = run.stage_folder(index)
                with keeping(trained, run, index, settings, batches, prompts[index] if prompts else ()) as kept:
                    trainer = _trainer(trained, shown, at, index, steps, settings, tokenizer, where, tick, kept)
                    trainer.train(resume_from_checkpoint=str(at / f"checkpoint-{before}") if before else None)


def _others(tasks: Sequence[Task], others: Sequence[Task] | None) -> list[Task]:
    trained = {task.name for task in tasks}
    return [task for task in (map(load_task, list_tasks()) if others is None else others) if task.name not in trained]


def _begun(
    folder: Path,
    place: ModelSource,
    fingerprint: str,
    tasks: Sequence[Task],
    settings: FinetuneConfig,
    dtype: torch.dtype,
    swap_tasks: Sequence[Task],
) -> FinetuneRun:
    """Return the run in the folder, new or resumed. A run without checkpoints may be restarted with other settings."""
    said = {
        "model": place.name,
        "source": place.source,
        "revision": place.revision,
        "fingerprint": fingerprint,
        "dtype": str(dtype).removeprefix("torch."),
        "settings": asdict(settings),
        "tasks": [{"name": task.name, "fingerprint": task.fingerprint} for task in tasks],
        **({"swap_tasks": [task.name for task in swap_tasks]} if swap_tasks else {}),
    }
    if (folder / RUN).is_file():
        begun = FinetuneRun(folder)
        before, asked = ({**about, "source": None} for about in (begun.about, json.loads(json.dumps(said))))
        before.setdefault("fingerprint", fingerprint)  # runs of older versions have none
        other = differences(before, asked)
        if other and begun.checkpoints:
            raise LensFVError(f"go on with the run in {folder}: it was made with {', '.join(other)}; choose another folder")
        if not other:
            return begun
        forget_vectors(begun)
    keep_tasks(folder, tasks)
    write_atomically(folder / RUN, json.dumps(said, indent=1))
    return FinetuneRun(folder)


def _trainable(hf_model: Any, settings: FinetuneConfig, n_tasks: int, checkpoint: Path | None) -> Any:
    """Return the model ready to train, with its weights or updates restored from the checkpoint, if given."""
    if settings.update == "full":
        if checkpoint is not None:
            load_all(hf_model, checkpoint)
        return hf_model
    from peft import LoraConfig, PeftModel, get_peft_model

    if checkpoint is not None:
        read_tensors(checkpoint / UPDATES)  # without this file, PEFT would load a pickle
        return PeftModel.from_pretrained(hf_model, str(checkpoint), is_trainable=True)
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
        kind = hf_model.config.model_type
        raise LensFVError(f"low-rank updates of a {kind} model: PEFT knows no projections to update ({error})") from None


def _trainer(
    trained: Any,
    examples: list[Example],
    folder: Path,
    index: int,
    steps: int,
    settings: FinetuneConfig,
    tokenizer: Any,
    device: str,
    tick: Callable[[], None],
    kept: Mapping[str, Any],
) -> "Trainer":
    from transformers import PrinterCallback, Trainer

    from lens_fv.finetuning.marks import Marks  # imports transformers' Trainer, which takes seconds

    arguments = trainer_arguments(
        folder,
        batch_size=settings.batch_size,
        steps=steps,
        save_steps=-(-steps // settings.n_checkpoints),
        learning_rate=settings.learning_rate,
        seed=settings.seed + index,
        device=device,
    )
    trainer: Trainer = guided(Trainer)(
        **kept,
        model=trained,
        args=arguments,
        train_dataset=cast(Any, examples),
        data_collator=partial(collated, pad=pad_token(tokenizer)),
        callbacks=[Marks(folder, index, steps, tick)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
