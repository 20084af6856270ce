"""The prompts that something is fitted on, and those on which its layer, learning rate and step are chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lens_fv.core.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import score_answers
from lens_fv.tasks import TODD, EncodedPrompt, PromptTemplate, Split, Task, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors.function_vector import FunctionVector
from lens_fv.vectors.options import FitConfig

MAX_VALIDATION = 40
"""Maximum number of validation pairs for a choice; more cost time and rarely change it."""


@dataclass(frozen=True)
class FittingExamples:
    """What something is fitted on: zero-shot prompts of a task's pairs, and the options.

    Attributes:
        task: Task of the pairs.
        train: Prompts to fit on.
        validation: Prompts to choose by.
        config: How it is fitted.
        context: What is fitted, such as "antonym: head weights", for the progress bar and errors.
    """

    task: Task
    train: list[EncodedPrompt]
    validation: list[EncodedPrompt]
    config: FitConfig
    context: str

    @classmethod
    def of(cls, model: LensModel, task: Task, config: FitConfig, *, what: str) -> "FittingExamples":
        """Encode the prompts of the task's split; `what` is fitted on them.

        Raises:
            LensFVError: the training split has too few pairs.
        """
        split, n_pairs, template = split_of(task, config), config.n_pairs, config.template
        if n_pairs > len(split.train):
            raise LensFVError(f"fit the {what} on {n_pairs} pairs of {task.name}: its training split has {len(split.train)}")
        train = encode_prompts(model, [zero_shot(pair, template=template) for pair in split.train[:n_pairs]])
        return cls(task, train, validation_prompts(model, split, template), config, f"{task.name}: {what}")

    def provenance(self, model: LensModel, method: str, options: Mapping[str, Any]) -> Provenance:
        """Provenance of what was fitted on these prompts; the numbers of pairs and steps are added to the options."""
        return Provenance.of(
            model,
            task=self.task.name,
            task_hash=self.task.fingerprint,
            prompts=[prompt.tokens for prompt in (*self.train, *self.validation)],
            seed=self.config.seed,
            method=method,
            options={"n_pairs": self.config.n_pairs, "steps": self.config.steps, **options},
        )


def split_of(task: Task, config: FitConfig) -> Split:
    """The task's split in the config; default: `split_pairs(task, seed=config.seed)`."""
    split = config.split.get(task.name) if isinstance(config.split, Mapping) else config.split
    return split or split_pairs(task, seed=config.seed)


def validation_prompts(model: LensModel, split: Split, template: PromptTemplate = TODD) -> list[EncodedPrompt]:
    """Zero-shot prompts of at most 40 validation pairs, with primary answers only."""
    pairs = split.validation[:MAX_VALIDATION]
    encoded = encode_prompts(model, [zero_shot(pair, template=template) for pair in pairs])
    return [EncodedPrompt(prompt.tokens, prompt.answers[:1]) for prompt in encoded]


@torch.no_grad()
def likeliest(
    model: LensModel,
    candidates: Sequence[FunctionVector],
    split: Split,
    template: PromptTemplate,
    *,
    context: str = "choosing",
    progress: bool = False,
) -> FunctionVector:
    """The vector that makes validation answers likeliest; all candidates run as branches of the same zero-shot prompts."""
    prompts = validation_prompts(model, split, template)
    scores = score_answers(model, prompts, [c.edits() for c in candidates], what=context, progress=progress)
    means = scores.logprob.mean(0)
    best = candidates[int(means.argmax())]
    options = {**best.provenance.options, "candidates": len(candidates), "validation_logprob": float(means.max())}
    return replace(best, provenance=replace(best.provenance, options=options))
