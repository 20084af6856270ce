"""The command `lens-fv`: its subcommands and error handling."""

import logging
import re
import signal
import sys
from typing import Annotated, Any

import typer

from lens_fv.cli import (
    analogies,
    bench_training,
    following,
    heads,
    inspect,
    reading,
    reproduce_guided,
    reproduce_instruction,
    reproduce_knowledge,
    reproduce_relational,
    run,
    scores,
    testing,
    training,
    vectors,
    writing,
)
from lens_fv.cli.bench import bench
from lens_fv.cli.distilling import distill
from lens_fv.cli.instructions import iv
from lens_fv.cli.knowledge import knowledge
from lens_fv.cli.leaving import INTERRUPTED, UNREAD, Interrupts, OutputUnread, output_lost, tell, watched_output, write_out
from lens_fv.cli.library import library
from lens_fv.cli.similarity import similarity
from lens_fv.core.choices import nearest
from lens_fv.core.files import disk_trouble
from lens_fv.errors import LensFVError

# Some versions of Typer bundle their own Click.
ClickException: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
PRECISIONS = ("highest", "high", "medium")
app = typer.Typer(
    name="lens-fv",
    help="Function vectors, instruction vectors and knowledge updates in language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (run.demo, inspect.models, inspect.tasks, inspect.verify, heads.rank, heads.universal):
    app.command()(command)
for command in (
    scores.classes,
    scores.attributions,
    vectors.extract,
    vectors.tune,
    testing.evaluate,
    writing.write,
    testing.compare,
    testing.sweep,
):
    app.command()(command)
for command in (training.finetune, training.average, training.export, following.dynamics):
    app.command()(command)
for command in (analogies.compose, analogies.analogy, reading.decode, inspect.show):
    app.command()(command)
app.command()(similarity)
app.command()(distill)
app.add_typer(library, name="library")
app.add_typer(iv, name="iv")
app.add_typer(knowledge, name="knowledge")
reproduce = typer.Typer(help="Run a study from end to end and write its report.", no_args_is_help=True)
for command in (
    reproduce_relational.relational,
    reproduce_instruction.instruction,
    reproduce_knowledge.knowledge,
    reproduce_guided.guided,
):
    reproduce.command()(command)
app.add_typer(reproduce, name="reproduce")
for command in (bench_training.tune, bench_training.guided, bench_training.teach):
    bench.command()(command)
app.add_typer(bench, name="bench")


def _say_version(asked: bool) -> bool:
    if asked:
        from lens_fv import __version__

        typer.echo(__version__)
        raise typer.Exit
    return asked


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    matmul: Annotated[
        str | None,
        typer.Option(
            envvar="LENS_FV_MATMUL",
            help="Precision of float32 matrix products: highest (torch's default), high or medium. medium is twice as fast on "
            "some processors; the performance page gives the loss of accuracy.",
        ),
    ] = None,
) -> None:
    if matmul is not None:
        import torch

        if matmul not in PRECISIONS:
            raise LensFVError(f"multiply with precision {matmul!r}: choose from {', '.join(PRECISIONS)}")
        torch.set_float32_matmul_precision(matmul)


def execute(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 for success; 1 for a failed check; 2 for a user error, with a one-line explanation on standard error; 130 for an
    interrupt, with one line about what was kept; 141 when the reader of standard output has gone.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("lens_fv").setLevel(logging.INFO)
    with watched_output(), Interrupts() as interrupts:
        try:
            code = app(args=arguments, standalone_mode=False)
            write_out("")  # flush buffered output such as help
        except BaseException as error:
            stopped = interrupts.leave()
            if not interrupts.seen:
                return _leave(error)
            tell(stopped)
            return INTERRUPTED
        if interrupts.seen and code == INTERRUPTED:  # Typer turned it into an exit
            tell(interrupts.leave())
        return code if isinstance(code, int) else 0


def _leave(error: BaseException) -> int:
    """Report the error in one line and return the exit code; re-raise errors that are bugs in lens_fv."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0
    if isinstance(error, OutputUnread):
        return UNREAD
    if isinstance(error, ClickException):
        said = str(error.format_message())  # pyright: ignore[reportAttributeAccessIssue] - `ClickException` is Any to it
        if "\n" in said:  # help of a group called without a command
            sys.stderr.write(f"{said}\n")
        else:
            tell(_with_nearest(said))
    elif isinstance(error, LensFVError):
        tell(str(error))
    elif (trouble := disk_trouble(error)) is not None:
        where = "standard output" if output_lost() else getattr(error, "filename", None)
        tell(f"write to {where or 'disk'}: {trouble}; make room, or choose another place")
    else:
        raise error
    return 2


def _with_nearest(message: str) -> str:
    """Add the nearest valid choice to Click's message about an invalid one."""
    message = message.replace("Value error, ", "")
    wrong = re.search(r"'([^']*)' is not one of (.*)", message)
    near = nearest(wrong[1], re.findall("'([^']*)'", wrong[2])) if wrong else ""
    return f"{message.rstrip('.')}{near}" if near else message


def run_app() -> None:
    """Run the command line and exit with its code."""
    code = execute()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing left to interrupt
    sys.exit(code)
