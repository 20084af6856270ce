"""Read a vector as words."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
    logits = vocabulary_logits(model, [vector])[0]
    top = logits.softmax(-1).topk(min(k, len(logits)))
    tokens = [(model.decode(i), p) for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
    first = [first_token(model, word) for word in words]
    ranks = ranks_of(logits[None], first)[:, 0].tolist()
    return Decoded(tokens, dict(zip(words, ranks, strict=True)), logits.shape[-1])


def first_token(model: LensModel, word: str) -> int:
    """The first token of a word behind a blank."""
    return model.encode(f" {word}", bos=False)[0]


def vocabulary_logits(model: LensModel, vectors: Sequence[FunctionVector]) -> Float[Tensor, "vectors vocab"]:
    """Vectors, their scales applied, through the final norm and the unembedding."""
    rows = torch.stack([vector.vector.to(model.device, model.dtype) * vector.scale for vector in vectors])
    return model.unembed(rows).float()


def ranks_of(logits: Float[Tensor, "vectors vocab"], tokens: Sequence[int]) -> Int[Tensor, "tokens vectors"]:
    """The rank of some tokens in the whole vocabulary: 1 plus the number of tokens that are likelier."""
    asked = logits.new_tensor(tokens, dtype=torch.long)
    return torch.stack([(row > row[asked, None]).sum(-1) + 1 for row in logits], 1)
