"""Artefacts: frozen dataclasses of tensors and plain values that carry their provenance and can be saved and loaded.

Files are safetensors with a JSON header, never pickle. They are written under a temporary name and then renamed.
"""

import dataclasses
import importlib
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from lens_fv.core.artefact_file import checked_fields, read_artefact_file, write_artefact_file
from lens_fv.core.choices import checked
from lens_fv.core.display import Displayed
from lens_fv.core.provenance import Provenance
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError

MODULES = {
    "Adapter": "lens_fv.vectors.baselines.adapter",
    "AnalogyEvaluation": "lens_fv.evaluation.solutions",
    "ClassEffects": "lens_fv.heads.classes",
    "Competence": "lens_fv.heads.competence",
    "CompositeVector": "lens_fv.composition.compose",
    "DecodingEvaluation": "lens_fv.evaluation.ranks",
    "Effects": "lens_fv.heads.ranking",
    "Evaluation": "lens_fv.evaluation.results",
    "FunctionVector": "lens_fv.vectors.function_vector",
    "HeadComparison": "lens_fv.heads.comparison",
    "HeadRanking": "lens_fv.heads.ranking",
    "HeadWeights": "lens_fv.vectors.baselines.head_weights",
    "InjectionSweep": "lens_fv.vectors.sweep",
    "InstructionVector": "lens_fv.vectors.extract",
    "KnowledgeTrace": "lens_fv.knowledge.trace",
    "CheckpointMeasurement": "lens_fv.dynamics.measurement",
    "SoftPrompt": "lens_fv.vectors.baselines.soft_prompt",
    "TextEvaluation": "lens_fv.evaluation.results",
    "Trajectory": "lens_fv.dynamics.trajectory",
    "Typicality": "lens_fv.evaluation.alignment.typicality",
    "UniversalHeads": "lens_fv.heads.universal",
    "WeightDelta": "lens_fv.knowledge.delta",
    "WeightMap": "lens_fv.composition.weights",
}
"""The module that defines each kind of artefact, so that a file of any kind loads whatever was imported before."""
A = TypeVar("A", bound="Artefact")


@dataclass(frozen=True, repr=False, eq=False)
class Artefact(Displayed):
    """Base of all results: a frozen dataclass of tensors and plain values, with its provenance."""

    kinds: ClassVar[dict[str, type["Artefact"]]] = {}
    provenance: Provenance

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if ABC not in cls.__bases__:  # abstract bases are not kinds
            Artefact.kinds[cls.__name__] = cls

    def summary(self) -> dict[str, str]:
        """The key facts as labels and values."""
        p = self.provenance
        return {"model": p.model, "task": p.task, "method": p.method, "seed": str(p.seed), "basis": p.weight_processing}

    def to_dataframe(self) -> DataFrame:
        """The result as a pandas data frame: one row per head, layer, item or whatever the kind of artefact is about."""
        p = self.provenance
        return data_frame([{"task": p.task, "method": p.method, "model": p.model, "seed": p.seed}])

    def save(self, path: str | Path) -> Path:
        """Write to `path` (safetensors). The write is atomic: the file appears complete or not at all.

        Raises:
            LensFVError: the folder cannot be written to.
        """
        path = Path(path)
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "provenance"}
        tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
        plain = {k: v for k, v in values.items() if k not in tensors}
        tensors_by_key = {
            k: list(v) for k, v in plain.items() if isinstance(v, Mapping) and any(isinstance(t, Tensor) for t in v.values())
        }
        for field_name in tensors_by_key:
            tensors |= {f"{field_name}/{key}": tensor for key, tensor in plain.pop(field_name).items()}
        header = {
            "kind": type(self).__name__,
            "provenance": dataclasses.asdict(self.provenance),
            "values": plain,
            "named": tensors_by_key,
        }
        return write_artefact_file(path, header, tensors)

    @classmethod
    def load(cls: type[A], path: str | Path) -> A:
        """Read a file that `save` wrote.

        Raises:
            LensFVError: the file is missing, no artefact file, damaged (wrong checksum), of another kind, or of a newer format.
        """
        loaded = load_artefact(path)
        if not isinstance(loaded, cls):
            raise LensFVError(f"load {path} as {cls.__name__}: it holds a {type(loaded).__name__}")
        return loaded


@checked
def load_artefact(path: str | Path) -> Artefact:
    """Read an artefact of any kind; see `Artefact.load`.

    Example:
        >>> path = lens_fv.tune(model, task, n_pairs=4, steps=2, layers=1).save(folder / 'toy.safetensors')
        >>> type(lens_fv.load_artefact(path)).__name__
        'FunctionVector'
    """
    context = f"load {path}"
    header, tensors = read_artefact_file(Path(path))
    if header.kind not in Artefact.kinds and header.kind in MODULES:
        importlib.import_module(MODULES[header.kind])
    if header.kind not in Artefact.kinds:
        raise LensFVError(f"{context}: unknown kind {header.kind}")
    kind = Artefact.kinds[header.kind]
    provenance = Provenance.from_json(header.provenance, context)
    values = checked_fields(kind, header, tensors, context)
    try:
        artefact = kind(provenance=provenance, **values)
        artefact.summary()  # so that whatever loads can be shown
        artefact.heatmap_data()
        return artefact
    except LensFVError:
        raise
    except Exception as e:  # raised by the kind's own checks of its values, or by showing values that make no sense
        raise LensFVError(f"{context}: its values do not make a {header.kind} ({e}); make it again") from e


def require_shape(context: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise `LensFVError` unless a finite floating-point `tensor` has `shape`."""
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        raise LensFVError(f"{context}: shape {tuple(tensor.shape)} {tensor.dtype}, expected floating point {shape}")
    if not torch.isfinite(tensor).all():
        raise LensFVError(f"{context}: holds values that are not finite")
