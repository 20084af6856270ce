"""Where a guide acts on a transformers model, with or without PEFT: it reads head outputs and adds vectors at tokens."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_fv.errors import LensFVError
from lens_fv.finetuning.regularizers.settings import GuideSite
from lens_fv.model.exclusive import exclusive
from lens_fv.patching import Edit
from lens_fv.vectors import FunctionVector

IGNORED = -100
"""Label of tokens that are not targets (PyTorch's cross entropy)."""
PROJECTION = re.compile(r"(.*\.(\d+))\.(?:self_)?att(?:n|ention)(?:\.attention)?\.(?:o_proj|out_proj|c_proj|dense)")
"""Name pattern of the attention output projection in transformers' models."""

Head = tuple[int, int]


class _StopForward(Exception):
    """Raised to end a forward pass once everything needed has been read."""


class HookPoints:
    """A model's attention output projections and blocks, by layer.

    Args:
        model: Transformers model, optionally wrapped by PEFT.

    Raises:
        LensFVError: no such projections were found.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._config: Any = model.config
        self.n_heads: int = self._config.num_attention_heads
        matches = {name: match for name, _ in model.named_modules() if (match := PROJECTION.fullmatch(name))}
        self.projections = {int(match[2]): model.get_submodule(name) for name, match in matches.items()}
        self.blocks = {int(match[2]): model.get_submodule(match[1]) for match in matches.values()}
        if len(matches) != len(self.projections) or not matches:
            raise LensFVError(
                f"guide a {type(model).__name__}: {len(matches)} output projections of attention were found for "
                f"{len(self.projections)} layers; name the model's architecture in an issue"
            )

    @property
    def d_head(self) -> int:
        """Dimension of a head's output.

        Raises:
            LensFVError: layers differ.
        """
        widths = {_width(projection) for projection in self.projections.values()}
        if len(widths) > 1 or next(iter(widths)) % self.n_heads:
            raise LensFVError(f"guide by heads: {self.n_heads} heads of a layer share {sorted(widths)} numbers")
        return widths.pop() // self.n_heads

    def check(self, heads: Sequence[Head]) -> None:
        """Raise `LensFVError` for heads that the model does not have."""
        for layer, head in heads:
            if layer not in self.projections or not 0 <= head < self.n_heads:
                raise LensFVError(
                    f"guide by head {layer}.{head}: the model has layers {min(self.projections)} to {max(self.projections)} "
                    f"with heads 0 to {self.n_heads - 1}"
                )

    def check_vector(self, vector: FunctionVector) -> None:
        """Reject a vector from a model of another shape or with processed weights.

        Names are not compared: the model may be fine-tuned or come from a local folder.
        """
        provenance = vector.provenance
        shape = (self._config.num_hidden_layers, self.n_heads, self._config.hidden_size, self.d_head)
        if provenance.shape != shape:
            raise LensFVError(
                f"guide by a vector of {provenance.model}, whose (layers, heads, d_model, d_head) are {provenance.shape}: the "
                f"model's are {shape}"
            )
        if provenance.weight_processing != "raw":
            raise LensFVError(
                f"guide by a vector made on {provenance.weight_processing!r} weights of {provenance.model}: training changes "
                "the unprocessed weights; make it on a model loaded with weight_processing='raw'"
            )

    @contextmanager
    def reading(
        self, heads: Sequence[Head], positions: Int[Tensor, " rows"], *, then_stop: bool = False
    ) -> Iterator[dict[Head, Tensor]]:
        """Record the heads' outputs, "rows d_head", at each row's position during forward passes inside the block.

        With `then_stop`, the block ends once all heads are read, which skips the remaining layers.
        """
        outputs: dict[Head, Tensor] = {}
        d_head, layers = self.d_head, sorted({layer for layer, _ in heads})

        def read(layer: int, module: nn.Module, inputs: tuple[Any, ...]) -> None:  # noqa: ARG001
            z = at_positions(inputs[0], positions)
            for head in (head for own_layer, head in heads if own_layer == layer):
                outputs[layer, head] = z[:, head * d_head : (head + 1) * d_head]
            if then_stop and layer == layers[-1]:
                raise _StopForward

        with exclusive(self.model, "is being read") as gate, suppress(_StopForward):
            for layer in layers:
                gate.add_hook(self.projections[layer], partial(read, layer), before=True)
            yield outputs

    @contextmanager
    def adding(self, edits: Sequence[Edit], strength: float, positions: Int[Tensor, " rows"]) -> Iterator[None]:
        """Add the edits' values times a factor at each row's position during forward passes inside the block."""
        with exclusive(self.model, "has something added to it") as gate:
            for edit in edits if strength else ():
                add = partial(_added, edit, strength, positions)
                if edit.head is not None:
                    gate.add_hook(self.projections[edit.layer], partial(_on_input, add), before=True)
                else:
                    modules = self.blocks if edit.site == "resid_post" else self.projections
                    gate.add_hook(modules[edit.layer], partial(_on_output, add))
            yield


def steering_edits(vector: FunctionVector, site: GuideSite | None) -> list[Edit]:
    """Return the edits that add a vector at a site; see `GuideConfig.site`."""
    site = site or ("heads" if vector.site == "heads" else "resid_post")
    if site == "heads":
        if not vector.heads:
            raise LensFVError("guide at the heads of a vector that has none, such as a tuned one; use site='resid_post'")
        values = vector.head_outputs * vector.scale
        return [Edit(layer, z, head=head, mode="add") for (layer, head), z in zip(vector.heads, values, strict=True)]
    return [Edit(vector.layer, vector.vector * vector.scale, site=site, mode="add")]


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


def at_positions(x: Float[Tensor, "rows tokens width"], positions: Int[Tensor, " rows"]) -> Float[Tensor, "rows width"]:
    """Return the values at one token per row."""
    return x[torch.arange(len(positions), device=positions.device), positions]


def _added(
    edit: Edit, strength: float, positions: Tensor, x: Float[Tensor, "rows tokens width"]
) -> Float[Tensor, "rows tokens width"]:
    value = strength * edit.value.to(x)
    rows, x = torch.arange(len(positions), device=x.device), x.clone()
    start = (edit.head or 0) * len(value)
    x[rows, positions, start : start + len(value)] += value
    return x


def _on_input(add: Callable[[Tensor], Tensor], module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG001
    return (add(inputs[0]), *inputs[1:])


def _on_output(add: Callable[[Tensor], Tensor], module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG001
    return (add(output[0]), *output[1:]) if isinstance(output, tuple) else add(output)


def _width(projection: Any) -> int:
    """Return the input dimension; transformers' Conv1D stores its weight transposed."""
    return int(projection.in_features if hasattr(projection, "in_features") else projection.weight.shape[0])
