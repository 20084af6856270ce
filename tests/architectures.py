"""Tiny random models of every architecture family, built from configurations: offline, and small enough for an oracle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB = 320
WINDOW = 6
"""Shorter than the tests' prompts, where a family has an attention window."""
SIZES = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
GPT = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}
NEOX = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
LLAMA = {**NEOX, "num_key_value_heads": 2}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
CONFIGS: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "gpt2": lambda: transformers.GPT2Config(**GPT, **SIZES),
    # one key and value head for all query heads
    "gpt_bigcode": lambda: transformers.GPTBigCodeConfig(multi_query=True, **GPT, **SIZES),
    "gptj": lambda: transformers.GPTJConfig(rotary_dim=4, **GPT, **SIZES),
    # the window is a buffer of the attention module, cut by key index
    "neo": lambda: transformers.GPTNeoConfig(
        hidden_size=32,
        intermediate_size=48,
        num_layers=3,
        num_heads=4,
        attention_types=[[["global", "local", "global"], 1]],
        window_size=WINDOW,
        max_position_embeddings=256,
        **SIZES,
    ),
    "neox": lambda: transformers.GPTNeoXConfig(rotary_pct=0.5, **NEOX, **SIZES),
    "opt": lambda: transformers.OPTConfig(
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=256,
        word_embed_proj_dim=32,
        **SIZES,
    ),
    # ALiBi, three ways to pass it
    "bloom": lambda: transformers.BloomConfig(hidden_size=32, n_layer=3, n_head=4, **SIZES),
    "mpt": lambda: transformers.MptConfig(d_model=32, n_layers=3, n_heads=4, expansion_ratio=2, max_seq_len=256, **SIZES),
    "falcon_alibi": lambda: transformers.FalconConfig(
        alibi=True, multi_query=False, parallel_attn=False, new_decoder_architecture=False, **NEOX, **SIZES
    ),
    "falcon": lambda: transformers.FalconConfig(alibi=False, multi_query=True, new_decoder_architecture=False, **NEOX, **SIZES),
    "phi": lambda: transformers.PhiConfig(partial_rotary_factor=0.5, **NEOX, **SIZES),
    "phi3": lambda: transformers.Phi3Config(sliding_window=WINDOW, **LLAMA, **SIZES),
    "llama": lambda: transformers.LlamaConfig(**LLAMA, **SIZES),
    "llama4": lambda: transformers.Llama4TextConfig(
        head_dim=8, num_local_experts=2, intermediate_size_mlp=48, attention_chunk_size=8, **LLAMA, **SIZES
    ),
    "mistral": lambda: transformers.MistralConfig(sliding_window=WINDOW, **LLAMA, **SIZES),
    "mixtral": lambda: transformers.MixtralConfig(**EXPERTS, **LLAMA, **SIZES),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA, **SIZES),
    # d_head x n_heads is not d_model here, as in the real Qwen 3 and Gemma 3
    "qwen3": lambda: transformers.Qwen3Config(head_dim=16, **LLAMA, **SIZES),
    "gemma2": lambda: transformers.Gemma2Config(
        head_dim=16,
        sliding_window=WINDOW,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=0.5,
        **LLAMA,
        **SIZES,
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        head_dim=16, sliding_window=WINDOW, sliding_window_pattern=2, query_pre_attn_scalar=16, **LLAMA, **SIZES
    ),
    "olmo2": lambda: transformers.Olmo2Config(**LLAMA, **SIZES),
    "stablelm": lambda: transformers.StableLmConfig(
        partial_rotary_factor=0.5, use_parallel_residual=True, qk_layernorm=True, **LLAMA, **SIZES
    ),
    # scaled embeddings, attention, residuals and logits
    "granite": lambda: transformers.GraniteConfig(
        embedding_multiplier=2.0, attention_multiplier=0.3, residual_multiplier=0.5, logits_scaling=3.0, **LLAMA, **SIZES
    ),
    "cohere": lambda: transformers.CohereConfig(logit_scale=0.25, **LLAMA, **SIZES),
    # attention sinks
    "gpt_oss": lambda: transformers.GptOssConfig(head_dim=16, sliding_window=WINDOW, **EXPERTS, **LLAMA, **SIZES),
    # attention beside a Mamba mixer in every block
    "falcon_h1": lambda: transformers.FalconH1Config(
        head_dim=8,
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_n_groups=1,
        mamba_d_state=8,
        mamba_chunk_size=8,
        lm_head_multiplier=0.5,
        **LLAMA,
        **SIZES,
    ),
    # attention in the middle layer only
    "qwen3_next": lambda: transformers.Qwen3NextConfig(
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        **LLAMA,
        **SIZES,
    ),
    "lfm2": lambda: transformers.Lfm2Config(layer_types=["conv", "full_attention", "conv"], **LLAMA, **SIZES),
    # heads that put out more numbers (8) than TransformerLens thinks (4)
    "deepseek_v3": lambda: transformers.DeepseekV3Config(
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        num_key_value_heads=4,
        **NEOX,
        **SIZES,
    ),
    # larger ones in the last layer
    "gemma4": lambda: transformers.Gemma4TextConfig(
        head_dim=16,
        global_head_dim=32,
        sliding_window=WINDOW,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=VOCAB,
        **LLAMA,
        **SIZES,
    ),
    # none at all
    "mamba": lambda: transformers.MambaConfig(hidden_size=32, num_hidden_layers=3, state_size=8, **SIZES),
}
COMMON = ("gpt2", "neox", "llama", "qwen3", "gemma3", "mistral", "opt", "phi")
"""What most tests run on; `tests/patching/test_architectures.py` takes all."""


def random_weights(architecture: str, seed: int = 0, **options: Any) -> transformers.PreTrainedModel:
    """The Hugging Face model behind `tiny_model(architecture)`, before TransformerLens has changed it in place."""
    torch.manual_seed(seed)
    config = CONFIGS[architecture]()
    config.initializer_range = config.init_std = 0.2  # so that attention and heads do something
    hf = transformers.AutoModelForCausalLM.from_config(config, **options).eval()
    for weight in hf.parameters():
        if weight.ndim == 1:  # biases and gains, which are not 0 and 1 once trained
            weight.data += 0.1 * torch.randn_like(weight)
    hf.config.architectures = [type(hf).__name__]
    return hf


def write_tokenizer(folder: Path) -> Path:
    """A byte-level tokenizer: TransformerLens wants one that has been saved and reloaded."""
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
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<bos>", pad_token="<bos>"
    )
    fast.save_pretrained(folder)
    return folder


def write_llama(folder: Path) -> Path:
    """A tiny random Llama and its tokenizer."""
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]()).save_pretrained(folder)
    return write_tokenizer(folder)
