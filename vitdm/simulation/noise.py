"""The noise of an image, and what a camera and its file make of the numbers."""

from __future__ import annotations

import cv2
import numpy as np

from vitdm.errors import InputError
from vitdm.simulation.population import EightBit, Population
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

    For ``double_poisson`` it is that before the clip at 0.
    """
    # as many Poisson variances as there are Poisson draws; photons: counts / t^2
    sources = {"none": 0, "single": 1, "double_poisson": 2}[population.instrument.noise]
    photons = sources * np.clip(image, 0, None) / system.exposure_time
    return photons + (background_rms(system, population) ** 2 if sources else 0)


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
        return rng.poisson(np.clip(t * image, 0, None)) + sky
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
