"""What do vectors say, before and after tuning?"""

from collections.abc import Mapping, Sequence

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
    through: bool = False,
    seed: Seed = 0,
    force: bool = False,
    progress: bool = False,
) -> DecodingEvaluation:
    """Decode many relations' vectors, and rank the words that name each relation and its test answers.

    A vector goes through the final norm and the unembedding (logit lens: nostalgebraist 2020); the rank is that in the whole
    vocabulary of a word's first token, a blank in front of it. Test answers are the primary ones, each first token once.

    Args:
        model: the model.
        tasks: the relations, each with a name of its own.
        vectors: by condition ("extracted", "tuned", ...) and by the task's name; every condition has every task's.
        splits: by the tasks' names; default: `split_pairs(task, seed=seed)`. A vector may have seen any pair but test ones.
        centred: subtract from each token's logit its mean over all relations' vectors in that condition. Frequent tokens, and
            those with a long row in the unembedding, are high whatever is decoded; what is left sets a relation apart. Ranks
            then depend on which relations are in the study. (What a zero state decodes to would be no such baseline: nothing
            at all, in models whose norms and unembeddings have no bias.)
        through: read vectors through the layers behind them (`vocabulary_effect`) instead of straight.
        seed: of the splits and of the bootstrap.
        force: decode vectors though their provenance does not match.
        progress: draw a progress bar.

    Raises:
        LensFVError: no tasks or two of one name, no conditions, a vector that is missing or of another model, or a single
            relation to be centred.
    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names) or not vectors:
        raise LensFVError(
            f"study the decoding of {len(names)} relations, {len(vectors)} conditions: give at least one of each, "
            "and every task a name of its own"
        )
    if centred and len(names) < 2:
        raise LensFVError(f"centre the decoding of {names[0]} alone: nothing would be left; give more relations")
    for condition, found in vectors.items():
        lacking = [name for name in names if name not in found]
        if lacking:
            raise LensFVError(f"study decoding: there is no {condition} vector of {', '.join(lacking)}; leave those tasks out")
    rows = [[found[name] for found in vectors.values()] for name in names]
    if not force:
        for vector in (v for row in rows for v in row):
            vector.provenance.check(model)
    read = vocabulary_effect if through else vocabulary_logits
    centre = sum(read(model, row) for row in rows) / len(rows) if centred else 0.0
    asked: list[str] = []
    relation: list[int] = []
    answer: list[bool] = []
    ranks: list[Tensor] = []
    vocabulary = 0
    with progress_bar("decoding", len(rows), show=progress) as tick:
        for i, (task, row) in enumerate(zip(tasks, rows, strict=True)):
            split = (splits or {}).get(task.name) or split_pairs(task, seed=seed)
            words = [(word, first_token(model, word)) for word in task.relation_words]
            answers = _answers(model, split)
            logits = read(model, row) - centre
            ranks.append(ranks_of(logits, [token for _, token in (*words, *answers)]).cpu())
            asked += [word for word, _ in (*words, *answers)]
            relation += [i] * len(ranks[-1])
            answer += [False] * len(words) + [True] * len(answers)
            vocabulary = logits.shape[-1]
            tick()
    provenance = Provenance.of(
        model,
        task=names[0] if len(names) == 1 else f"{len(names)} relations",
        task_hash=Task("all", tuple(p for task in tasks for p in task.pairs)).fingerprint,
        prompts=[],
        seed=seed,
        method="decoding",
        options={"centred": centred, "through": through},
    )
    return DecodingEvaluation(
        provenance=provenance,
        relations=tuple(names),
        conditions=tuple(vectors),
        asked=tuple(asked),
        relation=torch.tensor(relation),
        answer=torch.tensor(answer),
        ranks=torch.cat(ranks),
        vocabulary=vocabulary,
        centred=centred,
        through=through,
    )


def _answers(model: LensModel, split: Split) -> list[tuple[str, int]]:
    """The test answers with their first tokens as prompts continue, no token twice."""
    found: dict[int, str] = {}
    for pair, prompt in zip(split.test, encode_prompts(model, [zero_shot(pair) for pair in split.test]), strict=True):
        found.setdefault(prompt.answers[0][0], pair.output)
    return [(word, token) for token, word in found.items()]
