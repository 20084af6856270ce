"""Numbers that are not finite: an error that names where they arise, never a score."""

import pytest
import torch
from helpers import edits, tokens, toy_task

from lens_fv.core.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.evaluation import evaluate
from lens_fv.heads import head_means, rank_heads
from lens_fv.knowledge.examples import DistillationExample, teacher_targets
from lens_fv.model.finite import plain_logits
from lens_fv.model.generation import Sampling, generate_tokens
from lens_fv.model.plain import plain_model
from lens_fv.patching import Branch, Edit, answer_logprobs, answer_ranks, run_branches, score_answers, verify
from lens_fv.tasks import EncodedPrompt
from lens_fv.vectors import FunctionVector, decode

PROMPTS = [tokens(9, 0), tokens(5, 1)]


def broken(tiny_model, weight: str):
    """A model one of whose weights, by transformers' name, holds one number that is none."""
    model = tiny_model("llama", fresh=True)
    parameter = dict(plain_model(model).named_parameters())[weight]
    parameter.data.view(-1)[7] = torch.nan
    return model


def vector_of(model, scale: float = 1.0) -> FunctionVector:
    where = Provenance.of(model, task="toy", task_hash="t", prompts=[], seed=0, method="test", options={})
    values = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    return FunctionVector(
        provenance=where, vector=values, head_outputs=torch.zeros(0, model.d_head), layer=1, resid_norm=1.0, scale=scale
    )


def readers(model):
    """Everything that reads logits, log-probabilities, states or effects."""
    prompts, answer = PROMPTS, Branch(tokens=(3, 4))
    encoded = [EncodedPrompt(tuple(prompt), ((3, 4),)) for prompt in prompts]
    return {
        "forward": lambda: model.forward(torch.tensor(prompts[:1])),
        "states": lambda: head_means(model, prompts),
        "ranks": lambda: run_branches(model, prompts, [answer], readout=answer_ranks),
        "logprobs": lambda: run_branches(model, prompts, [answer], readout=answer_logprobs, backend="loop"),
        "scores": lambda: score_answers(model, encoded, [[]]),
        "effects": lambda: rank_heads(model, toy_task(), n_shots=2, n_clean=2, n_trials=1),
        "evaluation": lambda: evaluate(model, toy_task(), n_shots=2, max_items=2),
        "text": lambda: generate_tokens(model, prompts, Sampling(2), use_cache=True),
        "text by itself": lambda: model.generate(prompts, max_new_tokens=2),
    }


LAYER = ("model.layers.1.mlp.down_proj.weight", r"first at blocks\.1\.mlp\.out\.hook_out \(layer 1\)")
NORM = ("model.norm.weight", r"first at ln_final\.hook_out")


@pytest.mark.parametrize(
    ("name", "weight", "place"),
    [*((name, *LAYER) for name in readers(None)), ("scores", *NORM), ("effects", *NORM), ("text", *NORM)],
)
def test_a_weight_that_is_not_a_number_is_named(tiny_model, name, weight, place):
    """In layer 1, and in the final norm."""
    model = broken(tiny_model, weight)
    with pytest.raises(LensFVError, match=f"not finite for prompt 0 .*{place}; its weight {weight}"):
        readers(model)[name]()


def test_the_prompt_and_the_layer_are_named_where_an_edit_makes_them(tiny_model):
    """Each factor is a number that the model can hold: together they are not."""
    model = tiny_model("llama")
    factor = torch.tensor([[1.0] * model.d_model, [1e15] * model.d_model])
    grown = [Edit(layer, factor, mode="scale") for layer in (1, 1, 2)]
    for backend in ("rows", "loop"):
        with pytest.raises(LensFVError, match=r"branch 1 of .* prompt 1 .*first at blocks\.1\.hook_resid_post \(layer 1\)"):
            run_branches(model, PROMPTS, [(), grown], backend=backend)


def test_a_vector_too_long_to_be_measured_is_refused(tiny_model):
    """Its square overflows, so the final norm divides by infinity, and all logits would be equal."""
    model = tiny_model("llama")
    with pytest.raises(LensFVError, match=r"edit at blocks\.1\.hook_resid_post: its value .*lower its scale"):
        evaluate(model, toy_task(), {"long": vector_of(model, 1e30)}, n_shots=2, max_items=2)
    with pytest.raises(LensFVError, match="too long for the final norm"):
        decode(model, vector_of(model, 1e30))


def test_half_precision_that_overflows_says_so_and_verify_fails(tiny_model):
    """In the states of the token that prompts begin with, which are huge in some models."""
    model = tiny_model("llama", fresh=True)
    model.tl.to(torch.float16)
    assert all(finding.passed for finding in verify(model))
    first = model.tl.embed.original_component.weight.data[0]
    first.copy_(65_000 * first.sign())
    model.tl.blocks[1].mlp.out.original_component.weight.data *= 30_000
    failed = [finding for finding in verify(model) if not finding.passed]
    assert [finding.check for finding in failed] == ["all numbers are finite"]
    assert "load the model in bfloat16 or float32" in failed[0].detail
    with pytest.raises(LensFVError, match="float16 holds no number above 65504"):
        rank_heads(model, toy_task(), n_shots=2, n_clean=2, n_trials=1)


def test_verify_fails_where_numbers_are_none(tiny_model):
    findings = verify(broken(tiny_model, "model.norm.weight"))
    assert [finding.check for finding in findings if not finding.passed] == ["all numbers are finite"]
    assert "ln_final" in findings[-1].detail


def test_a_model_without_hooks_names_the_module(tiny_model):
    plain = plain_model(broken(tiny_model, "model.layers.2.self_attn.o_proj.weight"))
    example = DistillationExample("x", tuple(PROMPTS[0]), tuple(PROMPTS[0]), (4, 5))
    with pytest.raises(LensFVError, match=r"text 0 of a batch, first at model\.layers\.2\.self_attn\.o_proj; its weight"):
        teacher_targets(plain, [example], pad=0, temperature=1.0, top_k=None)
    ids = torch.tensor([PROMPTS[0]])
    with pytest.raises(LensFVError, match="drift: logits not finite"):
        plain_logits(plain, "drift", {"input_ids": ids})


def test_good_runs_are_left_alone(tiny_model):
    """The whole model does not run, once it was checked: only its blocks do, for the branches."""
    model, ran = tiny_model("llama"), []
    run_branches(model, PROMPTS, edits(model)[:4])
    handle = model.tl.original_model.register_forward_pre_hook(lambda *_: ran.append(1))
    run_branches(model, PROMPTS, edits(model)[:4], readout=answer_logprobs)
    handle.remove()
    assert not ran
