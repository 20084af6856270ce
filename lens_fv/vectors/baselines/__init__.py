"""Baselines: mean and task states, learned head weights, soft prompts and low-rank adapters."""

from lens_fv.vectors.baselines.adapter import Adapter, AdapterConfig, train_adapter
from lens_fv.vectors.baselines.head_weights import HeadWeights, HeadWeightsConfig, train_head_weights
from lens_fv.vectors.baselines.soft_prompt import SoftPrompt, SoftPromptConfig, train_soft_prompt
from lens_fv.vectors.baselines.states import MeanStateConfig, TaskStateConfig, mean_state, task_state

__all__ = [
    "Adapter",
    "AdapterConfig",
    "HeadWeights",
    "HeadWeightsConfig",
    "MeanStateConfig",
    "SoftPrompt",
    "SoftPromptConfig",
    "TaskStateConfig",
    "mean_state",
    "task_state",
    "train_adapter",
    "train_head_weights",
    "train_soft_prompt",
]
