"""Clean prompts and their corrupted versions, which withhold information about the task."""

import random
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.patching.edit import Edit
from lens_fv.tasks import EncodedPrompt, Pair, Prompt, PromptTemplate, Split, build_prompts, encode_prompts
from lens_fv.tasks.prompts import Shuffle
from lens_fv.tasks.token_classes import token_classes

Corruption = Literal["permutation", "derangement", "zero_shot", "instruction", "noise"]


class PatchingPrompts(NamedTuple):
    """The prompts of a head ranking.

    Attributes:
        clean: Prompts from which head outputs are taken.
        corrupted: Prompts into which they are patched.
        queries: Query pair of each corrupted prompt.
        partners: For each corrupted prompt, the index of a random clean one, with another query if possible.
        edits: Further edits of each corrupted prompt: the noise, if that is the corruption.
    """

    clean: list[EncodedPrompt]
    corrupted: list[EncodedPrompt]
    queries: list[Pair]
    partners: list[int]
    edits: list[list[Edit]]


def contrast(
    model: LensModel,
    split: Split,
    corruption: Corruption,
    *,
    n_shots: int,
    n_clean: int,
    n_trials: int,
    template: PromptTemplate,
    instruction: str | None = None,
    other_instruction: str | None = None,
    noise: float = 3.0,
    seed: int = 0,
) -> PatchingPrompts:
    """Build clean and corrupted prompts, with queries from the validation split and demonstrations from the training split.

    Args:
        model: Model that reads the prompts.
        split: Split of the task's pairs.
        corruption: "permutation" or "derangement" of the demonstrations' labels (see `few_shot`); "zero_shot": without the
            demonstrations; "instruction": with another instruction or none; "noise": Gaussian noise added to the embeddings of
            the demonstrations' tokens at the input of the first block (Meng et al. 2022 do so for the subject's tokens).
        n_shots: Number of demonstrations per prompt.
        n_clean: Number of clean prompts.
        n_trials: Number of corrupted prompts.
        template: Prompt template.
        instruction: Text before the clean prompts, and before the corrupted ones unless the corruption is "instruction".
        other_instruction: Text before the corrupted prompts for the corruption "instruction"; None: no text.
        noise: Standard deviation of the noise, in units of the standard deviation of those embeddings (over all entries).
        seed: Seed of all random draws; the corrupted prompts use `seed` + 1.

    Raises:
        LensFVError: the corruption would change nothing, or the prompts cannot be built.
    """
    if n_trials < 1 or n_clean < 1:
        raise LensFVError(f"rank heads on {n_clean} clean prompts and {n_trials} trials: each must be at least 1")
    if corruption == "instruction":
        if not instruction or instruction == other_instruction:
            raise LensFVError(
                f"corrupt the instruction {instruction!r} to {other_instruction!r}: give an instruction, and another or none"
            )
    elif other_instruction is not None:
        raise LensFVError(f'another instruction with the corruption {corruption!r}: use corruption="instruction"')
    shuffle: Shuffle = corruption if corruption == "permutation" or corruption == "derangement" else "none"
    least = 0 if corruption == "instruction" else 1 if shuffle == "none" else 2
    if n_shots < least:
        raise LensFVError(f"corruption {corruption!r} of {n_shots}-shot prompts changes nothing: use {least} shots or more")

    def prompts(n: int, *, corrupt: bool) -> list[Prompt]:
        return build_prompts(
            split.validation,
            split.train,
            n_shots=0 if corrupt and corruption == "zero_shot" else n_shots,
            n_prompts=n,
            template=template,
            shuffle=shuffle if corrupt else "none",
            instruction=other_instruction if corrupt and corruption == "instruction" else instruction,
            seed=seed + corrupt,
        )

    clean, corrupted = prompts(n_clean, corrupt=False), prompts(n_trials, corrupt=True)
    encoded = encode_prompts(model, corrupted)
    edits: list[list[Edit]] = [[] for _ in corrupted]
    if corruption == "noise":
        classes = [token_classes(model, prompt, template=template).classes for prompt in corrupted]
        shown = [[i for i, c in enumerate(found) if c is not None and not c.startswith("query")] for found in classes]
        edits = noise_on(model, encoded, shown, noise, seed)
    return PatchingPrompts(
        clean=encode_prompts(model, clean),
        corrupted=encoded,
        queries=[p.query for p in corrupted],
        partners=draw_partners(clean, corrupted, seed),
        edits=edits,
    )


def draw_partners(clean: Sequence[Prompt], corrupted: Sequence[Prompt], seed: int) -> list[int]:
    """Draw a random clean prompt for each corrupted one, with another query if possible."""
    rng = random.Random(f"{seed}/partners")
    others = [[i for i, c in enumerate(clean) if c.query != t.query] or range(len(clean)) for t in corrupted]
    return [rng.choice(o) for o in others]


def noise_on(
    model: LensModel, prompts: list[EncodedPrompt], shown: list[list[int]], multiple: float, seed: int
) -> list[list[Edit]]:
    """Edits that add Gaussian noise to the embeddings of selected tokens of each prompt.

    Args:
        model: Model that reads the prompts.
        prompts: Prompts to edit.
        shown: For each prompt, the indices of the selected tokens.
        multiple: Standard deviation of the noise, in units of the standard deviation of these embeddings (over all entries).
        seed: Seed of the noise.
    """
    embedded: list[Tensor] = []

    def keep(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        embedded.append(x[0].float())
        return x

    for prompt in prompts:
        model.run_body(torch.tensor([prompt.tokens]), [("blocks.0.hook_resid_pre", keep)])
    size = multiple * float(torch.cat([x[at] for x, at in zip(embedded, shown, strict=True)]).std())
    rng = torch.Generator().manual_seed(seed)
    return [
        [Edit(0, size * torch.randn(model.d_model, generator=rng), site="resid_pre", mode="add", position=i) for i in at]
        for at in shown
    ]
