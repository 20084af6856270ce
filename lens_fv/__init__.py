"""Function vectors, instruction vectors and knowledge updates in language models, on TransformerLens.

Everything public is here, and loaded when first used: `import lens_fv` imports neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "lens_fv.errors": ("LensFVError",),
    "lens_fv.model": (
        "LensModel",
        "list_models",
        "load_model",
    ),
    "lens_fv.tasks": (
        "Analogy",
        "Pair",
        "PromptTemplate",
        "Split",
        "Task",
        "list_task",
        "list_tasks",
        "load_task",
        "make_analogies",
        "read_analogies",
        "read_task",
        "split_pairs",
    ),
    "lens_fv.patching": (
        "Branch",
        "Edit",
        "run_branches",
        "verify",
    ),
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
        "combine",
        "decode",
        "extract",
        "interpolate",
        "random_like",
        "sweep_injection",
        "tune",
        "tune_many",
    ),
    "lens_fv.composition": (
        "CompositeVector",
        "VectorLibrary",
        "WeightMap",
        "build_library",
        "compose",
        "fit_map",
        "relation_scores",
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
    "lens_fv.similarity": (
        "RatedRelation",
        "SimilarityMatrix",
        "Typicality",
        "compare_similarities",
        "read_judgements",
        "read_semeval",
        "relation_similarities",
        "relation_vectors",
        "similarity_matrix",
        "taxonomy_structure",
        "typicality",
    ),
    "lens_fv.evaluation": (
        "AnalogyEvaluation",
        "DecodingStudy",
        "Evaluation",
        "compare_kinds",
        "compose_lists",
        "evaluate",
        "evaluate_analogies",
        "load_artefact",
        "study_decoding",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from lens_fv.composition import CompositeVector, VectorLibrary, WeightMap, build_library, compose, fit_map, relation_scores
    from lens_fv.errors import LensFVError
    from lens_fv.evaluation import (
        AnalogyEvaluation,
        DecodingStudy,
        Evaluation,
        compare_kinds,
        compose_lists,
        evaluate,
        evaluate_analogies,
        load_artefact,
        study_decoding,
    )
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
    from lens_fv.similarity import (
        RatedRelation,
        SimilarityMatrix,
        Typicality,
        compare_similarities,
        read_judgements,
        read_semeval,
        relation_similarities,
        relation_vectors,
        similarity_matrix,
        taxonomy_structure,
        typicality,
    )
    from lens_fv.tasks import (
        Analogy,
        Pair,
        PromptTemplate,
        Split,
        Task,
        list_task,
        list_tasks,
        load_task,
        make_analogies,
        read_analogies,
        read_task,
        split_pairs,
    )
    from lens_fv.vectors import (
        FunctionVector,
        InjectionSweep,
        combine,
        decode,
        extract,
        interpolate,
        random_like,
        sweep_injection,
        tune,
        tune_many,
    )

__all__ = [
    "Adapter",
    "Analogy",
    "AnalogyEvaluation",
    "Branch",
    "ClassEffects",
    "CompositeVector",
    "DecodingStudy",
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
    "RatedRelation",
    "SimilarityMatrix",
    "SoftPrompt",
    "Split",
    "Task",
    "Typicality",
    "UniversalHeads",
    "VectorLibrary",
    "WeightMap",
    "__version__",
    "build_library",
    "class_effects",
    "combine",
    "compare_attributions",
    "compare_kinds",
    "compare_similarities",
    "compose",
    "compose_lists",
    "decode",
    "evaluate",
    "evaluate_analogies",
    "extract",
    "fit_map",
    "interpolate",
    "learn_head_weights",
    "learn_soft_prompt",
    "list_models",
    "list_task",
    "list_tasks",
    "load_artefact",
    "load_model",
    "load_task",
    "make_analogies",
    "mean_state",
    "random_like",
    "rank_heads",
    "read_analogies",
    "read_judgements",
    "read_semeval",
    "read_task",
    "relation_scores",
    "relation_similarities",
    "relation_vectors",
    "run_branches",
    "similarity_matrix",
    "split_pairs",
    "study_decoding",
    "sweep_injection",
    "task_state",
    "taxonomy_structure",
    "train_adapter",
    "tune",
    "tune_many",
    "typicality",
    "universal_heads",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
