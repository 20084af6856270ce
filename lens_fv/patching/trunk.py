"""The engine: one forward pass, many edits.

In a causal decoder an edit changes nothing before its position. So the tokens before it (the *prefix*) run once, and each edit
adds a copy of the tokens from there on (a *row*), which attends to the prefix and itself but to no other row. A row joins the
pass at the layer of its first edit, because below that it equals the unedited run (the *trunk*). Prefix, trunk and rows go
through the layers together, so that a layer's weights are read once. The arithmetic is that of one forward pass per edit; it is
not an approximation.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import Hook, LensModel
from lens_fv.patching.attention import Tree, tree_attention
from lens_fv.patching.calls import call_layout, record_calls
from lens_fv.patching.packing import Packing
from lens_fv.patching.rows import Row, stack_edits
from lens_fv.patching.split import SplitPrompts
from lens_fv.patching.tiling import Tiling


class Trunk:
    """A batch of prompts from which branches start at one position each.

    Args:
        model: A bridge with blocks that can be called one by one (see `lens_fv.patching.check`).
        prompts: Prompts, split at that position.
        native: Use the attention of `lens_fv.patching.attention`; otherwise TransformerLens' own attention under a mask.

    Raises:
        LensFVError: blocks cannot be called one by one, or their attention depends on more than the mask.
    """

    def __init__(self, model: LensModel, prompts: SplitPrompts, *, native: bool) -> None:
        # GPT-Neo's attention cuts its windows by index, which the check may miss because it runs few rows.
        if not native and any(mask.dtype == torch.bool and mask.ndim == 4 for mask in model.tl.blocks.buffers()):
            raise LensFVError(f"branch {model.name}: its attention has a mask of its own, in which rows are later tokens")
        self.model, self._native = model, native
        self.width, self._prefix, self._variants = prompts.width, prompts.prefix, len(prompts.suffixes[0])
        self._shared = stack_edits([Row(0, prompts.shared)], model.device)
        self._real = prompts.real(model.device)
        tokens, seen, positions = prompts.lay_out(model.device)
        self._calls, embedded = record_calls(model, tokens, seen, positions, DynamicCache())
        self._layout = call_layout(model)
        self._seen = seen[:, : self._prefix]
        self._prefix_embedded = embedded[:, : self._prefix]
        self._states: list[Tensor] = [embedded[:, self._prefix :]]  # the trunk's states by layer
        self._keys_values: list[tuple[Tensor, Tensor]] = []  # of the prefix, by layer

    def run(self, rows: Sequence[Row], *, keep: bool = True) -> Float[Tensor, "prompts rows width d_model"]:
        """Return the final residual-stream states of every row. Gradients flow into the edits' values.

        Args:
            rows: Rows to run.
            keep: Keep the prefix's keys and values in memory, which makes further runs cheaper.
        """
        if torch.is_grad_enabled() and not self._keys_values:
            with torch.no_grad():  # no edit reaches this part, so it needs no graph
                self._walk([], keep=True)
        entries = [row.entry(self.model.n_layers) for row in rows]
        order = sorted(range(len(rows)), key=entries.__getitem__)
        x = self._walk([rows[i] for i in order], keep=keep)
        ranks = torch.tensor(order, device=x.device).argsort()
        return x.reshape(x.shape[0], len(rows), self.width, -1)[:, ranks]

    def _walk(self, rows: Sequence[Row], *, keep: bool) -> Float[Tensor, "prompts tokens d_model"]:
        model, width, layers = self.model, self.width, self.model.n_layers
        known = len(self._states) > layers and len(self._keys_values) == layers
        lead = 0 if known else self._prefix
        n_trunk = 0 if known else self._variants
        rows = [*(Row(suffix, ()) for suffix in range(n_trunk)), *rows]
        entries = [0] * n_trunk + [row.entry(layers) for row in rows[n_trunk:]]
        stacks = stack_edits(rows, model.device)
        if not known:
            del self._states[1:]
            self._keys_values = []
        start = min(entries, default=layers)
        packing = self._packing(rows, lead)
        x = packing.pack(self._prefix_embedded[:, :lead])
        under_way, end = 0, lead
        tree = Tree(lead, self._prefix, width, keep, packing, self._keys_values)
        cache = None if self._native else self._cache()
        packed = packing if self._native else None
        suffixes = [row.suffix for row in rows]
        tiling = Tiling(suffixes, width=width, prefix=self._prefix, lead=lead, cache=cache, packing=packed)

        shared = self._shared if lead else {}
        places = stacks.keys() | shared.keys()

        def edited(place: str, x: Tensor) -> Tensor:
            # A row joins at its first edit, so rows that are edited in this layer have already joined.
            x = shared[place].apply(x, 0, lead, packing) if place in shared else x
            return stacks[place].apply(x, width, lead, packing) if place in stacks else x

        def hook(place: str) -> Hook:
            return place, lambda x, hook: edited(place, x)  # noqa: ARG005

        # Add the hooks once for all layers: TransformerLens looks up all its names whenever hooks are added or removed.
        inside = [hook(place) for place in places if "resid" not in place]
        with model.hooks(inside), tree_attention(model, tree) if self._native else nullcontext():
            for layer in range(start, layers + 1):
                if not known and layer:
                    self._states.append(packing.unpack(x, lead, lead + n_trunk * width).clone())
                joining = rows[under_way : under_way + entries[under_way:].count(layer)]
                if joining:
                    x = torch.cat([x, packing.pack(self._leaving(layer, joining), end)], 1)
                    under_way += len(joining)
                    end = lead + under_way * width
                for place in (f"blocks.{layer - 1}.hook_resid_post", f"blocks.{layer}.hook_resid_pre"):
                    x = edited(place, x)
                if layer == layers:
                    break
                tree.layer, tree.rows = layer, under_way
                call = tiling.call(self._calls[layer], self._layout[layer], under_way)
                out = model.tl.blocks[layer](x, *call.args, **call.kwargs)
                x = out[0] if isinstance(out, tuple) else out
        if cache is not None and keep and not known:
            self._keys_values = [(k[:, :, : self._prefix].clone(), v[:, :, : self._prefix].clone()) for k, v in _pairs(cache)]
        return packing.unpack(x, lead + n_trunk * width, end)

    def _packing(self, rows: Sequence[Row], lead: int) -> Packing:
        """The packing of a pass's tokens."""
        real = [self._seen[:, :lead], *(self._real[:, row.suffix] for row in rows)]
        real = torch.cat(real, 1)
        return Packing(real if self._native else torch.ones_like(real))

    def _leaving(self, layer: int, rows: Sequence[Row]) -> Tensor:
        """The trunk's states at the layer where rows leave it."""
        suffixes = torch.tensor([row.suffix for row in rows], device=self.model.device)
        state = self._states[layer].reshape(len(self._states[0]), self._variants, self.width, -1)
        return state[:, suffixes].flatten(1, 2)

    def _cache(self) -> DynamicCache:
        """The prefix's keys and values in a new cache, because blocks append to the cache they receive."""
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self._keys_values):
            cache.update(keys, values, layer)
        return cache


def _pairs(cache: DynamicCache) -> list[tuple[Any, Any]]:
    return [(getattr(layer, "keys"), getattr(layer, "values")) for layer in cache.layers]  # noqa: B009
