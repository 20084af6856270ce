"""Shared by the tests of the model room."""

from pathlib import Path

import pytest
from tiny_shop import Shop


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Shop:
    """The tiny model on sale: pip finds its wheels, and nothing else. Each takes pip half a second: mostly there is one."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("LENS_FV_CACHE", str(tmp_path / "cache"))
    return Shop.opened(wheels, tmp_path / "tiny.gguf", n_wheels=getattr(request, "param", 1))
