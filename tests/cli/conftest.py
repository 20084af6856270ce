"""The command line in an empty folder, on a tiny model."""

import json

import pytest
from helpers import toy_task

from lens_fv.cli.app import execute


@pytest.fixture
def run(model_folder, tmp_path, monkeypatch, capsys):
    """`run("rank", ...)`: exit code, parsed standard output (with --json), standard error; in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.json").write_text(json.dumps([{"input": p.input, "output": list(p.outputs)} for p in toy_task().pairs]))

    def run_command(*arguments, model=True, as_json=True):
        where = ["--model", str(model_folder)] if model else []
        code = execute([*arguments, *where, *(["--json"] if as_json else [])])
        out, err = capsys.readouterr()
        return code, json.loads(out) if as_json and out else out, err

    return run_command
