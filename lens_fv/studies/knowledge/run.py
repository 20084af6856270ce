"""The study of knowledge updates from end to end."""

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
    """Run the study, or go on with it: what the folder holds is not made again.

    Args:
        model: the model.
        folder: where sentences, updates and records are kept.
        settings: what is run.
        parts: some of `PARTS`, in their order.
        progress: draw progress bars.

    Raises:
        LensFVError: no such part, a folder with a run of other settings, or what the parts raise.
    """
    return run_parts(lambda: Study(model, folder, settings or KnowledgeSettings(), progress=progress), PARTS, parts)
