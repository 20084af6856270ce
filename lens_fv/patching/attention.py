"""Tree attention: every row attends to the shared prefix and to itself, but to no other row.

A mask has the same effect, but computes scores between all rows only to discard them. Here all rows share the prefix's keys
and values, and each row also attends to its own few tokens. This function replaces the attention function that transformers'
modules look up by name, so projections, norms, rotations and TransformerLens' hooks remain the model's own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface

from lens_fv.errors import LensFVError
from lens_fv.model.exclusive import exclusive, forwards_replaced
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.packing import Packing

NAME = "lens_fv_tree"


@dataclass
class Tree:
    """The tokens of one pass: `lead` prefix tokens (all or none), then rows of `width` tokens.

    Attributes:
        lead: Number of prefix tokens run in this pass; 0 if their keys and values are known.
        prefix: Total number of prefix tokens.
        width: Number of tokens per row.
        keep: Keep the prefix's keys and values.
        packing: Packing of the tokens.
        keys_values: Keys and values of the prefix, one pair per layer.
        layer: Index of the running layer.
        rows: Number of rows in that layer.
    """

    lead: int
    prefix: int
    width: int
    keep: bool
    packing: Packing
    keys_values: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])
    layer: int = 0
    rows: int = 0

    def attend(
        self,
        q: Float[Tensor, "prompts heads tokens d_head"],
        k: Float[Tensor, "prompts kv_heads tokens d_head"],
        v: Float[Tensor, "prompts kv_heads tokens d_head"],
        mask: Float[Tensor, "#prompts #heads keys keys"],
        scaling: float,
        softcap: float | None,
    ) -> Float[Tensor, "prompts tokens heads d_head"]:
        """Outputs of all heads; `mask` is the model's own (additive) mask for the prefix and one row."""
        n, w, lead = self.prefix, self.width, self.lead
        batch, heads, tokens, d_head = q.shape
        groups, rows = k.shape[1], (tokens - lead) // w
        share, flat = heads // groups, heads // groups * rows * w  # query heads per key head, and their queries
        if self.layer < len(self.keys_values):
            past_k, past_v = self.keys_values[self.layer]
        else:
            past_k, past_v = k[:, :, :n], v[:, :, :n]
            if self.keep:
                self.keys_values.append((past_k.clone(), past_v.clone()))
        if rows == 1 and not lead:  # a single row needs no separation
            k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
            return _plain(q, k, v, mask[:, :, n:], scaling, softcap).transpose(1, 2)
        rq = q[:, :, lead:].reshape(batch, groups, share, rows, w, d_head)
        rk, rv = (x[:, :, lead:].reshape(batch, groups, 1, rows, w, d_head) for x in (k, v))
        own_mask = mask[:, :, n:]
        own_mask = own_mask.unflatten(1, (groups, share) if mask.shape[1] > 1 else (1, 1))[:, :, :, None]
        to_past = (rq.reshape(batch, groups, flat, d_head) @ past_k.transpose(-1, -2)).reshape(*rq.shape[:-1], n)
        to_self = rq @ rk.transpose(-1, -2) if w > 1 else (rq * rk).sum(-1, keepdim=True)
        scores = _capped(torch.cat([to_past, to_self], -1) * scaling, softcap) + own_mask
        pattern = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
        own = pattern[..., n:]
        out = (pattern[..., :n].reshape(batch, groups, flat, n) @ past_v).reshape(rq.shape)
        out = out + (own @ rv if w > 1 else own * rv)
        out = out.reshape(batch, heads, rows * w, d_head)
        if lead:
            out = torch.cat([_plain(q[:, :, :n], past_k, past_v, mask[:, :, :n, :n], scaling, softcap), out], 2)
        return out.transpose(1, 2)


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float, softcap: float | None) -> Tensor:
    if softcap is None:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    shared = q.reshape(q.shape[0], k.shape[1], -1, *q.shape[2:])
    scores = _capped(shared @ k[:, :, None].transpose(-1, -2) * scaling, softcap).reshape(*q.shape[:-1], -1) + mask
    pattern = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    return (pattern.reshape(*shared.shape[:-1], -1) @ v[:, :, None]).reshape(q.shape)


def _capped(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


_current: ContextVar[Tree | None] = ContextVar("tree", default=None)


def _tree_attention(
    module: Any,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    # Unknown arguments may change the result; the check against the plain loop would then fail.
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    tree = _current.get()
    assert tree is not None
    q, k, v = (tree.packing.unpack(x, 0, tree.lead + tree.rows * tree.width, dim=2) for x in (query, key, value))
    outputs = tree.packing.pack(tree.attend(q, k, v, attention_mask, scale, softcap))
    return outputs.contiguous(), None  # contiguous, because some modules then call `view`


AttentionInterface.register(NAME, _tree_attention)


_RUNS_NATIVELY: WeakKeyDictionary[LensModel, bool] = WeakKeyDictionary()


def _own_projections(bridge: Any, module: Any) -> bool:
    own = {id(m) for m in module.modules()}
    return all(hasattr(bridge, p) and id(getattr(bridge, p).original_component) in own for p in "qkvo")


@contextmanager
def tree_attention(model: LensModel, tree: Tree) -> Iterator[None]:
    """Make the model's attention modules run a tree, through transformers' own forward instead of TransformerLens' copy.

    Raises:
        LensFVError: transformers' attention does not use the projections that TransformerLens uses.
    """
    bridges = [block.attn for block in model.tl.blocks]
    native = [bridge.original_component for bridge in bridges]
    if model not in _RUNS_NATIVELY:
        _RUNS_NATIVELY[model] = all(map(_own_projections, bridges, native))
    if not _RUNS_NATIVELY[model]:
        raise LensFVError(f"branch {model.name}: TransformerLens projects with copies of what transformers projects with")
    forwards = [_through(bridge, module) for bridge, module in zip(bridges, native, strict=True)]
    with exclusive(model, "has other attention for a while") as gate, forwards_replaced(model, bridges, forwards):
        gate.afterwards(partial(_current.set, _current.get()))
        _current.set(tree)
        for config in {id(module.config): module.config for module in native}.values():
            gate.put(vars(config), "_attn_implementation_internal", NAME)
        yield


def _through(bridge: Any, module: Any) -> Callable[..., Any]:
    """The attention module's own forward, followed by TransformerLens' hook on its output."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        out, *rest = module(*args, **kwargs)
        return (bridge.hook_out(out), *rest)

    return forward
