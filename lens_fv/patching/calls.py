"""How a model calls its blocks, found by experiment.

Masks, windows and position embeddings differ between architectures and layers. Instead of encoding this knowledge, we run the
model with blocks that record their arguments and pass their input on. Runs with different sizes show which dimension of an
argument counts the tokens being run (queries) and which counts all tokens (keys). Runs with other tokens show which arguments
depend on the tokens (Gemma 4 embeds them again for each layer).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from lens_fv.errors import LensFVError
from lens_fv.model.cache import run_body
from lens_fv.model.exclusive import forwards_replaced
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import measuring
from lens_fv.patching.plan import is_out_of_memory

Kind = Literal["fixed", "query", "key", "token"]
Layout = list[list[tuple[Kind, ...]]]
"""Kind of each dimension, by layer and tensor; "token" is a "query" dimension with content that depends on the tokens."""


class Call(NamedTuple):
    """The arguments of one block, without its hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def map(self, change: Callable[[Any], Any]) -> "Call":
        """Apply a function to every leaf of the (nested) arguments."""

        def go(value: Any) -> Any:
            if isinstance(value, tuple | list):
                return type(value)(go(v) for v in value)
            if isinstance(value, dict):
                return {key: go(v) for key, v in value.items()}
            return change(value)

        return Call(go(self.args), go(self.kwargs))

    def tensors(self) -> list[Tensor]:
        """The tensors among the leaves, in the order of `map`."""
        tensors: list[Tensor] = []
        self.map(lambda leaf: tensors.append(leaf) if isinstance(leaf, Tensor) else None)
        return tensors


def record_calls(
    model: LensModel,
    tokens: Int[Tensor, "prompts tokens"],
    seen: Bool[Tensor, "prompts keys"],
    positions: Int[Tensor, "prompts tokens"],
    cache: DynamicCache,
) -> tuple[list[Call], Float[Tensor, "prompts tokens d_model"]]:
    """Record the arguments with which the model would call every block for these tokens, and the first block's input.

    Raises:
        LensFVError: the model does not call its blocks in sequence.
    """
    blocks = list(model.tl.blocks)
    calls: list[Call] = []
    hidden: list[Tensor] = []
    wrapped = False
    failure: Exception | None = None

    def record(*args: Any, **kwargs: Any) -> Any:
        x, *rest = args or (kwargs.pop("hidden_states"),)
        hidden.append(x)
        calls.append(Call(tuple(rest), kwargs))
        return (x,) if wrapped else x

    for as_tuple in (False, True):  # some models take `block(...)[0]`, which removes the batch dimension of a bare tensor
        wrapped = as_tuple
        calls.clear()
        hidden.clear()
        try:
            with measuring(model), torch.no_grad(), forwards_replaced(model, blocks, [record] * len(blocks)):
                run_body(model.tl.original_model.base_model, tokens, seen, positions, cache)
        except Exception as e:  # a model that unpacks a block's result may raise anything for a bare tensor
            if is_out_of_memory(e):
                raise
            failure = e
        if len(calls) == len(blocks) and all(x.shape == hidden[0].shape for x in hidden):
            return list(calls), hidden[0]
    raise LensFVError(f"branch {model.name}: its blocks cannot be called one by one") from failure


_LAYOUTS: WeakKeyDictionary[LensModel, Layout] = WeakKeyDictionary()


def call_layout(model: LensModel) -> Layout:
    """Find which dimensions of the blocks' tensor arguments count queries and which count keys; done once per model.

    Raises:
        LensFVError: a size is neither fixed nor the number of queries or keys.
    """
    if model not in _LAYOUTS:
        sizes = ((0, 7, 0), (0, 9, 0), (4, 7, 0), (0, 7, 1))
        runs = [_tensors(model, past, new, token) for past, new, token in sizes]
        _LAYOUTS[model] = [
            [_kinds(model, *tensors) for tensors in zip(*layer, strict=True)] for layer in zip(*runs, strict=True)
        ]
    return _LAYOUTS[model]


def _tensors(model: LensModel, past: int, new: int, token: int) -> list[list[Tensor]]:
    """Tensor arguments of the block in each layer, for a text that repeats one token."""
    cache = DynamicCache()
    for layer in range(model.n_layers if past else 0):
        cache.update(torch.zeros(1, 1, past, 1), torch.zeros(1, 1, past, 1), layer)
    tokens = torch.full((1, new), token, device=model.device)
    seen = torch.ones(1, past + new, dtype=torch.bool, device=model.device)
    positions = past + torch.arange(new, device=model.device)[None]
    calls, _ = record_calls(model, tokens, seen, positions, cache)
    return [call.tensors() for call in calls]


def _kinds(model: LensModel, plain: Tensor, more: Tensor, later: Tensor, other: Tensor) -> tuple[Kind, ...]:
    """Infer the kinds from one argument for 7 tokens, for 9 tokens, for 7 tokens after 4, and for 7 other tokens."""
    query: Kind = "query" if torch.equal(plain, other) else "token"
    kinds: dict[tuple[int, int], Kind] = {(0, 0): "fixed", (2, 0): query, (2, 4): "key"}
    grown = [(b - a, c - a) for a, b, c in zip(plain.shape, more.shape, later.shape, strict=True)]
    unknown = [growth for growth in grown if growth not in kinds]
    if unknown:
        raise LensFVError(f"branch {model.name}: its blocks take a tensor that grows with the prompt in an unknown way")
    return tuple(kinds[growth] for growth in grown)
