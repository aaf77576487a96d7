"""The DeepLense benchmark: Models I to III as published and repaired, and how a model is scored.

``make`` writes a set of images, ``score`` trains and scores a model on it, ``score_predictions``
scores a table of answers. What is repaired, and why: ``docs/benchmark.md``.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "sets": ("BenchmarkSet", "definition", "make", "opened", "shown_sets"),
    "scoring": (
        "TrainAndPredict",
        "answers",
        "markdown",
        "over_seeds",
        "score",
        "score_predictions",
    ),
    "shortcut": ("einstein_radius", "ring_predictions"),
}
__all__ = sorted(name for names in _NAMES.values() for name in names)


def __getattr__(name: str) -> Any:
    """Import what needs scikit-learn only when it is asked for."""
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
