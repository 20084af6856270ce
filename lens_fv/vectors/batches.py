"""Batches of prompts in which each prompt gets its own vectors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.model.lens_model import LensModel
from lens_fv.patching import Branch, Edit, OpenPrompts
from lens_fv.patching.readout import Readout, answer_logprobs
from lens_fv.tasks import EncodedPrompt

BATCH = 64


class Batch(NamedTuple):
    """Opened prompts with their primary answers and owners; the owner decides which vectors a prompt gets."""

    opened: OpenPrompts
    answers: tuple[tuple[int, ...], ...]
    owners: tuple[int, ...]

    def read(
        self,
        layers: Sequence[int],
        vectors: Float[Tensor, "owners branches d_model"],
        readout: Readout = answer_logprobs,
        *,
        plain: bool = False,
    ) -> Tensor:
        """Apply a readout to the answers, "prompts branches ...", each prompt with its owner's vectors.

        A branch adds its vector after its layer, at the last prompt token; gradients flow into the vectors. The default readout
        is the log-probabilities of the answers' tokens. `plain` puts a branch without a vector first.
        """
        own = vectors[list(self.owners)]
        edits: list[tuple[Edit, ...]] = [(Edit(layer, own[:, i], mode="add"),) for i, layer in enumerate(layers)]
        if plain:
            edits.insert(0, ())
        return self.opened.run([Branch(own_edits, tokens=self.answers) for own_edits in edits], readout=readout)

    def lengths(self, device: torch.device) -> Float[Tensor, "prompts 1"]:
        """Number of tokens of each answer."""
        return torch.tensor([[float(len(answer))] for answer in self.answers], device=device)

    def losses(self, layers: Sequence[int], vectors: Float[Tensor, "owners branches d_model"]) -> Tensor:
        """Mean negative log-probability of the answers' tokens, "prompts branches"."""
        return -self.read(layers, vectors).sum(-1) / self.lengths(vectors.device)


def open_batches(model: LensModel, prompts: Sequence[tuple[int, EncodedPrompt]], *, size: int = BATCH) -> list[Batch]:
    """Open prompts, given with their owner's index, in batches of similar answer length, which keeps padding low."""
    items = sorted(prompts, key=lambda item: (len(item[1].answers[0]), len(item[1].tokens)))
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [
        Batch(
            OpenPrompts(model, [p.tokens for _, p in part]),
            tuple(p.answers[0] for _, p in part),
            tuple(owner for owner, _ in part),
        )
        for part in parts
    ]
