"""Prompt templates: how pairs are written, as plain text or as chat turns."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lens_fv.core.choices import checked
from lens_fv.errors import LensFVError
from lens_fv.tasks.task import Pair

MARKS = ("first-question", "first-answer", "second-question")


@dataclass(frozen=True)
class PromptTemplate:
    r"""Template for writing pairs; the default is Todd et al.'s `Q: hot\nA: cold\n\nQ: big\nA:`.

    Attributes:
        query: Question up to the start of the answer. It ends without a space: the space belongs to the answer,
            because most tokenizers encode the two as one token. (It may end with a line break if the answer has no space.)
        answer: Text that follows the query.
        separator: Text after every demonstration.
        instruction: Text before everything else, in prompts with an instruction.

    Raises:
        LensFVError: a part lacks its placeholder, or the query ends with a space.

    Example:
        >>> lens_fv.PromptTemplate().write_query(lens_fv.Pair('hot', ('cold',)))
        'Q: hot\nA:'
    """

    query: str = "Q: {input}\nA:"
    answer: str = " {output}"
    separator: str = "\n\n"
    instruction: str = "{instruction}\n\n"

    def __post_init__(self) -> None:
        parts = {"query": "{input}", "answer": "{output}", "instruction": "{instruction}"}
        for part, placeholder in parts.items():
            if placeholder not in getattr(self, part):
                raise LensFVError(f"prompt template: {part} {getattr(self, part)!r} has no {placeholder}")
        if self.query[-1].isspace() and (self.query[-1] != "\n" or self.answer[0].isspace()):
            raise LensFVError(f"prompt template: query {self.query!r} ends with a blank; put it before the answer")

    # replace(), not format(): templates may contain other braces.
    def write_head(self, instruction: str | None) -> str:
        """Write the text before the first question."""
        return self.instruction.replace("{instruction}", instruction) if instruction else ""

    def write_query(self, pair: Pair) -> str:
        """Write the question about a pair's input, without the answer."""
        return self.query.replace("{input}", pair.input)

    def write_answer(self, output: str) -> str:
        """Write an answer as it follows the query, including its leading space."""
        return self.answer.replace("{output}", output)

    def write_demonstration(self, pair: Pair) -> str:
        """Write a question with its primary answer and the separator."""
        return self.write_query(pair) + self.write_answer(pair.output) + self.separator


TODD = PromptTemplate()
TEMPLATES: dict[str, PromptTemplate] = {
    "todd": TODD,
    "arrow": PromptTemplate(query="{input} ->", separator="\n"),
    "input-output": PromptTemplate(query="Input: {input}\nOutput:"),
    "natural": PromptTemplate(query="For {input} the answer is", separator=".\n", instruction="{instruction}\n"),
}


@dataclass(frozen=True)
class ChatTemplate(PromptTemplate):
    """Prompts as chat turns: questions by the user, answers by the model, the instruction in the first question.

    Attributes:
        start: Text before everything else, including the instruction.
    """

    start: str = ""

    def write_head(self, instruction: str | None) -> str:
        """Write the text before the first question."""
        return self.start + super().write_head(instruction)


@runtime_checkable
class HasTokenizer(Protocol):
    """The part of a `LensModel` that reading a chat template needs."""

    name: str
    tokenizer: Any
    prepend_bos: bool


@checked
def chat_template(model: HasTokenizer) -> ChatTemplate:
    """Infer a model's own chat template from its tokenizer's rendering of two turns.

    Raises:
        LensFVError: the tokenizer has no chat template, or one that does not simply concatenate turns.

    Example:
        >>> model = lens_fv.load_model(model_folder)
        >>> chat = '{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}'
        >>> model.tokenizer.chat_template = chat + '{% if add_generation_prompt %}<assistant>{% endif %}'
        >>> template = lens_fv.tasks.chat_template(model)
        >>> print(lens_fv.tasks.zero_shot(lens_fv.Pair('hot', ('cold',)), template=template).text)
        <user>hot</user><assistant>
    """
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise LensFVError(f"chat template of {model.name}: its tokenizer has none; use a plain template")
    roles = ("user", "assistant", "user")
    turns = [{"role": role, "content": text} for role, text in zip(roles, MARKS, strict=True)]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    if model.prepend_bos:  # then encoding the prompt adds it
        text = text.removeprefix(tokenizer.bos_token)
    pieces = [text]
    for mark in MARKS:
        pieces += pieces.pop().split(mark, 1)
    if len(pieces) != 4 or pieces[1] != pieces[3]:
        raise LensFVError(
            f"chat template of {model.name}: it does not write turn after turn in the same way; give a ChatTemplate of your own"
        )
    start, to_answer, to_question, _ = pieces
    return ChatTemplate(query="{input}" + to_answer, answer="{output}", separator=to_question, start=start)
