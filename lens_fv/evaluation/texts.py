"""Evaluation of generated texts, for tasks with free-text answers."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from math import ceil

import torch

from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Count, Natural, Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.core.texts import nfc
from lens_fv.errors import LensFVError
from lens_fv.evaluation.evaluate import Intervention, evaluation_items
from lens_fv.evaluation.results import TextEvaluation
from lens_fv.evaluation.rouge import rouge_l, words
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
