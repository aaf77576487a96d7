"""Elliptical Sérsic light, as lenstronomy's SERSIC_ELLIPSE."""

from __future__ import annotations

import math

import numpy as np

from vitdm.compiled import compiled


def sersic_b(n_sersic: float) -> float:
    """Return lenstronomy's approximation of b_n, for which R_sersic holds half of the light."""
    return max(1.9992 * n_sersic - 0.3271, 1e-5)


def total_flux(light: dict[str, float]) -> float:
    r"""Return the flux of a Sérsic profile whose brightness at R is 1.

    :math:`2 \pi n R^2 e^b b^{-2n} \Gamma(2n)` (Graham & Driver 2005, eq. 4).
    """
    n, b = light["n_sersic"], sersic_b(light["n_sersic"])
    shape = math.exp(b) * b ** (-2 * n) * math.gamma(2 * n)
    return 2 * math.pi * n * light["R_sersic"] ** 2 * shape


@compiled
def _add_sersic(image, x, y, amp, R_sersic, exponent, b, e1, e2, center_x, center_y):
    """Add an elliptical Sérsic profile, evaluated at ``x`` and ``y`` (n, n), to ``image``."""
    round_off = 1 / math.sqrt(1 - e1 * e1 - e2 * e2)
    for row in range(image.shape[0]):
        for col in range(image.shape[1]):
            u, v = x[row, col] - center_x, y[row, col] - center_y
            major, minor = (1 - e1) * u - e2 * v, (1 + e1) * v - e2 * u
            radius = max(round_off * math.hypot(major, minor), 1e-4)  # the limit of lenstronomy
            image[row, col] += amp * math.exp(-b * ((radius / R_sersic) ** exponent - 1))


def add_sersic(image: np.ndarray, x: np.ndarray, y: np.ndarray, light: dict[str, float]) -> None:
    """Add a Sérsic profile at ``x``, ``y`` (H, W) ["] to ``image`` (H, W), per arcsec^2."""
    n, b = light["n_sersic"], sersic_b(light["n_sersic"])
    shape = (light["e1"], light["e2"], light["center_x"], light["center_y"])
    _add_sersic(image, x, y, light["amp"], light["R_sersic"], 1 / n, b, *shape)
