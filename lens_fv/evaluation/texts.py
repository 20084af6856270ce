"""Evaluation of generated texts, for tasks with free-text answers."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_fv.core.artefact import Artefact, Provenance
from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.core.statistics import Estimate, estimate, proportion
from lens_fv.core.tables import data_frame
from lens_fv.core.texts import nfc
from lens_fv.errors import LensFVError
from lens_fv.evaluation.evaluate import Intervention
from lens_fv.evaluation.rouge import rouge_l, words
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, Prompt, PromptTemplate, Split, Task, build_prompts, split_pairs, zero_shot

if TYPE_CHECKING:
    import pandas as pd


ROWS = 32
"""Number of prompts per batch, so that memory does not grow with the test split."""


class TextResult(NamedTuple):
    """Scores of one condition on the test split.

    Attributes:
        condition: "none", "k_shot" or a vector's name.
        rouge_l: mean ROUGE-L over items, with its bootstrap interval.
        exact_match: share of items with a text identical to an acceptable answer, with Wilson's interval.
    """

    condition: str
    rouge_l: Estimate
    exact_match: Estimate


@checked
@dataclass(frozen=True, repr=False, eq=False)
class TextEvaluation(Artefact):
    """Generated text of every test item in every condition, with its similarity to the acceptable answers.

    Attributes:
        conditions: names of the conditions, in the order of the last axis.
        inputs: inputs of the items.
        texts: answers by item and condition, without surrounding whitespace.
        rouge_l: ROUGE-L of each text; see `rouge_l`.
        exact: whether the text is an acceptable answer.
    """

    conditions: tuple[str, ...]
    inputs: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    rouge_l: Float[Tensor, "items conditions"]
    exact: Bool[Tensor, "items conditions"]

    @property
    def results(self) -> list[TextResult]:
        """Results, one per condition."""
        return [self[c] for c in self.conditions]

    def __getitem__(self, condition: str) -> TextResult:
        """Return the result of one condition."""
        i = self.conditions.index(condition)
        rouge = estimate(self.rouge_l[:, i].tolist(), seed=self.provenance.seed)
        return TextResult(condition, rouge, proportion(int(self.exact[:, i].sum()), len(self.exact)))

    @checked
    def to_dataframe(self, *, by: Literal["condition", "item"] = "condition") -> "pd.DataFrame":
        """One row per condition, with intervals (see `TextResult`), or one per item and condition, with the text."""
        if by == "condition":
            return data_frame(self.results)
        return data_frame(
            {
                "input": source,
                "condition": condition,
                "text": self.texts[item][i],
                "rouge_l": float(self.rouge_l[item, i]),
                "exact_match": bool(self.exact[item, i]),
            }
            for item, source in enumerate(self.inputs)
            for i, condition in enumerate(self.conditions)
        )

    def summary(self) -> dict[str, str]:
        """See `Artefact.summary`."""
        rows = {r.condition: f"ROUGE-L {r.rouge_l}, exact match {r.exact_match}" for r in self.results}
        return super().summary() | {"test items": str(len(self.exact))} | rows


@checked
def evaluate_texts(
    model: LensModel,
    task: Task,
    vectors: Mapping[str, Intervention] | None = None,
    *,
    split: Split | None = None,
    instruction: str | None = None,
    n_shots: Natural = 10,
    max_new_tokens: Count = 32,
    max_items: Count | None = None,
    template: PromptTemplate = TODD,
    seed: Seed = 0,
    force: bool = False,
    progress: bool = False,
) -> TextEvaluation:
    """Generate answers to the test split greedily and score the texts, with no vector and k-shot prompting as controls.

    A text is cut where the template ends an answer: at its separator or the first line break.

    Args:
        model: the model.
        task: the task.
        vectors: vectors by condition name; each acts on the last token of a zero-shot prompt and on every new token (see
            `LensModel.generate`). Also accepts a soft prompt or an adapter.
        split: split of the task; default: `split_pairs(task, seed=seed)`. k-shot demonstrations come from its training part.
        instruction: instruction placed before every prompt; default: none.
        n_shots: number of demonstrations in k-shot prompts.
        max_new_tokens: maximum number of new tokens per text.
        max_items: maximum number of test pairs; default: all.
        template: prompt template.
        seed: seed of the split, the demonstrations and the bootstrap.
        force: apply vectors even if their provenance does not match.
        progress: draw a progress bar.

    Raises:
        LensFVError: no test items, an acceptable output that no text can match or that has no words, a vector of another
            model, a vector named like a control, or no room for the new tokens.
    """
    vectors = dict(vectors or {})
    if reserved := {"none", "k_shot"} & vectors.keys():
        raise LensFVError(f"evaluate a vector named {reserved.pop()!r}: that names a control; choose another name")
    split = split or split_pairs(task, seed=seed)
    items = split.test[:max_items]
    if not items:
        raise LensFVError(f"evaluate the texts of {task.name}: its test split is empty; it needs more pairs")
    for vector in vectors.values():
        if not force:
            vector.provenance.check(model)
    plain = [zero_shot(pair, template=template, instruction=instruction) for pair in items]
    shots = build_prompts(items, split.train, n_shots=n_shots, template=template, instruction=instruction, seed=seed)
    for prompt in plain:
        _check_answers(task, prompt, template)
    encoded, encoded_shots = ([model.encode(prompt.text) for prompt in each] for each in (plain, shots))
    columns: list[list[str]] = []
    steps = (len(vectors) + 2) * ceil(len(items) / ROWS)
    with progress_bar(f"{task.name}: texts", steps, show=progress) as tick:
        for name, vector in {"none": None, "k_shot": None, **vectors}.items():
            with nullcontext() if vector is None else vector.applied(model, force=force):
                written = _write(model, encoded_shots if name == "k_shot" else encoded, max_new_tokens, tick)
            columns.append([cut_answer(text, template) for text in written])
    texts = tuple(zip(*columns, strict=True))
    accepted = [_accepted(prompt) for prompt in plain]
    scores = [[rouge_l(text, answers) for text in row] for row, answers in zip(texts, accepted, strict=True)]
    exact = [[nfc(text) in answers for text in row] for row, answers in zip(texts, accepted, strict=True)]
    provenance = Provenance.of(
        model,
        task=task.name,
        task_hash=task.fingerprint,
        prompts=[*encoded, *encoded_shots],
        seed=seed,
        method="texts",
        options={"n_shots": n_shots, "max_new_tokens": max_new_tokens, "instruction": instruction},
    )
    return TextEvaluation(
        provenance=provenance,
        conditions=("none", "k_shot", *vectors),
        inputs=tuple(pair.input for pair in items),
        texts=texts,
        rouge_l=torch.tensor(scores, dtype=torch.float64),
        exact=torch.tensor(exact),
    )


def cut_answer(text: str, template: PromptTemplate) -> str:
    """Cut a text at the template's separator or the first line break, and strip surrounding whitespace."""
    before, ended, _ = text.partition(template.separator or "\n")
    line = before.partition("\n")[0]
    # A truncated text may end with the start of its separator, such as the full stop of ".\n".
    return (line if ended else line.removesuffix(template.separator.partition("\n")[0])).strip()


def _accepted(prompt: Prompt) -> list[str]:
    return [nfc(answer).strip() for answer in prompt.answers]


def _check_answers(task: Task, prompt: Prompt, template: PromptTemplate) -> None:
    for answer in _accepted(prompt):
        about = f"evaluate the texts of {task.name}: the output {answer!r} of {prompt.query.input!r}"
        if (kept := cut_answer(answer + template.separator, template)) != answer:
            raise LensFVError(f"{about} would be cut to {kept!r}, as answers end there; choose a template that fits")
        if not words(answer):
            raise LensFVError(f"{about} has no words for ROUGE-L to compare; leave the pair out, or use evaluate")


def _write(model: LensModel, prompts: list[list[int]], max_new_tokens: int, tick: Callable[[], None]) -> list[str]:
    """Generate the continuation of each prompt; prompts of similar length run together."""
    order, texts = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), dict[int, str]()
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        written = model.generate([prompts[i] for i in rows], max_new_tokens=max_new_tokens)
        texts |= zip(rows, written, strict=True)
        tick()
    return [texts[i] for i in range(len(prompts))]
