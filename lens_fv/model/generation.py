"""Text generation, correct under every supported version of TransformerLens and transformers, with or without edits.

Prompts of equal length run together without padding, so that an edit falls on the same token of each, counted from either end.
A `TransformerBridge` generates through transformers' own `generate`; a `HookedTransformer` has none and runs the whole text
again for each token.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.core.choices import Count, Natural, Positive, PositiveShare, Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.model.cache import keeps_cache, transformers_generate
from lens_fv.model.exclusive import exclusive
from lens_fv.model.finite import not_finite
from lens_fv.model.gate import Gate
from lens_fv.model.measuring import measuring

Prompts = Sequence[str] | Sequence[Sequence[int]] | Mapping[str, Any]


@checked
@dataclass(frozen=True)
class Sampling:
    """Options for choosing the next token, named as in transformers' `generate`; see `LensModel.generate`."""

    max_new_tokens: Count
    do_sample: bool = False
    temperature: Positive = 1.0
    top_k: Natural = 0
    top_p: PositiveShare = 1.0
    seed: Seed = 0

    def options(self) -> dict[str, Any]:
        """Keyword arguments for transformers' `generate`."""
        warpers = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p} if self.do_sample else {}
        return {"max_new_tokens": self.max_new_tokens, "do_sample": self.do_sample, **warpers}


class GenerateOptions(TypedDict, total=False):
    """Keywords of `LensModel.generate`, for type checkers."""

    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    seed: int
    use_cache: bool | None


class Generation:
    """Progress of a text, for hooks that need to know which tokens a pass covers."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt
        self.past = 0
        """Number of tokens in the cache of the current pass."""

    def span(self, position: int, width: int) -> slice:
        """Locate an edit at a prompt position in the current pass of `width` tokens.

        An edit at the last token also applies to every new token, as in Todd et al.'s code.

        Raises:
            LensFVError: no such token in the prompt.
        """
        if not -self.prompt <= position < self.prompt:
            raise LensFVError(f"edit at position {position}: the text has {self.prompt} tokens")
        first = (self.prompt if position < 0 else 0) + position
        end = self.past + width if position == -1 else first + 1
        return slice(*(min(max(at - self.past, 0), width) for at in (first, end)))


@torch.no_grad()
def generate_tokens(
    model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, *, use_cache: bool | None = None
) -> list[list[int]]:
    """Generate new tokens for each prompt, up to and including the first end-of-sequence token.

    Args:
        model: A `LensModel`.
        prompts: Token ids, of any lengths.
        sampling: Options for choosing the next token.
        use_cache: Keep keys and values, or run the whole text again for every token; None: keep them where that is correct.

    Raises:
        LensFVError: an empty prompt, or one that would exceed the context.
    """
    keep = use_cache if use_cache is not None else model.backend == "bridge" and keeps_cache(model)
    groups: dict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        if not prompt or len(prompt) + sampling.max_new_tokens > model.n_ctx:
            raise LensFVError(
                f"generate {sampling.max_new_tokens} tokens after a prompt of {len(prompt)}: {model.name} reads {model.n_ctx} "
                "in all; give at least one token, and leave room for the new ones"
            )
        groups[len(prompt)].append(i)
    new_tokens: dict[int, list[int]] = {}
    with measuring(model), torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(sampling.seed)
        for length, group in groups.items():
            tokens = torch.tensor([list(prompts[i]) for i in group], device=model.device)
            border = model.rotary_border
            crosses = border is not None and length <= border < length + sampling.max_new_tokens
            # Keys cached for a text within the border differ from those of the same text beyond it.
            cached = keep and not (crosses and use_cache is None)
            with exclusive(model) as gate:
                gate.put(vars(model), "generation", Generation(length))
                if model.backend == "bridge":
                    _watch_passes(model, gate)
                    texts = transformers_text(model, model.tl.original_model, tokens, sampling, use_cache=cached)
                else:
                    texts = _text_by_loop(model, tokens, sampling)
            for i, new in zip(group, texts[:, length:].tolist(), strict=True):
                new_tokens[i] = _cut_after_end(new, end_tokens(model))
    return [new_tokens[i] for i in range(len(prompts))]


def end_tokens(model: Any) -> list[int]:
    """Tokens that end a text, from the model's generation settings or else its tokenizer."""
    settings = getattr(getattr(model.tl, "original_model", None), "generation_config", None)
    tokens = getattr(settings, "eos_token_id", None)
    if tokens is None:
        tokens = model.tokenizer.eos_token_id
    if tokens is None:
        return []
    return list(tokens) if isinstance(tokens, list | tuple) else [tokens]


def unpadded(batch: Mapping[str, Any]) -> list[list[int]]:
    """Remove the padding from the rows of a tokenizer's batch, on either side.

    Raises:
        LensFVError: a batch without `input_ids` or `attention_mask`.
    """
    missing = [name for name in ("input_ids", "attention_mask") if name not in batch]
    if missing:
        raise LensFVError(f"generate from a batch without {' and '.join(missing)}: padding cannot be told from text")
    rows = zip(*(torch.as_tensor(batch[name]).tolist() for name in ("input_ids", "attention_mask")), strict=True)
    return [[token for token, seen in zip(row, mask, strict=True) if seen] for row, mask in rows]


def _watch_passes(model: Any, gate: Gate) -> None:
    """Keep `model.generation` up to date with the cache of each pass of the transformers model, and check its logits.

    Raises:
        LensFVError: non-finite logits, as their argmax would look like any other token.
    """
    hf, passes = model.tl.original_model, 0

    def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:  # noqa: ARG001
        nonlocal passes
        model.generation.past = model.generation.prompt + passes - kwargs["input_ids"].shape[1]
        passes += 1

    def check(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:  # noqa: ARG001
        finite = output.logits[:, -1].amax(-1).isfinite().tolist()
        if not all(finite):
            prompt = finite.index(False)
            row = kwargs["input_ids"][prompt : prompt + 1]
            check_hook.remove()
            raise not_finite(
                model, "text", row[0].tolist(), prompt=prompt, run=lambda: hf(input_ids=row, use_cache=False).logits
            )

    gate.add_hook(hf, count, before=True, with_kwargs=True)
    check_hook = gate.add_hook(hf, check, with_kwargs=True)


def transformers_text(
    model: Any, hf: Any, tokens: Int[Tensor, "rows pos"], sampling: Sampling, *, use_cache: bool
) -> Int[Tensor, "rows text"]:
    """Extend prompts of equal length by transformers' `generate`.

    Args:
        model: A `LensModel`, for the tokens that end a text.
        hf: Transformers model that generates.
        tokens: Prompts without padding.
        sampling: Options for choosing the next token.
        use_cache: Keep keys and values.
    """
    ends = end_tokens(model)
    ending = {"eos_token_id": ends, "pad_token_id": ends[0]} if ends else {}
    return transformers_generate(hf, tokens, use_cache=use_cache, **ending, **sampling.options())


def _text_by_loop(model: Any, tokens: Int[Tensor, "rows pos"], sampling: Sampling) -> Int[Tensor, "rows text"]:
    """Generate by one full pass per token, the reference method and the only one for a `HookedTransformer`."""
    ends = torch.tensor(end_tokens(model), device=tokens.device)
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    for _ in range(sampling.max_new_tokens):
        new = _next_token(model.forward(tokens)[:, -1].float(), tokens, sampling)
        tokens = torch.cat([tokens, new[:, None]], 1)
        ended |= torch.isin(new, ends)
        if bool(ended.all()):
            break
    return tokens


def _next_token(logits: Float[Tensor, "rows vocab"], tokens: Tensor, sampling: Sampling) -> Int[Tensor, " rows"]:
    from transformers.generation import logits_process as lp

    if not sampling.do_sample:
        return logits.argmax(-1)
    warpers: list[Any] = [lp.TemperatureLogitsWarper(sampling.temperature)]
    warpers += [lp.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    warpers += [lp.TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    for warper in warpers:
        logits = warper(tokens, logits)
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]


def _cut_after_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    first_end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: first_end + 1]
