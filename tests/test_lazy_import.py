"""`import lens_fv` is instant because it loads nothing."""

import subprocess
import sys

import lens_fv

HEAVY = ("torch", "transformers", "transformer_lens", "plotly", "scipy", "numpy")


def loaded_after(code: str) -> set[str]:
    """The heavy modules that a fresh interpreter holds after running `code`."""
    script = f"import sys; {code}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split())


def test_import_loads_nothing_heavy():
    assert loaded_after("import lens_fv") == set()


def test_command_line_parses_without_a_model():
    assert not loaded_after("import lens_fv.cli.app") & {"torch", "transformers", "transformer_lens"}


def test_first_use_loads_what_it_needs():
    assert "torch" in loaded_after("import lens_fv; lens_fv.FunctionVector")


def test_every_public_name_resolves():
    for name in lens_fv.__all__:
        assert getattr(lens_fv, name) is not None
    assert set(dir(lens_fv)) == set(lens_fv.__all__)


def test_every_kind_of_artefact_is_known_whatever_is_imported():
    script = """
import importlib, pkgutil, lens_fv
for module in pkgutil.walk_packages(lens_fv.__path__, "lens_fv."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from lens_fv.artefact import MODULES, Artefact
assert MODULES == {name: kind.__module__ for name, kind in Artefact.kinds.items()}, Artefact.kinds
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_fresh_process_reads_a_kind_that_it_has_not_imported(tmp_path):
    import torch
    from helpers import made_provenance

    from lens_fv.composition import CompositeVector

    vector, none = torch.ones(4), torch.zeros(0)
    about = {"layer": 1, "resid_norm": 1.0, "head_outputs": torch.zeros(0, 2)}
    made = CompositeVector(provenance=made_provenance(), vector=vector, weights=none, scores=none, **about)
    path = made.save(tmp_path / "composite.safetensors")
    script = f"from lens_fv.vectors import FunctionVector; print(type(FunctionVector.load({str(path)!r})).__name__)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["CompositeVector"]
