"""Run the study of knowledge updates."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lens_fv.model.lens_model import LensModel
from lens_fv.studies.knowledge.inside import follow_update, inject_definitions, trace_update
from lens_fv.studies.knowledge.settings import KnowledgeSettings, Study
from lens_fv.studies.knowledge.teaching import compare_ways, count_entities, measure_base
from lens_fv.studies.parts import run_parts

PARTS: Mapping[str, Callable[[Study], None]] = {
    "base": measure_base,
    "ways": compare_ways,
    "numbers": count_entities,
    "steps": follow_update,
    "traces": trace_update,
    "vectors": inject_definitions,
}


def run_knowledge(
    model: LensModel,
    folder: str | Path,
    settings: KnowledgeSettings | None = None,
    *,
    parts: Sequence[str] = tuple(PARTS),
    progress: bool = False,
) -> Study:
    """Run the study, or resume it: results already in the folder are not computed again.

    Args:
        model: model to study.
        folder: folder for sentences, updates and records.
        settings: settings of the study.
        parts: names from `PARTS` to run, in their order there.
        progress: whether to show progress bars.

    Raises:
        LensFVError: an unknown part, a folder with a run of other settings, or any error of the parts.
    """
    return run_parts(lambda: Study(model, folder, settings or KnowledgeSettings(), progress=progress), PARTS, parts)
