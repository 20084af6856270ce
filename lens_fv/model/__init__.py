"""Which model, seen in one uniform way?"""

from lens_fv.model.lens_model import LensModel

__all__ = ["LensModel"]
