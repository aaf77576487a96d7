"""Vision Transformers for Dark Matter Morphology: find substructure in images of lenses."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Observation", "ViTClassifier", "load_pretrained", "tune"]
_MODULES = {"ViTClassifier": "vitdm.classifier", "load_pretrained": "vitdm.pretrained"}
_MODULES |= {"tune": "vitdm.classifier_search", "Observation": "vitdm.data.observation"}


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch only when it is asked for."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
