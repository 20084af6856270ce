"""Elastic weights and orthogonal blocks, against their formulas."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_guide import adapted, batch

from lens_fv.errors import LensFVError
from lens_fv.finetuning.regularizers.penalties import OrthogonalBlocks, ewc_penalty, fisher_information
from lens_fv.model.quiet import quiet_logs


def trained_of(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def test_importance_is_the_mean_squared_gradient(huggingface_model):
    model = adapted(huggingface_model("llama"))
    batches = [{key: value[i : i + 1] for key, value in batch().items()} for i in range(2)]
    found, expected = fisher_information(model, batches), {}
    model.eval()
    for each in batches:
        model.zero_grad()
        model(**each).loss.backward()
        for name, p in trained_of(model).items():
            expected[name] = expected.get(name, 0) + p.grad.square() / 2
    for name, (f, was) in found.items():
        torch.testing.assert_close(f, expected[name])
        assert torch.equal(was, trained_of(model)[name])
    twice = fisher_information(model, batches, previous=found)
    for name, (f, _) in twice.items():
        torch.testing.assert_close(f, 2 * expected[name])
    with pytest.raises(LensFVError, match="0 batches"):
        fisher_information(model, [])


def test_importance_by_examples_is_the_mean_over_single_ones(huggingface_model):
    """A plain loop over the rows of two batches, each without the padding that it had in its batch."""
    model = adapted(huggingface_model("llama"))
    shorter = {key: value[:, :4] for key, value in batch().items()}
    batches, expected, n = [batch(), shorter], {}, 0
    model.eval()
    for each in batches:
        for i in range(2):
            seen = int(each["attention_mask"][i].sum())
            ids, labels = (each[key][i : i + 1, :seen] for key in ("input_ids", "labels"))
            model.zero_grad()
            logits = model(input_ids=ids).logits
            asked = labels[0, 1:] != -100
            loss = torch.nn.functional.cross_entropy(logits[0, :-1][asked], labels[0, 1:][asked])
            loss.backward()
            n += 1
            for name, p in trained_of(model).items():
                expected[name] = expected.get(name, 0) + p.grad.square()
    assert n == 4
    found, by_batch = (fisher_information(model, batches, fisher=fisher) for fisher in ("example", "batch"))
    for name, (f, _) in found.items():
        torch.testing.assert_close(f, expected[name] / n, atol=1e-7, rtol=1e-3)
        assert not torch.allclose(f, by_batch[name][0], atol=1e-7, rtol=0.1)
    single = [{key: value[i : i + 1] for key, value in each.items()} for each in batches for i in range(2)]
    for name, (f, _) in fisher_information(model, single).items():
        assert torch.equal(f, found[name][0])


def test_elastic_weights_are_pulled_back_by_their_importance(huggingface_model):
    model = adapted(huggingface_model("llama"))
    kept = fisher_information(model, [batch()])
    penalty = ewc_penalty(model, kept, 3.0)
    assert float(penalty().detach()) == 0.0
    by = 0.5
    with torch.no_grad():
        for p in trained_of(model).values():
            p += by
    torch.testing.assert_close(penalty(), 3.0 * sum((f * by**2).sum() for f, _ in kept.values()))
    penalty().backward()
    for name, p in trained_of(model).items():
        torch.testing.assert_close(p.grad, 3.0 * kept[name][0] * 2 * by)


def test_one_block_is_trained_and_kept_orthogonal_to_those_before(huggingface_model):
    torch.manual_seed(0)
    with quiet_logs():
        model = get_peft_model(huggingface_model("llama"), LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = torch.randn_like(p)
    blocks = OrthogonalBlocks(model, 2, 1, 0.5)
    down = [p for name, p in trained_of(model).items() if "lora_A" in name]
    torch.testing.assert_close(blocks(), 0.5 * sum((p[:2] @ p[2:].T).abs().sum() for p in down))
    (model(**batch()).loss + blocks()).backward()
    for name, p in trained_of(model).items():
        before, own = (p.grad[:2], p.grad[2:]) if "lora_A" in name else (p.grad[:, :2], p.grad[:, 2:])
        assert not before.any()
        assert own.any()
    blocks.close()
    model.zero_grad()
    first = OrthogonalBlocks(model, 2, 0, 0.5)
    assert float(first()) == 0.0
    with pytest.raises(LensFVError, match="no such block"):
        OrthogonalBlocks(model, 2, 2, 0.5)
