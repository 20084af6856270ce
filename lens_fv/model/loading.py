"""From a name or a folder to a model that is ready to look into."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lens_fv.errors import LensFVError
from lens_fv.model.fetch import ensure_model
from lens_fv.model.hub import find_on_hub
from lens_fv.model.lens_model import LensModel
from lens_fv.model.quiet import quiet_transformers
from lens_fv.model.registry import DEFAULT_MODELS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    weight_processing: str = "raw",
    cache_dir: str | os.PathLike[str] | None = None,
) -> LensModel:
    """Load a model, in eval mode, frozen, and seen through TransformerLens.

    Args:
        name_or_path: a default model (`list_models()`; downloaded and converted at first use), a folder that holds a
            Hugging Face model and its tokenizer, or a model's name on the Hugging Face Hub; looked for in this order.
        device: "cpu", "cuda", "cuda:1", "mps"; default: "cuda" if there is one, else "cpu".
        dtype: "float32" (default), "bfloat16", "float16", "float64", or the `torch.dtype`.
        revision: branch, tag or commit on the Hub. For a folder: a label that artefacts will record.
        weight_processing: "raw" keeps the weights as trained; "compat" folds layer norms and centres writing weights as
            TransformerLens' `HookedTransformer` does. A vector belongs to one of the two.
        cache_dir: where default models are kept; default: `$LENS_FV_CACHE` or the user's cache folder.

    Raises:
        LensFVError: there is no such model, device, dtype or revision, or its files are incomplete.
    """
    where, kind = _device(device), _dtype(dtype)
    if weight_processing not in ("raw", "compat"):
        raise LensFVError(f"weight_processing={weight_processing!r}: choose 'raw' or 'compat'")
    name = os.fspath(name_or_path)
    folder = Path(name).expanduser()
    entry = DEFAULT_MODELS.get(name) if isinstance(name_or_path, str) else None
    if entry is not None:
        if revision not in (None, entry.revision):
            raise LensFVError(f"model {name!r} comes in one revision, {entry.revision!r}; asked for {revision!r}")
        return _load_folder(ensure_model(entry, cache_dir=cache_dir), name, entry.revision, where, kind, weight_processing)
    if folder.is_dir():
        return _load_folder(folder, folder.resolve().name, revision, where, kind, weight_processing)
    if folder.exists():
        raise LensFVError(f"{folder} is a file; give the folder of a Hugging Face model (config.json and the rest)")
    return _load_hub(name, revision, where, kind, weight_processing)


def _load_folder(folder: Path, name: str, revision: str | None, device: str, dtype: torch.dtype, processing: str) -> LensModel:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _check_folder(folder)
    local = {"local_files_only": True, "trust_remote_code": False}
    asked = f"load the model in {folder}"
    with quiet_transformers(), _explained(asked):
        hf_model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True, **local)
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        hf_model.to(device)
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would go on with random numbers
        raise LensFVError(f"{folder} lacks {len(missing)} weights that its config.json asks for, such as {missing[0]}")
    # a label that cannot be one of TransformerLens' own short names, which it would replace and complain about
    bridge, prepend_bos = _boot(f"lens-fv/{name}", tokenizer, processing, asked, device=device, hf_model=hf_model)
    return LensModel.wrap(bridge, name=name, revision=revision, prepend_bos=prepend_bos)


def _load_hub(name: str, revision: str | None, device: str, dtype: torch.dtype, processing: str) -> LensModel:
    from transformers import AutoTokenizer

    source, commit = find_on_hub(name, revision)
    asked = f"load {name!r} from the Hugging Face Hub"
    with quiet_transformers(), _explained(asked):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=commit, trust_remote_code=False)
    bridge, prepend_bos = _boot(source, tokenizer, processing, asked, device=device, dtype=dtype, revision=commit)
    return LensModel.wrap(bridge, name=name, revision=commit, prepend_bos=prepend_bos)


def _boot(label: str, tokenizer: Any, processing: str, asked: str, **options: Any) -> tuple[Any, bool]:
    """A TransformerLens bridge, and whether the tokenizer puts a BOS token in front by itself."""
    bos = tokenizer.bos_token_id
    with quiet_transformers(), contextlib.redirect_stdout(io.StringIO()), _explained(asked):
        from transformer_lens.model_bridge import TransformerBridge

        # asked of the tokenizer as it came: TransformerLens makes every tokenizer do so
        bare, usual = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        bridge = TransformerBridge.boot_transformers(label, tokenizer=tokenizer, **options)
        if processing == "compat":
            bridge.enable_compatibility_mode()
    return bridge, bos is not None and usual[:1] == [bos] and bare[:1] != [bos]


def _check_folder(folder: Path) -> None:
    """What transformers would report late, or in many lines, or not at all."""
    from safetensors import SafetensorError, safe_open

    files = {file.name for file in folder.iterdir()}
    if "config.json" not in files:
        raise LensFVError(f"{folder} holds no config.json; give the folder of a Hugging Face model")
    if not files.intersection(TOKENIZER_FILES):
        raise LensFVError(f"{folder} holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}); save one there too")
    index = folder / "model.safetensors.index.json"
    shards = sorted(folder.glob("*.safetensors"))
    if index.name in files:
        try:
            shards = [folder / shard for shard in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LensFVError(f"{index} is not a readable index of weights ({error}); copy the model again") from error
    if not shards and not any(file.startswith("pytorch_model") for file in files):
        raise LensFVError(f"{folder} holds no weights (model.safetensors); copy or save the model again")
    for shard in shards:
        try:
            with safe_open(shard, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise LensFVError(f"{shard} is missing, truncated or damaged ({error}); copy the model again") from error


@contextlib.contextmanager
def _explained(asked: str) -> Iterator[None]:
    """Turns what transformers and TransformerLens raise about bad files into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LensFVError(f"cannot {asked}: {reason}") from error


def _device(device: str | None) -> str:
    present = ["cpu"]
    if torch.cuda.is_available():
        present += ["cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        present.append("mps")
    if device is None:
        return "cuda" if "cuda" in present else "cpu"  # never mps unasked: some versions compute wrong numbers there
    if device not in present:
        raise LensFVError(f"device={device!r}: this machine has {', '.join(present)}")
    return device


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise LensFVError(f"dtype={str(dtype)!r}: choose one of {', '.join(DTYPES)}")
    return found
