"""The command `lens-fv`: its subcommands, and how errors leave it."""

import logging
import sys
from typing import Annotated

import typer
from rich.console import Console

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
)
from lens_fv.cli.bench import bench
from lens_fv.cli.distilling import distill
from lens_fv.cli.instructions import iv
from lens_fv.cli.knowledge import knowledge
from lens_fv.cli.library import library
from lens_fv.cli.similarity import similarity
from lens_fv.errors import LensFVError

PRECISIONS = ("highest", "high", "medium")
app = typer.Typer(
    name="lens-fv",
    help="Function vectors in language models: which heads carry a task, and what do their vectors do?",
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
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    matmul: Annotated[
        str | None,
        typer.Option(
            envvar="LENS_FV_MATMUL",
            help="Precision of float32 products: highest (torch's default), high or medium. medium is twice as fast on some "
            "processors; see the performance page for what it costs there.",
        ),
    ] = None,
) -> None:
    if matmul is not None:
        import torch

        if matmul not in PRECISIONS:
            raise LensFVError(f"multiply with precision {matmul!r}: choose from {', '.join(PRECISIONS)}")
        torch.set_float32_matmul_precision(matmul)


def execute(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a check that failed, 2 for what the user can mend."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("lens_fv").setLevel(logging.INFO)
    say = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        app(args=arguments)  # leaves by SystemExit, and says itself what is wrong with an option
    except LensFVError as e:
        say.print(f"lens-fv: {e}")
        return 2
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 0
    return 0


def run_app() -> None:
    """Run and leave."""
    sys.exit(execute())
