"""What an update changes elsewhere, against two plain forwards."""

import pytest
import torch

from lens_fv import LensFVError
from lens_fv.core.artefact import Provenance
from lens_fv.knowledge import WeightDelta, kl_to_base, load_entities, true_sentences
from lens_fv.model.plain import own_weights


def some_delta(model, size: float) -> WeightDelta:
    provenance = Provenance.of(model, task="x", task_hash="", prompts=[], seed=0, method="random", options={})
    name = "model.layers.1.mlp.down_proj.weight"
    noise = torch.randn(own_weights(model)[name].shape, generator=torch.Generator().manual_seed(0))
    return WeightDelta(provenance=provenance, dense={name: size * noise}, down={}, up={}, skipped={})


@torch.no_grad()
def test_it_is_the_kl_divergence_of_what_is_said_at_each_token(tiny_model):
    model, texts = tiny_model("llama"), ["Q: walk", "A: talked and walked", "Q"]
    delta = some_delta(model, 0.2)

    def said(text):
        return model.forward(torch.tensor([model.encode(text)]))[0].softmax(-1)

    want = []
    for text in texts:
        p = said(text)
        with delta.applied(model):
            q = said(text)
        want.append(float((p * (p / q).log()).sum(-1).mean()))
    assert kl_to_base(model, delta, texts, batch_size=2) == pytest.approx(want, rel=1e-3)
    assert min(want) > 1e-3
    assert kl_to_base(model, some_delta(model, 0.0), texts) == [0, 0, 0]


def test_a_text_without_tokens(tiny_model):
    model = tiny_model("llama")
    model = type(model).wrap(model.tl, name=model.name, prepend_bos=False)
    with pytest.raises(LensFVError, match="text 1 has no tokens"):
        kl_to_base(model, some_delta(model, 0.1), ["Q", ""])


def test_sentences_are_filled():
    texts = true_sentences(load_entities("popular"))
    assert len(texts) == 120
    assert "The capital of Italy is Rome." in texts
