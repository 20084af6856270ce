"""What a guide asks of training, and when."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lens_fv.core.choices import Count, Finite, NonNegative, PartialShare, Positive, Share, checked
from lens_fv.core.divergence import Direction
from lens_fv.errors import LensFVError

Where = Literal["heads", "resid_post", "attn_out"]
Matched = Literal["vector", "all"]
Teacher = Literal["base", "before"]


@checked
@dataclass(frozen=True)
class GuideConfig:
    """Terms that are added to the loss of fine-tuning; each has a weight of its own, and a weight of 0 leaves it out.

    Jiang et al. (2024) call the first two terms together instruction-vector-guided training, Jiang et al. (2025) the last three
    function-vector-guided training. Where their papers are silent the defaults are those of their code.

    Attributes:
        intervene: how strongly the vector is added to the student at the last prompt token while it learns; negative: it is
            taken away, so that the updates need not rebuild what it does. 0: not at all.
        flat: share of the steps at whose beginning the intervention is whole, and at whose end there is none; it fades between.
        stairs: in so many equal steps.
        distill: weight of the divergence from the teacher at the last prompt token: the model without its updates, the vector
            added `steer` times.
        distill_all: weight of the same at all tokens, summed over each row.
        steer: how strongly the vector is added to the teacher; 0: plain divergence from the model without updates.
        direction: "reverse" KL(student || teacher), as in their code; "forward" KL(teacher || student), as most read the paper.
        temperature: of both distributions.
        distill_gate: a divergence that is no larger counts as 0.
        heads: weight of the squared distance of each head's output at the last prompt token from the teacher's, without the
            vector; mean over the head's numbers and the rows, sum over heads.
        matched: the vector's heads, or all there are.
        heads_gate: a head's distance that is no larger counts as 0.
        linear: pass the student's outputs through a linear map of each head's own, which is learned too and begins as the
            identity.
        crossed: weight of the divergence from the teacher, not steered, at the last token of prompts that the guide is given
            beside the batch: inputs behind other instructions (`instruction_swapped_prompts`).
        crossed_heads: weight of the squared distance of the matched heads' outputs from the teacher's there; mean over the
            head's numbers and the prompts, sum over heads.
        n_crossed: such prompts a step.
        where: "heads": each of the vector's heads gets its mean output added; "resid_post", "attn_out": the vector is added
            behind its layer, or to what the attention of its layer writes; None: where the vector says.
        teacher: the "base" model, the first one, without any updates; or the model as it was "before" the task (learning
            without forgetting). The code of Jiang et al. (2025) merges each task's updates into the weights before the next, so
            its teacher is the model before. For the first task both are the same.
        begins: share of the steps before which the guide does nothing, and costs nothing.

    Raises:
        LensFVError: a number that makes no sense.
    """

    intervene: Finite = 0.0
    flat: Share = 0.25
    stairs: Count = 10
    distill: NonNegative = 0.0
    distill_all: NonNegative = 0.0
    steer: Finite = 1.0
    direction: Direction = "reverse"
    temperature: Positive = 2.0
    distill_gate: NonNegative = 0.0
    heads: NonNegative = 0.0
    matched: Matched = "vector"
    heads_gate: NonNegative = 0.0
    linear: bool = False
    crossed: NonNegative = 0.0
    crossed_heads: NonNegative = 0.0
    n_crossed: Count = 4
    where: Where | None = None
    teacher: Teacher = "base"
    begins: PartialShare = 0.0

    def __post_init__(self) -> None:
        if self.flat > 0.5:
            raise LensFVError(f"GuideConfig(flat={self.flat}): it has to be at most 0.5, as it counts at both ends")

    @property
    def idle(self) -> bool:
        """There is nothing to do: training is what it would be without a guide."""
        return not (self.intervene or self.distill or self.distill_all or self.heads or self.crosses)

    @property
    def crosses(self) -> bool:
        """Whether a term is about crossed prompts."""
        return bool(self.crossed or self.crossed_heads)

    @property
    def takes_vector(self) -> bool:
        """Whether a term is about a vector."""
        steered = self.intervene or (self.steer and (self.distill or self.distill_all))
        return bool(steered or ((self.heads or self.crossed_heads) and self.matched == "vector"))

    def strength(self, done: float) -> float:
        """Of the intervention when so much of the training is done, from 0 to 1 (Jiang et al. 2024)."""
        if done < self.flat:
            return self.intervene
        if done >= 1 - self.flat:
            return 0.0
        # In whole stairs: in floating point the ceiling comes one stair early here and there.
        stair = math.ceil(round((done - self.flat) * self.stairs / (1 - 2 * self.flat), 9))
        return self.intervene * (1 - stair / self.stairs)


PRESETS: Mapping[str, GuideConfig] = {
    "iv": GuideConfig(intervene=-1.0, distill=1.0, where="heads"),
    "fv": GuideConfig(
        distill=1.0, distill_all=0.1, distill_gate=0.1, heads=1.0, heads_gate=0.01, where="attn_out", teacher="before"
    ),
    "kl": GuideConfig(distill=1.0, steer=0.0),
    "l2": GuideConfig(heads=1.0, matched="all"),
    "lwf": GuideConfig(distill=1.0, steer=0.0, teacher="before"),
    "crossed": GuideConfig(crossed=10.0),
    "crossed-heads": GuideConfig(crossed_heads=10.0),
    "crossed-kl": GuideConfig(distill=1.0, steer=0.0, crossed=10.0, n_crossed=2),
}
"""Guides by name: those of the two papers, as in their code (weights of "fv": its third sequence's), what they are compared
to, and our own."""
