"""Guidance in transformers' Trainer, and in those that are made of it."""

from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file

from lens_fv.guidance.guide import Guide

MAPS = "guide.safetensors"
T = TypeVar("T")


def guided(trainer: type[T]) -> type[T]:
    """A Trainer class, such as transformers' or TRL's SFTTrainer, that takes a guide as one more argument.

    `guided(Trainer)(model=model, args=args, train_dataset=examples, guide=guide)`. Evaluation is not guided. Linear maps are
    trained with the model and kept in its checkpoints.

    Args:
        trainer: transformers' Trainer or made of it.
    """
    base: Any = trainer

    class Guided(base):
        def __init__(self, *args: Any, guide: Guide, **options: Any) -> None:
            super().__init__(*args, **options)
            self.guide = guide

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            """See transformers."""
            options = {"num_items_in_batch": num_items_in_batch}
            if self.guide.settings.idle or not model.training:
                return super().compute_loss(model, inputs, return_outputs=return_outputs, **options)
            done = self.state.global_step / max(self.state.max_steps, 1)
            with self.guide.around(self.accelerator.unwrap_model(model), inputs, done=done) as terms:
                loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **options)
            # Trainer divides a loss by the number of batches of a step, unless that is already a mean over the whole step.
            whole = num_items_in_batch is not None and (self.model_accepts_loss_kwargs or self.compute_loss_func is not None)
            share = 1 / getattr(self, "current_gradient_accumulation_steps", 1) if whole else 1.0
            loss = loss + share * sum(terms(outputs.logits).values())
            return (loss, outputs) if return_outputs else loss

        def create_optimizer(self, *args: Any, **options: Any) -> Any:
            """See transformers."""
            made = super().create_optimizer(*args, **options)
            maps = list(self.guide.parameters())
            if maps and not any(maps[0] is each for group in made.param_groups for each in group["params"]):
                made.add_param_group({"params": maps, "weight_decay": 0.0})
                # Trainer clears the gradients of its model alone.
                made.register_step_post_hook(lambda *_: self.guide.zero_grad())
            return made

        def _save(self, output_dir: Any = None, state_dict: Any = None) -> None:
            super()._save(output_dir, state_dict)
            if self.guide.maps:
                save_file(dict(self.guide.maps.state_dict()), Path(output_dir or self.args.output_dir) / MAPS)

        def _load_from_checkpoint(self, resume_from_checkpoint: Any, model: Any = None) -> None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            if self.guide.maps:
                self.guide.maps.load_state_dict(load_file(Path(resume_from_checkpoint) / MAPS))

        def _inner_training_loop(self, *args: Any, **options: Any) -> Any:
            found = super()._inner_training_loop(*args, **options)
            self.guide.report()
            return found

    Guided.__name__ = Guided.__qualname__ = f"Guided{trainer.__name__}"
    return Guided
