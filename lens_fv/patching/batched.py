"""The "batched" backend: one batch row per branch, for models that cannot share state between rows.

Positions by index (ALiBi in MPT) and recurrent or hybrid layers keep state that belongs to one sequence. For these models the
prefix runs once through the model's own cache, which is then copied for every row. No layer is skipped and no state is shared,
but each row still costs only its own tokens.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.model.cache import cache_of, run_body
from lens_fv.model.lens_model import Hook, LensModel
from lens_fv.patching.rows import Row, Stacks, stack_edits
from lens_fv.patching.split import SplitPrompts


class BatchedTrunk:
    """A batch of prompts from which branches start at one position each; see `lens_fv.patching.trunk.Trunk`."""

    def __init__(self, model: LensModel, prompts: SplitPrompts) -> None:
        self.model, self.width, self._prefix = model, prompts.width, prompts.prefix
        self._tokens, self._seen, self._positions = prompts.lay_out(model.device)
        self._cache: Any = None
        if n := self._prefix:
            with torch.no_grad(), model.hooks(self._hooks([Row(0, prompts.shared)], 0, n)):
                start = self._tokens[:, :n], self._seen[:, :n], self._positions[:, :n]
                self._cache = self._extend(*start, self._empty_cache())

    def run(self, rows: Sequence[Row], *, keep: bool = True) -> Float[Tensor, "prompts rows width d_model"]:  # noqa: ARG002
        """Return the final residual-stream states of every row."""
        model, n, width, prompts = self.model, self._prefix, self.width, len(self._tokens)
        begins = n + width * torch.tensor([row.suffix for row in rows], device=model.device)
        columns = (begins[:, None] + torch.arange(width, device=model.device)).flatten()
        tokens, positions = (x[:, columns].reshape(-1, width) for x in (self._tokens, self._positions))
        seen = torch.cat([self._seen[:, :n].repeat_interleave(len(rows), 0), torch.ones_like(tokens, dtype=torch.bool)], 1)
        states: list[Tensor] = []
        with model.hooks([*self._hooks(rows, width, 0), model.last_state_hook(states)]):
            self._extend(tokens, seen, positions, None if self._cache is None else self._cache_copies(len(rows)))
        return states[-1].reshape(prompts, len(rows), width, -1)

    def _hooks(self, rows: Sequence[Row], width: int, lead: int) -> list[Hook]:
        """Hooks that apply the edits of all rows to a batch in which each prompt's rows follow one another."""
        prompts = len(self._tokens)

        def edit_hook(place: str, edits: Stacks) -> Hook:
            def change(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
                return edits.apply(x.reshape(prompts, -1, *x.shape[2:]), width, lead).reshape(x.shape)

            return place, change

        return [edit_hook(place, edits) for place, edits in stack_edits(rows, self.model.device).items()]

    def _empty_cache(self) -> Any:
        return None  # transformers makes one

    def _extend(self, tokens: Tensor, seen: Tensor, positions: Tensor, cache: Any) -> Any:
        """Run tokens after those in the cache, and return the longer cache."""
        return cache_of(run_body(self.model.tl.original_model.base_model, tokens, seen, positions, cache))

    def _cache_copies(self, rows: int) -> Any:
        """The prefix's cache, copied for every row of every prompt."""
        if not hasattr(self._cache, "reorder_cache"):
            raise LensFVError(f"branch {self.model.name}: it keeps its past in a {type(self._cache).__name__}")
        cache = deepcopy(self._cache)
        # Not batch_repeat_interleave, which does not repeat recurrent states.
        cache.reorder_cache(torch.arange(len(self._tokens), device=self.model.device).repeat_interleave(rows))
        return cache


class HookedTrunk(BatchedTrunk):
    """One prompt of a `HookedTransformer` (TransformerLens 3), which has a key/value cache of its own.

    Only one, because models differ in the positions that they assign after padding on the left.
    """

    def _empty_cache(self, rows: int = 1) -> Any:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        return TransformerLensKeyValueCache.init_cache(self.model.tl.cfg, self.model.device, rows)

    def _extend(self, tokens: Tensor, seen: Tensor, positions: Tensor, cache: Any) -> Any:  # noqa: ARG002
        # No padding: by default TransformerLens would treat every token with the padding id as padding.
        self.model.tl(tokens, past_kv_cache=cache, attention_mask=torch.ones_like(tokens), return_type=None)
        return cache

    def _cache_copies(self, rows: int) -> Any:
        copies = self._empty_cache(rows)
        for to, entry in zip(copies.entries, self._cache.entries, strict=True):
            to.past_keys, to.past_values = (x.expand(rows, *x.shape[1:]) for x in (entry.past_keys, entry.past_values))
        copies.previous_attention_mask = self._cache.previous_attention_mask.expand(rows, -1)
        return copies
