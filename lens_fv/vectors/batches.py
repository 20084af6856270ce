"""Prompts that run together, each with vectors of its own."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.model.lens_model import LensModel
from lens_fv.patching import Branch, Edit, OpenPrompts
from lens_fv.patching.check import Method
from lens_fv.patching.readout import Readout, answer_logprobs
from lens_fv.tasks import EncodedPrompt

BATCH = 64


class Batch(NamedTuple):
    """Prompts, opened, with their primary answers, and the owner of each: which vectors are added to it."""

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
        """What a readout makes of the answers, "prompts branches ...", each prompt with its own owner's vectors.

        Args:
            layers: after which each branch's vector is added, at the last prompt token.
            vectors: to be added. Gradients flow into them.
            readout: see `run_branches`; by default log-probabilities of the answers' tokens.
            plain: begin with one more branch that adds nothing.
        """
        own = vectors[list(self.owners)]
        edits = [(Edit(layer, own[:, i], mode="add"),) for i, layer in enumerate(layers)]
        return self.opened.run([Branch(each, tokens=self.answers) for each in [()] * plain + edits], readout=readout)

    def lengths(self, device: torch.device) -> Float[Tensor, "prompts 1"]:
        """Tokens of each answer."""
        return torch.tensor([[float(len(answer))] for answer in self.answers], device=device)

    def losses(self, layers: Sequence[int], vectors: Float[Tensor, "owners branches d_model"]) -> Tensor:
        """Mean negative log-probability of the answers' tokens, "prompts branches"."""
        return -self.read(layers, vectors).sum(-1) / self.lengths(vectors.device)


def open_batches(
    model: LensModel, prompts: Sequence[tuple[int, EncodedPrompt]], *, size: int = BATCH, method: Method = "auto"
) -> list[Batch]:
    """Prompts, each with the index of its owner; answers of like length together, so that little is padding."""
    items = sorted(prompts, key=lambda item: (len(item[1].answers[0]), len(item[1].tokens)))
    parts = [items[at : at + size] for at in range(0, len(items), size)]
    return [
        Batch(
            OpenPrompts(model, [p.tokens for _, p in part], method=method),
            tuple(p.answers[0] for _, p in part),
            tuple(owner for owner, _ in part),
        )
        for part in parts
    ]
