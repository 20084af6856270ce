"""Loading of a model by name or folder."""

import contextlib
import io
import os
from typing import Any

import torch

from lens_fv.core.choices import checked
from lens_fv.errors import LensFVError
from lens_fv.model.fingerprint import Fingerprint
from lens_fv.model.lens_model import LensModel, WeightProcessing
from lens_fv.model.quiet import quiet_transformers
from lens_fv.model.weights import ModelSource, explain_load_errors, find_model, load_transformers, writes_bos

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@checked
def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    weight_processing: WeightProcessing = "raw",
    cache_dir: str | os.PathLike[str] | None = None,
) -> LensModel:
    """Load a model through TransformerLens, frozen and in eval mode.

    Args:
        name_or_path: Default model (`list_models()`; downloaded and converted at first use), folder with a Hugging Face model
            and its tokenizer, or name on the Hugging Face Hub; tried in this order.
        device: "cpu", "cuda", "cuda:1" or "mps"; default: "cuda" if available, otherwise "cpu".
        dtype: Data type of the weights: "float32" (default), "bfloat16", "float16" or "float64".
        revision: Branch, tag or commit on the Hub; for a folder, a label recorded in artefacts.
        weight_processing: "raw" keeps the weights as trained; "compat" folds layer norms and centres writing weights as
            TransformerLens' `HookedTransformer` does. A vector belongs to one of the two.
        cache_dir: Folder for default models; default: `$LENS_FV_CACHE` or the user's cache folder.

    Raises:
        LensFVError: no such model, device, dtype or revision, or incomplete files.

    Example:
        >>> model = lens_fv.load_model(model_folder)  # or a default model, such as 'smollm2-135m', or a Hub name
        >>> model.n_layers
        3
    """
    device, dtype = parse_device(device), parse_dtype(dtype)
    source = find_model(name_or_path, revision, cache_dir)
    hf_model, tokenizer = load_transformers(source, device=device, dtype=dtype)
    return wrap_transformers(hf_model, tokenizer, source, weight_processing, device=device)


def wrap_transformers(
    hf_model: Any, tokenizer: Any, source: ModelSource, weight_processing: WeightProcessing, *, device: str
) -> LensModel:
    """Wrap a loaded transformers model by TransformerLens, which modifies it.

    Raises:
        LensFVError: TransformerLens cannot wrap it.
    """
    context = f"boot the model in {source.source}"
    with quiet_transformers(), contextlib.redirect_stdout(io.StringIO()), explain_load_errors(context):
        from transformer_lens.model_bridge import TransformerBridge

        # Read from the original tokenizer, because TransformerLens makes every tokenizer do so.
        prepend_bos = writes_bos(tokenizer)
        # A label that cannot be one of TransformerLens' short names, which it would replace with a warning.
        label = f"lens-fv/{source.name}"
        bridge = TransformerBridge.boot_transformers(label, tokenizer=tokenizer, device=device, hf_model=hf_model)
        fingerprint = None
        if weight_processing == "compat":
            fingerprint = Fingerprint(bridge).value()  # processed weights would depend on the device by rounding
            bridge.enable_compatibility_mode()
    return LensModel.wrap(bridge, name=source.name, revision=source.revision, prepend_bos=prepend_bos, fingerprint=fingerprint)


def parse_device(device: str | None) -> str:
    """Check that this machine has a device; by default choose the GPU if available.

    Raises:
        LensFVError: no such device.
    """
    present = ["cpu"]
    if torch.cuda.is_available():
        present += ["cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        present.append("mps")
    if device is None:
        return "cuda" if "cuda" in present else "cpu"  # never mps by default: some versions compute wrong numbers there
    if device not in present:
        raise LensFVError(f"device={device!r}: this machine has {', '.join(present)}")
    return device


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """Return the floating-point type of a name; by default float32.

    Raises:
        LensFVError: no such type.
    """
    if dtype is None:
        return torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise LensFVError(f"dtype={str(dtype)!r}: choose one of {', '.join(DTYPES)}")
    return DTYPES[name]
