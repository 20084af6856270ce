"""What heads say on average: their mean outputs over clean prompts."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.model.lens_model import Hook, LensModel
from lens_fv.progress import progress_bar


class HeadMeans(NamedTuple):
    """Averages over prompts at the last token.

    Attributes:
        z: each head's output before the output projection; 0 in layers without attention heads.
        carry: what the residual stream receives of attention's output, channel by channel: 1 everywhere, but for models
            with a norm behind attention (Gemma 2 and 3), where it is that norm's gain as met on these prompts.
        resid_norm: length of the residual stream after each layer.
    """

    z: Float[Tensor, "layers heads d_head"]
    carry: Float[Tensor, "layers d_model"]
    resid_norm: Float[Tensor, " layers"]


def head_means(model: LensModel, prompts: Sequence[Sequence[int]], *, progress: bool = False) -> HeadMeans:
    """Mean head outputs, attention gains and residual norms at the last token of `prompts` (token ids)."""
    with progress_bar("mean head outputs", len(prompts), show=progress) as tick:
        return head_outputs(model, prompts, tick=tick)[0]


def head_outputs(
    model: LensModel, prompts: Sequence[Sequence[int]], *, tick: Callable[[], None] = lambda: None
) -> tuple[HeadMeans, Float[Tensor, "prompts layers heads d_head"]]:
    """`head_means`, and every prompt's own head outputs; `tick` is called after each prompt."""
    z = torch.zeros(len(prompts), model.n_layers, model.n_heads, model.d_head, device=model.device)
    # `carry` is the least-squares gain from what the heads sum to onto what the residual stream gets, which is exact
    # where the gain is constant and needs no knowledge of the norm.
    cross = torch.zeros(model.n_layers, model.d_model, device=model.device)
    square, norm = torch.zeros_like(cross), torch.zeros(model.n_layers, device=model.device)
    for own, prompt in zip(z, prompts, strict=True):
        seen = _last_token(model, prompt, ("attn.hook_z", "hook_attn_out", "hook_resid_post"))
        for layer in model.attention_layers:
            own[layer] = seen["attn.hook_z"][layer].reshape(model.n_heads, model.d_head)
            summed = model.head_write(layer, own[layer], include_bias=True).float()
            cross[layer] += summed * seen["hook_attn_out"][layer]
            square[layer] += summed.square()
        for layer, resid in seen["hook_resid_post"].items():
            norm[layer] += resid.norm() / len(prompts)
        tick()
    return HeadMeans(z.mean(0), cross / square.clamp(min=1e-30), norm), z


def resid_states(model: LensModel, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "prompts layers d_model"]:
    """The residual stream after each layer, at the last token of each of `prompts` (token ids), in single precision."""
    seen = (_last_token(model, prompt, ("hook_resid_post",))["hook_resid_post"] for prompt in prompts)
    return torch.stack([torch.stack([states[layer] for layer in range(model.n_layers)]) for states in seen])


def resid_norms(model: LensModel, prompts: Sequence[Sequence[int]]) -> Float[Tensor, " layers"]:
    """Mean length of the residual stream after each layer, at the last token of `prompts`.

    The unit for learning rates, norms and scales: it differs a hundredfold between models.
    """
    return resid_states(model, prompts).norm(dim=-1).mean(0).cpu()


def _last_token(model: LensModel, prompt: Sequence[int], names: Sequence[str]) -> dict[str, dict[int, Tensor]]:
    """For each hook name and layer that has it, what it sees at the last token, in single precision."""
    seen: dict[str, dict[int, Tensor]] = {name: {} for name in names}

    def keep(name: str, layer: int) -> Hook:
        def hook(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            seen[name][layer] = x[0, -1].float()
            return x

        return f"blocks.{layer}.{name}", hook

    hooks = [keep(name, layer) for layer in range(model.n_layers) for name in names]
    model.run_body(torch.tensor([list(prompt)]), [hook for hook in hooks if hook[0] in model.hook_names])
    return seen
