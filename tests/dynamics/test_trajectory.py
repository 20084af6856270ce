"""A model probed at every checkpoint, against plain forward passes; and models that changed in a known way."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from helpers import toy_task

from lens_fv.dynamics import Trajectory, continual_metrics, make_task_probe, measure_checkpoint, track_checkpoints
from lens_fv.errors import LensFVError
from lens_fv.evaluation import load_artefact
from lens_fv.finetuning import FinetuneConfig, finetune, switch_to_checkpoint
from lens_fv.heads import head_means, make_instruction_prompts, rank_instruction_heads
from lens_fv.model import load_model
from lens_fv.tasks import encode_prompts, few_shot, split_pairs, zero_shot
from lens_fv.vectors import extract

TASKS = [
    replace(toy_task(name="one"), instructions=("Say it.", "Write it."), clozes=("After {input} comes",)),
    replace(toy_task(n=32, name="two"), instructions=("Name it.",), clozes=("{input} is", "And {input}:")),
]
ASKED = {"max_items": 5, "n_context": 2, "n_read": 3}


def probe(model, task, **options):
    ranking = rank_instruction_heads(model, task, n_clean=3, n_trials=2)
    return make_task_probe(model, task, extract(model, task, ranking, n_heads=2, layer=1), **{**ASKED, **options})


@pytest.fixture(scope="module")
def probes(tiny_model):
    return [probe(tiny_model("llama"), task) for task in TASKS]


def last_token(model, tokens, hook_name, head=None):
    """What a hook sees there."""
    kept = []

    def keep(x, hook):
        kept.append((x[0, -1] if head is None else x[0, -1, head]).clone())
        return x

    model.forward(torch.tensor([tokens]), [(hook_name, keep)])
    return kept[0]


def adding(vector, at):
    def add(x, hook):
        x = x.clone()
        x[0, at] += vector.vector
        return x

    return [(f"blocks.{vector.layer}.hook_resid_post", add)]


def said(model, tokens, answer, hooks=()):
    """Whether greedy decoding writes an answer, and its mean log-probability."""
    logits = model.forward(torch.tensor([[*tokens, *answer[:-1]]]), hooks)[0, len(tokens) - 1 :]
    logprobs = logits.log_softmax(-1)[torch.arange(len(answer)), list(answer)]
    return logits.argmax(-1).tolist() == list(answer), float(logprobs.mean())


def test_questions_are_those_of_the_test_items(tiny_model, probes):
    model = tiny_model("llama")
    items = split_pairs(TASKS[0], seed=0).test[:5]
    prompts = [few_shot(pair, (), instruction=TASKS[0].instructions[i % 2]) for i, pair in enumerate(items)]
    assert list(probes[0].instructed) == encode_prompts(model, prompts)
    for encoded, pair in zip(probes[0].cloze, items, strict=True):
        assert list(encoded.tokens) == model.encode(f"After {pair.input} comes")
        assert model.tokenizer.decode(encoded.answers[0]) == f" {pair.output}"
    bare = make_task_probe(model, replace(TASKS[0], clozes=()), probes[0].vector, **ASKED).cloze
    assert list(bare) == encode_prompts(model, [zero_shot(pair) for pair in items])
    said = Counter(pair.output for pair in items)
    assert probes[0].majority == max(said.values()) / 5
    assert probes[0].heads[:2] == probes[0].vector.heads
    assert len(set(probes[0].heads)) == 4


def test_a_moment_is_what_plain_forward_passes_say(tiny_model, probes):
    model = tiny_model("llama")
    found = measure_checkpoint(model, probes)
    assert found.majority.tolist() == pytest.approx([each.majority for each in probes])
    for t, each in enumerate(probes):
        vector = each.vector
        for i, prompt in enumerate(each.instructed):
            hooks = adding(vector, len(prompt.tokens) - 1)
            plain = [said(model, prompt.tokens, answer) for answer in prompt.answers]
            with_it = [said(model, prompt.tokens, answer, hooks) for answer in prompt.answers]
            assert bool(found.correct[t, i]) == any(whole for whole, _ in plain)
            assert float(found.instructed[t, i]) == pytest.approx(plain[0][1], abs=1e-4)
            assert bool(found.steered[t, 0, i]) == any(whole for whole, _ in with_it)
            state = last_token(model, prompt.tokens, f"blocks.{vector.layer}.hook_resid_post")
            cosine = torch.cosine_similarity(state, vector.vector, dim=0)
            if i < 3:
                assert float(found.alignment[t, i]) == pytest.approx(float(cosine), abs=1e-4)
        for i, prompt in enumerate(each.cloze):
            assert float(found.knowledge[t, i]) == pytest.approx(said(model, prompt.tokens, prompt.answers[0])[1], abs=1e-4)
        for i, prompt in enumerate(each.in_context):
            assert bool(found.in_context[t, i]) == any(said(model, prompt.tokens, answer)[0] for answer in prompt.answers)
        for h, (layer, head) in enumerate(each.heads):
            z = [last_token(model, prompt.tokens, f"blocks.{layer}.attn.hook_z", head) for prompt in each.instructed[:3]]
            written = torch.stack(z).mean(0) @ model.tl.blocks[layer].attn.W_O[head]
            torch.testing.assert_close(found.head_writes[t, h], written, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(found.head_writes_now[t, h], written, atol=1e-5, rtol=1e-4)
    last = [said_rank(model, p) for p in probes[0].instructed[:3]]
    assert float(found.answer_rank[0, -1]) == sorted(last)[(len(last) - 1) // 2]


def said_rank(model, prompt):
    logits = model.forward(torch.tensor([prompt.tokens]))[0, -1]
    return float((logits > logits[prompt.answers[0][0]]).sum())


def test_a_model_that_did_not_change_did_not_move(tiny_model, probes):
    model = tiny_model("llama")
    path = Trajectory.of([measure_checkpoint(model, probes, name=name, step=step) for name, step in (("0", 0), ("a/1", 1))])
    torch.testing.assert_close(path.similarity(), torch.ones(2, 2))
    torch.testing.assert_close(path.similarity(current_projection=True), torch.ones(2, 2))
    assert path.distance().eq(0).all()
    assert torch.equal(path.accuracy[0], path.accuracy[1])
    own, control = path.head_similarity()
    assert own.shape == control.shape == (2, 2, 2)
    torch.testing.assert_close(torch.cat([own, control]), torch.ones(4, 2, 2))


@pytest.mark.parametrize("what", ["o", "q"])
def test_a_head_that_was_changed_is_the_one_that_moved(tiny_model, what):
    model = tiny_model("llama", fresh=True)
    each = probe(model, TASKS[0])
    each = replace(each, heads=((2, 0), (2, 1), (2, 2), (1, 3)))  # none reads what another of them writes, but for the last
    attention = model.tl.blocks[2].attn
    # what is measured has to be projected by the heads' own maps
    projections = torch.stack([model.tl.blocks[a].attn.W_O[b].clone() for a, b in each.heads])
    each = replace(each, projections=projections)
    before = measure_checkpoint(model, [each], name="0")
    weight = getattr(attention, what).weight
    with torch.no_grad():
        columns = slice(model.d_head, 2 * model.d_head)  # of head 1
        if what == "o":
            weight[:, columns] += torch.randn(weight[:, columns].shape, generator=torch.Generator().manual_seed(0))
        else:
            weight[columns] += torch.randn(weight[columns].shape, generator=torch.Generator().manual_seed(0))
    after = measure_checkpoint(model, [each], name="1")
    own = torch.cosine_similarity(before.head_writes_now, after.head_writes_now, dim=-1)[0]
    moved = own < 0.999
    assert moved.tolist() == [False, True, False, False]
    base = torch.cosine_similarity(before.head_writes, after.head_writes, dim=-1)[0] < 0.999
    assert base.tolist() == [
        False,
        what == "q",
        False,
        False,
    ]  # a change of the projection alone is not seen through the old one


@pytest.fixture(scope="module")
def run(model_folder, tmp_path_factory):
    settings = FinetuneConfig(n_examples=8, batch_size=4, epochs=2, n_checkpoints=2, learning_rate=3e-2, rank=2)
    return finetune(model_folder, TASKS, tmp_path_factory.mktemp("run"), settings)


def test_heads_are_ranked_again_where_tasks_end(run, model_folder):
    model = load_model(model_folder)
    settings = {"n_clean": 3, "n_trials": 2, "counterpart": "none"}
    contrast = make_instruction_prompts(model, TASKS[0], **settings)
    one = probe(model, TASKS[0], patching_prompts=contrast)
    two = probe(model, TASKS[1])
    path = track_checkpoints(model, run, [one, two])
    settings["source"] = head_means(model, [p.tokens for p in one.instructed[:3]])
    torch.testing.assert_close(path.effects[0, 0], rank_instruction_heads(model, TASKS[0], **settings).mean)
    ranked = ~path.effects.isnan().flatten(2).any(-1)
    assert ranked.tolist() == [[name in ("0", "0-one/4", "1-two/4"), False] for name in path.checkpoints]
    assert path.in_context.isnan().all(-1).tolist() == [
        [name not in ("0", "0-one/4", "1-two/4")] * 2 for name in path.checkpoints
    ]
    switch_to_checkpoint(model, run, run.checkpoints[-1])
    settings["source"] = head_means(model, [p.tokens for p in one.instructed[:3]])
    torch.testing.assert_close(path.effects[-1, 0], rank_instruction_heads(model, TASKS[0], **settings).mean)
    assert path.head_overlaps()[0][0].jaccard == 1


def test_a_run_is_followed_and_gone_on_with(run, model_folder, tmp_path):
    model = load_model(model_folder)
    tokens = torch.tensor([[0, 5, 9]])
    before = model.forward(tokens)
    each = [probe(model, task) for task in TASKS]
    path = track_checkpoints(model, run, each, folder=tmp_path)
    assert torch.equal(model.forward(tokens), before)
    assert path.checkpoints == ("0", "0-one/2", "0-one/4", "1-two/2", "1-two/4")
    assert path.steps == (0, 2, 4, 6, 8)
    assert path.instructed[1].sub(path.instructed[0]).nansum() > 0  # it learns
    assert float(path.similarity()[0].min()) == pytest.approx(1)
    assert float(path.similarity()[-1].max()) < 1
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    (tmp_path / "1-two-4.safetensors").unlink()
    again = track_checkpoints(model, run, each, folder=tmp_path)
    assert torch.equal(again.head_writes, path.head_writes)
    assert torch.equal(again.correct.nan_to_num(-1), path.correct.nan_to_num(-1))
    assert [file.name for file in kept if file.stat().st_mtime_ns != kept[file]] == ["1-two-4.safetensors"]
    loaded = load_artefact(path.save(tmp_path / "path.safetensors"))
    assert isinstance(loaded, Trajectory)
    assert loaded.checkpoints == path.checkpoints
    assert torch.equal(loaded.majority, path.majority)
    half = track_checkpoints(model, run, each, checkpoints=run.checkpoints[:3], folder=tmp_path)
    assert half.checkpoints[-1] == "1-two/2"
    assert [half.checkpoints[m] for m in half.stage_ends] == ["0", "0-one/4"]
    with pytest.raises(LensFVError, match="of which ends of tasks: 0-one/4; it needs all"):
        continual_metrics(half, run.tasks)
    with pytest.raises(LensFVError, match="was measured with other probes; choose another folder"):
        track_checkpoints(model, run, each[:1], folder=tmp_path)


def test_what_cannot_be_probed_is_said(tiny_model, probes):
    model = tiny_model("llama")
    with pytest.raises(LensFVError, match="probe one: it has no instructions; give some"):
        make_task_probe(model, replace(TASKS[0], instructions=()), probes[0].vector)
    heads = tuple((layer, head) for layer in range(3) for head in range(4))
    everything = replace(probes[0].vector, heads=heads, head_outputs=torch.zeros(12, 8))
    with pytest.raises(LensFVError, match="its vector has 12 heads, and 0 are left as a control"):
        make_task_probe(model, TASKS[0], everything)
    with pytest.raises(LensFVError, match="with 0 probes"):
        measure_checkpoint(model, [])
    with pytest.raises(LensFVError, match="trajectory of 0 checkpoints"):
        Trajectory.of([])
