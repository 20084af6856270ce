"""Locating and loading of a Hugging Face model and its tokenizer."""

import contextlib
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from lens_fv.core.choices import nearest
from lens_fv.core.files import path_inside
from lens_fv.core.json_files import read_json
from lens_fv.errors import LensFVError
from lens_fv.model.fetch import ensure_model
from lens_fv.model.quiet import quiet_transformers
from lens_fv.model.registry import DEFAULT_MODELS

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
HUB_SECONDS = 5
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
        source: Folder, or name on the Hugging Face Hub.
        name, revision: Name and revision recorded in artefacts.
    """

    source: str
    name: str
    revision: str | None


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
        source = ModelSource(str(ensure_model(entry, cache_dir=cache_dir)), name, entry.revision)
    elif folder.is_dir():
        source = ModelSource(str(folder), folder.resolve().name, revision)
    elif folder.exists():
        raise LensFVError(f"{folder} is a file; give the folder of a Hugging Face model (config.json and the rest)")
    else:
        location, commit = _find_on_hub(name, revision)
        return ModelSource(location, name, commit)
    _check_folder(Path(source.source))
    return source


def _find_on_hub(name: str, revision: str | None) -> tuple[str, str | None]:
    """Return the name and commit if the Hub knows it, or a folder of earlier downloads if the Hub is unreachable.

    A short request comes first, because transformers and TransformerLens would retry for minutes without a network.

    Raises:
        LensFVError: neither is found; the message lists the default models and gives the Hub's answer.
    """
    defaults = ", ".join(DEFAULT_MODELS) + nearest(name, DEFAULT_MODELS)
    known = f"default models: {defaults}; no folder {Path(name).expanduser().absolute()}"
    try:
        return name, HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS).sha
    except HFValidationError as error:
        raise LensFVError(f"no model {name!r} ({known}; and a Hub name reads owner/model)") from error
    except RevisionNotFoundError as error:
        raise LensFVError(f"model {name!r} has no revision {revision!r} on the Hugging Face Hub") from error
    except RepositoryNotFoundError as error:
        raise LensFVError(
            f"no model {name!r} ({known}; the Hugging Face Hub has none of that name that you may read)"
        ) from error
    except Exception as error:  # a network error of a class that depends on the Hub client's version
        config = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(config, str):
            return str(Path(config).parent), Path(config).parent.name
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LensFVError(f"no model {name!r} ({known}; the Hugging Face Hub could not be reached: {reason})") from error


def load_transformers(source: ModelSource, *, device: str | torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load a model and its tokenizer with transformers.

    Raises:
        LensFVError: unreadable files or missing weights.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": False}
    options |= {"local_files_only": True} if Path(source.source).is_dir() else {"revision": source.revision}
    with quiet_transformers(), explain_load_errors(f"load the model in {source.source}"):
        hf_model, report = AutoModelForCausalLM.from_pretrained(
            source.source, dtype=dtype, output_loading_info=True, use_safetensors=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(source.source, **options)
        hf_model.to(device)
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would continue with random values
        raise LensFVError(f"{source.source} lacks {len(missing)} weights that its config.json asks for, such as {missing[0]}")
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
        content = read_json(index, Index, what="the index of a model's weights", remedy="copy the model again")
        shards = [path_inside(folder, shard, what=index.name) for shard in sorted(set(content.weight_map.values()))]
    if not shards and (pickles := sorted(file for file in files if file.endswith(PICKLES))):
        raise LensFVError(f"{folder} has its weights in {pickles[0]}, which can run code when it is loaded; {TO_SAFETENSORS}")
    if not shards:
        raise LensFVError(f"{folder} holds no weights (model.safetensors); copy or save the model again")
    for shard in shards:
        try:
            with safe_open(shard, framework="pt"):
                pass
        except Exception as error:  # from safetensors or the operating system
            raise LensFVError(f"{shard} is missing, truncated or damaged ({error}); copy the model again") from error


@contextlib.contextmanager
def explain_load_errors(context: str) -> Iterator[None]:
    """Turn errors of any class from transformers and TransformerLens about bad files into one line."""
    try:
        yield
    except LensFVError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split()) or f"{type(error).__name__} in {frame.name} of {Path(frame.filename).name}"
        raise LensFVError(f"cannot {context}: {reason}") from error
