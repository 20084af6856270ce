"""How commands leave when something stops them: output that cannot be written, full disks, interrupts, kills."""

import contextlib
import io
import json
import multiprocessing
import os
import re
import resource
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from helpers import toy_task
from planted import planted_tasks, planted_weights
from test_commands import commands
from test_knowledge_cli import ROWS

from lens_fv.cli.app import execute
from lens_fv.cli.leaving import INTERRUPTED, UNREAD

COMMANDS = {
    "finetune": "finetune --task TOY --n-examples 12 --batch-size 4 --n-checkpoints 3 --rank 2 --model TINY --out OUT",
    "library": "library build --task TOY --task antonym --n-pairs 4 --steps 3 --model TINY --out OUT",
    "distill": "distill --entities ROWS --epochs 2 --batch-size 2 --n-sentences 2 --model TINY --out OUT",
    "dynamics": "dynamics RUN --n-clean 2 --n-trials 2 --n-heads 2 --max-items 3 --n-context 1 --counterpart none --out OUT",
    "universal": "universal --task TASK0 --task TASK1 --instruction 'Please do0 it' --corruption instruction --n-shots 0 "
    "--n-clean 2 --n-trials 2 --model PLANTED --folder OUT",
    "reproduce": """reproduce instruction --set 'sequences={"both": ["TASK0", "TASK1"]}' --set n_heads=2 --quick """
    "--model PLANTED --run-dir OUT --out PAGE",
}
"""All that go on where they were stopped; what is written in capitals, `ModelSource` knows."""
RANK = ["rank", "--task", "toy.json", "--n-shots", "2", "--n-clean", "2", "--n-trials", "2"]
DISK = {"os.rename", "os.mkdir", "os.remove", "open"}
"""Between two of these nothing changes on the disk."""
_stops: list[Callable[[str, tuple[Any, ...]], None]] = []


def _heed(event: str, arguments: tuple[Any, ...]) -> None:
    if _stops and event in DISK:
        _stops[-1](event, arguments)


sys.addaudithook(_heed)  # which cannot be removed


@contextlib.contextmanager
def stopping(act: Callable[[], object], *, at: int, inside: Path) -> Iterator[list[str]]:
    """Do something when the disk is about to change in a folder for the so manieth time; what has changed until then."""
    seen: list[str] = []

    def heed(event: str, arguments: tuple[Any, ...]) -> None:
        change = f"{event} {arguments[:2]}"
        writes = event != "open" or any(letter in str(arguments[1]) for letter in "wax+")
        if str(inside) in change and writes:
            seen.append(change)
            if len(seen) == at + 1:
                act()

    _stops.append(heed)
    try:
        yield seen
    finally:
        _stops.pop()


@contextlib.contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """A disk that has no more room for any one file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def one_line(message: str) -> str:
    (line,) = [line for line in message.splitlines() if line.startswith("lens-fv: ")]
    assert "Traceback" not in message
    return line


def artefacts(folder: Path) -> dict[str, bytes]:
    """What a run, a library, a study holds."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.safetensors"))}


class Place:
    """Where commands run; and what each makes and how often it changes the disk, if nothing stops it."""

    def __init__(self, there: Path, model_folder: Path) -> None:
        self.there = there
        self.words = {"TINY": str(model_folder), "ROWS": str(there / "rows.jsonl"), "PAGE": str(there / "page")}
        (there / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
        self.words["PLANTED"] = str(there / "planted")
        planted_weights(there / "planted").save_pretrained(there / "planted")
        for name, task in zip(("TOY", "TASK0", "TASK1"), (toy_task(), *planted_tasks()), strict=False):
            self.words[name] = str(task.save(there / f"{task.name}.json"))

    def arguments(self, command: str, out: Path) -> list[str]:
        if "RUN" in COMMANDS[command]:
            self.unbroken("finetune")
        line = COMMANDS[command]
        for word, meant in (self.words | {"OUT": str(out), "RUN": str(self.there / "finetune")}).items():
            line = re.sub(rf"\b{word}\b", meant, line)
        return shlex.split(line)

    @lru_cache  # noqa: B019
    def unbroken(self, command: str) -> tuple[dict[str, bytes], int]:
        out = self.there / command
        with stopping(lambda: None, at=0, inside=out) as changes:
            assert execute(self.arguments(command, out)) == 0
        return artefacts(out), len(changes)


@pytest.fixture(scope="module")
def place(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"), model_folder)


def killed_at(at: int, inside: Path, arguments: list[str]) -> None:
    """What the process of `kill` does."""
    with stopping(lambda: os.kill(os.getpid(), signal.SIGKILL), at=at, inside=inside):
        sys.exit(execute(arguments))


def kill(at: int, inside: Path, arguments: list[str]) -> int | None:
    """A process that runs a command and is killed when the disk is about to change; its exit code."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__, "lens_fv.finetuning", "lens_fv.studies"])  # imported once for all of them
    process = processes.Process(target=killed_at, args=(at, inside, arguments))
    process.start()
    process.join()
    return process.exitcode


SOME = pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
FIFTY = pytest.mark.parametrize("share", [i / 50 for i in range(50)])


@pytest.mark.parametrize("command", ["finetune", "library"])
@SOME
def test_an_interrupt_says_what_was_kept_and_the_same_command_goes_on(place, tmp_path, capsys, command, share):
    whole, changes = place.unbroken(command)
    out = tmp_path / "mine"
    arguments = place.arguments(command, out)
    capsys.readouterr()
    with stopping(lambda: signal.raise_signal(signal.SIGINT), at=int(share * changes), inside=out):
        code = execute(arguments)
    printed, message = capsys.readouterr()
    assert (code, printed) == (INTERRUPTED, "")
    assert one_line(message).startswith("lens-fv: interrupted; ")
    if out.exists():
        assert one_line(message).endswith(f"what was finished is in {out}, and the same command resumes from there")
    assert execute(arguments) == 0
    assert artefacts(out) == whole


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@FIFTY
def test_fifty_interrupts(place, tmp_path, capsys, command, share):
    test_an_interrupt_says_what_was_kept_and_the_same_command_goes_on(place, tmp_path, capsys, command, share)


@pytest.mark.parametrize(("command", "share"), [("finetune", 0.3), ("finetune", 0.7), ("dynamics", 0.7)])
def test_what_was_killed_goes_on(place, tmp_path, command, share):
    whole, changes = place.unbroken(command)
    out = tmp_path / "mine"
    arguments = place.arguments(command, out)
    assert kill(int(share * changes), out, arguments) == -signal.SIGKILL
    before = {file: file.stat().st_mtime_ns for file in out.glob("measurements/*.safetensors")}
    assert execute(arguments) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert artefacts(out) == whole


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@FIFTY
def test_fifty_kills(place, tmp_path, command, share):
    test_what_was_killed_goes_on(place, tmp_path, command, share)


def test_where_nothing_goes_on_it_is_not_said(run, tmp_path):
    with stopping(lambda: signal.raise_signal(signal.SIGINT), at=0, inside=tmp_path / "r.safetensors"):
        code, printed, message = run(*RANK, "--out", str(tmp_path / "r.safetensors"))
    assert (code, printed) == (INTERRUPTED, "")
    expected = "lens-fv: interrupted; every file that was written is complete, and the same command starts over"
    assert one_line(message) == expected
    assert not (tmp_path / "r.safetensors").exists()


@SOME
def test_a_full_disk_is_one_line_and_nothing_is_lost(place, tmp_path, capsys, share, command="finetune"):
    whole, _ = place.unbroken(command)
    room = int(share * max(map(len, whole.values())))
    out = tmp_path / "mine"
    arguments = place.arguments(command, out)
    capsys.readouterr()
    with files_of_at_most(room):
        code = execute(arguments)
    printed, message = capsys.readouterr()
    assert (code, printed) == (2, "")
    assert "File too large" in one_line(message) or "could not be written whole" in one_line(message)
    assert execute(arguments) == 0
    assert artefacts(out) == whole


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@FIFTY
def test_fifty_full_disks(place, tmp_path, capsys, command, share):
    test_a_full_disk_is_one_line_and_nothing_is_lost(place, tmp_path, capsys, share, command)


def test_a_full_disk_leaves_no_half_file(run, tmp_path):
    with files_of_at_most(500):
        code, printed, message = run(*RANK, "--out", "r.safetensors")
    assert (code, printed) == (2, "")
    assert one_line(message) == "lens-fv: write r.safetensors: File too large; choose a folder that can be written to"
    assert [file.name for file in tmp_path.iterdir()] == ["toy.json"]


@pytest.fixture
def printed_to(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`printed_to(stream, "tasks")`: exit code, and standard error, where standard output is something else."""

    def print_to(stream: Any, *arguments: str) -> tuple[int, str]:
        with monkeypatch.context() as there, stream:
            there.setattr(sys, "stdout", stream)
            return execute(list(arguments)), capsys.readouterr().err

    return print_to


@pytest.mark.parametrize("arguments", [("tasks",), ("tasks", "--json"), ("--help",), ("rank", "--help"), ("--version",)])
def test_standard_output_that_is_full_is_one_line(printed_to, arguments):
    code, message = printed_to(os.fdopen(os.open("/dev/full", os.O_WRONLY), "w"), *arguments)
    assert code == 2
    assert "standard output: No space left on device" in one_line(message)


def test_files_are_written_where_standard_output_is_full(printed_to, tmp_path):
    code, message = printed_to(
        os.fdopen(os.open("/dev/full", os.O_WRONLY), "w"), "tasks", "antonym", "--out", str(tmp_path / "it.json")
    )
    assert (code, "what it wrote to files is complete" in one_line(message)) == (2, True)
    assert json.loads((tmp_path / "it.json").read_text())["name"] == "antonym"


@pytest.mark.parametrize("arguments", [("tasks",), ("tasks", "--json")])
def test_a_pipe_that_nobody_reads_is_left_quietly(printed_to, arguments):
    read, write = os.pipe()
    os.close(read)
    assert printed_to(os.fdopen(write, "w"), *arguments) == (UNREAD, "")


def test_ascii_is_enough(printed_to):
    stream = io.BytesIO()
    stream.close = lambda: None  # type: ignore[method-assign]
    assert printed_to(io.TextIOWrapper(stream, "ascii"), "tasks", "country-capital", "--json") == (0, "")
    cities = [city for pair in json.loads(stream.getvalue().decode("ascii"))["pairs"] for city in pair["output"]]
    assert not all(map(str.isascii, cities))
    stream.seek(0)
    stream.truncate()
    assert printed_to(io.TextIOWrapper(stream, "ascii"), "tasks", "country-capital") == (0, "")
    assert "Yaound\\xe9" in stream.getvalue().decode("ascii")


def test_no_standard_output_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert execute(["tasks"]) == 0


def parts(annotation: Any) -> Iterator[tuple[type, list[Any]]]:
    """The number types that an annotation allows, also in a sequence, with their bounds."""
    if get_origin(annotation) is Annotated and get_args(annotation)[0] in (int, float):
        kind, *bounds = get_args(annotation)
        yield kind, bounds
    elif annotation in (int, float):
        yield annotation, []
    else:
        for inside in get_args(annotation):
            yield from parts(inside)


def numbers() -> Iterator[tuple[str, type, list[Any]]]:
    """Every option of every command that is a number: the words that give it, its type and its bounds."""
    for name, command in commands().items():
        for option in command.options.values():
            for kind, bounds in dict(parts(option.annotation)).items():
                yield f"{name} --{option.name.replace('_', '-')}", kind, bounds


NUMBERS = list({(words.split()[-1], kind, repr(bounds)): (words, kind, bounds) for words, kind, bounds in numbers()}.values())
"""One command for each option and range, because a range is stated once, where the option is defined."""
POSITIONAL = {"attributions": 1, "sweep": 1, "decode": 1, "show": 1, "dynamics": 1, "interpolate": 1, "export": 1}
POSITIONAL |= {"similarity": 1, "compose": 1, "library show": 2, "library fit": 1, "knowledge export": 1}
"""Number of arguments that a command cannot do without."""


@pytest.mark.parametrize(("words", "kind", "bounds"), NUMBERS, ids=[words for words, *_ in NUMBERS])
def test_numbers_out_of_range_are_one_line(words, kind, bounds, capsys):
    *command, flag = words.split()
    command += ["relational"] * (command == ["reproduce"])
    needs_library = command[0] in ("compose", "analogy")
    command += ["x"] * POSITIONAL.get(" ".join(command), 0) + ["--library", "x"] * needs_library
    wrong = ["many"] if kind is float else ["many", "1.5"]
    for bound in bounds:
        wrong += [f"{at - 1}" for key in ("ge", "gt") if (at := getattr(bound, key, None)) is not None and abs(at) < 2**32]
        wrong += [f"{at + 1}" for key in ("le", "lt") if (at := getattr(bound, key, None)) is not None and at <= 2**32]
    assert bounds, "an option that is a number has a range"
    for value in wrong:
        assert execute([*command, flag, value]) == 2
        assert flag in one_line(capsys.readouterr().err)


def test_the_numbers_are_many():
    assert len(NUMBERS) > 50
    assert len(list(numbers())) > 150


def test_choices_are_named_with_the_nearest(capsys):
    assert execute(["rank", "--metric", "logprobs"]) == 2
    line = one_line(capsys.readouterr().err)
    choices = 'Choose from: "prob", "logprob", "logit", "logit_diff". Did you mean "logprob"?'
    assert line == f'lens-fv: Invalid value "logprobs" for --metric. {choices}'


def test_commands_and_options_are_named_with_the_nearest(capsys):
    assert execute(["rnak"]) == 2
    assert 'Unknown command "rnak". Did you mean "rank"?' in one_line(capsys.readouterr().err)
    assert execute(["rank", "--n-trails", "3"]) == 2
    assert one_line(capsys.readouterr().err) == "lens-fv: Unknown option: --n-trails. Did you mean --n-trials?"
    assert execute(["library"]) == 2
    assert "lens-fv library COMMAND" in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_one_line(run):
    code, printed, error = run("tune", "--learning-rate", "inf", "--task", "toy.json")
    assert (code, printed) == (2, "")
    assert one_line(error) == "lens-fv: --learning-rate inf: it has to be a finite number above 0"
    code, printed, error = run("finetune", "--learning-rate", "inf", "--task", "toy.json")
    assert (code, printed) == (2, "")
    assert one_line(error) == "lens-fv: --learning-rate inf: it has to be a finite number above 0"
