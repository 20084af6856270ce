"""Every architecture family: the plain loop is the Hugging Face model, and the way that is taken is the plain loop."""

from importlib.metadata import version

import pytest
import torch
import transformers
from architectures import CONFIGS, EXPERTS, LLAMA, SIZES
from helpers import toy_task
from packaging.version import Version
from transformer_lens.model_bridge import TransformerBridge

from lens_fv.errors import LensFVError
from lens_fv.heads import rank_heads
from lens_fv.model import LensModel, load_model
from lens_fv.model.plain import plain_model, weights_written
from lens_fv.patching import Branch, Edit, check_engine, run_branches, verify

EXPECTED = {
    "gpt2": "masked",
    "gpt_bigcode": "masked",
    "gptj": "masked",
    "neo": "batched",  # its windows go by index
    "neox": "masked",
    "opt": "rows",
    "bloom": "masked",
    "mpt": "batched",  # so do its ALiBi distances
    "falcon_alibi": "masked",
    "falcon": "masked",
    "phi": "rows",
    "phi3": "masked",
    "llama": "rows",
    "llama4": "rows",
    "mistral": "rows",
    "mixtral": "rows",
    "qwen2": "rows",
    "qwen3": "rows",
    "gemma2": "rows",
    "gemma3": "rows",
    "olmo2": "rows",
    "stablelm": "rows",
    "granite": "rows",
    "cohere": "rows",
    "gpt_oss": "masked",
    "falcon_h1": "batched",  # a state that runs through all tokens
    "qwen3_next": "batched",
    "lfm2": "batched",
    "deepseek_v3": "masked",
    "gemma4": "rows",
    "mamba": "loop",  # transformers keeps its past elsewhere
}
"""The way that each takes: a silent fall-back to a slower one is an error."""
LAYERS_WITH_HEADS = {"qwen3_next": (1,), "lfm2": (1,), "deepseek_v3": (), "gemma4": (0, 1), "mamba": ()}
"""Layers with heads of the size that hook_z is cut into; in all others every layer has them."""
FLAWS = {
    # Transformers' default counts the distances once, its eager attention and TransformerLens' twice
    "falcon_alibi": ["TransformerLens' attention is that of transformers", "greedy text is transformers' own"],
    "deepseek_v3": ["there are attention heads"],
    "mamba": ["there are attention heads"],
}
"""What `verify` has to find."""
if Version(version("transformers")) >= Version("5.24"):
    EXPECTED |= {"gptj": "rows"}
TL3 = version("transformer-lens").startswith("3.")
if TL3:
    # MPT without its keys and values, Cohere with Llama's rotations; ALiBi is wrong in another way with a cache, and the
    # recurrent layers of Qwen 3 Next ask transformers for what it no longer has when they run without one
    EXPECTED |= {"mpt": "loop", "cohere": "masked"}
    cached, (attention, own) = "greedy text with the cache is the text without it", FLAWS["falcon_alibi"]
    FLAWS |= {
        "qwen3_next": [cached],
        "mpt": [cached, "branches equal the plain loop"],
        "cohere": [attention, own],
        "falcon_alibi": [attention, cached, own],
    }


REFUSED = tuple(name for name, flaws in FLAWS.items() if "TransformerLens' attention is that of transformers" in flaws)
"""What is measured on these would be another model's."""


@pytest.fixture(params=EXPECTED)
def family(request):
    return request.param


@pytest.fixture(params=[name for name in EXPECTED if name not in REFUSED])
def sound(request):
    """A family that branches run on."""
    return request.param


def tokens(n: int, seed: int) -> list[int]:
    return torch.randint(1, 320, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def wrapped(hf, tiny_tokenizer) -> LensModel:
    """A transformers model as a user would hand it over."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_tokenizer)
    return LensModel.wrap(TransformerBridge.boot_transformers("tiny", hf_model=hf, tokenizer=tokenizer), name="tiny")


def attention_layers(family: str) -> tuple[int, ...]:
    return LAYERS_WITH_HEADS.get(family, (0, 1, 2))


def output_projection(model, hf, layer):
    """The Hugging Face module that reads what a layer's heads put out."""
    attn = model.tl.blocks[layer].attn
    return hf.get_submodule(f"{model.tl.adapter.component_mapping['blocks'].name}.{layer}.{attn.name}.{attn.o.name}")


def edits(model, family: str, n_prompts: int) -> list[tuple[Edit, ...]]:
    """Every mode at every place, at the last token and before it, for all prompts alike and one by one."""
    rng = torch.Generator().manual_seed(3)

    def noise(width: int, *prompts: int) -> torch.Tensor:
        return torch.randn(*prompts, width, generator=rng)

    d, d_head = model.d_model, model.d_head
    made: list[tuple[Edit, ...]] = [
        (),
        (Edit(0, noise(d), mode="replace"),),
        (Edit(1, noise(d), mode="add", position=-3),),
        (Edit(2, noise(d, n_prompts), mode="add"),),
        (Edit(1, torch.tensor(0.0), mode="scale", position=(2, 5, 0)),),
        (Edit(0, noise(d), site="resid_pre", mode="add", position=0),),
    ]
    for layer in attention_layers(family):
        made += [
            (Edit(layer, noise(d_head), head=layer),),
            (Edit(layer, noise(d_head, n_prompts), head=3, mode="add", position=-3), Edit(layer, noise(d), site="mlp_out")),
        ]
    for layer in attention_layers(family)[:1]:
        made += [
            (Edit(layer, torch.tensor(-1.5), head=0, mode="scale", position=(2, 5, 0)),),
            (Edit(layer, noise(d), site="attn_out", mode="add", position=-3), Edit(layer, noise(d_head), head=2), made[3][0]),
            (Edit(layer, noise(d), site="mlp_out", mode="scale"),),
        ]
    return made


def test_the_loop_is_the_models_own_forward(tiny_model, huggingface_model, sound):
    """Without an edit, and with a head replaced in front of the output projection by a hook of PyTorch's."""
    family = sound
    model, hf, prompt = tiny_model(family), huggingface_model(family, attn_implementation="eager"), tokens(13, 5)
    value, rng = {}, torch.Generator().manual_seed(6)
    branches: list[list[Edit]] = [[]]
    for layer in attention_layers(family):
        value[layer] = torch.randn(model.d_head, generator=rng)
        branches.append([Edit(layer, value[layer], head=layer, position=-3)])
    states = run_branches(model, [prompt], branches, backend="loop")[0, :, 0]

    def wanted() -> torch.Tensor:
        with torch.no_grad():
            return hf(torch.tensor([prompt]), use_cache=False).logits[0, -1]

    want = [wanted()]
    for layer in attention_layers(family):

        def put(module, args, layer=layer):
            z = args[0].clone()
            z.view(1, len(prompt), model.n_heads, model.d_head)[0, -3, layer] = value[layer]
            return (z,)

        handle = output_projection(model, hf, layer).register_forward_pre_hook(put)
        want.append(wanted())
        handle.remove()
    torch.testing.assert_close(model.unembed(states), torch.stack(want), atol=1e-4, rtol=1e-4)


def test_writing_behind_the_mlp_is_writing_to_the_residual_stream(tiny_model, sound):
    family, model = sound, tiny_model(sound)
    if family == "mamba":
        with pytest.raises(LensFVError, match="no hook_mlp_out"):
            run_branches(model, [[1, 2]], [[Edit(0, torch.zeros(model.d_model), site="mlp_out")]])
        return
    if family == "gemma4":
        pytest.skip("its layers scale the residual stream behind what they add")
    v = torch.randn(model.d_model, generator=torch.Generator().manual_seed(7))
    behind = [[Edit(1, v, site=site, mode="add", position=-2)] for site in ("mlp_out", "resid_post")]
    mlp, resid = run_branches(model, [tokens(9, 8)], behind, backend="loop")[0]
    torch.testing.assert_close(mlp, resid, atol=1e-5, rtol=1e-5)


def test_the_expected_way_is_taken_and_named(tiny_model, family):
    findings = verify(tiny_model(family))
    assert findings[-1].detail.startswith(f"{EXPECTED[family]}: "), findings[-1]
    assert [finding.check for finding in findings if not finding.passed] == FLAWS.get(family, []), findings


def test_it_equals_the_loop(tiny_model, sound):
    """Prompts of several lengths, longer than the windows, with answers of several tokens."""
    family = sound
    model, prompts = tiny_model(family), [tokens(17, 0), tokens(9, 1), tokens(4, 2)]
    answers = (tuple(tokens(2, 3)), (7,), tuple(tokens(3, 4)))
    branches = [Branch(made, tokens=answers) for made in edits(model, family, len(prompts))]
    fast, slow = (run_branches(model, prompts, branches, backend=backend) for backend in ("auto", "loop"))
    for got, want, answer in zip(fast, slow, answers, strict=True):
        torch.testing.assert_close(got[:, : len(answer)], want[:, : len(answer)], atol=2e-4, rtol=2e-4)


def test_rows_may_be_more_than_the_context_holds(tiny_model, sound):
    """Models that count tokens by index would take the later rows for later tokens."""
    family = sound
    if EXPECTED[family] == "loop":
        pytest.skip("every row is a sequence of its own")
    model, prompts = tiny_model(family), [tokens(17, 0), tokens(9, 1)]
    rng = torch.Generator().manual_seed(9)
    few = [[], [Edit(0, torch.randn(model.d_model, generator=rng), position=-3)]]
    few += [
        [Edit(layer, torch.randn(model.d_head, generator=rng), head=1, position=-3)] for layer in attention_layers(family)[:1]
    ]
    once = run_branches(model, prompts, few)
    again = run_branches(model, prompts, few * 60)  # at least 360 tokens; the context is 256
    torch.testing.assert_close(again, once.repeat(1, 60, 1, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", REFUSED)
def test_an_attention_that_is_not_transformers_own_is_refused(tiny_model, family):
    for backend in ("auto", "loop", "masked"):
        with pytest.raises(LensFVError, match="attention that TransformerLens runs is not transformers' own"):
            run_branches(tiny_model(family), [[1, 2]], [()], backend=backend)


class TwoLayerHead(torch.nn.Module):
    """A head with one more layer before its unembedding, which TransformerLens does not see."""

    def __init__(self, unembedding: torch.nn.Linear) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(unembedding.in_features, unembedding.in_features)
        self.weight, self.bias = unembedding.weight, None

    def forward(self, x):
        return torch.nn.functional.linear(torch.nn.functional.gelu(self.dense(x)), self.weight)


def test_a_head_with_more_layers_is_refused_at_its_first_use(tiny_tokenizer, huggingface_model):
    """Whichever backend is named, and once: a sound model is not asked again."""
    hf = huggingface_model("llama")
    hf.lm_head = TwoLayerHead(hf.lm_head)
    model = wrapped(hf, tiny_tokenizer)
    for backend in ("auto", "rows", "loop"):
        with pytest.raises(LensFVError, match=r"last state through norm and unembedding \(off by 0\..*lens-fv verify"):
            run_branches(model, [tokens(5, 0)], [()], backend=backend)
    with pytest.raises(LensFVError, match="last state through norm"):
        rank_heads(model, toy_task(), n_shots=2, n_clean=1, n_trials=1)
    failed = [finding.check for finding in verify(model) if not finding.passed]
    assert "last state through norm and unembedding gives the logits" in failed


def test_a_modernbert_decoder_is_refused(tiny_tokenizer):
    """Its head has a dense layer and a norm before the unembedding."""
    if not hasattr(transformers, "ModernBertDecoderConfig") or TL3:
        pytest.skip("TransformerLens 3 does not boot it")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.ModernBertDecoderConfig(max_position_embeddings=256, local_attention=6, **sizes, **SIZES)
    torch.manual_seed(0)
    hf = transformers.ModernBertDecoderForCausalLM(config).eval()
    for weight in hf.parameters():
        weight.data = 0.2 * torch.randn_like(weight) + (weight.ndim == 1)
    hf.config.architectures = [type(hf).__name__]
    with pytest.raises(LensFVError, match="last state through norm and unembedding"):
        run_branches(wrapped(hf, tiny_tokenizer), [tokens(5, 0)], [()], backend="rows")


def test_a_soft_cap_that_transformerlens_leaves_out_is_refused(tiny_tokenizer):
    """Gemma 3 with Gemma 2's cap on attention, whichever way is named."""
    config = CONFIGS["gemma3"]()
    config.attn_logit_softcapping, config.initializer_range = 3.0, 0.2
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    hf.config.architectures = [type(hf).__name__]
    model = wrapped(hf, tiny_tokenizer)
    for backend in ("auto", "rows", "masked", "batched", "loop"):
        with pytest.raises(LensFVError, match="attention that TransformerLens runs is not transformers' own"):
            run_branches(model, [tokens(9, 0)], [()], backend=backend)


@pytest.mark.parametrize(
    ("family", "dtype"), [("llama", torch.float64), ("gpt2", torch.float32), ("neo", torch.float32), ("mamba", torch.float64)]
)
def test_a_way_that_is_named_is_right_or_refused(tiny_model, family, dtype):
    model, prompts = tiny_model(family, fresh=dtype == torch.float64), [tokens(17, 0), tokens(9, 1)]
    model.tl.to(dtype)
    rng = torch.Generator().manual_seed(0)
    branches = [Branch(tokens=(5, 6)), Branch((Edit(1, torch.randn(model.d_model, generator=rng), mode="add", position=-2),))]
    want = run_branches(model, prompts, branches, backend="loop")[:, :, 0]
    ran = []
    for backend in ("rows", "masked", "batched"):
        try:
            found = run_branches(model, prompts, branches, backend=backend)[:, :, 0]
        except LensFVError as e:
            assert f"branch tiny-{family} by {backend!r}: " in str(e) and "leave the backend out" in str(e)
            continue
        ran.append(backend)
        torch.testing.assert_close(found, want, atol=2e-4 if dtype == torch.float32 else 1e-5, rtol=1e-4)
    if dtype == torch.float32:
        assert (EXPECTED[family] in ran) or EXPECTED[family] == "loop"


def decoder(config) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config.initializer_range = config.init_std = 0.2
    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    hf.config.architectures = [type(hf).__name__]
    return hf


@pytest.mark.skipif(TL3, reason="TransformerLens 3 does not boot it")
def test_an_attention_that_goes_on_with_a_view(tiny_tokenizer):
    """Afmoe's is particular about the order in memory."""
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "num_dense_layers": 1, "moe_intermediate_size": 24}
    sizes = {**LLAMA, **SIZES, "head_dim": 8, "sliding_window": 6, "layer_types": layers}
    model = wrapped(decoder(transformers.AfmoeConfig(**experts, **sizes)), tiny_tokenizer)
    assert [finding for finding in verify(model) if not finding.passed] == []
    branches = [[Edit(layer, torch.ones(8), head=0)] for layer in range(3)]
    fast, slow = (run_branches(model, [tokens(9, 0)], branches, backend=backend) for backend in ("rows", "loop"))
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(TL3, reason="TransformerLens 3 does not boot them")
@pytest.mark.parametrize("name", ["jetmoe", "nemotron_h"])
def test_heads_that_transformerlens_does_not_expose_are_not_denied(tiny_tokenizer, name):
    made = {
        "jetmoe": lambda: transformers.JetMoeConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_key_value_heads=2, kv_channels=8, **EXPERTS, **SIZES
        ),
        "nemotron_h": lambda: transformers.NemotronHConfig(
            **{**LLAMA, **SIZES, "num_hidden_layers": 3},
            head_dim=8,
            hybrid_override_pattern="M*-",
            mamba_num_heads=4,
            mamba_head_dim=8,
            n_groups=1,
            ssm_state_size=8,
            chunk_size=8,
        ),
    }
    model = wrapped(decoder(made[name]()), tiny_tokenizer)
    said = r"has attention heads, but TransformerLens exposes no output of 8 numbers for each"
    with pytest.raises(LensFVError, match=f"rank heads of tiny: it {said}"):
        rank_heads(model, toy_task(), n_shots=2, n_clean=1, n_trials=1)
    with pytest.raises(LensFVError, match=f"its layer 1 {said}"):
        run_branches(model, [[1, 2]], [[Edit(1, torch.zeros(8), head=0)]])


def test_a_bridge_that_lacks_a_part_is_named_by_its_architecture(tiny_tokenizer):
    """OPT's smallest: norms behind each layer, and none at the end."""
    config = CONFIGS["opt"]()
    config.do_layer_norm_before = False
    with pytest.raises(LensFVError, match="wrap a bridge to OPTForCausalLM: TransformerLens gives it no ln_final"):
        wrapped(decoder(config), tiny_tokenizer)


def test_a_configuration_that_cannot_be_booted_is_one_line(tiny_tokenizer, tmp_path):
    """TransformerLens' assertions have no text of their own, or one that is worth reading."""
    for name, change, said in [
        ("neox", {"attention_bias": False}, "cannot boot the model in .*: AssertionError in split_qkv_matrix of neox.py"),
        ("gpt_bigcode", {"multi_query": False}, "cannot boot the model in .*only supports multi_query=True"),
    ]:
        config = CONFIGS[name]()
        for key, value in change.items():
            setattr(config, key, value)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
        transformers.AutoTokenizer.from_pretrained(tiny_tokenizer).save_pretrained(tmp_path / name)
        with pytest.raises(LensFVError, match=said):
            load_model(tmp_path / name)


def test_a_sound_model_is_asked_once(tiny_model):
    model, whole = tiny_model("llama", fresh=True), []
    handle = model.tl.original_model.register_forward_pre_hook(lambda *_: whole.append(1))
    for _ in range(2):
        run_branches(model, [tokens(5, 0)], [()], backend="loop")
    handle.remove()
    assert len(whole) == 4  # two passes for the model, one for each branch


@pytest.mark.parametrize("family", LAYERS_WITH_HEADS)
def test_a_layer_without_heads_is_named(tiny_model, family):
    model = tiny_model(family)
    layer = next(layer for layer in range(3) if layer not in LAYERS_WITH_HEADS[family])
    hidden = family in ("deepseek_v3", "gemma4")
    said = r"has attention heads, but TransformerLens exposes no output of \d+ numbers" if hidden else "has no attention heads"
    with pytest.raises(LensFVError, match=f"layer {layer} {said}"):
        run_branches(model, [[1, 2, 3]], [[Edit(layer, torch.zeros(model.d_head), head=0)]])


def test_a_mask_by_index_is_refused_however_wide_its_window(tiny_model):
    """The check is on few rows, which a wide window would not cut."""
    model = tiny_model("neo", fresh=True)
    for block in model.tl.blocks:
        mask = block.attn.original_component.bias
        mask.copy_(torch.ones_like(mask).tril())
    assert check_engine(model).backend == "batched"


@torch.no_grad()
def test_the_plain_model_is_transformers_own_and_its_weights_are_the_models(tiny_model, huggingface_model, family):
    # Some releases of transformers let Gemma 2 take scaled dot-product attention, which leaves out its soft caps.
    options = {"attn_implementation": "eager"} if family == "gemma2" else {}
    model, hf = tiny_model(family, fresh=True), huggingface_model(family, **options)
    plain, ids = plain_model(model), torch.tensor([tokens(9, seed=1)])
    torch.testing.assert_close(plain(ids).logits, hf(ids).logits, rtol=0, atol=2e-5)
    own = model.forward(ids)
    for parameter in hf.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    changed = hf(ids).logits
    with weights_written(model, dict(hf.named_parameters())):
        torch.testing.assert_close(plain(ids).logits, changed, rtol=0, atol=2e-5)
        if "TransformerLens' attention is that of transformers" not in FLAWS.get(family, ()):
            torch.testing.assert_close(model.forward(ids), changed, rtol=0, atol=2e-5)
    assert torch.equal(model.forward(ids), own)
