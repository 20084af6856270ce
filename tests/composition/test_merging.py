"""Libraries that were made alike become one; others do not."""

from dataclasses import replace

import pytest
import torch
from helpers import toy_task

from lens_fv.composition import ExtractRecipe, TuneRecipe, VectorLibrary, build_library, merge_libraries
from lens_fv.composition.build import PLAN
from lens_fv.errors import LensFVError
from lens_fv.tasks import load_task

QUICK = TuneRecipe(n_pairs=4, steps=2, max_validation=3)


@pytest.fixture(scope="module")
def two(tiny_model, tmp_path_factory):
    """Two libraries of one kind, of a relation each."""
    there = tmp_path_factory.mktemp("libraries")
    for name, task in (("a", toy_task()), ("b", load_task("antonym"))):
        build_library(tiny_model("llama"), [task], there / name, QUICK)
    return there / "a", there / "b"


def test_merged_libraries_have_all_vectors_and_can_be_added_to(two, tiny_model, tmp_path):
    merged = merge_libraries(two, tmp_path / "c")
    assert merged.names == ("toy", "antonym")
    for folder in two:
        (entry,) = VectorLibrary.load(folder).entries
        assert replace(merged.entry(entry.name), file=entry.file) == entry
        assert torch.equal(merged[entry.name].vector, VectorLibrary.load(folder)[entry.name].vector)
    more = build_library(tiny_model("llama"), [load_task("antonym"), load_task("synonym")], tmp_path / "c", QUICK)
    assert more.names == ("toy", "antonym", "synonym")


def test_libraries_that_were_made_otherwise_are_refused(two, tiny_model, tmp_path):
    build_library(tiny_model("llama"), [load_task("synonym")], tmp_path / "longer", replace(QUICK, steps=3))
    with pytest.raises(LensFVError, match=r"was made with steps 2 \(.*longer: 3\); vectors that are made otherwise"):
        merge_libraries([*two, tmp_path / "longer"], tmp_path / "c")
    build_library(tiny_model("gpt2"), [load_task("synonym")], tmp_path / "other", QUICK)
    with pytest.raises(LensFVError, match="tiny-gpt2"):
        merge_libraries([two[0], tmp_path / "other"], tmp_path / "c")
    for name in ("longer", "other"):  # copies do not say what they were built with
        VectorLibrary.load(tmp_path / name).save(tmp_path / f"{name}-copy")
    with pytest.raises(LensFVError, match="model tiny-llama"):
        merge_libraries([tmp_path / "longer-copy", tmp_path / "other-copy"], tmp_path / "c")
    with pytest.raises(LensFVError, match="toy twice"):
        merge_libraries([two[0], two[0]], tmp_path / "c")
    with pytest.raises(LensFVError, match="merge 1 libraries"):
        merge_libraries(two[:1], tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_build_that_fails_at_once_binds_nobody(tiny_model, tmp_path):
    model = tiny_model("llama")
    with pytest.raises(LensFVError, match="changes nothing"):
        build_library(model, [toy_task()], tmp_path, ExtractRecipe(n_heads=1, n_shots=1, n_clean=1, n_trials=1))
    assert build_library(model, [toy_task()], tmp_path, QUICK).names == ("toy",)
    assert not (tmp_path / PLAN).exists()


def test_a_name_that_the_library_lacks_is_named_with_the_nearest(two):
    with pytest.raises(LensFVError, match=r"it has toy; did you mean 'toy'\?"):
        VectorLibrary.load(two[0])["toys"]
