"""Decoding of vectors into tokens, to compare vectors before and after tuning."""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from lens_fv.composition import VectorLibrary
from lens_fv.core.artefact import Provenance
from lens_fv.core.choices import Seed, checked
from lens_fv.core.progress import progress_bar
from lens_fv.errors import LensFVError
from lens_fv.evaluation.ranks import DecodingEvaluation
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Split, Task, encode_prompts, split_pairs, zero_shot
from lens_fv.vectors import FunctionVector
from lens_fv.vectors.decode import first_token, ranks_of, vocabulary_effect, vocabulary_logits


@checked
@torch.no_grad()
def evaluate_decoding(
    model: LensModel,
    tasks: Sequence[Task],
    vectors: Mapping[str, Mapping[str, FunctionVector] | VectorLibrary],
    *,
    splits: Mapping[str, Split] | None = None,
    centred: bool = False,
    through_layers: bool = False,
    seed: Seed = 0,
    force: bool = False,
    progress: bool = False,
) -> DecodingEvaluation:
    """Decode many relations' vectors, and rank the words that name each relation and its test answers.

    A vector is passed through the final norm and the unembedding (logit lens: nostalgebraist 2020). A word's rank is that of
    its first token, with a leading space, in the whole vocabulary. Test answers are the primary ones, each first token once.

    Args:
        model: The model.
        tasks: Relations with distinct names.
        vectors: Vectors by condition ("extracted", "tuned", ...) and task name; each condition covers every task.
        splits: Splits by task name; default: `split_pairs(task, seed=seed)`. Vectors must not have seen test pairs.
        centred: Subtract from each token's logit its mean over all relations' vectors in that condition. This removes tokens
            that rank high for any vector, such as frequent tokens and those with a large unembedding norm. Ranks then depend on
            the set of relations. (Decoding a zero state is no substitute: without biases in norm and unembedding, it gives all
            tokens the same logit.)
        through_layers: Decode vectors through the layers after them (`vocabulary_effect`) instead of directly.
        seed: Seed of the splits and the bootstrap.
        force: Decode vectors even if their provenance does not match.
        progress: Draw a progress bar.

    Raises:
        LensFVError: no tasks, two tasks of the same name, no conditions, a missing vector or one of another model, or
            `centred` with a single relation.

    Example:
        >>> decoding = lens_fv.evaluation.evaluate_decoding(model, [task], {'tuned': {task.name: vector}})
        >>> decoding.relations
        ('toy',)
    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names) or not vectors:
        raise LensFVError(
            f"study the decoding of {len(names)} relations, {len(vectors)} conditions: give at least one of each, "
            "and every task a name of its own"
        )
    if centred and len(names) < 2:
        raise LensFVError(f"centre the decoding of {names[0]} alone: nothing would be left; give more relations")
    for condition, by_name in vectors.items():
        missing = [name for name in names if name not in by_name]
        if missing:
            raise LensFVError(f"study decoding: there is no {condition} vector of {', '.join(missing)}; leave those tasks out")
    rows = [[by_name[name] for by_name in vectors.values()] for name in names]
    if not force:
        for vector in chain(*rows):
            vector.provenance.check(model)
    decode = vocabulary_effect if through_layers else vocabulary_logits
    centre = sum(decode(model, row) for row in rows) / len(rows) if centred else 0.0
    targets: list[str] = []
    relation: list[int] = []
    is_answer: list[bool] = []
    ranks: list[Tensor] = []
    with progress_bar("decoding", len(rows), show=progress) as tick:
        for i, (task, row) in enumerate(zip(tasks, rows, strict=True)):
            split = (splits or {}).get(task.name) or split_pairs(task, seed=seed)
            words = [(word, first_token(model, word)) for word in task.relation_words]
            answers = _answers(model, split)
            ranks.append(ranks_of(decode(model, row) - centre, [token for _, token in (*words, *answers)]).cpu())
            targets += [word for word, _ in (*words, *answers)]
            relation += [i] * len(ranks[-1])
            is_answer += [False] * len(words) + [True] * len(answers)
            tick()
    provenance = Provenance.of(
        model,
        task=names[0] if len(names) == 1 else f"{len(names)} relations",
        task_hash=Task("all", tuple(pair for task in tasks for pair in task.pairs)).fingerprint,
        prompts=[],
        seed=seed,
        method="decoding",
        options={"centred": centred, "through_layers": through_layers},
    )
    return DecodingEvaluation(
        provenance=provenance,
        relations=tuple(names),
        conditions=tuple(vectors),
        targets=tuple(targets),
        relation=torch.tensor(relation),
        answer=torch.tensor(is_answer),
        ranks=torch.cat(ranks),
        vocabulary=model.d_vocab,
        centred=centred,
        through_layers=through_layers,
    )


def _answers(model: LensModel, split: Split) -> list[tuple[str, int]]:
    """List the test answers with their first tokens as they follow a prompt, each token once."""
    words: dict[int, str] = {}
    for pair, prompt in zip(split.test, encode_prompts(model, [zero_shot(pair) for pair in split.test]), strict=True):
        words.setdefault(prompt.answers[0][0], pair.output)
    return [(word, token) for token, word in words.items()]
