"""One user at a time, everything put back: whichever line an interrupt lands on, whatever mode, thread or adapter there is."""

import contextlib
import linecache
import re
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import peft
import pytest
import torch
import transformers
from helpers import Interrupting, tokens, toy_task
from torch.nn.utils import parametrizations
from transformer_lens.model_bridge import TransformerBridge

import lens_fv
from lens_fv.core.artefact import Provenance
from lens_fv.errors import LensFVError
from lens_fv.heads import rank_heads
from lens_fv.knowledge.delta import WeightDelta
from lens_fv.knowledge.kl import kl_to_base
from lens_fv.model import LensModel
from lens_fv.model.exclusive import gate_of
from lens_fv.model.plain import own_weights, weights_written, write_weights
from lens_fv.model.quiet import quiet_logs
from lens_fv.patching import Edit, run_branches
from lens_fv.patching.sound import _with_own_attention
from lens_fv.vectors import extract
from lens_fv.vectors.baselines import train_adapter
from lens_fv.vectors.baselines.lora import adapted

PROMPTS = [tokens(9, seed=1), tokens(6, seed=2)]


# -- interrupts ----------------------------------------------------------------------------------------------------------


def everything(model: LensModel) -> dict[str, Any]:
    """All that an exchange could leave behind, in a form that can be compared."""
    tl, original = model.tl, model.tl.original_model
    found: dict[str, Any] = {
        "generation": (model.generation, list(model._placeholders), id(original.generation_config)),
        "attention": original.config._attn_implementation_internal,
        "gradients": torch.is_grad_enabled(),
        "level": getattr(tl, "context_level", 0),
    }
    for root, whole in (("tl", tl), ("original", original)):
        for name, module in whole.named_modules():
            space = vars(module)
            hooks = {key: tuple(space[key]) for key in space if key.endswith("_hooks") and space[key] is not None}
            parts = {key: id(part) for key, part in module._modules.items()}
            found[f"{root} {name}"] = (set(space), id(space.get("forward")), module.training, hooks, parts)
        for name, weight in whole.named_parameters():
            found[f"{root} {name} weight"] = (id(weight), weight.requires_grad, weight.detach().clone())
    return found


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)


def engine(model: LensModel, backend: str) -> object:
    branches = [(), (Edit(1, torch.ones(model.d_head), head=1),), (Edit(0, torch.ones(model.d_model), mode="add"),)]
    return run_branches(model, PROMPTS, branches, backend=backend)


@torch.no_grad()
def own_attention(model: LensModel) -> object:
    return _with_own_attention(model, torch.tensor(PROMPTS[:1]))


def generate(model: LensModel) -> object:
    model.cache_is_right = None  # so that hooks are turned off for the check
    return model.generate(PROMPTS, max_new_tokens=2)


def with_vector(model: LensModel) -> None:
    with model.hooks([("blocks.1.hook_resid_post", lambda x, hook: x + 1)]):
        model.forward(torch.tensor(PROMPTS[:1]))


def with_other_weights(model: LensModel) -> None:
    chosen = list(own_weights(model).items())[3:6]
    with weights_written(model, {name: weight + 1 for name, weight in chosen}):
        model.run_body(torch.tensor(PROMPTS[:1]), [])


def with_adapter(model: LensModel) -> None:
    with adapted(model, peft.LoraConfig(r=1)):
        model.forward(torch.tensor(PROMPTS[:1]))


USES: dict[str, Callable[[LensModel], object]] = {
    "rows": lambda model: engine(model, "rows"),
    "masked": lambda model: engine(model, "masked"),
    "own attention": own_attention,
    "generate": generate,
    "hooks": with_vector,
    "weights": with_other_weights,
    "adapter": with_adapter,
}
EXCHANGING = ("exclusive", "gate", "measuring", "calls", "attention", "cache", "generation", "plain", "lens_model", "lora")


def interrupted_everywhere(model: LensModel, use: Callable[[LensModel], object], *, only: tuple[str, ...], every: int) -> int:
    """Interrupt a use at the first and the last time that it comes to each line, and look whether all is what it was."""
    use(model)  # what is found out once a model, and third parties' imports
    counted = Interrupting()
    counted.run(lambda: use(model))
    at: dict[int, tuple[str, int]] = {}
    for lines in (
        {line: i for i, line in reversed([*enumerate(counted.lines)])},
        dict(map(reversed, enumerate(counted.lines))),
    ):
        at |= {i: line for line, i in lines.items() if not only or Path(line[0]).stem in only}
    wanted = model.forward(torch.tensor(PROMPTS[:1]))  # first: TransformerLens keeps marks of what has fired
    before = everything(model)
    for i in sorted(at)[::every]:
        interrupt = Interrupting(i).run(lambda: use(model))
        assert interrupt is not None, f"no event {i}"
        grad, after = torch.is_grad_enabled(), everything(model)
        torch.set_grad_enabled(True)
        where = f"interrupted at {at[i]}, event {i} of {len(counted.lines)}"
        assert grad and same(before, after), (
            f"{where}: {[key for key in before if not same({0: before[key]}, {0: after.get(key)})]}"
        )
        assert torch.equal(model.forward(torch.tensor(PROMPTS[:1])), wanted), where
    return len(at)


@pytest.mark.parametrize("use", USES)
def test_an_interrupt_leaves_nothing_behind(tiny_model, use):
    model = tiny_model("llama", fresh=True)
    assert interrupted_everywhere(model, USES[use], only=EXCHANGING, every=13) > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use", "architecture", "train"),
    [(use, "llama", False) for use in USES]
    + [(use, "gpt2", True) for use in USES if use != "rows"],  # it is refused on this architecture
)
def test_an_interrupt_at_any_line_leaves_nothing_behind(tiny_model, use, architecture, train):
    model = tiny_model(architecture, fresh=True)
    model.tl.train(train)
    assert interrupted_everywhere(model, USES[use], only=(), every=1) > 20


@pytest.mark.parametrize("use", ["hooks", "weights", "own attention"])
def test_a_block_that_an_interrupt_kept_from_ending_ends_with_the_next_use(tiny_model, use, monkeypatch):
    model, batch = tiny_model("llama", fresh=True), torch.tensor(PROMPTS[:1])
    wanted = model.forward(batch)
    USES[use](model)
    before = everything(model)
    counted = Interrupting(files=contextlib.__file__)
    counted.run(lambda: USES[use](model))
    stuck, n = 0, len(counted.lines)
    begin = contextlib._GeneratorContextManager.__exit__.__code__.co_firstlineno + 1
    ways_out = [i for i, (_, line) in enumerate(counted.lines) if line == begin]
    for i in (*range(0, n, n // 6), *ways_out[-8:]):
        interrupt = Interrupting(i, files=contextlib.__file__).run(lambda: USES[use](model))
        assert interrupt is not None
        stuck += len(gate_of(model)._queue)
        monkeypatch.setattr(sys, "last_traceback", interrupt.__traceback__, raising=False)  # as in an interactive session
        assert torch.equal(model.forward(batch), wanted), (counted.lines[i], i)
        assert same(before, everything(model)), (counted.lines[i], i)
    assert stuck


def test_a_block_that_ends_late_does_not_end_later_ones_in_silence(tiny_model):
    model, batch = tiny_model("llama", fresh=True), torch.tensor(PROMPTS[:1])
    wanted = model.forward(batch)
    counted = Interrupting(files=contextlib.__file__)
    counted.run(lambda: own_attention(model))
    every = range(0, len(counted.lines), 3)
    kept = [Interrupting(i, files=contextlib.__file__).run(lambda: own_attention(model)) for i in every]
    with model.hooks([("blocks.1.hook_resid_post", lambda x, hook: x + 1)]):
        changed = model.forward(batch)
        kept.clear()  # and with them the frames of all blocks that they kept open, which may stand around this one
        with pytest.raises(LensFVError, match="has ended already, together with one that an interrupt had kept open"):
            model.forward(batch)
    with model.hooks([("blocks.1.hook_resid_post", lambda x, hook: x + 1)]):
        assert torch.equal(model.forward(batch), changed)
    assert torch.equal(model.forward(batch), wanted) and not torch.equal(changed, wanted)


def test_blocks_end_from_the_inside(tiny_model):
    model, batch = tiny_model("llama", fresh=True), torch.tensor(PROMPTS[:1])
    wanted = model.forward(batch)
    outer, inner = (model.hooks([(f"blocks.{layer}.hook_resid_post", lambda x, hook: x + 1)]) for layer in (0, 1))
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(LensFVError, match="end a block before the one inside it: both have ended now"):
        outer.__exit__(None, None, None)
    with pytest.raises(LensFVError, match="has ended already"):
        model.forward(batch)
    inner.__exit__(None, None, None)
    assert torch.equal(model.forward(batch), wanted)


def test_half_written_weights_are_refused_until_they_are_written_again(tiny_model):
    model = tiny_model("llama", fresh=True)
    before = {name: weight.clone() for name, weight in own_weights(model).items()}
    wanted = model.forward(torch.tensor(PROMPTS[:1]))
    other = {name: value + 1 for name, value in before.items()}
    fifth = Interrupting(4, among=lambda file, line: linecache.getline(file, line).strip() == "weights[name].copy_(value)")
    assert fifth.run(lambda: write_weights(model, other))
    for use in (with_vector, with_other_weights, lambda model: engine(model, "rows")):
        with pytest.raises(LensFVError, match="were being written when that was interrupted"):
            use(model)
    write_weights(model, before)
    assert torch.equal(model.forward(torch.tensor(PROMPTS[:1])), wanted)


# -- modes ---------------------------------------------------------------------------------------------------------------


def modes(model: LensModel) -> list[bool]:
    return [module.training for module in model.tl.modules()]


def ranked(model: LensModel) -> torch.Tensor:
    return rank_heads(model, toy_task(), n_shots=2, n_clean=3, n_trials=3).effects


MEASURED: dict[str, Callable[[LensModel], Any]] = {
    "ranking": ranked,
    "forward": lambda model: model.forward(torch.tensor(PROMPTS[:1])),
    "text": lambda model: model.generate(PROMPTS, max_new_tokens=4),
    "engine": lambda model: engine(model, "loop"),
    "plain": lambda model: plain_drift(model),
}


def plain_drift(model: LensModel) -> list[float]:
    name = next(name for name in own_weights(model) if name.endswith("mlp.c_proj.weight"))
    provenance = Provenance.of(model, task="toy", task_hash="", prompts=[[1]], seed=0, method="made", options={})
    change = torch.ones_like(own_weights(model)[name])
    return kl_to_base(model, WeightDelta(provenance=provenance, dense={name: change}, down={}, up={}, skipped={}), ["a word"])


@pytest.mark.parametrize("what", MEASURED)
def test_a_model_in_train_mode_is_measured_in_eval_mode_and_put_back(tiny_model, what):
    model = tiny_model("gpt2", fresh=True)  # its configuration has dropout
    wanted = MEASURED[what](model)
    model.tl.train()
    model.tl.blocks[1].eval()  # modes may differ within a model
    before = modes(model)
    got = MEASURED[what](model)
    assert torch.equal(got, wanted) if isinstance(got, torch.Tensor) else got == wanted
    assert modes(model) == before and any(before) and not all(before)


def test_dropout_would_show(tiny_model):
    model = tiny_model("gpt2", fresh=True)
    wanted = model.tl(torch.tensor(PROMPTS[:1]))
    model.tl.train()
    assert not torch.allclose(model.tl(torch.tensor(PROMPTS[:1])), wanted)


# -- threads -------------------------------------------------------------------------------------------------------------


def in_thread(use: Callable[[], Any]) -> "Future[Any]":
    with ThreadPoolExecutor(1, thread_name_prefix="second") as pool:
        return pool.submit(use)


def test_a_thread_is_refused_while_another_has_changed_the_model(tiny_model):
    model = tiny_model("llama", fresh=True)
    again = LensModel.wrap(model.tl, name="again")  # of the same weights
    batch = torch.tensor(PROMPTS[:1])
    wanted = model.forward(batch)
    uses = [
        lambda: model.forward(batch),
        lambda: again.forward(batch),
        lambda: model.generate(PROMPTS),
        lambda: engine(again, "rows"),
        lambda: write_weights(model, {}),
        lambda: with_vector(model),
        lambda: model.unembed(torch.zeros(1, model.d_model)),
    ]
    with model.hooks([("blocks.1.hook_resid_post", lambda x, hook: x + 1)]):
        changed = model.forward(batch)
        for use in uses:
            with pytest.raises(LensFVError, match=r"it has hooks on it in another thread \(MainThread\); wait until"):
                in_thread(use).result()
        assert torch.equal(again.forward(batch), changed)  # the thread that put them on goes on
    assert not torch.equal(changed, wanted)
    for use in uses:
        in_thread(use).result()
    assert torch.equal(in_thread(lambda: again.forward(batch)).result(), wanted)


def test_a_thread_waits_while_another_runs_the_model(tiny_model):
    model = tiny_model("llama", fresh=True)
    first, second = (torch.tensor([row]) for row in PROMPTS)
    wanted = [model.forward(first), model.forward(second)]
    inside, on = Event(), Event()

    order: list[int] = []

    def pause(x: torch.Tensor, hook: Any) -> None:
        inside.set()
        assert on.wait(60)
        order.append(1)

    def go_on(x: torch.Tensor, hook: Any) -> None:
        order.append(2)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(model.forward, first, [("blocks.1.hook_resid_post", pause)])
        assert inside.wait(60)
        other = pool.submit(model.forward, second, [("blocks.0.hook_resid_post", go_on)])
        while len(gate_of(model)._queue) < 2:  # until it waits
            assert not other.done()
        on.set()
        assert torch.equal(one.result(60), wanted[0]) and torch.equal(other.result(60), wanted[1])
    assert order == [1, 2]


def test_threads_measure_what_one_thread_does(tiny_model):
    models = [tiny_model("llama", fresh=True)] * 4
    wanted = ranked(models[0])
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(found, wanted) for found in pool.map(ranked, models))


def test_a_thread_that_ended_in_a_block_does_not_keep_the_model(tiny_model):
    model = tiny_model("llama", fresh=True)
    batch = torch.tensor(PROMPTS[:1])
    wanted, blocks = model.forward(batch), []

    def enter() -> None:
        blocks.append(model.hooks([("blocks.1.hook_resid_post", lambda x, hook: x + 1)]))
        blocks[0].__enter__()

    thread = Thread(target=enter)
    thread.start()
    thread.join()
    assert torch.equal(model.forward(batch), wanted)


# -- adapters ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def booted(tiny_tokenizer) -> Callable[[Any], LensModel]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_tokenizer)

    def boot(hf: Any) -> LensModel:
        bridge = TransformerBridge.boot_transformers("tiny", hf_model=hf, tokenizer=tokenizer)
        return LensModel.wrap(bridge, name="tiny", prepend_bos=True)

    return boot


def with_peft(hf: Any, part: str) -> peft.PeftModel:
    torch.manual_seed(0)
    with quiet_logs():  # PEFT asks transformers by a name that is to go
        return peft.get_peft_model(hf, peft.LoraConfig(r=4, target_modules=[part], init_lora_weights=False))


@pytest.mark.parametrize("part", ["o_proj", "q_proj", "lm_head", "embed_tokens"])
def test_an_adapter_that_is_not_merged_is_refused(huggingface_model, booted, part):
    with pytest.raises(LensFVError, match=rf"{part} has an adapter.*; merge the adapter first"):
        booted(with_peft(huggingface_model("llama"), part).base_model.model)
    merged = with_peft(huggingface_model("llama"), part).merge_and_unload()
    ids = torch.tensor(PROMPTS[:1])
    own = merged(ids).logits
    torch.testing.assert_close(booted(merged).forward(ids), own)


def test_an_adapter_that_is_added_later_is_refused_while_it_is_there(tiny_model):
    model = tiny_model("llama", fresh=True)
    ids, wanted = torch.tensor(PROMPTS[:1]), ranked(model)
    config = peft.LoraConfig(r=2, target_modules=["_original_component"], init_lora_weights=False)
    tuner = peft.LoraModel(model.tl.blocks[1].attn.o, config, "mine")
    z = torch.zeros(1, model.n_heads, model.d_head)
    for use in (lambda: model.forward(ids), lambda: ranked(model), lambda: model.head_write(1, z), lambda: own_weights(model)):
        with pytest.raises(LensFVError, match="o_proj has an adapter"):
            use()
    tuner.unload()
    assert torch.equal(ranked(model), wanted)


def test_parametrized_weights_are_refused(tiny_model):
    model = tiny_model("llama", fresh=True)
    parametrizations.weight_norm(model.tl.blocks[1].attn.o.original_component)
    with pytest.raises(LensFVError, match=r"o_proj is parametrized.*remove_parametrizations"):
        model.forward(torch.tensor(PROMPTS[:1]))


def test_a_vector_extracted_inside_an_own_adapter_is_the_merged_models(tiny_model):
    model, task = tiny_model("llama", fresh=True), toy_task()
    adapter = train_adapter(model, task, n_pairs=4, steps=1)
    adapter = replace(adapter, q_up=torch.randn_like(adapter.q_up), v_up=torch.randn_like(adapter.v_up))

    def extracted() -> torch.Tensor:
        ranking = rank_heads(model, task, n_shots=2, n_clean=3, n_trials=3)
        return extract(model, task, ranking, n_heads=3).vector

    before = extracted()
    with adapter.applied(model):
        found = extracted()
        with pytest.raises(LensFVError, match=r"change the weights of .* inside an adapter"):
            own_weights(model)
    own, merged = own_weights(model), {}
    for at, layer in enumerate(adapter.layers):
        for part in ("q", "v"):
            name = f"model.layers.{layer}.self_attn.{part}_proj.weight"
            merged[name] = own[name] + getattr(adapter, f"{part}_up")[at] @ getattr(adapter, f"{part}_down")[at]
    with weights_written(model, merged):
        wanted = extracted()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, before, atol=1e-3)
    assert torch.equal(extracted(), before)


def test_hooks_and_forwards_are_changed_only_by_the_gate():
    """Everything else would not be undone by `exclusive`; a bridge's cache arguments are mended once and for all."""
    changes = re.compile(r"\.register_(module_)?(full_)?(forward|backward)|\.forward = |\[.forward.\] = |put\(.*, .forward., ")
    root = Path(lens_fv.__file__).parent
    places = {str(file.relative_to(root)) for file in root.rglob("*.py") if changes.search(file.read_text(encoding="utf-8"))}
    assert places == {"model/gate.py", "model/cache.py"}
