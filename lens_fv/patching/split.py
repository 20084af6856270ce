"""Prompts split where branches start, and branches grouped by that position."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.edit import Branch, BranchLike, Edit, check_branches, placed, positions
from lens_fv.patching.rows import Placed, Row, of_prompts

Tokens = Sequence[int]


@dataclass(frozen=True, eq=False)
class SplitPrompts:
    """A batch of prompts, split at the position from which branches run.

    Attributes:
        prefixes: Token ids before that position, one list per prompt.
        suffixes: For each prompt, the token ids from that position on, one variant per answer to force.
        shared: Edits common to all branches. They lie in the prefixes, so their token offsets are negative.
    """

    prefixes: Sequence[Tokens]
    suffixes: Sequence[Sequence[Tokens]]
    shared: Placed = ()

    @property
    def prefix(self) -> int:
        """Number of tokens in the longest prefix."""
        return max(map(len, self.prefixes))

    @property
    def width(self) -> int:
        """Number of tokens in the longest suffix, and with padding in every row."""
        return max(len(suffix) for variants in self.suffixes for suffix in variants)

    def select(self, prompts: Sequence[int], variants: Sequence[int]) -> "SplitPrompts":
        """Some of the prompts with some variants of their suffixes."""
        suffixes = [[self.suffixes[p][a] for a in variants] for p in prompts]
        return SplitPrompts([self.prefixes[p] for p in prompts], suffixes, of_prompts(self.shared, prompts))

    def real(self, device: torch.device) -> Bool[Tensor, "prompts variants width"]:
        """Mask of the suffixes' tokens that are not padding."""
        sizes = torch.tensor([[len(suffix) for suffix in variants] for variants in self.suffixes], device=device)
        return torch.arange(self.width, device=device) < sizes[..., None]

    def lay_out(
        self, device: torch.device
    ) -> tuple[Int[Tensor, "prompts tokens"], Bool[Tensor, "prompts tokens"], Int[Tensor, "prompts tokens"]]:
        """Token ids, the mask of real tokens, and positions: prefixes padded on the left, then suffixes padded on the right."""
        n, width = self.prefix, self.width
        shape = len(self.prefixes), n + width * len(self.suffixes[0])
        tokens, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        seen = torch.ones(shape, dtype=torch.bool)
        for i, (prefix, variants) in enumerate(zip(self.prefixes, self.suffixes, strict=True)):
            tokens[i, n - len(prefix) : n] = torch.tensor(prefix, dtype=torch.long)
            seen[i, : n - len(prefix)] = False
            positions[i, n - len(prefix) : n] = torch.arange(len(prefix))
            # All variants get the positions of the longest, because every row is called with those of the first variant.
            # Padding repeats the last position, because a further one might lie outside the model's context.
            places = len(prefix) + torch.arange(width).clamp(max=max(0, *(len(suffix) - 1 for suffix in variants)))
            for a, suffix in enumerate(variants):
                begin = n + a * width
                tokens[i, begin : begin + len(suffix)] = torch.tensor(suffix, dtype=torch.long)
                positions[i, begin : begin + width] = places
        return tokens.to(device), seen.to(device), positions.to(device)


@dataclass(frozen=True)
class Group:
    """Branches that start at the same position and therefore share a trunk.

    Attributes:
        starts: That position in each prompt.
        answers: Distinct answers to score; for each, its tokens in each prompt.
        indices: Indices of these branches.
        rows: The branches as rows, in the same order.
        prompts: The prompts, split at that position.
    """

    starts: tuple[int, ...]
    answers: tuple[tuple[tuple[int, ...], ...], ...]
    indices: tuple[int, ...]
    rows: tuple[Row, ...]
    prompts: SplitPrompts


def group_branches(
    model: LensModel, prompts: Sequence[tuple[int, ...]], branches: Sequence[BranchLike], shared: Sequence[Edit]
) -> list[Group]:
    """Check branches and group them by starting position; see `run_branches`.

    Raises:
        LensFVError: an edit does not fit the model or the prompts, or a prompt with its answer exceeds the model's context.
    """
    lengths = [len(prompt) for prompt in prompts]
    branches = [Branch.of(branch) for branch in branches]
    check_branches(model, [*branches, Branch(tuple(shared))], len(lengths))
    answers = [branch.answers(len(lengths)) for branch in branches]
    texts = ((length, answer) for by_prompt in answers for length, answer in zip(lengths, by_prompt, strict=True))
    longest = max((length + max(len(answer) - 1, 0) for length, answer in texts), default=0)
    if longest > model.n_ctx:
        raise LensFVError(f"a prompt of {longest} tokens: {model.name} has a context of {model.n_ctx}; use fewer shots")
    starts = [branch.starts(lengths) for branch in branches]
    earliest = [min(in_prompt) for in_prompt in zip(*starts, strict=True)]
    for edit in shared:
        edited = positions(edit.position, lengths, f"shared edit at {edit.place}")
        for at, first in zip(edited, earliest, strict=False):  # without branches there are no starts
            if at >= first:
                raise LensFVError(f"shared edit at {edit.place}, position {at}: a branch starts at {first}; edit before it")
    groups: list[Group] = []
    order = sorted(range(len(branches)), key=starts.__getitem__)
    for start, members in groupby(order, starts.__getitem__):
        indices = tuple(members)
        variants = tuple(dict.fromkeys(answers[i] for i in indices))
        rows = tuple(Row(variants.index(answers[i]), placed(branches[i].edits, lengths, start)) for i in indices)
        prefixes = [prompt[:at] for prompt, at in zip(prompts, start, strict=True)]
        suffixes = [
            [(*prompt[at:], *answer[p][:-1]) for answer in variants]
            for p, (prompt, at) in enumerate(zip(prompts, start, strict=True))
        ]
        split = SplitPrompts(prefixes, suffixes, placed(shared, lengths, start))
        groups.append(Group(start, variants, indices, rows, split))
    return groups
