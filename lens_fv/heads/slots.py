"""Mean head outputs at every slot of a few-shot prompt."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.model.lens_model import Hook, LensModel
from lens_fv.tasks import TODD, Prompt, PromptTemplate, encode_prompts
from lens_fv.tasks.token_classes import Place, token_classes


def slot_means(
    model: LensModel, prompts: Sequence[Prompt], *, template: PromptTemplate = TODD, tick: Callable[[], None] = lambda: None
) -> dict[Place, Float[Tensor, "layers heads d_head"]]:
    """Mean head outputs (before the output projection) at every slot of few-shot prompts.

    Outputs are averaged first over the tokens of a word, then over the prompts that have the slot (Todd et al. 2024).
    """
    total: dict[Place, Tensor] = {}
    counts: dict[Place, int] = defaultdict(int)
    for prompt, encoded in zip(prompts, encode_prompts(model, prompts), strict=True):
        z = _head_outputs(model, encoded.tokens)
        at: dict[Place, list[int]] = defaultdict(list)
        for position, slot in enumerate(token_classes(model, prompt, template=template).slots):
            if slot is not None:
                at[slot].append(position)
        for slot, positions in at.items():
            total[slot] = total.get(slot, 0) + z[:, positions].mean(1)
            counts[slot] += 1
        tick()
    return {slot: z / counts[slot] for slot, z in total.items()}


def _head_outputs(model: LensModel, tokens: Sequence[int]) -> Float[Tensor, "layers tokens heads d_head"]:
    outputs = torch.zeros(model.n_layers, len(tokens), model.n_heads, model.d_head, device=model.device)

    def keep(layer: int) -> Hook:
        def hook(z: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            outputs[layer] = z[0].float().reshape(outputs.shape[1:])
            return z

        return f"blocks.{layer}.attn.hook_z", hook

    model.run_body(torch.tensor([list(tokens)]), [keep(layer) for layer in model.attention_layers])
    return outputs
