"""The Vision Transformer, networks beside it, training, and finished runs."""

import lazy_loader

# the names in __init__.pyi, imported when they are asked for
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
