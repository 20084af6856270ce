"""Text that the default model writes: transformers' own, and with a vector applied that of a loop without any cache."""

import pytest
import torch

from lens_fv.core.artefact import Provenance
from lens_fv.model.generation import Sampling, generate_tokens
from lens_fv.model.plain import plain_model
from lens_fv.vectors import FunctionVector

pytestmark = pytest.mark.real
N = 20
TEXTS = ("The capital of France is", "Q: sing\nA:")


@pytest.fixture(scope="module")
def own_text(model):
    """Greedy tokens of the transformers model without TransformerLens, one whole pass for each."""
    hf = plain_model(model)
    with torch.no_grad():
        return loop(lambda text: hf(text, use_cache=False).logits, model.encode(TEXTS[0]))


def loop(logits, prompt):
    text = list(prompt)
    for _ in range(N):
        text.append(int(logits(torch.tensor([text]))[0, -1].argmax()))
    return text[len(prompt) :]


def test_twenty_tokens_are_transformers_own(model, own_text):
    prompts = [model.encode(text) for text in TEXTS]
    assert generate_tokens(model, prompts, Sampling(N))[0] == own_text  # without the cache: `verify` in test_default_model.py
    assert model.generate(TEXTS[0]).startswith(" Paris.")
    assert model.cache_is_right


def test_a_vector_writes_what_the_loop_does(model, own_text):
    """Along a direction of the unembedding, so that it changes the text and every new token feels it."""
    direction = model.tl.unembed.W_U[:, model.encode(" London")[-1]].detach()
    vector = FunctionVector(
        provenance=Provenance.of(model, task="toy", task_hash="", prompts=[], seed=0, method="test", options={}),
        vector=30 * direction / direction.norm(),
        head_outputs=torch.zeros(0, model.d_head),
        heads=(),
        layer=20,
        resid_norm=1.0,
    )
    prompt = model.encode(TEXTS[0])

    def add(x, hook):
        return torch.cat([x[:, : len(prompt) - 1], x[:, len(prompt) - 1 :] + vector.vector], 1)

    want = loop(lambda text: model.forward(text, [("blocks.20.hook_resid_post", add)]), prompt)
    with vector.applied(model):
        assert generate_tokens(model, [prompt], Sampling(N)) == [want] != [own_text]
