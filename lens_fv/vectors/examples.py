"""The prompts that something is fitted on, and those on which its layer, learning rate and step are chosen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lens_fv.core.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, EncodedPrompt, PromptTemplate, Split, Task, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors.options import FitConfig

MAX_VALIDATION = 40
"""Maximum number of validation pairs for a choice; more cost time and rarely change it."""


@dataclass(frozen=True)
class FittingExamples:
    """Zero-shot prompts of a task's pairs.

    Attributes:
        task: Task of the pairs.
        train: Prompts to fit on.
        validation: Prompts to choose by.
        seed: Seed of the split.
    """

    task: Task
    train: list[EncodedPrompt]
    validation: list[EncodedPrompt]
    seed: int

    @classmethod
    def of(
        cls, model: LensModel, task: Task, split: Split | None, config: FitConfig, template: PromptTemplate, *, what: str
    ) -> "FittingExamples":
        """Encode the prompts of a split.

        Args:
            model: Model that reads the prompts.
            task: Task to fit.
            split: Split of its pairs; default: `split_pairs(task, seed=config.seed)`.
            config: Number of training pairs, and seed.
            template: Prompt template.
            what: What is fitted, for the error.

        Raises:
            LensFVError: the training split has too few pairs.
        """
        split, pairs = split or split_pairs(task, seed=config.seed), config.n_pairs
        if pairs > len(split.train):
            raise LensFVError(f"fit {what} on {pairs} pairs of {task.name}: its training split has {len(split.train)}")
        train = encode_prompts(model, [zero_shot(pair, template=template) for pair in split.train[:pairs]])
        return cls(task, train, validation_prompts(model, split, template), config.seed)

    def provenance(self, model: LensModel, method: str, options: Mapping[str, Any]) -> Provenance:
        """Provenance of what was fitted on these prompts."""
        return Provenance.of(
            model,
            task=self.task.name,
            task_hash=self.task.fingerprint,
            prompts=[prompt.tokens for prompt in (*self.train, *self.validation)],
            seed=self.seed,
            method=method,
            options=options,
        )


def validation_prompts(model: LensModel, split: Split, template: PromptTemplate = TODD) -> list[EncodedPrompt]:
    """Zero-shot prompts of at most 40 validation pairs, with primary answers only."""
    pairs = split.validation[:MAX_VALIDATION]
    encoded = encode_prompts(model, [zero_shot(pair, template=template) for pair in pairs])
    return [EncodedPrompt(prompt.tokens, prompt.answers[:1]) for prompt in encoded]
