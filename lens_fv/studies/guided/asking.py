"""Evaluate models on the same prompts: which tasks they perform after an instruction, without and with demonstrations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from lens_fv.model.lens_model import LensModel
from lens_fv.patching import score_alike, score_answers
from lens_fv.tasks import EncodedPrompt, Task, build_prompts, encode_prompts, few_shot, split_pairs

Right = dict[str, list[float]]
"""Scores by task: for each item, 1 if greedy decoding produces an acceptable answer, else 0."""


class Questions:
    """Evaluation prompts for several tasks.

    Args:
        model: model that provides the tokenizer.
        tasks: tasks with instructions.
        part: part of each task's split to use.
        max_items: maximum number of items per task.
        n_context: number of demonstrations in the in-context prompts, which use one set per instruction.
        seed: seed of the splits and the demonstrations.
    """

    def __init__(
        self,
        model: LensModel,
        tasks: Sequence[Task],
        *,
        part: Literal["validation", "test"],
        max_items: int,
        n_context: int,
        seed: int,
    ) -> None:
        self._instructed: dict[str, list[EncodedPrompt]] = {}
        self._in_context: dict[str, list[EncodedPrompt]] = {}
        for task in tasks:
            split, asked = split_pairs(task, seed=seed), task.instructions
            items = (split.validation if part == "validation" else split.test)[:max_items]
            own = build_prompts(items, split.train, n_shots=0, instruction=asked, seed=seed)
            sets = build_prompts(items[: len(asked)], split.train, n_shots=n_context, seed=seed)
            shown = [prompt.demonstrations for prompt in sets]
            context = [few_shot(pair, shown[i % len(shown)], instruction=asked[i % len(asked)]) for i, pair in enumerate(items)]
            self._instructed[task.name] = encode_prompts(model, own)
            self._in_context[task.name] = encode_prompts(model, context)

    @torch.no_grad()
    def instructed(self, model: LensModel, tasks: Sequence[str]) -> Right:
        """Score the prompts with an instruction."""
        return _by_task(self._instructed, tasks, lambda prompts: score_answers(model, prompts, [[]]).exact_match)

    @torch.no_grad()
    def in_context(self, model: LensModel, tasks: Sequence[str]) -> Right:
        """Score the prompts with an instruction and demonstrations."""
        return _by_task(self._in_context, tasks, lambda prompts: score_alike(model, prompts).exact_match)


def _by_task(
    prompts: Mapping[str, list[EncodedPrompt]], tasks: Sequence[str], score: Callable[[list[EncodedPrompt]], Tensor]
) -> Right:
    return {name: score(prompts[name])[:, 0].float().tolist() for name in tasks}
