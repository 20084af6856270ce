"""The names that most work needs, and the rooms that hold the rest; each is loaded when it is first used."""

__version__: str

from . import (
    composition as composition,
    dynamics as dynamics,
    evaluation as evaluation,
    finetuning as finetuning,
    heads as heads,
    knowledge as knowledge,
    model as model,
    patching as patching,
    plotting as plotting,
    tasks as tasks,
    vectors as vectors,
)
from .composition import (
    CompositeVector as CompositeVector,
    VectorLibrary as VectorLibrary,
    build_library as build_library,
    compose as compose,
    fit_map as fit_map,
)
from .dynamics import (
    Trajectory as Trajectory,
    make_task_probe as make_task_probe,
    track_checkpoints as track_checkpoints,
    verdicts as verdicts,
)
from .errors import (
    LensFVError as LensFVError,
)
from .evaluation import (
    compare_baselines as compare_baselines,
    evaluate as evaluate,
    evaluate_analogies as evaluate_analogies,
    load_artefact as load_artefact,
)
from .finetuning import (
    FinetuneConfig as FinetuneConfig,
    FinetuneRun as FinetuneRun,
    finetune as finetune,
)
from .heads import (
    rank_heads as rank_heads,
    rank_instruction_heads as rank_instruction_heads,
    universal_heads as universal_heads,
)
from .knowledge import (
    DistillConfig as DistillConfig,
    Entity as Entity,
    distill as distill,
    evaluate_knowledge as evaluate_knowledge,
    generate_transfer_set as generate_transfer_set,
    load_entities as load_entities,
)
from .model import (
    LensModel as LensModel,
    list_models as list_models,
    load_model as load_model,
)
from .patching import (
    Branch as Branch,
    Edit as Edit,
    run_branches as run_branches,
    verify as verify,
)
from .tasks import (
    Pair as Pair,
    PromptTemplate as PromptTemplate,
    Split as Split,
    Task as Task,
    list_tasks as list_tasks,
    load_task as load_task,
    make_analogies as make_analogies,
    split_pairs as split_pairs,
)
from .vectors import (
    FunctionVector as FunctionVector,
    InstructionVector as InstructionVector,
    decode as decode,
    extract as extract,
    sweep_injection as sweep_injection,
    tune as tune,
    tune_many as tune_many,
)
