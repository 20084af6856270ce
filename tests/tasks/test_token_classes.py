"""Token classes against prompts marked by hand, letter by letter."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lens_fv.errors import LensFVError
from lens_fv.tasks import TEMPLATES, TODD, Pair, Prompt, PromptTemplate, few_shot, zero_shot
from lens_fv.tasks.token_classes import TOKEN_CLASSES, TemplatePosition, token_classes

HOT, BIG, UP = Pair("hot", ("cold",)), Pair("big", ("small",)), Pair("up", ("down",))
LETTERS = dict(zip("dl.ps|DS,P", [*TOKEN_CLASSES[:5], "end_of_example", *TOKEN_CLASSES[6:]]))
MARKED = {
    "todd": ("Q: hot\nA: cold\n\nQ: big\nA:", "ssdddd.splllll|.SSDDDD,SP"),
    "arrow": ("hot -> cold\nbig ->", "ddd.splllll|DDD,SP"),
    "input-output": ("Input: hot\nOutput: cold\n\nInput: big\nOutput:", "ssssssdddd.ssssssplllll|.SSSSSSDDDD,SSSSSSP"),
    "natural": ("For hot the answer is cold.\nFor big the answer is", "sssdddd.ssssssssssssplllll|.SSSDDDD,SSSSSSSSSSSSP"),
}


@dataclass
class Characters:
    """A model of which nothing is known but how it encodes: one token a character, or one a byte outside of ASCII."""

    name: str = "characters"
    n_ctx: int = 1000
    bos: list[int] = field(default_factory=lambda: [1000])

    def encode(self, text: str, *, bos: bool | None = None) -> list[int]:
        return [*(self.bos if bos is not False else []), *text.encode()]


@dataclass
class Tokens(Characters):
    """A model with a tokenizer; `fast`: one that can tell which characters a token stands for."""

    name: str = "tokens"
    hidden: Any = None
    fast: bool = True

    def __post_init__(self) -> None:
        if self.fast:
            self.tokenizer = self.hidden

    def encode(self, text: str, *, bos: bool | None = None) -> list[int]:
        return [*(self.bos if bos is not False else []), *self.hidden(text, add_special_tokens=False)["input_ids"]]


def bpe(words: Sequence[str], *, metaspace: bool = False, fast: bool = True) -> Tokens:
    """Knows these words (▁ for a blank if `metaspace`, and one in front of every text) and single characters."""
    vocabulary = {token: i for i, token in enumerate("▁ \n:>-.,abcdefghijklmnopqrstuvwxyzAFIOQ")}
    merges: list[tuple[str, str]] = []
    for word in words:
        for end in range(1, len(word)):
            vocabulary.setdefault(word[: end + 1], len(vocabulary))
            if (word[:end], word[end]) not in merges:
                merges.append((word[:end], word[end]))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=True)
    return Tokens(hidden=PreTrainedTokenizerFast(tokenizer_object=tokenizer), fast=fast)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_letter_by_letter(name: str) -> None:
    text, marks = MARKED[name]
    prompt = few_shot(BIG, [HOT], template=TEMPLATES[name])
    assert prompt.text == text
    assert token_classes(Characters(), prompt, template=TEMPLATES[name]).classes == (None, *(LETTERS[mark] for mark in marks))


def read(model: Tokens, prompt: Prompt, template: PromptTemplate = TODD) -> list[tuple[str, str | None]]:
    """Each token and its class."""
    pieces = model.hidden.convert_ids_to_tokens(model.encode(prompt.text, bos=False))
    return list(zip(["<bos>", *pieces], token_classes(model, prompt, template=template).classes, strict=True))


@pytest.mark.parametrize("fast", [True, False])
def test_blanks_in_front_of_a_word_are_the_words(fast: bool) -> None:
    model = bpe(["▁cold", "▁small"], metaspace=True, fast=fast)
    assert read(model, few_shot(UP, [HOT, BIG])) == [
        ("<bos>", None),
        *[("▁", "structural"), ("Q", "structural"), (":", "structural")],
        *[(piece, "demonstration") for piece in "▁hot"],
        *[("\n", "separator"), ("A", "structural"), (":", "predictive"), ("▁cold", "label")],
        *[("\n", "end_of_example"), ("\n", "separator"), ("Q", "structural"), (":", "structural")],
        *[(piece, "demonstration") for piece in "▁big"],
        *[("\n", "separator"), ("A", "structural"), (":", "predictive"), ("▁small", "label")],
        *[("\n", "end_of_example"), ("\n", "separator"), ("Q", "query_structural"), (":", "query_structural")],
        *[(piece, "query_demonstration") for piece in "▁up"],
        *[("\n", "query_separator"), ("A", "query_structural"), (":", "query_predictive")],
    ]


@pytest.mark.parametrize("fast", [True, False])
def test_a_token_over_a_boundary_has_the_class_of_its_last_character(fast: bool) -> None:
    model = bpe(["hot\n", "\nA", ": c", "\n\nQ", "big"], fast=fast)
    assert read(model, few_shot(BIG, [HOT]))[1:] == [
        *[("Q", "structural"), (": ", "demonstration"), ("hot\n", "separator")],
        # What asks for the answer has one token left, so that is its last.
        *[("A", "predictive"), (": c", "label"), ("o", "label"), ("l", "label"), ("d", "label")],
        *[("\n\nQ", "query_structural"), (": ", "query_demonstration"), ("big", "query_demonstration")],
        *[("\nA", "query_structural"), (":", "query_predictive")],
    ]


def test_two_line_breaks_in_one_token_end_the_example() -> None:
    classes = token_classes(bpe(["\n\n"]), few_shot(BIG, [HOT, UP]))
    assert [len(classes.positions(name)) for name in ("end_of_example", "separator", "query_separator")] == [2, 2, 1]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_trained_tokenizer_with_and_without_its_offsets(name: str, tiny_tokenizer: Path) -> None:
    """Merges, characters of several tokens and an instruction: where each token's last byte stands decides."""
    template, tokenizer = TEMPLATES[name], AutoTokenizer.from_pretrained(tiny_tokenizer)
    pairs = [Pair("walk", ("walked",)), Pair("世 界", ("café",)), Pair("e.g.", ("🙂",))]
    prompt = few_shot(Pair("talk", ("talked",)), pairs, template=template, instruction="Say it: walk.")
    fast, slow = (token_classes(Tokens(hidden=tokenizer, fast=fast), prompt, template=template) for fast in (True, False))
    assert fast == slow
    by_byte = token_classes(Characters(bos=[]), prompt, template=template)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(prompt.text)["input_ids"])
    first = [0, *accumulate(map(len, pieces))]  # a piece has one letter a byte
    last = [end - 1 for end in first[1:]]
    assert len(last) < len(by_byte.classes) == last[-1] + 1
    assert [place[:2] for place in fast.places if place] == [place[:2] for i in last if (place := by_byte.places[i])]
    begins = ["end_of_example" if by_byte.classes[at] == "end_of_example" else None for at in first[:-1]]
    expected = [begin or by_byte.classes[at] for begin, at in zip(begins, last, strict=True)]
    assert list(fast.classes[1:]) == expected


def test_an_instruction_has_no_class_and_what_stands_behind_it_separates() -> None:
    prompt = few_shot(BIG, [HOT], instruction="say")
    classes = token_classes(Characters(), prompt)
    assert classes.classes[:7] == (None, None, None, None, "separator", "separator", "structural")
    assert (
        classes.slots[1] is None
        and classes.places[1] == TemplatePosition(-1, 0, 0)
        and classes.slots[5] == TemplatePosition(-1, 1, 1)
    )
    without = token_classes(Characters(), few_shot(BIG, [HOT]))
    assert classes.classes[6:] == without.classes[1:] and classes.slots[6:] == without.slots[1:]


def test_a_query_alone_has_only_its_own_classes() -> None:
    classes = token_classes(Characters(bos=[]), zero_shot(BIG))
    assert classes.classes == tuple(LETTERS[mark] for mark in "SSDDDD,SP")
    assert classes.positions("query_demonstration") == (2, 3, 4, 5)
    assert classes.positions("label") == ()


def test_prompts_of_other_words_have_the_same_slots() -> None:
    one = token_classes(Characters(), few_shot(UP, [HOT, BIG]))
    other = token_classes(Characters(), few_shot(Pair("a", ("b",)), [Pair("c", ("something",)), Pair("else", ("d",))]))
    slots = [list(dict.fromkeys(found.slots)) for found in (one, other)]
    assert slots[0] == slots[1]
    # the first label is the fifth part of the first example: one slot for all its tokens, which are still told apart
    (label,) = {one.slots[i] for i in one.positions("label") if one.slots[i] in one.slots[:20]}
    assert label == TemplatePosition(0, 4, 0)
    assert [one.places[i] for i in one.positions("label")[:5]] == [TemplatePosition(0, 4, token) for token in range(5)]
    # the query is the example behind the last
    assert {one.slots[i] for i in one.positions("query_demonstration")} == {TemplatePosition(2, 1, 0)}
    assert [one.slots[i] for i in one.positions("query_structural")] == [
        TemplatePosition(2, 0, 0),
        TemplatePosition(2, 0, 1),
        TemplatePosition(2, 3, 0),
    ]


def test_templates_of_other_shapes() -> None:
    """A word named twice, an answer in quotes, nothing behind the word."""
    twice = PromptTemplate(query="{input}: the {input} is", answer=' "{output}"', separator="")
    prompt = few_shot(UP, [HOT], template=twice)
    assert prompt.text == 'hot: the hot is "cold"up: the up is'
    marks = ("ddd", "sssss", "dddd", ".sp", "lllllll", "DD", "SSSSS", "DDD", ",SP")
    classes = token_classes(Characters(bos=[]), prompt, template=twice)
    assert classes.classes == tuple(LETTERS[mark] for mark in "".join(marks))
    bare = PromptTemplate(query="the {input}", answer=": {output}", separator=";")
    assert few_shot(UP, [HOT], template=bare).text == "the hot: cold;the up"
    classes = token_classes(Characters(bos=[]), few_shot(UP, [HOT], template=bare), template=bare)
    assert classes.classes == tuple(LETTERS[mark] for mark in "sssddddllllll|SSSDDD")


def test_braces_in_words_are_words() -> None:
    prompt = few_shot(Pair("{input}", ("x",)), [Pair("{output}", ("{input}",))])
    classes = token_classes(Characters(), prompt)
    assert [len(classes.positions(name)) for name in ("demonstration", "label", "query_demonstration")] == [9, 8, 8]


def test_another_template_and_another_class_are_refused() -> None:
    prompt = few_shot(BIG, [HOT])
    for template in (TEMPLATES["arrow"], PromptTemplate(separator="\n"), PromptTemplate(query="{input}:\nA:")):
        with pytest.raises(LensFVError, match="prompt for 'big': it was not written with the template"):
            token_classes(Characters(), prompt, template=template)
    instructed = few_shot(BIG, [HOT], instruction="say", template=TEMPLATES["natural"])
    with pytest.raises(LensFVError, match="not written with"):
        token_classes(Characters(), instructed)
    with pytest.raises(LensFVError, match="choose from demonstration, label"):
        token_classes(Characters(), prompt).positions("labels")
