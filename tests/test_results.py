"""Every public result has a summary, a table and a file, and the table holds what was measured."""

import importlib
import inspect
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import made_provenance
from mutations import made_artefact

from lens_fv.core.artefact import MODULES, Artefact, load_artefact
from lens_fv.core.results import Record, Records, Saved
from lens_fv.core.statistics import Estimate, estimate, proportion
from lens_fv.core.tables import data_frame, table_rows
from lens_fv.dynamics import ContinualMetrics, Verdict
from lens_fv.dynamics.verdict import Verdicts
from lens_fv.errors import LensFVError
from lens_fv.evaluation import ListComposition
from lens_fv.evaluation.alignment import Agreement, SimilarityMatrix, TaxonomyStructure
from lens_fv.finetuning import FinetuneRun
from lens_fv.heads import HeadRanking, Overlap, Reliability
from lens_fv.knowledge import KnowledgeResult, KnowledgeResults, KnowledgeScores
from lens_fv.patching.verify import Finding, Findings
from lens_fv.vectors import Decoded

INTERVAL = ("ci_low", "ci_high", "n")
LOGPROB = "logprob_per_answer_nats"


def with_interval(name: str) -> list[str]:
    return [name, f"{name}_ci_low", f"{name}_ci_high"]


VECTOR = ["task", "method", "model", "seed", "layer", "site", "scale", "norm_in_residuals", "n_heads"]
EFFECT = ["layer", "head", "effect", *INTERVAL, "p_value"]
TOP1 = ["top1_accuracy", "top1_accuracy_ci_low", "top1_accuracy_ci_high", "n"]
CURVES = {
    "accuracy",
    "in_context_accuracy",
    "instruction_logprob_nats_per_token",
    "knowledge_logprob_nats_per_token",
    "accuracy_with_vector",
}
TABLES = {
    "Adapter": (4, ["layer", "projection", "rank", "norm"]),
    "AnalogyEvaluation": (
        2,
        [
            "condition",
            *TOP1,
            *with_interval("exact_match"),
            *with_interval("logprob_per_token_nats"),
            *with_interval("mc_accuracy"),
            "calibrated_mc_accuracy",
            "n_choice",
        ],
    ),
    "ClassEffects": (8, ["layer", "head", "token_class", "effect", *INTERVAL]),
    "Competence": (2, ["item", "top1_accuracy"]),
    "CompositeVector": (2, ["relation", "weight", "score"]),
    "DecodingEvaluation": (14, ["condition", "of", "measure", "value", *INTERVAL]),
    "Effects": (4, EFFECT),
    "Evaluation": (
        2,
        ["condition", *TOP1, *with_interval("top3_accuracy"), *with_interval("exact_match"), *with_interval(LOGPROB)],
    ),
    "FunctionVector": (1, VECTOR),
    "HeadComparison": (4, ["layer", "head", "exact_effect", "attribution", "direct_attribution"]),
    "HeadRanking": (4, EFFECT),
    "HeadWeights": (4, ["layer", "head", "weight"]),
    "InjectionSweep": (4, ["layer", "scale", *TOP1, *with_interval("exact_match"), *with_interval(LOGPROB)]),
    "InstructionVector": (1, VECTOR),
    "KnowledgeTrace": (2 * (2 + 2 * 2), ["position", "layer", "head", "recovered_nats"]),
    "CheckpointMeasurement": (
        4,
        [
            "checkpoint",
            "step",
            "task",
            "item",
            "accuracy",
            "in_context_accuracy",
            "instruction_logprob_nats_per_token",
            "knowledge_logprob_nats_per_token",
        ],
    ),
    "SoftPrompt": (2, ["position", "norm"]),
    "TextEvaluation": (2, ["condition", "rouge_l", "rouge_l_ci_low", "rouge_l_ci_high", "n", *with_interval("exact_match")]),
    "Typicality": (2, ["measure", "spearman", *INTERVAL]),
    "UniversalHeads": (4, EFFECT),
    "WeightDelta": (2, ["weight", "rank", "norm"]),
    "WeightMap": (4, ["relation", "score_of", "factor", "bias"]),
}
"""Rows and columns of the artefacts that `made_artefact` makes: two of whatever there is several of."""


def artefact(name: str) -> Artefact:
    importlib.import_module(MODULES[name])
    return made_artefact(Artefact.kinds[name])


@pytest.mark.parametrize("name", MODULES)
def test_tables_of_artefacts_survive_their_files(name, tmp_path):
    made = artefact(name)
    frame = made.to_dataframe()
    again = load_artefact(made.save(tmp_path / "made.safetensors"))
    pd.testing.assert_frame_equal(again.to_dataframe(), frame)
    assert made.summary()
    if name == "Trajectory":  # see below
        return
    rows, columns = TABLES[name]
    assert (len(frame), list(frame.columns)) == (rows, columns)


def test_tables_are_of_every_kind():
    assert {*TABLES, "Trajectory"} == MODULES.keys()


def ranking(trials: int = 8) -> HeadRanking:
    effects = torch.randn(trials, 2, 2, generator=torch.Generator().manual_seed(1))
    effects[:, 1, 0] += 5
    about = {"z": torch.zeros(2, 2, 2), "post_attn_gain": torch.zeros(2, 4), "resid_norm": torch.ones(2), "metric": "prob"}
    return HeadRanking(provenance=made_provenance(), effects=effects, baseline=torch.zeros(trials), **about)


def test_heads_come_in_order_with_their_tests():
    made = ranking()
    frame = made.to_dataframe()
    assert (frame.layer[0], frame["head"][0], frame.n[0]) == (1, 0, 8)
    mean = made.effects[:, frame.layer, frame["head"]].mean(0)
    assert frame.effect.tolist() == pytest.approx(mean.tolist(), rel=1e-6)
    assert frame.effect.is_monotonic_decreasing
    low, high = made.interval()
    assert frame.ci_low.tolist() == low[frame.layer, frame["head"]].tolist()
    assert frame.ci_high.tolist() == high[frame.layer, frame["head"]].tolist()
    assert frame.p_value.tolist() == made.p_values()[frame.layer, frame["head"]].tolist()
    other = made.to_dataframe(correction="none").p_value
    assert other.tolist() == made.p_values(correction="none")[frame.layer, frame["head"]].tolist() != frame.p_value.tolist()
    assert "p_value" not in made.to_dataframe(correction=None)
    with pytest.raises(LensFVError, match="correction='bonferroni'"):
        made.to_dataframe(correction="bonferroni")


def test_groups_are_called_groups():
    effects = torch.randn(5, 2, 1)
    importlib.import_module(MODULES["Effects"])
    made = Artefact.kinds["Effects"](provenance=made_provenance(), effects=effects, unit="group")
    assert list(made.to_dataframe(correction=None).columns) == ["layer", "group", "effect", *INTERVAL]


def test_tasks_of_universal_heads():
    made = artefact("UniversalHeads")
    frame = made.to_dataframe(by="task")
    assert list(frame.columns) == ["task", "kept", "accuracy", *INTERVAL, "majority"]
    assert frame.accuracy.tolist() == made.accuracy[:, 0].tolist()
    assert frame.kept.tolist() == [True, True]


@pytest.mark.parametrize(
    ("name", "unit", "columns"),
    [
        ("Evaluation", "item", {"top1_accuracy": "top1", "exact_match": "exact_match", LOGPROB: "logprob"}),
        ("AnalogyEvaluation", "analogy", {"top1_accuracy": "top1", "logprob_per_token_nats": "logprob"}),
        ("TextEvaluation", "input", {"rouge_l": "rouge_l", "exact_match": "exact"}),
    ],
)
def test_items_are_the_scores_themselves(name, unit, columns):
    """And what is shown of a condition is the mean of its items."""
    made = artefact(name)
    items, conditions = made.to_dataframe(by="item"), made.to_dataframe().set_index("condition")
    assert len(items) == 4 and items[unit].nunique() == 2
    for column, field in columns.items():
        assert items[column].tolist() == getattr(made, field).flatten().tolist()
        means = items.groupby("condition")[column].mean()
        assert conditions[column].to_dict() == pytest.approx(means.to_dict())
        assert (conditions[f"{column}_ci_low"] <= conditions[column]).all()
        assert (conditions[column] <= conditions[f"{column}_ci_high"]).all()
    with pytest.raises(LensFVError, match="it has to be 'condition'"):
        made.to_dataframe(by="pair")
    assert tuple(made[condition].condition for condition in made.conditions) == made.conditions
    with pytest.raises(LensFVError, match=f"no such condition; there are {', '.join(made.conditions)}"):
        made["nosuch"]


def test_words_and_pairs():
    decoding, rated = artefact("DecodingEvaluation"), artefact("Typicality")
    words = decoding.to_dataframe(by="word")
    assert words["rank"].tolist() == decoding.ranks.flatten().tolist()
    assert words.relation.tolist() == [decoding.relations[i] for i in decoding.relation.repeat_interleave(2)]
    pairs = rated.to_dataframe(by="pair")
    assert len(pairs) == 12
    assert pairs.score.tolist() == rated.scores.flatten().tolist()
    assert pairs.human[::2].tolist() == rated.human.tolist()


def test_a_trajectory_has_a_row_per_checkpoint_and_task():
    made = artefact("Trajectory")
    frame = made.to_dataframe()
    assert frame.checkpoint.tolist() == ["x", "x", "y", "y"] and frame.task.tolist() == ["x", "y"] * 2
    assert {f"{curve}_{end}" for curve in CURVES for end in ("ci_low", "ci_high")} < set(frame.columns)
    assert frame.accuracy.tolist() == pytest.approx(made.correct.mean(-1).flatten().tolist())
    assert frame.cosine.tolist() == pytest.approx(made.similarity().flatten().tolist())
    assert frame.head_overlap[:2].tolist() == [1, 1]
    unranked = made.effects.index_fill(0, torch.tensor([1]), torch.nan)
    later = type(made)(**{**vars(made), "effects": unranked}).to_dataframe()
    assert later.head_overlap[2:].isna().all()


def test_composite_weights_and_changes():
    made = artefact("WeightDelta")
    frame = made.to_dataframe().set_index("weight")
    assert frame.norm.to_dict() == pytest.approx({"a.weight": math.sqrt(6), "b.weight": math.sqrt(6)})
    assert math.isnan(frame["rank"]["a.weight"]) and frame["rank"]["b.weight"] == 1
    trace = artefact("KnowledgeTrace")
    frame = trace.to_dataframe()
    layers = frame[frame["head"].isna()].recovered_nats.tolist()
    assert layers == pytest.approx(trace.layer_effects.mean(0).flatten().tolist())


SCORES = KnowledgeScores(
    ("a", "a", "b"),
    ("explicit", "inferential", "explicit"),
    (0, 1, 0),
    torch.tensor([[-2.0, -3.0], [-4.0, -9.0], [-1.0, -math.inf]]),
    torch.tensor([[1, 1], [1, 3], [2, 0]]),
)
KNOWN = KnowledgeResult("update", SCORES, SCORES, Estimate(0.5, 0.25, 0.75, 3))
SHARE, CHANGE = proportion(3, 4), Estimate(-1.0, -2.0, 0.0, 4)
RESULTS = {
    Overlap: Overlap(2, 1.5, 0.5, 0.25, 0.125),
    Reliability: Reliability(0.5, 0.75, 0.5, 0.1, 10),
    Agreement: Agreement("spearman", Estimate(0.5, 0.1, 0.9, 8), 0.01, 28),
    TaxonomyStructure: TaxonomyStructure(0.5, 0.25, 0.25, 0.01, 0.75, 0.02, 4, 2, 4),
    ContinualMetrics: ContinualMetrics(0.5, 0.25, 0.25, math.nan, 0.5, [[1.0, 0.5], [0.0, 0.5]]),
    Decoded: Decoded([(" past", 0.5), ("<b>", 0.125)], {"time": 7}, 320),
    SimilarityMatrix: SimilarityMatrix(("a", "b", "c"), np.array([[1, 0.5, math.nan], [0.5, 1, 0.25], [math.nan, 0.25, 1]])),
    KnowledgeScores: SCORES,
    KnowledgeResult: KNOWN,
    KnowledgeResults: KnowledgeResults([KnowledgeResult("base", SCORES, None, None), KNOWN]),
    Verdicts: Verdicts(
        [Verdict("t", "kept", SHARE, SHARE, 0.5, Estimate(-1.0, -2.0, 0.0, 4), SHARE, SHARE, SHARE, 0.5, math.nan)]
    ),
    Findings: Findings([Finding("heads", True, "2 of 2"), Finding("finite", False, "layer 1")]),
}
RESULT_TABLES = {
    Overlap: (1, ["n_shared", "expected_shared", "jaccard", "expected_jaccard", "p_value"]),
    Reliability: (1, ["spearman", "spearman_brown", "overlap", "chance", "k"]),
    Agreement: (1, ["coefficient", "correlation", *INTERVAL, "p_value", "n_pairs"]),
    TaxonomyStructure: (
        1,
        ["within", "between", "difference", "difference_p_value", "auc", "auc_p_value", "n_items", "n_within", "n_between"],
    ),
    ContinualMetrics: (1, ["average", "final", "forgetting", "general", "in_context"]),
    Decoded: (3, ["text", "rank", "probability"]),
    SimilarityMatrix: (2, ["a", "b", "similarity"]),
    KnowledgeScores: (
        3,
        ["entity", "kind", "n_candidates", "correct", "rank", LOGPROB, "n_tokens", "loss_nats_per_token"],
    ),
    KnowledgeResult: (
        1,
        [
            "condition",
            *with_interval("accuracy"),
            "n",
            *with_interval("explicit_accuracy"),
            *with_interval("inferential_accuracy"),
            *with_interval("perplexity"),
            *with_interval("locality_accuracy"),
            *with_interval("locality_perplexity"),
            *with_interval("kl_to_base_nats_per_token"),
        ],
    ),
    Verdicts: (
        1,
        [
            "task",
            "judgement",
            "before",
            "before_ci_low",
            "before_ci_high",
            "n",
            *with_interval("after"),
            "p_lost",
            *with_interval("knowledge_change_nats_per_token"),
            *with_interval("with_vector"),
            *with_interval("with_random"),
            *with_interval("with_other"),
            "p_restored",
            "majority",
        ],
    ),
    Findings: (2, ["check", "passed", "detail"]),
}
RESULT_TABLES[KnowledgeResults] = (2, RESULT_TABLES[KnowledgeResult][1])


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_results_survive_their_files(kind, tmp_path):
    made = RESULTS[kind]
    frame = made.to_dataframe()
    rows, columns = RESULT_TABLES[kind]
    assert (len(frame), list(frame.columns)) == (rows, columns)
    again = kind.load(made.save(tmp_path / "results" / "made.json"))
    assert type(again) is kind
    pd.testing.assert_frame_equal(again.to_dataframe(), frame)
    assert again.summary() == made.summary() != {}
    assert repr(made).splitlines()[0] == kind.__name__
    assert all(label in repr(made) for label in made.summary())
    assert "<table" in made._repr_html_()


def test_a_result_of_another_kind_is_refused(tmp_path):
    file = RESULTS[Overlap].save(tmp_path / "overlap.json")
    with pytest.raises(LensFVError, match=r"load .*overlap.json as Reliability: it holds Overlap"):
        Reliability.load(file)
    file.write_text(file.read_text().replace('"jaccard": 0.5', '"jaccard": "half"'))
    with pytest.raises(LensFVError, match="jaccard: Input should be a valid number"):
        Overlap.load(file)
    file.write_text('{"kind": "Verdicts", "values": [["t"]]}')
    with pytest.raises(LensFVError, match="make it again"):
        Verdicts.load(file)
    file.write_text('{"kind": "KnowledgeResult", "values": {"condition": "base"}}')
    with pytest.raises(LensFVError, match="the fields of a KnowledgeResult"):
        KnowledgeResult.load(file)
    file.write_text('{"kind": "SimilarityMatrix", "values": {"names": ["a", "b"], "values": [[1.0], [1.0, 2.0]]}}')
    with pytest.raises(LensFVError, match="not a row of 2 values"):
        SimilarityMatrix.load(file)
    with pytest.raises(LensFVError, match="No such file"):
        Overlap.load(tmp_path / "nothing.json")


def test_probes_have_ranks_and_losses():
    frame = SCORES.to_dataframe()
    assert frame.correct[:2].tolist() == [1, 1] and frame["rank"][:2].tolist() == [1, 1]  # -9 over 3 tokens is above -4
    assert frame.isna().correct.tolist() == [False, False, True]  # a single candidate is no choice
    assert frame[LOGPROB].tolist() == [-2, -9, -1]
    assert frame.loss_nats_per_token.tolist() == [2, 3, 0.5]


def test_decoded_through_the_model_has_gains():
    made = Decoded([(" past", 0.5)], {"time": 7}, 320, through_layers=True)
    assert list(made.to_dataframe().columns) == ["text", "rank", "gain_nats"]
    assert made.summary() == {"gains in nats": "' past' +0.500", "rank of 'time'": "7 of 320"}


def test_list_compositions_are_folders(tmp_path):
    names = ("first_output", "last_copy", "first_copy", "direct", "predicted")
    vectors = {name: artefact("FunctionVector").at(scale=i + 0.5) for i, name in enumerate(names)}
    made = ListComposition(vectors, artefact("Evaluation"))
    again = ListComposition.load(made.save(tmp_path / "lists"))
    pd.testing.assert_frame_equal(again.to_dataframe(), made.evaluation.to_dataframe())
    assert {name: vector.scale for name, vector in again.vectors.items()} == dict(zip(names, (0.5, 1.5, 2.5, 3.5, 4.5)))


def test_an_estimate_prints_with_its_interval():
    assert str(Estimate(0.5, 0.25, 0.75, 4)) == f"{Estimate(0.5, 0.25, 0.75, 4)}" == "0.50 [0.25, 0.75]"
    assert f"{Estimate(0.5, -0.25, 0.75, 4):+.1f}" == "+0.5 [-0.2, +0.8]"


def test_intervals_are_named_after_their_estimates():
    one, two = estimate([0.0, 1.0, 1.0]), proportion(1, 2)
    assert table_rows([{"a": one}]) == [{"a": one.mean, "ci_low": one.ci_low, "ci_high": one.ci_high, "n": 3}]
    (row,) = table_rows([{"a": one, "top1": two}])
    assert row == {
        "a": one.mean,
        "a_ci_low": one.ci_low,
        "a_ci_high": one.ci_high,
        "n": 3,
        "top1_accuracy": 0.5,
        "top1_accuracy_ci_low": two.ci_low,
        "top1_accuracy_ci_high": two.ci_high,
    }
    missing = data_frame([{"a": one}, {"a": None}])
    assert missing.isna().a.tolist() == missing.isna().ci_low.tolist() == [False, True]


ROOMS = ("composition", "dynamics", "evaluation", "evaluation.alignment", "finetuning", "heads", "knowledge", "patching")
INPUTS = {
    "composition": {"Basis", "Confidence", "Entry", "ExtractRecipe", "TuneRecipe"},
    "dynamics": {"TaskProbe"},
    "evaluation.alignment": {"RatedRelation"},
    "finetuning": {"Checkpoint"},
    "heads": {"HeadMeans", "PatchingPrompts", "RankingPlan"},
    "knowledge": {"DistillationExample", "Entity", "EntityProbe"},
    "patching": {"AnswerLogits", "AnswerScores", "Branch", "Edit", "OpenPrompts", "Plan"},
    "vectors": {"Provenance"},
}
"""Public classes that are no results: what goes in, settings, and the engine's parts."""
ROWS = {"Estimate", "Result", "ClassEffect", "HeadEffect", "Verdict", "Finding"}
"""Rows of results."""


@pytest.mark.parametrize("room", [*ROOMS, "vectors", "vectors.baselines"])
def test_every_public_result_has_a_summary_a_table_and_a_file(room):
    module = importlib.import_module(f"lens_fv.{room}")
    classes = {name: kind for name in module.__all__ if inspect.isclass(kind := getattr(module, name))}
    other = INPUTS.get(room, set()) | {name for name in classes if re.search(r"(Config|Options)$", name)}
    other |= {name for name in classes if name in ROWS or re.search(r"(?<!Knowledge)(Result|Difference)$", name)}
    results = {name: kind for name, kind in classes.items() if name not in other}
    for name, kind in results.items():
        assert callable(getattr(kind, "summary", None)), name
        assert callable(getattr(kind, "to_dataframe", None)), name
        assert callable(getattr(kind, "save", None)) or kind is FinetuneRun, name  # a run is a folder from its first step on
        if issubclass(kind, Saved):
            assert kind in RESULTS or kind in (Record, Records), name
