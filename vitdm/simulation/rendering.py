"""The forward model: a lens, and its image without noise.

All deflections are computed for the pixel centres, or for those of finer pixels, in compiled loops,
as lenstronomy computes them: a singular isothermal ellipsoid (Keeton & Kochanek 1998,
astro-ph/9705194, eq. 8; SIE) or an elliptical power law (EPL) with multipoles (MULTIPOLE), external
shear (SHEAR), point masses (POINT_MASS) or truncated isothermal spheres (PJAFFE). Angles are in
arcsec.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from vitdm.compiled import compiled
from vitdm.simulation.cosmology import Cosmology, theta_E_point
from vitdm.simulation.light import add_sersic
from vitdm.simulation.population import Instrument, Population
from vitdm.simulation.power_law import multipoles, power_law, series
from vitdm.simulation.psf import block_mean, convolved, kernel
from vitdm.simulation.system import System

NO_MULTIPOLES = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


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
def _deflect(beta, columns, rows, halo, slope, amplitudes):
    """Subtract the deflection of a power law and its multipoles from ``beta`` (2, n, n).

    ``halo`` is theta_E ["], e1, e2; ``amplitudes`` those of ``power_law.multipoles``.
    """
    theta_E, e = halo[0], complex(halo[1], halo[2])
    terms = series(slope, abs(e))
    for row in range(rows.size):
        for col in range(columns.size):
            z = complex(columns[col], rows[row])
            alpha = power_law(z, theta_E, e, slope, terms) + multipoles(z, theta_E, amplitudes)
            beta[0, row, col] -= alpha.real
            beta[1, row, col] -= alpha.imag


def pixel_axis(population: Population, supersampling: int = 1) -> np.ndarray:
    """Return the coordinates (num_pix * supersampling,) of pixel centres on each axis, arcsec."""
    n = population.num_pix * supersampling
    return (np.arange(n) - (n - 1) / 2) * (population.instrument.pixel_scale / supersampling)


def _source_plane(
    system: System, columns: np.ndarray, rows: np.ndarray, cosmology: Cosmology
) -> np.ndarray:
    """Return where the rays through the pixels meet the source plane, (2, n, n) ["]."""
    theta = theta_E_point(system.masses, cosmology)
    # a truncation radius of 0 stands for a point mass
    radius = np.zeros_like(theta) if system.truncation is None else system.truncation
    halo = (system.theta_E_halo, system.e1, system.e2)
    shear = (system.gamma1, system.gamma2)
    clumps = (system.x, system.y, theta**2, radius)
    if system.slope is None and system.multipoles is None:
        return _shoot(columns, rows, halo, shear, *clumps)
    beta = _shoot(columns, rows, (0.0, 0.0, 0.0), shear, *clumps)
    _deflect(beta, columns, rows, halo, system.slope or 2.0, system.multipoles or NO_MULTIPOLES)
    return beta


def render(system: System, population: Population) -> np.ndarray:
    """Return the image without noise, (num_pix, num_pix), in counts/s and pixel."""
    columns, rows = rays(system, population)
    return imaged(system, population, *_source_plane(system, columns, rows, population.cosmology))


def rays(system: System, population: Population) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y ["] (n,) of the columns and rows of rays, from the centre of the lens."""
    axis = pixel_axis(population, population.instrument.supersampling)
    return tuple(axis - middle for middle in system.center)


def imaged(system: System, population: Population, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the image without noise of the light where the ``rays`` end, at ``x``, ``y`` ["].

    These are (n, n), the image (num_pix, num_pix), in counts/s and pixel.
    """
    instrument = population.instrument
    if system.structure:
        image = system.structure.brightness(system.source, x, y)
    else:
        image = np.zeros_like(x)
        add_sersic(image, x, y, system.source)
    if system.lens_light:
        add_sersic(image, *np.meshgrid(*rays(system, population)), system.lens_light)
    image = _blurred(image, instrument)
    return block_mean(image, instrument.supersampling) * instrument.pixel_scale**2


def _blurred(image: np.ndarray, instrument: Instrument) -> np.ndarray:
    """Return the image convolved with the PSF, at the supersampled pixels."""
    scale, k = instrument.pixel_scale, instrument.supersampling
    if instrument.psf:
        return convolved(image, kernel(instrument.psf, scale, k))
    sigma = instrument.psf_fwhm / math.sqrt(8 * math.log(2)) / scale * k
    return ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=instrument.psf_truncation)
