"""The fingerprint of weights: what it is of, what changes it, and when a change in place is noticed."""

from hashlib import sha256

import numpy as np
import pytest
import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

from lens_fv import load_model
from lens_fv.model import LensModel
from lens_fv.model.fingerprint import Fingerprint, own_tensors
from lens_fv.model.plain import own_weights, plain_model, weights_written, write_weights
from lens_fv.model.quiet import quiet_logs
from lens_fv.model.tensor_hash import ROW, _row_sums_on_device, tensor_hash


def by_hand(tensor):
    """The hash as its formula says, in Python's own whole numbers."""
    drawn = b"".join(sha256(f"lens_fv {i}".encode()).digest() for i in range(ROW // 2))
    numbers = [int.from_bytes(drawn[8 * i : 8 * i + 8], "little") | 1 for i in range(2 * ROW)]
    m, k = numbers[:ROW], numbers[ROW:]

    def total(words):
        return sum(a * m[i] + (a >> 32) * k[i] for i, a in enumerate(words)) % 2**64

    def signed(word):
        return word - 2**64 if word >= 2**63 else word

    data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    data += b"\0" * (-len(data) % 8)
    words = np.frombuffer(data, dtype="<i8").tolist()
    while len(words) > ROW:
        whole = len(words) // ROW * ROW
        rows = [words[i : i + ROW] for i in range(0, whole, ROW)] + [words[whole:]]
        words = [signed(total(row)) for row in rows]
    return signed(total(words))


@pytest.mark.parametrize("shape", [(), (3,), (5, 7), (2 * ROW + 3,), (4 * ROW,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_is_the_formula(shape, dtype):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert tensor_hash(tensor) == by_hand(tensor)


def test_other_devices_agree(monkeypatch):
    tensor = torch.randn(3, ROW + 5, generator=torch.Generator().manual_seed(0))
    here = tensor_hash(tensor)
    monkeypatch.setattr("lens_fv.model.tensor_hash._row_sums", _row_sums_on_device)
    assert tensor_hash(tensor) == here


def test_every_bit_and_every_position_counts():
    tensor = torch.randn(9, 11, generator=torch.Generator().manual_seed(0))
    bits = tensor.view(torch.int32)
    found = {tensor_hash(tensor)}
    for place in range(tensor.numel()):
        for bit in range(32):
            bits.view(-1)[place] ^= torch.tensor(1 << bit if bit < 31 else -(2**31), dtype=torch.int32)
            found.add(tensor_hash(tensor))
            bits.view(-1)[place] ^= torch.tensor(1 << bit if bit < 31 else -(2**31), dtype=torch.int32)
    assert len(found) == 1 + 32 * tensor.numel()
    assert tensor_hash(tensor[:, torch.randperm(11)].contiguous()) not in found
    two_signs = tensor.clone()
    two_signs.view(-1)[[1, 3]] *= -1  # both the highest bits of words
    assert tensor_hash(two_signs) not in found
    assert tensor_hash(tensor.T) == tensor_hash(tensor.T.contiguous()) != tensor_hash(tensor)


def test_transformers_and_transformer_lens_have_one(any_model, huggingface_model):
    architecture = any_model.name.removeprefix("tiny-")
    assert any_model.fingerprint == Fingerprint(huggingface_model(architecture)).value()
    assert any_model.fingerprint != Fingerprint(huggingface_model(architecture, seed=1)).value()
    assert len(any_model.fingerprint) == 16


@pytest.mark.parametrize("architecture", ["phi3", "bloom", "gpt_oss", "gemma4", "mamba"])
def test_so_have_the_less_usual(tiny_model, huggingface_model, architecture):
    assert tiny_model(architecture).fingerprint == Fingerprint(huggingface_model(architecture)).value()


def optimiser(model):
    plain = plain_model(model)
    weights = [weight.requires_grad_(True) for weight in plain.parameters()]
    plain(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    torch.optim.SGD(weights, lr=0.1).step()


def one_number(model):
    with torch.no_grad():
        next(model.tl.parameters()).view(-1)[7] += 1


def data_of_a_head(model):
    model.tl.blocks[1].attn.o._modules["_original_component"].weight.data[:, 8:16] = 0


def data_of_a_neuron(model):
    dict(own_tensors(model.tl))["model.layers.1.mlp.up_proj.weight"].data[5] *= -1


def data_replaced(model):
    weight = dict(own_tensors(model.tl))["model.norm.weight"]
    weight.data = weight.data + 1


def written(model):
    write_weights(model, {"model.norm.weight": own_weights(model)["model.norm.weight"] + 1})


def told(model):
    weight = dict(own_tensors(model.tl))["model.layers.1.mlp.up_proj.weight"]
    weight.data.view(-1)[1] += 1  # one number, not of the sample
    model.weights_changed()


@pytest.mark.parametrize("change", [optimiser, one_number, data_of_a_head, data_of_a_neuron, data_replaced, written, told])
def test_a_change_in_place_is_noticed(tiny_model, change):
    model = tiny_model(fresh=True)
    before = model.fingerprint
    assert model.fingerprint == before == tiny_model().fingerprint
    change(model)
    assert model.fingerprint == Fingerprint(model.tl).value() != before


def test_what_is_written_for_a_while(tiny_model):
    model = tiny_model(fresh=True)
    before = model.fingerprint
    with weights_written(model, {"model.norm.weight": torch.ones(32)}):
        inside = model.fingerprint
        assert model.beneath == before != inside
        with weights_written(model, {"model.norm.weight": torch.zeros(32)}):
            assert model.beneath == before
            assert model.fingerprint not in (before, inside)
        assert model.fingerprint == inside
    assert (model.fingerprint, model.beneath) == (before, None)


def test_processed_weights_have_the_fingerprint_of_their_files(model_folder):
    raw, compat = (load_model(model_folder, weight_processing=kind) for kind in ("raw", "compat"))
    assert raw.fingerprint == compat.fingerprint
    with torch.no_grad():
        next(compat.tl.parameters()).add_(1)
    assert raw.fingerprint != compat.fingerprint


def test_types_differ(model_folder):
    assert len({load_model(model_folder, dtype=dtype).fingerprint for dtype in ("float32", "bfloat16", "float16")}) == 3


def test_an_adapter_of_peft_counts(huggingface_model, tiny_tokenizer):
    from peft import LoraConfig, get_peft_model

    hf = huggingface_model("llama")
    with quiet_logs():
        peft = get_peft_model(hf, LoraConfig(task_type="CAUSAL_LM", target_modules=["o_proj"], r=2, init_lora_weights=False))
    before = Fingerprint(peft).value()
    with torch.no_grad():
        next(p for name, p in peft.named_parameters() if "lora_B" in name).add_(1)
    assert Fingerprint(peft).value() != before != Fingerprint(huggingface_model("llama")).value()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_tokenizer)
    merged = TransformerBridge.boot_transformers("tiny-llama", hf_model=peft.merge_and_unload(), tokenizer=tokenizer)
    assert LensModel.wrap(merged, name="tiny-llama").fingerprint != Fingerprint(huggingface_model("llama")).value()
