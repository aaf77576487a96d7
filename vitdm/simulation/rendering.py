"""The forward model: a lens, and its image without noise.

All deflections are computed for the pixel centres, in compiled loops, as lenstronomy computes them:
a singular isothermal ellipsoid (Keeton & Kochanek 1998, astro-ph/9705194, eq. 8; SIE), external
shear (SHEAR), point masses (POINT_MASS) or truncated isothermal spheres (PJAFFE), and elliptical
Sérsic light (SERSIC_ELLIPSE). Angles are in arcsec.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from vitdm.compiled import compiled
from vitdm.simulation.cosmology import theta_E_point
from vitdm.simulation.population import Population
from vitdm.simulation.system import System

# ---------------------------------------------------------------------------------------- light


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


# ------------------------------------------------------------------------------- compiled loops


@compiled
def _shoot(columns, rows, halo, shear, x, y, squared, radius):
    """Return where the rays through n x n pixels meet the source plane, (2, n, n).

    The pixels are at ``columns`` (n,) and ``rows`` (n,) ["]; ``halo`` is theta_E ["], e1, e2;
    ``shear`` gamma1, gamma2. ``squared`` (k,) ["^2] and ``radius`` (k,) ["] are the squared
    Einstein radii and the truncation radii, 0 for points, of the clumps at ``x``, ``y`` (k,) ["].
    """
    n = columns.size
    beta = np.empty((2, n, n))
    # the isothermal ellipsoid in its own axes: q is their ratio, cos and sin turn into them
    theta_E, e1, e2 = halo
    modulus = min(math.hypot(e1, e2), 0.9999)
    q = min((1 - modulus) / (1 + modulus), 0.99999999)  # the formula has no limit at q = 1
    cos, sin = math.cos(math.atan2(e2, e1) / 2), math.sin(math.atan2(e2, e1) / 2)
    f = math.sqrt(1 - q * q)
    strength = theta_E * math.sqrt(q) / f
    core = 1e-10 / math.sqrt(q)
    for row in range(n):
        beta_x, beta_y = beta[0, row], beta[1, row]
        v = rows[row]
        for col in range(n):
            u = columns[col]
            major, minor = cos * u + sin * v, cos * v - sin * u
            # deflection along the axes (Keeton & Kochanek 1998, eq. 8), with a core near 0
            psi = math.sqrt(q * q * (core * core + major * major) + minor * minor)
            along = strength * math.atan(f * major / (psi + core))
            across = strength * math.atanh(f * minor / (psi + q * q * core))
            # the lens equation, beta = theta - alpha: the halo turned back, and the shear
            beta_x[col] = u - (cos * along - sin * across) - shear[0] * u - shear[1] * v
            beta_y[col] = v - (sin * along + cos * across) - shear[1] * u + shear[0] * v
        for k in range(x.size):
            dy, mass, cut = v - y[k], squared[k], radius[k]
            if cut == 0:
                for col in range(n):
                    dx = columns[col] - x[k]
                    pull = mass / max(dx * dx + dy * dy, 1e-50)
                    beta_x[col] -= pull * dx
                    beta_y[col] -= pull * dy
            else:  # b (a + r - sqrt(a^2 + r^2)) / r with b = mass / a, without the cancellation
                for col in range(n):
                    dx = columns[col] - x[k]
                    r = math.sqrt(max(dx * dx + dy * dy, 1e-50))
                    pull = 2 * mass / (r * (cut + r + math.sqrt(cut * cut + r * r)))
                    beta_x[col] -= pull * dx
                    beta_y[col] -= pull * dy
    return beta


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


def _light(image: np.ndarray, x: np.ndarray, y: np.ndarray, light: dict[str, float]) -> None:
    n, b = light["n_sersic"], sersic_b(light["n_sersic"])
    shape = (light["e1"], light["e2"], light["center_x"], light["center_y"])
    _add_sersic(image, x, y, light["amp"], light["R_sersic"], 1 / n, b, *shape)


def pixel_axis(population: Population) -> np.ndarray:
    """Return the coordinates (num_pix,) of the pixel centres on each axis, in arcsec."""
    n = population.num_pix
    return (np.arange(n) - (n - 1) / 2) * population.instrument.pixel_scale


def render(system: System, population: Population) -> np.ndarray:
    """Return the image without noise, (num_pix, num_pix), in counts/s and pixel."""
    axis = pixel_axis(population)
    columns, rows = (axis - middle for middle in system.center)
    theta = theta_E_point(system.masses, population.cosmology)
    # a truncation radius of 0 stands for a point mass
    radius = np.zeros_like(theta) if system.truncation is None else system.truncation
    halo = (system.theta_E_halo, system.e1, system.e2)
    shear = (system.gamma1, system.gamma2)
    x, y = _shoot(columns, rows, halo, shear, system.x, system.y, theta**2, radius)
    image = np.zeros_like(x)
    _light(image, x, y, system.source)
    if system.lens_light:
        _light(image, *np.meshgrid(columns, rows), system.lens_light)
    instrument = population.instrument
    sigma = instrument.psf_fwhm / math.sqrt(8 * math.log(2)) / instrument.pixel_scale
    image = ndimage.gaussian_filter(
        image, sigma, mode="nearest", truncate=instrument.psf_truncation
    )
    return image * instrument.pixel_scale**2
