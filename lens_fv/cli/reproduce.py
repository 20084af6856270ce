"""The command `lens-fv reproduce STUDY`: run a study from end to end and write its page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from lens_fv.cli.command import Options, OptionsOf, command
from lens_fv.cli.leaving import resumes_in
from lens_fv.cli.output import Printout, table
from lens_fv.core.choices import Count, Seed
from lens_fv.errors import LensFVError

REPRODUCE = "lens_fv.studies.reproduce:reproduce"
StudyName = Literal["relational", "instruction", "knowledge", "guided"]


@command
def reproduce(
    study: StudyName,
    *,
    model: Sequence[str] = (),
    part: Sequence[str] = (),
    set: Sequence[str] = (),
    seeds: Count | None = None,
    run_dir: Path | None = None,
    seed: Seed = 0,
    running: Annotated[Options, OptionsOf(REPRODUCE, only=("quick", "report_only", "device", "dtype"))],
    out: Path = Path("docs/results"),
) -> Printout:
    """Run a study from end to end and write its page; several workers may share one --run-dir.

    The studies: "relational" tests the claims about extracted, tuned and composite vectors on all built-in relations;
    "instruction" asks whether abilities lost by fine-tuning are erased or suppressed; "knowledge" tests context distillation;
    "guided" compares guided fine-tuning with other ways to keep abilities.

    Writes vectors and rows to --run-dir, and the page to --out: STUDY.md, with figures and tables (CSV) in STUDY/.

    Args:
        study: Name of the study.
        model: Model to study; repeatable, models run one after another; default: the study's own.
        part: Part of the study; repeatable; default: all.
        set: Setting of the study as NAME=VALUE; repeatable. VALUE is JSON, or values separated by commas; an unknown NAME lists
            all settings.
        seed: First seed of splits, prompts and random draws.
        seeds: Number of seeds, starting at --seed; default: as many as the study has.
        run_dir: Folder for intermediate results, with a subfolder per model; an interrupted study resumes; default:
            STUDY-study.
        out: Folder for the page.
    """
    from lens_fv.studies.reproduce import reproduce as run

    settings = dict(_assignment(text) for text in set)
    folder = run_dir or Path(f"{study}-study")
    resumes_in(folder)
    result = run(
        study,
        model,
        folder=folder,
        out=out,
        parts=part,
        settings=settings,
        n_seeds=seeds,
        first_seed=seed,
        **running,
        progress=True,
    )
    models = {name: {"folder": result.folders[name], **headline} for name, headline in result.models.items()}
    rows = [{"model": name, **headline} for name, headline in result.models.items()]
    payload = {"page": result.page, "run_dir": folder, "models": models}
    return Printout(payload, table(rows, title=study), f"written to {result.page}")


def _assignment(text: str) -> tuple[str, str]:
    """Split NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals:
        raise LensFVError(f"--set {text}: write NAME=VALUE")
    return name, value
