"""Scores against the model's own forward, intervals against their textbooks."""

import pytest
import torch
from helpers import toy_task
from scipy.stats import binomtest, norm

from lens_fv.errors import LensFVError
from lens_fv.evaluation import Evaluation, estimate, evaluate, proportion
from lens_fv.model.generation import Sampling, generate_tokens
from lens_fv.patching import Edit, answers, score_alike, score_answers
from lens_fv.patching.readout import token_ranks
from lens_fv.tasks import EncodedPrompt, build_prompts, encode_prompts, few_shot, split_pairs, zero_shot
from lens_fv.vectors import tune

FEW = {"n_pairs": 8, "steps": 5, "layers": 1}


def test_scores_are_those_of_plain_forwards(any_model):
    """Several acceptable answers of several lengths: every score from one full forward an answer."""
    model, rng = any_model, torch.Generator().manual_seed(1)

    def tokens(n):
        return tuple(torch.randint(1, 320, (n,), generator=rng).tolist())

    prompts = [
        EncodedPrompt(tokens(n), tuple(tokens(k) for k in lengths)) for n, lengths in [(5, (1, 3)), (40, (2,)), (9, (1,))]
    ]
    # one answer that the model itself would write, so that a hit occurs
    likely = int(model.forward(torch.tensor([prompts[0].tokens]))[0, -1].argmax())
    prompts.append(EncodedPrompt(prompts[0].tokens, ((7, 8), (likely,))))
    scores = score_answers(model, prompts, [[]])
    for i, prompt in enumerate(prompts):
        best, first, full = -torch.inf, 10**9, False
        for answer in prompt.answers:
            logits = model.forward(torch.tensor([[*prompt.tokens, *answer]]))[0, len(prompt.tokens) - 1 : -1]
            logprobs = logits.log_softmax(-1)[range(len(answer)), list(answer)]
            best = max(best, float(logprobs.sum()))
            first = min(first, int((logits[0] > logits[0, answer[0]]).sum()))
            full |= logits.argmax(-1).tolist() == list(answer)
        assert float(scores.logprob[i, 0]) == pytest.approx(best, abs=1e-3)
        assert (bool(scores.top1[i, 0]), bool(scores.top3[i, 0])) == (first == 0, first < 3)
        assert bool(scores.exact_match[i, 0]) == full
    assert bool(scores.top1[3, 0])
    assert bool(scores.exact_match[3, 0])


def test_every_prompt_has_its_own_value_and_place(any_model):
    """Whatever batches prompts are put into, and in whatever order."""
    rng = torch.Generator().manual_seed(3)
    lengths, d_model = (9, 4, 12, 5, 7), any_model.d_model
    prompts = [
        EncodedPrompt(tuple(torch.randint(1, 320, (n,), generator=rng).tolist()), ((5,), (6, 7))[: 1 + n % 2]) for n in lengths
    ]
    values, places = torch.randn(len(prompts), d_model, generator=rng), (2, 0, -3, -1, 4)
    all_at_once = [Edit(0, values, mode="add", position=places), Edit(1, values[0], mode="add")]
    together = score_answers(any_model, prompts, [all_at_once, []], batch_size=2).logprob
    for i, prompt in enumerate(prompts):
        own = [Edit(0, values[i], mode="add", position=places[i]), all_at_once[1]]
        torch.testing.assert_close(together[i], score_answers(any_model, [prompt], [own, []]).logprob[0], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_logits_rank_as_greedy_decoding_takes_them(tiny_model, dtype):
    """Tokens with the same row in the unembedding have the same logits: the model writes the one with the lower id."""
    model = tiny_model("llama", fresh=True)
    model.tl.to(dtype)
    rows = model.tl.original_model.get_output_embeddings().weight.data
    rows[1::2] = rows[::2]
    ids = tuple(torch.randint(1, 320, (9,), generator=torch.Generator().manual_seed(0)).tolist())
    (written,) = generate_tokens(model, [ids], Sampling(1))[0]
    other = written + 1
    assert written % 2 == 0 and rows[written].equal(rows[other])
    prompts = [EncodedPrompt(ids, (answer,)) for answer in ((written,), (other,), (written, written), (other, written))]
    scores = score_answers(model, prompts, [[]])
    assert scores.top1[:, 0].tolist() == [True, False, True, False]
    assert scores.top3.all()
    assert scores.exact_match[:2, 0].tolist() == [True, False] and not scores.exact_match[3, 0]
    ranks = token_ranks(torch.tensor([[1.0, 3.0, 3.0, torch.nan, 0.0]]).expand(5, -1), torch.arange(5))
    assert ranks.tolist() == [3, 1, 2, 4, 4]  # not a number: behind all when asked about, before all as in argmax when not


def test_what_prompts_begin_with_runs_once(any_model, monkeypatch):
    rng = torch.Generator().manual_seed(2)

    def tokens(n):
        return tuple(torch.randint(1, 320, (n,), generator=rng).tolist())

    one, two, three = tokens(12), tokens(20), tokens(2)
    begun = [(*one, *tokens(3)), (*two, *tokens(2)), (*one, *tokens(1)), one, three, (*two, *tokens(6)), (7,), (*three, 9, 9)]
    prompts = [EncodedPrompt(start, (tokens(1 + i % 3), *[tokens(2)] * (i % 2))) for i, start in enumerate(begun)]
    # an answer that the model would write itself, in a group
    likely = int(any_model.forward(torch.tensor([begun[2]]))[0, -1].argmax())
    prompts[2] = EncodedPrompt(begun[2], ((5, 6), (likely,)))
    expected = score_answers(any_model, prompts, [[]])
    opened = []
    beginning = answers.OpenPrompts.__init__

    def begin(self, model, prompts, **options):
        opened.extend(map(len, prompts))
        beginning(self, model, prompts, **options)

    monkeypatch.setattr(answers.OpenPrompts, "__init__", begin)
    scores = score_alike(any_model, prompts)
    assert sum(opened) <= len(one) + len(two) + 2 * len(three) + 1
    assert bool(scores.exact_match[2, 0])
    for name in ("top1", "top3", "exact_match"):
        assert torch.equal(getattr(scores, name), getattr(expected, name)), name
    torch.testing.assert_close(scores.logprob, expected.logprob, atol=1e-3, rtol=1e-4)


def test_conditions_and_their_order(tiny_model, tmp_path):
    model, task = tiny_model("llama"), toy_task()
    vector, other = tune(model, task, **FEW), tune(model, toy_task(50, "other"), seed=1, **FEW)
    evaluation = evaluate(model, task, {"tuned": vector}, other=other, n_shots=2)
    assert evaluation.conditions == ("none", "k_shot", "tuned", "random", "other_relation")
    split = split_pairs(task, seed=0)
    assert [r.top1.n for r in evaluation.results] == [len(split.test)] * 5
    assert all(e.ci_low <= e.mean <= e.ci_high and e.n == len(evaluation.top1) for r in evaluation.results for e in r[1:])
    again = Evaluation.load(evaluation.save(tmp_path / "e.safetensors"))
    assert again.results == evaluation.results
    assert "tuned" in repr(again)


def test_vectors_that_go_in_together(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    one, two = (tune(model, task, **{**FEW, "layers": layer}) for layer in (0, 1))
    evaluation = evaluate(model, task, {"one": one, "both": (one, two)}, n_shots=1)
    assert evaluation.conditions == ("none", "k_shot", "one", "both", "random")
    prompts = [zero_shot(pair) for pair in split_pairs(task, seed=0).test]
    for i, prompt in enumerate(encode_prompts(model, prompts)):
        if len(prompt.answers) == 1:
            (answer,), at = prompt.answers, len(prompt.tokens) - 1
            with one.applied(model, position=at), two.applied(model, position=at):
                logits = model.forward(torch.tensor([[*prompt.tokens, *answer]]))[0, at:-1]
            expected = float(logits.log_softmax(-1)[range(len(answer)), list(answer)].sum())
            assert float(evaluation.logprob[i, 3]) == pytest.approx(expected, abs=1e-3)


def test_shuffled_prompts(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    plain, shuffled = (evaluate(model, task, n_shots=4, prompts=kind) for kind in ("zero_shot", "shuffled"))
    assert shuffled.prompts == "shuffled"
    assert torch.equal(plain.logprob[:, 1], shuffled.logprob[:, 1])  # k-shot prompting sees clean labels in both
    assert not torch.equal(plain.logprob[:, 0], shuffled.logprob[:, 0])


def test_same_shots_for_all(tiny_model):
    """One set of demonstrations, the first prompt's: what scoring those prompts one by one says."""
    model, task = tiny_model("llama"), toy_task()
    split = split_pairs(task, seed=0)
    (first, *_) = build_prompts(split.test, split.train, n_shots=4, seed=0)
    shown = [few_shot(pair, first.demonstrations) for pair in split.test]
    expected = score_answers(model, encode_prompts(model, shown), [[]])
    own, same = (evaluate(model, task, n_shots=4, same_shots=same) for same in (False, True))
    torch.testing.assert_close(same.logprob[:, 1:2], expected.logprob, atol=1e-4, rtol=1e-4)
    assert torch.equal(own.logprob[:, 0], same.logprob[:, 0])
    assert not torch.allclose(own.logprob[:, 1], same.logprob[:, 1])


def test_bad_requests(tiny_model):
    model, task = tiny_model("llama"), toy_task()
    vector = tune(tiny_model("gpt2"), task, **FEW)
    with pytest.raises(LensFVError, match="names a control"):
        evaluate(model, task, {"random": vector})
    with pytest.raises(LensFVError, match="made on model tiny-gpt2"):
        evaluate(model, task, {"tuned": vector})
    with pytest.raises(LensFVError, match="99 shots"):
        evaluate(model, task, n_shots=99)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 10), (50, 60), (20, 20)])
def test_wilson_is_the_closed_form(k, n):
    z, p = norm.ppf(0.975), k / n
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert proportion(k, n) == pytest.approx((k / n, middle - half, middle + half, n), abs=1e-9)
    interval = binomtest(k, n).proportion_ci(confidence_level=0.9, method="wilson")
    assert proportion(k, n, level=0.9)[1:3] == pytest.approx((interval.low, interval.high), abs=1e-12)
    _, low, high, _ = proportion(k / 4, n)  # shares, as of tied choices
    assert low <= k / 4 / n <= high


def test_bootstrap_agrees_with_the_normal_interval():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).tolist()
    mean, error = sum(values) / 400, torch.tensor(values).std().item() / 20
    mean_estimate = estimate(values)
    assert mean_estimate[::3] == (pytest.approx(mean), 400)
    assert mean_estimate[1:3] == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.2 * error)
    assert estimate([1.0, 1.0]) == (1.0, 1.0, 1.0, 2)
