"""Branches of a `HookedTransformer` (TransformerLens 3), run as batch rows on top of its own key/value cache."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.model.lens_model import LensModel
from lens_fv.patching.rows import Placed, Row, Stack, Stacks, stack_edits


class HookedTrunk:
    """Prompts from which branches start at one position each; see `lens_fv.patching.trunk.Trunk`.

    Prompts run one at a time without padding on the left, because models differ in the positions they then assign.
    """

    def __init__(
        self,
        model: LensModel,
        prefixes: Sequence[Sequence[int]],
        suffixes: Sequence[Sequence[Sequence[int]]],
        shared: Placed = (),
    ) -> None:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache as Cache

        self.model, self._suffixes = model, suffixes
        self.width = max(len(suffix) for variants in suffixes for suffix in variants)
        self._caches: list[Any] = []
        self._new_cache = lambda rows: Cache.init_cache(model.tl.cfg, model.device, rows)
        stacks = stack_edits([Row(0, shared)], model.device)
        for p, prefix in enumerate(prefixes):
            cache = self._new_cache(1) if prefix else None
            hooks = [(place, _editor(edits, p, 0, len(prefix))) for place, edits in stacks.items()]
            if prefix:
                with torch.no_grad(), model.hooks(hooks):
                    self._run(torch.tensor([list(prefix)], device=model.device), cache)
            self._caches.append(cache)

    def run(self, rows: Sequence[Row], *, keep: bool = True) -> Float[Tensor, "prompts rows width d_model"]:  # noqa: ARG002
        """Return the final residual-stream states of every row."""
        stacks = stack_edits(rows, self.model.device)
        return torch.stack([self._one_prompt(p, rows, stacks) for p in range(len(self._suffixes))])

    def _one_prompt(self, p: int, rows: Sequence[Row], stacks: dict[str, Stacks]) -> Float[Tensor, "rows width d_model"]:
        model, seen = self.model, list[Tensor]()
        tokens = torch.zeros(len(rows), self.width, dtype=torch.long)
        for i, row in enumerate(rows):
            suffix = self._suffixes[p][row.suffix]
            tokens[i, : len(suffix)] = torch.tensor(suffix, dtype=torch.long)

        def keep_last(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            seen.append(x)
            return x

        hooks = [(place, _editor(edits, p, self.width, 0)) for place, edits in stacks.items()]
        with model.hooks([*hooks, (f"blocks.{model.n_layers - 1}.hook_resid_post", keep_last)]):
            self._run(tokens.to(model.device), self._repeated(p, len(rows)))
        return seen[-1]

    def _run(self, tokens: Tensor, cache: Any) -> None:
        # No padding: by default TransformerLens would treat every token with the padding id as padding.
        mask = torch.ones_like(tokens)
        self.model.tl(tokens, past_kv_cache=cache, attention_mask=mask, return_type=None)

    def _repeated(self, p: int, rows: int) -> Any:
        own = self._caches[p]
        if own is None:
            return None
        cache = self._new_cache(rows)
        for to, entry in zip(cache.entries, own.entries, strict=True):
            to.past_keys, to.past_values = (x.expand(rows, *x.shape[1:]) for x in (entry.past_keys, entry.past_values))
        cache.previous_attention_mask = own.previous_attention_mask.expand(rows, -1)
        return cache


def _editor(edits: Stacks, prompt: int, width: int, lead: int) -> Callable[..., Tensor]:
    """Hook that edits one prompt's (rows, tokens, ...), by treating the rows as one sequence."""
    own = Stacks(_of_prompt(stack, prompt) for stack in edits)

    def change(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return own.apply(x.reshape(1, -1, *x.shape[2:]), width, lead).reshape(x.shape)

    return change


def _of_prompt(stack: Stack, prompt: int) -> Stack:
    values = stack.values if stack.values.shape[1] == 1 else stack.values[:, prompt : prompt + 1]
    return stack._replace(offsets=stack.offsets[:, prompt : prompt + 1], values=values)
