"""Lenses fitted to images, the residuals of the fits, and the search for perturbers.

``fit(images)`` fits each image with a source of free form (``vitdm.lens.free_form``), and
``fit(images, LensFit(...))`` batches of them with a Sérsic source (``vitdm.lens.fit``).
``search(model)`` looks for perturbers in one lens that is fitted so (``vitdm.lens.perturbers``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from vitdm.config import FreeForm, LensFit
from vitdm.data.observation import Observation
from vitdm.lens import free_form
from vitdm.lens.fit import Fits, estimate_gain, modelled, point_snr, settings_for
from vitdm.lens.fit import fit as fit_sersic
from vitdm.lens.fits import fit_dataset, merge_fits, read_maps, read_residuals
from vitdm.lens.free_form import LensModel
from vitdm.lens.masks import without
from vitdm.lens.model import Camera, SmoothLens
from vitdm.lens.perturbers import Search, search
from vitdm.lens.resampled import read_copies, resample
from vitdm.lens.residuals import features, usable_features

__all__ = [
    "Camera",
    "Fits",
    "LensModel",
    "Search",
    "SmoothLens",
    "estimate_gain",
    "features",
    "fit",
    "fit_dataset",
    "merge_fits",
    "modelled",
    "point_snr",
    "read_copies",
    "read_maps",
    "read_residuals",
    "resample",
    "search",
    "settings_for",
    "usable_features",
    "without",
]


def fit(
    images: Observation | ArrayLike | Sequence[Any],
    settings: FreeForm | LensFit | None = None,
    **known: Any,
) -> LensModel | list[LensModel] | Fits:
    """Fit a lens to each image; the settings tell which model.

    ``FreeForm``, the default: a source of free form and the light of the lens galaxy, for real
    lenses, one by one (``vitdm.lens.free_form.fit``); returns a ``LensModel``, or a list of them
    for several images. ``LensFit``: Sérsic profiles, for thousands of simulated lenses in batches
    (``vitdm.lens.fit``); returns ``Fits``. ``known`` are ``pixel_scale``, ``gain`` and, for free
    forms, ``progress``.
    """
    if isinstance(settings, LensFit):
        return fit_sersic(images, settings, **known)
    return free_form.fit(images, settings, **known)
