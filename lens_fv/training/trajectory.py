"""What became of tasks and of their vectors over a fine-tuning run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.artefact import Artefact
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.progress import progress_bar
from lens_fv.training.moment import Moment, measure_moment
from lens_fv.training.probe import Probe
from lens_fv.training.run import Checkpoint, FinetuneRun
from lens_fv.training.switch import switch


@dataclass(frozen=True, repr=False, eq=False)
class Trajectory(Artefact):
    """Moments of a run, the first one its beginning; see `Moment` for what was measured at each.

    Attributes:
        moments: names of the checkpoints.
        steps: since the run began.
        tasks: that were asked about.
        correct, instructed, in_context, knowledge, added, alignment, written, written_now, answer_rank: as in `Moment`, with an
            axis of moments in front.
    """

    moments: tuple[str, ...]
    steps: tuple[int, ...]
    tasks: tuple[str, ...]
    correct: Float[Tensor, "moments tasks items"]
    instructed: Float[Tensor, "moments tasks items"]
    in_context: Float[Tensor, "moments tasks items"]
    knowledge: Float[Tensor, "moments tasks items"]
    added: Float[Tensor, "moments tasks 3 items"]
    alignment: Float[Tensor, "moments tasks items"]
    written: Float[Tensor, "moments tasks heads d_model"]
    written_now: Float[Tensor, "moments tasks heads d_model"]
    answer_rank: Float[Tensor, "moments tasks layers"]

    @classmethod
    def of(cls, moments: Sequence[Moment]) -> "Trajectory":
        """Moments put together.

        Raises:
            LensFVError: none, or moments of different questions.
        """
        asked = {(*m.provenance.options["probes"], m.provenance.seed) for m in moments}
        if len(asked) != 1:
            raise LensFVError(f"trajectory of {len(moments)} moments: give at least one, all of the same questions")
        keys = (
            "correct",
            "instructed",
            "in_context",
            "knowledge",
            "added",
            "alignment",
            "written",
            "written_now",
            "answer_rank",
        )
        return cls(
            provenance=replace(moments[0].provenance, method="trajectory"),
            moments=tuple(m.name for m in moments),
            steps=tuple(m.step for m in moments),
            tasks=moments[0].tasks,
            **{key: torch.stack([getattr(m, key) for m in moments]) for key in keys},
        )

    @property
    def accuracy(self) -> Float[Tensor, "moments tasks"]:
        """Share of items whose answer is written behind the instruction."""
        return self.correct.nanmean(-1)

    @property
    def vectors(self) -> Float[Tensor, "moments tasks d_model"]:
        """What the vector's heads sum to, through the projection of the beginning."""
        return self._own(self.written).sum(2)

    def similarity(self, *, projection_of_now: bool = False) -> Float[Tensor, "moments tasks"]:
        """Cosine of each vector to what it was at the beginning.

        Args:
            projection_of_now: write with the projection of each moment instead of that of the beginning. The two differ only
                where training changed it.
        """
        found = self._own(self.written_now if projection_of_now else self.written).sum(2)
        return torch.cosine_similarity(found, found[:1], dim=-1)

    def distance(self) -> Float[Tensor, "moments tasks"]:
        """Length of what each vector moved by, in lengths of the vector at the beginning."""
        found = self.vectors
        return (found - found[:1]).norm(dim=-1) / found[:1].norm(dim=-1)

    def head_similarity(self) -> tuple[Float[Tensor, "moments tasks heads"], Float[Tensor, "moments tasks heads"]]:
        """Cosine of what each head writes to what it wrote at the beginning: the vector's heads, and as many random ones."""
        found = torch.cosine_similarity(self.written, self.written[:1], dim=-1)
        n = found.shape[-1] // 2
        return found[..., :n], found[..., n:]

    def _own(self, written: Tensor) -> Tensor:
        return written[:, :, : written.shape[2] // 2]

    def facts(self) -> dict[str, str]:
        """See `Artefact.facts`."""
        begin, end, moved = self.accuracy[0].tolist(), self.accuracy[-1].tolist(), self.similarity()[-1].tolist()
        rows = {
            task: f"accuracy {a:.2f} to {b:.2f}, vector's cosine {cosine:.2f}"
            for task, a, b, cosine in zip(self.tasks, begin, end, moved, strict=True)
        }
        return super().facts() | {"moments": str(len(self.moments)), "steps": str(self.steps[-1])} | rows


def follow(
    model: LensModel,
    run: FinetuneRun,
    probes: Sequence[Probe],
    *,
    checkpoints: Sequence[Checkpoint] | None = None,
    folder: str | Path | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Trajectory:
    """Put the same questions to the model at the beginning of a run and at its checkpoints.

    Args:
        model: the model that the run began with; it is switched in place, and back at the end.
        run: the run.
        probes: see `make_probe`.
        checkpoints: default: all of the run's.
        folder: keep each moment there; those that are there are not measured again.
        seed: of the random controls.
        progress: draw a progress bar.

    Raises:
        LensFVError: what `switch` and `measure_moment` raise, or a folder with moments of other questions.
    """
    at: list[Checkpoint | None] = [None, *(run.checkpoints if checkpoints is None else checkpoints)]
    moments: list[Moment] = []
    try:
        with progress_bar("following the run", len(at) * len(probes), show=progress) as tick:
            for checkpoint in at:
                name, step = ("0", 0) if checkpoint is None else (checkpoint.name, checkpoint.total)
                file = None if folder is None else Path(folder) / f"{name.replace('/', '-')}.safetensors"
                if file is not None and file.is_file():
                    moments.append(_again(file, probes, seed))
                    for _ in probes:
                        tick()
                    continue
                switch(model, run, checkpoint)
                moments.append(measure_moment(model, probes, name=name, step=step, seed=seed, tick=tick))
                if file is not None:
                    moments[-1].save(file)
    finally:
        switch(model, run, None)
    return Trajectory.of(moments)


def _again(file: Path, probes: Sequence[Probe], seed: int) -> Moment:
    moment, asked = Moment.load(file), [probe.fingerprint for probe in probes]
    if (list(moment.provenance.options["probes"]), moment.provenance.seed) != (asked, seed):
        raise LensFVError(f"go on with the moments in {file.parent}: {file.name} is of other questions; choose another folder")
    return moment
