"""The page of the study of relations: numbers by hand, and a page from any part of the rows."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lens_fv.composition import fit_confidence, roc_auc
from lens_fv.core.statistics import estimate
from lens_fv.studies import relational
from lens_fv.studies.relational import STUDY, RelationalSettings, best_vectors
from lens_fv.studies.relational.page import CLAIMS, analogy_differences, confidence, decoding, joined
from lens_fv.studies.render import write_page
from lens_fv.studies.rows import Job, Row, RowStore
from lens_fv.studies.study import Results, settings_hash
from lens_fv.studies.tables import View

NAMES = ("antonym", "capitalize", "present-past", "singular-plural")
CONDITIONS = ("none", "k_shot", "shuffled", "extracted", "heads", "extracted_matched", "tuned", "random")
RATED = ("none", "tuned", "extracted", "tuned gain")
RNG = np.random.default_rng(0)
ACCURACY = RNG.uniform(size=(2, len(NAMES), len(CONDITIONS)))
"""Seeds, relations, conditions. The last seed has no last relation, and shuffled vectors are of the first seed."""
GAIN = RNG.normal(size=(len(NAMES), len(NAMES)))
"""Relations, vectors."""
TYPICALITY = RNG.normal(size=(2, 5, len(RATED)))
LOGPROB = RNG.normal(size=(len(NAMES), 3, 3))
"""Relations, analogies, and the conditions composite, one_shot and the variant."""
FEATURES = RNG.normal(size=(len(NAMES), 3, 2)).astype(np.float32)
FAR = [0.0, 1.0, 0.0]


def evaluation(unit, values):
    for condition, value in values.items():
        yield Row(unit, condition, "top1_accuracy", value, 9)
        yield Row(unit, condition, "exact_match", value / 2, 9)
        yield Row(unit, condition, "logprob_per_answer_nats", -value, 9)


def solved(names):
    yield from variant(names, {"composite": 0, "one_shot": 1})
    for name in names:
        features = FEATURES[NAMES.index(name)].T.tolist()
        yield Row(name, "composite", "is_far", FAR)
        yield Row(name, "composite", "weight_entropy_nats", features[0])
        yield Row(name, "composite", "source_gain_nats_per_token", features[1])


def variant(names, conditions):
    for name in names:
        for condition, i in conditions.items():
            logprob = LOGPROB[NAMES.index(name), :, i].tolist()
            yield Row(name, condition, "logprob_per_token_nats", logprob)
            for measure in ("top1_accuracy", "exact_match", "mc_accuracy", "mc_accuracy_calibrated"):
                yield Row(name, condition, measure, [float(x > 0) for x in logprob])


def jobs():
    for seed in (0, 1):
        for i, name in enumerate(NAMES[: 4 - seed]):
            values = dict(zip(CONDITIONS, ACCURACY[seed, i].tolist(), strict=True))
            yield "completion", name, seed, evaluation(name, {c: v for c, v in values.items() if not seed or c != "shuffled"})
        for varied, value in (("pairs", "5"), ("pairs", "10"), ("layer", "0.5"), ("start", "zero")):
            rows = [Row(n, value, "top1_accuracy", seed + i / 10) for i, n in enumerate(NAMES[:2])]
            yield "tuning", f"{varied}/{value}", seed, [*rows, *(row._replace(measure="logprob_gain_nats") for row in rows)]
        for logits in ("direct", "later layers"):
            rows = {"extracted": 0.2, "tuned": 0.4 + seed / 5}
            ends = {"": 0.2, "_ci_low": -float(seed), "_ci_high": 1.0, "_p_value": 0.3 + seed / 5}
            yield (
                "decoding",
                logits,
                seed,
                [
                    *(Row("words", condition, "best_reciprocal_rank", value, 4) for condition, value in rows.items()),
                    *(Row("words", "tuned - extracted", f"best_reciprocal_rank{end}", v, 4) for end, v in ends.items()),
                ],
            )
        auc = {"auc": 0.25 + seed / 2, "auc_p_value": 0.02 + seed / 2}
        yield "alignment", "built-in", seed, [Row("group", "tuned", measure, v, 4) for measure, v in auc.items()]
        yield (
            "alignment",
            "semeval",
            seed,
            [
                Row(f"r{i}", c, "spearman", v)
                for i in range(5)
                for c, v in zip(RATED, TYPICALITY[seed, i].tolist(), strict=True)
            ],
        )
    for i, name in enumerate(NAMES):
        yield (
            "transfer",
            name,
            0,
            [
                Row(name, "tuned", "top1_accuracy", [float(i == j) for j in range(4)], 5),
                Row(name, "tuned", "logprob_gain_nats", GAIN[i].tolist(), 5),
            ],
        )
        yield "baselines", name, 0, evaluation(name, {"tuned": 0.5, "lora": 0.25})
        yield "norms", name, 0, evaluation(name, {"summed": 0.5, "normed": 0.25, "heads": 0.5})
        for method, value in (("extracted", 0.5), ("tuned", 0.75)):
            yield "lists", f"{name}/{method}", 0, evaluation(name, {"first_copy": 0.25, "predicted": value})
    for fold in range(3):
        yield "analogies", f"relations/{fold}", 0, solved(NAMES[fold::3])
    yield "analogies", "pairs/0", 0, solved(NAMES[:2])
    yield "analogies", "variants/1 vector", 0, variant(NAMES[0::3], {"composite, 1 vector": 2})


def written(folder, without=()):
    """A study with every part but some."""
    folder.mkdir(parents=True)
    settings = vars(RelationalSettings(relations=NAMES, seeds=(0, 1)))
    (folder / "study.json").write_text(json.dumps({"model": "tiny", "revision": None, "weights": "float32", **settings}))
    store = RowStore(folder / "rows.jsonl", "tiny", settings_hash(json.loads(json.dumps(settings))))
    for part, name, seed, rows in jobs():
        if part not in without:
            store.compute(Job(part, name, lambda rows=rows: rows, seed))
    return Results(folder, "tiny")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return written(tmp_path_factory.mktemp("study") / "tiny")


@pytest.fixture(scope="module")
def rows(run):
    return STUDY.view(run)


def by_hand(values):
    return pytest.approx(estimate([float(v) for v in values]))


def accuracies(condition):
    values = ACCURACY[:, :, CONDITIONS.index(condition)]
    return [*values[:, :3].mean(0), values[0, 3]]


def test_accuracies_are_means_over_relations_of_means_over_seeds(run, rows):
    own = rows.where(part="completion", measure="top1_accuracy")
    table = own.estimates("condition", "model")
    assert table["tuned"]["tiny"] == by_hand(accuracies("tuned"))
    groups = own.with_all("group").estimates("condition", "group")["tuned"]
    assert set(groups) == {"all", "lexical semantics", "form", "morphology"} and groups["all"] == table["tuned"]["tiny"]
    assert groups["morphology"] == by_hand(accuracies("tuned")[2:])
    compared = ("tuned - extracted", "tuned - shuffled", "tuned - nothing")
    table = own.differences(compared, "model")
    assert table["tuned - extracted"]["tiny"] == by_hand(np.subtract(accuracies("tuned"), accuracies("extracted")))
    of, minus = (ACCURACY[0, :, CONDITIONS.index(c)] for c in ("tuned", "shuffled"))
    assert table["tuned - shuffled"]["tiny"] == by_hand(of - minus)  # over the seed that both have
    assert "tuned - nothing" not in table
    headline = STUDY.headline(rows, run)
    assert headline["tuned_minus_extracted"] == by_hand(np.subtract(accuracies("tuned"), accuracies("extracted")))
    assert headline["completion"]["none"] == by_hand(accuracies("none"))


def test_typicality_is_pooled_over_seeds(rows):
    own = rows.where(part="alignment", measure="spearman")
    table = own.estimates("condition", "model")
    assert table["tuned gain"]["tiny"] == by_hand(TYPICALITY[..., 3].mean(0))
    table = own.differences(["tuned - extracted"], "model")
    assert table["tuned - extracted"]["tiny"] == by_hand((TYPICALITY[..., 1] - TYPICALITY[..., 2]).mean(0))


def test_a_relations_own_vector_is_compared_with_the_others(run, monkeypatch):
    families = dict(zip(NAMES, ("a", "b", "c", "c"), strict=True))
    monkeypatch.setattr(relational, "load_task", lambda name: SimpleNamespace(family=families[name]))
    rows = View(best_vectors(run))
    effects = rows.where(measure="logprob_gain_nats", unit="present-past").frame.set_index("condition")["value"]
    others = GAIN[2, [0, 1, 3]]
    expected = [GAIN[2, 2], others.mean(), others.max(), GAIN[2, 3], float(GAIN[2, 2] >= others.max())]
    assert effects[["own", "others", "best_other", "best_of_family", "own_is_best"]].tolist() == pytest.approx(expected)
    related = rows.estimates("measure", "condition")["logprob_gain_nats"]["best_of_family"]
    assert related == by_hand([GAIN[2, 3], GAIN[3, 2]])  # the others are alone in their families
    accuracy = rows.estimates("measure", "condition")["top1_accuracy"]
    assert accuracy["own"].mean == accuracy["own_is_best"].mean == 1


def test_analogies_are_pooled_over_folds(rows):
    in_order = [0, 3, 1, 2]  # of folds
    composite, one_shot = LOGPROB[in_order, :, 0], LOGPROB[in_order, :, 1]
    held_out = rows.where(part="analogies", kind="relations")
    table = analogy_differences(held_out, ["composite - one_shot"])["composite - one_shot"]
    assert table["tiny: log-probability"] == by_hand((composite - one_shot).mean(1))
    assert table["tiny: first token (points)"] == by_hand(((composite > 0) * 1.0 - (one_shot > 0)).mean(1))
    far = held_out.where(is_far=1, measure="logprob_per_token_nats").estimates("condition", "model")
    assert far["composite"]["tiny"] == by_hand(composite[:, 1])
    variants = rows.where(job=("relations/0", "variants/1 vector"), measure="logprob_per_token_nats")
    table = variants.differences(["composite, 1 vector - composite"], "model", paired=["item"])
    differences = LOGPROB[[0, 3], :, 2] - LOGPROB[[0, 3], :, 0]
    assert table["composite, 1 vector - composite"]["tiny"] == by_hand(differences.mean(1))


def test_confidence_is_learned_on_the_other_folds(rows):
    folds = [[0, 3], [1], [2]]
    x = [torch.tensor(FEATURES[fold].reshape(-1, 2)) for fold in folds]
    y = [torch.tensor((LOGPROB[fold, :, 0] > LOGPROB[fold, :, 1]).ravel()) for fold in folds]
    predicted = [fit_confidence(*(torch.cat([of[j] for j in range(3) if j != i]) for of in (x, y)))(x[i]) for i in range(3)]
    auc, p = roc_auc(torch.cat(predicted), torch.cat(y))
    expected = {"helped": float(torch.cat(y).double().mean()), "auc": auc, "p": p, "n": 12}
    assert confidence(rows.where(kind="relations")) == pytest.approx(expected)
    assert "two folds" in confidence(rows.where(job="relations/0"))
    worse = rows.frame["value"].where(rows.frame["condition"] != "one_shot", -100.0)
    assert "all helped" in confidence(View(rows.frame.assign(value=worse)).where(kind="relations"))


def test_ranks_are_means_over_seeds_with_the_widest_interval(rows):
    assert decoding("best_reciprocal_rank", "direct", "words").estimate(rows) == pytest.approx((0.2, -1, 1, 4))
    assert decoding("best_reciprocal_rank", "direct", "answers").estimate(rows) is None
    claims = CLAIMS["Do tuned vectors decode better into words and answers?"]
    assert [contrast.estimate(rows) is None for contrast in claims] == [True, True, False, False]


def test_tables_are_joined_by_row(rows):
    own = rows.where(part="lists", measure="top1_accuracy")
    table = joined({m: own.where(detail=m).estimates("condition", "model") for m in ("extracted", "tuned")})
    assert {column: cell.mean for column, cell in table["predicted"].items()} == {"tiny: extracted": 0.5, "tiny: tuned": 0.75}


@pytest.fixture
def no_chrome(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-chrome"))


def test_the_page_links_what_is_there_and_its_tables_are_unrounded(run, tmp_path, no_chrome):
    out = tmp_path / "results"
    text = write_page(STUDY, {"tiny": run.folder}, out).read_text(encoding="utf-8")
    assert str(tmp_path) not in text and "seeds 0, 1 (3 relations so far)." in " ".join(text.split())
    links = {part.split(")")[0] for part in text.split("](")[1:]}
    links = {link for link in links if not link.startswith("../")}  # other pages of the documentation
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert links == files - {"relational.md", "relational/plotly.min.js"}
    assert {"relational/completion.csv", "relational/completion-groups.html", "relational/transfer-tiny.html"} <= links
    with (out / "relational" / "completion.csv").open(encoding="utf-8") as file:
        table = {(row["relation"], row["seed"], row["condition"]): row for row in csv.DictReader(file)}
    assert len(table) == 4 * 8 + 3 * 7
    assert float(table["antonym", "1", "tuned"]["top1_accuracy"]) == pytest.approx(ACCURACY[1, 0, 6], abs=1e-6)


@pytest.mark.parametrize("part", STUDY.parts)
def test_parts_that_were_not_run_leave_their_sections_out(part, tmp_path, no_chrome):
    run = written(tmp_path / "less" / "tiny", [part])
    text = write_page(STUDY, {"tiny": run.folder}, tmp_path / "results").read_text(encoding="utf-8")
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(titles) == 12 - (2 if part == "completion" else 1)
