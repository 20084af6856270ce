"""Write the study as a Markdown page with figures."""

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
    """Write the results so far to the page OUT/guided.md, with figures in OUT/guided.

    Sections of parts that were not run are left out.

    Args:
        studies: study folder by model name.
        out: output folder.

    Returns:
        Path of the page.

    Raises:
        LensFVError: no studies, a folder without a study, or an output folder without write access.
    """

    def blocks(runs: Sequence[Recorded]) -> list[Block]:
        return [*opening(runs, TITLE, HOW), *run_by_run(runs, SECTIONS)]

    return write_study_page(Recorded, studies, out, blocks)
