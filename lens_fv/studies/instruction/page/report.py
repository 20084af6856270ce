"""The study as a page in Markdown, with figures and tables beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lens_fv.errors import LensFVError
from lens_fv.plotting import theme
from lens_fv.studies.instruction.page.beginning import counterparts, injection, start
from lens_fv.studies.instruction.page.claims import claims
from lens_fv.studies.instruction.page.forgetting import forgetting
from lens_fv.studies.instruction.page.recorded import Recorded
from lens_fv.studies.page.markdown import Block, table
from lens_fv.studies.page.write import write_page

SECTIONS = (start, forgetting, claims, injection, counterparts)
NAME = "instruction"
HOW = """\
Numbers in brackets are 95 % intervals: over items (Wilson) where shares of items are meant, else bootstrapped over what
the text names. Vectors, layers, scales and which tasks enter were chosen on validation pairs; all else is of test
pairs. What is measured, and by which tests a task counts as lost, suppressed or overwritten, is
[defined here](../how-it-works.md#what-fine-tuning-does)."""


def write_instruction_report(studies: Mapping[str, Path], out: Path) -> Path:
    """Write what the studies have so far: the page OUT/instruction.md, and figures and tables (CSV) in OUT/instruction.

    A part that was not run leaves its section out.

    Args:
        studies: each model's folder, by the model's name.
        out: where to write.

    Returns:
        The page.

    Raises:
        LensFVError: no studies, no study in a folder, or a folder that cannot be written to.
    """
    if not studies:
        raise LensFVError("report on instructions: no studies are given; run `lens-fv reproduce instruction` first")
    runs = [Recorded(name, Path(folder)) for name, folder in studies.items()]
    with theme("print"):
        blocks: list[Block] = _opening(runs)
        for run in runs:
            blocks += [f"## {run.name}", *(block for section in SECTIONS for block in section(run))]
    return write_page(NAME, blocks, out)


def _opening(runs: Sequence[Recorded]) -> list[Block]:
    names = [run.name for run in runs]
    commands = [run.command or f"# {run.name}: run from Python, with the settings below" for run in runs]
    keys = [key for key in runs[0].settings if key != "model"]
    rows = [[key, *(_setting(run.settings.get(key)) for run in runs)] for key in keys]
    return [
        "# Instructions: what fine-tuning does to them",
        f"This page is made from the records of a run on {', '.join(names)}:",
        "```sh\n" + "\n".join(commands) + "\n```",
        HOW,
        table(["setting", *names], rows, words=1 + len(names)),
    ]


def _setting(value: object) -> object:
    """A setting in few words."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_setting(each)}" for key, each in value.items() if not isinstance(each, dict))
    return ", ".join(map(str, value)) if isinstance(value, list) else value
