"""The command `lens-fv`: its subcommands and error handling."""

import logging
import re
import sys
from functools import lru_cache
from types import ModuleType
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter
from rich.console import Console

from lens_fv import __version__
from lens_fv.cli import (
    bench,
    composition,
    decoding,
    distill,
    evaluation,
    finetuning,
    heads,
    iv,
    knowledge,
    library,
    models,
    reproduce,
    vectors,
)
from lens_fv.cli.command import commands_of
from lens_fv.cli.leaving import INTERRUPTED, UNREAD, Interrupts, OutputUnread, tell, write_out
from lens_fv.core.files import disk_error
from lens_fv.errors import LensFVError

HEADINGS: dict[str, tuple[ModuleType, ...]] = {
    "Models and tasks": (models,),
    "Heads": (heads,),
    "Vectors": (vectors, decoding),
    "Evaluation": (evaluation,),
    "Composition": (composition,),
    "Fine-tuning": (finetuning,),
    "Knowledge": (distill,),
    "Studies": (reproduce,),
}
"""Modules by the heading under which `lens-fv --help` lists their commands."""
GROUPS: dict[str, ModuleType] = {"library": library, "iv": iv, "knowledge": knowledge, "bench": bench}
"""Modules of the commands that have a word before their name, such as `library build`; their docstrings are the help."""
GLOBAL = Group("Global options", sort_key=99)


@lru_cache
def command_line() -> App:
    """Build the parser."""
    app = App(
        name="lens-fv",
        help="Function vectors, instruction vectors and knowledge updates in language models.",
        help_flags=("-h", "--help"),
        help_format="plaintext",
        version=__version__,
        version_flags="--version",
        default_parameter=Parameter(negative=()),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
    )
    groups = Group("Groups of commands", sort_key=len(HEADINGS))
    for order, (heading, modules) in enumerate(HEADINGS.items()):
        _add(app, *modules, group=Group(heading, sort_key=order))
    for word, module in GROUPS.items():
        group = App(name=word, help=module.__doc__, version_flags=(), group=groups)
        _add(group, module)
        app.command(group)
    app["--help"].group = app["--version"].group = GLOBAL
    app.meta.default(_root)
    return app


def _add(app: App, *modules: ModuleType, **settings: Any) -> None:
    """Add the commands of modules; their signatures are read when one of them is called or explains itself."""
    for command in commands_of(*modules):
        app.command(command.path, name=command.name, help=command.help, version_flags=(), **settings)


def _root(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    matmul: Annotated[
        Literal["highest", "high", "medium"] | None,
        Parameter(
            group=GLOBAL,
            env_var="LENS_FV_MATMUL",
            help="Precision of float32 matrix products; default: highest. medium is twice as fast on some processors; the "
            "performance page gives the loss of accuracy.",
        ),
    ] = None,
) -> Any:
    """Run a command, after setting the global options."""
    if matmul is not None:
        import torch

        torch.set_float32_matmul_precision(matmul)
    if not tokens or (len(tokens) == 1 and tokens[0] in GROUPS):  # no command
        command_line().help_print(tokens, console=Console(stderr=True))
        return 2
    return command_line()(tokens)


def execute(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 for success; 1 for a failed check; 2 for a user error, with a one-line explanation on standard error; 130 for an
    interrupt, with one line about what was kept; 141 when the reader of standard output has gone.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("lens_fv").setLevel(logging.INFO)
    app = command_line()
    app.console = Console()
    with Interrupts() as interrupts:
        try:
            with app.console.capture() as help_text:
                code = app.meta(sys.argv[1:] if arguments is None else arguments)
            write_out(help_text.get())
        except BaseException as error:
            message = interrupts.leave()
            if not interrupts.seen:
                return _leave(error)
            tell(message)
            return INTERRUPTED
        return code if isinstance(code, int) else 0


def _leave(error: BaseException) -> int:
    """Report the error in one line and return the exit code; re-raise errors that are bugs in lens_fv."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0
    if isinstance(error, OutputUnread):
        return UNREAD
    if isinstance(error, CycloptsError | LensFVError):
        tell(re.sub(r"(?<!\.)\.$", "", str(error)))
    elif (trouble := disk_error(error)) is not None:
        tell(f"write to {getattr(error, 'filename', None) or 'disk'}: {trouble}; make room, or choose another place")
    else:
        raise error
    return 2
