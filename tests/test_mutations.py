"""Whatever the bytes of a file, it is read or refused with one line."""

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from mutations import Sample, artefacts, mutated, text_files

from lens_fv.errors import LensFVError
from lens_fv.model import load_model

SECONDS = float(os.environ.get("LENS_FV_FUZZ_SECONDS", "0"))
"""How long fresh mutations are tried; 0: a few hundred of them."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, Sample]:
    folder = tmp_path_factory.mktemp("corpus")
    return {**dict(artefacts(folder)), **dict(text_files(folder))}


def escape(sample: Sample, data: bytes) -> Exception | None:
    """What reading it raises, but for an error of ours."""
    whole = sample.file.read_bytes()
    sample.file.write_bytes(data)
    try:
        sample.read()
    except LensFVError as error:
        assert "\n" not in str(error) or len(str(error)) < 2000
    except Exception as error:
        return error
    finally:
        sample.file.write_bytes(whole)
    return None


def test_what_is_whole_is_read(samples):
    for sample in samples.values():
        sample.read()


@pytest.mark.skipif(SECONDS > 0, reason="fresh mutations are tried for longer")
@settings(max_examples=300, deadline=None, derandomize=False)
@given(seed=st.integers(0, 2**32 - 1))
def test_fresh_mutations(samples, seed):
    rng = random.Random(seed)
    sample = samples[rng.choice(list(samples))]
    found = escape(sample, mutated(sample.file.read_bytes(), rng))
    assert found is None, (sample.file.name, seed, repr(found))


def many(samples: dict[str, Sample], n: int, seed: int) -> dict[str, str]:
    """Escapes of so many mutations, spread over all files: each by its kind of error, with the first that showed it."""
    found: dict[str, str] = {}
    names = list(samples)
    for i in range(n):
        name = names[i % len(names)]
        error = escape(samples[name], mutated(samples[name].file.read_bytes(), random.Random(f"{seed}/{i}")))
        if error is not None:
            found.setdefault(f"{name}: {type(error).__name__}", f"{seed}/{i}: {error}"[:200])
    return found


@pytest.mark.slow
def test_ten_thousand_mutations(samples):
    assert many(samples, 10_000, seed=0) == {}


@pytest.mark.slow
def test_mutated_folders_of_models(model_folder, tmp_path):
    assert many(model_files(model_folder, tmp_path), 500, seed=0) == {}


def model_files(model_folder: Path, folder: Path) -> dict[str, Sample]:
    copy = folder / "tiny"
    copy.mkdir()
    for file in model_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return {file.name: Sample(file, lambda: load_model(copy)) for file in sorted(copy.iterdir())}
