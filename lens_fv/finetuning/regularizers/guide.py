"""Compute a guide's regularisation terms around a training step."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_fv.core.divergence import at_least_float32, divergence_of_logits
from lens_fv.errors import LensFVError
from lens_fv.finetuning.regularizers.checks import check_checkpointing, check_updates, check_vector
from lens_fv.finetuning.regularizers.hook_points import Head, HookPoints
from lens_fv.finetuning.regularizers.instruction_swap import InstructionSwap
from lens_fv.finetuning.regularizers.settings import GuideConfig
from lens_fv.finetuning.regularizers.teacher import Teacher
from lens_fv.patching import Edit
from lens_fv.vectors import FunctionVector

IGNORED = -100
"""Label of tokens that are not targets (PyTorch's cross entropy)."""
log = logging.getLogger(__name__)

Terms = dict[str, Tensor]


class Guide(nn.Module):
    """Add regularisation terms to the fine-tuning loss that preserve a vector's computation (Jiang et al. 2024, 2025).

    The teacher is the student without its updates, which takes one model in memory and one additional forward pass per step. If
    the teacher is steered and heads are matched, each row needs one more token (`UnsteeredHeads`), or a second pass without
    `heads_gate`. The guide is a module because it may have linear maps to learn (`GuideConfig.learn_projection`).

    Args:
        model: PEFT model being trained.
        vector: vector of the model without updates; None only if no term needs it (`steer` 0, all heads, no intervention).
        settings: terms and their weights.
        before: values of the trained parameters by name, for the teacher "previous"; default: their current values.
        swap_prompts: token ids of the prompts for the terms `swap` and `swap_heads`.

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
        check_checkpointing(model, settings)
        self.settings = settings
        self.seen = 0
        self.opened: dict[str, int] = {}
        steered = settings.intervene or (settings.steer and (settings.distill or settings.distill_all))
        if vector is None and settings.needs_vector:
            raise LensFVError("guide without a vector: only steer=0 with no intervention, or head_subset='all', go without one")
        check_updates(model)
        config: Any = model.config
        self.places = HookPoints(model, config.num_attention_heads)
        self._d_head = self.places.d_head
        if vector is not None:
            check_vector(vector, config, self._d_head)
        self.edits = _edits(vector, settings) if vector is not None and steered else []
        self.matched = self._matched(vector) if settings.heads else []
        apart = self._matched(vector) if settings.swap_heads else []
        self.places.check([*self.matched, *apart, *((e.layer, e.head) for e in self.edits if e.head is not None)])
        if settings.teacher == "previous":
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            previous = {name: (previous or trained)[name].detach().clone().to(p) for name, p in trained.items()}
        self.teacher = Teacher(
            settings, self.places, self.edits, self.matched, previous if settings.teacher == "previous" else None
        )
        self._crossed = InstructionSwap(swap_prompts, settings, self.places, apart) if settings.uses_swap else None
        self.maps = nn.ParameterDict()
        if settings.learn_projection:
            device = next(model.parameters()).device
            for layer, head in self.matched:
                self.maps[f"{layer}-{head}"] = nn.Parameter(torch.eye(self._d_head, device=device))

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], *, done: float = 0.0) -> Tensor:
        """Compute the cross entropy plus all terms, for custom training loops.

        Args:
            model: model that the guide was made for.
            inputs: `input_ids`, `attention_mask` and `labels`. The first target in each row is the answer's first token.
            done: share of training that is done, from 0 to 1.

        Raises:
            LensFVError: a non-finite term, a row without a target or with a target as its first token, or gradient
                checkpointing turned on in the meantime.
        """
        with self.around(model, inputs, done=done) as terms:
            outputs = model(**inputs)
        return outputs.loss + sum(terms(outputs.logits).values())

    @contextmanager
    def around(self, model: nn.Module, inputs: Mapping[str, Tensor], *, done: float) -> Iterator[Callable[[Tensor], Terms]]:
        """Run the teacher, then guide the student's forward pass inside the block.

        Yields:
            A function from the student's logits to the weighted terms.
        """
        s = self.settings
        if s.idle or done < s.start_fraction:
            yield lambda logits: {}  # noqa: ARG005
            return
        check_checkpointing(model, s)
        at = last_prompt_token(inputs["labels"])
        with self.teacher.teaching(model):
            steered, plain = self.teacher(model, inputs, at)
            asked = None if self._crossed is None else self._crossed.taught(model, inputs, done)
        aside = {} if asked is None else asked(model)
        with (
            self.places.reading(self.matched, at) as written,
            self.places.adding(self.edits, s.strength(done), at),
        ):
            yield lambda logits: self._terms(logits, written, steered, plain, inputs, at, aside)

    def _terms(
        self,
        logits: Float[Tensor, "rows tokens vocab"],
        written: Mapping[Head, Tensor],
        steered: Tensor | None,
        plain: Mapping[Head, Tensor],
        inputs: Mapping[str, Tensor],
        at: Int[Tensor, " rows"],
        aside: Terms,
    ) -> Terms:
        s, rows = self.settings, torch.arange(len(at), device=at.device)
        found: Terms = dict(aside)
        if s.distill and steered is not None:
            taught = steered[rows, at] if steered.ndim == 3 else steered
            found["distill"] = self._opens("distill", self._apart(logits[rows, at], taught).mean(), s.distill_gate) * s.distill
        if s.distill_all and steered is not None:
            seen = inputs["attention_mask"].flatten() if "attention_mask" in inputs else 1
            apart = (self._apart(logits.flatten(0, 1), steered.flatten(0, 1)) * seen).sum() / len(logits)
            found["distill_all"] = self._opens("distill_all", apart, s.distill_gate) * s.distill_all
        if s.heads:
            apart = [self._opens("heads", self._distance(head, written[head], plain[head]), s.heads_gate) for head in plain]
            found["heads"] = torch.stack(apart).sum() * s.heads
        self.seen += 1
        if found and not bool(torch.stack(list(found.values())).isfinite().all()):
            bad = ", ".join(f"{name} is {float(value.detach())}" for name, value in found.items() if not value.isfinite())
            if self.seen == 1:
                raise LensFVError(f"guide: {bad} before anything is learned, so the model's numbers are; run verify on it")
            raise LensFVError(f"guide: {bad} at step {self.seen}, after finite ones; lower its weight or the learning rate")
        return found

    def _distance(self, head: Head, student: Tensor, teacher: Tensor) -> Tensor:
        name = f"{head[0]}-{head[1]}"
        own = at_least_float32(student)
        mapped = own @ self.maps[name].T.to(own.dtype) if name in self.maps else own
        return (mapped - at_least_float32(teacher)).square().mean()

    def _apart(self, student: Tensor, teacher: Tensor) -> Tensor:
        s = self.settings
        return divergence_of_logits(teacher, student, s.direction, temperature=s.temperature)

    def _opens(self, name: str, value: Tensor, gate: float) -> Tensor:
        """Return the value, or 0 if it does not exceed its gate."""
        is_open = value.detach() > gate
        self.opened[name] = self.opened.get(name, 0) + int(is_open)
        return value * is_open

    def _matched(self, vector: FunctionVector | None) -> list[Head]:
        if self.settings.head_subset == "all":
            return [(layer, head) for layer in sorted(self.places.projections) for head in range(self.places.n_heads)]
        if vector is None or not vector.heads:
            raise LensFVError("match the heads of a vector that has none, such as a tuned one; use head_subset='all'")
        return list(vector.heads)

    def report(self) -> None:
        """Warn about terms with a gate that never opened."""
        for name, count in self.opened.items():
            if self.seen and not count:
                log.warning("guide: the gate of %s never opened in %d steps; lower it, or leave the term out", name, self.seen)


def last_prompt_token(labels: Int[Tensor, "rows tokens"]) -> Int[Tensor, " rows"]:
    """Return the position before each row's first target.

    Raises:
        LensFVError: a row without targets, or one that begins with a target.
    """
    targets = labels != IGNORED
    first = targets.int().argmax(1)
    if not bool(targets.any(1).all()) or bool((first == 0).any()):
        raise LensFVError(
            f"guide {len(labels)} rows: each needs a prompt, whose labels are {IGNORED}, and an answer after it; mask prompts"
        )
    return first - 1


def _edits(vector: FunctionVector, settings: GuideConfig) -> list[Edit]:
    where = settings.site or ("heads" if vector.site == "heads" else "resid_post")
    if where == "heads":
        if not vector.heads:
            raise LensFVError("guide at the heads of a vector that has none, such as a tuned one; use where='resid_post'")
        values = vector.head_outputs * vector.scale
        return [Edit(layer, z, head=head, mode="add") for (layer, head), z in zip(vector.heads, values, strict=True)]
    return [Edit(vector.layer, vector.vector * vector.scale, site=where, mode="add")]
