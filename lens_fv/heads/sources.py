"""Sources of the head outputs that are patched in."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.heads.means import HeadMeans

Source = Literal["mean", "zero", "resample"] | HeadMeans
"""The clean mean (Todd et al. 2024), zero, the head's output on one other clean prompt, or `HeadMeans` of other prompts."""


def source_outputs(
    source: Source,
    means: HeadMeans,
    each: Float[Tensor, "clean layers heads d_head"],
    partners: Sequence[int],
) -> Float[Tensor, "trials layers heads d_head"]:
    """Head outputs to patch in, per trial.

    Args:
        source: See `Source`.
        means: Means over the clean prompts.
        each: Head outputs of each clean prompt.
        partners: Index of the clean prompt that each trial resamples from.

    Raises:
        LensFVError: the given head outputs come from a model of another shape.
    """
    if source == "resample":
        return each[list(partners)]
    z = means.z if source == "mean" else torch.zeros_like(means.z) if source == "zero" else source.z.to(means.z)
    if z.shape != means.z.shape:
        raise LensFVError(f"patch with head outputs of shape {tuple(z.shape)}: this model's are {tuple(means.z.shape)}")
    return z.expand(len(partners), *z.shape)


def source_name(source: Source) -> str:
    """The source as recorded in provenance; given head outputs are identified by a digest."""
    if isinstance(source, str):
        return source
    return f"given {sha256(source.z.float().cpu().numpy().tobytes()).hexdigest()[:16]}"
