"""Measure a model's abilities and internal states at the checkpoints of a fine-tuning run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Natural, Seed, checked
from lens_fv.core.files import file_name
from lens_fv.core.progress import progress_bar
from lens_fv.dynamics.measurement import CheckpointMeasurement
from lens_fv.dynamics.probe import TaskProbe, head_writes
from lens_fv.dynamics.trajectory import Trajectory
from lens_fv.errors import LensFVError
from lens_fv.finetuning.checkpoints import switch_to_checkpoint
from lens_fv.finetuning.run import Checkpoint, FinetuneRun
from lens_fv.heads import MediationConfig, PatchingPrompts
from lens_fv.heads.means import last_tokens
from lens_fv.heads.protocol import indirect_effects
from lens_fv.model.lens_model import LensModel
from lens_fv.patching import Edit, score_alike, score_each_answer
from lens_fv.patching.readout import token_ranks
from lens_fv.tasks import EncodedPrompt
from lens_fv.vectors import random_like


@checked
def track_checkpoints(
    model: LensModel,
    run: FinetuneRun,
    probes: Sequence[TaskProbe],
    *,
    checkpoints: Sequence[Checkpoint] | None = None,
    folder: str | Path | None = None,
    seed: Seed = 0,
    progress: bool = False,
) -> Trajectory:
    """Measure the initial model and every checkpoint of a run with the same probes.

    In-context accuracy and head rankings (for probes with a contrast) are measured only for the initial model and at the end of
    each task, because they take longer than everything else together.

    Args:
        model: Model that the run started from. It is switched in place and restored at the end.
        run: Fine-tuning run.
        probes: See `make_task_probe`.
        checkpoints: Checkpoints to measure; default: all of the run's.
        folder: Folder for the measurements; those it already holds are not repeated.
        seed: Seed of the random control vectors.
        progress: Show a progress bar.

    Raises:
        LensFVError: see `switch_to_checkpoint` and `measure_checkpoint`; or the folder holds measurements with other probes.

    Example:
        >>> trajectory = lens_fv.track_checkpoints(capable_model, run, probes)
        >>> trajectory.accuracy.shape  # checkpoints and tasks
        torch.Size([4, 3])
    """
    states: list[Checkpoint | None] = [None, *(run.checkpoints if checkpoints is None else checkpoints)]
    measurements: list[CheckpointMeasurement] = []
    try:
        with progress_bar("following the run", len(states) * len(probes), show=progress) as tick:
            for checkpoint in states:
                name, step = ("0", 0) if checkpoint is None else (checkpoint.name, checkpoint.total)
                file = None if folder is None else Path(folder) / f"{file_name(name.replace('/', '-'))}.safetensors"
                if file is not None and file.is_file():
                    measurements.append(_load(file, probes, seed))
                    for _ in probes:
                        tick()
                    continue
                switch_to_checkpoint(model, run, checkpoint)
                stage_end = checkpoint is None or checkpoint.last
                measurements.append(
                    measure_checkpoint(model, probes, name=name, step=step, all_measures=stage_end, seed=seed, tick=tick)
                )
                if file is not None:
                    measurements[-1].save(file)
    finally:
        switch_to_checkpoint(model, run, None)
    return Trajectory.of(measurements)


def _load(file: Path, probes: Sequence[TaskProbe], seed: int) -> CheckpointMeasurement:
    measurement, expected = CheckpointMeasurement.load(file), [probe.fingerprint for probe in probes]
    if (list(measurement.provenance.options["probes"]), measurement.provenance.seed) != (expected, seed):
        raise LensFVError(f"resume in {file.parent}: {file.name} was measured with other probes; choose another folder")
    return measurement


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
        all_measures: Measure in-context accuracy, and rank all heads of probes with patching prompts.
        seed: Seed of the random vectors.
        tick: Callback after each probe.

    Raises:
        LensFVError: no probes, or probes with different numbers of heads.

    Example:
        >>> measurement = lens_fv.dynamics.measure_checkpoint(capable_model, probes, name='initial')
        >>> measurement.tasks
        ('task0', 'task1', 'task2')
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
    all_z, _, states = last_tokens(model, [p.tokens for p in prompts])
    z = all_z.mean(0)
    direction = (vector.vector * vector.scale).to(states)
    outputs = torch.stack([z[layer, head] for layer, head in probe.heads])
    return {
        "correct": correct[:, 0],
        "instructed": instructed[:, 0],
        "in_context": in_context[:, 0],
        "knowledge": knowledge[:, 0],
        "steered": correct[:, 1:].T,
        "alignment": torch.cosine_similarity(states[:, vector.layer], direction, dim=-1).cpu(),
        "head_writes": einsum(outputs.float().cpu(), probe.projections, "heads d_head, heads d_head d_model -> heads d_model"),
        "head_writes_now": head_writes(model, probe.heads, outputs),
        "answer_rank": _answer_ranks(model, states, prompts),
        "effects": _effects(model, probe.patching_prompts if all_measures else None, z),
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
