"""Fine-tuning: what is trained on, against a step by hand; runs that are stopped; models switched to checkpoints."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
import transformers
from helpers import Interrupting, toy_task, written
from peft import PeftModel
from safetensors.torch import load, load_file, save_file

from lens_fv.errors import LensFVError
from lens_fv.finetuning import FinetuneConfig, FinetuneRun, export_checkpoint, finetune, switch_to_checkpoint
from lens_fv.finetuning.examples import IGNORED, TokenizerEncoder, collated, training_examples
from lens_fv.model import load_model
from lens_fv.tasks import few_shot, split_pairs

SMALL = FinetuneConfig(n_examples=8, batch_size=4, epochs=2, n_checkpoints=2, learning_rate=1e-2, rank=2)
TASKS = [replace(toy_task(name="one"), instructions=("Say it.", "Write it.")), toy_task(name="two")]


@pytest.fixture(scope="module")
def run(model_folder, tmp_path_factory):
    return finetune(model_folder, TASKS, tmp_path_factory.mktemp("run"), SMALL)


@pytest.fixture(scope="module")
def reader(tiny_tokenizer):
    return TokenizerEncoder("toy", transformers.AutoTokenizer.from_pretrained(tiny_tokenizer), 256, True)


def test_only_the_answer_and_the_end_are_targets(reader):
    settings = replace(SMALL, n_examples=60, n_shots=1)
    made = training_examples(reader, TASKS[0], settings, end=0)
    train, seen = split_pairs(TASKS[0], seed=0).train, []
    for each in made:
        n = each["labels"].count(IGNORED)
        assert each["labels"][n:] == each["input_ids"][n:]
        assert each["labels"][-1] == 0
        text = reader.tokenizer.decode(each["input_ids"][1:])
        prompt, answer = text[: text.rindex(" ")], text[text.rindex(" ") :].removesuffix("<bos>")
        assert answer == reader.tokenizer.decode(each["labels"][n:-1])
        (pair,) = [pair for pair in train if prompt.endswith(f"Q: {pair.input}\nA:")]
        assert answer == f" {pair.output}"
        (shown,) = [other for other in train if f"Q: {other.input}\nA: {other.output}\n\n" in prompt]
        assert shown != pair
        assert prompt in {few_shot(pair, [shown], instruction=text).text for text in TASKS[0].instructions}
        seen.append(pair)
    assert len(set(seen[: len(train)])) == len(train)  # none again before all have been
    assert training_examples(reader, TASKS[0], settings, end=0) == made
    assert training_examples(reader, TASKS[0], replace(settings, n_examples=5), end=0) == made[:5]
    with pytest.raises(LensFVError, match="100-shot examples of one: its training part has"):
        training_examples(reader, TASKS[0], replace(settings, n_shots=100), end=0)


def test_padding_is_neither_seen_nor_a_target():
    batch = collated([{"input_ids": [1, 2, 3], "labels": [IGNORED, 2, 3]}, {"input_ids": [4], "labels": [4]}], 9)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["labels"].tolist() == [[IGNORED, 2, 3], [4, IGNORED, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_step_on_all_weights_is_the_step_by_hand(model_folder, reader, tmp_path):
    settings = FinetuneConfig(update="full", n_examples=6, batch_size=6, n_checkpoints=1, learning_rate=1e-3)
    found = finetune(model_folder, TASKS[:1], tmp_path / "run", settings)
    (checkpoint,) = found.checkpoints
    hf = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).train()
    losses, targets = [], 0
    plain = replace(reader, prepend_bos=False)  # nor does this folder's tokenizer
    for each in training_examples(plain, TASKS[0], settings, end=reader.tokenizer.eos_token_id):
        ids, labels = torch.tensor(each["input_ids"]), torch.tensor(each["labels"])
        logprobs = hf(ids[None]).logits[0, :-1].log_softmax(-1)
        wanted = labels[1:] != IGNORED
        losses.append(-logprobs[wanted, labels[1:][wanted]].sum())
        targets += int(wanted.sum())
    loss = torch.stack(losses).sum() / targets
    loss.backward()
    torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
    torch.optim.AdamW(hf.parameters(), lr=1e-3, weight_decay=0.0).step()
    saved = load_file(checkpoint.folder / "model.safetensors")
    for name, weight in hf.named_parameters():
        if name in saved:  # tied weights are saved once
            clear = weight.grad.abs() > 1e-5  # Adam's first step is the gradient's sign
            assert clear.any()
            torch.testing.assert_close(saved[name][clear], weight.detach()[clear], atol=2e-5, rtol=0)
    log = json.loads((checkpoint.folder / "trainer_state.json").read_text())["log_history"]
    assert log[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert log[0]["learning_rate"] == 1e-3


def test_checkpoints_are_whole_adapters_in_order(run):
    assert run.finished
    assert [(c.name, c.total, c.last) for c in run.checkpoints] == [
        ("0-one/2", 2, False),
        ("0-one/4", 4, True),
        ("1-two/2", 6, False),
        ("1-two/4", 8, True),
    ]
    assert run.summary() | {"model": "", "tasks": ""} == {
        "model": "",
        "tasks": "",
        "update": "lora",
        "seed": "0",
        "checkpoints": "4",
    }
    assert not list(run.folder.rglob("training_args.bin"))
    assert [c.task for c in run.checkpoints if (c.folder / "optimizer.pt").is_file()] == ["one", "two"]


def test_going_on_changes_nothing_and_other_settings_are_refused(run, model_folder):
    before = written(run.folder)
    finetune(model_folder, TASKS, run.folder, SMALL)
    assert before == written(run.folder)
    with pytest.raises(LensFVError, match=r"made with settings\.rank 2 \(requested: 3\); choose another folder"):
        finetune(model_folder, TASKS, run.folder, replace(SMALL, rank=3))
    with pytest.raises(LensFVError, match="made with tasks "):
        finetune(model_folder, TASKS[:1], run.folder, SMALL)


def updated(folder, checkpoint):
    """The checkpoint as PEFT has it."""
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own, about transformers
        return PeftModel.from_pretrained(hf, checkpoint.folder).eval()


@pytest.mark.parametrize("weight_processing", ["raw", "compat"])
def test_a_switched_model_is_the_checkpoint(run, model_folder, weight_processing):
    model = load_model(model_folder, weight_processing=weight_processing)
    tokens = torch.tensor([[0, 5, 9, 31, 8]])
    base, revision = model.forward(tokens), model.revision
    for checkpoint in (run.checkpoints[1], run.checkpoints[3]):
        switch_to_checkpoint(model, run, checkpoint)
        with torch.no_grad():
            expected = updated(model_folder, checkpoint)(tokens).logits.log_softmax(-1)
        torch.testing.assert_close(model.forward(tokens).log_softmax(-1), expected, atol=2e-5, rtol=1e-4)
        assert float((expected - base.log_softmax(-1)).abs().max()) > 1e-3
        assert checkpoint.name in str(model.revision)
    switch_to_checkpoint(model, run, None)
    assert torch.equal(model.forward(tokens), base)
    assert model.revision == revision


@pytest.mark.parametrize("weight_processing", ["raw", pytest.param("compat", marks=pytest.mark.slow)])
def test_a_model_that_is_interrupted_while_it_is_switched_is_refused_or_whole(run, model_folder, weight_processing):
    model, tokens = load_model(model_folder, weight_processing=weight_processing), torch.tensor([[0, 5, 9, 31, 8]])
    known = {str(model.revision): model.forward(tokens)}
    switch_to_checkpoint(model, run, run.checkpoints[3])
    known[str(model.revision)] = model.forward(tokens)
    counted = Interrupting(among=lambda file, line: file.endswith(("checkpoints.py", "plain.py")))
    counted.run(lambda: switch_to_checkpoint(model, run, None))
    last = {line: i for i, line in enumerate(counted.lines)}
    refused = 0
    for line, i in [*last.items()][-8::2]:
        assert Interrupting(i, among=counted.among).run(lambda: switch_to_checkpoint(model, run, run.checkpoints[3]))
        try:
            assert torch.equal(model.forward(tokens), known[str(model.revision)]), line
        except LensFVError as error:
            assert "were being written when that was interrupted" in str(error)
            refused += 1
        switch_to_checkpoint(model, run, None)
        assert torch.equal(model.forward(tokens), known[str(model.revision)])
    assert refused


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "opt", "gemma3"])
def test_fused_and_other_projections_are_switched_too(huggingface_model, tiny_tokenizer, tmp_path, architecture):
    huggingface_model(architecture).save_pretrained(tmp_path / "model")
    transformers.AutoTokenizer.from_pretrained(tiny_tokenizer).save_pretrained(tmp_path / "model")
    found = finetune(tmp_path / "model", TASKS[:1], tmp_path / "run", replace(SMALL, epochs=1, n_checkpoints=1))
    model = load_model(tmp_path / "model")
    switch_to_checkpoint(model, found, found.checkpoints[0])
    hf, tokens = updated(tmp_path / "model", found.checkpoints[0]), torch.tensor([[0, 5, 9, 31, 8]])
    with torch.no_grad():
        torch.testing.assert_close(model.forward(tokens), hf(tokens).logits, atol=5e-5, rtol=1e-4)


def test_a_mixture_is_trained_at_once_and_exported(model_folder, tmp_path):
    found = finetune(model_folder, TASKS, tmp_path / "run", replace(SMALL, mixed=True))
    assert found.finished
    assert [c.name for c in found.checkpoints] == ["0-mixture/4", "0-mixture/8"]  # 2 epochs of 2 x 8 examples, 4 a step
    assert [task.fingerprint for task in found.load_tasks()] == [task.fingerprint for task in TASKS]
    exported = load_model(export_checkpoint(found, tmp_path / "mixed"))
    model, tokens = load_model(model_folder), torch.tensor([[0, 5, 9, 31, 8]])
    switch_to_checkpoint(model, found, found.checkpoint("0-mixture/8"))
    torch.testing.assert_close(exported.forward(tokens), model.forward(tokens))
    assert exported.name == "mixed"
    with pytest.raises(LensFVError, match=r"export a checkpoint to .*mixed: it is there already"):
        export_checkpoint(found, tmp_path / "mixed")
    with pytest.raises(LensFVError, match=r"checkpoint 3 of the run in .*: it has 0-mixture/4, 0-mixture/8"):
        found.checkpoint("3")


def test_a_mixture_shows_every_task(model_folder, tmp_path, monkeypatch):
    shown = []
    forward = transformers.LlamaForCausalLM.forward

    def seen(self, *args, **kwargs):
        shown.extend(kwargs["input_ids"].tolist())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", seen)
    tasks = [replace(toy_task(name=name), instructions=(name,)) for name in ("first", "second")]
    finetune(model_folder, tasks, tmp_path, replace(SMALL, mixed=True, epochs=1))
    texts = [transformers.AutoTokenizer.from_pretrained(model_folder).decode(ids) for ids in shown]
    turns = [["first" in text for text in texts[i : i + 4]] for i in range(0, 16, 4)]
    assert sum(map(sum, turns)) == 8
    assert len(set(map(sum, turns))) > 1 or {len(set(turn)) for turn in turns} == {2}  # shuffled together


def test_what_cannot_be_switched_to_is_said(run, model_folder, tiny_model, tmp_path):
    with pytest.raises(LensFVError, match=r"switch tiny-llama to .*: that is a run of tiny"):
        switch_to_checkpoint(tiny_model("llama"), run, None)
    model = load_model(model_folder)
    idle = replace(run.checkpoints[0], folder=tmp_path / "idle")
    idle.folder.mkdir()
    for file in run.checkpoints[0].folder.glob("adapter*"):
        (idle.folder / file.name).write_bytes(file.read_bytes())
    weights = load((idle.folder / "adapter_model.safetensors").read_bytes())  # the file itself is written over
    save_file(
        {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in weights.items()}, idle.folder / "adapter_model.safetensors"
    )
    before = model.forward(torch.tensor([[0, 5, 9]]))
    with pytest.raises(LensFVError, match="its weights are those that the run began with"):
        switch_to_checkpoint(model, run, idle)
    (idle.folder / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(LensFVError, match=r"checkpoint 0-one/2 in .*: cannot be read"):
        switch_to_checkpoint(model, run, idle)
    other = {k: v[..., :1] if "lora_A" in k else v for k, v in weights.items()}
    save_file({k: v.contiguous() for k, v in other.items()}, idle.folder / "adapter_model.safetensors")
    with pytest.raises(LensFVError, match=r"checkpoint 0-one/2 in .*: cannot be read"):
        switch_to_checkpoint(model, run, idle)
    assert torch.equal(model.forward(torch.tensor([[0, 5, 9]])), before)


def test_what_cannot_be_trained_is_said(model_folder, tmp_path):
    with pytest.raises(LensFVError, match="fine-tune on 2 tasks: give at least one, and each a name of its own: one, one"):
        finetune(model_folder, [TASKS[0], TASKS[0]], tmp_path)
    with pytest.raises(LensFVError, match=r"rank=0\): it has to be a whole number at least 1"):
        FinetuneConfig(rank=0)
    with pytest.raises(LensFVError, match=r"learning_rate=0\.0"):
        FinetuneConfig(learning_rate=0.0)
    with pytest.raises(LensFVError, match=r"fine-tuning run in .*: no run\.json there"):
        FinetuneRun(tmp_path)
    with pytest.raises(LensFVError, match=r"the loss is .* at step .*; lower the learning rate"):
        finetune(model_folder, TASKS[:1], tmp_path / "wild", replace(SMALL, update="full", learning_rate=1e30))
