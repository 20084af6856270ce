"""Give a model's weights what takes it to its targets, and take it out again."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.knowledge.lessons import Lesson
from lens_fv.knowledge.settings import TeachSettings
from lens_fv.knowledge.targets import Target
from lens_fv.model.lens_model import LensModel
from lens_fv.model.plain import plain_model
from lens_fv.model.quiet import hushed
from lens_fv.progress import progress_bar
from lens_fv.training.loop import pad_token, trainer_arguments
from lens_fv.training.run import clear_unfinished

if TYPE_CHECKING:
    from transformers import Trainer


class Change(NamedTuple):
    """What training did to weights, by transformers' names: `dense` is added, and so is `up` @ `down`."""

    dense: Mapping[str, Tensor]
    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]


def teach(
    model: LensModel,
    lessons: Sequence[Lesson],
    targets: Sequence[Target],
    settings: TeachSettings,
    *,
    folder: Path | None = None,
    until: int | None = None,
    what: str = "teaching",
    progress: bool = False,
) -> Change:
    """Train a model's own weights to say what the targets are, with transformers' Trainer, and put the weights back.

    Args:
        model: is trained in place: nothing else may use it meanwhile. Whatever happens, it is afterwards what it was.
        lessons: what is read.
        targets: what is to be said, of each lesson.
        settings: how.
        folder: of checkpoints, to go on from where a run was stopped; None: keep none.
        until: stop behind so many epochs.
        what: of the progress bar.
        progress: draw it.

    Raises:
        LensFVError: a loss that is not finite, layers that the model does not have, an architecture that PEFT knows no
            projections of, or checkpoints from behind where it should stop.
    """
    if not lessons:
        return Change({}, {}, {})
    from lens_fv.training.marks import Marks  # which takes transformers' Trainer, and that seconds to import

    steps = settings.steps(len(lessons), until)
    with hushed(), _trainable(model, settings) as (trained, change), TemporaryDirectory() as aside:
        with progress_bar(what, steps, show=progress) as tick:
            at = folder or Path(aside)
            trainer = _trainer(model, trained, lessons, targets, settings, at, steps, keep=folder is not None)
            trainer.add_callback(Marks(at, 0, steps, tick))
            clear_unfinished(at)
            done = max((int(each.name.rpartition("-")[2]) for each in at.glob("checkpoint-*")), default=0)
            if done > steps:
                raise LensFVError(
                    f"stop teaching behind {steps} steps: {at} holds what there is behind {done}; take another folder"
                )
            for _ in range(done):
                tick()
            trainer.train(resume_from_checkpoint=str(at / f"checkpoint-{done}") if done else None)
            trainer.accelerator.free_memory()  # the optimizer's, before the change takes some
            trainer.optimizer = trainer.lr_scheduler = None
        return change()


@contextmanager
def _trainable(model: LensModel, settings: TeachSettings) -> Iterator[tuple[Any, Callable[[], Change]]]:
    """A transformers model of the same weights, ready to train, and what tells how training has changed them."""
    plain = plain_model(model, dropout=False)
    layers = None if settings.layers is None else [model.check_layer(layer) for layer in settings.layers]
    if settings.method == "lora":
        yield _adapted(plain, settings, layers)
        return
    blocks = f"{model.tl.adapter.component_mapping['blocks'].name}."
    chosen = {
        name: parameter
        for name, parameter in plain.named_parameters()
        if layers is None or (name.startswith(blocks) and int(name[len(blocks) :].partition(".")[0]) in layers)
    }
    with _copied(chosen) as before:
        for parameter in chosen.values():
            parameter.requires_grad_(True)

        def change() -> Change:
            found: dict[str, Tensor] = {}
            for name, parameter in chosen.items():
                parameter.grad = None
                moved = parameter.detach().cpu().float() - before(name).float()
                if bool(moved.any()):
                    found[name] = moved
            return Change(found, {}, {})

        try:
            yield plain, change
        finally:
            with torch.no_grad():
                for name, parameter in chosen.items():
                    parameter.copy_(before(name))


@contextmanager
def _copied(weights: Mapping[str, Tensor]) -> Iterator[Callable[[str], Tensor]]:
    """The weights as they are now, one by one, from a file: memory is what training runs out of."""
    with TemporaryDirectory() as aside:
        file = Path(aside) / "before.safetensors"
        save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, file)
        with safe_open(file, framework="pt") as copies:
            yield copies.get_tensor


def _adapted(plain: Any, settings: TeachSettings, layers: list[int] | None) -> tuple[Any, Callable[[], Change]]:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(settings.seed)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=settings.rank, lora_alpha=settings.alpha, bias="none", layers_to_transform=layers
    )
    try:
        trained: Any = get_peft_model(plain, config)
    except ValueError as error:
        raise LensFVError(
            f"low-rank updates of a {plain.config.model_type} model: PEFT knows no projections to update ({error})"
        ) from None

    def change() -> Change:
        down: dict[str, Tensor] = {}
        up: dict[str, Tensor] = {}
        modules: dict[str, Any] = dict(trained.base_model.model.named_modules())
        for name, module in modules.items():
            if hasattr(module, "lora_A"):
                first, second = module.lora_A["default"].weight.float(), module.lora_B["default"].weight.float()
                second = second * module.scaling["default"]
                # GPT-2's maps are written the other way round
                first, second = (second.T, first.T) if module.fan_in_fan_out else (first, second)
                down[f"{name}.weight"], up[f"{name}.weight"] = (x.detach().cpu().contiguous() for x in (first, second))
        return Change({}, down, up)

    return trained, change


def _trainer(
    model: LensModel,
    trained: Any,
    lessons: Sequence[Lesson],
    targets: Sequence[Target],
    settings: TeachSettings,
    folder: Path,
    steps: int,
    *,
    keep: bool,
) -> "Trainer":
    from transformers import PrinterCallback

    from lens_fv.knowledge.pupil import Pupil

    at_once = next(n for n in range(min(settings.at_once, settings.batch_size), 0, -1) if settings.batch_size % n == 0)
    rng = random.Random(settings.seed)
    order = [i for _ in range(settings.epochs) for i in rng.sample(range(len(lessons)), len(lessons))]
    trainer = Pupil(
        lessons,
        targets,
        order[: steps * settings.batch_size],
        model=trained,
        args=trainer_arguments(
            folder,
            batch_size=at_once,
            accumulation=settings.batch_size // at_once,
            steps=steps,
            save_steps=-(-steps // settings.n_checkpoints) if keep else None,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            device=str(model.device),
            schedule="linear",
        ),
        pad=pad_token(model.tokenizer),
        settings=settings,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
