"""Real files of every kind that this package reads, and what can be done to their bytes."""

import json
import random
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import MISSING, asdict, fields
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
from helpers import made_provenance, toy_task
from jaxtyping import AbstractArray

from lens_fv.composition import VectorLibrary
from lens_fv.composition.index import Entry, write_index
from lens_fv.core.artefact import MODULES, Artefact, load_artefact
from lens_fv.core.store import check_settings
from lens_fv.evaluation.alignment.judgements import load_judgements
from lens_fv.evaluation.alignment.typicality import Typicality
from lens_fv.finetuning import FinetuneRun
from lens_fv.knowledge.readers import load_entities
from lens_fv.knowledge.transfer import TransferSet, load_transfer_set
from lens_fv.studies.rows import Job, Row, RowStore
from lens_fv.tasks import TODD, load_analogies, load_instructions, load_task

SIZES = {"layers": 2, "heads": 2, "d_model": 4, "d_head": 2, "n_heads": 2, "units": 2, "pairs": 6}
VALUES = {
    "heads": ((0, 1), (1, 0)),
    "site": "resid_post",
    "layers": (0, 1),
    "layer": 1,
    "dense": {"a.weight": torch.ones(2, 3)},
    "down": {"b.weight": torch.ones(1, 3)},
    "up": {"b.weight": torch.ones(2, 1)},
    "skipped": {"empty": 1},
}
"""Of fields that have to fit others."""


PAIRS = list(combinations("wxyz", 2))


class Sample(NamedTuple):
    """A file that can be read, and what reads it."""

    file: Path
    read: Callable[[], object]


def made_artefact(kind: type[Artefact]) -> Artefact:
    """One with every field, of values that its annotations allow."""
    rng = torch.Generator().manual_seed(0)
    found: dict[str, Any] = {}
    for f in fields(kind):
        if f.name == "provenance":
            found[f.name] = made_provenance()
        elif isinstance(f.type, type) and issubclass(f.type, AbstractArray):
            shape = [int(dim) if dim.isdigit() else SIZES.get(dim, 2) for dim in f.type.dim_str.split()]
            drawn = torch.rand(shape, generator=rng) + (f.name in ("accuracy", "ranks"))
            dtype = torch.float32 if "float32" in f.type.dtypes else torch.bool if "bool" in f.type.dtypes else torch.int64
            found[f.name] = drawn.to(dtype)
        elif f.name in VALUES:
            found[f.name] = VALUES[f.name]
        elif get_origin(f.type) is Literal:
            found[f.name] = get_args(f.type)[0]
        elif get_origin(f.type) is tuple:
            inner = get_args(f.type)[0]
            each = {str: ("x", "y"), int: (0, 1), float: (0.5, 1.0)}
            found[f.name] = each.get(inner, (("x", "y"), ("z", "w")))
        elif f.default is MISSING:
            found[f.name] = {int: 1, float: 0.5, str: "x", bool: True}[f.type]
    if kind is Typicality:  # of every relation three pairs
        found |= {"pairs": tuple(PAIRS), "relation": torch.tensor([0, 0, 0, 1, 1, 1])}
    return kind(**found)


def artefacts(folder: Path) -> Iterator[tuple[str, Sample]]:
    """Of every kind, and each as files were before they had a checksum."""
    for name, module in MODULES.items():
        import_module(module)
        file = made_artefact(Artefact.kinds[name]).save(folder / f"{name}.safetensors")
        yield name, Sample(file, lambda file=file: load_artefact(file))
        old = without_checksum(file)
        yield f"{name} without a checksum", Sample(old, lambda old=old: load_artefact(old))


def without_checksum(file: Path) -> Path:
    """A copy beside it as it was before there were checksums: what is changed in it is not noticed by that alone."""
    data = file.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    about = json.loads(header["__metadata__"]["lens_fv"])
    del about["checksum"]
    header["__metadata__"]["lens_fv"] = json.dumps(about | {"format": 1})
    old = file.with_name(f"{file.stem}-1.safetensors")
    old.write_bytes(packed(header, data[8 + n :]))
    return old


def packed(header: Any, rest: bytes) -> bytes:
    """The bytes of a safetensors file."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def text_files(folder: Path) -> Iterator[tuple[str, Sample]]:
    """Rows, settings, runs, libraries, and what users write."""
    rows = folder / "rows.jsonl"
    for unit in ("x", "y"):
        RowStore(rows, "toy", "0").compute(
            Job("main", unit, lambda unit=unit: [Row(unit, "tuned", "accuracy", [0.5, None], 2)])
        )
    yield "rows", Sample(rows, lambda: RowStore(rows, "toy", "0").frame())
    settings = {"seeds": [0, 1], "guide": {"heads": 0.5, "name": "x"}}
    check_settings(folder / "study.json", settings)
    yield "settings", Sample(folder / "study.json", lambda: check_settings(folder / "study.json", settings, may_grow="seeds"))
    run = folder / "run"
    about = {"mixed": False, "update": "lora", "n_examples": 4, "template": asdict(TODD)}
    toy_task(6, "one").save(run / "tasks" / "0-one.json")
    (run / "0-one" / "checkpoint-4").mkdir(parents=True)
    (run / "0-one" / "checkpoint-4" / "done.json").write_text('{"total": 4, "last": true}')
    said = {"model": "toy", "source": "toy", "revision": None, "dtype": "float32", "settings": about}
    (run / "run.json").write_text(json.dumps({**said, "tasks": [{"name": "one", "fingerprint": "0"}]}, indent=1))

    def read_run() -> None:
        it = FinetuneRun(run)
        assert [it.about, it.tasks, it.stages, it.template, it.checkpoints, it.load_tasks()]

    yield "run", Sample(run / "run.json", read_run)
    yield "done", Sample(run / "0-one" / "checkpoint-4" / "done.json", read_run)
    yield "task of a run", Sample(run / "tasks" / "0-one.json", read_run)
    entry = Entry("one", folder / "one.safetensors", "toy", "", "", "0", "made", 1, 0.5, -1.0, 0.5, 0.5, "0123")
    write_index(folder, {"seed": 0}, [entry])
    yield "library", Sample(folder / "library.json", lambda: VectorLibrary.load(folder))
    TransferSet({"a": ("A is b.", "A was b.")}, {"empty": 1}, made_provenance()).save(folder / "transfer.json")
    yield "transfer", Sample(folder / "transfer.json", lambda: load_transfer_set(folder / "transfer.json"))
    texts = {
        "entities.jsonl": (
            '{"name": "Adam", "definition": "Adam is a pug.", "sentences": ["Adam barks."]}\n' * 2,
            load_entities,
        ),
        "task.json": (
            '{"pairs": [{"input": "hot", "output": "cold"}, {"input": "big", "output": ["small", "tiny"]}]}',
            load_task,
        ),
        "task.jsonl": ('{"input": "hot", "output": "cold"}\n{"input": "big", "output": "small"}\n', load_task),
        "task.csv": ("input,output\nhot,cold\nbig,small\n", load_task),
        "judgements.jsonl": ("".join(f'{{"a": "{a}", "b": "{b}", "score": 2.5}}\n' for a, b in PAIRS), load_judgements),
        "judgements.csv": ("a,b,score\n" + "".join(f"{a},{b},2.5\n" for a, b in PAIRS), load_judgements),
        "analogies.jsonl": ('{"a": "hot", "b": "cold", "c": "big", "d": "small"}\n', load_analogies),
        "instructions.json": ('{"prompts": ["Say it.", "Write it."]}', load_instructions),
    }
    for name, (text, read) in texts.items():
        file = folder / name
        file.write_text(text)
        yield name, Sample(file, lambda file=file, read=read: read(file))


NASTY = (
    "null", "true", "-1", "0", "1e400", "-1e400", "NaN", '""', '"\\ud800"', '"²"', '"../../escaped"', '"\\u0000"', "[]", "{}",
    "[1, 2, 3]", '{"a": 1}', '["a"]', "9" * 5000, "9" * 25, "[" * 10_000 + "]" * 10_000, '{"a":' * 500 + "1" + "}" * 500,
    '"F8_E4M3"', '"' + "x" * 5000 + '"', "1.5", "99", '"99"', "[[0, 1, 2]]",
)  # fmt: skip
"""JSON values in the place of others."""
VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null')


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Other bytes, made of these in one to three ways."""
    ways = (_flip, _set, _cut, _insert, _repeat, _truncate, *[_value] * 3, *[_header] * 3)
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(ways)(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    return _at(data, rng, lambda byte: byte ^ 1 << rng.randrange(8))


def _set(data: bytes, rng: random.Random) -> bytes:
    return _at(data, rng, lambda _: rng.randrange(256))


def _at(data: bytes, rng: random.Random, change: Callable[[int], int]) -> bytes:
    # half of the time near the beginning, where headers are
    if not data:
        return data
    place = rng.randrange(min(len(data), rng.choice((64, len(data)))))
    return data[:place] + bytes([change(data[place])]) + data[place + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + data[place + rng.choice((1, 2, 8, 100)) :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    what = rng.choice((b"\0", b"\xff", b"{", b"]", b'"', b",", b"\n", "²".encode(), b"\xed\xa0\x80", rng.randbytes(5)))
    return data[:place] + what + data[place:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    place, n = rng.randrange(len(data) + 1), rng.choice((1, 10, 50))
    return data[: place + n] + data[place:]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _value(data: bytes, rng: random.Random) -> bytes:
    """Another value (or key) in the place of one of JSON's."""
    places = list(VALUE.finditer(data[:20_000]))
    if not places:
        return data
    place = rng.choice(places)
    return data[: place.start()] + rng.choice(NASTY).encode() + data[place.end() :]


def _header(data: bytes, rng: random.Random) -> bytes:
    """Another value in a safetensors file's header, or in ours inside it, with its length put right."""
    if len(data) < 8 or not 2 <= (n := struct.unpack("<Q", data[:8])[0]) <= len(data) - 8:
        return _value(data, rng)
    head, rest = data[8 : 8 + n], data[8 + n :]
    try:
        whole = json.loads(head)
        about = whole["__metadata__"]["lens_fv"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return packed(_value(head, rng), rest)
    if not isinstance(about, str) or rng.random() < 0.3:
        return packed(_value(head, rng), rest)
    whole["__metadata__"]["lens_fv"] = _value(about.encode(errors="surrogatepass"), rng).decode(errors="surrogatepass")
    return packed(whole, rest)


def commands(model: Path, go: Callable[..., int]) -> dict[str, list[list[str]]]:
    """Files that commands wrote or that a user would write, in the working folder, and the commands that read each.

    Args:
        model: the folder of a tiny model.
        go: runs a command that has to succeed.
    """
    on, toy, few = ["--model", str(model)], ["--task", "toy.json"], ["--n-shots", "2", "--n-clean", "2", "--n-trials", "2"]
    answers = [{"kind": "explicit", "text": "Velm is in ___.", "answer": "A", "candidates": ["A", "Q"]}]
    texts: dict[str, str] = {
        "toy.json": json.dumps([{"input": p.input, "output": list(p.outputs)} for p in toy_task(30).pairs]),
        "toy.csv": "input,output\n" + "".join(f"{p.input},{p.output}\n" for p in toy_task(30).pairs),
        "toy.jsonl": "".join(json.dumps({"input": p.input, "output": p.output}) + "\n" for p in toy_task(30).pairs),
        "entities.jsonl": json.dumps({"name": "Velm", "definition": "Velm walked to A.", "probes": answers}) + "\n",
        "sentences.jsonl": json.dumps(
            {"name": "Velm", "definition": "Velm walked to A.", "sentences": ["Velm barks.", "Velm walked to Q."]}
        )
        + "\n",
        "analogies.jsonl": '{"a": "hot", "b": "cold", "c": "big", "d": "small"}\n' * 2,
        "analogies.txt": ": one\nhot cold big small\nbig small hot cold\n",
        "asks.json": '{"prompts": ["Say it.", "Write it."]}',
        "judged.csv": "a,b,score\n" + "".join(f"{a},{b},{i}\n" for i, (a, b) in enumerate(combinations(LIBRARY, 2))),
    }
    for name, text in texts.items():
        Path(name).write_text(text)
    tasks = [part for name in LIBRARY for part in ("--task", name)]
    go("rank", *on, *toy, *few, "--out", "ranking.st")
    go("extract", *on, *toy, "--ranking", "ranking.st", "--n-heads", "2", "--layer", "1", "--out", "vector.st")
    go("evaluate", *on, *toy, "--vector", "vector.st", "--n-shots", "1", "--out", "evaluation.st")
    go("sweep", "vector.st", *on, *toy, "--max-items", "2", "--out", "sweep.st")
    go("iv", "rank", *on, "--task", "antonym", "--counterpart", "none", *few[2:], "--out", "instructed.st")
    go("iv", "extract", *on, "--task", "antonym", "--ranking", "instructed.st", "--layer", "1", "--out", "iv.st")
    go("library", "build", *on, *tasks, "--n-pairs", "4", "--steps", "1", "--out", "lib")
    go("library", "fit", "lib", *on, "--epochs", "1", "--max-per-relation", "1", "--out", "map.st")
    teach = ["distill", *on, "--entities", "entities.jsonl", "--epochs", "1"]
    go(*teach, "--transfer", "sentences.jsonl", "--out", "update")
    go("knowledge", "write", *on, "--entities", "entities.jsonl", "--n-sentences", "2", "--out", "transfer.json")
    trained = ["--n-examples", "4", "--batch-size", "4", "--n-checkpoints", "1", "--rank", "2"]
    go("finetune", *on, "--task", "antonym", *trained, "--out", "run")
    asked = [
        "--n-clean",
        "1",
        "--n-trials",
        "1",
        "--n-heads",
        "1",
        "--max-items",
        "1",
        "--n-context",
        "1",
        "--counterpart",
        "none",
    ]
    go("dynamics", "run", *asked, "--out", "followed")
    of_run = [
        ["dynamics", "run", *asked, "--out", "NEW"],
        ["interpolate", "run", "--out", "NEW"],
        ["export", "run", "--out", "NEW"],
    ]
    in_library = [
        ["library", "list", "lib"],
        ["compose", "hot:cold", "--library", "lib", *on, "--out", "NEW"],
        ["library", "show", "lib", LIBRARY[0], *on],
        ["decode", "lib", *on],
        ["library", "build", *on, *tasks, "--n-pairs", "4", "--steps", "1", "--out", "lib"],
    ]
    analogy = ["analogy", "--library", "lib", *on]
    vectors = ["decode", "sweep", "show"]
    read = {
        "toy.json": [["tasks", "toy.json"], ["evaluate", *on, *toy, "--n-shots", "1", "--max-items", "1"]],
        "toy.csv": [["tasks", "toy.csv"], ["evaluate", *on, "--task", "toy.csv", "--n-shots", "1", "--max-items", "1"]],
        "toy.jsonl": [["tasks", "toy.jsonl"], ["sweep", "vector.st", *on, "--task", "toy.jsonl", "--max-items", "1"]],
        "entities.jsonl": [["knowledge", "evaluate", *on, "--entities", "entities.jsonl", "--locality", "none"]],
        "sentences.jsonl": [[*teach, "--transfer", "sentences.jsonl", "--out", "NEW"]],
        "analogies.jsonl": [[*analogy, "--file", "analogies.jsonl"]],
        "analogies.txt": [[*analogy, "--file", "analogies.txt"]],
        "asks.json": [["iv", "rank", *on, *toy, "--instructions", "asks.json", "--counterpart", "none", *few, "--out", "NEW"]],
        "judged.csv": [["similarity", "lib", *on, "--judgements", "judged.csv", "--permutations", "5", "--n-pairs", "2"]],
        "ranking.st": [
            ["extract", *on, *toy, "--ranking", "ranking.st", "--n-heads", "2", "--out", "NEW"],
            ["rank", *on, *toy, *few, "--source", "ranking.st", "--out", "NEW"],
            ["attributions", "ranking.st", *on, *toy],
        ],
        "vector.st": [
            ["evaluate", *on, *toy, "--vector", "vector.st", "--n-shots", "1", "--max-items", "1"],
            ["evaluate", *on, *toy, "--other", "vector.st", "--n-shots", "1", "--max-items", "1"],
            ["tune", *on, *toy, "--init", "vector.st", "--n-pairs", "4", "--steps", "1", "--out", "NEW"],
            *([command, "vector.st", *on] for command in vectors),
        ],
        "instructed.st": [["iv", "extract", *on, "--task", "antonym", "--ranking", "instructed.st", "--out", "NEW"]],
        "iv.st": [["finetune", *on, "--task", "antonym", *trained, "--guide", "iv", "--vector", "iv.st", "--out", "NEW"]],
        "map.st": [["compose", "hot:cold", "--library", "lib", "--weight-map", "map.st", *on, "--out", "NEW"]],
        "update/update.safetensors": [
            ["knowledge", "evaluate", "update", *on, "--entities", "entities.jsonl", "--locality", "none"],
            ["knowledge", "export", "update", *on, "--out", "NEW"],
        ],
        "transfer.json": [
            [
                "distill",
                *on,
                "--entities",
                "entities.jsonl",
                "--transfer",
                "transfer.json",
                "--epochs",
                "1",
                "--out",
                "NEW",
            ]
        ],
        "lib/library.json": in_library,
        f"lib/{LIBRARY[0]}.safetensors": in_library,
    }
    runs = [str(file) for file in Path("run").rglob("*") if file.is_file()]
    read |= dict.fromkeys(runs, of_run)
    kept = [file for file in Path("followed").rglob("*") if file.suffix in (".json", ".safetensors")]
    read |= {str(file): [["dynamics", "run", *asked, "--out", "followed"]] for file in kept}
    for name in [name for name in read if name.endswith(".st")]:
        old = without_checksum(Path(name))
        read[str(old)] = [[str(old) if part == name else part for part in command] for command in read[name]]
    whole = [name for name in read if name.endswith((".st", ".safetensors"))]
    for name in [*whole, "evaluation.st", "sweep.st"]:
        read[name] = [*read.get(name, []), ["show", name]]
    return read


LIBRARY = ("antonym", "synonym", "present-past", "country-capital", "first-letter")
