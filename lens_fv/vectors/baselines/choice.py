"""Choice among vectors by validation log-probability."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from lens_fv.model.lens_model import LensModel
from lens_fv.patching import score_answers
from lens_fv.tasks import PromptTemplate, Split
from lens_fv.vectors import FunctionVector
from lens_fv.vectors.examples import validation_prompts


@torch.no_grad()
def likeliest(
    model: LensModel,
    candidates: Sequence[FunctionVector],
    split: Split,
    template: PromptTemplate,
    *,
    what: str = "choosing",
    progress: bool = False,
) -> FunctionVector:
    """The vector that makes validation answers likeliest; all candidates run as branches of the same zero-shot prompts."""
    prompts = validation_prompts(model, split, template)
    scores = score_answers(model, prompts, [c.edits() for c in candidates], what=what, progress=progress)
    means = scores.logprob.mean(0)
    best = candidates[int(means.argmax())]
    options = {**best.provenance.options, "candidates": len(candidates), "validation_logprob": float(means.max())}
    return replace(best, provenance=replace(best.provenance, options=options))
