"""Token classes of a few-shot prompt: the ten of Todd et al. (2024)."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, Literal, NamedTuple, get_args

from lens_fv.errors import LensFVError
from lens_fv.tasks.encoding import Encoder
from lens_fv.tasks.prompts import Prompt
from lens_fv.tasks.task import Pair
from lens_fv.tasks.templates import TODD, PromptTemplate

TokenClass = Literal[
    "demonstration",
    "label",
    "separator",
    "predictive",
    "structural",
    "end_of_example",
    "query_demonstration",
    "query_structural",
    "query_separator",
    "query_predictive",
]
TOKEN_CLASSES: tuple[TokenClass, ...] = get_args(TokenClass)


class TemplatePosition(NamedTuple):
    """Position of a token in terms that carry over to another prompt of the same template and number of shots.

    Attributes:
        example: Index of the demonstration, from 0; the query comes after the last, and -1 is the text before the first.
        part: Index of the part within the example, in the order of the template.
        token: Index of the token within the part.
    """

    example: int
    part: int
    token: int


@dataclass(frozen=True)
class TokenClasses:
    """Class and template position of every token of an encoded prompt.

    Attributes:
        classes: Class of each token; None for the beginning-of-sequence token and for an instruction.
        places: Position of each token; None for the beginning-of-sequence token.
        slots: Position of each token, shared by all tokens of a word. Todd et al. average activations over slots, so that
            words of different token counts are interchangeable. None for tokens without a class.
    """

    classes: tuple[TokenClass | None, ...]
    places: tuple[TemplatePosition | None, ...]
    slots: tuple[TemplatePosition | None, ...]

    def positions(self, name: str) -> tuple[int, ...]:
        """Indices of the tokens of a class; empty if the prompt has none.

        Raises:
            LensFVError: no such class.
        """
        if name not in TOKEN_CLASSES:
            raise LensFVError(f"token class {name!r}: there is no such class; choose from {', '.join(TOKEN_CLASSES)}")
        return tuple(i for i, token_class in enumerate(self.classes) if token_class == name)


_Kind = Literal["instruction", "text", "cue", "word", "label", "separator", "end"]


class _Part(NamedTuple):
    example: int
    number: int
    kind: _Kind
    text: str


def token_classes(model: Encoder, prompt: Prompt, *, template: PromptTemplate = TODD) -> TokenClasses:
    r"""Classify every token of `encode_prompt(model, prompt)` as Todd et al. (2024) and their code do.

    In `Q: hot\nA: cold\n\n`, spaces belong to the word that follows. `Q:` and `A` are structural, `hot` is the
    demonstration, the line break after it a separator, the last token before the answer (`:`) predictive, ` cold` the
    label, the first token after it end_of_example and any further ones separators. The query has its own four classes. An
    instruction has no class and is followed by a separator.

    A token that spans several parts has the class of its last character. (Their code counts tokens of text prefixes
    instead; as GPT-2 encodes a final pair of line breaks as one token, the second one became structural.)

    Args:
        model: Model that provides the tokenizer. If it has no offset mapping, characters are located by encoding every
            prefix of the text.
        prompt: Prompt to classify.
        template: Template that the prompt was written with.

    Raises:
        LensFVError: the prompt was written with another template.
    """
    parts = [part for part in _parts(prompt, template) if part.text]
    starts = list(accumulate((len(part.text) for part in parts), initial=0))
    spans = token_spans(model, prompt.text)
    token_parts = [parts[bisect_right(starts, max(end - 1, 0)) - 1] for _, end in spans]
    n_bos = len(model.encode(prompt.text)) - len(spans)
    classes: list[TokenClass | None] = [None] * n_bos
    places: list[TemplatePosition | None] = [None] * n_bos
    slots: list[TemplatePosition | None] = [None] * n_bos
    for part, tokens in groupby(token_parts):
        n = len(list(tokens))
        for token in range(n):
            query, place = part.example == len(prompt.demonstrations), TemplatePosition(part.example, part.number, token)
            name = _class_of(part, first=token == 0, last=token == n - 1, query=query)
            classes.append(name)
            places.append(place)
            slots.append(None if name is None else place._replace(token=0) if part.kind in ("word", "label") else place)
    return TokenClasses(tuple(classes), tuple(places), tuple(slots))


def _class_of(part: _Part, *, first: bool, last: bool, query: bool) -> TokenClass | None:
    """Class of a token; `first` and `last`: whether it is the part's first or last token."""
    match part.kind:
        case "word":
            return "query_demonstration" if query else "demonstration"
        case "cue" if last:
            return "query_predictive" if query else "predictive"
        case "text" | "cue":
            return "query_structural" if query else "structural"
        case "separator":
            return "query_separator" if query else "separator"
        case "end":
            return "end_of_example" if first else "separator"
        case "label":
            return "label"
        case "instruction":
            return None


def _parts(prompt: Prompt, template: PromptTemplate) -> Iterator[_Part]:
    """Split the prompt's text into parts, which may be empty."""
    examples = [_pieces(template, pair, answered=True) for pair in prompt.demonstrations]
    examples.append(_pieces(template, prompt.query, answered=False))
    body = [_Part(i, number, *piece) for i, pieces in enumerate(examples) for number, piece in enumerate(pieces)]
    body_text = "".join(part.text for part in body)
    head, ending = prompt.text[: len(prompt.text) - len(body_text)], template.instruction.rpartition("{instruction}")[2]
    no_instruction = head == template.write_head(None)
    if head + body_text != prompt.text or not (no_instruction or head.endswith(ending)):
        raise LensFVError(
            f"token classes of the prompt for {prompt.query.input!r}: it was not written with the template {template}; "
            "give the one that it was"
        )
    yield _Part(-1, 0, "instruction", head if no_instruction else head.removesuffix(ending))
    yield _Part(-1, 1, "separator", "" if no_instruction else ending)
    yield from body


def _pieces(template: PromptTemplate, pair: Pair, *, answered: bool) -> Iterator[tuple[_Kind, str]]:
    """Split a question into text, the word with its leading spaces, the separator before the cue, and the answer."""
    *before, after = template.query.split("{input}")
    for piece in before:
        text = piece.rstrip(" ")
        yield "text", text
        yield "word", piece[len(text) :] + pair.input
    cue = after.lstrip()
    yield "separator", after[: len(after) - len(cue)]
    yield "cue", cue
    if answered:
        yield "label", template.write_answer(pair.output)
        yield "end", template.separator


def token_spans(model: Encoder, text: str) -> list[tuple[int, int]]:
    """Character span (start, end) of each token of a text, without the beginning-of-sequence token.

    If several tokens make up one character, all of them cover it. For a tokenizer without an offset mapping (a slow one), every
    prefix of the text is encoded instead.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    if getattr(tokenizer, "is_fast", False):
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [(start, end) for start, end in encoding["offset_mapping"]]
    ends = [last + 1 for last in _last_characters_by_encoding(model, text)]
    return [(min(begin, end - 1), end) for begin, end in zip([0, *ends], ends)]


def _last_characters_by_encoding(model: Encoder, text: str) -> list[int]:
    """Find the last character of each token by `encode` alone: the end of the shortest prefix that contains the token."""
    tokens = model.encode(text, bos=False)
    positions: list[int] = []
    for last in range(len(text)):
        prefix = model.encode(text[: last + 1], bos=False)
        n_same = next((i for i, (a, b) in enumerate(zip(tokens, prefix)) if a != b), min(len(tokens), len(prefix)))
        n_characters = last - (positions[-1] if positions else -1)
        # Line breaks may be tokenised differently until the next character, which then belongs to the token after them.
        # More new tokens than characters: one character made of several tokens.
        split = len(prefix) - len(positions) <= n_characters
        positions += [last - (len(prefix) - 1 - i if split else 0) for i in range(len(positions), n_same)]
    return positions
