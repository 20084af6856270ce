"""`import lens_fv` is instant because it loads nothing."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import torch
from helpers import made_provenance

import lens_fv
from lens_fv.composition import CompositeVector
from lens_fv.core.artefact import MODULES, Artefact

HEAVY = ("torch", "transformers", "transformer_lens", "plotly", "scipy", "numpy", "pandas")


def printed_by(code: str) -> list[str]:
    """What a fresh interpreter prints that runs `code`, and at last the heavy modules that it then holds."""
    script = f"import sys; {code}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_import_loads_nothing_heavy():
    assert printed_by("import lens_fv") == []


def test_command_line_parses_without_a_model():
    assert not {"torch", "transformers", "transformer_lens"} & set(printed_by("import lens_fv.cli.app"))


def test_every_public_name_resolves():
    for name in lens_fv.__all__:
        assert getattr(lens_fv, name) is not None
    assert set(dir(lens_fv)) == set(lens_fv.__all__)


def test_every_kind_of_artefact_is_known_whatever_is_imported():
    for module in pkgutil.walk_packages(lens_fv.__path__, "lens_fv."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    concrete = {name: kind.__module__ for name, kind in Artefact.kinds.items() if not inspect.isabstract(kind)}
    assert {name: module for name, module in concrete.items() if module.startswith("lens_fv.")} == MODULES


def test_first_use_loads_what_it_needs_and_reads_a_kind_that_was_not_imported(tmp_path):
    vector, none = torch.ones(4), torch.zeros(0)
    about = {"layer": 1, "resid_norm": 1.0, "head_outputs": torch.zeros(0, 2)}
    made = CompositeVector(provenance=made_provenance(), vector=vector, weights=none, scores=none, **about)
    path = made.save(tmp_path / "composite.safetensors")
    kind, *loaded = printed_by(f"import lens_fv; print(type(lens_fv.FunctionVector.load({str(path)!r})).__name__)")
    assert kind == "CompositeVector"
    assert "torch" in loaded
