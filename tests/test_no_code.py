"""Nothing that is read can run code: no pickle, no code of a model's folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mutations import artefacts

from lens_fv.errors import LensFVError
from lens_fv.model import load_model

WATCH = """
import sys
def watch(event, args):
    if event == "pickle.find_class":
        raise SystemExit(f"a pickle asked for {args}")
sys.addaudithook(watch)
"""
READ = """
import torch
def refused(*args, **options):
    raise SystemExit("torch.load")
torch.load = torch.serialization.load = refused
from pathlib import Path
from lens_fv import load_model
from lens_fv.core.artefact import load_artefact
"""


def watched(code: str) -> str:
    """What a fresh process prints that stops at a pickle."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", WATCH + code], capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}{done.returncode}"


def test_models_and_artefacts_are_read_without_pickle(model_folder, tmp_path):
    n = len(list(artefacts(tmp_path)))
    code = f"""{READ}
for file in Path({str(tmp_path)!r}).iterdir():
    load_artefact(file)
    print(end=".")
for processing in ("raw", "compat"):
    load_model({str(model_folder)!r}, weight_processing=processing)
    print(end=".")
"""
    assert watched(code) == "." * (n + 2) + "0"


def test_the_watch_sees_a_pickle():
    assert "a pickle asked for" in watched("import pickle, pathlib; pickle.loads(pickle.dumps(pathlib.Path))")


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in model_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.pth"])
def test_pickled_weights_are_refused_with_the_way_out(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(LensFVError, match=r"can run code when it is loaded; write it as safetensors once"):
        load_model(folder)


def test_the_way_out_is_one(huggingface_model, tiny_tokenizer, folder):
    """The line of the message, on a folder as older versions of transformers wrote it."""
    from transformers import AutoModelForCausalLM

    torch.save(AutoModelForCausalLM.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    before = load_model(folder).fingerprint
    (folder / "model.safetensors").unlink()
    with pytest.raises(LensFVError, match="pytorch_model"):
        load_model(folder)
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)
    assert load_model(folder).fingerprint == before


def test_an_artefact_that_is_a_pickle_is_refused(tmp_path):
    from lens_fv.core.artefact import load_artefact

    torch.save({"kind": "FunctionVector"}, tmp_path / "x.safetensors")
    with pytest.raises(LensFVError, match="not a complete safetensors file"):
        load_artefact(tmp_path / "x.safetensors")


def test_code_in_a_models_folder_is_not_run(folder, tmp_path):
    ran = tmp_path / "ran"
    (folder / "modeling_x.py").write_text(f"open({str(ran)!r}, 'w')\nclass X: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "x", "auto_map": {name: "modeling_x.X" for name in ("AutoConfig", "AutoModelForCausalLM")}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LensFVError, match="cannot load the model"):
        load_model(folder)
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens | {"auto_map": {"AutoTokenizer": ["modeling_x.X", None]}}))
    with pytest.raises(LensFVError):
        load_model(folder)
    assert not ran.exists()
