"""The "batched" backend: one batch row per branch, for models that cannot share state between rows.

Positions by index (ALiBi in MPT) and recurrent or hybrid layers keep state that belongs to one sequence. For these models the
prefix runs once through the model's own cache, which is then copied for every row. No layer is skipped and no state is shared,
but each row still costs only its own tokens.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.model.cache import cache_of, run_body
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.rows import Placed, Row, Stacks, stack_edits
from lens_fv.patching.trunk import lay_out


class BatchedTrunk:
    """A batch of prompts from which branches start at one position each; see `lens_fv.patching.trunk.Trunk`."""

    def __init__(
        self,
        model: LensModel,
        prefixes: Sequence[Sequence[int]],
        suffixes: Sequence[Sequence[Sequence[int]]],
        shared: Placed = (),
    ) -> None:
        self.model = model
        self.width = max(len(suffix) for variants in suffixes for suffix in variants)
        self._prefix = max(map(len, prefixes))
        laid_out = lay_out(prefixes, suffixes, self._prefix, self.width)
        self._tokens, self._seen, self._positions = (x.to(model.device) for x in laid_out)
        self._cache: Any = None
        if self._prefix:
            n = self._prefix
            stacks = stack_edits([Row(0, shared)], model.device)
            hooks = [(place, _editor(edits, len(prefixes), 0, n)) for place, edits in stacks.items()]
            with torch.no_grad(), model.hooks(hooks):
                out = self._body(self._tokens[:, :n], self._seen[:, :n], self._positions[:, :n], None)
            self._cache = cache_of(out)
            if not hasattr(self._cache, "reorder_cache"):
                raise LensFVError(f"branch {model.name}: it keeps its past in a {type(self._cache).__name__}")

    def run(self, rows: Sequence[Row], *, keep: bool = True) -> Float[Tensor, "prompts rows width d_model"]:  # noqa: ARG002
        """Return the final residual-stream states of every row."""
        model, n, width, prompts = self.model, self._prefix, self.width, len(self._tokens)
        seen: list[Tensor] = []

        def keep_last(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            seen.append(x)
            return x

        stacks = stack_edits(rows, model.device)
        hooks = [(place, _editor(edits, prompts, width, 0)) for place, edits in stacks.items()]
        cache = deepcopy(self._cache)
        if cache is not None:
            # Not batch_repeat_interleave, which does not repeat recurrent states.
            cache.reorder_cache(torch.arange(prompts, device=model.device).repeat_interleave(len(rows)))
        at = torch.tensor([row.suffix for row in rows], device=model.device)[:, None] * width
        columns = (n + at + torch.arange(width, device=model.device)).flatten()
        tokens, positions = (x[:, columns].reshape(-1, width) for x in (self._tokens, self._positions))
        mask = torch.cat([self._seen[:, :n].repeat_interleave(len(rows), 0), torch.ones_like(tokens, dtype=torch.bool)], 1)
        with model.hooks([*hooks, (f"blocks.{model.n_layers - 1}.hook_resid_post", keep_last)]):
            self._body(tokens, mask, positions, cache)
        return seen[-1].reshape(prompts, len(rows), width, -1)

    def _body(self, tokens: Tensor, seen: Tensor, positions: Tensor, cache: Any) -> Any:
        return run_body(self.model.tl.original_model.base_model, tokens, seen, positions, cache)


def _editor(edits: Stacks, prompts: int, width: int, lead: int) -> Callable[..., Tensor]:
    def change(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return edits.apply(x.reshape(prompts, -1, *x.shape[2:]), width, lead).reshape(x.shape)

    return change
