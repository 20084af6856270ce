"""Artefact files: safetensors with a JSON header and a checksum. Nothing in them is trusted before it is checked."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from hashlib import sha256
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

import torch
from jaxtyping import AbstractArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lens_fv.core.files import write_atomically
from lens_fv.core.json_files import parse_json, record, validated
from lens_fv.errors import LensFVError

FORMAT = 2
"""Version of the file format. Version 1 had no checksum."""
DTYPES = ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
"""Accepted tensor types. Safetensors files can hold others, such as float8."""


@dataclass(frozen=True)
class Header:
    """The JSON header of an artefact file; see `Artefact.save`."""

    kind: str
    format: Literal[1, 2]
    provenance: dict[str, Any]
    values: dict[str, Any]
    named: dict[str, tuple[str, ...]] = field(default_factory=dict)
    checksum: str | None = None


def write_artefact_file(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write header fields and tensors, with a checksum over both.

    Raises:
        LensFVError: the folder cannot be written to.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header: dict[str, Any] = json.loads(json.dumps({**fields, "format": FORMAT}))  # as it will be after reading
    header["checksum"] = _checksum(header, contiguous)
    return write_atomically(path, lambda temporary: save_file(contiguous, temporary, metadata={"lens_fv": json.dumps(header)}))


def read_artefact_file(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Read the header and the tensors of an artefact file.

    Raises:
        LensFVError: the file is missing, comes from another program, is damaged, or has a newer format.
    """
    context = f"load {path}"
    try:
        if not path.is_file():
            raise LensFVError(f"{context}: no such file")
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("lens_fv")
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except LensFVError:
        raise
    except Exception as e:  # raised by safetensors or torch, depending on the fault
        raise LensFVError(f"{context}: not a complete safetensors file ({e}); make it again") from e
    if text is None:
        raise LensFVError(f"{context}: no lens_fv header; another program's file?")
    content = validated(parse_json(text, context), dict, context)
    version = content.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise LensFVError(f"{context}: format {version}, this lens_fv reads up to {FORMAT}; update lens_fv")
    header = record(Header, content, context)
    if (header.format > 1 or header.checksum) and header.checksum != _checksum(content, tensors):
        raise LensFVError(f"{context}: it does not have the checksum that it was written with, so it is damaged; make it again")
    return header, tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file, by name.

    Raises:
        LensFVError: the file is missing or incomplete.
    """
    try:
        return load_file(path)
    except Exception as e:  # raised by safetensors, torch or the operating system
        raise LensFVError(f"load {path}: not a complete safetensors file ({e}); make it again") from e


def checked_fields(kind: type, header: Header, file_tensors: Mapping[str, Tensor], context: str) -> dict[str, Any]:
    """The constructor arguments of an artefact, checked against the types and tensor shapes of its annotations.

    Raises:
        LensFVError: a field is missing, unknown, or has the wrong type or shape.
    """
    tensors: dict[str, Any] = dict(file_tensors)
    for name, keys in header.named.items():  # fields that map names to tensors
        if missing := [key for key in keys if f"{name}/{key}" not in tensors]:
            raise LensFVError(f"{context}: its tensor {name}/{missing[0]} is missing; make it again")
        tensors[name] = {key: file_tensors[f"{name}/{key}"] for key in keys}
        for key in dict.fromkeys(keys):
            del tensors[f"{name}/{key}"]
    known = {f.name: f for f in dataclasses.fields(kind) if f.name != "provenance"}
    needed = {name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    names = [*header.values, *tensors]
    if len(set(names)) < len(names) or needed - set(names) or set(names) - set(known):
        wrong = [*sorted(needed - set(names)), *(name for name in names if name not in known or names.count(name) > 1)]
        raise LensFVError(f"{context}: its header does not describe a {kind.__name__} ({wrong[0]}); make it again")
    sizes: dict[str, int] = {}
    values: dict[str, Any] = {}
    for name in names:
        annotation, place = known[name].type, f"{context}: {name}"
        parts = (annotation, *get_args(annotation))
        shape = next((part for part in parts if isinstance(part, type) and issubclass(part, AbstractArray)), None)
        values[name] = value = tensors.get(name, header.values.get(name))
        if Tensor in parts and isinstance(value, dict) and (name in tensors or not value):
            for tensor in value.values():
                _check_tensor(tensor, None, sizes, place)
        elif shape is not None and isinstance(value, Tensor):
            _check_tensor(value, shape, sizes, place)
        elif name in header.values and shape is None and Tensor not in parts:
            values[name] = validated(value, annotation, place)
        elif not (name in header.values and value is None and NoneType in parts):
            raise LensFVError(f"{place}: found {type(value).__name__}, expected {annotation}; make it again")
    return values


def _check_tensor(tensor: Tensor, annotation: type[AbstractArray] | None, sizes: dict[str, int], context: str) -> None:
    """Check dtype and dimensions against a jaxtyping annotation; each named dimension must have one size throughout."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    dims = annotation.dim_str.split() if annotation else []
    fitting = annotation is None or (len(dims) == tensor.ndim and dtype in annotation.dtypes)
    fitting = fitting and all(n == (int(d) if d.isdigit() else sizes.setdefault(d, n)) for d, n in zip(dims, tensor.shape))
    if not fitting or dtype not in DTYPES:
        expected = annotation.__name__ if annotation else f"one of {', '.join(DTYPES)}"
        raise LensFVError(f"{context}: {dtype} {tuple(tensor.shape)}, expected {expected}; make it again")


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of everything in a file. It detects damage, not forgery."""
    fields = {name: value for name, value in header.items() if name != "checksum"}
    digest = sha256(json.dumps(fields, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))  # for one element, contiguous() keeps any stride
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
