"""The command similarity, on a tiny model in a folder."""

import json

import numpy as np
import pytest
import torch
from scipy import stats

from lens_fv.composition import VectorLibrary, softmax_map
from lens_fv.composition.index import Entry, write_index
from lens_fv.core.artefact import Provenance
from lens_fv.evaluation.alignment import similarity_matrix
from lens_fv.model import load_model
from lens_fv.vectors import FunctionVector

GROUPS = {"lowercase": "form", "first-letter": "form", "next-number": "number", "digits-number": "number", "toy": "toy"}
EXAMPLES = {"1a": "ab:cd", "1b": "e:fg", "2a": "h:ij", "2b": "kl:m"}


@pytest.fixture
def similarity(run, model_folder, tmp_path):
    """`similarity(...)`: what `run` says of the command, in a folder with two libraries and SemEval's files."""
    model = load_model(str(model_folder))
    for method in ("tuned", "extracted"):
        provenance = Provenance.of(model, task="toy", task_hash="", prompts=[], seed=0, method=method, options={})
        rng, entries = torch.Generator().manual_seed(len(method)), []
        for name, group in GROUPS.items():
            vector = FunctionVector(provenance, torch.randn(32, generator=rng), torch.zeros(0, model.d_head), 1, 1.0)
            file = vector.save(tmp_path / method / f"{name}.safetensors")
            entries.append(Entry(name, file, model.name, group, "", "", method, 1, 1.0, 0.0, 0.0, 0.0))
        write_index(tmp_path / method, {}, entries)
    (tmp_path / "toy.json").write_text(json.dumps([{"input": f"a{i}", "output": f"b{i}"} for i in range(6)]))
    rows = [f"{number}, {letter}, CLASS{number}, Sub, {EXAMPLES[number + letter]}" for number in "12" for letter in "ab"]
    (tmp_path / "semeval" / "Phase2AnswersScaled").mkdir(parents=True)
    (tmp_path / "semeval" / "subcategories-paradigms.txt").write_text("\n".join(rows))
    for name in EXAMPLES:
        ratings = "\n".join(f'{10 * i}.0 "x{name}{i}:y{i}"' for i in range(4))
        (tmp_path / "semeval" / "Phase2AnswersScaled" / f"Phase2Answers-{name}.txt").write_text(ratings)

    return lambda *arguments, **options: run("similarity", *arguments, **options)


QUICK = ("--permutations", "20", "--n-pairs", "2")


def test_libraries_against_taxonomy_and_judgements(similarity, tmp_path):
    names = list(GROUPS)
    judged = [(a, b, float(i)) for i, (a, b) in enumerate((a, b) for k, a in enumerate(names) for b in names[k + 1 :])]
    (tmp_path / "judged.csv").write_text("a,b,score\n" + "".join(f"{a},{b},{s}\n" for a, b, s in judged))
    arguments = ("tuned", "extracted", "--task", "toy.json", "--judgements", "judged.csv", *QUICK, "--out", "r.json")
    code, result, err = similarity(*arguments)
    assert code == 0, err
    assert json.loads((tmp_path / "r.json").read_text()) == result
    assert result["relations"] == names
    assert result["classes"] == list(GROUPS.values())
    kinds = ["tuned", "extracted", "composite", "weights", "embedding"]
    assert [row["kind"] for row in result["taxonomy"]] == kinds
    assert [row["kind"] for row in result["judgements"]] == [kind for kind in kinds for _ in range(2)]
    vectors = {name: FunctionVector.load(tmp_path / "extracted" / f"{name}.safetensors") for name in names}
    matrix = similarity_matrix(vectors)
    by_kind = {(row["kind"], row["coefficient"]): row["correlation"] for row in result["judgements"]}
    expected = stats.spearmanr(matrix.upper, np.arange(10)).statistic
    assert by_kind["extracted", "spearman"] == pytest.approx(expected)
    assert result["taxonomy"][1]["within"] == pytest.approx((matrix.upper[0] + matrix.upper[7]) / 2)
    assert "typicality" not in result


def test_a_map_mixes_the_composites(similarity, tmp_path, model_folder):
    arguments = ("tuned", "--task", "toy.json", *QUICK)
    model = load_model(str(model_folder))
    basis = VectorLibrary.load(tmp_path / "tuned").basis(model)
    results = {}
    for temperature in (3.0, 0.5):
        softmax_map(model, basis, temperature=temperature).save(tmp_path / "map.safetensors")
        code, results[temperature], err = similarity(*arguments, "--weight-map", "map.safetensors")
        assert code == 0, err
    assert results[3.0] == similarity(*arguments)[1]
    assert results[0.5]["taxonomy"] != results[3.0]["taxonomy"]


def test_semeval(similarity):
    code, result, err = similarity("tuned", "--semeval", "semeval", *QUICK)
    assert code == 0, err
    assert result["relations"] == list(EXAMPLES)
    assert {row["n_within"] for row in result["taxonomy"]} == {2}
    measures = [row["measure"] for row in result["typicality"]["results"]]
    assert measures[:2] == ["none", "embedding"]
    assert "composite profile" in measures
    assert list(result["typicality"]["by_relation"]) == list(EXAMPLES)
    one, row = result["typicality"]["by_relation"]["1b"], result["typicality"]["results"][0]
    assert len(one) == len(measures)
    values = [rows[0] for rows in result["typicality"]["by_relation"].values()]
    assert row["spearman"] == pytest.approx(sum(values) / 4, abs=1e-6)
    # two relations: too few for a taxonomy, enough for typicality; as a table
    code, out, err = similarity("tuned", "--semeval", "semeval", "--relation", "1b", "--relation", "2a", as_json=False)
    assert code == 0, err
    assert "typicality by" in out.lower()
    assert "AUC" not in out


def test_bad_requests(similarity, tmp_path):
    (tmp_path / "judged.csv").write_text(",a,b\na,1,2\nb,2,1\n")
    for arguments, message in (
        (("nosuch",), "library.json"),
        (("tuned", "tuned"), "give different ones"),
        (("tuned", "--relation", "antonym"), "no such relation"),
        (("tuned", *QUICK), "unknown task 'toy'"),
        (("tuned", "--judgements", "judged.csv"), "judged.csv, line 2: unknown relation 'a'"),
        (("tuned", "--semeval", "tuned"), "subcategories-paradigms.txt"),
    ):
        code, _, err = similarity(*arguments, as_json=False)
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err
