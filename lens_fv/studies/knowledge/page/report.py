"""The study as a page in Markdown, with figures beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lens_fv.errors import LensFVError
from lens_fv.plotting import theme
from lens_fv.studies.knowledge.page.inside import steps, traces, vectors
from lens_fv.studies.knowledge.page.known import aims, known, numbers, specific
from lens_fv.studies.knowledge.page.recorded import Recorded
from lens_fv.studies.page.markdown import Block, table
from lens_fv.studies.page.write import write_page

SECTIONS = (aims, known, specific, numbers, steps, traces, vectors)
NAME = "knowledge"
HOW = """\
A model that has read an entity's definition teaches the same model that has not, on sentences that it wrote itself
(Padmanabhan et al. 2023); the same sentences said of others, where it is to say what it always said, are the anchors.
Numbers in brackets are 95 % intervals, bootstrapped over entities (of unrelated probes: over things); seeds are pooled,
every entity counts once. The gap is what reading the definition gives: 0 is the base, 1 the definition in context.
Settings were chosen on entities that are not reported on."""


def write_knowledge_report(studies: Mapping[str, Path], out: Path) -> Path:
    """Write what the studies have so far: the page OUT/knowledge.md, and figures in OUT/knowledge.

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
        raise LensFVError("report on knowledge: no studies are given; run `lens-fv reproduce knowledge` first")
    runs = [Recorded(name, Path(folder)) for name, folder in studies.items()]
    with theme("print"):
        blocks: list[Block] = _opening(runs)
        for run in runs:
            blocks += [f"## {run.name}", *(block for section in SECTIONS for block in section(run))]
    return write_page(NAME, blocks, out)


def _opening(runs: Sequence[Recorded]) -> list[Block]:
    names = [run.name for run in runs]
    commands = [run.command or f"# {run.name}: run from Python, with the settings below" for run in runs]
    rows = [[key, *(_setting(run.settings.get(key)) for run in runs)] for key in runs[0].settings if key != "model"]
    return [
        "# Knowledge: updates by context distillation",
        f"This page is made from the records of a run on {', '.join(names)}:",
        "```sh\n" + "\n".join(commands) + "\n```",
        HOW,
        table(["setting", *names], rows, words=1 + len(names)),
    ]


def _setting(value: object) -> object:
    """A setting in few words; of a path its name."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_setting(each)}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value).rpartition("/")[2]
