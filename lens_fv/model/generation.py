"""Text that a model writes: right under every version of TransformerLens and transformers, edited or not.

Prompts of one length run together and are never padded, so that an edit falls on the same token of each, wherever it counts
from. A `TransformerBridge` generates through transformers' own `generate`; a `HookedTransformer` has none, and runs the whole
text again for each token.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_fv.errors import LensFVError
from lens_fv.model.cache import keeps_cache, transformers_generate
from lens_fv.model.exclusive import exclusive
from lens_fv.model.finite import not_finite
from lens_fv.model.measuring import measuring

Prompts = Sequence[str] | Sequence[Sequence[int]] | Mapping[str, Any]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the names are those of transformers' `generate`.

    Attributes:
        max_new_tokens: tokens to write at most; an end-of-sequence token ends the text before.
        do_sample: draw the next token; otherwise the likeliest one is taken.
        temperature: divides the logits before a draw.
        top_k: draw among that many tokens; 0: among all.
        top_p: draw among the fewest tokens that have this probability together.
        seed: seed of the draws.
    """

    max_new_tokens: int
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what would be another request in silence."""
        if self.max_new_tokens < 1 or self.top_k < 0 or not 0 < self.top_p <= 1 or not 0 < self.temperature < float("inf"):
            raise LensFVError(
                f"generate with {self}: give max_new_tokens of at least 1, a temperature above 0, "
                "top_k of at least 0, and top_p above 0 and at most 1"
            )

    def options(self) -> dict[str, Any]:
        """What transformers' `generate` is told."""
        drawn = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p} if self.do_sample else {}
        return {"max_new_tokens": self.max_new_tokens, "do_sample": self.do_sample, **drawn}


class Generation:
    """How far a text is, for hooks that must know which tokens a pass runs over."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt
        self.past = 0
        """Tokens that the pass now running finds in its cache."""

    def span(self, position: int, width: int) -> slice:
        """Where an edit at a position of the prompt falls in a pass of that width.

        The last token is each new one in turn, as in Todd et al.'s code: the edit falls on the prompt's last and all after it.
        """
        first = (self.prompt if position < 0 else 0) + position
        end = self.past + width if position == -1 else first + 1
        return slice(*(min(max(at - self.past, 0), width) for at in (first, end)))


def token_span(generation: Generation, position: int, width: int) -> slice:
    """Where an edit at that position falls in the pass now running, which has that many tokens.

    Raises:
        LensFVError: the text has no such token.
    """
    length = generation.prompt
    if not -length <= position < length:
        raise LensFVError(f"edit at position {position}: the text has {length} tokens")
    return generation.span(position, width)


@torch.no_grad()
def generate_tokens(
    model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, *, use_cache: bool | None = None
) -> list[list[int]]:
    """New tokens of each prompt, up to and with the first end-of-sequence token.

    Args:
        model: a `LensModel`.
        prompts: token ids, of any lengths.
        sampling: how the next token is chosen.
        use_cache: keep keys and values, or run the whole text again for every token; None: keep them where that is right.

    Raises:
        LensFVError: an empty prompt, or one that grows longer than the context.
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
    written: dict[int, list[int]] = {}
    with measuring(model), torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(sampling.seed)
        for length, group in groups.items():
            tokens = torch.tensor([list(prompts[i]) for i in group], device=model.device)
            border = model.rotary_border
            crosses = border is not None and length <= border < length + sampling.max_new_tokens
            # Keys that were kept of a text within the border are not those of the same text beyond it.
            cached = keep and not (crosses and use_cache is None)
            with _generating(model, length):
                if model.backend == "bridge":
                    with _passes_counted(model):
                        text = transformers_text(model, model.tl.original_model, tokens, sampling, use_cache=cached)
                else:
                    text = _by_the_loop(model, tokens, sampling)
            new = text[:, length:].tolist()
            written |= {i: _ended(row, end_tokens(model)) for i, row in zip(group, new, strict=True)}
    return [written[i] for i in range(len(prompts))]


def end_tokens(model: Any) -> list[int]:
    """The tokens that end a text: those of the model's own generation settings, else its tokenizer's."""
    settings = getattr(getattr(model.tl, "original_model", None), "generation_config", None)
    found = getattr(settings, "eos_token_id", None)
    found = model.tokenizer.eos_token_id if found is None else found
    return [] if found is None else list(found) if isinstance(found, list | tuple) else [found]


def unpadded(batch: Mapping[str, Any]) -> list[list[int]]:
    """The rows of a tokenizer's batch without their padding, whichever side it is on.

    Raises:
        LensFVError: the batch has no `input_ids` or no `attention_mask`.
    """
    missing = [name for name in ("input_ids", "attention_mask") if name not in batch]
    if missing:
        raise LensFVError(f"generate from a batch without {' and '.join(missing)}: padding cannot be told from text")
    rows = zip(*(torch.as_tensor(batch[name]).tolist() for name in ("input_ids", "attention_mask")), strict=True)
    return [[token for token, seen in zip(row, mask, strict=True) if seen] for row, mask in rows]


@contextmanager
def _generating(model: Any, length: int) -> Iterator[None]:
    with exclusive(model) as gate:
        gate.put(vars(model), "generation", Generation(length))
        yield


@contextmanager
def _passes_counted(model: Any) -> Iterator[None]:
    """Inside the block `model.generation` knows what each pass of the transformers model finds in its cache.

    Raises:
        LensFVError: logits that are not finite: their argmax would be a token like any other.
    """
    hf, passes = model.tl.original_model, 0

    def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:  # noqa: ARG001
        nonlocal passes
        model.generation.past = model.generation.prompt + passes - kwargs["input_ids"].shape[1]
        passes += 1

    def check(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:  # noqa: ARG001
        finite = output.logits[:, -1].amax(-1).isfinite().tolist()
        if not all(finite):
            at = finite.index(False)
            row, options = kwargs["input_ids"][at], {"input_ids": kwargs["input_ids"][at : at + 1], "use_cache": False}
            after.remove()
            raise not_finite(model, "text", row.tolist(), prompt=at, run=lambda: hf(**options).logits)

    with exclusive(model) as gate:
        gate.put_hooks(hf)
        hf.register_forward_pre_hook(count, with_kwargs=True)
        after = hf.register_forward_hook(check, with_kwargs=True)
        yield


def transformers_text(
    model: Any, hf: Any, tokens: Int[Tensor, "rows pos"], sampling: Sampling, *, use_cache: bool
) -> Int[Tensor, "rows text"]:
    """Prompts of one length and what transformers' `generate` writes after them.

    Args:
        model: a `LensModel`, for the tokens that end a text.
        hf: the transformers model that writes.
        tokens: prompts without padding.
        sampling: how the next token is chosen.
        use_cache: keep keys and values.
    """
    ends = end_tokens(model)
    ending = {"eos_token_id": ends, "pad_token_id": ends[0]} if ends else {}
    return transformers_generate(hf, tokens, use_cache=use_cache, **ending, **sampling.options())


def _by_the_loop(model: Any, tokens: Int[Tensor, "rows pos"], sampling: Sampling) -> Int[Tensor, "rows text"]:
    """One whole pass for each token: what generation means, and all that a `HookedTransformer` needs."""
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


def _ended(tokens: list[int], ends: Sequence[int]) -> list[int]:
    at = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: at + 1]
