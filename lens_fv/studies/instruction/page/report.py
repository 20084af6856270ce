"""The study as a page in Markdown, with figures and tables beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lens_fv.studies.instruction.page.beginning import counterparts, injection, start
from lens_fv.studies.instruction.page.claims import claims
from lens_fv.studies.instruction.page.forgetting import forgetting
from lens_fv.studies.instruction.page.recorded import Recorded
from lens_fv.studies.page.markdown import Block
from lens_fv.studies.page.study import opening, run_by_run, write_study_page

SECTIONS = (start, forgetting, claims, injection, counterparts)
TITLE = "Instructions: what fine-tuning does to them"
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

    def blocks(runs: Sequence[Recorded]) -> list[Block]:
        return [*opening(runs, TITLE, HOW), *run_by_run(runs, SECTIONS)]

    return write_study_page(Recorded, studies, out, blocks)
