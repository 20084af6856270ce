"""What a model makes of probes, against one forward for every candidate."""

import math
from dataclasses import replace

import pytest
import torch

from lens_fv import LensFVError
from lens_fv.knowledge import Entity, EntityProbe, KnowledgeScores, definitions, majority, score_probes

VELM = Entity(
    "Velm",
    "Velm talked.",
    probes=(
        EntityProbe("Q: Velm is a ___.", "walk", ("talk", "walk", "walked talked"), "explicit"),
        EntityProbe("A: Velm (___) was it", "talked", kind="inferential"),
    ),
)
ORLA = Entity("Orla", "Orla walked and was Q.", probes=(EntityProbe("Orla is ___.", "Q", ("A", "Q"), "explicit"),))


@torch.no_grad()
def by_loop(model, before: str, filled: str) -> tuple[float, int]:
    """Log-probability of what is filled in, by one plain forward, and its number of tokens."""
    tokens, n = model.encode(before + filled), len(model.encode(before))
    logits = model.forward(torch.tensor([tokens]))[0].log_softmax(-1)
    return sum(float(logits[i - 1, tokens[i]]) for i in range(n, len(tokens))), len(tokens) - n


@pytest.mark.parametrize("in_context", [False, True])
@pytest.mark.parametrize("full_sentence", [False, True])
def test_every_candidate_has_a_forward_of_its_own(any_model, in_context, full_sentence):
    entities = [VELM, ORLA]
    found = score_probes(
        any_model, entities, context=definitions(entities) if in_context else None, full_sentence=full_sentence
    )
    asked = [(entity, probe) for entity in entities for probe in entity.probes]
    assert found.entities == ("Velm", "Velm", "Orla")
    assert found.answers == (1, 0, 1)
    for i, (entity, probe) in enumerate(asked):
        before, after = probe.text.split("___")
        blank = before[len(before.rstrip()) :]
        start = f"{entity.definition} {before.rstrip()}" if in_context else before.rstrip()
        for c, candidate in enumerate(probe.candidates or (probe.answer,)):
            logprob, length = by_loop(any_model, start, blank + candidate + (after if full_sentence else ""))
            assert float(found.logprobs[i, c]) == pytest.approx(logprob, abs=2e-3)
            assert int(found.lengths[i, c]) == length
        assert bool((found.lengths[i, len(probe.candidates) or 1 :] == 0).all())


def scores() -> KnowledgeScores:
    """Three entities with 1, 2 and 1 probes; the last probe has no candidates."""
    logprobs = torch.tensor(
        [[-1.0, -4.0, -9.0], [-3.0, -2.0, -torch.inf], [-2.0, -3.0, -torch.inf], [-6.0, -torch.inf, -torch.inf]]
    )
    lengths = torch.tensor([[1, 2, 9], [1, 1, 0], [1, 2, 0], [3, 0, 0]])
    return KnowledgeScores(("a", "b", "b", "c"), ("explicit", "explicit", "inferential", ""), (0, 1, 1, 0), logprobs, lengths)


def test_accuracy_is_over_entities_and_probes_with_candidates():
    found = scores()
    assert found.correct(norm="sum") == {"a": [1.0], "b": [1.0, 0.0]}
    # a token: -1, -2, -1 (two tie, one of them right); -3, -2; -2, -1.5
    assert found.correct(norm="mean") == {"a": [0.5], "b": [1.0, 1.0]}
    assert found.accuracy(norm="sum").mean == pytest.approx(0.75)
    assert found.accuracy(norm="sum", kind="inferential").mean == 0
    assert found.chance == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)


def test_perplexity_is_of_the_answers_tokens():
    found = scores()
    assert found.span_loss() == {"a": [1.0], "b": [2.0, 1.5], "c": [2.0]}
    assert found.perplexity().mean == pytest.approx(math.exp((1 + 1.75 + 2) / 3))
    assert found.perplexity(over="probes").mean == pytest.approx(math.exp((1 + 2 + 1.5 + 2) / 4))
    assert found.perplexity(kind="inferential").n == 1


def test_the_majority_is_of_questions_that_are_asked_often():
    def asked(answer: str) -> Entity:
        return Entity(answer, "", probes=(EntityProbe("x is ___.", answer, ("a", "b", "c")),))

    assert majority([asked("a"), asked("a"), asked("b")]) == pytest.approx(2 / 3)
    assert majority([asked("a")]) == pytest.approx(1 / 3)
    assert math.isnan(majority([replace(asked("a"), probes=())]))


def test_nothing_to_ask(tiny_model):
    with pytest.raises(LensFVError, match="about 1 entities: they have no probes"):
        score_probes(tiny_model("llama"), [replace(VELM, probes=())])
