"""The README's example runs as printed."""

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "README.md"


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return code


def test_example_is_short():
    assert sum(bool(line.strip()) for line in example().splitlines()) <= 12


@pytest.mark.real
def test_example_runs_as_printed(tmp_path, monkeypatch, capsys):
    """And its first head stands above all others, interval and all."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example(), "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "HeadEffect(layer=20, head=5" in out
    first, second = names["ranking"].top(2)
    assert first.name == "20.5"
    assert first.effect.ci_low > second.effect.ci_high
    assert "tuned" in out
    assert (tmp_path / "present-past.safetensors").is_file()
    assert out.rstrip().endswith(" sang")
