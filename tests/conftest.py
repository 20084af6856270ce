"""Tiny random models of every architecture family, built from configurations: offline, and small enough for an oracle."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformer_lens.model_bridge import TransformerBridge

from lens_fv.model import LensModel

VOCAB = 320
SIZES = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
NEOX = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
CONFIGS: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "gpt2": lambda: transformers.GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=256, **SIZES),
    "neox": lambda: transformers.GPTNeoXConfig(rotary_pct=0.5, **NEOX, **SIZES),
    "llama": lambda: transformers.LlamaConfig(**LLAMA, **SIZES),
    # d_head x n_heads is not d_model here, as in the real Qwen 3 and Gemma 3
    "qwen3": lambda: transformers.Qwen3Config(head_dim=16, **LLAMA, **SIZES),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        head_dim=16, sliding_window=6, sliding_window_pattern=2, query_pre_attn_scalar=16, **LLAMA, **SIZES
    ),
    "mistral": lambda: transformers.MistralConfig(sliding_window=6, **LLAMA, **SIZES),
    "opt": lambda: transformers.OPTConfig(
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=256,
        word_embed_proj_dim=32,
        **SIZES,
    ),
    "phi": lambda: transformers.PhiConfig(partial_rotary_factor=0.5, **NEOX, **SIZES),
}


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a byte-level tokenizer: TransformerLens wants one that has been saved and reloaded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Q: walk\nA: walked\n\nQ: talk\nA: talked\n\n"], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<bos>", pad_token="<bos>"
    )
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: Path) -> Callable[..., LensModel]:
    """`tiny_model("llama")`: a random model of that family (built once), wrapped; `fresh=True` builds another."""
    built: dict[str, LensModel] = {}

    def build(architecture: str = "llama", *, fresh: bool = False, seed: int = 0) -> LensModel:
        if architecture in built and not fresh:
            return built[architecture]
        torch.manual_seed(seed)
        config = CONFIGS[architecture]()
        config.initializer_range = config.init_std = 0.2  # so that attention and heads do something
        hf = transformers.AutoModelForCausalLM.from_config(config).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_tokenizer)
        hf.config.architectures = [type(hf).__name__]
        bridge = TransformerBridge.boot_transformers(f"tiny-{architecture}", hf_model=hf, tokenizer=tokenizer)
        model = LensModel.wrap(bridge, name=f"tiny-{architecture}", prepend_bos=True)
        if not fresh:
            built[architecture] = model
        return model

    return build


@pytest.fixture(scope="session")
def model_folder(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Llama, as a user would have one."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]()).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(params=list(CONFIGS))
def any_model(request: pytest.FixtureRequest, tiny_model: Callable[..., LensModel]) -> LensModel:
    """A tiny random model of every family in turn."""
    return tiny_model(request.param)
