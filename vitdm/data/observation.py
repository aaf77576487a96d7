"""An image with what is known of how it was taken."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitdm.data.foreign import as_scale
from vitdm.errors import InputError

LARGEST_NOISE = 1e7  # times the small values of a noise map: how masked pixels are often marked
# Pixels that were filled with one value:
SPIKE = 10  # it is so many times as frequent as the values next to it
FAINTER, BRIGHTER = 0.01, 0.05  # fraction of values below, if noise goes on there; of pixels above
CORE = np.ones((5, 5), np.uint8)  # what has to fit into an area
MIN_CORE = 25  # px where all of CORE around them is filled
STEP = 1.5  # from the area to the pixel at its border, over that to the next pixel
MAX_VALUES = 8
ARITHMETIC = 1e-5  # below this fraction of the range of values there is no noise
TURNS = 0.7  # ratio of second to first differences: noise 1.7, if correlated over 2 px 1; light 0.2
ROUNDED = 3.0  # noise below so many steps of the values may be that of their rounding


@dataclass(frozen=True, eq=False)
class Observation:
    """An image (H, W) in any unit, and what is known of it; what is None is estimated or assumed.

    ``data``: the image; NaN, infinite and ``numpy.ma`` masked pixels are missing, and so are
    ``empty_areas``. ``noise``: its rms, a map (H, W) or one number for the sky alone, in the unit
    of the image; a pixel without one, or with one 1e7 times that of others, is missing.
    ``gain``: variance of the photon noise per brightness (1 for an image in counts), used with the
    noise of the sky alone.
    ``psf``: a kernel (h, w) at the image's pixel scale, of odd or even sides, normalised here; or
    one number, the FWHM of a Gaussian in arcsec. ``mask`` (H, W): True where a pixel must not be
    used, as in ``numpy.ma``. ``pixel_scale``: arcsec. ``unit``: such as ``counts`` or
    ``electron/s``. ``name``: what messages call it, such as its file.

    After it is made, ``data`` is float32 with NaN in every missing pixel, ``mask`` is True in the
    same pixels, and arrays cannot be written to. InputError names what is wrong.
    """

    data: NDArray[np.float32]
    noise: NDArray[np.float32] | float | None = None
    psf: NDArray[np.float64] | float | None = None
    mask: NDArray[np.bool_] | None = None
    pixel_scale: float | None = None
    gain: float | None = None
    unit: str | None = None
    name: str = "image"

    def __post_init__(self) -> None:
        data, missing = _numbers(self.data, f"{self.name}: data")
        if data.ndim != 2 or not data.size:
            raise InputError(f"{self.name}: found data of shape {data.shape}; expected (H, W)")
        missing |= ~np.isfinite(data) | empty_areas(data)
        if self.mask is not None:
            missing |= _mask(self.mask, data.shape, self.name)
        noise = None if self.noise is None else self._noise(data.shape)
        if isinstance(noise, np.ndarray):  # a pixel without a noise, or with an endless one
            missing |= ~_is_noise(noise)
        self._set("pixel_scale", as_scale(self.pixel_scale, f"{self.name}: pixel_scale"))
        self._set("gain", _positive(self.gain, f"{self.name}: gain", zero=True))
        self._set("psf", None if self.psf is None else self._psf())
        self._set("noise", noise)
        self._set("mask", _frozen(missing))
        self._set("data", _frozen(np.where(missing, np.float32(np.nan), data)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the data, so that an observation stands wherever an image does."""
        return np.array(self.data, dtype, copy=copy)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.data.shape

    @property
    def unknown(self) -> tuple[str, ...]:
        """What has to be estimated or assumed: of ``noise``, ``gain``, ``psf``, ``pixel_scale``."""
        names = [name for name in ("noise", "psf", "pixel_scale") if getattr(self, name) is None]
        if self.gain is None and not isinstance(self.noise, np.ndarray):
            names.append("gain")
        return tuple(names)

    def replace(self, **changes: Any) -> Observation:
        """Return the same observation with something else known of it."""
        return dataclasses.replace(self, **changes)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _noise(self, shape: tuple[int, int]) -> NDArray[np.float32] | float:
        noise, missing = _numbers(self.noise, f"{self.name}: noise")
        if noise.ndim == 0:
            return _positive(float(noise), f"{self.name}: noise")
        if noise.shape != shape:
            raise InputError(
                f"{self.name}: noise: found a map of shape {noise.shape}; expected that of the "
                f"data, {shape}, or one number"
            )
        return _frozen(np.where(missing, np.float32(np.nan), noise))

    def _psf(self) -> NDArray[np.float64] | float:
        kernel, missing = _numbers(self.psf, f"{self.name}: psf", np.float64)
        if kernel.ndim == 0:
            return _positive(float(kernel), f"{self.name}: psf (FWHM in arcsec)", zero=True)
        kernel = np.where(missing, 0.0, kernel)
        good = kernel.ndim == 2 and kernel.size and np.isfinite(kernel).all() and kernel.sum() > 0
        if not good:
            raise InputError(
                f"{self.name}: psf: found an array of shape {kernel.shape} and sum "
                f"{kernel.sum():.3g}; expected a kernel (h, w) of finite numbers with a positive "
                "sum, or one number, its FWHM in arcsec"
            )
        return _frozen(kernel / kernel.sum())


def as_observations(
    images: Observation | ArrayLike | Sequence[Any], **known: Any
) -> list[Observation]:
    """Return observations of one, of several, or of arrays: (n, H, W) or n arrays (H, W).

    ``known``, such as ``pixel_scale``, holds for those that do not say it themselves. InputError
    names the image that is none by its number.
    """
    if isinstance(images, Observation):
        images = [images]
    if not hasattr(images, "__len__") or getattr(images, "ndim", 3) < 3:
        shape = getattr(images, "shape", type(images).__name__)
        raise InputError(f"images: found {shape}; expected (n, H, W), or a list of images (H, W)")
    if not len(images):
        raise InputError("images: found none; expected at least one, (n, H, W)")
    made = []
    for k, image in enumerate(images):
        if not isinstance(image, Observation):
            made.append(Observation(image, name=f"image {k}", **known))
            continue
        own = {key: value for key, value in known.items() if getattr(image, key) is None}
        made.append(image.replace(**own) if own else image)
    return made


def empty_areas(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where an image (H, W) was filled with one value: borders, gaps, stars, cosmic rays.

    Such pixels have exactly one value, far more often than those next to it, in an image whose
    other pixels vary by noise. If there is no noise below that value, it may be where the noise
    was clipped: then the pixels must lie in large areas, and the image breaks off at their border.
    So the sky of an image without noise, of one in 8 bits, or of one whose noise was clipped, is
    not empty, nor is a saturated star.
    """
    finite = np.isfinite(image)
    empty = np.zeros(image.shape, bool)
    ordered = np.sort(image[finite])
    starts = np.flatnonzero(np.diff(ordered, prepend=-np.inf))  # of each run of equal values
    values, counts = ordered[starts], np.diff(starts, append=ordered.size)
    if values.size < MIN_CORE:
        return empty
    padded = np.pad(counts, 2)
    near = np.max([padded[k : k + counts.size] for k in (0, 1, 3, 4)], axis=0)
    often = (counts >= MIN_CORE) & (counts > SPIKE * near)
    often = np.flatnonzero(often & (ordered.size - starts - counts > BRIGHTER * ordered.size))
    least = max(ROUNDED * np.diff(values).min(), ARITHMETIC * float(values[-1] - values[0]))
    for k in often[np.argsort(-counts[often])][:MAX_VALUES]:
        equal = image == values[k]
        others = finite & ~equal
        if _is_noisy(image, others, least):
            within_noise = k > FAINTER * values.size  # that many values are smaller
            empty |= equal if within_noise else _cut_out(image, equal, others)
    return empty


def _cut_out(
    image: NDArray[np.float32], equal: NDArray[np.bool_], others: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return the large areas of one value from which the image departs by a step, if it does."""
    core = cv2.erode(equal.view(np.uint8), CORE)  # beyond the edge, all counts as equal
    n, labels = cv2.connectedComponents(equal.view(np.uint8))
    area = (np.bincount(labels[core > 0], minlength=n) >= MIN_CORE)[labels]
    value, steps, next_steps = image[equal][0], [], []
    for k in range(4):  # the sides of the area's pixels
        within, pixels, usable = (np.rot90(array, k) for array in (area, image, others))
        edge = within[:, :-2] & usable[:, 1:-1] & usable[:, 2:]
        steps.append(pixels[:, 1:-1][edge] - value)
        next_steps.append(pixels[:, 2:][edge] - pixels[:, 1:-1][edge])
    step, next_step = np.abs(np.concatenate(steps)), np.abs(np.concatenate(next_steps))
    # Light that fades into a constant sky takes a larger step with each pixel outwards.
    breaks_off = step.size and np.median(step) > STEP * np.median(next_step)
    return area if breaks_off else np.zeros_like(equal)


def _is_noisy(image: NDArray[np.float32], others: NDArray[np.bool_], least: float) -> bool:
    """Tell whether the fainter half of ``others`` varies by noise of more than ``least``.

    From pixel to pixel, noise turns back and light goes on: the second differences of light are
    far smaller than the first.
    """
    left, middle, right = image[:, :-2], image[:, 1:-1], image[:, 2:]
    usable = others[:, :-2] & others[:, 1:-1] & others[:, 2:]
    usable &= middle <= np.median(image[others])
    if not usable.any():
        return False
    first = np.median(np.abs(right - middle)[usable])
    second = np.median(np.abs(left - 2 * middle + right)[usable])
    return bool(first > least and second > TURNS * first)


def _is_noise(noise: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where a noise map has a number that is one: positive, and not a mark for a mask."""
    good = np.isfinite(noise) & (noise > 0)
    if good.any():  # not the median: more than half of the pixels may be masked
        good &= noise < LARGEST_NOISE * np.quantile(noise[good], 0.01)
    return good


def _numbers(
    values: Any, where: str, dtype: type = np.float32
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return real numbers as an array of their own, and where ``numpy.ma`` masks them."""
    array = np.ma.getdata(values) if np.ma.isMaskedArray(values) else np.asarray(values)
    if array.dtype.kind not in "buif":
        raise InputError(f"{where}: found values of type {array.dtype}; expected real numbers")
    with np.errstate(over="ignore"):
        return np.array(array, dtype), np.array(np.ma.getmaskarray(values), bool)


def _mask(mask: ArrayLike, shape: tuple[int, int], name: str) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.shape != shape or array.dtype.kind not in "bui":
        raise InputError(
            f"{name}: mask: found {array.dtype} of shape {array.shape}; expected bool of the "
            f"data's shape {shape}, True where a pixel must not be used"
        )
    return array.astype(bool)


def _positive(value: float | None, where: str, zero: bool = False) -> float | None:
    if value is None:
        return None
    good = isinstance(value, (int, float, np.number)) and math.isfinite(value)
    if not good or value < 0 or (value == 0 and not zero):
        raise InputError(f"{where}: found {value}; expected a positive number")
    return float(value)


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array
