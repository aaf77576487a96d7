"""The DeepLense benchmark: Models I to III as published and repaired, and how a model is scored.

``make`` writes a set of images, ``score`` trains and scores a model on it, ``score_predictions``
scores a table of answers. What is repaired, and why: ``docs/benchmark.md``.
"""

import lazy_loader

# the names in __init__.pyi, imported when they are asked for
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
