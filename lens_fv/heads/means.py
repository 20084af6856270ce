"""Mean outputs of heads over clean prompts, at the last token or at every slot of a few-shot prompt."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.choices import checked
from lens_fv.core.progress import progress_bar
from lens_fv.model.lens_model import Hook, LensModel
from lens_fv.tasks import TODD, Prompt, PromptTemplate, encode_prompts
from lens_fv.tasks.token_classes import TemplatePosition, token_classes

TOKENS = 1024
"""Number of tokens per batch: few enough for a small machine, enough to keep a large one busy."""


class HeadMeans(NamedTuple):
    """Averages over prompts at the last token.

    Attributes:
        z: Each head's output before the output projection; 0 in layers without attention heads.
        post_attn_gain: Gain per channel from attention's output to the residual stream: 1, except in models with a norm after
            attention (Gemma 2 and 3), where it is that norm's gain on these prompts.
        resid_norm: Norm of the residual stream after each layer.
    """

    z: Float[Tensor, "layers heads d_head"]
    post_attn_gain: Float[Tensor, "layers d_model"]
    resid_norm: Float[Tensor, " layers"]


@checked
def head_means(model: LensModel, prompts: Sequence[Sequence[int]], *, progress: bool = False) -> HeadMeans:
    r"""Mean head outputs, attention gains and residual norms at the last token of `prompts` (token ids).

    Example:
        >>> prompts = [model.encode('Q: hot\nA:'), model.encode('Q: big\nA:')]
        >>> lens_fv.heads.head_means(model, prompts).z.shape  # layers, heads, d_head
        torch.Size([3, 4, 8])
    """
    with progress_bar("mean head outputs", len(prompts), show=progress) as tick:
        return head_outputs(model, prompts, tick=tick)[0]


def head_outputs(
    model: LensModel, prompts: Sequence[Sequence[int]], *, tick: Callable[[], None] = lambda: None
) -> tuple[HeadMeans, Float[Tensor, "prompts layers heads d_head"]]:
    """`head_means` and the head outputs of every single prompt; `tick` is called after each prompt."""
    last = last_tokens(model, prompts, tick=tick)
    # `post_attn_gain` is the least-squares gain from the sum of the heads to what the residual stream receives. It is exact
    # where the gain is constant, and needs no knowledge of the norm.
    post_attn_gain = torch.zeros(model.n_layers, model.d_model, device=model.device)
    for layer in model.attention_layers:
        summed = model.head_write(layer, last.z[:, layer], include_bias=True).float()
        post_attn_gain[layer] = (summed * last.attn_out[:, layer]).sum(0) / summed.square().sum(0).clamp(min=1e-30)
    return HeadMeans(last.z.mean(0), post_attn_gain, last.resid.norm(dim=-1).mean(0)), last.z


@checked
def resid_states(model: LensModel, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "prompts layers d_model"]:
    r"""The residual stream after each layer, at the last token of each of `prompts` (token ids), in single precision.

    Example:
        >>> lens_fv.heads.resid_states(model, [model.encode('Q: hot\nA:')]).shape
        torch.Size([1, 3, 32])
    """
    return last_tokens(model, prompts, heads=False).resid


@checked
def resid_norms(model: LensModel, prompts: Sequence[Sequence[int]]) -> Float[Tensor, " layers"]:
    r"""Mean norm of the residual stream after each layer, at the last token of `prompts`.

    It is the unit of learning rates, norms and scales, because it differs a hundredfold between models.

    Example:
        >>> lens_fv.heads.resid_norms(model, [model.encode('Q: hot\nA:')]).shape
        torch.Size([3])
    """
    return resid_states(model, prompts).norm(dim=-1).mean(0).cpu()


class LastTokens(NamedTuple):
    """Activations at the last token of every prompt, in single precision.

    Attributes:
        z: Each head's output before the output projection; 0 in layers without attention heads.
        attn_out: Attention's contribution to the residual stream.
        resid: Residual stream after each layer.
    """

    z: Float[Tensor, "prompts layers heads d_head"]
    attn_out: Float[Tensor, "prompts layers d_model"]
    resid: Float[Tensor, "prompts layers d_model"]


def last_tokens(
    model: LensModel, prompts: Sequence[Sequence[int]], *, heads: bool = True, tick: Callable[[], None] = lambda: None
) -> LastTokens:
    """Run prompts (token ids) and return the activations at their last tokens; `heads=False` keeps only the residual stream.

    Prompts of similar length form a batch. They are padded on the right, which a causal decoder never attends to.
    """
    n, layers = len(prompts), model.n_layers
    z = torch.zeros(n, layers, model.n_heads, model.d_head, device=model.device)
    attn_out, resid = (torch.zeros(n, layers, model.d_model, device=model.device) for _ in range(2))
    sites = [("hook_resid_post", resid, range(layers))]
    if heads:
        sites += [("attn.hook_z", z.flatten(2), model.attention_layers), ("hook_attn_out", attn_out, model.attention_layers)]
    for rows in _batches(prompts, model.rotary_border):
        last = [len(prompts[row]) - 1 for row in rows]
        hooks = [
            _keep(f"blocks.{layer}.{name}", activations[:, layer], rows, last)
            for name, activations, site_layers in sites
            for layer in site_layers
        ]
        padded = [[*prompts[row], *[prompts[row][-1]] * (max(last) - at)] for row, at in zip(rows, last, strict=True)]
        model.run_body(torch.tensor(padded), [hook for hook in hooks if hook[0] in model.hook_names])
        for _ in rows:
            tick()
    return LastTokens(z, attn_out, resid)


def _keep(name: str, kept: Float[Tensor, "prompts width"], rows: list[int], positions: list[int]) -> Hook:
    def keep(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        kept[rows] = x[range(len(rows)), positions].flatten(1).float()
        return x

    return name, keep


def input_states(model: LensModel, tokens: Sequence[int]) -> Float[Tensor, "tokens d_model"]:
    """The residual stream before the first layer at every token of a prompt, in single precision."""
    states: list[Tensor] = []

    def keep(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        states.append(x[0].float())
        return x

    model.run_body(torch.tensor([list(tokens)]), [("blocks.0.hook_resid_pre", keep)])
    return states[0]


def _batches(prompts: Sequence[Sequence[int]], border: int | None) -> list[list[int]]:
    """Group prompt indices into batches of similar length that do not cross the border of `rotary_border`."""
    batches: list[list[int]] = []
    for row in sorted(range(len(prompts)), key=lambda row: len(prompts[row])):
        crosses = border is not None and batches and len(prompts[batches[-1][0]]) <= border < len(prompts[row])
        if not batches or crosses or (len(batches[-1]) + 1) * len(prompts[row]) > TOKENS:
            batches.append([])
        batches[-1].append(row)
    return batches


def slot_means(
    model: LensModel, prompts: Sequence[Prompt], *, template: PromptTemplate = TODD, tick: Callable[[], None] = lambda: None
) -> dict[TemplatePosition, Float[Tensor, "layers heads d_head"]]:
    """Mean head outputs (before the output projection) at every slot of few-shot prompts.

    Outputs are averaged first over the tokens of a word, then over the prompts that have the slot (Todd et al. 2024).
    """
    total: dict[TemplatePosition, Tensor] = {}
    counts: dict[TemplatePosition, int] = defaultdict(int)
    for prompt, encoded in zip(prompts, encode_prompts(model, prompts), strict=True):
        z = _all_tokens(model, encoded.tokens)
        positions: dict[TemplatePosition, list[int]] = defaultdict(list)
        for position, slot in enumerate(token_classes(model, prompt, template=template).slots):
            if slot is not None:
                positions[slot].append(position)
        for slot, own in positions.items():
            total[slot] = total.get(slot, 0) + z[:, own].mean(1)
            counts[slot] += 1
        tick()
    return {slot: z / counts[slot] for slot, z in total.items()}


def _all_tokens(model: LensModel, tokens: Sequence[int]) -> Float[Tensor, "layers tokens heads d_head"]:
    """Head outputs at every token of one prompt."""
    z = torch.zeros(model.n_layers, len(tokens), model.n_heads, model.d_head, device=model.device)

    def keep(layer: int) -> Hook:
        def hook(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            z[layer] = x[0].float().reshape(z.shape[1:])
            return x

        return f"blocks.{layer}.attn.hook_z", hook

    model.run_body(torch.tensor([list(tokens)]), [keep(layer) for layer in model.attention_layers])
    return z
