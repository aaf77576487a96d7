"""Vision Transformers for Dark Matter Morphology: find substructure in images of lenses."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["ViTClassifier"]


def __getattr__(name: str) -> Any:
    """Import the classifier, and PyTorch with it, only when it is asked for."""
    if name == "ViTClassifier":
        from vitdm.classifier import ViTClassifier

        return ViTClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
