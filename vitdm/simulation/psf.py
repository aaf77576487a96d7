r"""The point spread function of a telescope: diffraction at an annular aperture, and a blur.

The image of a point is the Airy pattern of an aperture of diameter D with a central obstruction of
:math:`\epsilon D`,

.. math:: I \propto \left[\frac{2 J_1(v)}{v} - \epsilon^2 \frac{2 J_1(\epsilon v)}{\epsilon v}
    \right]^2, \quad v = \pi D \theta / \lambda

(Born & Wolf, Principles of Optics, section 8.6.2), convolved with a Moffat profile for jitter,
aberrations and charge that diffuses to other pixels, and with the square pixel.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from scipy import signal, special

from vitdm.simulation.priors import Part

#: arcsec: the largest step of the grid on which the pattern is computed, for a mirror of 1 m
FINEST = 0.014
#: steps on a side of the whole pattern
MOST_STEPS = 1000
#: steps averaged over a cell of that grid, of the blur, which has a sharp peak
WITHIN = 5
#: pixels around the kernel from which light is blurred into it
BEYOND = 4


class Psf(Part):
    """A point spread function that is not a Gaussian."""

    diameter: float = Field(ge=0.01, le=100, description="of the aperture, m")
    obscuration: float = Field(ge=0, lt=1, description="diameter of its obstruction / diameter")
    wavelength: float = Field(gt=0.1, le=30, description="micrometres")
    blur: float = Field(gt=0, le=10, description="FWHM of a Moffat profile, arcsec")
    blur_exponent: float = Field(gt=1, le=20, description="its exponent; low: more light far out")
    size: int = Field(ge=3, le=255, description="side of the kernel, an odd number of pixels")

    @field_validator("size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError(f"expected an odd number, found {size}")
        return size


def steps(psf: Psf, pixel_scale: float, supersampling: int) -> int:
    """Return into how many steps, an odd number, a pixel is divided to compute the pattern."""
    return 2 * math.ceil(pixel_scale / supersampling / FINEST * psf.diameter / 2) + 1


@functools.cache
def kernel(psf: Psf, pixel_scale: float, supersampling: int = 1) -> NDArray[np.float64]:
    """Return the PSF at pixels of ``pixel_scale`` / ``supersampling`` ["], with their own blur.

    The sides, ``size`` * ``supersampling`` pixels or one more, are odd, the sum is 1. The array is
    read-only.
    """
    n = steps(psf, pixel_scale, supersampling)
    side = psf.size * supersampling | 1
    whole = (side + 2 * BEYOND * supersampling) * n
    pattern = _blurred(psf, whole, pixel_scale / supersampling / n)
    margin = BEYOND * supersampling * n
    cut = pattern[margin:-margin, margin:-margin]
    binned = cut.reshape(side, n, side, n).sum(axis=(1, 3))
    binned /= binned.sum()
    binned.setflags(write=False)
    return binned


def _blurred(psf: Psf, n: int, step: float) -> NDArray[np.float64]:
    """Return the Airy pattern convolved with the blur, (n, n) at steps of ``step`` ["]."""
    axis = (np.arange(n) - (n - 1) / 2) * step
    v = math.pi * psf.diameter / (psf.wavelength * 1e-6) * np.deg2rad(_radius(axis) / 3600)
    epsilon = psf.obscuration
    airy = (_jinc(v) - epsilon**2 * _jinc(epsilon * v)) ** 2
    # the Moffat profile, (1 + r^2 / a^2)^-exponent, averaged over each cell
    a = psf.blur / 2 / math.sqrt(2 ** (1 / psf.blur_exponent) - 1)
    fine = (np.arange(n * WITHIN) - (n * WITHIN - 1) / 2) * step / WITHIN
    moffat = (1 + (_radius(fine) / a) ** 2) ** -psf.blur_exponent
    moffat = moffat.reshape(n, WITHIN, n, WITHIN).sum(axis=(1, 3))
    return signal.fftconvolve(airy, moffat / moffat.sum(), mode="same")


def _radius(axis: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hypot(axis, axis[:, None])


def _jinc(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 2 J1(v) / v, which is 1 at 0."""
    v = np.maximum(v, 1e-9)
    return 2 * special.j1(v) / v


def convolved(image: NDArray[np.float64], blur: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an image (H, W) convolved with a kernel; beyond the edge, its border goes on."""
    margin = blur.shape[0] // 2
    return signal.fftconvolve(np.pad(image, margin, mode="edge"), blur, mode="valid")


def block_mean(image: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return the means of k x k pixels of an image whose sides are multiples of k."""
    height, width = (side // k for side in image.shape)
    return image.reshape(height, k, width, k).mean(axis=(1, 3))
