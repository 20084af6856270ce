"""Task probes: fixed sets of prompts for one task, to be scored at every checkpoint."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import cycle

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.heads import PatchingPrompts
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import (
    TODD,
    EncodedPrompt,
    Pair,
    Prompt,
    PromptTemplate,
    Split,
    Task,
    build_prompts,
    encode_prompts,
    few_shot,
    split_pairs,
    zero_shot,
)
from lens_fv.vectors import FunctionVector

HeadName = tuple[int, int]


@checked
@dataclass(frozen=True)
class TaskProbe:
    """Prompts that measure one task, as token ids, and the heads to read.

    Attributes:
        task: Task name.
        vector: Initial vector of the task.
        heads: The vector's heads, strongest first, followed by as many random other heads as a control.
        projections: Initial output projection of each head.
        instructed: Test items with the instruction. Head outputs are averaged over the first `n_read` of them.
        in_context: The same prompts with demonstrations, one set for each of the task's instructions.
        cloze: The same items without an instruction, as sentences that the answer completes; for tasks without clozes,
            zero-shot prompts without the instruction.
        patching_prompts: Prompts for ranking all heads again; None: heads are not ranked.
        n_read: Number of instructed prompts at which heads and the residual stream are read.
    """

    task: str
    vector: FunctionVector
    heads: tuple[HeadName, ...]
    projections: Float[Tensor, "heads d_head d_model"]
    instructed: tuple[EncodedPrompt, ...]
    in_context: tuple[EncodedPrompt, ...]
    cloze: tuple[EncodedPrompt, ...]
    patching_prompts: PatchingPrompts | None = None
    n_read: Natural = 20

    @property
    def n_heads(self) -> int:
        """Number of heads of the vector."""
        return len(self.vector.heads)

    @property
    def majority(self) -> float:
        """Share of the test items that the most frequent answer gets right."""
        return Counter(answer for p in self.instructed for answer in set(p.answers)).most_common(1)[0][1] / len(self.instructed)

    @property
    def prompts(self) -> tuple[EncodedPrompt, ...]:
        """All prompts of the probe."""
        ranked = self.patching_prompts.corrupted if self.patching_prompts else ()
        return (*self.instructed, *self.in_context, *self.cloze, *ranked)

    @property
    def fingerprint(self) -> str:
        """Hash of the prompts and the vector, as 16 hexadecimal digits."""
        prompts = [[p.tokens, p.answers] for p in self.prompts]
        settings = [self.task, self.heads, self.vector.layer, self.vector.scale, prompts]
        vector = self.vector.vector.float().cpu().numpy().tobytes()
        return sha256(json.dumps(settings).encode() + vector).hexdigest()[:16]


@checked
def make_task_probe(
    model: LensModel,
    task: Task,
    vector: FunctionVector,
    *,
    patching_prompts: PatchingPrompts | None = None,
    split: Split | None = None,
    n_shots: Natural = 0,
    n_context: Natural = 5,
    n_read: Natural = 20,
    max_items: Count = 40,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
) -> TaskProbe:
    """Build a task's probe from the initial model.

    Args:
        model: Initial model.
        task: Task with instructions.
        vector: Vector of the task, with heads; see `extract`.
        patching_prompts: Prompts for ranking all heads again, for the initial model and at the end of each task; see
            `make_instruction_prompts`.
        split: Split of the task; default: `split_pairs(task, seed=seed)`. The probe uses its test pairs.
        n_shots: Number of demonstrations in the instructed prompts.
        n_context: Number of demonstrations in the in-context prompts.
        n_read: Number of test items at which heads and the residual stream are read.
        max_items: Maximum number of test pairs.
        template: Prompt template of all prompts but the cloze sentences.
        seed: Seed of the demonstrations and of the control heads.

    Raises:
        LensFVError: a task without instructions, a vector of another model or without heads, or too few other heads for the
            control.

    Example:
        >>> task = lens_fv.load_task('antonym')
        >>> ranking = lens_fv.rank_instruction_heads(model, task, n_shots=0, n_clean=2, n_trials=2)
        >>> vector = lens_fv.extract(model, task, ranking, n_heads=2, layer=1)
        >>> probe = lens_fv.make_task_probe(model, task, vector, n_context=2, max_items=4)
        >>> probe.task
        'antonym'
    """
    vector.provenance.check(model)
    if not task.instructions:
        raise LensFVError(f"probe {task.name}: it has no instructions; give some")
    other_heads = [(a, b) for a in model.attention_layers for b in range(model.n_heads) if (a, b) not in vector.heads]
    if not vector.heads or len(other_heads) < len(vector.heads):
        raise LensFVError(
            f"probe {task.name}: its vector has {len(vector.heads)} heads, and {len(other_heads)} are left as a control"
        )
    split = split or split_pairs(task, seed=seed)
    heads = (*vector.heads, *random.Random(f"{seed}/control heads").sample(other_heads, len(vector.heads)))
    items, instructions = split.test[:max_items], task.instructions
    instructed = build_prompts(items, split.train, n_shots=n_shots, template=template, instruction=instructions, seed=seed)
    if n_context > len(split.train):
        raise LensFVError(f"{n_context} demonstrations in context: the training part has {len(split.train)} pairs")
    rng = random.Random(f"{seed}/in context")
    contexts = [(instruction, rng.sample(split.train, n_context)) for instruction in instructions]
    in_context = [
        few_shot(pair, demonstrations, template=template, instruction=instruction)
        for pair, (instruction, demonstrations) in zip(items, cycle(contexts))
    ]
    sentences = [zero_shot(pair, template=template) for pair in items]
    if task.clozes:
        sentences = [_sentence(pair, cloze) for pair, cloze in zip(items, cycle(task.clozes))]
    return TaskProbe(
        task=task.name,
        vector=vector,
        heads=heads,
        projections=head_writes(model, heads, torch.eye(model.d_head, device=model.device).expand(len(heads), -1, -1)),
        instructed=tuple(encode_prompts(model, instructed)),
        in_context=tuple(encode_prompts(model, in_context)),
        cloze=tuple(encode_prompts(model, sentences)),
        patching_prompts=patching_prompts,
        n_read=n_read,
    )


def head_writes(
    model: LensModel, heads: Sequence[HeadName], outputs: Float[Tensor, "heads *rows d_head"]
) -> Float[Tensor, "heads *rows d_model"]:
    """Write each head's outputs to the residual stream, through the model's current output projections."""
    writes: list[Tensor] = []
    for (layer, head), z in zip(heads, outputs, strict=True):
        only_head = z.new_zeros(*z.shape[:-1], model.n_heads, model.d_head)
        only_head[..., head, :] = z
        writes.append(model.head_write(layer, only_head).float().cpu())
    return torch.stack(writes)


def _sentence(pair: Pair, cloze: str) -> Prompt:
    return Prompt(cloze.replace("{input}", pair.input), tuple(f" {output}" for output in pair.outputs), (), pair)
