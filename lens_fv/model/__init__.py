"""Loading models and a uniform view of them through TransformerLens."""

from lens_fv.model.fetch import list_models
from lens_fv.model.lens_model import LensModel
from lens_fv.model.loading import load_model
from lens_fv.model.registry import DEFAULT_MODELS

__all__ = ["DEFAULT_MODELS", "LensModel", "list_models", "load_model"]
