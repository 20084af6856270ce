"""Batches of prompts in which each prompt gets its own vectors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.model.lens_model import LensModel
from lens_fv.patching import Branch, Edit, OpenPrompts
from lens_fv.patching.backends import BackendChoice
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

        Args:
            layers: For each branch, the layer after which its vector is added, at the last prompt token.
            vectors: Vectors to add. Gradients flow into them.
            readout: See `run_branches`; default: log-probabilities of the answers' tokens.
            plain: Whether to put a branch without a vector first.
        """
        own = vectors[list(self.owners)]
        edits = [(Edit(layer, own[:, i], mode="add"),) for i, layer in enumerate(layers)]
        return self.opened.run([Branch(each, tokens=self.answers) for each in [()] * plain + edits], readout=readout)

    def lengths(self, device: torch.device) -> Float[Tensor, "prompts 1"]:
        """Number of tokens of each answer."""
        return torch.tensor([[float(len(answer))] for answer in self.answers], device=device)

    def losses(self, layers: Sequence[int], vectors: Float[Tensor, "owners branches d_model"]) -> Tensor:
        """Mean negative log-probability of the answers' tokens, "prompts branches"."""
        return -self.read(layers, vectors).sum(-1) / self.lengths(vectors.device)


def open_batches(
    model: LensModel, prompts: Sequence[tuple[int, EncodedPrompt]], *, size: int = BATCH, backend: BackendChoice = "auto"
) -> list[Batch]:
    """Open prompts, given with their owner's index, in batches of similar answer length, which keeps padding low."""
    items = sorted(prompts, key=lambda item: (len(item[1].answers[0]), len(item[1].tokens)))
    parts = [items[at : at + size] for at in range(0, len(items), size)]
    return [
        Batch(
            OpenPrompts(model, [p.tokens for _, p in part], backend=backend),
            tuple(p.answers[0] for _, p in part),
            tuple(owner for owner, _ in part),
        )
        for part in parts
    ]
