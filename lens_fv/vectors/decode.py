"""Decoding of vectors into tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.core.choices import Count, checked
from lens_fv.core.results import Record
from lens_fv.errors import LensFVError
from lens_fv.model.finite import all_finite, measurable
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import run_branches
from lens_fv.patching.readout import final_states, token_ranks
from lens_fv.tasks import Pair, zero_shot
from lens_fv.vectors.function_vector import FunctionVector

NEUTRAL = ("it", "this", "that", "something")
"""Neutral inputs, which belong to no relation."""


@dataclass(frozen=True, repr=False)
class Decoded(Record):
    """A vector decoded into tokens.

    Decoding is no proxy for steering: vectors that steer well can decode to nothing readable.

    Attributes:
        tokens: Likeliest tokens with their probabilities; decoded through the model, the tokens that gain most, with their
            gains in nats.
        ranks: For each requested word, the rank (1 is the likeliest) of its first token, with a leading space.
        vocabulary: Number of tokens ranked.
        through_layers: Whether the vector was decoded through the model.
    """

    tokens: list[tuple[str, float]]
    ranks: dict[str, int]
    vocabulary: int
    through_layers: bool = False

    def records(self) -> list[Mapping[str, Any]]:
        """One row per token, then one per requested word: its rank, and a token's probability or gain in nats."""
        value = "gain_nats" if self.through_layers else "probability"
        tokens = [{"text": token, "rank": rank, value: number} for rank, (token, number) in enumerate(self.tokens, 1)]
        return [*tokens, *({"text": word, "rank": rank, value: None} for word, rank in self.ranks.items())]

    def summary(self) -> dict[str, str]:
        """The likeliest tokens, and the ranks of the requested words."""
        tokens = ", ".join(f"{token!r} {number:{'+' if self.through_layers else ''}.3f}" for token, number in self.tokens)
        words = {f"rank of {word!r}": f"{rank:,} of {self.vocabulary:,}" for word, rank in self.ranks.items()}
        return {"gains in nats" if self.through_layers else "tokens": tokens} | words


@checked
@torch.no_grad()
def decode(
    model: LensModel,
    vector: FunctionVector,
    k: Count = 10,
    *,
    words: Sequence[str] = (),
    through_layers: bool = False,
    force: bool = False,
) -> Decoded:
    """Decode a vector into tokens.

    Args:
        model: Model the vector was made on.
        vector: Vector to decode.
        k: Number of tokens to return.
        words: Words to rank, such as the relation's words or its answers.
        through_layers: Decode through the later layers of the model (see `vocabulary_effect`) instead of directly through the
            final norm and the unembedding.
        force: Decode even if the provenance does not match.

    Raises:
        LensFVError: the vector belongs to another model.

    Example:
        >>> vector = lens_fv.tune(model, task, n_pairs=4, steps=2, layers=1)
        >>> len(lens_fv.decode(model, vector, k=3).tokens)
        3
    """
    if not force:
        vector.provenance.check(model)
    logits = (vocabulary_effect if through_layers else vocabulary_logits)(model, [vector])[0]
    values = logits if through_layers else logits.softmax(-1)
    top = logits.argsort(descending=True, stable=True)[:k]  # ties: lowest id first, as in `token_ranks`
    tokens = [(model.decode(i), p) for i, p in zip(top.tolist(), values[top].tolist(), strict=True)]
    first = [first_token(model, word) for word in words]
    ranks = ranks_of(logits[None], first)[:, 0].tolist()
    return Decoded(tokens, dict(zip(words, ranks, strict=True)), logits.shape[-1], through_layers)


def first_token(model: LensModel, word: str) -> int:
    """First token of a word with a leading space."""
    return model.encode(f" {word}", bos=False)[0]


def vocabulary_logits(model: LensModel, vectors: Sequence[FunctionVector]) -> Float[Tensor, "vectors vocab"]:
    """Logits of vectors, with their scales applied, through the final norm and the unembedding.

    Raises:
        LensFVError: a vector is too long for the final norm.
    """
    rows = torch.stack([vector.vector.to(model.device, model.dtype) * vector.scale for vector in vectors])
    if not bool((fits := measurable(rows)).all()):
        vector = vectors[fits.tolist().index(False)]
        raise LensFVError(f"decode a vector with scale {vector.scale:g}: too long for the final norm; lower it")
    return model.unembed(rows).float()


@torch.no_grad()
def vocabulary_effect(
    model: LensModel, vectors: Sequence[FunctionVector], *, inputs: Sequence[str] = NEUTRAL
) -> Float[Tensor, "vectors vocab"]:
    """Change in the next token's log-probabilities, in nats, when vectors are added at their layers, through all later layers.

    The change is averaged over zero-shot prompts with neutral inputs, so that it reflects the vector and not an answer.
    """
    prompts = [model.encode(zero_shot(Pair(word, (word,))).text) for word in inputs]
    states = run_branches(model, prompts, [[], *(vector.edits() for vector in vectors)], readout=final_states)[:, :, 0]
    gains = torch.zeros(len(vectors), model.d_vocab, device=model.device)
    for row in states:  # one prompt at a time, to save memory
        logprobs = model.unembed(row).float().log_softmax(-1)
        gains += (logprobs[1:] - logprobs[:1]) / len(prompts)
    return gains


def ranks_of(logits: Float[Tensor, "vectors vocab"], tokens: Sequence[int]) -> Int[Tensor, "tokens vectors"]:
    """Rank of tokens in the whole vocabulary, where 1 is the token of greedy decoding; see `token_ranks`.

    Raises:
        LensFVError: the logits are not finite.
    """
    if not all_finite(logits.amax(-1)):
        raise LensFVError("rank tokens by logits that are not finite; look at the vectors and their scales, and run verify")
    ids = torch.tensor(tokens, dtype=torch.long, device=logits.device)
    return torch.stack([1 + token_ranks(row.expand(len(ids), -1), ids) for row in logits], 1)
