"""Smooth lenses fitted to images, the residuals of the fits, and the search for perturbers.

``fit(images, settings, pixel_scale=...)`` is the function of the module ``vitdm.lens.fit``.
"""

from vitdm.lens.fit import Fits, estimate_gain, fit, modelled, settings_for
from vitdm.lens.fits import fit_dataset, merge_fits, read_residuals
from vitdm.lens.masks import without
from vitdm.lens.model import Camera, SmoothLens
from vitdm.lens.residuals import features, usable_features

__all__ = [
    "Camera",
    "Fits",
    "SmoothLens",
    "estimate_gain",
    "features",
    "fit",
    "fit_dataset",
    "merge_fits",
    "modelled",
    "read_residuals",
    "settings_for",
    "usable_features",
    "without",
]
