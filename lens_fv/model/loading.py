"""From a name or a folder to a model that is ready to look into."""

import contextlib
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from lens_fv.errors import LensFVError
from lens_fv.model.fetch import ensure_model
from lens_fv.model.quiet import quiet_transformers
from lens_fv.model.registry import DEFAULT_MODELS

if TYPE_CHECKING:
    from lens_fv.model.lens_model import LensModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
HUB_SECONDS = 5


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    weight_processing: Literal["raw", "compat"] = "raw",
    cache_dir: str | os.PathLike[str] | None = None,
) -> "LensModel":
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


def _load_folder(
    folder: Path, name: str, revision: str | None, device: str, dtype: torch.dtype, processing: str
) -> "LensModel":
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _check_folder(folder)
    local = {"local_files_only": True, "trust_remote_code": False}
    with quiet_transformers(), _explained(f"load the model in {folder}"):
        hf_model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True, **local)
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        hf_model.to(device)
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would go on with random numbers
        raise LensFVError(f"{folder} lacks {len(missing)} weights that its config.json asks for, such as {missing[0]}")
    return _boot(name, revision, tokenizer, processing, f"load the model in {folder}", device=device, hf_model=hf_model)


def _load_hub(name: str, revision: str | None, device: str, dtype: torch.dtype, processing: str) -> "LensModel":
    from transformers import AutoTokenizer

    source = _find_on_hub(name, revision)
    asked = f"load {name!r} from the Hub"
    with quiet_transformers(), _explained(asked):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    model = _boot(source, revision, tokenizer, processing, asked, device=device, dtype=dtype)
    commit = Path(source).name if source != name else getattr(model.tl.original_model.config, "_commit_hash", None)
    model.name, model.revision = name, commit or revision
    return model


def _boot(name: str, revision: str | None, tokenizer: Any, processing: str, asked: str, **options: Any) -> "LensModel":
    """Through TransformerLens; `options` hold the loaded model, or say how to load it."""
    # asked of the tokenizer as it came: TransformerLens makes it put a BOS in front always
    prepend_bos = _puts_bos_in_front(tokenizer)
    with quiet_transformers(), contextlib.redirect_stdout(io.StringIO()), _explained(asked):
        from transformer_lens.model_bridge import TransformerBridge

        if "hf_model" not in options:
            options["revision"] = revision
        bridge = TransformerBridge.boot_transformers(name, tokenizer=tokenizer, **options)
        if processing == "compat":
            bridge.enable_compatibility_mode()
    from lens_fv.model.lens_model import LensModel

    return LensModel.wrap(bridge, name=name, revision=revision, prepend_bos=prepend_bos)


def _puts_bos_in_front(tokenizer: Any) -> bool:
    bos, ids = tokenizer.bos_token_id, tokenizer("a").input_ids
    return bos is not None and ids[:1] == [bos] and tokenizer("a", add_special_tokens=False).input_ids[:1] != [bos]


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


def _find_on_hub(name: str, revision: str | None) -> str:
    """The name if the Hub knows it; a folder of earlier downloads if the Hub cannot be asked.

    One short question first: transformers and TransformerLens would retry for minutes without a network.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    known = f"default models: {', '.join(DEFAULT_MODELS)}; no folder {Path(name).expanduser().absolute()}"
    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)
        return name
    except HFValidationError as error:
        raise LensFVError(f"no model {name!r} ({known}; and a Hub name reads owner/model)") from error
    except RevisionNotFoundError as error:
        raise LensFVError(f"model {name!r} has no revision {revision!r} on the Hugging Face Hub") from error
    except RepositoryNotFoundError as error:
        raise LensFVError(
            f"no model {name!r} ({known}; the Hugging Face Hub has none of that name that you may read)"
        ) from error
    except Exception as error:  # a network error: its class depends on the version of the Hub's client
        config = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(config, str):
            return str(Path(config).parent)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LensFVError(f"no model {name!r} ({known}; the Hugging Face Hub could not be reached: {reason})") from error


@contextlib.contextmanager
def _explained(asked: str) -> Any:
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
    found = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if found not in DTYPES.values():
        raise LensFVError(f"dtype={str(dtype)!r}: choose one of {', '.join(DTYPES)}")
    return found
