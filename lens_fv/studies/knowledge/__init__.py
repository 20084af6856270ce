"""Study of knowledge updates: does distilling a definition teach the facts, and what else changes?"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from lens_fv.studies.knowledge import page
from lens_fv.studies.knowledge.mechanism import epoch_jobs, trace_jobs, vector_jobs
from lens_fv.studies.knowledge.settings import ENTITIES, EXTERNAL, SIZES, KnowledgeRun, KnowledgeSettings
from lens_fv.studies.knowledge.updates import group_jobs, size_jobs
from lens_fv.studies.rows import Job
from lens_fv.studies.study import Results


class KnowledgeStudy(KnowledgeRun):
    """The study: what it runs, and what its page shows."""

    name = "knowledge"
    settings_type = KnowledgeSettings
    parts: ClassVar[Mapping[str, Callable[[Any], Iterable[Job]]]] = {
        ENTITIES: partial(group_jobs, part=ENTITIES),
        EXTERNAL: partial(group_jobs, part=EXTERNAL),
        SIZES: size_jobs,
        "epochs": epoch_jobs,
        "traces": trace_jobs,
        "vectors": vector_jobs,
    }
    external = ("entities", "locality", "external_entities")
    hidden = ("recipes",)

    @classmethod
    def context(cls, runs: Sequence[Results]) -> Mapping[str, Any]:
        """See `Study.context`."""
        return page.context(runs)

    @classmethod
    def headline(cls, run: Results) -> Mapping[str, Any]:
        """See `Study.headline`."""
        return page.headline(run)


STUDY = KnowledgeStudy
