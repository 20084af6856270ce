"""Settings of guides: which regularisation terms are active, and when."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lens_fv.core.choices import Count, Finite, NonNegative, PartialShare, Positive, Share, checked
from lens_fv.core.divergence import Direction
from lens_fv.errors import LensFVError

GuideSite = Literal["heads", "resid_post", "attn_out"]
HeadSubset = Literal["vector", "all"]
Teacher = Literal["base", "previous"]


@checked
@dataclass(frozen=True)
class GuideConfig:
    """Regularisation terms for fine-tuning; each has its own weight, and a weight of 0 disables it.

    Instruction-vector-guided training (Jiang et al. 2024) uses `intervene` and `distill`; function-vector-guided training
    (Jiang et al. 2025) uses `distill`, `distill_all` and `heads`. Where the papers are silent, defaults follow their code.

    Attributes:
        intervene: Factor by which the vector is added to the student at the last prompt token during training. A negative
            factor subtracts the vector, so that the updates need not rebuild its effect. 0: no intervention.
        hold_fraction: Fraction of the steps at the start with the full intervention, and at the end without any; it decays in
            between.
        n_decay_steps: Number of equal steps in which the intervention decays.
        distill: Weight of the divergence from the teacher at the last prompt token. The teacher is the model without its
            updates, with `steer` times the vector added.
        distill_all: Weight of the same divergence at all tokens, summed over each row.
        steer: Factor by which the vector is added to the teacher. 0: plain divergence from the model without updates.
        direction: "reverse" is KL(student || teacher), as in their code; "forward" is KL(teacher || student), the usual reading
            of the paper.
        temperature: Softmax temperature of both distributions.
        distill_gate: Threshold up to which a divergence counts as 0.
        heads: Weight of the squared distance between each head's outputs in the student and in the unsteered teacher at the
            last prompt token, averaged over the head's dimensions and the rows, and summed over heads.
        head_subset: Heads to match: those of the "vector", or "all".
        heads_gate: Threshold up to which a head's distance counts as 0.
        learn_projection: Map each head's output in the student by a learned linear map of its own, initialised to
            the identity.
        swap: Weight of the divergence from the unsteered teacher at the last token of additional prompts: inputs after other
            tasks' instructions (`instruction_swapped_prompts`).
        swap_heads: Weight of the squared distance between the matched heads' outputs in student and teacher on these
            prompts, averaged over the head's dimensions and the prompts, and summed over heads.
        n_swap_prompts: Number of such prompts per step.
        site: Where the vector is added. "heads" adds the mean output of each of the vector's heads at that head; "resid_post"
            adds the vector after its layer; "attn_out" adds it to the attention output of its layer; None means
            "heads" for vectors with site "heads", else "resid_post".
        teacher: "base" is the initial model without any updates; "previous" is the model before the current task (learning
            without forgetting). The code of Jiang et al. (2025) merges each task's updates into the weights, so its teacher is
            the model before the task. For the first task the two are the same.
        start_fraction: Fraction of the steps before the guide starts. Until then it has no effect and no cost.

    Raises:
        LensFVError: a value out of range.
    """

    intervene: Finite = 0.0
    hold_fraction: Share = 0.25
    n_decay_steps: Count = 10
    distill: NonNegative = 0.0
    distill_all: NonNegative = 0.0
    steer: Finite = 1.0
    direction: Direction = "reverse"
    temperature: Positive = 2.0
    distill_gate: NonNegative = 0.0
    heads: NonNegative = 0.0
    head_subset: HeadSubset = "vector"
    heads_gate: NonNegative = 0.0
    learn_projection: bool = False
    swap: NonNegative = 0.0
    swap_heads: NonNegative = 0.0
    n_swap_prompts: Count = 4
    site: GuideSite | None = None
    teacher: Teacher = "base"
    start_fraction: PartialShare = 0.0

    def __post_init__(self) -> None:
        if self.hold_fraction > 0.5:
            raise LensFVError(
                f"GuideConfig(hold_fraction={self.hold_fraction}): it has to be at most 0.5, as it counts at both ends"
            )

    @property
    def idle(self) -> bool:
        """Whether all terms are disabled, so that training proceeds as without a guide."""
        return not (self.intervene or self.distill or self.distill_all or self.heads or self.uses_swap)

    @property
    def uses_swap(self) -> bool:
        """Whether a term uses instruction-swapped prompts."""
        return bool(self.swap or self.swap_heads)

    @property
    def steers(self) -> bool:
        """Whether a vector is added to the student or to the teacher."""
        return bool(self.intervene or (self.steer and (self.distill or self.distill_all)))

    @property
    def needs_vector(self) -> bool:
        """Whether a term uses a vector."""
        return bool(self.steers or ((self.heads or self.swap_heads) and self.head_subset == "vector"))

    def strength(self, fraction: float) -> float:
        """Return the intervention's factor at a share of training from 0 to 1 (Jiang et al. 2024)."""
        if fraction < self.hold_fraction:
            return self.intervene
        if fraction >= 1 - self.hold_fraction:
            return 0.0
        # Rounding first keeps floating-point error from moving the ceiling up by one step.
        step = math.ceil(round((fraction - self.hold_fraction) * self.n_decay_steps / (1 - 2 * self.hold_fraction), 9))
        return self.intervene * (1 - step / self.n_decay_steps)


PRESETS: Mapping[str, GuideConfig] = {
    "iv": GuideConfig(intervene=-1.0, distill=1.0, site="heads"),
    "fv": GuideConfig(
        distill=1.0, distill_all=0.1, distill_gate=0.1, heads=1.0, heads_gate=0.01, site="attn_out", teacher="previous"
    ),
    "kl": GuideConfig(distill=1.0, steer=0.0),
    "l2": GuideConfig(heads=1.0, head_subset="all"),
    "lwf": GuideConfig(distill=1.0, steer=0.0, teacher="previous"),
    "swap": GuideConfig(swap=10.0),
    "swap-heads": GuideConfig(swap_heads=10.0),
    "swap-kl": GuideConfig(distill=1.0, steer=0.0, swap=10.0, n_swap_prompts=2),
}
"""Guides by name: those of the two papers with the settings of their code ("fv" has the weights of its third sequence),
baselines, and our own.
"""
