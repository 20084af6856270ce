"""Function vectors, instruction vectors and knowledge updates in language models, on TransformerLens.

Everything public is here (`__init__.pyi` lists it), and loaded when first used: `import lens_fv` imports neither torch nor
transformers.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# lazy_loader has no types; what is loaded has those of `__init__.pyi`.

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
