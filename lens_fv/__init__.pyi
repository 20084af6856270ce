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
    TaskProbe as TaskProbe,
    Trajectory as Trajectory,
    continual_metrics as continual_metrics,
    make_task_probe as make_task_probe,
    track_checkpoints as track_checkpoints,
    verdicts as verdicts,
)
from .errors import (
    LensFVError as LensFVError,
)
from .evaluation import (
    AnalogyEvaluation as AnalogyEvaluation,
    DecodingEvaluation as DecodingEvaluation,
    Evaluation as Evaluation,
    TextEvaluation as TextEvaluation,
    compare_baselines as compare_baselines,
    compose_lists as compose_lists,
    evaluate as evaluate,
    evaluate_analogies as evaluate_analogies,
    evaluate_decoding as evaluate_decoding,
    evaluate_texts as evaluate_texts,
    load_artefact as load_artefact,
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
    FinetuneConfig as FinetuneConfig,
    FinetuneRun as FinetuneRun,
    export_checkpoint as export_checkpoint,
    finetune as finetune,
    instruction_swapped_prompts as instruction_swapped_prompts,
    interpolate_weights as interpolate_weights,
    switch as switch,
)
from .finetuning.regularizers import (
    PRESETS as PRESETS,
    Guide as Guide,
    GuideConfig as GuideConfig,
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
    DistillConfig as DistillConfig,
    Entity as Entity,
    EntityProbe as EntityProbe,
    KnowledgeScores as KnowledgeScores,
    KnowledgeTrace as KnowledgeTrace,
    TransferSet as TransferSet,
    WeightDelta as WeightDelta,
    causal_trace as causal_trace,
    definition_vectors as definition_vectors,
    distill as distill,
    entity_swapped_anchors as entity_swapped_anchors,
    evaluate_knowledge as evaluate_knowledge,
    finetune_on_texts as finetune_on_texts,
    gap_closed as gap_closed,
    generate_transfer_set as generate_transfer_set,
    kl_to_base as kl_to_base,
    load_entities as load_entities,
    load_transfer_set as load_transfer_set,
    read_entities as read_entities,
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
    list_tasks as list_tasks,
    load_task as load_task,
    make_analogies as make_analogies,
    make_list_task as make_list_task,
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
