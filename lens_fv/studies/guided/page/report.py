"""The study as a page in Markdown, with figures beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lens_fv.studies.guided.page.recorded import Recorded
from lens_fv.studies.guided.page.sections import ablations, aims, choosing, methods, trajectories
from lens_fv.studies.page.markdown import Block
from lens_fv.studies.page.study import opening, run_by_run, write_study_page

SECTIONS = (aims, methods, trajectories, ablations, choosing)
TITLE = "Guided fine-tuning: keeping abilities while learning"
HOW = """\
The model is first taught a mixture of all tasks, so that there is something to lose; then a sequence of three, one
after the other. Each method's settings were chosen on one sequence, by validation pairs; the others are reported, by
test pairs. Numbers in brackets are 95 % intervals, bootstrapped over runs (sequences and seeds). What the guides are
is [defined here](../how-it-works.md#guided-fine-tuning)."""


def write_guided_report(studies: Mapping[str, Path], out: Path) -> Path:
    """Write what the studies have so far: the page OUT/guided.md, and figures in OUT/guided.

    A part that was not run leaves its section out.

    Args:
        studies: each model's folder, by the model's name.
        out: where to write.

    Returns:
        The page.

    Raises:
        LensFVError: no studies, no study in a folder, or a folder that cannot be written to.
    """

    def blocks(runs: Sequence[Recorded]) -> list[Block]:
        return [*opening(runs, TITLE, HOW), *run_by_run(runs, SECTIONS)]

    return write_study_page(Recorded, studies, out, blocks)
