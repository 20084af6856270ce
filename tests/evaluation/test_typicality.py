"""Vectors of relations and typicality on tiny models, against the same things done one pair at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import LETTERS
from scipy import stats

from lens_fv.composition import Entry, VectorLibrary, compose, softmax_map
from lens_fv.core.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.evaluation import load_artefact
from lens_fv.evaluation.alignment import (
    RatedRelation,
    Typicality,
    load_judgements,
    relation_similarities,
    relation_vectors,
    similarity_matrix,
    typicality,
)
from lens_fv.tasks import Pair
from lens_fv.vectors import FunctionVector


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def library(model, tmp_path_factory) -> VectorLibrary:
    """Four random vectors."""
    folder, rng = tmp_path_factory.mktemp("library"), torch.Generator().manual_seed(0)
    provenance = Provenance.of(model, task="toy", task_hash="", prompts=[], seed=0, method="tuned", options={})
    named_vectors = [
        (name, FunctionVector(provenance, torch.randn(32, generator=rng), torch.zeros(0, model.d_head), 1, 1.0))
        for name in ("a1", "a2", "b1", "b2")
    ]
    files = {name: vector.save(folder / f"{name}.safetensors") for name, vector in named_vectors}
    return VectorLibrary(
        tuple(Entry(name, file, model.name, name[0], "", "", "tuned", 1, 1.0, 0.0, 0.0, 0.0) for name, file in files.items())
    )


def rated(name: str, seed: int, n: int = 8) -> RatedRelation:
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list(LETTERS), size=rng.integers(2, 7))) for _ in range(2 * n + 6)]
    pairs = tuple(Pair(a, (b,)) for a, b in zip(words[::2], words[1::2]))
    return RatedRelation(name, name[0], name, pairs[n:], pairs[:n], tuple(rng.integers(-3, 3, n).astype(float)))


RELATIONS = [rated("x1", 0), rated("x2", 1), rated("b1", 2)]
EXAMPLES = {r.name: r.examples for r in RELATIONS}


def test_vectors_of_known_and_new_relations(model, library):
    vectors = relation_vectors(model, {"tuned": library}, EXAMPLES)
    assert list(vectors) == ["tuned", "composite"]
    assert torch.equal(vectors["tuned"]["b1"].vector, library["b1"].vector)
    composite = vectors["composite"]["b1"]
    assert composite.names == ("a1", "a2", "b2")
    new = vectors["composite"]["x1"]
    expected = compose(model, library, RELATIONS[0].examples)
    torch.testing.assert_close(new.vector, expected.vector)
    best = library.names[int(expected.scores.argmax())]
    assert torch.equal(vectors["tuned"]["x1"].vector, library[best].vector)
    with pytest.raises(LensFVError, match="name some of both"):
        relation_vectors(model, {}, EXAMPLES)


def test_similarities_by_every_kind(model, library):
    vectors = relation_vectors(model, {"tuned": library}, EXAMPLES)
    similarities = relation_similarities(model, vectors, EXAMPLES)
    assert list(similarities) == ["tuned", "composite", "weights", "embedding"]
    assert all(matrix.names == ("x1", "x2", "b1") for matrix in similarities.values())
    x1, b1 = (vectors["composite"][name] for name in ("x1", "b1"))
    weights = [dict(zip(c.names, c.weights.tolist(), strict=True)) for c in (x1, b1)]
    rows = [np.array([w.get(name, 0.0) for name in library.names]) for w in weights]
    expected = rows[0] @ rows[1] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1])
    assert similarities["weights"].values[0, 2] == pytest.approx(expected, abs=1e-6)
    cosine = torch.cosine_similarity(x1.vector, b1.vector, dim=0)
    assert similarities["composite"].values[0, 2] == pytest.approx(float(cosine), abs=1e-6)

    def static(pairs) -> torch.Tensor:
        words = [[model.tl.W_E[model.encode(f" {w}", bos=False)].mean(0) for w in (p.input, p.output)] for p in pairs]
        return torch.stack([b - a for a, b in words]).mean(0)

    cosine = torch.cosine_similarity(static(EXAMPLES["x1"]), static(EXAMPLES["x2"]), dim=0)
    assert similarities["embedding"].values[0, 1] == pytest.approx(float(cosine), abs=1e-5)
    np.testing.assert_allclose(similarity_matrix(library).values[0, 1], cosine_of(library["a1"], library["a2"]), atol=1e-6)


def cosine_of(one: FunctionVector, other: FunctionVector) -> float:
    return float(torch.cosine_similarity(one.vector, other.vector, dim=0))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_measures_pair_by_pair(tiny_model, library, architecture):
    model = tiny_model(architecture)
    if architecture == "llama":
        vectors = relation_vectors(model, {"tuned": library}, EXAMPLES)
        ratings = typicality(model, RELATIONS, vectors, library=library)
        assert ratings.measures[-1] == "composite profile"
    else:  # vectors of another model, made to look like its own; two layers
        own = replace(
            library["a1"].provenance,
            model=model.name,
            weight_processing=model.weight_processing,
            fingerprint=model.fingerprint,
        )
        vectors = {
            kind: {r.name: replace(library[v], provenance=own, layer=layer, scale=2.0) for r in RELATIONS}
            for kind, v, layer in (("one", "a1", 0), ("two", "b2", 2))
        }
        ratings = typicality(model, RELATIONS, vectors)
    assert len(ratings.pairs) == 24
    for i, relation in enumerate(RELATIONS[-2:], len(RELATIONS) - 2):
        for k, pair in enumerate(relation.pairs[:2]):
            at = 8 * i + k
            assert ratings.pairs[at] == (pair.input, pair.output)
            assert int(ratings.relation[at]) == i
            scores = dict(zip(ratings.measures, ratings.scores[at].tolist(), strict=True))
            expected = by_hand(model, relation, pair, {kind: v[relation.name] for kind, v in vectors.items()})
            if architecture == "llama":
                basis = library.without(relation.name) if relation.name in library else library
                alone = compose(model, basis, pair).weights
                whole = vectors["composite"][relation.name].weights
                expected["composite profile"] = float(torch.cosine_similarity(alone, whole, dim=0))
            assert scores == pytest.approx(expected, abs=2e-4)


def by_hand(model, relation: RatedRelation, pair: Pair, vectors: dict[str, FunctionVector]) -> dict[str, float]:
    prompt = model.encode(f"Q: {pair.input}\nA:")
    answer = model.encode(f"Q: {pair.input}\nA: {pair.output}")[len(prompt) :]

    def mean_logprob(**options) -> float:
        logits = model.forward(torch.tensor([prompt + answer]), **options)[0, len(prompt) - 1 : -1]
        return float(logits.log_softmax(-1)[range(len(answer)), answer].mean())

    def embedding(p: Pair) -> torch.Tensor:
        a, b = (model.tl.W_E[model.encode(f" {w}", bos=False)].mean(0) for w in (p.input, p.output))
        return b - a

    def state(word: str, layer: int) -> torch.Tensor:
        kept = []
        keep = (f"blocks.{layer}.hook_resid_post", lambda x, hook: kept.append(x[0, -1]))
        model.forward(torch.tensor([model.encode(f" {word}")]), [keep])
        return kept[0]

    with torch.no_grad():
        mean = torch.stack([embedding(p) for p in relation.examples]).mean(0)
        scores = {"none": mean_logprob(), "embedding": float(torch.cosine_similarity(embedding(pair), mean, dim=0))}
        for kind, vector in vectors.items():
            with vector.applied(model, position=len(prompt) - 1):
                scores[kind] = mean_logprob()
            scores[f"{kind} gain"] = scores[kind] - scores["none"]
            difference = state(pair.output, vector.layer) - state(pair.input, vector.layer)
            scores[f"{kind} direction"] = float(torch.cosine_similarity(difference, vector.vector, dim=0))
    return scores


def test_correlations_within_relations(model, library, tmp_path):
    vectors = relation_vectors(model, {"tuned": library}, EXAMPLES)
    first = typicality(model, RELATIONS, vectors)
    # people who agree with the composite, but for one relation whose ratings are turned round
    j = first.measures.index("composite")
    scores = first.scores[:, j].split(8)
    agreeing = [replace(r, typicality=tuple(s.tolist())) for r, s in zip(RELATIONS, (scores[0], scores[1], -scores[2]))]
    ratings = typicality(model, agreeing, vectors)
    assert ratings.by_relation()[:, j].tolist() == pytest.approx([1, 1, -1])
    row = ratings.results[j]
    assert (row.measure, row.spearman.n) == ("composite", 3)
    assert row.spearman.mean == pytest.approx(1 / 3)
    assert -1 <= row.spearman.ci_low < row.spearman.mean < row.spearman.ci_high <= 1
    for i, relation in enumerate(RELATIONS):
        own = first.relation == i
        for k in range(len(first.measures)):
            expected = stats.spearmanr(first.scores[own, k], relation.typicality).statistic
            assert first.by_relation()[i, k] == pytest.approx(expected, abs=1e-6)
    less = ratings.difference("composite", "none")
    assert less.spearman.mean == pytest.approx(row.spearman.mean - ratings.results[0].spearman.mean, abs=1e-6)
    with pytest.raises(LensFVError, match="'nosuch': not measured"):
        ratings.difference("composite", "nosuch")
    again = load_artefact(ratings.save(tmp_path / "t.safetensors"))
    assert isinstance(again, Typicality)
    assert again.results == ratings.results
    assert again.pairs == ratings.pairs


def test_a_measure_that_orders_nothing_has_no_correlation(model, library):
    ratings = typicality(model, RELATIONS, {})
    flat = replace(ratings, scores=torch.zeros_like(ratings.scores))
    assert flat.by_relation().abs().max() == 0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda t: {"relations": (), "groups": ()}, "pairs of 0 relations do not belong together"),
        (lambda t: {"relations": (*t.relations, "empty"), "groups": (*t.groups, "x")}, "do not belong together"),
        (lambda t: {"relation": t.relation - 1}, "do not belong together"),
        (lambda t: {"pairs": t.pairs[1:]}, "do not belong together"),
        (lambda t: {"human": torch.ones_like(t.human)}, "rated pairs that order nothing"),
        (lambda t: {"human": t.human / 0}, "rated pairs that order nothing"),
        (lambda t: {"scores": t.scores / 0}, "not a finite score"),
        (lambda t: {"measures": t.measures[1:]}, "not a finite score"),
    ],
)
def test_parts_that_have_no_correlation_make_no_typicality(model, parts, message):
    ratings = typicality(model, RELATIONS, {})
    with pytest.raises(LensFVError, match=message):
        replace(ratings, **parts(ratings))


def test_a_relation_of_two_rated_pairs_is_refused(model):
    ratings = typicality(model, RELATIONS, {})
    few = (torch.arange(len(ratings.pairs)) // 2).clamp(max=len(RELATIONS) - 1)
    with pytest.raises(LensFVError, match="2 rated pairs that order nothing; it takes three or more"):
        replace(ratings, relation=few)


def test_what_is_refused(model, library, tiny_model, tmp_path):
    vectors = relation_vectors(model, {"tuned": library}, EXAMPLES)
    with pytest.raises(LensFVError, match="there are no relations"):
        typicality(model, [], vectors)
    with pytest.raises(LensFVError, match="y1: it has no tuned vector"):
        typicality(model, [rated("y1", 5)], vectors)
    with pytest.raises(LensFVError, match="was made on model"):
        typicality(tiny_model("neox"), RELATIONS, vectors)
    with pytest.raises(LensFVError, match="made of another library"):
        typicality(model, RELATIONS, vectors, library=library.without("a1"))
    other = relation_vectors(model, {"tuned": library}, EXAMPLES, weight_map=softmax_map(model, library.basis(model)))
    torch.testing.assert_close(other["composite"]["b1"].weights, vectors["composite"]["b1"].weights)
    path = tmp_path / "judged.csv"
    path.write_text("a,b,score\na1,a2,3\na1,b1,1\na1,b2,0\nzz,a1,1\n")
    with pytest.raises(LensFVError, match=r"line 5: unknown relation 'zz'; known are a1, a2, b1, b2"):
        load_judgements(path, known=library.names)
