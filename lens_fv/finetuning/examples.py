"""Training examples: instructed prompts with their answers, as token ids."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from lens_fv.core.choices import checked
from lens_fv.core.texts import nfc
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import padded
from lens_fv.finetuning.regularizers.hook_points import IGNORED
from lens_fv.finetuning.settings import FinetuneConfig
from lens_fv.tasks import Task, encode_prompt, few_shot, split_pairs, zero_shot
from lens_fv.tasks.encoding import Encoder

Example = dict[str, list[int]]


@dataclass
class TokenizerEncoder:
    """Encode text like `LensModel`, but with only a tokenizer and no model."""

    name: str
    tokenizer: Any
    n_ctx: int
    prepend_bos: bool

    def encode(self, text: str, *, bos: bool | None = None) -> list[int]:
        """Return the token ids of a text."""
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return [self.tokenizer.bos_token_id, *ids] if (self.prepend_bos if bos is None else bos) else ids


def training_examples(encoder: Encoder, task: Task, settings: FinetuneConfig, *, end: int | None) -> list[Example]:
    """Make `input_ids` and `labels` of a task's examples; only the answer and the end token after it are targets.

    Raises:
        LensFVError: too few pairs for the demonstrations, or a prompt longer than the context.
    """
    train = split_pairs(task, seed=settings.seed).train
    if len(train) <= settings.n_shots:
        raise LensFVError(f"{settings.n_shots}-shot examples of {task.name}: its training part has {len(train)} pairs")
    instructions: Sequence[str | None] = task.instructions or (None,)
    examples: list[Example] = []
    turns = count()
    while len(examples) < settings.n_examples:
        rng = random.Random(f"{settings.seed}/{task.name}/{next(turns)}")
        for pair in rng.sample(train, len(train))[: settings.n_examples - len(examples)]:
            others = [other for other in train if nfc(other.input) != nfc(pair.input)]
            demonstrations, instruction = rng.sample(others, settings.n_shots), rng.choice(instructions)
            prompt = few_shot(pair, demonstrations, template=settings.template, instruction=instruction)
            encoded = encode_prompt(encoder, prompt)
            answer = [*encoded.answers[0], *([] if end is None else [end])]
            labels = [IGNORED] * len(encoded.tokens) + answer
            examples.append({"input_ids": [*encoded.tokens, *answer], "labels": labels})
    return examples


@checked
def instruction_swapped_prompts(
    encoder: Encoder, task: Task, others: Sequence[Task], settings: FinetuneConfig
) -> list[list[int]]:
    """Put a task's training inputs after other tasks' instructions, without answers, for the `swap` term of `Guide`.

    Args:
        encoder: Encoder of the model.
        task: Task that provides the inputs.
        others: Tasks that provide the instructions; `task` itself is left out.
        settings: Training settings. The prompts match the training examples in number and format, but have no demonstrations.

    Raises:
        LensFVError: no instructions, or a prompt longer than the context.

    Example:
        >>> other, config = lens_fv.load_task('antonym'), lens_fv.FinetuneConfig(n_examples=4)
        >>> prompts = lens_fv.finetuning.instruction_swapped_prompts(model, task, [other], config)
        >>> len(prompts)
        4
    """
    instructions = [instruction for other in others if other.name != task.name for instruction in other.instructions]
    if not instructions:
        raise LensFVError(f"put {task.name} after the instructions of {len(others)} tasks: they have none; give other tasks")
    train, rng = split_pairs(task, seed=settings.seed).train, random.Random(f"{settings.seed}/{task.name}/crossed")
    prompts: list[list[int]] = []
    for _ in range(settings.n_examples):
        pair, instruction = rng.choice(train), rng.choice(instructions)
        prompt = zero_shot(pair, template=settings.template, instruction=instruction)
        prompts.append(list(encode_prompt(encoder, prompt).tokens))
    return prompts


def collated(examples: Sequence[Example], pad: int) -> dict[str, torch.Tensor]:
    """Collate examples into a batch; padding tokens are not targets."""
    batch = padded([example["input_ids"] for example in examples], pad)
    labels = padded([example["labels"] for example in examples], IGNORED)["input_ids"]
    return {**batch, "labels": labels}
