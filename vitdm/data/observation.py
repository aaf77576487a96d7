"""An image with what is known of how it was taken."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitdm.errors import InputError


@dataclass(frozen=True, eq=False)
class Observation:
    """An image (H, W) in any unit, and what is known of it; what is None is estimated or assumed.

    ``data``: the image; NaN, infinite and ``numpy.ma`` masked pixels are missing. ``noise``: its
    rms, a map (H, W) or one number for the sky alone, in the unit of the image. ``gain``: variance
    of the photon noise per brightness (1 for an image in counts); it is not used with a map.
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
        missing |= ~np.isfinite(data)
        if self.mask is not None:
            missing |= _mask(self.mask, data.shape, self.name)
        noise = None if self.noise is None else self._noise(data.shape)
        if isinstance(noise, np.ndarray):  # a pixel without a noise, or with an endless one
            missing |= ~(np.isfinite(noise) & (noise > 0))
        for key in ("pixel_scale", "gain"):
            self._set(key, _positive(getattr(self, key), f"{self.name}: {key}", key == "gain"))
        self._set("psf", None if self.psf is None else self._psf())
        self._set("noise", noise)
        self._set("mask", _frozen(missing))
        self._set("data", _frozen(np.where(missing, np.float32(np.nan), data)))

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
            image = Observation(image, name=f"image {k}")
        own = {key: value for key, value in known.items() if getattr(image, key) is None}
        made.append(image.replace(**own) if own else image)
    return made


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
