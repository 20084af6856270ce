"""Function vectors, instruction vectors and knowledge updates in language models, on TransformerLens.

The public names are listed in `__init__.pyi` and loaded on first use, so `import lens_fv` imports neither torch nor
transformers.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# lazy_loader is untyped; the names it loads have their types in `__init__.pyi`.

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
