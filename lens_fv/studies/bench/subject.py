"""The subject of a benchmark: a model and token ids to run on it."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge

from lens_fv.core.choices import Natural, Seed
from lens_fv.errors import LensFVError
from lens_fv.model import load_model
from lens_fv.model.lens_model import LensModel
from lens_fv.tasks import Task, build_prompts, encode_prompt, split_pairs

if TYPE_CHECKING:
    import pandas as pd

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
    """A model and a prompt for it.

    Attributes:
        model: Model to run.
        prompt: Token ids of the prompt.
    """

    model: LensModel
    prompt: tuple[int, ...]

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


@dataclass(frozen=True)
class BenchResult:
    """What a benchmark measured.

    Attributes:
        measures: Model, hardware, settings and measurements by name; a list of measurements is a table.
    """

    measures: Mapping[str, Any]

    def summary(self) -> dict[str, str]:
        """All single values, as texts by name."""
        single = {name: value for name, value in self.measures.items() if not isinstance(value, list)}
        return {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in single.items()}

    def to_json(self) -> dict[str, Any]:
        """All measures as plain values."""
        return dict(self.measures)

    def to_dataframe(self) -> "pd.DataFrame":
        """The table of measurements, or a table of one line."""
        import pandas as pd

        table = next((value for value in self.measures.values() if isinstance(value, list)), [self.measures])
        return pd.DataFrame(table)


def open_subject(
    name: str,
    task: Task | None = None,
    *,
    n_shots: Natural = 10,
    n_tokens: Annotated[int, Ge(2)] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: Seed = 0,
) -> Subject:
    """Load a model with a few-shot prompt, or build one with random weights.

    Args:
        name: Name of a model, or `random:SHAPE` for random weights in one of `SHAPES`, which needs no download.
        task: Task for the few-shot prompt; None: random tokens.
        n_shots: Number of demonstrations in the prompt.
        n_tokens: Length of a prompt of random tokens; default: a prompt of the task, or 10 random tokens per demonstration.
        device: See `load_model`.
        dtype: See `load_model`.
        seed: Seed of weights, prompt and random tokens.

    Raises:
        LensFVError: the shape is unknown, or the prompt does not fit the model.
    """
    random_weights = name.startswith("random:")
    model = _random_model(name, device, dtype, seed) if random_weights else load_model(name, device=device, dtype=dtype)
    if task is not None and n_tokens is None and not random_weights:
        return Subject(model, few_shot_tokens(model, task, n_shots, seed))
    rng = torch.Generator().manual_seed(seed)
    return Subject(model, tuple(torch.randint(model.d_vocab, (n_tokens or 10 * (n_shots + 1),), generator=rng).tolist()))


def few_shot_tokens(model: LensModel, task: Task, n_shots: int, seed: int) -> tuple[int, ...]:
    """One few-shot prompt of a task, as token ids."""
    split = split_pairs(task, seed=seed)
    return encode_prompt(model, build_prompts(split.validation[:1], split.train, n_shots=n_shots, seed=seed)[0]).tokens


def _random_model(name: str, device: str | None, dtype: str | None, seed: int) -> LensModel:
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    shape = SHAPES.get(name.removeprefix("random:"))
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
