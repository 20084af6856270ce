"""Prompts as tokens, and which tokens count as the answer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lens_fv.errors import LensFVError
from lens_fv.tasks.prompts import Prompt


@runtime_checkable
class Encoder(Protocol):
    """What encoding needs of a `LensModel`; asking for no more keeps torch out of this room."""

    name: str
    n_ctx: int

    def encode(self, text: str, *, bos: bool | None = None) -> list[int]:
        """Token ids of a text."""
        ...


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids of a prompt (beginning-of-sequence token as the model wants it) and of each acceptable answer.

    `answers` has the order of `Prompt.answers`: the primary one first.
    """

    tokens: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    @property
    def first_tokens(self) -> frozenset[int]:
        """The tokens that begin an acceptable answer."""
        return frozenset(answer[0] for answer in self.answers)


def encode_prompt(model: Encoder, prompt: Prompt) -> EncodedPrompt:
    """Tokenise a prompt and its answers in context.

    An answer's tokens are those that tokenising text and answer together adds to the text's own. Where the tokenizer
    merges across the boundary there are no such tokens, and the answer is tokenised alone, with its leading blank.

    Raises:
        LensFVError: an answer has no tokens, or prompt and answer are longer than the model's context.
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


def encode_prompts(model: Encoder, prompts: Iterable[Prompt]) -> list[EncodedPrompt]:
    """`encode_prompt` for each of them."""
    return [encode_prompt(model, prompt) for prompt in prompts]


def _answer_tokens(model: Encoder, text: str, tokens: list[int], answer: str) -> tuple[int, ...]:
    together = model.encode(text + answer)
    if together[: len(tokens)] == tokens:
        return tuple(together[len(tokens) :])
    return tuple(model.encode(answer, bos=False))
