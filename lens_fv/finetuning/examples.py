"""Training examples: instructed prompts with their answers, as token ids."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import torch

from lens_fv.core.texts import nfc
from lens_fv.errors import LensFVError
from lens_fv.finetuning.loop import padded
from lens_fv.finetuning.regularizers.guide import IGNORED
from lens_fv.finetuning.settings import FinetuneConfig
from lens_fv.tasks import Pair, Task, encode_prompt, few_shot, split_pairs
from lens_fv.tasks.encoding import Encoder

Example = dict[str, list[int]]


@dataclass
class Reader:
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

    Args:
        encoder: encoder of the model.
        task: task to draw training pairs from. Without instructions, the prompts have none.
        settings: training settings, including the number of examples and demonstrations.
        end: token id that ends an answer; None: no end token.

    Raises:
        LensFVError: too few pairs for the demonstrations, or a prompt longer than the context.
    """
    train = split_pairs(task, seed=settings.seed).train
    if len(train) <= settings.n_shots:
        raise LensFVError(f"{settings.n_shots}-shot examples of {task.name}: its training part has {len(train)} pairs")
    instructions: Sequence[str | None] = task.instructions or (None,)
    return list(islice(_drawn(encoder, task.name, train, instructions, settings, end), settings.n_examples))


def instruction_swapped_prompts(
    encoder: Encoder, task: Task, others: Sequence[Task], settings: FinetuneConfig
) -> list[list[int]]:
    """Put a task's training inputs after other tasks' instructions, without answers, for the `swap` term of `Guide`.

    Args:
        encoder: encoder of the model.
        task: task that provides the inputs.
        others: tasks that provide the instructions; `task` itself is left out.
        settings: training settings. The prompts match the training examples in number and format, but have no demonstrations.

    Raises:
        LensFVError: no instructions, or a prompt longer than the context.
    """
    instructions = [each for other in others if other.name != task.name for each in other.instructions]
    if not instructions:
        raise LensFVError(f"cross {task.name} with the instructions of {len(others)} tasks: they have none; give other tasks")
    train, rng = split_pairs(task, seed=settings.seed).train, random.Random(f"{settings.seed}/{task.name}/crossed")
    drawn = ((rng.choice(train), rng.choice(instructions)) for _ in range(settings.n_examples))
    shown = (few_shot(pair, (), template=settings.template, instruction=each) for pair, each in drawn)
    return [list(encode_prompt(encoder, prompt).tokens) for prompt in shown]


def _drawn(
    encoder: Encoder,
    name: str,
    train: Sequence[Pair],
    instructions: Sequence[str | None],
    settings: FinetuneConfig,
    end: int | None,
) -> Iterator[Example]:
    for turn in count():
        rng = random.Random(f"{settings.seed}/{name}/{turn}")
        for pair in rng.sample(train, len(train)):
            shown = rng.sample([other for other in train if nfc(other.input) != nfc(pair.input)], settings.n_shots)
            yield _example(encoder, pair, shown, rng.choice(instructions), settings, end)


def _example(
    encoder: Encoder, pair: Pair, shown: Sequence[Pair], instruction: str | None, settings: FinetuneConfig, end: int | None
) -> Example:
    encoded = encode_prompt(encoder, few_shot(pair, shown, template=settings.template, instruction=instruction))
    answer = [*encoded.answers[0], *([] if end is None else [end])]
    return {"input_ids": [*encoded.tokens, *answer], "labels": [IGNORED] * len(encoded.tokens) + answer}


def collated(examples: Sequence[Example], pad: int) -> dict[str, torch.Tensor]:
    """Collate examples into a batch; padding tokens are not targets."""
    batch = padded([each["input_ids"] for each in examples], pad)
    labels = padded([each["labels"] for each in examples], IGNORED)["input_ids"]
    return {**batch, "labels": labels}
