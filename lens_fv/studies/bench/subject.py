"""The subject of a benchmark, a model and what to run it on; and the result."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge

from lens_fv.core.choices import Natural, Seed, checked
from lens_fv.core.results import Record, format_value
from lens_fv.errors import LensFVError
from lens_fv.model import load_model
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Task, build_prompts, encode_prompt, load_task, split_pairs

RANDOM = "random:"
"""Beginning of the names of models with random weights."""
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
                     "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
    "llama-3.2-1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                     "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    "llama-3-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
}  # fmt: skip
"""Llama shapes that can be built with random weights, since speed does not depend on a model's knowledge."""


@dataclass(frozen=True)
class Subject:
    """A model and what to run it on.

    Attributes:
        model: Model to run.
        prompt: Token ids of the prompt.
        task: Task of further prompts; None: random tokens.
    """

    model: LensModel
    prompt: tuple[int, ...] = ()
    task: Task | None = None

    def result(self, **measures: Any) -> "BenchResult":
        """A result measured on this subject, beginning with model and hardware."""
        model = self.model
        facts = {
            "model": model.name,
            "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "cpu",
            "dtype": str(model.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }
        return BenchResult(facts | measures)


@dataclass(frozen=True, repr=False)
class BenchResult(Record):
    """What a benchmark measured.

    Attributes:
        measures: Model, hardware, settings and measurements by name; a list of measurements is a table.
    """

    measures: Mapping[str, Any]

    def records(self) -> list[Mapping[str, Any]]:
        """The table of measurements; without one, all values in one row."""
        return next((value for value in self.measures.values() if isinstance(value, list)), [self.measures])

    def summary(self) -> dict[str, str]:
        """All single values, as texts by name."""
        return {name: format_value(value) for name, value in self.measures.items() if not isinstance(value, list)}


@checked
def open_subject(
    model: str = "smollm2-135m",
    task: Task | str | None = "present-past",
    *,
    n_shots: Natural = 10,
    n_tokens: Annotated[int, Ge(2)] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: Seed = 0,
) -> Subject:
    """Load a model with a few-shot prompt, or build one with random weights.

    Args:
        model: Model, or random:SHAPE for random weights (smollm2-135m, llama-3.2-1b, llama-3-8b), which needs no download.
        task: Task: a built-in relation (`lens-fv tasks` lists them) or a file of pairs; None: prompts of random tokens, as for
            random weights.
        n_shots: Number of demonstrations in the prompt.
        n_tokens: Length of a prompt of random tokens; default: a prompt of the task, or 10 random tokens per demonstration.
        device: See `load_model`.
        dtype: See `load_model`.
        seed: Seed of weights, prompt and random tokens.

    Raises:
        LensFVError: the shape or task is unknown, or the prompt does not fit the model.
    """
    if model.startswith(RANDOM):
        lens_model, task = _random_model(model, device, dtype, seed), None
    else:
        lens_model, task = load_model(model, device=device, dtype=dtype), load_task(task) if isinstance(task, str) else task
    prompt = _random_tokens(lens_model, n_tokens, seed) if n_tokens else few_shot_tokens(lens_model, task, n_shots, seed)
    return Subject(lens_model, prompt, task)


def few_shot_tokens(model: LensModel, task: Task | None, n_shots: int, seed: int) -> tuple[int, ...]:
    """The token ids of a few-shot prompt; without a task, 10 random ones for each demonstration and for the query."""
    if task is None:
        return _random_tokens(model, 10 * (n_shots + 1), seed)
    split = split_pairs(task, seed=seed)
    return encode_prompt(model, build_prompts(split.validation[:1], split.train, n_shots=n_shots, seed=seed)[0]).tokens


def _random_tokens(model: LensModel, n_tokens: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randint(model.d_vocab, (n_tokens,), generator=torch.Generator().manual_seed(seed)).tolist())


def _random_model(name: str, device: str | None, dtype: str | None, seed: int) -> LensModel:
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    shape = SHAPES.get(name.removeprefix(RANDOM))
    if shape is None:
        raise LensFVError(f"build {name}: known shapes are {', '.join(SHAPES)}")
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(seed)
    config = LlamaConfig(**shape, max_position_embeddings=8192, dtype=getattr(torch, dtype or "float32"))
    with target:
        hf = LlamaForCausalLM._from_config(config, dtype=getattr(torch, dtype or "float32")).eval()
    with tempfile.TemporaryDirectory() as folder:  # TransformerLens loads the tokenizer again
        fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<bos>": 0}, unk_token="<bos>")))
        fast.bos_token = fast.eos_token = fast.pad_token = "<bos>"
        fast.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        hf.config.architectures = ["LlamaForCausalLM"]
        bridge = TransformerBridge.boot_transformers(name, hf_model=hf, tokenizer=tokenizer, device=target)
    return LensModel.wrap(bridge, name=name, prepend_bos=False)
