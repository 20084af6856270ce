"""The study of extracted, tuned and composite vectors on all built-in relations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from lens_fv.studies.relational import page
from lens_fv.studies.relational.alignment import alignment
from lens_fv.studies.relational.analogies import analogies
from lens_fv.studies.relational.settings import RelationalRun, RelationalSettings
from lens_fv.studies.relational.vectors import baselines, completion, decoding, lists, norms, transfer, tuning
from lens_fv.studies.rows import Job
from lens_fv.studies.study import Results


class RelationalStudy(RelationalRun):
    """The study of extracted, tuned and composite vectors on all built-in relations; see `Study`."""

    name = "relational"
    settings_type = RelationalSettings
    models = ("smollm2-135m", "gemma-3-270m")
    external = ("semeval",)
    parts: ClassVar[Mapping[str, Callable[[Any], Iterable[Job]]]] = {
        "completion": completion,
        "transfer": transfer,
        "analogies": analogies,
        "decoding": decoding,
        "tuning": tuning,
        "norms": norms,
        "baselines": baselines,
        "lists": lists,
        "alignment": alignment,
    }

    @classmethod
    def context(cls, runs: Sequence[Results]) -> Mapping[str, Any]:
        """See `page.context`."""
        return page.context(runs)

    @classmethod
    def headline(cls, run: Results) -> Mapping[str, Any]:
        """First-token accuracy of each condition, and the advantage of tuned over extracted vectors."""
        return page.headline(run)


STUDY = RelationalStudy
