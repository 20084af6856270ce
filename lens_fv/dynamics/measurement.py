"""Measure a model's abilities and internal states at one checkpoint of a fine-tuning run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Artefact, Provenance
from lens_fv.core.choices import Natural, Seed, checked
from lens_fv.core.tables import data_frame
from lens_fv.dynamics.probe import TaskProbe
from lens_fv.errors import LensFVError
from lens_fv.heads import MediationConfig, PatchingPrompts
from lens_fv.heads.means import last_tokens
from lens_fv.heads.protocol import indirect_effects
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import Edit, score_alike, score_each_answer
from lens_fv.patching.readout import token_ranks
from lens_fv.tasks import EncodedPrompt
from lens_fv.vectors import random_like

if TYPE_CHECKING:
    import pandas as pd


STEERING_VECTORS = ("vector", "random", "other")
"""Vectors added to instructed prompts: the task's initial vector, a random one, and another task's; all of the same norm."""


@dataclass(frozen=True, repr=False, eq=False)
class CheckpointMeasurement(Artefact):
    """Results of all probes at one checkpoint. NaN pads tasks with fewer items than others.

    Attributes:
        name: Checkpoint name, or "0" for the initial model.
        step: Number of steps since the start of the run.
        tasks: Task name of each probe.
        correct: Whether greedy decoding produces an acceptable answer after the instruction.
        instructed: Log-probability of the answer after the instruction, in nats per token.
        in_context: As `correct`, with demonstrations; NaN if not measured.
        knowledge: Log-probability of the answer in the cloze, in nats per token.
        steered: As `correct`, with a vector added; see `STEERING_VECTORS`.
        alignment: Cosine between the initial vector and the residual stream at the vector's layer; NaN pads as above.
        head_writes: Mean output of each of the probe's heads at the end of the instructed prompts, through the initial output
            projections.
        head_writes_now: The same through the checkpoint's output projections.
        answer_rank: Rank of the answer's first token (0 is the most likely) read off the residual stream after each layer;
            median over items.
        effects: Mean indirect effect of every head on the probe's contrast at this checkpoint; NaN if heads were not ranked.
        majority: Accuracy of always giving the most frequent answer; None in older files.
    """

    name: str
    step: int
    tasks: tuple[str, ...]
    correct: Float[Tensor, "tasks items"]
    instructed: Float[Tensor, "tasks items"]
    in_context: Float[Tensor, "tasks items"]
    knowledge: Float[Tensor, "tasks items"]
    steered: Float[Tensor, "tasks 3 items"]
    alignment: Float[Tensor, "tasks read_items"]
    head_writes: Float[Tensor, "tasks heads d_model"]
    head_writes_now: Float[Tensor, "tasks heads d_model"]
    answer_rank: Float[Tensor, "tasks layers"]
    effects: Float[Tensor, "tasks layers heads_of_a_layer"]
    majority: Float[Tensor, " tasks"] | None = None

    def to_dataframe(self) -> "pd.DataFrame":
        """One row per task and item: accuracy after the instruction and in context, and log-probabilities of the answer."""
        return data_frame(
            {
                "checkpoint": self.name,
                "step": self.step,
                "task": task,
                "item": item,
                "accuracy": float(self.correct[t, item]),
                "in_context_accuracy": float(self.in_context[t, item]),
                "instruction_logprob_nats_per_token": float(self.instructed[t, item]),
                "knowledge_logprob_nats_per_token": float(self.knowledge[t, item]),
            }
            for t, task in enumerate(self.tasks)
            for item in range(self.correct.shape[1])
            if not bool(self.correct[t, item].isnan())
        )

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        rows = zip(self.tasks, self.correct.nanmean(-1).tolist(), strict=True)
        return super().summary() | {"checkpoint": self.name} | {task: f"accuracy {share:.2f}" for task, share in rows}


@checked
@torch.no_grad()
def measure_checkpoint(
    model: LensModel,
    probes: Sequence[TaskProbe],
    *,
    name: str = "0",
    step: Natural = 0,
    all_measures: bool = True,
    seed: Seed = 0,
    tick: Callable[[], None] = lambda: None,
) -> CheckpointMeasurement:
    """Run all probes on the model in its current state.

    Args:
        model: Model at any checkpoint.
        probes: At least one probe, all with the same number of heads.
        name: Checkpoint name.
        step: Number of steps since the start of the run.
        all_measures: Whether to measure in-context accuracy and to rank all heads of probes with a contrast.
        seed: Seed of the random vectors.
        tick: Callback after each probe.

    Raises:
        LensFVError: no probes, or probes with different numbers of heads.
    """
    if len({probe.n_heads for probe in probes}) != 1:
        raise LensFVError(f"measure {model.name} with {len(probes)} probes: give at least one, all with as many heads")
    measures: list[dict[str, Tensor]] = []
    for i, probe in enumerate(probes):
        measures.append(_measure(model, probe, probes[(i + 1) % len(probes)], seed, all_measures=all_measures))
        tick()
    provenance = Provenance.of(
        model,
        task=", ".join(probe.task for probe in probes),
        task_hash="",
        prompts=[p.tokens for probe in probes for p in probe.prompts],
        seed=seed,
        method="checkpoint",
        options={"probes": [probe.fingerprint for probe in probes]},
    )
    values = {key: _padded([row[key] for row in measures]) for key in measures[0]}
    values["majority"] = torch.tensor([probe.majority for probe in probes])
    return CheckpointMeasurement(
        provenance=provenance, name=name, step=step, tasks=tuple(probe.task for probe in probes), **values
    )


def _measure(model: LensModel, probe: TaskProbe, other: TaskProbe, seed: int, *, all_measures: bool) -> dict[str, Tensor]:
    vector = probe.vector
    norm, other_norm = float(vector.vector.norm()), float(other.vector.vector.norm())
    rescaled = other.vector.at(layer=vector.layer, scale=norm * vector.scale / max(other_norm, 1e-30))
    branches = [[], vector.edits(), random_like(vector, seed=seed).edits(), rescaled.edits()]
    correct, instructed = _score(model, probe.instructed, branches)
    _, knowledge = _score(model, probe.cloze, [[]])
    in_context = torch.full_like(correct[:, :1], torch.nan)
    if all_measures:
        in_context = score_alike(model, probe.in_context).exact_match.float()
    prompts = probe.instructed[: probe.n_read]
    z, _, states = last_tokens(model, [p.tokens for p in prompts])
    direction = (vector.vector * vector.scale).to(states)
    initial_writes, writes = _head_writes(model, probe, z.mean(0))
    return {
        "correct": correct[:, 0],
        "instructed": instructed[:, 0],
        "in_context": in_context[:, 0],
        "knowledge": knowledge[:, 0],
        "steered": correct[:, 1:].T,
        "alignment": torch.cosine_similarity(states[:, vector.layer], direction, dim=-1).cpu(),
        "head_writes": initial_writes,
        "head_writes_now": writes,
        "answer_rank": _answer_ranks(model, states, prompts),
        "effects": _effects(model, probe.patching_prompts if all_measures else None, z.mean(0)),
    }


def _score(
    model: LensModel, prompts: Sequence[EncodedPrompt], branches: Sequence[Sequence[Edit]]
) -> tuple[Float[Tensor, "items branches"], Float[Tensor, "items branches"]]:
    """Return whether an acceptable answer is decoded in full, and the primary answer's log-probability per token."""
    correct = torch.zeros(len(prompts), len(branches))
    primary = torch.empty(len(prompts), len(branches))
    for p, a, ranks, logprobs in score_each_answer(model, prompts, branches):
        correct[p] = correct[p].maximum((ranks == 0).all(1).float())
        if a == 0:
            primary[p] = logprobs.mean(1)
    return correct, primary


def _effects(
    model: LensModel, patching_prompts: PatchingPrompts | None, z: Float[Tensor, "layers heads_of_a_layer d_head"]
) -> Float[Tensor, "layers heads_of_a_layer"]:
    """Return the effect on the answer's probability of patching each head's mean output into the corrupted prompts."""
    if patching_prompts is None:
        return torch.full(z.shape[:2], torch.nan)
    outputs = z.expand(len(patching_prompts.corrupted), *z.shape)
    effects, _ = indirect_effects(model, patching_prompts, outputs, MediationConfig())
    return effects.mean(0).cpu()


def _head_writes(
    model: LensModel, probe: TaskProbe, z: Float[Tensor, "layers heads_of_a_layer d_head"]
) -> tuple[Float[Tensor, "heads d_model"], Float[Tensor, "heads d_model"]]:
    """Return the mean output of each of the probe's heads, through the initial and the current output projections."""
    writes: list[Tensor] = []
    for layer, head in probe.heads:
        only_head = torch.zeros_like(z[layer])
        only_head[head] = z[layer, head]
        writes.append(model.head_write(layer, only_head).float().cpu())
    outputs = torch.stack([z[layer, head] for layer, head in probe.heads]).float().cpu()
    return einsum(outputs, probe.projections, "heads d_head, heads d_head d_model -> heads d_model"), torch.stack(writes)


def _answer_ranks(
    model: LensModel, states: Float[Tensor, "items layers d_model"], prompts: Sequence[EncodedPrompt]
) -> Float[Tensor, " layers"]:
    """Return the median rank of the answers' first tokens after each layer (nostalgebraist 2020, "logit lens")."""
    first = torch.tensor([p.answers[0][0] for p in prompts], device=states.device)
    ranks: list[Tensor] = []
    for layer in range(states.shape[1]):
        logits = model.unembed(states[:, layer].to(model.dtype)).float()
        ranks.append(token_ranks(logits, first).float().median())
    return torch.stack(ranks).cpu()


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Stack rows of different lengths, padded with NaN."""
    longest = max(row.shape[-1] for row in rows)
    return torch.stack([torch.nn.functional.pad(row, (0, longest - row.shape[-1]), value=torch.nan) for row in rows])
