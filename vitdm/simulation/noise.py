"""The noise of an image, and what a camera and its file make of the numbers."""

from __future__ import annotations

import math

import cv2
import numpy as np

from vitdm.errors import InputError
from vitdm.simulation.population import Drizzle, EightBit, Population
from vitdm.simulation.system import System

#: in a pixel: a Poisson number must fit in 64 bits
MOST_COUNTS = 1e18


def background_rms(system: System, population: Population) -> float:
    """Return the rms of the sky in a pixel, in counts/s."""
    instrument = population.instrument
    if instrument.background_time is None:
        return instrument.background_rms
    return instrument.background_rms * np.sqrt(instrument.background_time / system.exposure_time)


def variance(image: np.ndarray, system: System, population: Population) -> np.ndarray:
    """Return the variance of the noise of an image [counts/s], in (counts/s)^2.

    For ``double_poisson`` it is that before the clip at 0. For ``drizzle`` it is that of means over
    many pixels, times their number, as noise maps of drizzled images have it: single pixels vary
    less, by the square of the first number of ``drizzle_covariance``.
    """
    # as many Poisson variances as there are Poisson draws; photons: counts / t^2
    sources = {"none": 0, "single": 1, "double_poisson": 2}[population.instrument.noise]
    photons = sources * np.clip(image, 0, None) / system.exposure_time
    return photons + (background_rms(system, population) ** 2 if sources else 0)


def drizzle_covariance(drizzle: Drizzle, pixel_scale: float) -> np.ndarray:
    r"""Return the covariance (k,) of pixels 0, 1, ... pixels apart on one axis, of drizzled noise.

    In units in which its sum over all distances, both ways, is 1: that of pixels (i, j) apart is
    the product of two of them times the variance per pixel of a mean over many. It is that of the
    overlaps of a pixel and its neighbour with the drops of side p [pixels], averaged over where
    these fall: the convolution of two triangles, of half-widths 1 and p,
    :math:`\delta_1^2 \delta_p^2 |x|^3 / 12 p^2` with second differences :math:`\delta^2` of steps 1
    and p. At 0 it is :math:`1 - p / 3` for p <= 1: the square is 1/R^2 of Casertano et al. 2000,
    AJ 120, 2747, eq. A20; Fruchter & Hook 2002, PASP 114, 144, eqs. 9, 10.
    """
    p = drizzle.pixfrac * drizzle.native_scale / pixel_scale
    lags = np.arange(1 + math.ceil(p))
    difference = np.array([1, -2, 1])
    steps = np.arange(-1, 2)
    at = np.abs(lags[:, None, None] + steps[:, None] + p * steps) ** 3
    return np.einsum("kij,i,j->k", at, difference, difference) / (12 * p**2)


def drizzled(noise: np.ndarray, drizzle: Drizzle, pixel_scale: float) -> np.ndarray:
    """Return independent noise (H, W), correlated as in drizzled images; opposite edges touch."""
    covariance = drizzle_covariance(drizzle, pixel_scale)
    lags = np.arange(1, len(covariance))
    height, width = noise.shape
    filters = []
    for frequency in (np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)):
        cosines = np.cos(2 * np.pi * frequency[..., None] * lags)
        power = covariance[0] + 2 * cosines @ covariance[1:]
        filters.append(np.sqrt(np.clip(power, 0, None)))
    return np.fft.irfft2(np.fft.rfft2(noise) * filters[0] * filters[1], noise.shape)


def add_noise(
    image: np.ndarray, system: System, rng: np.random.Generator, population: Population
) -> np.ndarray:
    """Return the image (H, W) [counts/s] in counts, with noise drawn from ``rng``.

    ``single``: one Poisson realisation of the light plus normal sky noise. ``double_poisson``: as
    in the published code, normal noise of the Poisson variance and sky noise are added, the sum is
    clipped at 0 and drawn from a Poisson distribution.
    """
    t, noise = system.exposure_time, population.instrument.noise
    brightest = t * np.abs(image).max()
    if not brightest < MOST_COUNTS:  # NaN as well
        raise InputError(
            f"{population.name}: found {brightest:.1e} counts in a pixel; expected less than "
            f"{MOST_COUNTS:.0e}, so less light, or a shorter exposure"
        )
    if noise == "none":
        return t * image
    sky = t * background_rms(system, population) * rng.standard_normal(image.shape)
    if noise == "single":
        noisy = rng.poisson(np.clip(t * image, 0, None)) + sky
        if drizzle := population.instrument.drizzle:
            independent = noisy - t * image
            return t * image + drizzled(independent, drizzle, population.instrument.pixel_scale)
        return noisy
    photons = np.sqrt(t * np.abs(image)) * rng.standard_normal(image.shape)
    return rng.poisson(np.clip(t * image + photons + sky, 0, None)).astype(float)


def eight_bit(image: np.ndarray, settings: EightBit) -> np.ndarray:
    """Return the image as whole numbers from 0 to 255."""
    if settings.rectified:
        image = np.abs(image)
    scaling = settings.scaling
    low, high = (image.min(), image.max()) if scaling == "min_max" else scaling
    grey = np.rint(np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    if settings.jpeg_quality is not None:
        _, code = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality])
        grey = cv2.imdecode(code, cv2.IMREAD_GRAYSCALE)
    return grey
