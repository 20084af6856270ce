"""Text and padding in the current pass, so that edits count from the ends of each row's text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.model.exclusive import exclusive


class Passes:
    """Rows of the current pass, as given by the attention mask.

    The mask is the one passed to the model; for a list of texts that TransformerLens pads itself, it is derived from their
    lengths. Without a mask, tokens at the ends of a row count as padding if they have the padding token's id and this id has no
    other meaning. If it has one (in many tokenizers it also ends a text), padding cannot be identified.

    Args:
        model: A `LensModel`.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._seen: Bool[Tensor, "rows keys"] | None = None  # for all tokens, including those in the cache
        self._unclear = ""

    def places(self, position: int, shape: Sequence[int]) -> tuple[Int[Tensor, " rows"] | slice, Int[Tensor, " rows"] | slice]:
        """Locate an edit at this position as rows and columns of a pass's states; empty for tokens in the cache.

        Args:
            position: Index into each row's text, from its end if negative.
            shape: Shape of the states, "rows tokens ...".

        Raises:
            LensFVError: a row has no such token, or its padding cannot be told from text.
        """
        rows, width = shape[:2]
        if self._unclear:
            raise LensFVError(f"edit at position {position}: {self._unclear}")
        if self._seen is None:
            if not -width <= position < width:
                raise LensFVError(f"edit at position {position}: the text has {width} tokens")
            return slice(None), slice(position % width, position % width + 1)
        if len(self._seen) != rows:
            raise LensFVError(f"edit at position {position}: {rows} rows run, the model was called with {len(self._seen)}")
        lengths = self._seen.sum(1)
        if bool(((position >= lengths) | (position < -lengths)).any()):
            raise LensFVError(f"edit at position {position}: the text has {int(lengths.min())} tokens")
        count = (lengths + position if position < 0 else torch.full_like(lengths, position))[:, None]
        columns = ((self._seen.cumsum(1) == count + 1) & self._seen).int().argmax(1) - (self._seen.shape[1] - width)
        present = columns >= 0
        return torch.arange(rows, device=columns.device)[present], columns[present]

    def on_input(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        """Read the input of TransformerLens, which pads a list of texts on the right without telling the model."""
        source = args[0] if args else kwargs.get("input")
        self._seen, self._unclear = None, ""
        if isinstance(source, list) and len(source) > 1:
            tl, bos = self._model.tl, {k: kwargs[k] for k in ("prepend_bos",) if k in kwargs}
            lengths = torch.tensor([tl.to_tokens(text, **bos).shape[1] for text in source])[:, None]
            column, side = torch.arange(int(lengths.max())), kwargs.get("padding_side") or tl.tokenizer.padding_side
            seen = column < lengths if side == "right" else column >= lengths.max() - lengths
            self._seen = seen.to(self._model.device)
        elif isinstance(source, Tensor):
            self._note(source, kwargs.get("attention_mask"))

    def on_pass(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        """Read the input of the transformers model."""
        tokens, mask = args[0] if args else kwargs.get("input_ids"), kwargs.get("attention_mask")
        padded_here = mask is None and self._seen is not None and tokens is not None and self._seen.shape == tokens.shape
        if not padded_here:
            self._note(tokens, mask)

    def _note(self, tokens: Tensor | None, mask: Any) -> None:
        self._seen, self._unclear = None, ""
        if isinstance(mask, Tensor) and mask.ndim == 2:
            self._seen = mask.to(self._model.device).bool()
        elif mask is not None:
            self._unclear = "the attention mask does not say where rows end, as it has not two dimensions; pass one that has"
        elif tokens is not None and tokens.ndim == 2 and not tokens.is_floating_point():
            self._by_id(tokens)

    def _by_id(self, tokens: Int[Tensor, "rows tokens"]) -> None:
        tokenizer = self._model.tokenizer
        pad = tokenizer.pad_token_id
        if pad is None or not bool((tokens[:, [0, -1]] == pad).any()):
            return
        is_pad = tokens == pad
        padding = is_pad.cumprod(1).bool() | is_pad.flip(1).cumprod(1).flip(1).bool()
        if pad not in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id):
            self._seen = ~padding
        elif len(tokens) > 1 and bool(
            (is_pad[:, -1] | is_pad[:, :2].all(1)).any()
        ):  # a single such token at the start begins a text
            self._unclear = (
                f"some of {len(tokens)} rows end in {tokenizer.pad_token!r} (or begin with several), which may be padding or "
                "text; pass the tokenizer's attention_mask with the tokens"
            )


@contextmanager
def passes(model: Any) -> Iterator[Passes]:
    """Track the rows of every pass inside the block, by the mask that the model is called with."""
    current = Passes(model)
    hf = getattr(model.tl, "original_model", None)
    with exclusive(model, "has hooks on it") as gate:
        gate.add_hook(model.tl, current.on_input, before=True, with_kwargs=True)
        if hf is not None:
            gate.add_hook(hf.base_model, current.on_pass, before=True, with_kwargs=True)
        yield current
