"""Provenance: where a result came from, and whether it can be applied to a model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib.metadata import version
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from lens_fv import __version__
from lens_fv.core.choices import Seed, checked
from lens_fv.core.json_files import record
from lens_fv.errors import LensFVError


@runtime_checkable
class ModelFacts(Protocol):
    """The properties of a model that provenance records; `LensModel` provides them."""

    name: str
    revision: str | None
    weight_processing: Literal["raw", "compat"]
    prepend_bos: bool
    n_layers: int
    n_heads: int
    d_model: int
    d_head: int

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash over all weights."""
        ...


@checked
@dataclass(frozen=True)
class Provenance:
    """Where an artefact came from.

    Attributes:
        model, revision: Name and revision of the weights.
        weight_processing: Basis of residual-stream vectors: "raw" or "compat".
        dtype: Data type of the weights when the artefact was made.
        prepend_bos: Whether prompts began with the beginning-of-sequence token.
        shape: (layers, heads, d_model, d_head) of the model.
        task, task_hash: Name of the task and fingerprint of its content.
        prompts_hash: Fingerprint of the token ids that were run.
        seed, method, options: How the artefact was made.
        versions: Versions of lens_fv, torch, transformers and transformer-lens; "matmul" is torch's precision of float32
            products if it is not the highest.
        fingerprint: Fingerprint of the model's weights (`LensModel.fingerprint`); None in older files.
    """

    model: str
    revision: str | None
    weight_processing: str
    dtype: str
    prepend_bos: bool
    shape: tuple[int, int, int, int]
    task: str
    task_hash: str
    prompts_hash: str
    seed: Seed
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str | None = None

    @classmethod
    def of(
        cls,
        model: ModelFacts,
        *,
        task: str,
        task_hash: str,
        prompts: Sequence[Sequence[int]],
        seed: int,
        method: str,
        options: Mapping[str, Any],
    ) -> "Provenance":
        """The provenance of something made with `model` from the token ids in `prompts`."""
        return cls(
            model=model.name,
            revision=model.revision,
            weight_processing=model.weight_processing,
            dtype=_dtype(model),
            prepend_bos=model.prepend_bos,
            shape=_shape(model),
            task=task,
            task_hash=task_hash,
            prompts_hash=sha256(json.dumps([list(p) for p in prompts]).encode()).hexdigest()[:16],
            seed=seed,
            method=method,
            options=dict(options),
            versions=versions(),
            fingerprint=model.fingerprint,
        )

    @classmethod
    def from_json(cls, values: Any, context: str) -> "Provenance":
        """The provenance in a file.

        Raises:
            LensFVError: a field is missing, unknown, or has the wrong type.
        """
        provenance = record(cls, values, context)
        return replace(provenance, options=_as_tuples(provenance.options))

    def check(self, model: ModelFacts, *, what: str = "a vector", weights: str | None = None) -> None:
        """Raise `LensFVError` unless an artefact with this provenance can be applied to `model`.

        Fingerprints of weights in different data types cannot be compared; then only names and sizes are checked.

        Args:
            model: Model to apply it to.
            what: Name of the artefact, for the message.
            weights: Fingerprint to compare with; default: that of the model's current weights.
        """
        its_weights = None if self.fingerprint is None or self.dtype != _dtype(model) else weights or model.fingerprint
        for difference, recorded, current in (
            ("was made on model", self.model, model.name),
            ("was made on revision", self.revision, model.revision),
            ("was made on a model of (layers, heads, d_model, d_head)", self.shape, _shape(model)),
            ("lives in the basis of weight processing", self.weight_processing, model.weight_processing),
            ("was made of prompts with prepend_bos", self.prepend_bos, model.prepend_bos),
            ("was made on other weights, whose fingerprint is", self.fingerprint, its_weights),
        ):
            if recorded != current and None not in (recorded, current):
                raise LensFVError(
                    f"apply {what} to {model.name}: it {difference} {recorded}, this is {current}; pass force=True to insist"
                )

    def check_task(self, name: str, fingerprint: str, *, what: str) -> None:
        """Raise `LensFVError` unless the artefact was made on the task with this fingerprint; `what` is for the message."""
        if self.task_hash != fingerprint:
            raise LensFVError(f"{what} for {name}: it was made on {self.task}, with other pairs; give that task")


def versions() -> dict[str, str]:
    """Versions of this package and its main dependencies; see `Provenance.versions`."""
    matmul = torch.get_float32_matmul_precision()
    packages = ("torch", "transformers", "transformer-lens")
    installed = {"lens-fv": __version__} | {package: version(package) for package in packages}
    return installed if matmul == "highest" else installed | {"matmul": matmul}


def _as_tuples(value: Any) -> Any:
    """Convert JSON lists back into tuples, at every level."""
    if isinstance(value, list):
        return tuple(_as_tuples(v) for v in value)
    return {k: _as_tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


def _dtype(model: ModelFacts) -> str:
    return str(model.dtype).removeprefix("torch.")


def _shape(model: ModelFacts) -> tuple[int, int, int, int]:
    return (model.n_layers, model.n_heads, model.d_model, model.d_head)
