"""What a tiny random model can be asked, and what can be done to it."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import lens_fv
from lens_fv.core.artefact import Provenance
from lens_fv.patching import Edit
from lens_fv.tasks import Pair, Task

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def toy_task(n: int = 40, name: str = "toy") -> Task:
    """`n` short made-up pairs, some with two acceptable answers."""
    words = [LETTERS[i % 26] + LETTERS[(7 * i + 3) % 26] for i in range(2 * n)]
    words = list(dict.fromkeys(f"{word}{i}" for i, word in enumerate(words)))
    pairs = [Pair(words[2 * i], (words[2 * i + 1], "x") if i % 5 == 0 else (words[2 * i + 1],)) for i in range(n)]
    return Task(name, tuple(pairs), relation_words=("letter",), instructions=("Say it.",))


def made_provenance(**changes) -> Provenance:
    """Of a model with 2 layers of 2 heads, 4 wide."""
    about = {
        "model": "toy",
        "revision": None,
        "weight_processing": "raw",
        "dtype": "float32",
        "prepend_bos": True,
        "shape": (2, 2, 4, 2),
        "task": "toy",
        "task_hash": "0",
        "prompts_hash": "0",
        "seed": 0,
        "method": "made",
        "options": {"a": (1, 2), "b": None},
        "versions": {"lens-fv": "0"},
        "fingerprint": "0123456789abcdef",
    }
    return Provenance(**{**about, **changes})


def written(folder: Path) -> dict[Path, int]:
    """When each file below a folder was last written; left out are locks, which some releases of filelock touch."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


def tokens(n: int, seed: int, vocab: int = 320) -> list[int]:
    """Token ids that no tokenizer made."""
    return torch.randint(1, vocab, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def edits(model) -> list[tuple[Edit, ...]]:
    """Every kind of edit: all heads, all places, modes and layers, several at once, early ones, ones that meet."""
    rng = torch.Generator().manual_seed(3)

    def edit(layer: int, **options) -> Edit:
        width = model.d_model if options.get("head") is None else model.d_head
        return Edit(layer, torch.randn(width, generator=rng), **options)

    layers, modes = range(model.n_layers), ("replace", "add", "scale")
    heads = [(edit(layer, head=head, mode=modes[head % 3]),) for layer in layers for head in range(model.n_heads)]
    sites = [
        (edit(layer, site=site, mode=mode),)
        for layer in layers
        for site in ("resid_pre", "resid_post", "attn_out", "mlp_out")
        if f"blocks.{layer}.hook_{site}" in model.hook_names
        for mode in modes
    ]
    early = [
        (edit(0, head=1, position=-4),),
        (edit(1, site="resid_pre", position=-2, mode="add"), edit(2, head=0)),
        (edit(1, head=0, position=0), edit(0, head=2, position=-3, mode="scale")),
    ]
    twice = [
        (edit(1, head=1, mode="add"), edit(1, head=1, mode="scale"), edit(1, head=1, mode="add")),
        (edit(2, mode="add"), edit(2, site="resid_pre", mode="add"), edit(2), Edit(2, torch.tensor(0.5), mode="scale")),
    ]
    return [(), *heads, *sites, *early, *twice, (edit(2, head=1, mode="add"), *heads[0], *sites[2])]


class Interrupting:
    """Raises KeyboardInterrupt at the n-th line event in lens_fv, as if the user had pressed Ctrl-C there; counts them all.

    Args:
        n: which; None: none.
        among: the lines that count, by file and number.
        files: what the names of their files begin with.
    """

    def __init__(
        self,
        n: int | None = None,
        *,
        among: Callable[[str, int], bool] = lambda file, line: True,
        files: str = str(Path(lens_fv.__file__).parent),
    ) -> None:
        self._n, self.among, self._files = n, among, files
        self.lines: list[tuple[str, int]] = []

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(self._files) else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        at = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and self.among(*at):
            self.lines.append(at)
            if len(self.lines) - 1 == self._n:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line

    def run(self, use: Callable[[], object]) -> BaseException | None:
        before = sys.gettrace()
        try:
            sys.settrace(self)
            use()
        except KeyboardInterrupt as interrupt:
            return interrupt  # with the frames that it went through, as an interactive session keeps it
        finally:
            sys.settrace(before)
        return None
