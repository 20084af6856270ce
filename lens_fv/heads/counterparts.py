"""Uninformative counterparts: texts that resemble an instruction but do not state its task."""

import random
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lens_fv.core.choices import Seed, checked
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel

Counterpart = Literal["none", "other", "real_text", "half", "equiprobable"]
NEAREST = 16
"""Number of tokens nearest in log-probability from which one is drawn."""
WINDOWS = 64


@checked
@torch.no_grad()
def counterpart_text(
    model: LensModel,
    instruction: str,
    kind: Counterpart,
    *,
    others: Sequence[str] = (),
    text: str | None = None,
    seed: Seed = 0,
) -> str | None:
    """Make an uninformative counterpart of an instruction (Davidson et al. 2025).

    Args:
        model: Model that supplies tokens and log-probabilities.
        instruction: The instruction.
        kind: "none": no text; "other": another task's instruction; "real_text": a passage of running text with the same
            number of tokens and the nearest mean log-probability; "equiprobable": random tokens, each about as likely in its
            context as the instruction's token at that position; "half": the same for a random half of the tokens, with the
            others kept.
        others: Instructions of other tasks to draw from.
        text: Running text to choose from; default: English prose that comes with lens_fv.
        seed: Seed of all random draws.

    Raises:
        LensFVError: no other instruction is given, or the text is too short.

    Example:
        >>> lens_fv.heads.counterpart_text(model, 'Say the opposite.', 'other', others=['Translate to French.'])
        'Translate to French.'
    """
    if kind == "none":
        return None
    rng = random.Random(f"{seed}/{kind}/{instruction}")
    if kind == "other":
        different = [other for other in others if other != instruction]
        if not different:
            raise LensFVError(f"another instruction than {instruction!r}: {len(others)} are given; give those of other tasks")
        return rng.choice(different)
    ids = model.encode(instruction, bos=False)
    if kind == "real_text":
        return _similar_passage(model, ids, text or plain_text(), rng)
    kept = set(rng.sample(range(len(ids)), len(ids) // 2)) if kind == "half" else set[int]()
    return _equiprobable(model, ids, kept, rng)


@cache
def plain_text() -> str:
    """English prose on no particular subject, written for lens_fv (CC0)."""
    return " ".join((files("lens_fv.heads") / "plain_text.txt").read_text(encoding="utf-8").split())


def _similar_passage(model: LensModel, ids: Sequence[int], text: str, rng: random.Random) -> str:
    words, n = text.split(), len(ids)
    starts = rng.sample(range(len(words)), min(WINDOWS, len(words)))
    windows = [model.encode(" ".join(words[start : start + n]), bos=False)[:n] for start in starts]
    windows = [window for window in windows if len(window) == n]
    if not windows:
        raise LensFVError(f"running text of {n} tokens like an instruction: the text has {len(words)} words; give more")
    distances = (_logprobs(model, windows).mean(-1) - _logprobs(model, [ids]).mean()).abs()
    return _text(model, windows[int(distances.argmin())])


def _equiprobable(model: LensModel, ids: Sequence[int], kept: set[int], rng: random.Random) -> str:
    expected, special = _logprobs(model, [ids])[0], set(model.tokenizer.all_special_ids)
    drawn: list[int] = []
    for i, own in enumerate(ids):
        if i in kept:
            drawn.append(own)
            continue
        distance = (_next_logprobs(model, drawn) - expected[i]).abs()
        distance[[own, *special]] = torch.inf
        near: list[int] = distance.topk(NEAREST, largest=False).indices.tolist()
        rng.shuffle(near)
        # Prefer tokens that survive a round trip through the tokenizer.
        stable = (t for t in near if model.encode(_text(model, [*drawn, t]), bos=False) == [*drawn, t])
        drawn.append(next(stable, near[0]))
    return _text(model, drawn)


def _text(model: LensModel, ids: Sequence[int]) -> str:
    return str(model.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _first_token(model: LensModel) -> list[int]:
    """The token before a text: beginning of sequence, else end of sequence, else token 0, since a model needs some input."""
    tokenizer = model.tokenizer
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [0 if token is None else int(token)]


def _logprobs(model: LensModel, texts: Sequence[Sequence[int]]) -> Float[Tensor, "texts tokens"]:
    """Log-probability of each token given those before it; all texts have the same number of tokens."""
    rows = torch.tensor([list(ids) for ids in texts], device=model.device)
    first = rows.new_tensor(_first_token(model)).expand(len(rows), 1)
    logits = model.forward(torch.cat([first, rows[:, :-1]], 1)).float()
    return logits.log_softmax(-1).gather(-1, rows[..., None])[..., 0]


def _next_logprobs(model: LensModel, ids: Sequence[int]) -> Float[Tensor, " vocab"]:
    return model.forward(torch.tensor([[*_first_token(model), *ids]]))[0, -1].float().log_softmax(-1)
