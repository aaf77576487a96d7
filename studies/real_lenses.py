"""Fits real lenses with masks, one simplification less at a time, and compares their chi^2."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.config import Cutouts
from vitdm.lens import Fits, fit, without

#: one simplification less at a time: what the settings are changed to, and whether masks are used
STEPS = {
    "white": ({"noise_lag": 1, "light_profiles": 1}, False),
    "shared": ({"light_profiles": 1}, False),
    "masked": ({"light_profiles": 1}, True),
    "full": ({}, True),
}
CORE = 12  # px about the centre of the lens, where its light is brightest


def fit_cutouts(
    images: Mapping[str, NDArray], known: Cutouts
) -> tuple[pd.DataFrame, NDArray, Fits]:
    """Fit a smooth lens to real images (H, W), all of one size, by the names that ``known`` has.

    Returns a table, the images without what is masked (n, H, W), and the fits of the last step. A
    row of the table is name, theta_E with its error and as published (arcsec), chi^2 per degree of
    freedom of each of ``STEPS``, of the last also the mean r^2 beyond core and arcs, where there is
    nothing but the fading light of the lens, and the flags of the last.
    """
    cutouts = [known.cutouts[name] for name in images]
    plain = np.stack([image.astype(float) for image in images.values()])
    masked = np.stack([without(a, lens.mask) for a, lens in zip(plain, cutouts, strict=True)])
    table = pd.DataFrame({"name": [lens.name for lens in cutouts]})
    for step, (changed, masks) in STEPS.items():
        settings = known.lensfit.model_copy(update=changed)
        fits = fit(masked if masks else plain, settings, pixel_scale=known.pixel_scale)
        table[f"chi2_{step}"] = fits.chi2
    value = {name: fits.values[:, k] for k, name in enumerate(fits.names)}
    axes = zip("xy", fits.cameras[0].axes(), strict=True)
    x, y = (axis.numpy() - value[f"center_{c}"][:, None] for c, axis in axes)
    beyond = np.hypot(y[:, :, None], x[:, None]) > CORE * known.pixel_scale
    beyond &= ~fits.lensed.astype(bool) & (fits.residual != 0)
    squares = np.where(beyond, fits.residual, np.nan) ** 2
    table["chi2_beyond"] = np.nanmean(squares.reshape(len(table), -1), axis=1)
    table["theta_E"] = value["theta_E"]
    table["theta_E_error"] = fits.errors[:, fits.names.index("theta_E")]
    table["theta_E_published"] = [lens.theta_E for lens in cutouts]
    table["flags"] = fits.flags
    return table, masked, fits
