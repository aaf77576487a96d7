"""Vision Transformers for Dark Matter Morphology: find substructure in images of lenses."""

__version__ = "0.1.0"
