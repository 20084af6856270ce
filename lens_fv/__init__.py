"""Function vectors, instruction vectors and knowledge updates in language models, on TransformerLens.

`__init__.pyi` lists the names that most work needs; the rest is in the rooms, such as `lens_fv.knowledge`. Names are loaded
when they are first used: `import lens_fv` imports neither torch nor transformers.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# lazy_loader has no types; what is loaded has those of `__init__.pyi`.

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
