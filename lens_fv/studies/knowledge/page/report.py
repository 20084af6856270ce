"""Write the study as a Markdown page with figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lens_fv.studies.knowledge.page.aims import aims
from lens_fv.studies.knowledge.page.inside import steps, traces, vectors
from lens_fv.studies.knowledge.page.known import known, numbers, specific
from lens_fv.studies.knowledge.page.recorded import Recorded
from lens_fv.studies.page.markdown import Block
from lens_fv.studies.page.study import opening, run_by_run, write_study_page

SECTIONS = (aims, known, specific, numbers, steps, traces, vectors)
TITLE = "Knowledge: updates by context distillation"
FILES = ("entities", "locality", "outside")
HOW = """\
A model that has read an entity's definition teaches the same model that has not, on sentences that it wrote itself
(Padmanabhan et al. 2023); the same sentences said of others, where it is to say what it always said, are the anchors.
Numbers in brackets are 95 % intervals, bootstrapped over entities (of unrelated probes: over things); seeds are pooled,
every entity counts once. The gap is what reading the definition gives: 0 is the base, 1 the definition in context.
Settings were chosen on entities that are not reported on: for fine-tuning on definitions those that closed most of the
gap, and "gently" those that did so of all that kept accuracy elsewhere within 1 point and perplexity within 2 %."""


def write_knowledge_report(studies: Mapping[str, Path], out: Path) -> Path:
    """Write the results so far to the page OUT/knowledge.md, with figures in OUT/knowledge.

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
        return [*opening(runs, TITLE, HOW, files=FILES), *run_by_run(runs, SECTIONS)]

    return write_study_page(Recorded, studies, out, blocks)
