"""Function vectors, instruction vectors and knowledge updates in language models, on TransformerLens.

Everything public is here, and loaded when first used: `import lens_fv` imports neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "lens_fv.errors": ("LensFVError",),
    "lens_fv.model": ("LensModel", "list_models", "load_model"),
    "lens_fv.tasks": (
        "Pair",
        "PromptTemplate",
        "Split",
        "Task",
        "list_tasks",
        "load_task",
        "read_task",
        "split_pairs",
    ),
    "lens_fv.patching": ("Edit", "HeadRanking", "rank_heads", "run_branches", "verify"),
    "lens_fv.vectors": ("FunctionVector", "decode", "extract", "load_artefact", "random_like", "tune"),
    "lens_fv.evaluation": ("Evaluation", "evaluate"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from lens_fv.errors import LensFVError
    from lens_fv.evaluation import Evaluation, evaluate
    from lens_fv.model import LensModel, list_models, load_model
    from lens_fv.patching import Edit, HeadRanking, rank_heads, run_branches, verify
    from lens_fv.tasks import Pair, PromptTemplate, Split, Task, list_tasks, load_task, read_task, split_pairs
    from lens_fv.vectors import FunctionVector, decode, extract, load_artefact, random_like, tune

__all__ = [
    "Edit",
    "Evaluation",
    "FunctionVector",
    "HeadRanking",
    "LensFVError",
    "LensModel",
    "Pair",
    "PromptTemplate",
    "Split",
    "Task",
    "__version__",
    "decode",
    "evaluate",
    "extract",
    "list_models",
    "list_tasks",
    "load_artefact",
    "load_model",
    "load_task",
    "random_like",
    "rank_heads",
    "read_task",
    "run_branches",
    "split_pairs",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
