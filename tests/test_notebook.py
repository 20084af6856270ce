"""The notebook that users open is the script that CI runs."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"


def test_the_notebook_is_its_script():
    jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed")
    notebook, script = (jupytext.read(FOLDER / f"first_function_vector.{ending}") for ending in ("ipynb", "py"))
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in script.cells]
