"""Whatever the bytes of a file, it is read or refused with one line."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from mutations import Sample, artefacts, commands, mutated, packed, text_files

from lens_fv.cli.app import execute
from lens_fv.core.artefact_file import read_artefact_file, write_artefact_file
from lens_fv.errors import LensFVError
from lens_fv.finetuning import FinetuneRun
from lens_fv.model import load_model

FRESH = int(os.environ.get("LENS_FV_MUTATIONS", "300"))
"""How many fresh mutations are tried; CI tries more (`.ci/run`)."""
OLD = "FunctionVector without a checksum"
ESCAPED = {
    "a kind that is a list": (OLD, r"\"kind\": \"FunctionVector\"", r"\"kind\": [\"FunctionVector\"]"),
    "no kind": (OLD, r"\"kind\": \"FunctionVector\", ", ""),
    "no format": (OLD, r", \"format\": 1", ""),
    "a format that is a text": (OLD, r"\"format\": 1", r"\"format\": \"1\""),
    "a shape of three numbers": (OLD, "[2, 2, 4, 2]", "[2, 2, 4]"),
    "a shape of texts": (OLD, "[2, 2, 4, 2]", r"[2, 2, 4, \"2\"]"),
    "a provenance that is a list": (OLD, r"\"provenance\": {", r"\"provenance\": [{"),
    "a layer that is a list": (OLD, r"\"layer\": 1", r"\"layer\": [1]"),
    "a layer that is none": (OLD, r"\"layer\": 1", r"\"layer\": null"),
    "a seed below 0": ("HeadComparison without a checksum", r"\"seed\": 0", r"\"seed\": -1"),
    "heads that are no pairs": (OLD, "[[0, 1], [1, 0]]", "[[0, 1, 2], [1, 0]]"),
    "a residual stream of norm 0": ("CompositeVector without a checksum", r"\"resid_norm\": 0.5", r"\"resid_norm\": 0"),
    "a site that does not exist": (OLD, "resid_post", "resid_past"),
    "float8": (OLD, '"dtype": "F32", "shape": [4]', '"dtype": "F8_E4M3", "shape": [16]'),
    "a vector of whole numbers": (OLD, '"dtype": "F32", "shape": [4]', '"dtype": "I32", "shape": [4]'),
    "a matrix for a vector": (OLD, '"F32", "shape": [4]', '"F32", "shape": [2, 2]'),
    "settings that are a list": ("settings", "{\n", "[\n"),
    "seeds that are a number": ("settings", "[\n  0,\n  1\n ]", "1"),
    "settings nested 10,000 deep": ("settings", "0.5", "[" * 10_000 + "]" * 10_000),
    "a number of 5,000 digits": ("settings", "0.5", "9" * 5000),
    "half of a surrogate pair": ("settings", '"x"', '"\\ud800"'),
    "an empty run": ("run", None, ""),
    "a run without settings": ("run", '"mixed"', '"mixture"'),
    "a run whose tasks are texts": ("run", '"tasks": [', '"tasks": ["one", '),
    "a run whose template has another part": ("run", '"query"', '"question"'),
    "a task of a run nested 10,000 deep": ("task of a run", None, "[" * 10_000),
    "an index whose entries are texts": ("library", '"entries": [', '"entries": ["one", '),
    "an index of another version": ("library", '"format": 1', '"format": "1"'),
    "a file elsewhere": ("library", "one.safetensors", "../one.safetensors"),
    "sentences that are numbers": ("transfer", '"A is b."', "1"),
    "a transfer's provenance that is a text": ("transfer", '"provenance": {', '"provenance": "x", "p": {'),
    "an entity nested 10,000 deep": ("entities.jsonl", '"Adam"', "[" * 10_000),
    "superscript digits": ("judgements.csv", "2.5", "²"),
    "instructions nested 10,000 deep": ("instructions.json", None, "[" * 10_000),
}
"""By what it is: the file, a part of it, and what stood there when its reading raised something else than an error of ours."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, Sample]:
    folder = tmp_path_factory.mktemp("corpus")
    return {**dict(artefacts(folder)), **dict(text_files(folder))}


def escape(sample: Sample, data: bytes) -> Exception | None:
    """What reading and showing it raises, but for an error of ours."""
    with holding(sample, data):
        try:
            repr(sample.read())
        except LensFVError:
            return None
        except Exception as error:
            return error
    return None


def test_what_is_whole_is_read_and_shown(samples):
    for sample in samples.values():
        repr(sample.read())


@pytest.mark.parametrize("what", ESCAPED)
def test_what_once_escaped_is_refused(samples, what):
    name, old, new = ESCAPED[what]
    data = samples[name].file.read_bytes()
    if old is None:
        changed = new.encode()
    elif data[:1] in b"{[" or name in ("judgements.csv",):
        changed = data.replace(old.encode(), new.encode())
    else:  # of a safetensors file the header's length has to be right
        n = int.from_bytes(data[:8], "little")
        changed = packed(data[8 : 8 + n].replace(old.encode(), new.encode()), data[8 + n :])
    assert changed != data, f"{old} is not in {name}"
    with holding(samples[name], changed), pytest.raises(LensFVError):
        samples[name].read()


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"total": "4", "last": true}', '{"total": 4}', "[" * 10_000])
def test_a_checkpoint_whose_mark_is_damaged_is_not_a_whole_one(samples, content):
    """And the rest of the run is read."""
    sample = samples["done"]
    with holding(sample, content.encode()):
        sample.read()
        assert FinetuneRun(sample.file.parents[2]).checkpoints == []
    assert len(FinetuneRun(sample.file.parents[2]).checkpoints) == 1


@contextmanager
def holding(sample: Sample, data: bytes) -> Iterator[None]:
    """Inside the block the file holds something else."""
    whole = sample.file.read_bytes()
    sample.file.write_bytes(data)
    try:
        yield
    finally:
        sample.file.write_bytes(whole)


@pytest.mark.parametrize("kind", ["FunctionVector", "WeightDelta"])
def test_every_flipped_bit_of_an_artefact_is_noticed(samples, kind):
    """The checksum is of tensors and header alike; what it does not see is read as the same thing."""
    sample = samples[kind]
    whole, before = sample.file.read_bytes(), sample.read()
    for bit in range(0, 8 * len(whole), 8 * len(whole) // 100):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        with holding(sample, bytes(changed)):
            try:
                found = sample.read()
            except LensFVError:
                continue
        assert repr(found) == repr(before)
        assert found.provenance == before.provenance
    changed = bytearray(whole)
    changed[-1] ^= 1
    with holding(sample, bytes(changed)), pytest.raises(LensFVError, match="it does not have the checksum"):
        sample.read()


def test_one_number_cut_out_of_a_matrix_is_written_as_itself(tmp_path):
    """Torch calls it contiguous, whatever stride it has."""
    cut, whole = torch.arange(26.0).reshape(2, 13)[1:, 3], torch.tensor([16.0])
    assert (cut.stride(), cut.is_contiguous()) == ((13,), True)
    about = {"kind": "any", "provenance": {}, "values": {}}
    read = [read_artefact_file(write_artefact_file(tmp_path / "one", about, {"it": tensor})) for tensor in (cut, whole)]
    assert read[0] == read[1]


@settings(max_examples=FRESH, deadline=None, derandomize=False, database=None)
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


@pytest.mark.slow
def test_mutations_through_the_command_line(model_folder, tmp_path, monkeypatch, capsys):
    """Exit code 0, or 2 with one line."""
    monkeypatch.chdir(tmp_path)

    def go(*arguments: str) -> int:
        code = execute(list(arguments))
        assert code == 0, (arguments, capsys.readouterr().err)
        return code

    read = commands(model_folder, go)
    names, found = list(read), {}
    capsys.readouterr()
    for i in range(480):
        file, rng = Path(names[i % len(names)]), random.Random(f"cli/{i}")
        command = [part if part != "NEW" else f"new{i}" for part in rng.choice(read[str(file)])]
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        file.write_bytes(mutated(file.read_bytes(), rng))
        try:
            code: object = execute(command)
        except Exception as error:
            code = repr(error)
        said = capsys.readouterr().err
        if code not in (0, 2) or (code == 2 and said.count("\n") != 1):
            found[f"{i} {file}: {' '.join(command)}"] = (code, said[:500])
        for path in [path for path in tmp_path.rglob("*") if path.is_file() and path not in before]:
            path.unlink()
        for path, data in before.items():
            path.write_bytes(data)
    assert found == {}
