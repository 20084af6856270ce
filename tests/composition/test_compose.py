"""Composites: scores as the plain loop gives them, weights as the formula says, maps that learn what is planted."""

import math

import pytest
import torch
from helpers import toy_task

from lens_fv.composition import (
    Basis,
    CompositeVector,
    TuneRecipe,
    VectorLibrary,
    WeightMap,
    build_library,
    compose,
    fit_map,
    relation_scores,
    softmax_map,
)
from lens_fv.core.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.evaluation import load_artefact
from lens_fv.tasks import Analogy, Pair, encode_prompts, zero_shot

PAIRS = [Pair("ab", ("cd",)), Pair("e", ("fgh",)), Pair("xyz", ("q",))]


@pytest.fixture(scope="module")
def library(request, tmp_path_factory) -> VectorLibrary:
    model = request.getfixturevalue("tiny_model")("llama")
    tasks = [toy_task(name=f"toy{i}", n=30 + i) for i in range(4)]
    return build_library(model, tasks, tmp_path_factory.mktemp("library"), TuneRecipe(n_pairs=6, steps=3, learning_rate=0.1))


def looped(model, basis: Basis, pair: Pair) -> list[float]:
    (prompt,) = encode_prompts(model, [zero_shot(pair)])
    answer, at, means = prompt.answers[0], len(prompt.tokens) - 1, []
    for vector in basis.vectors:

        def add(x, hook, vector=vector):
            x = x.clone()
            x[:, at] += vector
            return x

        tokens = torch.tensor([[*prompt.tokens, *answer[:-1]]])
        logprobs = model.forward(tokens, [(f"blocks.{basis.layer}.hook_resid_post", add)])[0].log_softmax(-1)
        means.append(sum(float(logprobs[at + i, token]) for i, token in enumerate(answer)) / len(answer))
    return means


def test_scores_are_those_of_the_plain_loop(tiny_model, library):
    model = tiny_model("llama")
    basis = library.basis(model)
    want = torch.tensor([looped(model, basis, pair) for pair in PAIRS])
    torch.testing.assert_close(relation_scores(model, basis, PAIRS), want, atol=1e-4, rtol=1e-4)
    lengths = torch.tensor([[len(p.answers[0])] for p in encode_prompts(model, [zero_shot(pair) for pair in PAIRS])])
    prob = relation_scores(model, basis, PAIRS, score="prob")
    torch.testing.assert_close(prob, (want * lengths).exp(), atol=1e-5, rtol=1e-3)


def test_a_composite_is_the_softmax_weighted_sum(tiny_model, library):
    model = tiny_model("llama")
    basis = library.basis(model)
    composite = compose(model, library, PAIRS[0], temperature=2.0, scale=1.5)
    weights = (2.0 * torch.tensor(looped(model, basis, PAIRS[0]))).softmax(0)
    torch.testing.assert_close(composite.weights, weights, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(composite.vector, weights @ basis.vectors, atol=1e-4, rtol=1e-3)
    assert composite.scale == 1.5
    assert composite.stability == 1.0
    assert composite.entropy == pytest.approx(-sum(float(w * w.log()) for w in weights), abs=1e-4)
    assert [name for name, _ in composite.top(4)] == [library.names[i] for i in weights.argsort(descending=True)]
    one = Basis(("it",), 1.5 * composite.vector[None], basis.layer, basis.resid_norm)
    none = Basis(("it",), 0 * composite.vector[None], basis.layer, basis.resid_norm)
    gain = looped(model, one, PAIRS[0])[0] - looped(model, none, PAIRS[0])[0]
    assert composite.source_gain == pytest.approx(gain, abs=1e-3)
    better = composite.scores > composite.scores.mean()
    assert composite.coverage == pytest.approx(float(composite.weights[better].sum()))


def test_a_single_relation_is_its_own_composite(tiny_model, library):
    model, one = tiny_model("llama"), library.filter(["toy2"])
    composite = compose(model, one, PAIRS)
    torch.testing.assert_close(composite.vector, library["toy2"].vector)
    assert composite.entropy == 0.0
    assert composite.stability == pytest.approx(1.0)


def test_top_k_keeps_the_highest(tiny_model, library):
    model = tiny_model("llama")
    every, two = compose(model, library, PAIRS), compose(model, library, PAIRS, top_k=2)
    assert int((two.weights > 0).sum()) == 2
    kept = every.weights.topk(2)
    torch.testing.assert_close(two.weights[kept.indices], kept.values / kept.values.sum(), atol=1e-5, rtol=1e-4)
    with pytest.raises(LensFVError, match=r"top_k=0\): it has to be .* at least 1"):
        compose(model, library, PAIRS, top_k=0)


def test_stability_is_what_pairs_have_in_common(tiny_model, library):
    model = tiny_model("llama")
    alone = [compose(model, library, pair).weights for pair in PAIRS]
    common = [float(torch.minimum(a, b).sum()) for i, a in enumerate(alone) for b in alone[:i]]
    assert compose(model, library, PAIRS).stability == pytest.approx(sum(common) / len(common), abs=1e-4)


def test_a_composite_is_kept_and_applied_like_any_vector(tiny_model, library, tmp_path):
    model = tiny_model("llama")
    composite = compose(model, library, PAIRS)
    again = load_artefact(composite.save(tmp_path / "c.safetensors"))
    assert isinstance(again, CompositeVector)
    assert torch.equal(again.weights, composite.weights)
    assert again.names == library.names
    with again.applied(model):
        tokens = torch.tensor([[5, 6, 7]])
        with_it = model.forward(tokens)
    assert not torch.equal(with_it, model.forward(tokens))
    assert "mixture" in repr(again)


def test_what_cannot_be_composed_is_said(tiny_model, library):
    model = tiny_model("llama")
    with pytest.raises(LensFVError, match="no pair to read the weights off"):
        compose(model, library, [])
    fitted = softmax_map(model, library.filter(["toy0", "toy1"]).basis(model))
    with pytest.raises(LensFVError, match="it is for another basis"):
        compose(model, library, PAIRS, weight_map=fitted)


# -- maps -------------------------------------------------------------------------------------------------------------


def a_map(model, n: int, **parts) -> WeightMap:
    provenance = Provenance.of(model, task="t", task_hash="", prompts=[], seed=0, method="m", options={})
    return WeightMap(provenance=provenance, names=tuple(map(str, range(n))), **parts)


def test_a_map_is_affine_then_softmax(tiny_model):
    model, rng = tiny_model("llama"), torch.Generator().manual_seed(0)
    scores, matrix, bias = (torch.randn(shape, generator=rng) for shape in ((2, 3), (3, 3), (3,)))
    full = a_map(model, 3, matrix=matrix, bias=bias)
    want = torch.stack([(matrix @ row + bias).softmax(0) for row in scores])
    torch.testing.assert_close(full.weights(scores), want)
    diagonal = a_map(model, 3, matrix=matrix[:1], bias=bias)
    torch.testing.assert_close(diagonal.weights(scores), (scores * matrix[0] + bias).softmax(-1))
    torch.testing.assert_close(full.without("1").matrix, matrix[[0, 2]][:, [0, 2]])
    with pytest.raises(LensFVError, match="weigh 2 scores: the map is for a basis of 3"):
        full.weights(scores[:, :2])


def test_what_is_left_out_neither_gets_weight_nor_counts(tiny_model):
    model, rng = tiny_model("llama"), torch.Generator().manual_seed(0)
    scores, matrix = torch.randn(2, 3, generator=rng), torch.randn(3, 3, generator=rng)
    weight_map, excluded = a_map(model, 3, matrix=matrix, bias=torch.zeros(3)), torch.tensor([[False, True, False]] * 2)
    other = scores.clone()
    other[:, 1] = 99.0
    one, two = (weight_map.weights(x, excluded=excluded) for x in (scores, other))
    torch.testing.assert_close(one, two)
    assert one[:, 1].eq(0).all()
    torch.testing.assert_close(one.sum(-1), torch.ones(2))
    with pytest.raises(LensFVError, match="every relation is left out"):
        weight_map.weights(scores, excluded=torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize("form", ["temperature", "diagonal", "full"])
def test_fitting_makes_held_out_answers_likelier(tiny_model, library, form):
    model = tiny_model("llama")
    task = toy_task(name="toy0", n=30)
    pairs = task.pairs
    analogies = [
        Analogy(a.input, a.output, c.input, c.outputs, relation="new") for a, c in zip(pairs[:10], pairs[10:20], strict=True)
    ]
    # Held out here is what is learned: the best epoch cannot be the one before the first step, unless nothing is learned.
    fitted = fit_map(model, library, analogies, analogies, form=form, epochs=3, learning_rate=0.05)
    basis = library.basis(model)
    plain = softmax_map(model, basis)

    def mean_logprob(weight_map: WeightMap) -> float:
        weights = weight_map.weights(relation_scores(model, basis, [a.source for a in analogies]))
        total = 0.0
        for analogy, row in zip(analogies, weights, strict=True):
            one = Basis(("it",), weight_map.scale * (row @ basis.vectors)[None], basis.layer, basis.resid_norm)
            total += looped(model, one, Pair(analogy.c, analogy.d[:1]))[0]
        return total / len(analogies)

    assert mean_logprob(fitted) > mean_logprob(plain) + 1e-4
    assert fitted.matrix.shape == ((1, 4) if form != "full" else (4, 4))
    assert bool(fitted.bias.any()) == (form != "temperature")
    assert len(set(fitted.matrix.flatten().tolist())) == 1 or form != "temperature"
    assert math.isfinite(fitted.scale)


def test_fitting_needs_analogies(tiny_model, library):
    with pytest.raises(LensFVError, match="fit a map on 0 analogies, 1 held out"):
        fit_map(tiny_model("llama"), library, [], [Analogy("a", "b", "c", ("d",))])
