"""The grid against the vector put in by hooks, cell by cell."""

import pytest
import torch
from helpers import toy_task

from lens_fv.core.artefact import load_artefact
from lens_fv.core.statistics import estimate, proportion
from lens_fv.errors import LensFVError
from lens_fv.evaluation import evaluate
from lens_fv.heads import rank_heads
from lens_fv.tasks import encode_prompts, split_pairs, zero_shot
from lens_fv.vectors import extract
from lens_fv.vectors.sweep import InjectionSweep, sweep_injection

SMALL = {"n_shots": 2, "n_clean": 4, "n_trials": 3}


@pytest.fixture(scope="module")
def swept(tiny_model):
    """A model, a task, a vector long enough to matter, and its sweep."""
    model, task = tiny_model("llama"), toy_task()
    vector = extract(model, task, rank_heads(model, task, **SMALL), n_heads=4, layer=1)
    return model, task, vector, sweep_injection(model, task, vector, scales=(1.0, 30.0))


def by_hand(model, items, vector):
    """Whether the first token is right, and the log-probability of the best answer, with the vector's own hooks on."""
    top1, logprob = [], []
    for prompt in encode_prompts(model, [zero_shot(pair) for pair in items]):
        best = -float("inf")
        for answer in prompt.answers:
            tokens = torch.tensor([[*prompt.tokens, *answer[:-1]]])
            with vector.applied(model, position=len(prompt.tokens) - 1):
                logits = model.forward(tokens)[0, len(prompt.tokens) - 1 :]
            best = max(best, float(logits.log_softmax(-1)[range(len(answer)), answer].sum()))
        top1.append(int(logits[0].argmax()) in prompt.first_tokens)
        logprob.append(best)
    return torch.tensor(top1), torch.tensor(logprob)


def test_every_cell_is_the_vector_applied_there(swept):
    model, task, vector, sweep = swept
    items = split_pairs(task, seed=0).validation
    assert (sweep.layers, sweep.scales, sweep.subset) == ((0, 1, 2), (1.0, 30.0), "validation")
    for i in range(3):
        for j, scale in enumerate(sweep.scales):
            top1, logprob = by_hand(model, items, vector.at(layer=i, scale=scale))
            assert torch.equal(sweep.top1[:, i, j], top1)
            torch.testing.assert_close(sweep.logprob[:, i, j], logprob, atol=1e-3, rtol=1e-4)
    top1, logprob = by_hand(model, items, vector.at(scale=0.0))
    torch.testing.assert_close(sweep.plain_logprob, logprob, atol=1e-3, rtol=1e-4)
    assert torch.equal(sweep.plain_top1, top1)
    assert sweep.mean().std() > 0.1  # the grid is not flat, so cells could have been told apart


def test_the_test_split_is_what_evaluate_reports(swept):
    model, task, vector, _ = swept
    sweep = sweep_injection(model, task, vector, layers=[-1], scales=[7.0], subset="test", max_items=None)
    row = evaluate(model, task, {"extracted": vector.at(layer=2, scale=7.0)}, n_shots=2)["extracted"]
    (cell,) = sweep.cells()
    assert (cell.layer, cell.scale) == (2, 7.0)
    assert cell[2:4] == (row.top1, row.exact_match)
    assert cell.logprob_per_answer.mean == pytest.approx(row.logprob_per_answer.mean, abs=1e-4)


def test_intervals_are_wilsons_and_the_bootstraps(swept):
    sweep = swept[3]
    n = len(sweep.top1)
    for at, cell in enumerate(sweep.cells()):
        i, j = divmod(at, 2)
        assert cell.top1 == proportion(int(sweep.top1[:, i, j].sum()), n)
        mean = estimate(sweep.logprob[:, i, j].tolist())
        assert cell.logprob_per_answer == pytest.approx(mean, abs=0.1 * (mean.ci_high - mean.ci_low))


def test_best_is_the_largest_mean_and_log_probability_breaks_ties(swept):
    sweep = swept[3]
    flat = sweep.mean().flatten()
    best = sweep.best()
    assert best.logprob_per_answer.mean == pytest.approx(float(flat.max()))
    assert (best.layer, best.scale) == (int(flat.argmax()) // 2, sweep.scales[int(flat.argmax()) % 2])
    top1 = torch.zeros(2, 2, 2, dtype=torch.bool)
    top1[:, 1, 1] = top1[:, 0, 1] = True
    logprob = torch.tensor([[[0.0, -3.0], [-1.0, -2.0]]]).repeat(2, 1, 1)
    nothing = torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool), torch.zeros(2)
    tied = InjectionSweep(sweep.provenance, (4, 7), (1.0, 2.0), "resid_post", "validation", top1, top1, logprob, *nothing)
    assert tied.best("top1")[:2] == (7, 2.0)
    assert tied.best()[:2] == (4, 1.0)


def test_validation_and_test_are_asked_apart(swept):
    model, task, vector, sweep = swept
    test = sweep_injection(model, task, vector, layers=[0], scales=[1.0], subset="test")
    assert test.provenance.prompts_hash != sweep.provenance.prompts_hash
    assert len(test.top1) == len(split_pairs(task, seed=0).test)
    few = sweep_injection(model, task, vector, layers=[0], scales=[1.0], max_items=3)
    torch.testing.assert_close(few.logprob[:, 0, 0], sweep.logprob[:3, 0, 0], atol=1e-4, rtol=1e-4)


def test_a_vector_at_its_heads_is_swept_over_scales_alone(swept):
    model, task, vector, _ = swept
    at_heads = vector.at(site="heads")
    sweep = sweep_injection(model, task, at_heads, scales=[0.0, 2.0])
    assert (sweep.layers, sweep.site, tuple(sweep.top1.shape[1:])) == ((vector.layer,), "heads", (1, 2))
    for j, scale in enumerate(sweep.scales):
        _, logprob = by_hand(model, split_pairs(task, seed=0).validation, at_heads.at(scale=scale))
        torch.testing.assert_close(sweep.logprob[:, 0, j], logprob, atol=1e-3, rtol=1e-4)
    assert "its heads" in repr(sweep) and "layer" not in sweep.summary()["best"]
    with pytest.raises(LensFVError, match=r"at its heads over layers \[1\].*leave layers out"):
        sweep_injection(model, task, at_heads, layers=[1])


def test_extract_takes_the_best_layer_and_its_unit(swept):
    model, task, vector, _ = swept
    ranking = rank_heads(model, task, **SMALL)
    sweep = sweep_injection(model, task, vector, scales=[1.0, 2.0])
    placed = sweep.best_vector(vector)
    assert (placed.layer, placed.scale) == (sweep.best().layer, sweep.best().scale)
    assert torch.equal(placed.vector, vector.vector)
    best = sweep_injection(model, task, vector, scales=[1.0]).best()
    for site in ("resid_post", "heads"):
        picked = extract(model, task, ranking, n_heads=4, site=site)
        assert (picked.layer, picked.site) == (best.layer, site)
        assert picked.resid_norm == float(ranking.resid_norm[best.layer])


def test_round_trip_and_card(swept, tmp_path):
    sweep = swept[3]
    again = load_artefact(sweep.save(tmp_path / "s.safetensors"))
    assert isinstance(again, InjectionSweep)
    assert (again.layers, again.scales, again.site, again.subset) == (sweep.layers, sweep.scales, sweep.site, sweep.subset)
    assert again.provenance == sweep.provenance
    assert again.cells() == sweep.cells()
    assert f"layer {sweep.best().layer}, scale {sweep.best().scale:g}: top-1" in repr(sweep)
    assert f"{len(sweep.top1)} of the validation split" in repr(sweep)
    assert sweep._repr_html_().count("<rect") == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, "choose a layer of tiny-llama: none given"),
        ({"scales": []}, "over 0 scales: give at least one"),
        ({"layers": [3]}, "layers 0 to 2"),
        ({"max_items": 0}, r"max_items=0\): it has to be a whole number at least 1"),
    ],
)
def test_bad_requests(swept, options, message):
    model, task, vector, _ = swept
    with pytest.raises(LensFVError, match=message):
        sweep_injection(model, task, vector, **options)


def test_another_models_vector_is_refused(swept, tiny_model):
    _, task, vector, _ = swept
    other = tiny_model("qwen3")
    with pytest.raises(LensFVError, match="pass force=True"):
        sweep_injection(other, task, vector)
    assert sweep_injection(other, task, vector, force=True, layers=[0], scales=[1.0]).provenance.model == "tiny-qwen3"


def test_one_layer_and_one_scale_need_no_list(swept):
    model, task, vector, _ = swept
    one, several = (
        sweep_injection(model, task, vector, layers=layers, scales=scales, max_items=4)
        for layers, scales in ((-1, 2.0), ([model.n_layers - 1], [2.0]))
    )
    assert (one.layers, one.scales) == (several.layers, several.scales) == ((model.n_layers - 1,), (2.0,))
    assert torch.equal(one.logprob, several.logprob)
