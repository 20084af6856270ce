"""The study's page in Markdown, with figures and tables in a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lens_fv.studies.page.markdown import Block, table
from lens_fv.studies.page.study import write_study_page
from lens_fv.studies.relational.page.claims import claims
from lens_fv.studies.relational.page.insides import alignment, decoding, transfer
from lens_fv.studies.relational.page.recorded import Recorded, command
from lens_fv.studies.relational.page.sections import completion, per_relation
from lens_fv.studies.relational.page.solved import analogies
from lens_fv.studies.relational.page.ways import carrying, kinds, lists, tuning
from lens_fv.studies.relational.page.words import HOW
from lens_fv.studies.relational.run import PARTS

SECTIONS = (claims, completion, tuning, kinds, lists, transfer, carrying, decoding, alignment, analogies, per_relation)


def write_relational_report(studies: Mapping[str, Path], out: Path) -> Path:
    """Write the results so far: the page OUT/relational.md, and figures and tables (CSV) in OUT/relational.

    Sections of parts that were not run are omitted. Figures are SVG, or PNG if the SVG is too large; without kaleido and
    Chrome they are HTML.

    Args:
        studies: Folder of each model's study, by model name.
        out: Output folder.

    Returns:
        Path of the page.

    Raises:
        LensFVError: no study is given, a folder holds no study, or the output folder cannot be written.
    """

    def blocks(runs: Sequence[Recorded]) -> list[Block]:
        return [*_opening(runs), *(block for section in SECTIONS for block in section(runs))]

    return write_study_page(Recorded, studies, out, blocks)


def _opening(runs: Sequence[Recorded]) -> list[Block]:
    ran, first = command(runs), runs[0].settings
    how = f"```sh\n{runs[0].as_run(ran)}\n```" if ran else "The studies were run from Python, with the settings below."
    rows: list[list[object]] = [["revision", *(run.settings["revision"] for run in runs)]]
    for key in (k for k in first if k not in ("model", "revision", "few")):
        rows.append([key, *(_setting(run.settings.get(key)) for run in runs)])
    rows += [
        [key, *(run.made_with.get(key) for run in runs)] for key in dict.fromkeys(k for run in runs for k in run.made_with)
    ]
    done = [[part, *(len(run.part(part)) or None for run in runs)] for part in PARTS]
    names = [run.name for run in runs]
    return [
        "# Relations: extracted, tuned and composite vectors",
        f"This page is made from the records of a run, {_are(names)}:",
        how,
        HOW,
        table(["setting", *names], rows),
        "Records so far, by part (a record is what its part can go on from):",
        table(["part", *names], done),
    ]


def _are(names: Sequence[str]) -> str:
    return f"on {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else f"on {names[0]}"


def _setting(value: object) -> object:
    if isinstance(value, list):
        return f"{len(value)}" if value and isinstance(value[0], str) else ", ".join(f"{x:g}" for x in value)
    # The path of a data set on the user's disk is irrelevant.
    return "given" if isinstance(value, str) else value
