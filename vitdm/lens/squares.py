"""The squares of images that a lens is fitted to: above the sky, in units of its noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitdm.config import LensFit, Preprocess
from vitdm.data.observation import Observation
from vitdm.errors import InputError
from vitdm.lens.model import Camera
from vitdm.lens.noise import noise_of_the_faint
from vitdm.preprocess import Detection, detect
from vitdm.preprocess.background import PILE_UP
from vitdm.preprocess.circle import fit_circle

CLIPPED_RMS = 0.9849  # rms of normal numbers, clipped again and again at 3 of it: preprocess' noise
WIDEST = 2  # times the side of the square: no PSF is farther
APART = 2.0  # px: a fit that starts this far from the centre finds it
INNER = 1 / 8  # of the field on each side of its middle: where a lens galaxy is looked for


@dataclass
class Squares:
    """Squares of n images, above the sky and in units of its noise; tensors have n rows.

    ``data``, ``good`` and ``variance`` are (n, size, size); ``good`` is 0 where a pixel is missing,
    ``variance`` is that of the noise without the photons of the lens. ``gain`` (n,) is the variance
    of the photon noise per brightness, 0 where the variance has it already. ``sky`` and ``unit``
    are the level and the noise of the sky in the units of the image, ``clipped`` tells whether the
    noise was cut at zero. ``center`` (n, 2) ["] is where a fit starts, ``radius`` (n,) ["] the
    flux-weighted distance of the light from there; NaN if no light is seen. ``circle`` (n, 3) ["]
    is another place and radius to start from: of the circle that the light lies on, if the lens
    may be there, and else NaN.
    """

    data: Tensor
    good: Tensor
    variance: Tensor
    gain: Tensor
    sky: Tensor
    unit: Tensor
    clipped: Tensor
    center: Tensor
    radius: Tensor
    circle: Tensor
    flags: list[list[str]]

    def select(self, rows: Tensor) -> Squares:
        """Return those of some images."""
        tensors = {k: v[rows] for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors, flags=[self.flags[i] for i in rows])


class Window:
    """Where a square of ``size`` pixels about the middle lies in an image (height, width).

    It is the square that the processed image is cut from, too. Of an image that is smaller, the
    rest of the square is missing.
    """

    def __init__(self, shape: tuple[int, int], size: int) -> None:
        first = [(side - size) // 2 for side in shape]
        self.size = size
        self.outer = tuple(slice(max(a, 0), a + size) for a in first)
        self.inner = tuple(
            slice(max(-a, 0), max(-a, 0) + side) for a, side in zip(first, shape, strict=True)
        )
        # px, from the middle of the image to that of the square, x and y: half a pixel, or none
        self.offset = tuple(
            a + (size - 1) / 2 - (side - 1) / 2
            for a, side in zip(first[::-1], shape[::-1], strict=True)
        )

    def cut(self, image: NDArray[Any], beyond: float = 0.0) -> NDArray[Any]:
        """Return the square (size, size) of an image (height, width)."""
        square = np.full((self.size, self.size), beyond, image.dtype)
        square[self.inner] = image[self.outer]
        return square


def camera_of(observation: Observation, settings: LensFit) -> Camera:
    """Return the camera of an image whose scale is known; what is unknown of its PSF is assumed."""
    if observation.pixel_scale is None:
        raise InputError(
            f"{observation.name}: found no pixel_scale; expected arcsec per pixel, above 0"
        )
    psf = settings.psf_fwhm if observation.psf is None else observation.psf
    # headers of one camera differ in their last digits
    size, scale = settings.size, float(f"{observation.pixel_scale:.5g}")
    if isinstance(psf, np.ndarray):
        camera = Camera.with_kernel(size, scale, psf)
    else:
        camera = Camera.of(size, scale, psf, settings.psf_truncation)
        if camera.psf_radius > WIDEST * size:
            raise InputError(
                f"{observation.name}: found a PSF of {psf:g} arcsec, cut at {camera.psf_radius} "
                f"pixels of {scale:g}; expected at most {WIDEST} times the square of {size}"
            )
    return replace(camera, offset=Window(observation.shape, size).offset)


def squares_of(
    observations: Sequence[Observation], camera: Camera, settings: LensFit, gain: NDArray
) -> Squares:
    """Cut the squares of images of one shape and camera, measure their sky, tell what is wrong.

    ``gain`` (n,) is that of the photon noise in the units of the images, 0 with a noise map.
    """
    rows = [
        _square(observation, camera, settings, own)
        for observation, own in zip(observations, gain, strict=True)
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    flags = columns.pop("flags")
    return Squares(
        **{name: torch.from_numpy(np.array(column)) for name, column in columns.items()},
        flags=flags,
    )


def _square(
    observation: Observation, camera: Camera, settings: LensFit, gain: float
) -> dict[str, Any]:
    image, noise = observation.data, observation.noise
    finite, window = ~observation.mask, Window(observation.shape, settings.size)
    light = detect(image, Preprocess())
    unit = _unit(light, observation, settings)
    lowest = image.min(where=finite, initial=np.inf)
    clipped = noise is None and bool(np.mean(image == lowest) >= PILE_UP)
    residual = np.where(finite, image - lowest if clipped else light.residual, 0)
    good = window.cut(finite.astype(np.float32))
    variance = good * 0 + 1
    if isinstance(noise, np.ndarray):
        variance = window.cut((np.where(finite, noise, unit) / np.float32(unit)) ** 2, beyond=1.0)
    data = (window.cut(residual) / unit).astype(np.float32)
    seen = window.cut(light.mask) > 0
    center, radius, circle = (0.0, 0.0), math.nan, (math.nan,) * 3
    flags = [] if finite.all() else ["not_finite"]
    if not seen.any():
        flags.append("blank")
    else:
        x, y = (axis.numpy() for axis in camera.axes())
        if settings.lens_light:
            center = _brightest(window.cut(np.where(finite, light.smooth, 0)), x, y)
        within = seen[window.inner]  # of an image that is smaller, its own edge
        if within[[0, 1, -2, -1]].any() or within[:, [0, 1, -2, -1]].any():
            flags.append("edge")
        distance = np.hypot(y[:, None] - center[1], x - center[0])
        flux = np.clip(data, 0, None) * seen
        radius = (flux * distance).sum() / max(flux.sum(), 1e-30)
        if not settings.lens_light:
            circle = _circle(flux, x, y)
    return {
        "data": data,
        "good": good,
        "variance": variance.astype(np.float32),
        "gain": gain / unit,
        "sky": float(lowest) if clipped else light.sky,
        "unit": unit,
        "clipped": clipped,
        "center": center,
        "radius": np.float32(radius),
        "circle": circle,
        "flags": flags,
    }


def _unit(light: Detection, observation: Observation, settings: LensFit) -> float:
    """Return the noise of the sky: as given, or as measured, in the units of the image."""
    noise = observation.noise
    if isinstance(noise, np.ndarray):
        dark = ~observation.mask & (light.mask == 0)
        where = dark if dark.any() else ~observation.mask
        return float(np.median(noise[where])) if where.any() else 1.0
    if noise is not None:
        return noise
    unit = light.noise / CLIPPED_RMS
    if settings.lens_light and light.sigma:
        # where the light of a galaxy is everywhere, none of it is sky, and its slope no noise
        faint = noise_of_the_faint(light.residual, settings.noise_lag)
        unit = min(unit, faint or unit)
    return unit


def _circle(flux: NDArray, x: NDArray, y: NDArray) -> tuple[float, float, float]:
    """Return the circle ["] through the light, NaN if its centre is near the middle or far away."""
    rows, columns = np.nonzero(flux)
    x0, y0, radius = fit_circle(x[columns], y[rows], flux[rows, columns].astype(np.float64))
    pixel, field = x[1] - x[0], len(x) * (x[1] - x[0])
    far = max(abs(x0), abs(y0))
    good = APART * pixel < far < INNER * field and 2 * pixel < radius < field / 2
    return (x0, y0, radius) if good else (math.nan,) * 3


def _brightest(smooth: NDArray, x: NDArray, y: NDArray) -> tuple[float, float]:
    """Return x and y ["] of the brightest pixel near the middle of a smoothed square."""
    n = len(smooth)
    rim = round(n * (0.5 - INNER))
    inner = smooth[rim : n - rim, rim : n - rim]
    row, column = np.unravel_index(inner.argmax(), inner.shape)
    return float(x[rim + column]), float(y[rim + row])
