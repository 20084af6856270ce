"""Guided training with transformers' Trainer and its subclasses."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import Tensor

from lens_fv.core.artefact_file import read_tensors
from lens_fv.finetuning.regularizers.guide import Guide

MAPS = "guide.safetensors"
T = TypeVar("T")


def guided(trainer: type[T]) -> type[T]:
    """Extend a Trainer class, such as transformers' own or TRL's SFTTrainer, by the arguments `guide` and `penalties`.

    `guided(Trainer)(model=model, args=args, train_dataset=examples, guide=guide)`. Evaluation is not guided. Linear maps are
    trained with the model and saved in its checkpoints. `penalties` are additional loss terms, each a function without
    arguments.

    Args:
        trainer: Transformers' Trainer or a subclass.

    Example:
        >>> import transformers
        >>> trainer = lens_fv.finetuning.regularizers.guided(transformers.Trainer)
        >>> issubclass(trainer, transformers.Trainer)
        True
    """
    base: Any = trainer

    class Guided(base):
        def __init__(
            self, *args: Any, guide: Guide | None = None, penalties: Sequence[Callable[[], Tensor]] = (), **options: Any
        ) -> None:
            super().__init__(*args, **options)
            self.guide, self.penalties = guide, tuple(penalties)

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            """See transformers."""
            options = {"num_items_in_batch": num_items_in_batch}
            guide = None if self.guide is None or self.guide.settings.idle else self.guide
            if (guide is None and not self.penalties) or not model.training:
                return super().compute_loss(model, inputs, return_outputs=return_outputs, **options)
            fraction = self.state.global_step / max(self.state.max_steps, 1)
            unwrapped = self.accelerator.unwrap_model(model)
            with nullcontext() if guide is None else guide.around(unwrapped, inputs, fraction=fraction) as terms:
                loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **options)
            added = [*(terms(outputs.logits).values() if terms else ()), *(penalty() for penalty in self.penalties)]
            # Trainer divides the loss by the number of batches per step, unless it is already a mean over the whole step.
            is_mean = num_items_in_batch is not None and (self.model_accepts_loss_kwargs or self.compute_loss_func is not None)
            share = 1 / getattr(self, "current_gradient_accumulation_steps", 1) if is_mean else 1.0
            loss = loss + share * sum(added)
            return (loss, outputs) if return_outputs else loss

        def create_optimizer(self, *args: Any, **options: Any) -> Any:
            """See transformers."""
            optimizer = super().create_optimizer(*args, **options)
            guide = self.guide
            maps = [] if guide is None else list(guide.parameters())
            trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            if guide is not None and maps and id(maps[0]) not in trained:
                optimizer.add_param_group({"params": maps, "weight_decay": 0.0})
                # Trainer clears only the gradients of its own model.
                optimizer.register_step_post_hook(lambda *_: guide.zero_grad())
            return optimizer

        def _save(self, output_dir: Any = None, state_dict: Any = None) -> None:
            super()._save(output_dir, state_dict)
            if self.guide is not None and self.guide.maps:
                save_file(dict(self.guide.maps.state_dict()), Path(output_dir or self.args.output_dir) / MAPS)

        def _load_from_checkpoint(self, resume_from_checkpoint: Any, model: Any = None) -> None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            if self.guide is not None and self.guide.maps:
                self.guide.maps.load_state_dict(read_tensors(Path(resume_from_checkpoint) / MAPS))

        def _inner_training_loop(self, *args: Any, **options: Any) -> Any:
            output = super()._inner_training_loop(*args, **options)
            if self.guide is not None:
                self.guide.report()
            return output

    Guided.__name__ = Guided.__qualname__ = f"Guided{trainer.__name__}"
    return Guided
