"""The keys and values that a transformers model keeps, by whichever name its version has for them.

Transformers 5.24 renamed `past_key_values` to `cache` in every forward and every output. The name is chosen here and nowhere
else.
"""

import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lens_fv.model.exclusive import exclusive
from lens_fv.model.measuring import measuring
from lens_fv.model.quiet import quiet_transformers

NAMES = ("cache", "past_key_values")
"""From the newest."""

log = logging.getLogger("lens_fv")


def cache_argument(forward: Callable[..., Any], cache: Any) -> dict[str, Any]:
    """The keyword argument that hands a forward its cache.

    Example:
        >>> cache_argument(lambda input_ids, past_key_values=None: None, None)
        {'past_key_values': None}
        >>> cache_argument(lambda input_ids, cache=None: None, None)
        {'cache': None}
    """
    taken = inspect.signature(forward).parameters
    return {next((name for name in NAMES if name in taken), NAMES[-1]): cache}


def cache_of(output: Mapping[str, Any]) -> Any:
    """The cache in a model's output; None if it keeps none under these names."""
    # Its keys, not its attributes or `in`: asking for a renamed one warns.
    keys = list(output.keys())
    return next((output[name] for name in NAMES if name in keys), None)


def run_body(body: nn.Module, tokens: Tensor, seen: Tensor, positions: Tensor, cache: Any) -> Any:
    """A pass of a model without its unembedding that reads from a cache and adds to it.

    Args:
        body: transformers' `base_model`.
        tokens: new token ids, "rows tokens".
        seen: which of all tokens are no padding, "rows keys".
        positions: where the new tokens stand, "rows tokens".
        cache: what came before; None: nothing did.
    """
    passed = cache_argument(body.forward, cache)
    return body(input_ids=tokens, attention_mask=seen.long(), position_ids=positions, use_cache=True, **passed)


def pass_cache_on(tl: Any) -> None:
    """Make what TransformerLens has written anew of a model's layers find the cache that transformers hands them.

    Up to 4.3, TransformerLens looks for it under the old names only. Under the new one every token that comes after the prompt
    attends to itself alone, and a recurrent layer forgets the prompt (docs/upstream.md). Components that run transformers' own
    layers take the new name themselves.
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
    # `verify` puts transformers' own forward in the place of TransformerLens'; that one takes either name, and warns of both.
    if kwargs.get(new) is None or "forward" in vars(module):
        return args, kwargs
    return args, {**kwargs, old: kwargs[new]}


def _native_with_cache(module: Any, *args: Any, **kwargs: Any) -> Any:
    forward = module._native_forward if kwargs.get("cache") is not None else partial(type(module)._hooked_forward, module)
    return forward(*args, **kwargs)


@torch.no_grad()
def keeps_cache(model: Any) -> bool:
    """Whether a bridge computes with its cache what it computes without; asked once a model, of three new tokens.

    Args:
        model: a `LensModel` on a `TransformerBridge`.
    """
    if model.cache_is_right is None:
        n = min(12 if model.window is None or model.window > 256 else model.window + 5, model.n_ctx - 3)
        tokens = torch.randint(model.d_vocab, (1, n), generator=torch.Generator().manual_seed(0)).to(model.device)
        options = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        with measuring(model), hooks_off(model.tl):
            written = transformers_generate(model.tl.original_model, tokens, use_cache=True, **options)
            whole = model.forward(written.sequences[:, :-1])[:, n - 1 :].float().softmax(-1)
        error = float((torch.stack(written.logits, 1).float().softmax(-1) - whole).abs().max())
        model.cache_is_right = error <= model.tolerance
        if not model.cache_is_right:
            log.warning("%s: its cache is off by %.1e in probability; text is generated without it", model.name, error)
    return model.cache_is_right


def transformers_generate(hf: Any, tokens: Tensor, **options: Any) -> Any:
    """Run transformers' `generate` on prompts without padding, as these options say.

    The model's own generation settings are left aside: with a penalty on repetitions, say, greedy text would not be the
    likeliest token each time. Without `eos_token_id` nothing ends a text.
    """
    from transformers import GenerationConfig

    with measuring(hf) as gate, quiet_transformers():
        gate.put(vars(hf), "generation_config", GenerationConfig())
        return hf.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), **{"pad_token_id": 0, **options})


@contextmanager
def hooks_off(tl: Any) -> Iterator[None]:
    """Inside the block no hook of TransformerLens runs; after it all do that did before."""
    with exclusive(tl, "has its hooks off") as gate:
        for point in set(tl.hook_dict.values()):
            gate.put(vars(point), "_forward_hooks", OrderedDict())
        yield
