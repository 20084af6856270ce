"""A folder of vectors: built with resume, read lazily, never mixed."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import toy_task

from lens_fv.composition import ExtractRecipe, TuneRecipe, VectorLibrary, build_library
from lens_fv.composition.recipes import with_wrong_answers
from lens_fv.errors import LensFVError
from lens_fv.heads import rank_heads
from lens_fv.tasks import TODD, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors import FunctionVector, extract, tune
from lens_fv.vectors.examples import validation_prompts

FEW = {"n_pairs": 6, "steps": 4, "learning_rate": 0.1}


def tasks(n: int = 3) -> list:
    return [replace(toy_task(name=f"toy{i}", n=30 + i), group="toys", family="even" if i % 2 == 0 else "odd") for i in range(n)]


@pytest.fixture
def built(tiny_model, tmp_path):
    return build_library(tiny_model("llama"), tasks(), tmp_path / "kept", TuneRecipe(**FEW))


def test_its_vectors_are_what_tune_makes(tiny_model, built, tmp_path):
    model, task = tiny_model("llama"), tasks()[1]
    alone = tune(model, task, layers=1, **FEW)
    assert built["toy1"].provenance.options["learning_rate"] == 0.1
    torch.testing.assert_close(built["toy1"].vector, alone.vector, atol=1e-5, rtol=1e-4)
    assert VectorLibrary.load(tmp_path / "kept").names == ("toy0", "toy1", "toy2")


def test_extracted_ones_are_what_extract_makes(tiny_model, tmp_path):
    model, task = tiny_model("llama"), tasks()[1]
    few = {"n_shots": 2, "n_clean": 3, "n_trials": 2}
    library = build_library(model, tasks(), tmp_path / "kept", ExtractRecipe(n_heads=3, **few))
    ranking = rank_heads(model, task, **few)
    alone = extract(model, task, ranking, n_heads=3)
    assert library["toy1"].layer == alone.layer
    torch.testing.assert_close(library["toy1"].vector, alone.vector, atol=1e-5, rtol=1e-4)
    with pytest.raises(LensFVError, match=r"recipe ExtractRecipe \(requested: TuneRecipe"):
        build_library(model, tasks(), tmp_path / "kept")


def test_few_validation_pairs_are_the_first_ones(tiny_model):
    """To choose by; heads are ranked on all of them."""
    model, task, prompts = tiny_model("llama"), tasks()[1], {"n_shots": 2, "n_clean": 3, "n_trials": 2}
    split = split_pairs(task, seed=0)
    assert len(split.validation) > 2
    first = replace(split, validation=split.validation[:2])
    ranking = rank_heads(model, task, **prompts)
    expected = tune(model, task, layers=1, split=first, **FEW), extract(model, task, ranking, split=first)
    for recipe, alone in zip((TuneRecipe(layer=1, **FEW), ExtractRecipe(**prompts)), expected, strict=True):
        fewer = replace(recipe, max_validation=2)
        (vector,) = fewer.make(model, [task], {task.name: split}, template=TODD, seed=0)
        assert vector.provenance.prompts_hash == alone.provenance.prompts_hash
        assert vector.layer == alone.layer
        torch.testing.assert_close(vector.vector, alone.vector, atol=1e-5, rtol=1e-4)


def test_wrong_answers_are_other_pairs_answers(tiny_model, tmp_path):
    """What the control is tuned on, seen from outside: tuned on such a split by hand, it is the same vector."""
    model, task = tiny_model("llama"), tasks()[1]
    split = split_pairs(task, seed=0)
    wrong = with_wrong_answers(split, 0)
    for right, shown in ((split.train, wrong.train), (split.validation, wrong.validation)):
        assert [p.input for p in right] == [p.input for p in shown]
        assert sorted(p.outputs for p in right) == sorted(p.outputs for p in shown)
        assert not any(a.outputs == b.outputs for a, b in zip(right, shown, strict=True))
    assert wrong.test == split.test
    library = build_library(model, tasks(), tmp_path / "kept", TuneRecipe(shuffled=True, **FEW))
    alone = tune(model, task, layers=1, split=wrong, **FEW)
    torch.testing.assert_close(library["toy1"].vector, alone.vector, atol=1e-5, rtol=1e-4)
    assert library.entry("toy1").method == "tuned_shuffled"


def test_the_index_says_what_a_vector_does_to_validation_answers(tiny_model, built):
    model, task = tiny_model("llama"), tasks()[0]
    prompts = validation_prompts(model, split_pairs(task, seed=0))
    assert len(prompts) == len(encode_prompts(model, [zero_shot(pair) for pair in split_pairs(task, seed=0).validation]))
    means = []
    for vector in (None, built["toy0"]):
        hooks = [] if vector is None else [(f"blocks.{vector.layer}.hook_resid_post", adding(vector.vector))]
        logprobs = []
        for prompt in prompts:
            answer = prompt.answers[0]
            at = len(prompt.tokens) - 1
            tokens = torch.tensor([[*prompt.tokens, *answer[:-1]]])
            logits = model.forward(tokens, [(name, change(at)) for name, change in hooks])[0].log_softmax(-1)
            logprobs.append(sum(float(logits[at + i, token]) for i, token in enumerate(answer)))
        means.append(sum(logprobs) / len(logprobs))
    entry = built.entry("toy0")
    assert entry.logprob == pytest.approx(means[1], abs=1e-3)
    assert entry.gain == pytest.approx(means[1] - means[0], abs=1e-3)


def adding(vector):
    def at_position(at):
        def change(x, hook):
            x = x.clone()
            x[:, at] += vector
            return x

        return change

    return at_position


def test_files_are_read_when_asked_for(built, tmp_path):
    (tmp_path / "kept" / "toy2.safetensors").write_bytes(b"broken")
    fresh = VectorLibrary.load(tmp_path / "kept")
    assert isinstance(fresh["toy0"], FunctionVector)
    assert fresh["toy0"] is fresh["toy0"]
    with pytest.raises(LensFVError, match=r"toy2\.safetensors: not a complete safetensors file"):
        fresh["toy2"]


def test_a_stopped_build_goes_on_and_makes_nothing_twice(tiny_model, tmp_path):
    model, folder = tiny_model("llama"), tmp_path / "kept"
    build_library(model, tasks(1), folder, TuneRecipe(**FEW))
    first = (folder / "toy0.safetensors").stat().st_mtime_ns
    whole = build_library(model, tasks(), folder, TuneRecipe(**FEW))
    assert whole.names == ("toy0", "toy1", "toy2")
    assert (folder / "toy0.safetensors").stat().st_mtime_ns == first
    (folder / "toy1.safetensors").unlink()
    again = build_library(model, tasks(), folder, TuneRecipe(**FEW))
    assert set(again.names) == {"toy0", "toy1", "toy2"}
    torch.testing.assert_close(again["toy1"].vector, whole["toy1"].vector, atol=1e-5, rtol=1e-4)


def test_what_was_made_otherwise_is_refused(tiny_model, built, tmp_path):
    model, folder = tiny_model("llama"), tmp_path / "kept"
    with pytest.raises(
        LensFVError, match=r"holds one made with layer 1 \(requested: 0\), steps 4 \(requested: 5\); choose another"
    ):
        build_library(model, tasks(), folder, TuneRecipe(**{**FEW, "layer": 0, "steps": 5}))
    with pytest.raises(LensFVError, match="its vector of toy0 is of other pairs"):
        build_library(model, [toy_task(name="toy0", n=20)], folder, TuneRecipe(**FEW))


def test_parts_keep_their_order_and_unknown_names_are_said(built):
    assert built.filter(["toy2", "toy0"]).names == ("toy0", "toy2")
    assert built.filter(family="odd").names == ("toy1",)
    assert built.filter(group="none").names == ()
    assert built.filter(where=lambda e: e.name > "toy0").names == ("toy1", "toy2")
    assert built.without("toy1").merge(built.filter(["toy1"])).names == ("toy0", "toy2", "toy1")
    assert "toy1" in built
    assert len(built) == 3
    with pytest.raises(LensFVError, match="vector of 'toy9': the library has none; it has toy0, toy1, toy2"):
        built.filter(["toy9"])
    with pytest.raises(LensFVError, match="toy0 twice"):
        built.merge(built.filter(["toy0"]))


def test_a_basis_is_of_one_model_and_one_layer(tiny_model, built):
    model = tiny_model("llama")
    basis = built.basis(model)
    assert basis.names == built.names
    assert basis.layer == 1
    assert torch.equal(basis.vectors, torch.stack([built[name].vector for name in built]))
    moved = VectorLibrary((built.entries[0], replace(built.entries[1], layer=2)))
    with pytest.raises(LensFVError, match=r"vectors of 2 layers \(1, 2\): filter"):
        moved.basis(model)
    mixed = VectorLibrary((built.entries[0], replace(built.entries[1], model="other")))
    with pytest.raises(LensFVError, match="vectors of 2 models"):
        mixed.basis(model)
    with pytest.raises(LensFVError, match="the library is empty"):
        built.filter([]).basis(model)
    with pytest.raises(LensFVError, match="was made on"):
        built.basis(tiny_model("gpt2"))


def test_a_copy_is_a_library_of_its_own(built, tmp_path):
    copy = built.without("toy1").save(tmp_path / "copy")
    assert copy.names == ("toy0", "toy2")
    assert torch.equal(VectorLibrary.load(tmp_path / "copy")["toy2"].vector, built["toy2"].vector)
    with pytest.raises(LensFVError, match="there is one already"):
        built.save(tmp_path / "copy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it has no library.json; build one"),
        ("{", "the index of a vector library in .*not valid JSON"),
        ('{"format": 1, "entries": [{}], "settings": {}}', "not a library's index"),
        ('{"format": 99}', "format 99, this lens_fv reads up to 1"),
    ],
)
def test_a_folder_that_is_no_library(tmp_path, content, message):
    if content is not None:
        (tmp_path / "library.json").write_text(content)
    with pytest.raises(LensFVError, match=message):
        VectorLibrary.load(tmp_path)


def test_the_index_holds_names_of_files_not_paths(built, tmp_path):
    rows = json.loads((tmp_path / "kept" / "library.json").read_text())["entries"]
    assert [row["file"] for row in rows] == ["toy0.safetensors", "toy1.safetensors", "toy2.safetensors"]
    assert "3 in 1 groups, 2 families" in repr(built)
    assert "toys" not in built._repr_html_()
