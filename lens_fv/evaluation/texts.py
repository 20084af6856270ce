"""Evaluation of generated texts, for tasks with free-text answers, by exact match and ROUGE-L."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from math import ceil
from typing import Any
from unicodedata import category

import torch

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.core.texts import nfc
from lens_fv.errors import LensFVError
from lens_fv.evaluation.evaluate import Intervention, evaluation_items
from lens_fv.evaluation.results import TextEvaluation
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import TODD, Prompt, PromptTemplate, Split, Task, build_prompts, zero_shot

ROWS = 32
"""Number of prompts per batch, so that memory does not grow with the test split."""


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
        model: The model.
        task: The task.
        vectors: Vectors by condition name; each acts on the last token of a zero-shot prompt and on every new token (see
            `LensModel.generate`). Also accepts a soft prompt or an adapter.
        split: Split of the task; default: `split_pairs(task, seed=seed)`. k-shot demonstrations come from its training part.
        instruction: Instruction placed before every prompt; default: none.
        n_shots: Number of demonstrations in k-shot prompts.
        max_new_tokens: Maximum number of new tokens per text.
        max_items: Maximum number of test pairs; default: all.
        template: Prompt template.
        seed: Seed of the split, the demonstrations and the bootstrap.
        force: Apply vectors even if their provenance does not match.
        progress: Draw a progress bar.

    Raises:
        LensFVError: no test items, an acceptable output that no text can match or that has no words, a vector of another
            model, a vector named like a control, or no room for the new tokens.

    Example:
        >>> texts = lens_fv.evaluation.evaluate_texts(model, task, {'tuned': vector}, n_shots=2, max_new_tokens=2, max_items=2)
        >>> texts.conditions
        ('none', 'k_shot', 'tuned')
    """
    conditions: dict[str, Intervention | None] = {"none": None, "k_shot": None, **(vectors or {})}
    split, items = evaluation_items(task, vectors or (), ("none", "k_shot"), split, max_items, seed)
    for vector in (vectors or {}).values():
        if not force:
            vector.provenance.check(model)
    plain = [zero_shot(pair, template=template, instruction=instruction) for pair in items]
    shots = build_prompts(items, split.train, n_shots=n_shots, template=template, instruction=instruction, seed=seed)
    accepted = [_acceptable_answers(task, prompt, template) for prompt in plain]
    encoded, encoded_shots = ([model.encode(prompt.text) for prompt in prompts] for prompts in (plain, shots))
    columns: list[list[str]] = []
    with progress_bar(f"{task.name}: texts", len(conditions) * ceil(len(items) / ROWS), show=progress) as tick:
        for name, vector in conditions.items():
            with nullcontext() if vector is None else vector.applied(model, force=force):
                texts = _generate(model, encoded_shots if name == "k_shot" else encoded, max_new_tokens, tick)
            columns.append([cut_answer(text, template) for text in texts])
    texts = tuple(zip(*columns, strict=True))
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
        conditions=tuple(conditions),
        inputs=tuple(pair.input for pair in items),
        texts=texts,
        rouge_l=torch.tensor(scores, dtype=torch.float64),
        exact=torch.tensor(exact),
    )


def cut_answer(text: str, template: PromptTemplate) -> str:
    """Cut a text at the template's separator or the first line break, and strip surrounding whitespace."""
    before, separator, _ = text.partition(template.separator or "\n")
    line = before.partition("\n")[0]
    # A truncated text may end with the start of its separator, such as the full stop of ".\n".
    return (line if separator else line.removesuffix(template.separator.partition("\n")[0])).strip()


def _acceptable_answers(task: Task, prompt: Prompt, template: PromptTemplate) -> list[str]:
    """Return the acceptable answers, after a check that a text can match them."""
    answers = [nfc(answer).strip() for answer in prompt.answers]
    for answer in answers:
        context = f"evaluate the texts of {task.name}: the output {answer!r} of {prompt.query.input!r}"
        if (text := cut_answer(answer + template.separator, template)) != answer:
            raise LensFVError(f"{context} would be cut to {text!r}, as answers end there; choose a template that fits")
        if not words(answer):
            raise LensFVError(f"{context} has no words for ROUGE-L to compare; leave the pair out, or use evaluate")
    return answers


def _generate(model: LensModel, prompts: list[list[int]], max_new_tokens: int, tick: Callable[[], None]) -> list[str]:
    """Generate the continuation of each prompt; prompts of similar length run together."""
    order, texts = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), dict[int, str]()
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        continuations = model.generate([prompts[i] for i in rows], max_new_tokens=max_new_tokens)
        texts |= zip(rows, continuations, strict=True)
        tick()
    return [texts[i] for i in range(len(prompts))]


@checked
def rouge_l(text: str, answers: Sequence[str]) -> float:
    """Compute ROUGE-L of a text against its best-matching acceptable answer (Lin 2004, sentence level), from 0 to 1.

    With `m` words in the text, `n` in the answer and `l` in their longest common subsequence, precision is `P = l/m`, recall
    `R = l/n`, and the score is `F = 2PR/(P + R)`: Lin's F measure with beta = 1. No stemming, no stop words.

    Words are lower-cased runs of letters, digits and combining marks, in canonical composition (NFC). In scripts without
    spaces between words (Chinese, Thai), the text between two punctuation marks is a single word.

    Args:
        text: Generated text.
        answers: Acceptable answers, at least one.

    Raises:
        LensFVError: no answer, or a string instead of a list of answers.

    Example:
        >>> from lens_fv.evaluation import rouge_l
        >>> round(rouge_l("The cat sat.", ["a cat sat down", "nothing"]), 3)
        0.571
    """
    if not answers:
        raise LensFVError("ROUGE-L against no answers: give at least one")
    metric = _metric()(alpha=0.5)  # beta = 1
    scores: list[float] = []
    for answer in answers:  # one by one, because pytorch-ignite would pick the answer with the best recall
        metric.reset()
        metric.update(([words(text)], [[words(answer)]]))
        scores.append(metric.compute()["Rouge-L-F"])
    return max(scores)


def words(text: str) -> list[str]:
    """Split a text into the words that `rouge_l` compares, in order."""
    return "".join(c if c.isalnum() or category(c)[0] == "M" else " " for c in nfc(text).lower()).split()


@cache
def _metric() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from torch's own optimisers, imported by ignite
        from ignite.metrics import RougeL
    return RougeL
