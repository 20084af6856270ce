"""The study of extracted, tuned and composite vectors on all built-in relations."""

from typing import ClassVar

from lens_fv.studies.relational import page
from lens_fv.studies.relational.alignment import alignment
from lens_fv.studies.relational.analogies import analogies
from lens_fv.studies.relational.settings import RelationalRun, RelationalSettings
from lens_fv.studies.relational.vectors import baselines, completion, decoding, lists, norms, transfer, tuning


class RelationalStudy(RelationalRun):
    """The study of extracted, tuned and composite vectors on all built-in relations; see `Study`."""

    name = "relational"
    settings_type = RelationalSettings
    models = ("smollm2-135m", "gemma-3-270m")
    external = ("semeval",)
    parts: ClassVar = {
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
    context = staticmethod(page.context)
    headline = staticmethod(page.headline)


STUDY = RelationalStudy
