"""Guides: where they read and add, against TransformerLens; every term against its formula and finite differences."""

import logging
import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import transformers
from helpers import Interrupting
from peft import LoraConfig, get_peft_model

from lens_fv.core.artefact import Provenance
from lens_fv.core.divergence import divergence
from lens_fv.errors import LensFVError
from lens_fv.finetuning.regularizers import PRESETS, Guide, GuideConfig
from lens_fv.finetuning.regularizers.hook_points import IGNORED, HookPoints, last_prompt_token
from lens_fv.finetuning.regularizers.penalties import fisher_information
from lens_fv.model.quiet import quiet_logs
from lens_fv.vectors import FunctionVector

HEADS = ((0, 1), (2, 3), (1, 0))
PROMPTS = [[7, 3, 9], [4, 4, 8, 2, 1], [6, 5]]


def adapted(hf, *, trained: bool = True, seed: int = 0):
    """With low-rank updates, which do something if they are trained."""
    torch.manual_seed(seed)
    with quiet_logs():  # PEFT asks transformers by a name that is to go
        config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, fan_in_fan_out=hf.config.model_type == "gpt2")
        model = get_peft_model(hf, config)
    if trained:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = 0.3 * torch.randn_like(parameter)
    return model


def vector_of(model, site="heads"):
    """Anything, at places that there are."""
    rng = torch.Generator().manual_seed(4)
    provenance = Provenance.of(model, task="toy", task_hash="", prompts=[[1]], seed=0, method="made", options={})
    return FunctionVector(
        provenance=provenance,
        vector=torch.randn(model.d_model, generator=rng),
        head_outputs=torch.randn(len(HEADS), model.d_head, generator=rng),
        layer=1,
        resid_norm=1.0,
        site=site,
        heads=HEADS,
    )


def batch():
    """Two rows, the second one shorter; each a prompt and an answer."""
    ids = torch.tensor([[3, 8, 12, 7, 9, 4], [5, 6, 2, 11, 0, 0]])
    labels = ids.clone()
    labels[0, :4] = labels[1, :2] = labels[1, 4:] = IGNORED
    return {"input_ids": ids, "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]), "labels": labels}


@pytest.fixture
def student(huggingface_model):
    return adapted(huggingface_model("llama")).eval()


@pytest.fixture
def vector(tiny_model):
    return vector_of(tiny_model("llama"))


def terms_of(guide, model, inputs, fraction=0.0):
    with guide.around(model, inputs, fraction=fraction) as terms:
        logits = model(**inputs).logits
    return terms(logits), logits


@pytest.mark.parametrize("where", ["heads", "resid_post", "attn_out"])
@pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "qwen3", "mistral", "opt", "phi", "gptj", "bloom", "mpt"])
def test_places_are_those_of_transformerlens(tiny_model, huggingface_model, family, where):
    lens, hf = tiny_model(family), adapted(huggingface_model(family), trained=False).eval()
    ids, at = torch.tensor([[3, 8, 12, 7, 9], [5, 6, 2, 11, 4]]), torch.tensor([4, 2])
    guide = Guide(hf, vector_of(lens), GuideConfig(intervene=1.0, site=where))
    with guide.hook_points.reading(HEADS, at) as read, guide.hook_points.adding(guide.edits, -0.5, at):
        got = hf(ids).logits
    for row in range(2):
        p = int(at[row])

        def changes(edit, p=p):
            def change(x, hook):
                x = x.clone()
                place = (slice(None), p) if edit.head is None else (slice(None), p, edit.head)
                x[place] = x[place] - 0.5 * edit.value
                return x

            return change

        _, cache = lens.tl.run_with_cache(ids[row : row + 1])
        first = min((layer, head) for layer, head in HEADS)
        expected = cache[f"blocks.{first[0]}.attn.hook_z"][0, p, first[1]]
        torch.testing.assert_close(read[first][row], expected, atol=1e-4, rtol=1e-3)
        with lens.hooks([(edit.place, changes(edit)) for edit in guide.edits]):
            logits = lens.forward(ids[row : row + 1])[0]
        torch.testing.assert_close(got[row], logits, atol=2e-3, rtol=1e-3)
        assert not torch.allclose(got[row], lens.forward(ids[row : row + 1])[0], atol=1e-3)


def test_the_strength_is_the_published_staircase():
    settings = GuideConfig(intervene=-1.0)
    table = {0.0: 1, 0.24: 1, 0.26: 0.9, 0.31: 0.8, 0.40: 0.7, 0.50: 0.5, 0.55: 0.4, 0.70: 0.1, 0.75: 0, 1.0: 0}
    assert {done: round(-settings.strength(done), 9) for done in table} == pytest.approx(table)
    assert replace(settings, hold_fraction=0.0, n_decay_steps=2).strength(0.3) == -0.5
    assert replace(settings, intervene=2.0).strength(0.1) == 2.0


def test_divergence_by_hand():
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.5, 0.25])
    forward = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert float(divergence(p.log(), q.log(), "forward")) == pytest.approx(forward)
    skewed = torch.tensor([0.98, 0.01, 0.01])
    there, back = (float(divergence(p.log(), skewed.log(), d)) for d in ("forward", "reverse"))
    assert there == pytest.approx(float((p * (p / skewed).log()).sum()))
    assert back == pytest.approx(float((skewed * (skewed / p).log()).sum()))
    assert float(divergence(p.log(), p.log(), "jsd")) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("steer", [0.0, 1.5])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_terms_are_their_formulas(student, vector, steer, direction):
    """Every one worked out from separate forward passes."""
    settings = GuideConfig(
        distill=2.0, distill_all=0.5, steer=steer, direction=direction, heads=3.0, site="resid_post", temperature=3.0
    )
    inputs, at = batch(), torch.tensor([3, 1])
    guide = Guide(student, vector, settings)
    found, logits = terms_of(guide, student, inputs)
    places, rows = HookPoints(student), torch.arange(2)
    with places.reading(HEADS, at) as own:
        plain = student(**inputs).logits
    with student.disable_adapter():
        with places.reading(HEADS, at) as base:
            student(**inputs)
        with places.adding(guide.edits, steer, at):
            taught = student(**inputs).logits
    torch.testing.assert_close(logits, plain)
    p, q = ((each / 3.0).log_softmax(-1) for each in (taught, plain))
    if direction == "reverse":
        p, q = q, p
    kl = (p.exp() * (p - q)).sum(-1)
    expected = {
        "distill": 2.0 * kl[rows, at].mean(),
        "distill_all": 0.5 * (kl * inputs["attention_mask"]).sum(1).mean(),
        "heads": 3.0 * sum((own[head] - base[head]).square().mean() for head in HEADS),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)
    total = guide.loss(student, inputs)
    torch.testing.assert_close(total, student(**inputs).loss + sum(expected.values()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_crossed_prompts_have_terms_of_their_own(student, vector, direction):
    settings = GuideConfig(
        swap=2.0, swap_heads=3.0, n_swap_prompts=3, intervene=1.0, direction=direction, temperature=3.0, site="heads"
    )
    found, logits = terms_of(Guide(student, vector, settings, swap_prompts=PROMPTS), student, batch(), fraction=0.1)
    places, apart, distances = HookPoints(student), [], []
    for prompt in PROMPTS:  # alone, without padding, and without the vector that the batch has
        ids, at = torch.tensor([prompt]), torch.tensor([len(prompt) - 1])
        with torch.no_grad(), student.disable_adapter(), places.reading(HEADS, at) as base:
            taught = student(ids).logits[0, -1]
        with places.reading(HEADS, at) as own:
            p, q = ((x / 3.0).log_softmax(-1) for x in (taught, student(ids).logits[0, -1]))
        if direction == "reverse":
            p, q = q, p
        apart.append((p.exp() * (p - q)).sum())
        distances.append(sum((own[head] - base[head]).square().mean() for head in HEADS))
    expected = {"swap": 2.0 * torch.stack(apart).mean(), "swap_heads": 3.0 * torch.stack(distances).mean()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)
    only = replace(settings, swap=0.0, intervene=0.0)
    alone, logits_alone = terms_of(Guide(student, vector, only, swap_prompts=PROMPTS), student, batch(), fraction=0.1)
    torch.testing.assert_close(alone["swap_heads"], expected["swap_heads"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits_alone, student(**batch()).logits)
    plain = replace(settings, swap=0.0, swap_heads=0.0)
    torch.testing.assert_close(logits, terms_of(Guide(student, vector, plain), student, batch(), fraction=0.1)[1])


class OfAnotherHand(transformers.LlamaForCausalLM):
    """A forward pass that gives the logits of all tokens, and knows no other."""

    def forward(self, *args, **kwargs):
        assert "logits_to_keep" not in kwargs
        return super().forward(*args, **kwargs)


def test_crossed_prompts_of_a_model_that_gives_all_logits(huggingface_model, student):
    other = huggingface_model("llama")
    other.__class__ = OfAnotherHand
    other = adapted(other).eval()
    settings = GuideConfig(swap=2.0, n_swap_prompts=3)
    found, same = (terms_of(Guide(each, None, settings, swap_prompts=PROMPTS), each, batch())[0] for each in (other, student))
    torch.testing.assert_close(found["swap"], same["swap"])


def test_crossed_prompts_differ_from_step_to_step_and_not_from_run_to_run(student):
    prompts = [[i, 3, 5] for i in range(1, 40)]

    def term(done, inputs):
        guide = Guide(student, None, GuideConfig(swap=1.0, n_swap_prompts=2), swap_prompts=prompts)
        return float(terms_of(guide, student, inputs, fraction=done)[0]["swap"].detach())

    other = batch()
    other["input_ids"][0, 0] += 1
    found = [term(0.0, batch()), term(0.25, batch()), term(0.0, other)]
    assert len(set(found)) == 3
    assert found == [term(0.0, batch()), term(0.25, batch()), term(0.0, other)]


def test_a_guide_that_begins_late_does_nothing_before(student, vector):
    settings = GuideConfig(intervene=-2.0, distill=1.0, heads=1.0, swap=1.0, start_fraction=0.5)
    late = Guide(student, vector, settings, swap_prompts=PROMPTS)
    always = Guide(student, vector, replace(settings, start_fraction=0.0), swap_prompts=PROMPTS)
    inputs, plain = batch(), student(**batch()).loss
    assert torch.equal(late.loss(student, inputs, fraction=0.49), plain)
    assert late.n_steps == 0
    assert torch.equal(late.loss(student, inputs, fraction=0.5), always.loss(student, inputs, fraction=0.5))
    assert abs(always.loss(student, inputs, fraction=0.5) - plain) > 0.1


def test_the_student_is_intervened_on_and_its_heads_are_read_before(student, vector):
    inputs, at = batch(), torch.tensor([3, 1])
    guide = Guide(student, vector, GuideConfig(intervene=-2.0, heads=1.0, site="heads"))
    _, whole = terms_of(guide, student, inputs, fraction=0.1)
    with guide.hook_points.adding(guide.edits, -2.0, at):
        expected = student(**inputs).logits
    torch.testing.assert_close(whole, expected)
    late, logits = terms_of(guide, student, inputs, fraction=0.9)
    torch.testing.assert_close(logits, student(**inputs).logits)
    first = min(HEADS)  # nothing is added before it
    assert late["heads"] > 0
    with guide.hook_points.reading([first], at) as own:
        student(**inputs)
    with guide.hook_points.reading([first], at) as read, guide.hook_points.adding(guide.edits, -2.0, at):
        student(**inputs)
    torch.testing.assert_close(read[first], own[first])


def test_an_unchanged_model_is_exactly_its_teacher(huggingface_model, tiny_model):
    model = adapted(huggingface_model("llama"), trained=False).train()
    settings = GuideConfig(distill=1.0, distill_all=1.0, steer=0.0, heads=1.0, head_subset="all", swap=1.0)
    found, _ = terms_of(Guide(model, None, settings, swap_prompts=PROMPTS), model, batch())
    assert [float(value.detach()) for value in found.values()] == [0.0, 0.0, 0.0, 0.0]
    linear = replace(settings, head_subset="vector", learn_projection=True, swap=0.0, swap_heads=1.0)
    found, _ = terms_of(Guide(model, vector_of(tiny_model("llama")), linear, swap_prompts=PROMPTS), model, batch())
    assert (float(found["heads"].detach()), float(found["swap_heads"].detach())) == (0.0, 0.0)


@pytest.mark.parametrize("name", ["kl", "lwf", "l2", "swap", "swap-kl"])
@pytest.mark.parametrize("length", [5, 8, 40])
@pytest.mark.parametrize("rows", [1, 2, 8])
def test_the_same_to_the_bit_whatever_the_rows(huggingface_model, name, length, rows):
    """How a product is rounded depends on its shape."""
    model = adapted(huggingface_model("llama").double(), trained=False).train()
    ids = torch.randint(1, 12, (rows, length), generator=torch.Generator().manual_seed(length))
    labels = ids.clone()
    labels[:, :-3] = IGNORED
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    found, _ = terms_of(Guide(model, None, PRESETS[name], swap_prompts=PROMPTS), model, inputs)
    assert {float(value.detach()) for value in found.values()} == {0.0}


@pytest.mark.parametrize(
    "settings",
    [
        GuideConfig(intervene=-1.0, site="heads"),
        GuideConfig(distill=1.0),
        GuideConfig(distill_all=1.0, direction="forward", site="resid_post"),
        GuideConfig(heads=1.0),
        GuideConfig(heads=1.0, learn_projection=True),
        GuideConfig(swap=1.0, intervene=1.0),
        GuideConfig(swap_heads=1.0),
        replace(PRESETS["fv"], distill_gate=0.0, heads_gate=0.0, intervene=0.5),
    ],
)
def test_gradients_are_those_of_finite_differences(huggingface_model, tiny_model, settings):
    vector = vector_of(tiny_model("gpt2"))  # whose norms are in double precision too, unlike Llama's
    model = adapted(huggingface_model("gpt2").double()).eval()
    guide = Guide(model, vector, settings, swap_prompts=PROMPTS).double()
    inputs = batch()

    def loss():
        with guide.around(model, inputs, fraction=0.1) as terms:
            logits = model(**inputs).logits
        # transformers' own loss is in single precision
        own = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())
        return own + sum(terms(logits).values())

    loss().backward()
    trained = [p for p in (*model.parameters(), *guide.parameters()) if p.requires_grad]
    rng, step = torch.Generator().manual_seed(0), 1e-6
    directions = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in trained]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(trained, directions, strict=True))

    @torch.no_grad()
    def moved(by):
        for p, d in zip(trained, directions, strict=True):
            p += by * d
        found = float(loss())
        for p, d in zip(trained, directions, strict=True):
            p -= by * d
        return found

    assert slope == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=1e-4)


def test_gates(student, vector, caplog):
    settings = GuideConfig(distill=1.0, heads=1.0)
    found, _ = terms_of(Guide(student, vector, settings), student, batch())
    shut = Guide(student, vector, replace(settings, distill_gate=float(found["distill"].detach()) + 1e-3))
    less, _ = terms_of(shut, student, batch())
    assert float(less["distill"].detach()) == 0.0
    torch.testing.assert_close(less["heads"], found["heads"])
    with caplog.at_level(logging.WARNING):
        shut.report()
    assert [record.getMessage() for record in caplog.records] == [
        "guide: the gate of distill never opened in 1 steps; lower it, or leave the term out"
    ]


@pytest.mark.parametrize("distill_all", [0.0, 0.1])
@pytest.mark.parametrize(
    ("family", "quick"),
    [(f, True) for f in ("gpt2", "neox", "llama", "qwen3", "opt", "phi", "gptj")]
    + [(f, False) for f in ("mistral", "gemma3", "bloom", "mpt")],  # short windows, and positions by column
)
def test_heads_behind_a_steered_pass_are_those_of_a_pass(tiny_model, huggingface_model, family, quick, distill_all):
    """By one token more a row where the model lets it; the first batch, and a longer one, are read by a pass as well."""
    hf, vector = adapted(huggingface_model(family)).eval(), vector_of(tiny_model(family))
    gated = GuideConfig(distill=1.0, distill_all=distill_all, heads=1.0, heads_gate=1e-3, site="attn_out")
    one, other = (Guide(hf, vector, s).teacher for s in (gated, replace(gated, heads_gate=0.0)))
    passes: list[tuple[int, ...]] = []
    hf.get_input_embeddings().register_forward_pre_hook(lambda _, given: passes.append(tuple(given[0].shape)))
    long = batch() | {key: value.repeat(1, 5) for key, value in batch().items() if key != "labels"}
    found = []
    for inputs, at in [(batch(), [3, 1]), (batch(), [2, 1]), (long, [27, 7]), (long, [27, 7])]:
        inputs["attention_mask"] = inputs["attention_mask"].sort(1, descending=True).values
        passes.clear()
        (logits, heads), n_passes = one(hf, inputs, torch.tensor(at)), len(passes)
        found.append((n_passes, passes[-1][1]))
        logits_again, heads_again = other(hf, inputs, torch.tensor(at))
        torch.testing.assert_close(logits, logits_again, rtol=0, atol=1e-6)
        for head in HEADS:
            torch.testing.assert_close(heads[head], heads_again[head], atol=1e-5, rtol=1e-4)
    if quick:
        assert found == [(3, 4), (2, 1), (3, 28), (2, 1)]  # how many passes, and the tokens of the last
    else:
        assert found[-1] == (2, 28)


def test_rows_padded_on_the_left_are_read_by_a_pass(student, vector):
    settings = GuideConfig(distill=1.0, heads=1.0, heads_gate=1e-3)
    guide, inputs, at = Guide(student, vector, settings), batch(), torch.tensor([3, 3])
    inputs["attention_mask"] = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    with guide.teacher.active(student):
        _, heads = guide.teacher(student, inputs, at)
    with student.disable_adapter(), guide.hook_points.reading(HEADS, at) as read:
        student(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    for head in HEADS:
        torch.testing.assert_close(heads[head], read[head])


def test_the_teacher_has_no_dropout_and_leaves_the_model_as_it_was(huggingface_model, vector):
    model = adapted(huggingface_model("llama")).train()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    assert not torch.equal(model(**batch()).logits, model(**batch()).logits)
    guide = Guide(model, vector, GuideConfig(distill=1.0, steer=0.0))
    inputs, at = batch(), torch.tensor([3, 1])
    with guide.teacher.active(model):
        (one, _), (two, _) = guide.teacher(model, inputs, at), guide.teacher(model, inputs, at)
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert model.training
    assert all(p.requires_grad == ("lora" in name) for name, p in model.named_parameters())


def test_learning_without_forgetting_has_the_updates_of_before_for_a_teacher(huggingface_model):
    settings, student = replace(PRESETS["lwf"], temperature=1.0), adapted(huggingface_model("llama")).eval()
    guide = Guide(student, None, settings)
    was = {name: p.detach().clone() for name, p in student.named_parameters() if p.requires_grad}
    now, before = terms_of(guide, student, batch())
    assert float(now["distill"].detach()) == 0.0
    trained = [p for p in student.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data + 0.2
    later, logits = terms_of(guide, student, batch())
    p, q = ((each[torch.arange(2), torch.tensor([3, 1])]).log_softmax(-1) for each in (before, logits))
    torch.testing.assert_close(later["distill"], (q.exp() * (q - p)).sum(-1).mean(), atol=1e-5, rtol=1e-4)
    given = Guide(student, None, settings, previous=was)
    torch.testing.assert_close(terms_of(given, student, batch())[0]["distill"], later["distill"])
    torch.testing.assert_close(student(**batch()).logits, logits)


def test_the_fv_presets_teacher_is_the_model_with_all_earlier_updates_merged(student, vector):
    """As the released code has it, which merges each task's updates into the weights and begins others."""
    settings = replace(PRESETS["fv"], distill_gate=0.0, heads_gate=0.0, distill_all=0.0)
    guide, first = (Guide(student, vector, replace(settings, teacher=teacher)) for teacher in (settings.teacher, "base"))
    merged = deepcopy(student).merge_and_unload().eval()
    for parameter in (p for p in student.parameters() if p.requires_grad):
        parameter.data = parameter.data + 0.2  # the next task's
    found, logits = terms_of(guide, student, batch())
    places, inputs, at = HookPoints(merged), batch(), torch.tensor([3, 1])
    with torch.no_grad():
        with places.reading(HEADS, at) as plain:
            merged(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        with places.adding(guide.edits, 1.0, at):
            taught = merged(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    with HookPoints(student).reading(HEADS, at) as own:
        student(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    p, q = ((each[torch.arange(2), at] / 2.0).log_softmax(-1) for each in (taught, logits))
    torch.testing.assert_close(found["distill"], (q.exp() * (q - p)).sum(-1).mean(), atol=1e-5, rtol=1e-4)
    apart = torch.stack([(own[head] - plain[head]).square().mean() for head in HEADS]).sum()
    torch.testing.assert_close(found["heads"], apart, atol=1e-6, rtol=1e-4)
    other, _ = terms_of(first, student, batch())
    assert not torch.allclose(other["distill"], found["distill"], rtol=1e-2)
    assert not torch.allclose(other["heads"], found["heads"], rtol=1e-2)


def test_where_the_prompt_ends():
    labels = torch.tensor([[IGNORED, IGNORED, 4, 5], [IGNORED, 3, IGNORED, IGNORED]])
    assert last_prompt_token(labels).tolist() == [1, 0]
    for bad in ([[IGNORED] * 3], [[1, 2, 3]]):
        with pytest.raises(LensFVError, match="mask prompts"):
            last_prompt_token(torch.tensor(bad))


def test_what_cannot_be_guided_is_said(student, huggingface_model, tiny_model, vector):
    with pytest.raises(LensFVError, match="use get_peft_model"):
        Guide(huggingface_model("llama"), vector, GuideConfig(distill=1.0))
    with pytest.raises(LensFVError, match=r"the model's are \(3, 4, 32, 8\)"):
        Guide(student, vector_of(tiny_model("qwen3")), GuideConfig(distill=1.0))
    for other, said in (
        ({"shape": (9, 4, 32, 8)}, r"are \(9, 4, 32, 8\)"),
        ({"weight_processing": "compat"}, "'compat' weights"),
    ):
        made_elsewhere = replace(vector, provenance=replace(vector.provenance, **other))
        with pytest.raises(LensFVError, match=said):
            Guide(student, made_elsewhere, GuideConfig(distill=1.0))
    beyond = vector_of(tiny_model("llama"))
    object.__setattr__(beyond, "heads", ((0, 1), (2, 3), (9, 0)))
    with pytest.raises(LensFVError, match=r"head 9\.0: the model has layers 0 to 2"):
        Guide(student, beyond, GuideConfig(heads=1.0))
    tuned = vector.with_vector(vector.vector, method="tuned", options={})
    for settings in (GuideConfig(heads=1.0), GuideConfig(intervene=1.0, site="heads")):
        with pytest.raises(LensFVError, match="vector that has none"):
            Guide(student, tuned, settings)
    with pytest.raises(LensFVError, match="without a vector"):
        Guide(student, None, GuideConfig(distill=1.0))
    for prompts in ((), [[1, 2], []]):
        with pytest.raises(LensFVError, match=rf"there are {len(prompts)}, {len(prompts) // 2} of them empty"):
            Guide(student, None, GuideConfig(swap=1.0), swap_prompts=prompts)
    made, harmless = (Guide(student, vector, GuideConfig(**{term: 1.0})) for term in ("heads", "distill"))
    with quiet_logs():
        student.gradient_checkpointing_enable()
    with pytest.raises(LensFVError, match="gradient checkpointing"):
        Guide(student, vector, GuideConfig(heads=1.0))
    with pytest.raises(LensFVError, match="gradient checkpointing"):  # turned on by a trainer, after the guide was made
        made.loss(student, batch())
    assert harmless.loss(student, batch()).isfinite()
    for options in (
        {"distill": -1.0},
        {"temperature": 0.0},
        {"heads": math.nan},
        {"hold_fraction": 0.6},
        {"start_fraction": 1.0},
        {"n_decay_steps": 0},
        {"n_swap_prompts": 0},
    ):
        with pytest.raises(LensFVError, match=rf"GuideConfig\({next(iter(options))}=.*: it has to be"):
            GuideConfig(**options)


def test_a_term_that_is_not_finite_is_named_with_its_step(student, vector):
    guide = Guide(student, vector, GuideConfig(distill=1.0, heads=1.0))
    terms_of(guide, student, batch())
    guide.edits[0].value.fill_(math.inf)
    with pytest.raises(LensFVError, match="guide: distill is nan at step 2"):
        terms_of(guide, student, batch())


@pytest.mark.parametrize("teacher", ["base", "previous"])
def test_an_interrupt_leaves_the_student_as_it_was(huggingface_model, vector, teacher):
    model = adapted(huggingface_model("llama"))
    for module in model.modules():
        module.training = "mlp" not in type(module).__name__.lower()  # modes may differ within a model
    guide = Guide(model, vector, GuideConfig(distill=1.0, heads=1.0, intervene=1.0, teacher=teacher))
    inputs = batch()

    def state():
        modules = [
            (m.training, vars(m).get("_disable_adapters"), [*m._forward_hooks, *m._forward_pre_hooks]) for m in model.modules()
        ]
        return torch.is_grad_enabled(), modules, [(id(p), p.requires_grad, p.data_ptr()) for p in model.parameters()]

    uses = [lambda: guide.loss(model, inputs), lambda: fisher_information(model, [inputs])]
    for use in uses:
        use()
        counted = Interrupting()
        counted.run(use)
        last = {line: i for i, line in enumerate(counted.lines)}
        before = state()
        for line, i in [*last.items()][::12]:
            assert Interrupting(i).run(use) is not None
            assert state() == before, f"interrupted at {line}"
