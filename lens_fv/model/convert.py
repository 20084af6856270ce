"""Conversion of a quantised GGUF file to float32 weights that transformers and TransformerLens can load."""

import contextlib
import io
from pathlib import Path
from typing import Any

from lens_fv.errors import LensFVError
from lens_fv.model.quiet import quiet_transformers


def convert_gguf(gguf: Path, target: Path, *, n_parameters: int) -> None:
    """Dequantise `gguf` into the folder `target`: config.json, model.safetensors (float32) and the tokenizer.

    Raises:
        LensFVError: transformers cannot read the file, or a weight is missing.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    # transformers draws a progress bar on standard error regardless of its settings
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                gguf.parent, dtype=torch.float32, output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise LensFVError(f"transformers cannot read {gguf.name}: {' '.join(str(error).split())}") from error
        # a missing weight would silently stay random
        if report["missing_keys"] or model.num_parameters() != n_parameters:
            raise LensFVError(
                f"{gguf.name} gave {model.num_parameters()} weights instead of {n_parameters}, "
                f"not found: {sorted(report['missing_keys'])[:3]}; install the transformers version that lens_fv asks for"
            )
        # the weights are no longer quantised, so remove the marker
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
