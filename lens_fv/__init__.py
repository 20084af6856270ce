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
    "lens_fv.patching": ("Branch", "Edit", "run_branches", "verify"),
    "lens_fv.heads": (
        "ClassEffects",
        "HeadComparison",
        "HeadRanking",
        "UniversalHeads",
        "class_effects",
        "compare_attributions",
        "rank_heads",
        "universal_heads",
    ),
    "lens_fv.vectors": (
        "FunctionVector",
        "InjectionSweep",
        "decode",
        "extract",
        "random_like",
        "sweep_injection",
        "tune",
        "tune_many",
    ),
    "lens_fv.kinds": (
        "Adapter",
        "HeadWeights",
        "SoftPrompt",
        "learn_head_weights",
        "learn_soft_prompt",
        "mean_state",
        "task_state",
        "train_adapter",
    ),
    "lens_fv.evaluation": ("Evaluation", "compare_kinds", "evaluate", "load_artefact"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from lens_fv.errors import LensFVError
    from lens_fv.evaluation import Evaluation, compare_kinds, evaluate, load_artefact
    from lens_fv.heads import (
        ClassEffects,
        HeadComparison,
        HeadRanking,
        UniversalHeads,
        class_effects,
        compare_attributions,
        rank_heads,
        universal_heads,
    )
    from lens_fv.kinds import (
        Adapter,
        HeadWeights,
        SoftPrompt,
        learn_head_weights,
        learn_soft_prompt,
        mean_state,
        task_state,
        train_adapter,
    )
    from lens_fv.model import LensModel, list_models, load_model
    from lens_fv.patching import Branch, Edit, run_branches, verify
    from lens_fv.tasks import Pair, PromptTemplate, Split, Task, list_tasks, load_task, read_task, split_pairs
    from lens_fv.vectors import (
        FunctionVector,
        InjectionSweep,
        decode,
        extract,
        random_like,
        sweep_injection,
        tune,
        tune_many,
    )

__all__ = [
    "Adapter",
    "Branch",
    "ClassEffects",
    "Edit",
    "Evaluation",
    "FunctionVector",
    "HeadComparison",
    "HeadRanking",
    "HeadWeights",
    "InjectionSweep",
    "LensFVError",
    "LensModel",
    "Pair",
    "PromptTemplate",
    "SoftPrompt",
    "Split",
    "Task",
    "UniversalHeads",
    "__version__",
    "class_effects",
    "compare_attributions",
    "compare_kinds",
    "decode",
    "evaluate",
    "extract",
    "learn_head_weights",
    "learn_soft_prompt",
    "list_models",
    "list_tasks",
    "load_artefact",
    "load_model",
    "load_task",
    "mean_state",
    "random_like",
    "rank_heads",
    "read_task",
    "run_branches",
    "split_pairs",
    "sweep_injection",
    "task_state",
    "train_adapter",
    "tune",
    "tune_many",
    "universal_heads",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
