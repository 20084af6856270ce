"""Write the study as a Markdown page with figures and tables."""

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
    """Write the results so far to the page OUT/instruction.md, with figures and tables (CSV) in OUT/instruction.

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
