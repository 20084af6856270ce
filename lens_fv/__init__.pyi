"""The public names, each where it comes from: the package reads this file too, and loads them when they are used."""

__version__: str

from .composition import (
    CompositeVector as CompositeVector,
    Extracted as Extracted,
    Tuned as Tuned,
    VectorLibrary as VectorLibrary,
    WeightMap as WeightMap,
    build_library as build_library,
    compose as compose,
    fit_map as fit_map,
    merge_libraries as merge_libraries,
    relation_scores as relation_scores,
)
from .dynamics import (
    Probe as Probe,
    Trajectory as Trajectory,
    continual as continual,
    follow as follow,
    make_probe as make_probe,
    verdicts as verdicts,
)
from .errors import (
    LensFVError as LensFVError,
)
from .evaluation import (
    AnalogyEvaluation as AnalogyEvaluation,
    DecodingStudy as DecodingStudy,
    Evaluation as Evaluation,
    TextEvaluation as TextEvaluation,
    compare_kinds as compare_kinds,
    compose_lists as compose_lists,
    evaluate as evaluate,
    evaluate_analogies as evaluate_analogies,
    evaluate_texts as evaluate_texts,
    load_artefact as load_artefact,
    study_decoding as study_decoding,
)
from .evaluation.alignment import (
    RatedRelation as RatedRelation,
    SimilarityMatrix as SimilarityMatrix,
    Typicality as Typicality,
    compare_similarities as compare_similarities,
    read_judgements as read_judgements,
    read_semeval as read_semeval,
    relation_similarities as relation_similarities,
    relation_vectors as relation_vectors,
    similarity_matrix as similarity_matrix,
    taxonomy_structure as taxonomy_structure,
    typicality as typicality,
)
from .finetuning import (
    Checkpoint as Checkpoint,
    FinetuneRun as FinetuneRun,
    FinetuneSettings as FinetuneSettings,
    average as average,
    crossed_prompts as crossed_prompts,
    export_checkpoint as export_checkpoint,
    finetune as finetune,
    switch as switch,
)
from .finetuning.regularizers import (
    PRESETS as PRESETS,
    Guide as Guide,
    GuideSettings as GuideSettings,
    guided as guided,
)
from .heads import (
    ClassEffects as ClassEffects,
    HeadComparison as HeadComparison,
    HeadRanking as HeadRanking,
    UniversalHeads as UniversalHeads,
    class_effects as class_effects,
    compare_attributions as compare_attributions,
    rank_heads as rank_heads,
    rank_instruction_heads as rank_instruction_heads,
    universal_heads as universal_heads,
)
from .knowledge import (
    Entity as Entity,
    EntityProbe as EntityProbe,
    KnowledgeScores as KnowledgeScores,
    KnowledgeTrace as KnowledgeTrace,
    TeachSettings as TeachSettings,
    TransferSet as TransferSet,
    WeightDelta as WeightDelta,
    causal_trace as causal_trace,
    definition_vectors as definition_vectors,
    distill as distill,
    drift as drift,
    evaluate_knowledge as evaluate_knowledge,
    gap_closed as gap_closed,
    learn_texts as learn_texts,
    load_entities as load_entities,
    read_entities as read_entities,
    read_transfer as read_transfer,
    said_of_others as said_of_others,
    write_transfer as write_transfer,
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
    Analogy as Analogy,
    ChatTemplate as ChatTemplate,
    Pair as Pair,
    PromptTemplate as PromptTemplate,
    Split as Split,
    Task as Task,
    chat_template as chat_template,
    list_task as list_task,
    list_tasks as list_tasks,
    load_task as load_task,
    make_analogies as make_analogies,
    read_analogies as read_analogies,
    read_instructions as read_instructions,
    read_task as read_task,
    split_pairs as split_pairs,
    write_task as write_task,
)
from .vectors import (
    FunctionVector as FunctionVector,
    InjectionSweep as InjectionSweep,
    InstructionVector as InstructionVector,
    combine as combine,
    decode as decode,
    extract as extract,
    extract_instruction as extract_instruction,
    interpolate as interpolate,
    other_heads as other_heads,
    random_like as random_like,
    sweep_injection as sweep_injection,
    tune as tune,
    tune_many as tune_many,
)
from .vectors.baselines import (
    Adapter as Adapter,
    HeadWeights as HeadWeights,
    SoftPrompt as SoftPrompt,
    learn_head_weights as learn_head_weights,
    learn_soft_prompt as learn_soft_prompt,
    mean_state as mean_state,
    task_state as task_state,
    train_adapter as train_adapter,
)
