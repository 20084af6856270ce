"""Conditions side by side, and what share of the gap an update closes."""

import math
from dataclasses import replace

import pytest
import torch
from test_kl import some_delta

from lens_fv import LensFVError
from lens_fv.core.statistics import Estimate
from lens_fv.knowledge import (
    KnowledgeResult,
    KnowledgeScores,
    definitions,
    evaluate_knowledge,
    gap_closed,
    kl_to_base,
    load_entities,
    random_definitions,
    score_probes,
    true_sentences,
)


def few(n: int):
    """Short probes of a few entities: tiny models read 256 tokens of bytes."""
    return [replace(e, definition=e.definition[:60], probes=e.probes[:2]) for e in load_entities("invented")[:n]]


def test_conditions_are_what_they_are_called(tiny_model):
    model, entities, others = tiny_model("llama"), few(3), few(5)[3:]
    delta = some_delta(model, 0.3)
    found = {result.condition: result for result in evaluate_knowledge(model, entities, {"noise": delta}, locality=others)}
    assert list(found) == ["base", "definition", "random_definition", "noise"]
    assert torch.equal(found["base"].scores.logprobs, score_probes(model, entities).logprobs)
    assert torch.equal(
        found["definition"].scores.logprobs, score_probes(model, entities, context=definitions(entities)).logprobs
    )
    assert torch.equal(found["base"].locality.logprobs, score_probes(model, others).logprobs)
    with delta.applied(model):
        assert torch.equal(found["noise"].scores.logprobs, score_probes(model, entities).logprobs)
    each = kl_to_base(model, delta, true_sentences(others))
    assert found["noise"].kl_to_base.mean == pytest.approx(sum(each) / len(each))
    assert found["definition"].kl_to_base is None
    assert found["definition"].locality is None


def test_one_entity_has_no_other_definition(tiny_model):
    assert [result.condition for result in evaluate_knowledge(tiny_model("llama"), few(1), {})] == ["base", "definition"]


def test_nobody_gets_their_own_definition():
    entities = load_entities("invented")
    for seed in range(5):
        given = random_definitions(entities, seed)
        assert sorted(given.values()) == sorted(definitions(entities).values())
        assert not any(given[entity.key] == entity.definition for entity in entities)
    with pytest.raises(LensFVError, match="there is only one entity"):
        random_definitions(entities[:1])


def scores(right: list[int], losses: list[float]) -> KnowledgeScores:
    """One probe an entity, of two candidates with one token each; the first is right."""
    rows = [[-loss, -loss + (-1 if ok else 1)] for ok, loss in zip(right, losses, strict=True)]
    logprobs = torch.tensor(rows, dtype=torch.float)
    n = len(right)
    return KnowledgeScores(tuple(map(str, range(n))), ("explicit",) * n, (0,) * n, logprobs, torch.ones(n, 2).long())


def test_results_say_first_what_matters():
    made = scores([1, 0], [1.0, 3.0])
    about = {"probes": "2 of 2 entities", "accuracy": "0.5 [0, 1]", "perplexity": f"{math.exp(2):.3g} [2.72, 20.1]"}
    assert made.summary() == about
    whole = KnowledgeResult("mine", made, made, Estimate(0.01234, 0.0, 1.0, 2))
    locality = {f"{what}, locality set": said for what, said in about.items()}
    assert whole.summary() == {"condition": "mine", **about, **locality, "KL to the base": "0.0123 nats per token"}
    assert repr(whole).splitlines()[0] == "KnowledgeResult"
    assert KnowledgeResult("base", made, None, None).summary() == {"condition": "base", **about}


def test_the_gap_is_between_the_base_and_reading_the_definition():
    base, read = scores([0, 0, 0, 1], [8, 8, 8, 4]), scores([1, 1, 1, 1], [2, 2, 2, 2])
    half = scores([1, 0, 1, 1], [5, 5, 6, 2])
    assert gap_closed(base, half, read).mean == pytest.approx(2 / 3)
    assert gap_closed(base, half, read, of="loss").mean == pytest.approx((7 - 4.5) / (7 - 2))
    assert gap_closed(base, base, read) == pytest.approx((0, 0, 0, 4))
    assert gap_closed(base, read, read) == pytest.approx((1, 1, 1, 4))
    found = gap_closed(base, half, read)
    assert found.ci_low < found.mean <= found.ci_high <= 1
    assert gap_closed(read, half, base) is None
    assert gap_closed(base, base, base) is None
    assert gap_closed(base, half, read, kind="inferential") is None
