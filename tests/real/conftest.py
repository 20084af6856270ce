"""The default model, loaded and checked once for all tests that a process runs on it."""

from collections.abc import Iterator

import pytest

from lens_fv import LensModel, load_model
from lens_fv.model.plain import own_weights


@pytest.fixture(scope="session")
def model() -> Iterator[LensModel]:
    """Shared: a test that changes weights puts them back."""
    shared = load_model("smollm2-135m")
    before = sums(shared)
    yield shared
    assert sums(shared) == before, "a test has changed the shared default model"


def sums(model: LensModel) -> dict[str, float]:
    """Of all weights: a copy of them would be half a gigabyte."""
    return {name: float(weight.double().sum()) for name, weight in own_weights(model).items()}
