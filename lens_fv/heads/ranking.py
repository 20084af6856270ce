"""The result of a head ranking: every head's indirect effect per trial."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import require_shape
from lens_fv.core.choices import checked
from lens_fv.heads.competence import queries_summary
from lens_fv.heads.effects import Effects, Metric


@checked
@dataclass(frozen=True, repr=False, eq=False)
class HeadRanking(Effects):
    """Indirect effect of every head on a task, per trial.

    Attributes:
        effects: Metric with the head patched minus the unpatched metric, per corrupted prompt.
        baseline: Unpatched metric of the corrupted prompts.
        z, post_attn_gain, resid_norm: `HeadMeans` over the clean prompts, from which `extract` builds a vector.
        metric: Measure of the answer's first token; see `rank_heads`.
    """

    baseline: Float[Tensor, " trials"]
    z: Float[Tensor, "layers heads d_head"]
    post_attn_gain: Float[Tensor, "layers d_model"]
    resid_norm: Float[Tensor, " layers"]
    metric: Metric

    def __post_init__(self) -> None:
        """Check shapes against the provenance."""
        super().__post_init__()
        layers, heads, d_model, d_head = self.provenance.shape
        require_shape("head ranking's baseline", self.baseline, (len(self.effects),))
        require_shape("head ranking's mean outputs", self.z, (layers, heads, d_head))
        require_shape("head ranking's post_attn_gain", self.post_attn_gain, (layers, d_model))

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        facts = {"trials": str(len(self.effects)), f"baseline {self.metric}": f"{float(self.baseline.mean()):.3f}"}
        return super().summary() | facts | queries_summary(self.provenance)
