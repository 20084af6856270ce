"""The engine: one forward pass, many edits.

In a causal decoder an edit at the last prompt token changes nothing before it. So the prompt's earlier tokens run once and
leave their keys and values; every edit becomes one more copy of the last token (a *row*) that looks back at them and, under
a tree mask, at itself and at no other row. Rows join the walk through the layers where their first edit is: below it they
equal the unedited run, the *trunk*. It is the same arithmetic as one forward pass an edit, not an approximation.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.edit import Branch, LayerEdits, group_edits

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of one block, its hidden states left out."""


class Trunk:
    """A batch of prompts, run up to their last token and ready to be branched there.

    Args:
        model: a bridge whose blocks can be called one by one (see `lens_fv.patching.run`, which checks).
        prompts: token ids, one list a prompt.
        continuations: token ids teacher-forced behind each prompt's last token (an answer without its last token, usually).
    """

    def __init__(self, model: LensModel, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.width = 1 + max(map(len, continuations))
        self._keys_values, seen, positions = _run_prefix(model, prompts)
        suffix = torch.zeros(len(prompts), self.width, dtype=torch.long)
        for row, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
            tokens = [prompt[-1], *continuation]
            suffix[row, : len(tokens)] = torch.tensor(tokens)
        self.n_prefix = seen.shape[1]
        self._calls, embedded = self._ask_for_calls(suffix.to(model.device), seen, positions)
        self._inputs: dict[int, Tensor] = {0: embedded}  # trunk states by layer, where they have been needed

    # -- how the model calls its blocks --------------------------------------------------------------------------------

    def _ask_for_calls(
        self, suffix: Int[Tensor, "prompts suffix"], seen: Bool[Tensor, "prompts prefix"], positions: Tensor
    ) -> tuple[list[Call], Tensor]:
        """The arguments with which the model itself would call every block for the suffix.

        Masks, windows and position embeddings differ between architectures and between layers; rather than know them, run
        the model with blocks that note their arguments and pass their input on.
        """
        blocks = list(self.model.tl.blocks)
        calls: list[Call] = []
        hidden: list[Tensor] = []

        wrapped = False

        def note(*args: Any, **kwargs: Any) -> Any:
            x, *rest = args or (kwargs.pop("hidden_states"),)
            hidden.append(x)
            calls.append((tuple(rest), kwargs))
            return (x,) if wrapped else x

        mask = torch.cat([seen, torch.ones_like(suffix, dtype=torch.bool)], 1)
        for as_tuple in (False, True):  # some models take `block(...)[0]`, which strips a bare tensor of its batch
            wrapped = as_tuple
            calls.clear()
            hidden.clear()
            with torch.no_grad(), _forwards_replaced(blocks, note):
                _body(self.model)(
                    input_ids=suffix,
                    attention_mask=mask.long(),
                    position_ids=positions[:, None] + torch.arange(self.width, device=suffix.device),
                    past_key_values=self._cache(),
                    use_cache=True,
                )
            if len(calls) == len(blocks) and all(x.shape == hidden[0].shape for x in hidden):
                return calls, hidden[0]
        raise LensFVError(f"branch {self.model.name}: its blocks cannot be called one by one")

    def _cache(self) -> DynamicCache:
        """The prefix's keys and values in a fresh cache: blocks append to the one they get."""
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self._keys_values):
            cache.update(keys, values, layer)
        return cache

    # -- running branches ----------------------------------------------------------------------------------------------

    def run(self, branches: Sequence[Branch]) -> Float[Tensor, "prompts branches suffix d_model"]:
        """Final residual-stream states of every branch, from the edited token on.

        An empty branch is the unedited run. Gradients flow into the edits' values.
        """
        model, width = self.model, self.width
        entries = [_entry(branch, model.n_layers) for branch in branches]
        order = sorted(range(len(branches)), key=entries.__getitem__)
        branches = [branches[i] for i in order]
        entries = [entries[i] for i in order]
        at_heads = group_edits(branches, heads=True, device=model.device)
        at_layers = group_edits(branches, heads=False, device=model.device)
        # Branches leave the trunk where its state is known from an earlier run, or else from a row in front of the others
        # that carries it on for as long as it is needed.
        carry_to = max((e for e in entries if e not in self._inputs), default=-1)
        start = max(layer for layer in self._inputs if layer <= entries[0])
        trunk, rows, n_rows = self._inputs[start], self._inputs[start][:, :0], 0
        tiled = _Tiled(self._cache(), len(branches) + 1, width, self.n_prefix)
        lead = 0

        def editor(edits: LayerEdits) -> Callable[..., Tensor]:
            # A row's first edit is where it joins, so rows that are edited in a layer are under way in it.
            return lambda z, hook: edits._replace(rows=edits.rows + lead).apply(z, width)  # noqa: ARG005

        # Put on once for all layers: TransformerLens looks up every name it knows each time that hooks come and go.
        with model.hooks([(f"blocks.{layer}.attn.hook_z", editor(edits)) for layer, edits in at_heads.items()]):
            for layer in range(start, model.n_layers + 1):
                joining = entries[n_rows:].count(layer)
                if joining:
                    state = self._inputs.setdefault(layer, trunk)
                    rows = torch.cat([rows, state.repeat(1, joining, 1)], 1)
                    n_rows += joining
                if layer - 1 in at_layers:
                    rows = at_layers[layer - 1].apply(rows, width)
                if layer == model.n_layers:
                    break
                lead = int(layer < carry_to)
                x = self._block(layer, torch.cat([trunk, rows], 1) if lead else rows, tiled)
                trunk, rows = (x[:, :width].detach(), x[:, width:]) if lead else (trunk, x)
        back = torch.tensor(order, device=model.device).argsort()
        return rows.reshape(rows.shape[0], len(branches), width, -1)[:, back]

    def _block(self, layer: int, x: Tensor, tiled: "_Tiled") -> Tensor:
        args, kwargs = tiled.call(self._calls[layer], x.shape[1])
        if kwargs.get("attention_mask", 0) is None:
            raise LensFVError(f"branch {self.model.name}: its blocks are called without a mask, so rows cannot be told apart")
        out = self.model.tl.blocks[layer](x, *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out


class _Tiled:
    """Block arguments for `width` suffix tokens, repeated for rows of them; masks keep the rows apart.

    Layers share most of their arguments, and what fewer rows need is the front of what more rows need: so each is tiled once
    a pass, for all rows, and cut.
    """

    def __init__(self, cache: DynamicCache, n_rows: int, width: int, n_prefix: int) -> None:
        self._cache, self._n_rows, self._width, self._n_prefix = cache, n_rows, width, n_prefix
        self._made: dict[int, Tensor] = {}

    def call(self, call: Call, n_tokens: int) -> Call:
        """The arguments for the first `n_tokens` tokens of the rows."""
        args, kwargs = call
        return tuple(self._for(a, n_tokens) for a in args), {k: self._for(v, n_tokens) for k, v in kwargs.items()}

    def _for(self, value: Any, n: int) -> Any:
        if isinstance(value, DynamicCache):
            return self._cache
        if isinstance(value, tuple):
            return tuple(self._for(v, n) for v in value)
        if not isinstance(value, Tensor):
            return value
        width, total = self._width, self._n_prefix + self._width
        if value.ndim == 4 and value.shape[-2:] == (width, total):
            return self._once(value, self._mask)[..., :n, : self._n_prefix + n]
        if value.ndim >= 2 and value.shape[1] == width:
            return self._once(value, lambda v: v.repeat(1, self._n_rows, *(1 for _ in v.shape[2:])))[:, :n]
        if value.ndim == 1 and value.shape[0] == width:
            return self._once(value, lambda v: v.repeat(self._n_rows))[:n]
        return value

    def _once(self, value: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        if id(value) not in self._made:  # the calls keep their values alive, so an id names one of them
            self._made[id(value)] = make(value)
        return self._made[id(value)]

    def _mask(self, value: Tensor) -> Tensor:
        past, own = value[..., : self._n_prefix], value[..., self._n_prefix :]
        blocked = False if value.dtype == torch.bool else torch.finfo(value.dtype).min
        rows, width = self._n_rows, self._width
        apart = value.new_full((*value.shape[:2], rows, width, rows, width), blocked)
        each = torch.arange(rows, device=value.device)
        apart[:, :, each, :, each] = own  # (rows, prompts, 1, width, width): every row sees itself
        return torch.cat([past.repeat(1, 1, rows, 1), apart.reshape(*value.shape[:2], rows * width, rows * width)], -1)


def _entry(branch: Branch, n_layers: int) -> int:
    """The first block that a branch runs on its own: its head's layer, or the one above an edited residual stream."""
    return min((e.layer + (e.head is None) for e in branch), default=n_layers)


def _body(model: LensModel) -> Any:
    """The model without its unembedding."""
    return model.tl.original_model.base_model


@contextmanager
def _forwards_replaced(blocks: Sequence[Any], forward: Any) -> Iterator[None]:
    # Into the instance's own dictionary: a bridge component passes plain assignments on to the module it wraps.
    for block in blocks:
        vars(block)["forward"] = forward
    try:
        yield
    finally:
        for block in blocks:
            del vars(block)["forward"]


def _run_prefix(
    model: LensModel, prompts: Sequence[Sequence[int]]
) -> tuple[list[tuple[Tensor, Tensor]], Bool[Tensor, "prompts prefix"], Int[Tensor, " prompts"]]:
    """Keys and values of all but the last prompt token, a pair a layer.

    With them: which are real (the rest is padding, in front), and the last token's position.
    """
    once = list(dict.fromkeys(tuple(p) for p in prompts))  # a prompt with several answers runs once
    lengths = torch.tensor([len(p) - 1 for p in once], device=model.device)
    n_prefix = int(lengths.max())
    tokens = torch.zeros(len(once), n_prefix, dtype=torch.long)
    for row, prompt in enumerate(once):
        tokens[row, n_prefix - len(prompt) + 1 :] = torch.tensor(prompt[:-1])
    seen = torch.arange(n_prefix, device=model.device) >= n_prefix - lengths[:, None]
    at = {prompt: row for row, prompt in enumerate(once)}
    rows = torch.tensor([at[tuple(p)] for p in prompts], device=model.device)
    if n_prefix == 0:
        return [], seen[rows], lengths[rows]
    cache = DynamicCache()
    with torch.no_grad():
        _body(model)(
            input_ids=tokens.to(model.device),
            attention_mask=seen.long(),
            position_ids=(seen.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
    whole = len(once) == len(prompts)
    layers: list[tuple[Tensor, Tensor]] = []
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None:
            raise LensFVError(f"branch {model.name}: a {type(layer).__name__} keeps no keys and values")
        layers.append((keys, values) if whole else (keys[rows], values[rows]))
    return layers, seen[rows], lengths[rows]
