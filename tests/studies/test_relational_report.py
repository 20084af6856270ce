"""The report of the study of relations: numbers by hand, a page from any part of the records, and the command."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from lens_fv.cli.app import execute
from lens_fv.composition import fit_confidence, separation
from lens_fv.core.statistics import Estimate, estimate
from lens_fv.errors import LensFVError
from lens_fv.studies.page.markdown import verdict
from lens_fv.studies.parts import note_versions
from lens_fv.studies.relational.page.claims import claims
from lens_fv.studies.relational.page.pooling import (
    Scores,
    analogy_scores,
    result_scores,
    tuning_scores,
    typicality_scores,
)
from lens_fv.studies.relational.page.recorded import Recorded, command
from lens_fv.studies.relational.page.report import write_relational_report
from lens_fv.studies.relational.page.sections import beats
from lens_fv.studies.relational.page.solved import variant_scores
from lens_fv.studies.relational.page.summaries import decoded, foreseen, structures, transfers
from lens_fv.studies.relational.settings import FEW, RelationalSettings

NAMES = ("antonym", "capitalize", "present-past", "singular-plural")
CONDITIONS = ("none", "k_shot", "shuffled", "extracted", "heads", "extracted_matched", "tuned", "random")
SOLVED = ("none", "composite", "one_shot")
RNG = np.random.default_rng(0)
# seed, relation, condition
ACCURACY = RNG.uniform(size=(2, len(NAMES), len(CONDITIONS)))


def rows(values, conditions=CONDITIONS):
    return [
        {"condition": c, "top1": v, "full": v / 2, "logprob_per_answer": -v, "n": 9}
        for c, v in zip(conditions, values, strict=True)
    ]


def fold(names, conditions=SOLVED):
    """Three analogies of each relation."""
    n, m = 3 * len(names), len(conditions)
    made = {key: RNG.integers(0, 2, size=(n, m)).astype(float).tolist() for key in ("top1", "full", "choice", "calibrated")}
    return {
        **made,
        "conditions": list(conditions),
        "relations": [name for name in names for _ in range(3)],
        "far": [bool(i % 2) for i in range(n)],
        "features": RNG.normal(size=(n, 2)).tolist(),
        "logprob": RNG.normal(size=(n, m)).tolist(),
    }


RATED = ("none", "tuned", "extracted", "tuned gain")
TYPICAL = RNG.normal(size=(2, 5, len(RATED)))
AUC = {"auc": 0.75, "auc_p": 0.02, "n_items": 4}
RECORDS = {
    # the last seed is not finished, and shuffled vectors are of the first
    "completion": {
        f"{seed}/{name}": [r for r in rows(ACCURACY[seed, i]) if seed == 0 or r["condition"] != "shuffled"]
        for seed in (0, 1)
        for i, name in enumerate(NAMES)
        if seed == 0 or i < 3
    },
    "transfer": {
        name: {"top1": [1.0 if i == j else 0.0 for j in range(4)], "gain": RNG.normal(size=4).tolist()}
        for i, name in enumerate(NAMES)
    },
    "tuning": {
        f"{seed}/{what}/{value}": {name: {"top1": seed + i / 10, "gain": 1.0} for i, name in enumerate(NAMES[:2])}
        for seed in (0, 1)
        for what, value in (("pairs", 5), ("pairs", 10), ("layer", 0.5), ("start", "zero"))
    },
    "kinds": {f"0/{name}": rows((0.5, 0.25), ("tuned", "lora")) for name in NAMES},
    "carrying": {f"0/{name}": rows((0.5, 0.25, 0.5), ("naive", "carried", "heads")) for name in NAMES},
    "lists": {
        f"0/{name}/{method}": rows((0.25, value), ("first_copy", "predicted"))
        for name in NAMES[:2]
        for method, value in (("extracted", 0.5), ("tuned", 0.75))
    },
    "decoding": {
        f"{seed}/{how}": {
            "results": [
                {"condition": c, "of": "words", "measure": "hit10", "mean": m, "low": m, "high": m, "n": 4}
                for c, m in (("extracted", 0.2), ("tuned", 0.4 + seed / 5))
            ],
            "differences": [
                {"of": "words", "measure": "hit10", "mean": 0.2, "low": -seed, "high": 1, "p": 0.3 + seed / 5, "n": 4}
            ],
        }
        for seed in (0, 1)
        for how in ("plain", "centred")
    },
    "alignment": {
        "0/built-in": {"group": {"tuned": AUC}, "family": {"tuned": AUC}},
        "1/built-in": {"group": {"tuned": {**AUC, "auc": 0.25, "auc_p": 0.5}}},
        **{
            f"{seed}/semeval": {
                "results": [{"measure": m} for m in RATED],
                "by_relation": {f"r{i}": row for i, row in enumerate(TYPICAL[seed].tolist())},
                "classes": {"tuned": AUC},
            }
            for seed in (0, 1)
        },
    },
    "analogies": {
        **{f"{i}/relations": fold(NAMES[i::3]) for i in range(3)},
        "0/pairs": fold(NAMES[:2]),
        "0/variants/top 1": fold(NAMES[0::3]),
        "0/variants/untuned": fold(NAMES[0::3], (*SOLVED, "lengthened")),
    },
}


@pytest.fixture
def folder(tmp_path):
    """A study that has every part."""
    made = tmp_path / "work" / "tiny"
    made.mkdir(parents=True)
    settings = {"model": "tiny", "revision": None, **vars(RelationalSettings.chosen(relations=NAMES, n_seeds=2))}
    for name, content in {"study": settings, **RECORDS}.items():
        (made / f"{name}.json").write_text(json.dumps(content))
    return made


def test_numbers_are_means_over_relations_of_means_over_seeds():
    scores = result_scores(RECORDS["completion"], "top1")
    tuned, extracted, shuffled = (ACCURACY[:, :, CONDITIONS.index(c)] for c in ("tuned", "extracted", "shuffled"))
    by_hand = [*tuned[:, :3].mean(0), tuned[0, 3]]
    found = scores.mean("tuned")
    assert found == estimate(by_hand)
    differences = [*(tuned - extracted)[:, :3].mean(0), (tuned - extracted)[0, 3]]
    assert scores.difference("tuned", "extracted") == pytest.approx(estimate(differences))
    # records of before say "mean_logprob"
    before = {
        key: [{("mean_logprob" if k == "logprob_per_answer" else k): v for k, v in row.items()} for row in rows]
        for key, rows in RECORDS["completion"].items()
    }
    assert result_scores(before, "logprob_per_answer") == result_scores(RECORDS["completion"], "logprob_per_answer")
    # over the seed that both have
    assert scores.difference("tuned", "shuffled").mean == pytest.approx((tuned - shuffled)[0].mean())
    assert scores.mean("tuned", NAMES[:2]).mean == pytest.approx(np.mean(by_hand[:2]))
    assert scores.mean("tuned", ["synonym"]) is None and scores.difference("tuned", "nothing") is None
    assert tuning_scores(RECORDS["tuning"], "pairs", "top1").mean("10").mean == pytest.approx(0.55)


def test_typicality_and_structure_are_pooled():
    scores = typicality_scores(RECORDS["alignment"])
    assert scores.mean("tuned gain").mean == pytest.approx(TYPICAL[..., 3].mean())
    by_hand = (TYPICAL[..., 1] - TYPICAL[..., 2]).mean(0)
    assert scores.difference("tuned", "extracted") == pytest.approx(estimate(by_hand.tolist()))
    assert structures(RECORDS["alignment"])["group", "tuned"] == (0.5, 0.5, 4, 2)
    assert ("SemEval class", "tuned") in structures(RECORDS["alignment"])


def test_transfer_sets_a_relations_own_vector_beside_the_others():
    gain = np.array([RECORDS["transfer"][name]["gain"] for name in NAMES])
    families = dict(zip(NAMES, ("a", "b", "c", "c"), strict=True))
    found = transfers(RECORDS["transfer"], NAMES, families, "gain")["present-past"]
    others = gain[2, [0, 1, 3]]
    assert found == pytest.approx((gain[2, 2], others.mean(), others.max(), gain[2, 3], gain[2, 2] >= others.max()))
    assert transfers(RECORDS["transfer"], NAMES, families, "gain")["antonym"].related is None
    assert all(t.wins and t.own == 1 for t in transfers(RECORDS["transfer"], NAMES, families, "top1").values())


def test_analogies_are_pooled_over_folds():
    records = RECORDS["analogies"]
    scores = analogy_scores(records, "relations", "logprob")
    by_hand = {}
    for i in range(3):
        block = records[f"{i}/relations"]
        for name, row in zip(block["relations"], np.array(block["logprob"]), strict=True):
            by_hand.setdefault(name, []).append(row[1] - row[2])
    means = [np.mean(by_hand[name]) for name in scores.by_relation("composite")]
    expected = estimate(means)
    assert scores.difference("composite", "one_shot") == pytest.approx(expected)
    far = analogy_scores(records, "relations", "logprob", far=True)
    assert sum(len(found) for found in far.values["composite"].values()) == sum(
        sum(records[f"{i}/relations"]["far"]) for i in range(3)
    )
    variants = variant_scores(records, "logprob")
    assert variants.conditions == [
        "composite",
        "composite, 1 vector",
        "composite of extracted vectors",
        "the same, lengthened",
    ]
    assert variants.mean("composite").mean == pytest.approx(np.mean([scores.by_relation("composite")[n] for n in NAMES[0::3]]))
    lengthened = np.array(records["0/variants/untuned"]["logprob"])[:, 3].reshape(2, 3).mean(1)
    assert variants.mean("the same, lengthened").mean == pytest.approx(lengthened.mean())


def test_confidence_is_learned_on_the_other_folds():
    blocks = [RECORDS["analogies"][f"{i}/relations"] for i in range(3)]
    x = [torch.tensor(b["features"]) for b in blocks]
    y = [torch.tensor(b["logprob"]) for b in blocks]
    y = [of[:, 1] > of[:, 2] for of in y]
    said = [
        fit_confidence(torch.cat([x[j] for j in range(3) if j != i]), torch.cat([y[j] for j in range(3) if j != i]))(x[i])
        for i in range(3)
    ]
    found = foreseen(RECORDS["analogies"])
    assert found == pytest.approx((float(torch.cat(y).float().mean()), *separation(torch.cat(said), torch.cat(y)), 12))
    assert "two folds" in foreseen({"0/relations": blocks[0]})
    same = {
        key: {**block, "logprob": [[0.0, 1.0, 0.0]] * len(block["far"])}
        for key, block in zip(("0/relations", "1/relations"), blocks)
    }
    assert "all helped" in foreseen(same)


def test_a_claim_that_is_not_met_is_said_so():
    found = {"one": 0.3, "two": 0.1}
    scores = {name: Scores.of([("a", "x", "0", value), ("b", "x", "0", 0.0)]) for name, value in found.items()}
    said = beats("A beats b", {name: s.difference("a", "b") for name, s in scores.items()})
    assert said == (
        "**A beats b by at least 20 points on each model: not met.** one: met, +30 points; two: not met, +10 points."
    )
    assert "model: met.**" in beats("A beats b", {"one": scores["one"].difference("a", "b")})


@pytest.fixture
def no_chrome(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-chrome"))


def test_claims_hold_fail_or_do_not_show(folder):
    said = {
        Estimate(0.2, 0.1, 0.3, 4): "holds",
        Estimate(-0.2, -0.3, -0.1, 4): "opposite",
        Estimate(0.1, -0.1, 0.3, 4): "not",
        Estimate(0.2, 0.2, 0.2, 1): "not",
    }
    for found, word in said.items():
        assert word in verdict(found)
    tuned, extracted = (ACCURACY[:, :3, CONDITIONS.index(c)].mean(0) for c in ("tuned", "extracted"))
    title, page = claims([Recorded("tiny", folder)])
    last = (ACCURACY[0, 3, CONDITIONS.index("tuned")] - ACCURACY[0, 3, CONDITIONS.index("extracted")]).item()
    mean = np.mean([*(tuned - extracted), last])
    assert title.startswith("## What holds")
    assert f"| (a) completes | tuned - extracted, first token (points) | {100 * mean:+.0f} [" in page
    assert "| (c) agrees with people | tuned - extracted, typicality by log-probability |" in page
    assert "(b)" not in page  # these records have no ranks of that kind


def test_ranks_are_means_over_seeds_with_the_widest_interval():
    found = decoded(RECORDS["decoding"], "plain", "words", "hit10")
    assert (found.extracted, found.tuned) == pytest.approx((0.2, 0.5))
    assert found.difference == pytest.approx((0.2, -1, 1, 4)) and found.p == 0.5
    assert decoded(RECORDS["decoding"], "through", "words", "hit10") is None


def test_the_page_has_the_numbers_and_links_what_is_there(folder, tmp_path, no_chrome):
    out = tmp_path / "results"
    page = write_relational_report({"tiny": folder}, out)
    text = page.read_text(encoding="utf-8")
    tuned = result_scores(RECORDS["completion"], "top1").mean("tuned")
    assert f"| tuned vector | {tuned:.2f} |" in text
    assert "seeds 0, 1 (3 relations so far)." in text
    assert "| plain | words | share with one among the first 10 | 0.200 | 0.500 | +0.200 [-1.000, +1.000] | 0.500 | 4 |" in text
    assert "lens-fv reproduce relational --model tiny --task antonym" in text and "--seeds 2 --seed 0\n" in text
    assert str(tmp_path) not in text
    links = {part.split(")")[0] for part in text.split("](")[1:]}
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert links == written - {"relational.md", "relational/plotly.min.js"}
    assert {"relational/completion.csv", "relational/completion-groups.html", "relational/transfer-tiny.html"} <= links
    with (out / "relational" / "completion.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(found) for found in RECORDS["completion"].values())
    assert float(next(r for r in rows if (r["relation"], r["seed"], r["condition"]) == ("antonym", "1", "tuned"))["top1"]) == (
        pytest.approx(ACCURACY[1, 0, CONDITIONS.index("tuned")], abs=1e-6)
    )


@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="draws with Chrome")
@pytest.mark.filterwarnings("default")  # of kaleido's own temporary folders
def test_figures_are_images_where_they_can_be_drawn(folder, tmp_path):
    pytest.importorskip("kaleido")
    for part in RECORDS:
        if part != "tuning":
            (folder / f"{part}.json").unlink()
    write_relational_report({"tiny": folder}, tmp_path / "results")
    assert sorted(p.name for p in (tmp_path / "results" / "relational").iterdir()) == ["tuning-layer.svg", "tuning-pairs.svg"]


@pytest.mark.parametrize("part", RECORDS)
def test_parts_that_were_not_run_leave_their_sections_out(part, folder, tmp_path, no_chrome):
    whole = write_relational_report({"tiny": folder}, tmp_path / "whole").read_text(encoding="utf-8")
    (folder / f"{part}.json").unlink()
    less = write_relational_report({"tiny": folder}, tmp_path / "less").read_text(encoding="utf-8")
    titles = {
        name: [line for line in text.splitlines() if line.startswith("## ")]
        for name, text in {"whole": whole, "less": less}.items()
    }
    assert len(titles["whole"]) == 12
    assert len(titles["whole"]) - len(titles["less"]) == (2 if part == "completion" else 1)


def test_lists_stand_by_how_their_vectors_were_made(folder, tmp_path, no_chrome):
    text = write_relational_report({"tiny": folder}, tmp_path / "results").read_text(encoding="utf-8")
    section = text[text.index("## Do vectors add up?") :]
    header, _, *body = [line for line in section.splitlines() if line.startswith("|")][:4]
    assert [cell.strip() for cell in header.split("|")[2:4]] == ["tiny, extracted", "tiny, tuned"]
    predicted = next(line for line in body if "v(last, copy) - v(first, copy)" in line)
    assert [cell.split()[0] for cell in predicted.split("|")[2:4]] == ["0.50", "0.75"]


def test_settings_are_told_as_a_command(folder, tmp_path):
    def told(settings):
        (folder / "study.json").write_text(json.dumps({"model": "tiny", "revision": None, **vars(settings)}))
        return command([Recorded("tiny", folder)])

    start = "lens-fv reproduce relational --model tiny"
    assert told(RelationalSettings()) == f"{start} --seeds 3 --seed 0"
    quick = RelationalSettings.chosen(quick=True, first_seed=4, semeval=str(tmp_path))
    assert quick.relations == FEW and set(quick.few) < set(FEW) and quick.seeds == (4,)
    assert told(quick) == f"{start} --quick --seeds 1 --seed 4 --semeval FOLDER"
    assert told(RelationalSettings(pairs=7)) is None


def test_the_command_reports_without_a_model(folder, tmp_path, monkeypatch, capsys, no_chrome):
    monkeypatch.chdir(tmp_path)
    arguments = ["reproduce", "relational", "--report-only", "--work", "work", "--out", "results"]
    assert execute([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    difference = result_scores(RECORDS["completion"], "top1").difference("tuned", "extracted")
    assert found["models"]["tiny"]["tuned_minus_extracted"] == difference._asdict()
    assert found["models"]["tiny"]["records"] == {part: len(records) for part, records in RECORDS.items()}
    assert (tmp_path / found["page"]).is_file()
    assert execute([*arguments, "--model", "other"]) == 2
    assert "there is no study in work/other" in " ".join(capsys.readouterr().err.split())
    assert execute(["reproduce", "relational", "--report-only", "--work", "nowhere"]) == 2
    assert execute(["reproduce", "relational", "--part", "nothing"]) == 2
    assert "there are completion" in capsys.readouterr().err


def test_the_command_runs_a_part(model_folder, tmp_path, monkeypatch, capsys, no_chrome):
    monkeypatch.chdir(tmp_path)
    few = ["--part", "carrying", "--quick", "--task", "antonym"]
    where = ["--work", "work", "--out", "results", "--json"]
    assert execute(["reproduce", "relational", "--model", str(model_folder), *few, *where]) == 0
    found = json.loads(capsys.readouterr().out)["models"]["tiny"]
    assert found["records"]["carrying"] == 1 and found["records"]["completion"] == 0
    assert found["tuned_minus_extracted"] is None
    page = (tmp_path / "results" / "relational.md").read_text(encoding="utf-8")
    assert "## Norms behind attention" in page and "## Completion" not in page


def test_nothing_to_report_on_is_refused(tmp_path):
    with pytest.raises(LensFVError, match="no studies are given"):
        write_relational_report({}, tmp_path)


def test_the_command_says_how_numbers_were_computed(tmp_path):
    (tmp_path / "study.json").write_text("{}")
    run = Recorded("model", tmp_path)
    assert run.as_run("lens-fv reproduce relational") == "lens-fv reproduce relational"
    (tmp_path / "versions.json").write_text(json.dumps({"matmul": "medium"}))
    assert run.as_run("lens-fv reproduce relational") == "lens-fv --matmul medium reproduce relational"
    (tmp_path / "versions.json").write_text(json.dumps({"weights": "bfloat16"}))
    assert Recorded("model", tmp_path).as_run("lens-fv reproduce relational") == "lens-fv reproduce relational --dtype bfloat16"


def test_a_study_goes_on_with_the_weights_that_it_was_begun_with(tmp_path):
    note_versions(tmp_path, "bfloat16")
    note_versions(tmp_path, torch.bfloat16)
    with pytest.raises(LensFVError, match="its weights were bfloat16, now they are float32; choose another folder"):
        note_versions(tmp_path, None)
