"""Prompts of several lengths read together say what each says alone."""

from importlib.metadata import version

import pytest
import torch
from architectures import CONFIGS
from helpers import tokens

from lens_fv.heads.means import last_tokens


def keeper(kept, name):
    """A hook that keeps what it sees at the last token."""

    def keep(x, hook):
        kept[name] = x[0, -1].clone()
        return x

    return name, keep


@pytest.mark.parametrize("architecture", CONFIGS)
def test_together_is_as_alone(tiny_model, architecture):
    if architecture == "qwen3_next" and version("transformer-lens").startswith("3."):
        pytest.skip("TransformerLens 3.9 does not run its linear attention without a cache")
    model, prompts = tiny_model(architecture), [tokens(n, n) for n in (9, 3, 14, 9)]
    together = last_tokens(model, prompts)
    for i, prompt in enumerate(prompts):
        alone = last_tokens(model, [prompt])
        kept = {}
        names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.n_layers)]
        names += [f"blocks.{layer}.attn.hook_z" for layer in model.attention_layers]
        model.forward(torch.tensor([prompt]), [keeper(kept, name) for name in names])
        for name, x in kept.items():
            layer = int(name.split(".")[1])
            for found, at in ((together, i), (alone, 0)):
                own = found.resid[at, layer] if "resid" in name else found.z[at, layer].flatten()
                torch.testing.assert_close(own, x.flatten().float(), atol=1e-4, rtol=1e-4)
