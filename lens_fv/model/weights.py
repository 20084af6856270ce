"""Locating and loading of a Hugging Face model and its tokenizer."""

import contextlib
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lens_fv.core.files import path_inside
from lens_fv.core.json_files import read_json
from lens_fv.errors import LensFVError
from lens_fv.model.fetch import ensure_model
from lens_fv.model.hub import find_on_hub
from lens_fv.model.quiet import quiet_transformers
from lens_fv.model.registry import DEFAULT_MODELS

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


PICKLES = (".bin", ".pt", ".pth", ".ckpt")
TO_SAFETENSORS = (
    "write it as safetensors once, where you trust it: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
)


@dataclass(frozen=True)
class Index:
    """Index that maps each weight to its file."""

    weight_map: dict[str, str]


class ModelSource(NamedTuple):
    """Location of a model.

    Attributes:
        source: folder, or name on the Hugging Face Hub.
        name, revision: name and revision recorded in artefacts.
    """

    source: str
    name: str
    revision: str | None

    @property
    def local(self) -> bool:
        """Whether the source is a folder."""
        return Path(self.source).is_dir()


def find_model(
    name_or_path: str | os.PathLike[str], revision: str | None, cache_dir: str | os.PathLike[str] | None
) -> ModelSource:
    """Locate a model: a default model (downloaded at first use), a folder, or the Hub.

    Raises:
        LensFVError: no such model or revision, or an incomplete folder.
    """
    name = os.fspath(name_or_path)
    folder = Path(name).expanduser()
    entry = DEFAULT_MODELS.get(name) if isinstance(name_or_path, str) else None
    if entry is not None:
        if revision not in (None, entry.revision):
            raise LensFVError(f"model {name!r} comes in one revision, {entry.revision!r}; asked for {revision!r}")
        place = ModelSource(str(ensure_model(entry, cache_dir=cache_dir)), name, entry.revision)
    elif folder.is_dir():
        place = ModelSource(str(folder), folder.resolve().name, revision)
    elif folder.exists():
        raise LensFVError(f"{folder} is a file; give the folder of a Hugging Face model (config.json and the rest)")
    else:
        source, commit = find_on_hub(name, revision)
        return ModelSource(source, name, commit)
    _check_folder(Path(place.source))
    return place


def load_transformers(place: ModelSource, *, device: str | torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load a model and its tokenizer with transformers.

    Raises:
        LensFVError: unreadable files or missing weights.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": False}
    options |= {"local_files_only": True} if place.local else {"revision": place.revision}
    with quiet_transformers(), explain_load_errors(f"load the model in {place.source}"):
        hf_model, report = AutoModelForCausalLM.from_pretrained(
            place.source, dtype=dtype, output_loading_info=True, use_safetensors=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(place.source, **options)
        hf_model.to(device)
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would continue with random values
        raise LensFVError(f"{place.source} lacks {len(missing)} weights that its config.json asks for, such as {missing[0]}")
    return hf_model, tokenizer


def writes_bos(tokenizer: Any) -> bool:
    """Whether the original tokenizer prepends a beginning-of-sequence token by itself."""
    bos = tokenizer.bos_token_id
    bare, usual = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    return bos is not None and usual[:1] == [bos] and bare[:1] != [bos]


def _check_folder(folder: Path) -> None:
    """Check for problems that transformers would report late, in many lines, or not at all."""
    from safetensors import safe_open

    files = {file.name for file in folder.iterdir()}
    if "config.json" not in files:
        raise LensFVError(f"{folder} holds no config.json; give the folder of a Hugging Face model")
    if not files.intersection(TOKENIZER_FILES):
        raise LensFVError(f"{folder} holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}); save one there too")
    index = folder / "model.safetensors.index.json"
    shards = sorted(folder.glob("*.safetensors"))
    if index.name in files:
        found = read_json(index, Index, what="the index of a model's weights", remedy="copy the model again").weight_map
        shards = [path_inside(folder, shard, what=index.name) for shard in sorted(set(found.values()))]
    if not shards and (other := sorted(file for file in files if file.endswith(PICKLES))):
        raise LensFVError(f"{folder} has its weights in {other[0]}, which can run code when it is loaded; {TO_SAFETENSORS}")
    if not shards:
        raise LensFVError(f"{folder} holds no weights (model.safetensors); copy or save the model again")
    for shard in shards:
        try:
            with safe_open(shard, framework="pt"):
                pass
        except Exception as error:  # from safetensors or the operating system
            raise LensFVError(f"{shard} is missing, truncated or damaged ({error}); copy the model again") from error


@contextlib.contextmanager
def explain_load_errors(asked: str) -> Iterator[None]:
    """Turn errors of any class from transformers and TransformerLens about bad files into one line."""
    try:
        yield
    except LensFVError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split()) or f"{type(error).__name__} in {where.name} of {Path(where.filename).name}"
        raise LensFVError(f"cannot {asked}: {reason}") from error
