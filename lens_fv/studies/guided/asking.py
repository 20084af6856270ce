"""The same questions to every model: which tasks does it still do, behind an instruction and with demonstrations?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from lens_fv.model.lens_model import LensModel
from lens_fv.patching import score_alike, score_answers
from lens_fv.tasks import EncodedPrompt, Task, build_prompts, encode_prompts, few_shot, split_pairs

Right = dict[str, list[float]]
"""By task, for each item, 1 where greedy decoding writes an acceptable answer."""


class Questions:
    """Prompts of many tasks.

    Args:
        model: whose tokens they are.
        tasks: with instructions.
        part: of each task's split.
        max_items: of each task.
        n_context: demonstrations of the in-context twins, one set of them for each instruction.
        seed: of splits and demonstrations.
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
        """What is right behind instructions."""
        return _by_task(self._instructed, tasks, lambda prompts: score_answers(model, prompts, [[]]).full)

    @torch.no_grad()
    def in_context(self, model: LensModel, tasks: Sequence[str]) -> Right:
        """What is right behind an instruction and demonstrations."""
        return _by_task(self._in_context, tasks, lambda prompts: score_alike(model, prompts).full)


def _by_task(
    prompts: Mapping[str, list[EncodedPrompt]], tasks: Sequence[str], score: Callable[[list[EncodedPrompt]], Tensor]
) -> Right:
    return {name: score(prompts[name])[:, 0].float().tolist() for name in tasks}
