"""Ranks against a plain sort, statistics against SciPy."""

from dataclasses import replace
from statistics import mean, median

import pytest
import torch
from helpers import toy_task
from scipy import stats

from lens_fv.core.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.evaluation import DecodingEvaluation, estimate, evaluate_decoding, load_artefact
from lens_fv.tasks import Pair, Task, split_pairs
from lens_fv.vectors import FunctionVector, decode
from lens_fv.vectors.decode import vocabulary_effect


def vector_of(model, values, name="planted") -> FunctionVector:
    where = Provenance.of(model, task=name, task_hash="t", prompts=[], seed=0, method=name, options={})
    return FunctionVector(provenance=where, vector=values, head_outputs=torch.zeros(0, model.d_head), layer=1, resid_norm=1.0)


def drawn(model, tasks, seed):
    rng = torch.Generator().manual_seed(seed)
    return {task.name: vector_of(model, torch.randn(model.d_model, generator=rng)) for task in tasks}


def byte_task(name: str, letters: str, words: tuple[str, ...] = ()) -> Task:
    """Answers that begin with letters of one's choice: the tiny tokenizer gives one token a byte."""
    pairs = tuple(Pair(f"{name}{i}", (f"{letters[i % len(letters)]}{i}",)) for i in range(20))
    return Task(name, pairs, relation_words=words)


@pytest.fixture
def tasks():
    return [byte_task("one", "bcdfg", ("first", "uno")), byte_task("two", "hjklm", ("second",)), byte_task("three", "npq")]


def sorted_rank(logits, token: int) -> int:
    return logits.argsort(descending=True, stable=True).tolist().index(token) + 1


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_ranks_are_those_of_a_plain_sort(tiny_model, tasks, architecture):
    model = tiny_model(architecture)
    vectors = {"extracted": drawn(model, tasks, 0), "tuned": drawn(model, tasks, 1)}
    evaluation = evaluate_decoding(model, tasks, vectors)
    assert (evaluation.relations, evaluation.conditions, evaluation.vocabulary) == (
        ("one", "two", "three"),
        ("extracted", "tuned"),
        320,
    )
    assert torch.equal(torch.bincount(evaluation.relation[~evaluation.answer], minlength=3), torch.tensor([2, 1, 0]))
    for i, task in enumerate(tasks):
        words = [w for w, r, a in zip(evaluation.targets, evaluation.relation, evaluation.answer) if r == i and not a]
        assert words == list(task.relation_words)
        tokens = [model.encode(f" {word}", bos=False)[0] for word in words]
        answers = {model.encode(f" {pair.output}", bos=False)[0] for pair in split_pairs(task).test}
        for k, condition in enumerate(evaluation.conditions):
            logits = model.tl.unembed(model.tl.ln_final(vectors[condition][task.name].vector[None, None]))[0, 0]
            mine = evaluation.ranks[evaluation.relation == i, k]
            is_answer = evaluation.answer[evaluation.relation == i]
            assert mine[~is_answer].tolist() == [sorted_rank(logits, t) for t in tokens]
            assert sorted(mine[is_answer].tolist()) == sorted(sorted_rank(logits, t) for t in answers)


def test_centred_ranks_are_those_of_logits_less_their_mean(tiny_model, tasks):
    model = tiny_model("gpt2")
    vectors = drawn(model, tasks, 0)
    evaluation = evaluate_decoding(model, tasks, {"given": vectors}, centred=True)
    logits = torch.stack([model.unembed(vectors[task.name].vector) for task in tasks])
    logits -= logits.mean(0)
    expected = [sorted_rank(logits[0], model.encode(f" {word}", bos=False)[0]) for word in ("first", "uno")]
    assert evaluation.ranks[:2, 0].tolist() == expected
    assert evaluation.provenance.options["centred"] and "centred" in repr(evaluation)
    with pytest.raises(LensFVError, match="centre the decoding of one alone"):
        evaluate_decoding(model, tasks[:1], {"given": vectors}, centred=True)


def test_a_planted_word_is_read_at_rank_one(tiny_model):
    """A row of the unembedding, seen through the final norm's gain, is its own token's best direction by far."""
    model = tiny_model("llama")
    token = model.encode(" word", bos=False)[0]
    gain = model.tl.ln_final.w
    row = model.tl.unembed.W_U[:, token] / gain
    vector = vector_of(model, 50 * row.detach())
    task = byte_task("planted", "bcd", ("word",))
    evaluation = evaluate_decoding(
        model, [task], {"planted": {"planted": vector}, "against": {"planted": vector.at(scale=-1.0)}}
    )
    assert evaluation.ranks[0].tolist() == [1, 320]
    assert evaluation.mean("planted", "best_reciprocal").value.mean == evaluation.mean("planted", "hit10").value.mean == 1.0
    assert evaluation.mean("against", "hit10").value.mean == 0.0
    assert decode(model, vector, 1, words=["word"]).ranks == {"word": 1}
    assert decode(model, vector.at(scale=-1.0), 1, words=["word"]).ranks == {"word": 320}


def decoding_of(ranks, relation, answer, conditions=("extracted", "tuned"), seed=0) -> DecodingEvaluation:
    n = len(ranks)
    where = Provenance("tiny", None, "raw", "float32", True, (2, 2, 8, 4), "some relations", "t", "p", seed, "made up")
    return DecodingEvaluation(
        provenance=where,
        relations=tuple(f"r{i}" for i in range(max(relation) + 1)),
        conditions=conditions,
        targets=tuple(f"w{i}" for i in range(n)),
        relation=torch.tensor(relation),
        answer=torch.tensor(answer),
        ranks=torch.tensor(ranks),
        vocabulary=1000,
        centred=False,
    )


def test_measures_are_what_they_say():
    words = [[2, 40], [8, 1], [11, 500]]
    study = decoding_of([*words, [100, 3], [7, 7], [9, 30]], [0, 0, 0, 0, 1, 1], [False] * 3 + [True] * 3)
    for k in range(2):
        ranks = [row[k] for row in words]
        expected = {
            "best_rank": min(ranks),
            "mean_rank": mean(ranks),
            "median_rank": median(ranks),
            "best_reciprocal": 1 / min(ranks),
            "mean_reciprocal": mean(1 / r for r in ranks),
            "top10": sum(r <= 10 for r in ranks) / 3,
            "hit10": float(min(ranks) <= 10),
        }
        assert {m: study.values(m)[0, k].item() for m in expected} == pytest.approx(expected)
    assert study.values("best_rank")[1].isnan().all()
    assert study.values("median_rank", of="answers")[1].tolist() == [8.0, 18.5]
    assert [(study.mean("tuned", "best_rank", of=of).value.n) for of in ("words", "answers")] == [1, 2]
    assert len(study.results) == 2 * 2 * 7


@pytest.mark.parametrize(
    "parts",
    [
        {"ranks": torch.tensor([[0, 1], [1, 1]])},
        {"ranks": torch.tensor([[1001, 1], [1, 1]])},
        {"ranks": torch.ones(2, 3, dtype=torch.int64)},
        {"relation": torch.tensor([0, 2])},
        {"relation": torch.tensor([-1, 0])},
        {"targets": ("w0",)},
    ],
)
def test_words_without_a_relation_or_a_rank_make_no_study(parts):
    with pytest.raises(LensFVError, match="words do not have relations and ranks from 1"):
        replace(decoding_of([[2, 40], [8, 1000]], [0, 1], [False, True]), **parts)


def test_intervals_and_tests_are_those_of_scipy():
    rng = torch.Generator().manual_seed(0)
    ranks = torch.randint(1, 1000, (24, 2), generator=rng)
    ranks[:, 1] = (ranks[:, 0] // 3).clamp(min=1)
    study = decoding_of(ranks.tolist(), list(range(24)), [False] * 24, seed=3)
    before, after = (1 / ranks.double()).unbind(1)
    result = study.mean("tuned", "best_reciprocal")
    assert result.value.mean == pytest.approx(after.mean().item())
    assert result.value == estimate(after.tolist(), seed=3)
    gain = study.difference("extracted", "tuned", "best_reciprocal")
    assert gain.value.mean == pytest.approx((after - before).mean().item())
    assert gain.value == estimate((after - before).tolist(), seed=3)
    assert gain.value.ci_low <= gain.value.mean <= gain.value.ci_high
    assert gain.p_value == pytest.approx(stats.wilcoxon(after.numpy(), before.numpy()).pvalue)
    assert gain.p_value < 0.001
    back = study.difference("tuned", "extracted", "best_reciprocal")
    assert (back.value.mean, back.p_value) == pytest.approx((-gain.value.mean, gain.p_value))
    assert study.difference("tuned", "tuned", "best_rank").p_value == 1.0


def test_round_trip(tiny_model, tasks, tmp_path):
    model = tiny_model("llama")
    evaluation = evaluate_decoding(model, tasks, {"given": drawn(model, tasks, 0)})
    again = load_artefact(evaluation.save(tmp_path / "d.safetensors"))
    assert isinstance(again, DecodingEvaluation)
    assert again.results == evaluation.results
    assert (again.targets, again.provenance) == (evaluation.targets, evaluation.provenance)


def test_what_cannot_be_studied_is_refused(tiny_model, tasks):
    model = tiny_model("llama")
    vectors = drawn(model, tasks, 0)
    elsewhere = {name: replace(v, provenance=replace(v.provenance, model="other")) for name, v in vectors.items()}
    for given, conditions, message in [
        ([], {"given": vectors}, "at least one of each"),
        (tasks, {}, "at least one of each"),
        ([toy_task(), toy_task()], {"given": vectors}, "name of its own"),
        ([*tasks, toy_task()], {"given": vectors}, "no given vector of toy"),
        (tasks, {"given": elsewhere}, "made on model other"),
    ]:
        with pytest.raises(LensFVError, match=message):
            evaluate_decoding(model, given, conditions)
    assert len(evaluate_decoding(model, tasks, {"given": elsewhere}, force=True).relations) == 3
    study = evaluate_decoding(model, tasks[2:], {"given": vectors})
    for call, message in [
        (lambda: study.mean("tuned", "best_rank"), "the study has none; it has given"),
        (lambda: study.mean("given", "best_rank"), "no relation has words"),
    ]:
        with pytest.raises(LensFVError, match=message):
            call()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_through_the_model_is_what_forwards_with_the_vector_say(tiny_model, tasks, architecture):
    model = tiny_model(architecture)
    vectors = drawn(model, tasks, 0)
    effects = vocabulary_effect(model, list(vectors.values()), inputs=("a", "bc"))
    for vector, gain in zip(vectors.values(), effects, strict=True):
        expected = torch.zeros_like(gain)
        for word in ("a", "bc"):
            tokens = torch.tensor([model.encode(f"Q: {word}\nA:")])
            plain = model.forward(tokens)[0, -1].log_softmax(-1)
            with vector.applied(model):
                expected += (model.forward(tokens)[0, -1].log_softmax(-1) - plain) / 2
        torch.testing.assert_close(gain, expected, atol=1e-3, rtol=1e-3)
    study = evaluate_decoding(model, tasks, {"given": vectors}, through_layers=True)
    first = vocabulary_effect(model, [vectors["one"]])[0]
    token = model.encode(" first", bos=False)[0]
    assert int(study.ranks[0, 0]) == sorted_rank(first, token)
    assert study.provenance.options["through_layers"] and "through the model" in repr(study)
    read = decode(model, vectors["one"], 3, words=("first",), through_layers=True)
    assert read.ranks["first"] == int(study.ranks[0, 0])
    assert read.tokens[0][1] == pytest.approx(float(first.max()), abs=1e-4)
