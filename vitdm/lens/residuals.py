"""Statistics of the residual of a fitted smooth lens: the features of a fit."""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from vitdm.config.images import ORDERS, SCALES
from vitdm.lens import matched
from vitdm.lens.fit import Fits
from vitdm.lens.model import Camera
from vitdm.lens.parameters import BRIGHTNESS, MASS, SOURCE

#: parameters that are features: those that every fit has, but for brightnesses, which depend on
#: the exposure
PARAMETERS = tuple(row.name for row in (*MASS, *SOURCE) if row.unit != BRIGHTNESS)
#: the columns of ``features``; ``vitdm.features.definitions.LENSFIT`` defines each
COLUMNS = (
    *(f"fit_{name}" for name in PARAMETERS),
    *("fit_chi2", "fit_chi2_arcs", "fit_fourth_power", "fit_third_power"),
    *("fit_peak", "fit_peak_signed", "fit_peak_x", "fit_peak_y"),
    *(f"fit_{name}" for name in matched.NAMES),
    *(f"fit_power_{sigma:g}px" for sigma in SCALES),
    *(f"fit_azimuth_{low}_{high}" for low, high in ORDERS),
    *(f"fit_azimuth_abs_{low}_{high}" for low, high in ORDERS),
)


def features(fits: Fits) -> pd.DataFrame:
    """Return the ``COLUMNS`` of each fit (rows); NaN where nothing was fitted.

    "The arcs" are the pixels where the fitted source is brighter than the noise of the sky, and
    their neighbours.
    """
    centers = zip(fits.column("center_x"), fits.column("center_y"), strict=True)
    rows = [
        _statistics(residual, lensed, camera, center)
        for residual, lensed, camera, center in zip(
            fits.residual, fits.lensed, fits.cameras, centers, strict=True
        )
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=float)
    for name in PARAMETERS:
        table[f"fit_{name}"] = fits.values[:, fits.names.index(name)]
    table["fit_chi2"] = fits.chi2
    table[[f"fit_{name}" for name in matched.NAMES]] = fits.perturbers
    return table


def usable_features(fits: Fits) -> pd.DataFrame:
    """Return ``features``; of a fit that did not converge none."""
    table = features(fits)
    table[~fits.converged] = np.nan
    return table


def _statistics(
    residual: NDArray, lensed: NDArray, camera: Camera, center: tuple[float, float]
) -> dict[str, float]:
    """Return the statistics of a residual (size, size) in sigma, within the arcs ``lensed``.

    ``lensed`` (size, size) is bool; without arcs there are none. Places are measured from the
    ``center`` ["] of the lens.
    """
    if not lensed.any():
        return {}
    x, y = (axis.numpy() - middle for axis, middle in zip(camera.axes(), center, strict=True))
    rows, columns = np.nonzero(lensed)
    r = residual[rows, columns].astype(np.float64)
    # sums over 3 x 3 pixels, / 3: white noise of variance 1 keeps it
    s = 3 * cv2.blur(residual, (3, 3), borderType=cv2.BORDER_REFLECT)[rows, columns]
    s = s.astype(np.float64)
    peak = np.abs(s).argmax()
    values = {
        "fit_chi2_arcs": np.mean(r**2),
        "fit_fourth_power": fourth_power(residual.astype(np.float64), lensed),
        "fit_third_power": np.mean(s**3),
        "fit_peak": abs(s[peak]),
        "fit_peak_signed": s[peak],
        "fit_peak_x": x[columns[peak]],
        "fit_peak_y": y[rows[peak]],
    }
    for sigma in SCALES:
        filtered = _band_pass(residual, sigma)[rows, columns]
        values[f"fit_power_{sigma:g}px"] = np.mean(filtered**2) / _white_power(sigma)
    # power of the azimuthal orders: |sum of r exp(i m phi)|² / number of pixels, and of r² likewise
    x, y = x[columns], y[rows]
    turn = (x + 1j * y) / np.hypot(x, y).clip(1e-9)
    powers = turn ** np.arange(1, ORDERS[-1][1] + 1)[:, None]
    for name, signal in (("", r), ("abs_", (r**2 - 1) / math.sqrt(2))):
        spectrum = np.abs(powers @ signal) ** 2 / r.size
        for low, high in ORDERS:
            values[f"fit_azimuth_{name}{low}_{high}"] = spectrum[low - 1 : high].mean()
    return values


def _band_pass(residual: NDArray, sigma: float) -> NDArray:
    narrow, wide = (cv2.GaussianBlur(residual, (0, 0), s) for s in (sigma / 2, sigma))
    return narrow - wide


@functools.cache
def _white_power(sigma: float) -> float:
    """Return the mean square of white noise of variance 1 after the band-pass."""
    side = 2 * math.ceil(6 * sigma) + 1
    point = np.zeros((side, side), np.float32)
    point[side // 2, side // 2] = 1
    return float((_band_pass(point, sigma).astype(np.float64) ** 2).sum())


def fourth_power(residual: NDArray, where: NDArray) -> float:
    """Return the mean over ``where`` (H, W) of (sum of the residual over 3x3 pixels / 3)^4.

    ``residual`` (H, W) is in units of the noise; white Gaussian noise gives 3.
    """
    return float(np.mean((3 * ndimage.uniform_filter(residual, 3)[where]) ** 4))
