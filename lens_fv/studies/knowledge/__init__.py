"""Study of knowledge updates: does distilling a definition teach the facts, and what else changes?"""

from functools import partial
from typing import Any, ClassVar

from lens_fv.studies.knowledge import page
from lens_fv.studies.knowledge.mechanism import epoch_jobs, traces, vectors
from lens_fv.studies.knowledge.settings import ENTITIES, EXTERNAL, SIZES, KnowledgeRun, KnowledgeSettings
from lens_fv.studies.knowledge.updates import group_jobs, size_jobs
from lens_fv.studies.study import Results


class KnowledgeStudy(KnowledgeRun):
    """The study: what it runs, and what its page shows."""

    name = "knowledge"
    settings_type = KnowledgeSettings
    parts: ClassVar = {
        ENTITIES: partial(group_jobs, part=ENTITIES),
        EXTERNAL: partial(group_jobs, part=EXTERNAL),
        SIZES: size_jobs,
        "epochs": epoch_jobs,
        "traces": traces,
        "vectors": vectors,
    }
    external = ("entities", "locality", "external_entities")
    hidden = ("recipes",)

    @staticmethod
    def derived(run: Results) -> Any:
        """See `Study.derived`: MEASURE/KIND in two columns, and the number that a job's name begins with."""
        rows = run.rows.frame
        measures, jobs = rows["measure"].str.partition("/"), rows["job"].str.partition("/")
        return rows.assign(measure=measures[0], kind=measures[2], number=jobs[0])

    context = staticmethod(page.context)
    headline = staticmethod(page.headline)


STUDY = KnowledgeStudy
