"""Tokenisation of prompts and their answers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lens_fv.core.choices import checked
from lens_fv.errors import LensFVError
from lens_fv.tasks.prompts import Prompt


@runtime_checkable
class Encoder(Protocol):
    """The part of a `LensModel` that encoding needs; this minimal protocol avoids importing torch here."""

    name: str
    n_ctx: int

    def encode(self, text: str, *, bos: bool | None = None) -> list[int]:
        """Token ids of a text."""
        ...


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids of a prompt (with the beginning-of-sequence token if the model uses one) and of each acceptable answer.

    `answers` is in the order of `Prompt.answers`, the primary answer first.
    """

    tokens: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    @property
    def first_tokens(self) -> frozenset[int]:
        """First tokens of the acceptable answers."""
        return frozenset(answer[0] for answer in self.answers)


@checked
def encode_prompt(model: Encoder, prompt: Prompt) -> EncodedPrompt:
    """Tokenise a prompt and its answers in context.

    An answer's tokens are those that follow the text's own tokens when text and answer are tokenised together. If the tokenizer
    merges across the boundary, the answer is tokenised alone, with its leading space.

    Raises:
        LensFVError: an answer has no tokens, or prompt and answer exceed the model's context.

    Example:
        >>> prompt = lens_fv.tasks.zero_shot(lens_fv.Pair('hot', ('cold',)))
        >>> encoded = lens_fv.tasks.encode_prompt(model, prompt)
        >>> ''.join(map(model.decode, encoded.answers[0]))
        ' cold'
    """
    tokens = model.encode(prompt.text)
    answers = [_answer_tokens(model, prompt.text, tokens, answer) for answer in prompt.answers]
    for text, answer in zip(prompt.answers, answers, strict=True):
        if not answer:
            raise LensFVError(f"the answer {text!r} to {prompt.query.input!r} has no tokens in {model.name}")
    longest = max(map(len, answers))
    if len(tokens) + longest > model.n_ctx:
        shots = len(prompt.demonstrations)
        hint = f"use fewer than {shots} shots" if shots else "shorten the input"
        raise LensFVError(
            f"the prompt for {prompt.query.input[:40]!r} has {len(tokens)} tokens and its answer up to {longest}, "
            f"{model.name} reads {model.n_ctx} at most; {hint}"
        )
    return EncodedPrompt(tokens=tuple(tokens), answers=tuple(answers))


@checked
def encode_prompts(model: Encoder, prompts: Iterable[Prompt]) -> list[EncodedPrompt]:
    """Apply `encode_prompt` to each prompt.

    Example:
        >>> prompts = [lens_fv.tasks.zero_shot(pair) for pair in task.pairs[:3]]
        >>> len(lens_fv.tasks.encode_prompts(model, prompts))
        3
    """
    return [encode_prompt(model, prompt) for prompt in prompts]


def _answer_tokens(model: Encoder, text: str, tokens: list[int], answer: str) -> tuple[int, ...]:
    full = model.encode(text + answer)
    if full[: len(tokens)] == tokens:
        return tuple(full[len(tokens) :])
    return tuple(model.encode(answer, bos=False))
