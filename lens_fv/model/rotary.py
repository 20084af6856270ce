"""Rotary embeddings that change with the length of a text."""

from collections.abc import Iterator, Mapping
from typing import Any


def rotary_border(config: Any) -> int | None:
    """Return the number of tokens above which a text gets different rotary frequencies; None if all get the same.

    Under "longrope" (Phi 3: Ding et al. 2024), transformers uses the frequencies of long texts for a whole batch if its longest
    row exceeds the original context. Texts on different sides of this length therefore must not run together or reuse each
    other's keys. ("dynamic" frequencies change only beyond the model's context, where nothing runs.)

    Args:
        config: configuration of a transformers model.

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
    """Yield the rotary parameters of all layers, or of each type of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(config, name, None)
        if isinstance(rope, Mapping):
            yield rope
            yield from (each for each in rope.values() if isinstance(each, Mapping))
