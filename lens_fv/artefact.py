"""What every result has in common: where it came from, how it is saved, how it is checked against a model.

Files are safetensors with a JSON header: never pickle, written beside and renamed.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lens_fv import __version__
from lens_fv.card import card_html, card_text
from lens_fv.errors import LensFVError
from lens_fv.files import write_whole
from lens_fv.model.lens_model import LensModel

FORMAT = 1
A = TypeVar("A", bound="Artefact")


@dataclass(frozen=True)
class Provenance:
    """Where an artefact came from.

    Attributes:
        model, revision: which weights.
        weight_processing: "raw" or "compat": the basis that residual-stream vectors are written in.
        dtype: of the weights at the time.
        prepend_bos: whether prompts began with the beginning-of-sequence token.
        shape: (layers, heads, d_model, d_head) of the model.
        task, task_hash: the task and the fingerprint of its content.
        prompts_hash: fingerprint of the token ids that were run.
        seed, method, options: how it was made.
        versions: of lens_fv, torch, transformers and transformer-lens; "matmul" is torch's precision of float32 products, where
            it is not the highest.
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
    seed: int
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: LensModel,
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
            dtype=str(model.dtype).removeprefix("torch."),
            prepend_bos=model.prepend_bos,
            shape=_shape(model),
            task=task,
            task_hash=task_hash,
            prompts_hash=sha256(json.dumps([list(p) for p in prompts]).encode()).hexdigest()[:16],
            seed=seed,
            method=method,
            options=dict(options),
            versions=versions(),
        )

    def check(self, model: LensModel, *, what: str = "a vector") -> None:
        """Raise `LensFVError` unless what was made on one model can be applied to `model`."""
        for how, mine, its in (
            ("was made on model", self.model, model.name),
            ("was made on revision", self.revision, model.revision),
            ("was made on a model of (layers, heads, d_model, d_head)", self.shape, _shape(model)),
            ("lives in the basis of weight processing", self.weight_processing, model.weight_processing),
        ):
            if mine != its and None not in (mine, its):
                raise LensFVError(f"apply {what} to {model.name}: it {how} {mine}, this is {its}; pass force=True to insist")


def versions() -> dict[str, str]:
    """Of this package and those it stands on; see `Provenance.versions`."""
    matmul = torch.get_float32_matmul_precision()
    found = {"lens-fv": __version__} | {package: version(package) for package in ("torch", "transformers", "transformer-lens")}
    return found if matmul == "highest" else found | {"matmul": matmul}


def _shape(model: LensModel) -> tuple[int, int, int, int]:
    return (model.n_layers, model.n_heads, model.d_model, model.d_head)


@dataclass(frozen=True, repr=False, eq=False)
class Artefact:
    """Base of all results: a frozen dataclass of tensors and plain values, with its provenance."""

    kinds: ClassVar[dict[str, type["Artefact"]]] = {}
    provenance: Provenance

    def __init_subclass__(cls) -> None:
        Artefact.kinds[cls.__name__] = cls

    def facts(self) -> dict[str, str]:
        """What a reader wants to know first, label by label."""
        p = self.provenance
        return {"model": p.model, "task": p.task, "method": p.method, "seed": str(p.seed), "basis": p.weight_processing}

    def grid(self) -> Tensor | None:
        """A (layers, heads) picture of it, if it has one."""
        return None

    def __repr__(self) -> str:
        return card_text(type(self).__name__, self.facts())

    def _repr_html_(self) -> str:
        return card_html(type(self).__name__, self.facts(), self.grid())

    def save(self, path: str | Path) -> Path:
        """Write to `path` (safetensors). The file appears whole or not at all.

        Raises:
            LensFVError: the folder cannot be written to.
        """
        path = Path(path)
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "provenance"}
        tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
        plain = {k: v for k, v in values.items() if k not in tensors}
        named = {
            k: list(v) for k, v in plain.items() if isinstance(v, Mapping) and any(isinstance(t, Tensor) for t in v.values())
        }
        for field_name in named:
            tensors |= {f"{field_name}/{key}": each for key, each in plain.pop(field_name).items()}
        header = {
            "kind": type(self).__name__,
            "format": FORMAT,
            "provenance": dataclasses.asdict(self.provenance),
            "values": plain,
            "named": named,
        }
        whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        return write_whole(path, lambda at: save_file(whole, at, metadata={"lens_fv": json.dumps(header)}))

    @classmethod
    def load(cls: type[A], path: str | Path) -> A:
        """Read a file that `save` wrote.

        Raises:
            LensFVError: no such file, not one of ours, damaged, of another kind, or of a newer format.
        """
        loaded = load_artefact(path)
        if not isinstance(loaded, cls):
            raise LensFVError(f"load {path} as {cls.__name__}: it holds a {type(loaded).__name__}")
        return loaded


def load_artefact(path: str | Path) -> Artefact:
    """Read any artefact; see `Artefact.load`."""
    path = Path(path)
    if not path.is_file():
        raise LensFVError(f"load {path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("lens_fv", "null"))
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as e:
        raise LensFVError(f"load {path}: not a whole safetensors file ({e}); make it again") from e
    if not isinstance(header, dict) or header.get("kind") not in Artefact.kinds:
        kind = header.get("kind") if isinstance(header, dict) else None
        raise LensFVError(f"load {path}: " + (f"unknown kind {kind}" if kind else "no lens_fv header; another program's file?"))
    if header["format"] > FORMAT:
        raise LensFVError(f"load {path}: format {header['format']}, this lens_fv reads up to {FORMAT}; update lens_fv")
    try:
        provenance = Provenance(**as_tuples(header["provenance"]))
        for name, keys in header.get("named", {}).items():  # tensors by name in one field
            tensors[name] = {key: tensors.pop(f"{name}/{key}") for key in keys}
        return Artefact.kinds[header["kind"]](provenance=provenance, **as_tuples(header["values"]), **tensors)
    except (TypeError, KeyError) as e:
        raise LensFVError(f"load {path}: its header does not describe a {header['kind']} ({e})") from e


def as_tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    if isinstance(value, list):
        return tuple(as_tuples(v) for v in value)
    return {k: as_tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


def require_shape(what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise `LensFVError` unless a finite floating-point `tensor` has `shape`."""
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        raise LensFVError(f"{what}: shape {tuple(tensor.shape)} {tensor.dtype}, expected floating point {shape}")
    if not torch.isfinite(tensor).all():
        raise LensFVError(f"{what}: holds values that are not finite")
