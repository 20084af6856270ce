"""How a model calls its blocks: asked, not known.

Masks, windows and position embeddings differ between architectures and between layers. Rather than know them, run the model
with blocks that note their arguments and pass their input on; and find out by asking with several sizes which dimension of
which argument counts the tokens that are run (queries) and which all tokens there are (keys), and by asking with other tokens
which arguments are made of them (Gemma 4 embeds them once more for each layer).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from lens_fv.errors import LensFVError
from lens_fv.model.cache import run_body
from lens_fv.model.exclusive import exclusive
from lens_fv.model.lens_model import LensModel
from lens_fv.model.measuring import measuring
from lens_fv.patching.plan import is_out_of_memory

Kind = Literal["fixed", "query", "key", "token"]
Layout = list[list[tuple[Kind, ...]]]
"""Layer by layer, tensor by tensor, dimension by dimension; "token" is a "query" whose content depends on the tokens."""


class Call(NamedTuple):
    """The arguments of one block, its hidden states left out."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def map(self, change: Callable[[Any], Any]) -> "Call":
        """The call with every leaf of its (nested) arguments changed."""

        def go(value: Any) -> Any:
            if isinstance(value, tuple | list):
                return type(value)(go(v) for v in value)
            if isinstance(value, dict):
                return {key: go(v) for key, v in value.items()}
            return change(value)

        return Call(go(self.args), go(self.kwargs))

    def tensors(self) -> list[Tensor]:
        """The tensors among its leaves, in the order in which `map` meets them."""
        found: list[Tensor] = []
        self.map(lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else None)
        return found


def record_calls(
    model: LensModel,
    tokens: Int[Tensor, "prompts tokens"],
    seen: Bool[Tensor, "prompts keys"],
    positions: Int[Tensor, "prompts tokens"],
    cache: DynamicCache,
) -> tuple[list[Call], Float[Tensor, "prompts tokens d_model"]]:
    """The arguments with which the model would call every block for these tokens, and the first block's input.

    Raises:
        LensFVError: the model does not call its blocks one after the other.
    """
    blocks = list(model.tl.blocks)
    calls: list[Call] = []
    hidden: list[Tensor] = []
    wrapped = False
    failure: Exception | None = None

    def note(*args: Any, **kwargs: Any) -> Any:
        x, *rest = args or (kwargs.pop("hidden_states"),)
        hidden.append(x)
        calls.append(Call(tuple(rest), kwargs))
        return (x,) if wrapped else x

    for as_tuple in (False, True):  # some models take `block(...)[0]`, which strips a bare tensor of its batch
        wrapped = as_tuple
        calls.clear()
        hidden.clear()
        try:
            with measuring(model), torch.no_grad(), forwards_replaced(model, blocks, [note] * len(blocks)):
                run_body(model.tl.original_model.base_model, tokens, seen, positions, cache)
        except Exception as e:  # a model that unpacks what a block returns may fail over a bare tensor in any way it likes
            if is_out_of_memory(e):
                raise
            failure = e
        if len(calls) == len(blocks) and all(x.shape == hidden[0].shape for x in hidden):
            return list(calls), hidden[0]
    raise LensFVError(f"branch {model.name}: its blocks cannot be called one by one") from failure


_LAYOUTS: WeakKeyDictionary[LensModel, Layout] = WeakKeyDictionary()


def call_layout(model: LensModel) -> Layout:
    """Which dimensions of the blocks' tensor arguments count queries, and which keys; found once a model.

    Raises:
        LensFVError: a size that is neither fixed nor the number of either.
    """
    if model not in _LAYOUTS:
        asked = ((0, 7, 0), (0, 9, 0), (4, 7, 0), (0, 7, 1))
        found = [_tensors(model, past, new, token) for past, new, token in asked]
        _LAYOUTS[model] = [[_kinds(model, *each) for each in zip(*layer, strict=True)] for layer in zip(*found, strict=True)]
    return _LAYOUTS[model]


def _tensors(model: LensModel, past: int, new: int, token: int) -> list[list[Tensor]]:
    """Layer by layer, the block's tensor arguments for that token again and again."""
    cache = DynamicCache()
    for layer in range(model.n_layers if past else 0):
        cache.update(torch.zeros(1, 1, past, 1), torch.zeros(1, 1, past, 1), layer)
    tokens = torch.full((1, new), token, device=model.device)
    seen = torch.ones(1, past + new, dtype=torch.bool, device=model.device)
    positions = past + torch.arange(new, device=model.device)[None]
    calls, _ = record_calls(model, tokens, seen, positions, cache)
    return [call.tensors() for call in calls]


def _kinds(model: LensModel, plain: Tensor, more: Tensor, later: Tensor, other: Tensor) -> tuple[Kind, ...]:
    """From one tensor for 7 tokens, for 9, for 7 behind 4, and for 7 others."""
    query: Kind = "query" if torch.equal(plain, other) else "token"
    kinds: dict[tuple[int, int], Kind] = {(0, 0): "fixed", (2, 0): query, (2, 4): "key"}
    grown = [(b - a, c - a) for a, b, c in zip(plain.shape, more.shape, later.shape, strict=True)]
    unknown = [growth for growth in grown if growth not in kinds]
    if unknown:
        raise LensFVError(f"branch {model.name}: its blocks take a tensor that grows with the prompt in an unknown way")
    return tuple(kinds[growth] for growth in grown)


@contextmanager
def forwards_replaced(model: LensModel, modules: Sequence[Any], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Give modules of a model another forward for a while."""
    with exclusive(model, "has other forwards for a while") as gate:
        # Into the instance's own dictionary: a bridge component passes plain assignments on to the module it wraps.
        for module, forward in zip(modules, forwards, strict=True):
            gate.put(vars(module), "forward", forward)
        yield
