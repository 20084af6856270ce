"""What is claimed of tuned and composite vectors: differences that should be above 0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lens_fv.core.statistics import Estimate
from lens_fv.studies.tables import Contrast, select

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SeedwiseContrast(Contrast):
    """A difference that was tested within each seed: the mean over seeds, with an interval that spans those of all seeds."""

    def estimate(self, rows: "pd.DataFrame") -> Estimate | None:
        """The mean difference; n is the number of relations."""
        selected: Any = select(rows, {"part": self.part, "condition": f"{self.of} - {self.minus}", **self.where})
        means, lows, highs = (selected[selected["measure"] == f"{self.measure}{end}"] for end in ("", "_ci_low", "_ci_high"))
        if means.empty:
            return None
        ends = float(lows["value"].min()), float(highs["value"].max())
        return Estimate(float(means["value"].mean()), *ends, int(means["n"].iloc[0]))


def decoding(measure: str, logits: str, ranked: str, claim: str = "") -> SeedwiseContrast:
    """Tuned minus extracted vectors, by the ranks of words or answers."""
    return SeedwiseContrast("tuned", "extracted", measure, "decoding", claim, {"job": logits, "unit": ranked})


_completion = partial(Contrast, measure="top1_accuracy", part="completion")
_ranks = partial(decoding, "best_reciprocal_rank")
_typicality = partial(Contrast, measure="spearman", part="alignment")
_analogies = partial(Contrast, part="analogies", where={"kind": "relations"})
_POINTS, _NATS = "top1_accuracy", "logprob_per_token_nats"
CLAIMS: Mapping[str, Sequence[Contrast]] = {
    "Do tuned vectors complete relations better?": (
        _completion("tuned", "extracted", claim="tuned - extracted, first token (points)"),
        _completion("tuned", "k_shot", claim="tuned - few-shot prompt, first token (points)"),
    ),
    "Do tuned vectors decode better into words and answers?": (
        _ranks("direct", "answers", "tuned - extracted, 1 / rank of the best answer"),
        _ranks("later layers", "answers", "the same, read through the later layers"),
        _ranks("direct", "words", "tuned - extracted, 1 / rank of the best word for the relation"),
        _ranks("later layers", "words", "the same, read through the later layers"),
    ),
    "Do tuned vectors agree better with people on typicality?": (
        _typicality("tuned", "extracted", claim="tuned - extracted, by log-probability"),
        _typicality("tuned gain", "extracted gain", claim="the same, by the gain in log-probability"),
        _typicality("tuned direction", "extracted direction", claim="the same, by the direction of the pair"),
        _typicality("tuned", "shuffled", claim="tuned - tuned on wrong answers, by log-probability"),
    ),
    "Do composites solve analogies of new relations?": (
        _analogies("temperature", "one_shot", _POINTS, claim="composite - one-shot prompt, first token (points)"),
        _analogies("temperature", "one_shot", _NATS, claim="the same, nats per token"),
        _analogies("one_shot_temperature", "one_shot", _NATS, claim="prompt and composite - prompt, nats per token"),
        _analogies("temperature", "best", _NATS, claim="composite - the one best vector, nats per token"),
        _analogies("full", "temperature", _NATS, claim="full matrix - one temperature, nats per token"),
    ),
}
"""Contrasts by the question that they answer. The composite has a fitted temperature; its relations are new to the map."""
