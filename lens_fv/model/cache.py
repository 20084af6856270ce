"""The key-value cache of transformers models, under the name that the installed version uses.

Transformers 5.24 renamed `past_key_values` to `cache` in every forward and every output. Only this module chooses the name.
It also knows the length at which the keys in the cache change.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lens_fv.model.exclusive import hooks_off
from lens_fv.model.measuring import measuring
from lens_fv.model.quiet import quiet_transformers

NAMES = ("cache", "past_key_values")
"""Names of the cache, the newest first."""

log = logging.getLogger("lens_fv")


def cache_argument(forward: Callable[..., Any], cache: Any) -> dict[str, Any]:
    """Return the keyword argument that passes a cache to a forward.

    Example:
        >>> cache_argument(lambda input_ids, past_key_values=None: None, None)
        {'past_key_values': None}
        >>> cache_argument(lambda input_ids, cache=None: None, None)
        {'cache': None}
    """
    parameters = inspect.signature(forward).parameters
    return {next((name for name in NAMES if name in parameters), NAMES[-1]): cache}


def cache_of(output: Mapping[str, Any]) -> Any:
    """Return the cache in a model's output; None if the output has none under these names."""
    # Keys rather than attributes or `in`, because accessing a renamed one warns.
    keys = list(output.keys())
    return next((output[name] for name in NAMES if name in keys), None)


def run_body(body: nn.Module, tokens: Tensor, seen: Tensor, positions: Tensor, cache: Any) -> Any:
    """Run a model without its unembedding, reading from a cache and extending it.

    Args:
        body: Transformers' `base_model`.
        tokens: New token ids, "rows tokens".
        seen: Mask of all tokens that are not padding, "rows keys".
        positions: Positions of the new tokens, "rows tokens".
        cache: Cache of the preceding tokens; None: no preceding tokens.
    """
    past = cache_argument(body.forward, cache)
    return body(input_ids=tokens, attention_mask=seen.long(), position_ids=positions, use_cache=True, **past)


def pass_cache_on(tl: Any) -> None:
    """Make layers that TransformerLens reimplements find the cache that transformers passes to them.

    Up to 4.3, TransformerLens knows only the old names. With the new name, every token after the prompt attends only to itself,
    and a recurrent layer forgets the prompt (docs/upstream.md). Components that run transformers' own layers accept the new
    name themselves.
    """
    from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

    for module in tl.modules():
        if isinstance(module, AttentionBridge) and type(module).forward is not AttentionBridge.forward:
            if _under_both_names not in module._forward_pre_hooks.values():
                module.register_forward_pre_hook(_under_both_names, with_kwargs=True)
        elif hasattr(module, "_hooked_forward") and hasattr(module, "_native_forward"):  # a gated delta net
            vars(module)["_hooked_forward"] = partial(_native_with_cache, module)


def _under_both_names(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    new, old = NAMES
    # `verify` replaces TransformerLens' forward by transformers' own, which accepts either name but warns about both.
    if kwargs.get(new) is None or "forward" in vars(module):
        return args, kwargs
    return args, {**kwargs, old: kwargs[new]}


def _native_with_cache(module: Any, *args: Any, **kwargs: Any) -> Any:
    forward = module._native_forward if kwargs.get("cache") is not None else partial(type(module)._hooked_forward, module)
    return forward(*args, **kwargs)


@torch.no_grad()
def keeps_cache(model: Any) -> bool:
    """Whether a bridge computes the same with and without its cache; tested once per model, on three new tokens.

    Args:
        model: A `LensModel` on a `TransformerBridge`.
    """
    if model.cache_is_right is None:
        n = min(12 if model.window is None or model.window > 256 else model.window + 5, model.n_ctx - 3)
        tokens = torch.randint(model.d_vocab, (1, n), generator=torch.Generator().manual_seed(0)).to(model.device)
        options = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        with measuring(model), hooks_off(model.tl):
            text = transformers_generate(model.tl.original_model, tokens, use_cache=True, **options)
            uncached = model.forward(text.sequences[:, :-1])[:, n - 1 :].float().softmax(-1)
        error = float((torch.stack(text.logits, 1).float().softmax(-1) - uncached).abs().max())
        model.cache_is_right = error <= model.tolerance
        if not model.cache_is_right:
            log.warning("%s: its cache is off by %.1e in probability; text is generated without it", model.name, error)
    return model.cache_is_right


def transformers_generate(hf: Any, tokens: Tensor, **options: Any) -> Any:
    """Run transformers' `generate` with these options on prompts without padding.

    The model's own generation settings are ignored: with a repetition penalty, for example, greedy decoding would not take the
    likeliest token. Without `eos_token_id`, no token ends a text.
    """
    from transformers import GenerationConfig

    with measuring(hf) as gate, quiet_transformers():
        gate.put(vars(hf), "generation_config", GenerationConfig())
        return hf.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), **{"pad_token_id": 0, **options})


def rotary_border(config: Any) -> int | None:
    """Return the number of tokens above which a text gets different rotary frequencies; None if all get the same.

    Under "longrope" (Phi 3: Ding et al. 2024), transformers uses the frequencies of long texts for a whole batch if its longest
    row exceeds the original context. Texts on different sides of this length therefore must not run together or reuse each
    other's keys. ("dynamic" frequencies change only beyond the model's context, where nothing runs.)

    Args:
        config: Configuration of a transformers model.

    Example:
        >>> from transformers import LlamaConfig
        >>> rotary_border(LlamaConfig()) is None
        True
    """
    for rope in _rope_parameters(config):
        if (rope.get("rope_type") or rope.get("type")) == "longrope":
            context = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
            if context:
                return int(context)
    return None


def _rope_parameters(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the rotary parameters of all layers, or of each type of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(config, name, None)
        if isinstance(rope, Mapping):
            yield rope
            yield from (by_type for by_type in rope.values() if isinstance(by_type, Mapping))
