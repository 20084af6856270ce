"""Rotary embeddings that change with length: every text gets those of its own length, whatever it runs beside."""

import pytest
import torch
import transformers
from architectures import LLAMA, SIZES
from helpers import tokens
from transformer_lens.model_bridge import TransformerBridge

from lens_fv.heads import head_means, resid_states
from lens_fv.model import LensModel
from lens_fv.model.generation import Sampling, generate_tokens
from lens_fv.patching import Branch, Edit, answer_logprobs, run_branches, score_alike, score_answers
from lens_fv.tasks import EncodedPrompt

BORDER = 16
LENGTHS = (7, 12, 16, 17, 25)
"""Shorter than the border, up to it, one more, and far beyond."""


@pytest.fixture(scope="module", params=["phi3", "llama"])
def model(request, tiny_tokenizer) -> LensModel:
    """A tiny model with two sets of factors, far apart; d_head is 8."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 3.0, 7.0, 20.0], "rope_theta": 10_000.0}
    made = {"phi3": transformers.Phi3Config, "llama": transformers.LlamaConfig}[request.param]
    config = made(**LLAMA, **SIZES)
    config.rope_parameters = {**rope, "original_max_position_embeddings": BORDER, "factor": 256 / BORDER}
    config.original_max_position_embeddings = BORDER
    config.initializer_range = 0.2
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    hf.config.architectures = [type(hf).__name__]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_tokenizer)
    return LensModel.wrap(TransformerBridge.boot_transformers("tiny", hf_model=hf, tokenizer=tokenizer), name="tiny")


PROMPTS = [tokens(n, n) for n in LENGTHS]


@torch.no_grad()
def alone(model, text, hooks=()):
    return model.forward(torch.tensor([list(text)]), hooks)[0]


@torch.no_grad()
def test_the_border_changes_something(model):
    """Else nothing here would be a test: the same tokens, with one more after them."""
    assert model.rotary_border == BORDER
    text = tokens(BORDER, 0)
    short, long = alone(model, text)[-1], alone(model, [*text, 5])[-2]
    assert (short.softmax(-1) - long.softmax(-1)).abs().max() > 0.01


@pytest.mark.parametrize("backend", ["auto", "batched", "loop"])
@torch.no_grad()
def test_prompts_and_answers_on_both_sides(model, backend):
    """One call; answers of one and of six tokens, so that prompts cross the border with some of them only."""
    answers = [tuple((3 + p,) for p in range(5)), tuple(tuple(tokens(6, 90 + p)) for p in range(5))]
    rng = torch.Generator().manual_seed(0)
    values = 3 * torch.randn(5, model.d_model, generator=rng)
    made = [(), (Edit(1, values, mode="add"),), (Edit(0, values[0], mode="add", position=-3),)]
    branches = [Branch(edits, tokens=each) for each in answers for edits in made]
    common = [Edit(0, values[1], site="resid_pre", mode="add", position=-4)]
    found = run_branches(model, PROMPTS, branches, shared=common, readout=answer_logprobs, backend=backend)
    for p, prompt in enumerate(PROMPTS):
        for b, branch in enumerate(branches):
            answer = branch.answers(5)[p]

            def change(edit, p=p, prompt=prompt):
                def hook(x, hook):
                    x = x.clone()
                    x[0, len(prompt) + edit.position] += edit.value[p] if edit.value.ndim == 2 else edit.value
                    return x

                return edit.place, hook

            logits = alone(model, [*prompt, *answer[:-1]], [change(edit) for edit in (*common, *branch.edits)])
            want = logits[len(prompt) - 1 :].log_softmax(-1)[range(len(answer)), list(answer)]
            torch.testing.assert_close(found[p, b, : len(answer)], want, atol=2e-4, rtol=1e-4)
            assert not found[p, b, len(answer) :].any()


@torch.no_grad()
def test_scores_of_prompts_that_begin_alike(model):
    begin = tokens(14, 1)
    prompts = [EncodedPrompt((*begin, *tokens(n, n)), (tuple(tokens(2, 40 + n)), (9,))) for n in (1, 2, 3, 5)]
    together, apart = score_alike(model, prompts), score_answers(model, prompts, [[]])
    for scores in (together, apart):
        for p, prompt in enumerate(prompts):
            logprobs = []
            for answer in prompt.answers:
                logits = alone(model, [*prompt.tokens, *answer[:-1]])[len(prompt.tokens) - 1 :]
                logprobs.append(float(logits.log_softmax(-1)[range(len(answer)), list(answer)].sum()))
            assert float(scores.logprob[p, 0]) == pytest.approx(max(logprobs), abs=1e-3)


@torch.no_grad()
def test_states_of_a_batch(model):
    states, means = resid_states(model, PROMPTS), head_means(model, PROMPTS)
    one_by_one = [(resid_states(model, [prompt])[0], head_means(model, [prompt]).z) for prompt in PROMPTS]
    torch.testing.assert_close(states, torch.stack([resid for resid, _ in one_by_one]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(means.z, torch.stack([z for _, z in one_by_one]).mean(0), atol=1e-4, rtol=1e-4)
    last = model.unembed(states[:, -1])
    torch.testing.assert_close(last, torch.stack([alone(model, prompt)[-1] for prompt in PROMPTS]), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_text_across_the_border(model):
    """What whole passes say, token by token: a cache would hold keys of the short text."""
    for text, new in zip(PROMPTS, generate_tokens(model, PROMPTS, Sampling(8)), strict=True):
        want = list(text)
        for _ in new:
            want.append(int(alone(model, want)[-1].argmax()))
        assert new == want[len(text) :]


def test_a_gradient_reaches_edits_on_both_sides(model):
    v = torch.zeros(model.d_model, requires_grad=True)
    branch = Branch((Edit(1, v, mode="add"),), tokens=(5, 6))
    found = run_branches(model, PROMPTS, [branch], readout=answer_logprobs)
    (together,) = torch.autograd.grad(found.sum(), v)
    apart = torch.zeros_like(v)
    for prompt in PROMPTS:
        apart += torch.autograd.grad(run_branches(model, [prompt], [branch], readout=answer_logprobs).sum(), v)[0]
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-3)
