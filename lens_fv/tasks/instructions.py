"""Instruction files and chat templates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from lens_fv.core.json_files import parse_json
from lens_fv.core.texts import nfc, read_text
from lens_fv.errors import LensFVError
from lens_fv.tasks.prompts import PromptTemplate

FORMATS = 'a JSON list of texts, a JSON object with "prompts" or "instructions", or one instruction a line'
MARKS = ("first-question", "first-answer", "second-question")


@dataclass(frozen=True)
class ChatTemplate(PromptTemplate):
    """Prompts as chat turns: questions by the user, answers by the model, the instruction in the first question.

    Attributes:
        start: text before everything else, including the instruction.
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


def chat_template(model: HasTokenizer) -> ChatTemplate:
    """Infer a model's own chat template from its tokenizer's rendering of two turns.

    Raises:
        LensFVError: the tokenizer has no chat template, or one that does not simply concatenate turns.
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


def load_instructions(path: str | Path) -> tuple[str, ...]:
    """Read the paraphrased instructions for one task from a file.

    Raises:
        LensFVError: no such file, an unknown format, or no instruction in it.
    """
    path = Path(path)
    text = read_text(path, f"instructions: {FORMATS}")
    data: Any = text.splitlines()
    if text.lstrip()[:1] in ("[", "{"):
        data = parse_json(text, f"instructions in {path}", remedy=f"give {FORMATS}")
    if isinstance(data, dict):
        found = cast(dict[str, Any], data)
        if {"prompts", "instructions"} <= found.keys():
            raise LensFVError(f"instructions in {path}: they can be prompts or instructions; leave one out")
        data = found.get("prompts", found.get("instructions"))
    if not isinstance(data, list) or not all(isinstance(each, str) for each in cast(list[Any], data)):
        raise LensFVError(f"instructions in {path}: give {FORMATS}")
    texts = tuple({nfc(each.strip()): each.strip() for each in cast(list[str], data) if each.strip()}.values())
    if not texts:
        raise LensFVError(f"instructions in {path}: there are none; give {FORMATS}")
    return texts
