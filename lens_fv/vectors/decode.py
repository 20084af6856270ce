"""Read a vector as words."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from lens_fv.model.lens_model import LensModel
from lens_fv.vectors.function_vector import FunctionVector


class Decoded(NamedTuple):
    """A vector through the final norm and the unembedding.

    Decoding is no proxy for steering: vectors that steer well can decode to nothing readable.

    Attributes:
        tokens: the likeliest tokens with their probabilities.
        ranks: for each word asked about, the rank (1 is the likeliest) of its first token, with a leading space.
        vocabulary: the number of tokens ranked.
    """

    tokens: list[tuple[str, float]]
    ranks: dict[str, int]
    vocabulary: int


@torch.no_grad()
def decode(vector: FunctionVector, model: LensModel, k: int = 10, *, words: Sequence[str] = (), force: bool = False) -> Decoded:
    """Decode a vector into tokens.

    Args:
        vector: the vector.
        model: the model it was made on.
        k: how many tokens.
        words: words whose rank is wanted: the relation's words, or its answers.
        force: decode it though the provenance does not match.

    Raises:
        LensFVError: the vector belongs to another model.
    """
    if not force:
        vector.provenance.check(model)
    logits = model.unembed(vector.vector.to(model.device, model.dtype)).float()
    top = logits.softmax(-1).topk(k)
    tokens = [(model.decode(i), p) for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
    first = {word: model.encode(f" {word}", bos=False)[0] for word in words}
    ranks = {word: int((logits > logits[token]).sum()) + 1 for word, token in first.items()}
    return Decoded(tokens, ranks, logits.shape[-1])
