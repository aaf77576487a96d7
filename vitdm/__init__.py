"""Vision Transformers for Dark Matter Morphology: find substructure in images of lenses."""

import lazy_loader

__version__ = "0.1.0"
# the names in __init__.pyi, imported when they are asked for
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
