"""Train a model towards a teacher's distributions or on texts, and return the change of its weights."""

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, get_args

from lens_fv.core.artefact import Provenance
from lens_fv.core.files import explain_disk_errors, folder_lock
from lens_fv.core.progress import progress_bar
from lens_fv.core.store import check_settings
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import pad_token
from lens_fv.knowledge.change import Change, trainable
from lens_fv.knowledge.delta import WeightDelta
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.examples import DistillationExample, Target, Unfit, teacher_targets, text_example, token_targets
from lens_fv.knowledge.settings import DistillConfig
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import plain_model
from lens_fv.model.quiet import quiet_logs

Skipped = Literal["empty definition", "no sentence", Unfit]
"""Reason why an entity or one of its sentences gives no example."""


class Run(NamedTuple):
    """How a model is trained, apart from its settings; see `distill`."""

    method: Literal["distill", "texts"]
    folder: Path | None
    stop_after_epochs: int | None
    allow_empty: bool
    progress: bool


def train(
    model: LensModel,
    entities: Sequence[Entity],
    examples_or_reasons: Sequence[DistillationExample | Skipped],
    anchors: Sequence[str],
    settings: DistillConfig,
    run: Run,
) -> WeightDelta:
    """Train on examples and anchors, towards the teacher's distributions or, for texts, the examples' own tokens."""
    examples = [example for example in examples_or_reasons if isinstance(example, DistillationExample)]
    skipped = Counter(reason for reason in examples_or_reasons if not isinstance(reason, DistillationExample))
    subject = entities[0].key if len(entities) == 1 else f"{len(entities)} entities"
    if not examples and not run.allow_empty:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in skipped.items() if n)
        raise LensFVError(
            f"teach {model.name} about {subject}: no sentence is left to teach ({reasons}); give definitions, and sentences "
            "that mention the entity before their end"
        )
    anchored = [text_example(model, "", text) for text in (anchors if examples else ())]
    anchored = [example for example in anchored if isinstance(example, DistillationExample)]
    targets = token_targets(examples) if run.method == "texts" else []
    everything = [*examples, *anchored]
    with progress_bar("reading definitions", len(everything) - len(targets), show=run.progress) as tick:
        targets += teacher_targets(
            plain_model(model),
            everything[len(targets) :],
            pad=pad_token(model.tokenizer),
            temperature=settings.temperature,
            top_k=settings.top_k,
            tick=tick,
        )
    options: dict[str, Any] = {
        **asdict(settings),
        "learning_rate": settings.rate,
        "n_examples": len(examples),
        "anchors": len(anchored),
    }
    with folder_lock(run.folder, what="teach") if run.folder else nullcontext():
        if run.folder:
            identity = {"model": model.name, "revision": model.revision, "fingerprint": model.fingerprint}
            identity |= {"what": run.method, "sentences": _digest([example[1:] for example in everything]), **options}
            check_settings(run.folder / "settings.json", identity, may_change=("n_checkpoints", "micro_batch_size"))
        change = train_student(model, everything, targets, settings, run)
    if run.stop_after_epochs is not None:
        options["stop_after_epochs"] = run.stop_after_epochs
    provenance = Provenance.of(
        model,
        task=subject,
        task_hash=_digest([(entity.key, entity.definition) for entity in entities]),
        prompts=[example.teacher for example in everything],
        seed=settings.seed,
        method=run.method,
        options=options,
    )
    counts = {reason: skipped[reason] for reason in get_args(Skipped)}
    return WeightDelta(provenance=provenance, **change._asdict(), skipped=counts)


def train_student(
    model: LensModel, examples: Sequence[DistillationExample], targets: Sequence[Target], settings: DistillConfig, run: Run
) -> Change:
    """Train the model in place, as nothing else may use it meanwhile; its weights are restored even if training fails."""
    if run.stop_after_epochs is not None and settings.optimizer == "per_sentence":
        n = run.stop_after_epochs
        raise LensFVError(f"stop teaching after {n} epochs: with an optimizer per sentence there are none of all sentences")
    if not examples:
        return Change({}, {}, {})
    from lens_fv.finetuning.trainer import train_from_checkpoint  # these two import transformers' Trainer, which takes seconds
    from lens_fv.knowledge.trainer import DistillationTrainer, training_order

    order = training_order(examples, settings)
    steps = -(-len(order) * (run.stop_after_epochs or settings.epochs) // (settings.epochs * settings.batch_size))
    with quiet_logs(), trainable(model, settings) as (student, change), TemporaryDirectory() as temporary:
        folder = run.folder or Path(temporary)
        context, remedy = f"teach in {folder}", "its checkpoints are complete: make room and run it again to resume"
        with explain_disk_errors(context, otherwise=remedy), progress_bar(run.method, steps, show=run.progress) as tick:
            options = {"steps": steps, "folder": folder, "save": run.folder is not None, "pad": pad_token(model.tokenizer)}
            trainer = DistillationTrainer(student, examples, targets, order, settings, **options)
            train_from_checkpoint(trainer, folder, steps, tick)
            trainer.accelerator.free_memory()  # free the optimiser's memory before computing the change
            trainer.optimizer = trainer.lr_scheduler = None
        return change()


def _digest(values: Sequence[object]) -> str:
    return sha256(repr(values).encode()).hexdigest()[:16]
