"""Rotary embeddings that change with the length of a text."""

from collections.abc import Iterator, Mapping
from typing import Any


def rotary_border(config: Any) -> int | None:
    """The number of tokens above which a text gets other rotary frequencies than shorter ones; None where all get the same.

    Under "longrope" (Phi 3: Ding et al. 2024) transformers takes the frequencies of long texts for all rows of a batch whose
    longest has more tokens than the original context. So texts on both sides of it must not run together, nor go on from each
    other's keys. ("dynamic" ones change beyond the model's context alone, where nothing runs.)

    Args:
        config: of a transformers model.

    Example:
        >>> from transformers import LlamaConfig
        >>> rotary_border(LlamaConfig()) is None
        True
    """
    for rope in _parameters(config):
        if (rope.get("rope_type") or rope.get("type")) == "longrope":
            found = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
            if found:
                return int(found)
    return None


def _parameters(config: Any) -> Iterator[Mapping[str, Any]]:
    """Of all layers, or of each type of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(config, name, None)
        if isinstance(rope, Mapping):
            yield rope
            yield from (each for each in rope.values() if isinstance(each, Mapping))
