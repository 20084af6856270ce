"""Early checks for models, vectors and options that cannot be guided."""

from typing import Any

from torch import nn

from lens_fv.errors import LensFVError
from lens_fv.finetuning.regularizers.settings import GuideConfig
from lens_fv.vectors import FunctionVector


def check_updates(model: nn.Module) -> None:
    """Reject a model with updates that cannot be turned off."""
    if not hasattr(model, "disable_adapter"):
        raise LensFVError(
            f"guide a {type(model).__name__}: the teacher is the model with its updates turned off, so it has to be a PEFT "
            "model; use get_peft_model"
        )


def check_vector(vector: FunctionVector, config: Any, d_head: int) -> None:
    """Reject a vector from a model of another shape or with processed weights.

    Names are not compared: the model may be fine-tuned or come from a local folder.
    """
    made = vector.provenance
    own = (config.num_hidden_layers, config.num_attention_heads, config.hidden_size, d_head)
    if made.shape != own:
        raise LensFVError(
            f"guide by a vector of {made.model}, whose (layers, heads, d_model, d_head) are {made.shape}: the model's are {own}"
        )
    if made.weight_processing != "raw":
        raise LensFVError(
            f"guide by a vector made on {made.weight_processing!r} weights of {made.model}: what is trained are the weights as "
            "they are; make it on a model loaded with weight_processing='raw'"
        )


def check_checkpointing(model: nn.Module, settings: GuideConfig) -> None:
    """Reject gradient checkpointing if terms need hooks.

    The check also runs before each step, because trainers turn checkpointing on when they start.
    """
    if not (settings.intervene or settings.heads or settings.swap_heads):
        return
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise LensFVError("guide with gradient checkpointing: what is run again would miss the hooks; turn it off")
