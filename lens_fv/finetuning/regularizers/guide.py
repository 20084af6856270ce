"""Compute a guide's regularisation terms around a training step."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_fv.core.divergence import at_least_float32, divergence_of_logits
from lens_fv.errors import LensFVError
from lens_fv.finetuning.regularizers.hook_points import Head, HookPoints, at_positions, last_prompt_token, steering_edits
from lens_fv.finetuning.regularizers.instruction_swap import InstructionSwap
from lens_fv.finetuning.regularizers.settings import GuideConfig
from lens_fv.finetuning.regularizers.teacher import Teacher
from lens_fv.vectors import FunctionVector

log = logging.getLogger(__name__)

Terms = dict[str, Tensor]


class Guide(nn.Module):
    """Add regularisation terms to the fine-tuning loss that preserve a vector's computation (Jiang et al. 2024, 2025).

    The teacher is the student without its updates, which takes one model in memory and one additional forward pass per step. If
    the teacher is steered and heads are matched, each row needs one more token (`UnsteeredHeads`), or a second pass without
    `heads_gate`. The guide is a module because it may have linear maps to learn (`GuideConfig.learn_projection`).

    Args:
        model: PEFT model being trained.
        vector: Vector of the model without updates; None only if no term needs it (`steer` 0, all heads, no intervention).
        settings: Terms and their weights.
        previous: Values of the trained parameters by name, for the teacher "previous"; default: their current values.
        swap_prompts: Token ids of the prompts for the terms `swap` and `swap_heads`.

    Raises:
        LensFVError: a model without updates that can be turned off, a vector of another model or without the required heads, no
            prompts for the `swap` terms, or gradient checkpointing with terms that need hooks.
    """

    def __init__(
        self,
        model: nn.Module,
        vector: FunctionVector | None,
        settings: GuideConfig,
        *,
        previous: Mapping[str, Tensor] | None = None,
        swap_prompts: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        _check_checkpointing(model, settings)
        if vector is None and settings.needs_vector:
            raise LensFVError("guide without a vector: only steer=0 with no intervention, or head_subset='all', go without one")
        if not hasattr(model, "disable_adapter"):
            raise LensFVError(
                f"guide a {type(model).__name__}: the teacher is the model with its updates turned off, so it has to be a PEFT "
                "model; use get_peft_model"
            )
        self.settings = settings
        self.n_steps = 0
        self.n_opened: dict[str, int] = {}
        self.hook_points = HookPoints(model)
        if vector is not None:
            self.hook_points.check_vector(vector)
        self.edits = steering_edits(vector, settings.site) if vector is not None and settings.steers else []
        self.heads = self._compared_heads(vector) if settings.heads else []
        swap_heads = self._compared_heads(vector) if settings.swap_heads else []
        edited_heads = [(edit.layer, edit.head) for edit in self.edits if edit.head is not None]
        self.hook_points.check([*self.heads, *swap_heads, *edited_heads])
        updates: dict[str, Tensor] | None = None
        if settings.teacher == "previous":
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            updates = {name: (previous or trained)[name].detach().clone().to(p) for name, p in trained.items()}
        self.teacher = Teacher(settings, self.hook_points, self.edits, self.heads, updates)
        self._swap: InstructionSwap | None = None
        if settings.uses_swap:
            self._swap = InstructionSwap(swap_prompts, settings, self.hook_points, swap_heads)
        self.maps = nn.ParameterDict()
        if settings.learn_projection:
            device = next(model.parameters()).device
            for layer, head in self.heads:
                self.maps[f"{layer}-{head}"] = nn.Parameter(torch.eye(self.hook_points.d_head, device=device))

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], *, fraction: float = 0.0) -> Tensor:
        """Compute the cross entropy plus all terms, for custom training loops.

        Args:
            model: Model that the guide was made for.
            inputs: `input_ids`, `attention_mask` and `labels`. The first target in each row is the answer's first token.
            fraction: Share of training that is complete, from 0 to 1.

        Raises:
            LensFVError: a non-finite term, a row without a target or with a target as its first token, or gradient
                checkpointing turned on in the meantime.
        """
        with self.around(model, inputs, fraction=fraction) as terms:
            outputs = model(**inputs)
        return outputs.loss + sum(terms(outputs.logits).values())

    @contextmanager
    def around(self, model: nn.Module, inputs: Mapping[str, Tensor], *, fraction: float) -> Iterator[Callable[[Tensor], Terms]]:
        """Run the teacher, then guide the student's forward pass inside the block.

        Yields:
            A function from the student's logits to the weighted terms.
        """
        if self.settings.idle or fraction < self.settings.start_fraction:
            yield lambda logits: {}  # noqa: ARG005
            return
        _check_checkpointing(model, self.settings)
        positions = last_prompt_token(inputs["labels"])
        swap_terms: Terms = {}
        with self.teacher.active(model):
            teacher_logits, teacher_heads = self.teacher(model, inputs, positions)
            compare_swapped = None if self._swap is None else self._swap.run_teacher(model, inputs, fraction)
        if compare_swapped is not None:
            swap_terms = compare_swapped(model)
        strength = self.settings.strength(fraction)
        with (
            self.hook_points.reading(self.heads, positions) as heads,
            self.hook_points.adding(self.edits, strength, positions),
        ):

            def terms(logits: Tensor) -> Terms:
                distillation = self._distillation_terms(logits, teacher_logits, inputs, positions)
                return self._checked(swap_terms | distillation | self._head_term(heads, teacher_heads))

            yield terms

    def _distillation_terms(
        self,
        logits: Float[Tensor, "rows tokens vocab"],
        teacher_logits: Tensor | None,
        inputs: Mapping[str, Tensor],
        positions: Int[Tensor, " rows"],
    ) -> Terms:
        settings, terms = self.settings, Terms()
        if teacher_logits is None:
            return terms
        if settings.distill:
            last = at_positions(teacher_logits, positions) if teacher_logits.ndim == 3 else teacher_logits
            divergence = self._divergence(at_positions(logits, positions), last).mean()
            terms["distill"] = self._gated("distill", divergence, settings.distill_gate) * settings.distill
        if settings.distill_all:
            mask = inputs["attention_mask"].flatten() if "attention_mask" in inputs else 1
            divergence = (self._divergence(logits.flatten(0, 1), teacher_logits.flatten(0, 1)) * mask).sum() / len(logits)
            terms["distill_all"] = self._gated("distill_all", divergence, settings.distill_gate) * settings.distill_all
        return terms

    def _head_term(self, heads: Mapping[Head, Tensor], teacher_heads: Mapping[Head, Tensor]) -> Terms:
        if not self.settings.heads:
            return {}
        distances: list[Tensor] = []
        for (layer, head), teacher in teacher_heads.items():
            student, name = at_least_float32(heads[layer, head]), f"{layer}-{head}"
            mapped = student @ self.maps[name].T.to(student.dtype) if name in self.maps else student
            distance = (mapped - at_least_float32(teacher)).square().mean()
            distances.append(self._gated("heads", distance, self.settings.heads_gate))
        return {"heads": torch.stack(distances).sum() * self.settings.heads}

    def _checked(self, terms: Terms) -> Terms:
        """Count the step, and raise `LensFVError` for terms that are not finite."""
        self.n_steps += 1
        if terms and not bool(torch.stack(list(terms.values())).isfinite().all()):
            bad = ", ".join(f"{name} is {float(value.detach())}" for name, value in terms.items() if not value.isfinite())
            if self.n_steps == 1:
                raise LensFVError(f"guide: {bad} before anything is learned, so the model's numbers are; run verify on it")
            raise LensFVError(f"guide: {bad} at step {self.n_steps}, after finite ones; lower its weight or the learning rate")
        return terms

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return divergence_of_logits(teacher, student, self.settings.direction, temperature=self.settings.temperature)

    def _gated(self, name: str, value: Tensor, gate: float) -> Tensor:
        """Return the value, or 0 if it does not exceed its gate."""
        is_open = value.detach() > gate
        self.n_opened[name] = self.n_opened.get(name, 0) + int(is_open)
        return value * is_open

    def _compared_heads(self, vector: FunctionVector | None) -> list[Head]:
        if self.settings.head_subset == "all":
            return [(layer, head) for layer in sorted(self.hook_points.projections) for head in range(self.hook_points.n_heads)]
        if vector is None or not vector.heads:
            raise LensFVError("match the heads of a vector that has none, such as a tuned one; use head_subset='all'")
        return list(vector.heads)

    def report(self) -> None:
        """Warn about terms with a gate that never opened."""
        for name, count in self.n_opened.items():
            if self.n_steps and not count:
                log.warning(
                    "guide: the gate of %s never opened in %d steps; lower it, or leave the term out", name, self.n_steps
                )


def _check_checkpointing(model: nn.Module, settings: GuideConfig) -> None:
    """Reject gradient checkpointing if terms need hooks.

    The check also runs before each step, because trainers turn checkpointing on when they start.
    """
    if not (settings.intervene or settings.heads or settings.swap_heads):
        return
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise LensFVError("guide with gradient checkpointing: the recomputed forward passes would miss the hooks; turn it off")
