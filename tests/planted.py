"""A model made by hand, one head of which reads instructions: what rankings, vectors and verdicts have to find is known.

Head 1 of layer 0 carries the query's word to the last token; head 2 carries which task the instruction names, and only that
head does; the second MLP knows what each word is in each task. A cloze names the task by its last word, without that head.
"""

from collections.abc import Collection
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge

from lens_fv.model import LensModel
from lens_fv.tasks import Pair, Task

HEAD = (0, 2)
N_TASKS, N_WORDS = 3, 30
HALF, D_HEAD, N_HEADS = 104, 52, 4
CONSTANT, LAST, NAMES, WORD, PLACE = range(5)
NAMED, IS, MOVED, ASKED, ANSWER = 5, 8, 38, 68, 71
"""Features of tokens, and where those begin that say which task is named, which word it is; and the same as heads write it."""
SIZE, SCALE = 2.0, (2 * HALF) ** 0.5 / 10
"""Of what heads write; and what layer norm multiplies by, where the constant feature of 10 outweighs the rest."""


def feature(i: int) -> torch.Tensor:
    """A direction of mean zero, so that layer norm only scales it."""
    direction = torch.zeros(2 * HALF)
    direction[i], direction[i + HALF] = 0.5**0.5, -(0.5**0.5)
    return direction


def answer(task: int, word: int) -> int:
    """What a word is in a task."""
    return (word + 7 * task + 1) % N_WORDS


def planted_tasks() -> list[Task]:
    """One for each thing that the model knows of a word."""
    return [
        Task(
            f"task{k}",
            tuple(Pair(f"in{i}", (f"out{answer(k, i)}",)) for i in range(N_WORDS)),
            instructions=(f"Please do{k} it",),
            clozes=(f"{{input}} like{k}",),
        )
        for k in range(N_TASKS)
    ]


def planted_model(folder: Path, *, deaf: bool = False, forgotten: Collection[int] = ()) -> LensModel:
    """The model, as it is, or as something else would have left it; see `planted_weights`."""
    hf = planted_weights(folder, deaf=deaf, forgotten=forgotten)
    bridge = TransformerBridge.boot_transformers(
        "planted", hf_model=hf, tokenizer=transformers.AutoTokenizer.from_pretrained(folder)
    )
    return LensModel.wrap(bridge, name="planted", prepend_bos=True)


def planted_weights(folder: Path, *, deaf: bool = False, forgotten: Collection[int] = ()) -> transformers.GPT2LMHeadModel:
    """The model as transformers has it.

    Args:
        folder: for its tokenizer.
        deaf: its head no longer looks for an instruction.
        forgotten: tasks of which it knows every word's answer wrongly.
    """
    words = ["<bos>", "<unk>", "Q", "A", ":", "it", "Please"]
    words += [f"{kind}{k}" for kind in ("do", "like") for k in range(N_TASKS)]
    words += [f"{kind}{i}" for kind in ("in", "out") for i in range(N_WORDS)]
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(":", "isolated")])
    special = {"bos_token": "<bos>", "eos_token": "<bos>", "pad_token": "<bos>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    config = transformers.GPT2Config(
        vocab_size=len(words),
        n_embd=2 * HALF,
        n_layer=2,
        n_head=N_HEADS,
        n_positions=128,
        activation_function="relu",
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    hf = transformers.GPT2LMHeadModel(config).eval()
    hf.config.architectures = ["GPT2LMHeadModel"]
    with torch.no_grad():
        for weight in hf.parameters():
            if weight.ndim > 1:
                weight.copy_(0.002 * torch.randn_like(weight))
        _embed(hf, ids)
        _read(hf.transformer.h[0].attn, deaf=deaf)
        _know(hf.transformer.h[1].mlp, set(forgotten))
        for i in range(N_WORDS):
            hf.lm_head.weight[ids[f"out{i}"]] += feature(ANSWER + i)
    return hf


def _embed(hf: transformers.GPT2LMHeadModel, ids: dict[str, int]) -> None:
    tokens, places = hf.transformer.wte.weight, hf.transformer.wpe.weight
    tokens += 10 * feature(CONSTANT)
    tokens[ids[":"]] += feature(LAST)
    for k in range(N_TASKS):
        tokens[ids[f"do{k}"]] += feature(NAMES) + feature(NAMED + k)
        tokens[ids[f"like{k}"]] += SIZE * feature(ASKED + k)
    for i in range(N_WORDS):
        tokens[ids[f"in{i}"]] += feature(WORD) + feature(IS + i)
    for i in range(len(places)):
        places[i] += i / len(places) * feature(PLACE)


def _read(attention: torch.nn.Module, *, deaf: bool) -> None:
    """Head 1 looks at the latest word, whoever asks; head 2, asked by the last token, at the latest name of a task."""
    into, out = attention.c_attn.weight, attention.c_proj.weight
    width = 2 * HALF
    for head, asks, looks_for, read, n, written in (
        (1, feature(CONSTANT) / 10, feature(WORD), IS, N_WORDS, MOVED),
        (2, feature(LAST) * (0.0 if deaf else 1.0), feature(NAMES), NAMED, N_TASKS, ASKED),
    ):
        query, key, value = (part * width + head * D_HEAD for part in range(3))
        into[:, query] += 20 * asks
        into[:, key] += 10 * (looks_for + 4 * feature(PLACE))
        for i in range(n):
            into[:, value + 1 + i] += feature(read + i)
            out[head * D_HEAD + 1 + i] += SIZE / SCALE * feature(written + i)


def _know(mlp: torch.nn.Module, forgotten: set[int]) -> None:
    """A unit for each word in each task, on where both are there."""
    for k in range(N_TASKS):
        for i in range(N_WORDS):
            unit = k * N_WORDS + i
            mlp.c_fc.weight[:, unit] += feature(MOVED + i) + feature(ASKED + k)
            mlp.c_fc.bias[unit] = -1.5 * SIZE * SCALE
            known = (answer(k, i) + 1) % N_WORDS if k in forgotten else answer(k, i)
            mlp.c_proj.weight[unit] += 20 * feature(ANSWER + known)
