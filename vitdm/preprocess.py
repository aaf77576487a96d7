"""From a raw image to the network's input: sky, region of interest, rotation, crop, stretch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from vitdm import dataset
from vitdm.config import InputError, Preprocess

SMOOTHING = 1.0  # px, sigma of the Gaussian: below the width of an arc, above a pixel's noise
ROUND = 1.1  # below this ratio of the rms axes, a shape has no orientation worth the name
PILE_UP = 0.1  # this fraction of values at the smallest one means that the noise was clipped
CHUNK = 256  # images read, processed and written at once
SKY_FRACTION = 0.1  # if less of the image than this is away from light, all of it counts as sky
_OPENING = np.ones((3, 3), np.uint8)
_MARGIN = np.ones((7, 7), np.uint8)  # how far from light a pixel has to be to count as sky

# An image is far too small to be worth OpenCV's threads: waking them costs more than they do.
cv2.setNumThreads(1)


@dataclass(frozen=True)
class Detection:
    """The light of an image that stands out of the noise; arrays have the image's shape.

    ``residual`` is image - sky (0 where the image has no number), ``smooth`` the smoothed image
    above its own sky, ``noise_smooth`` the noise that is left in it, ``mask`` (uint8) is 1 where
    ``smooth`` exceeds the threshold, after opening. ``noise`` is ``sigma``, the rms of the
    sky; where an image shows no noise at all, ``sigma`` is 0 and ``noise`` is not.
    """

    sky: float
    sigma: float
    noise: float
    residual: NDArray[np.float32]
    smooth: NDArray[np.float32]
    noise_smooth: float
    mask: NDArray[np.uint8]


@dataclass(frozen=True)
class Roi:
    """The region of interest: the largest connected patch of light, with its holes filled.

    ``x, y`` (px; column and row, the first pixel's centre is 0, 0) is the flux-weighted centre,
    ``angle`` (deg, in (-180, 180], from +x to +y) the direction of the major axis towards its
    longer tail, ``elongation`` the ratio of the flux-weighted rms axes, ``area`` (px²) that of the
    filled region. ``oriented`` tells whether the region is long enough for ``angle`` to mean
    anything; if not, it is 0. If nothing is ``found``, the centre is the image's.
    """

    found: bool
    x: float
    y: float
    angle: float = 0.0
    elongation: float = 1.0
    area: int = 0
    oriented: bool = False
    contour: NDArray[np.int32] | None = None
    mask: NDArray[np.uint8] | None = None
    sky: float = 0.0
    sigma: float = 0.0

    @property
    def columns(self) -> dict[str, float]:
        """The catalog's columns."""
        return {
            "roi_x": self.x,
            "roi_y": self.y,
            "roi_angle": self.angle if self.oriented else math.nan,
            "roi_found": int(self.found),
            "roi_elongation": self.elongation if self.found else math.nan,
            "noise_sigma": self.sigma,
        }


def _as_image(image: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(image)
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"image: found an array of shape {array.shape}; expected (height, width)")
    if array.dtype.kind not in "buif":
        raise InputError(f"image: found values of type {array.dtype}; expected real numbers")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def estimate_background(image: ArrayLike) -> tuple[float, float]:
    """Return the sky level and the noise rms of an image, both in its units, by sigma clipping.

    Median and rms are taken again and again without the values beyond 3 sigma of the median, until
    none is left (at most 10 times); first of the smoothed image, to find its light, then of the
    pixels that are well away from light. If a tenth of the values or more is piled up at the
    smallest one (noise that was cut at zero), the rms is that of the upper half alone about the
    median. Values that are no finite numbers are ignored. A constant image has rms 0; an image
    without a finite number, sky 0 and rms 0.
    """
    background = _background(_as_image(image))
    return background.sky, background.sigma


class _Background(NamedTuple):
    sky: float
    sigma: float
    residual: NDArray[np.float32]  # image - sky; 0 where it has no number
    smooth: NDArray[np.float32]  # the residual, smoothed, above the sky of its own
    sigma_smooth: float


def _background(image: NDArray[np.float32]) -> _Background:
    finite = np.isfinite(image)
    if not finite.any():
        return _Background(0.0, 0.0, np.zeros_like(image), np.zeros_like(image), 0.0)
    residual = image - image.min(where=finite, initial=np.inf)
    if not finite.all():
        residual[~finite] = np.median(residual[finite])
    smooth = cv2.GaussianBlur(residual, (0, 0), SMOOTHING)
    sparse = smooth[::2, ::2] if min(smooth.shape) > 64 else smooth  # the rest is correlated
    sky_smooth, sigma_smooth = _clipped_statistics(sparse)
    smooth -= np.float32(sky_smooth)
    away = cv2.dilate(_opened(smooth > 3 * sigma_smooth), _MARGIN) == 0
    away &= finite
    if np.count_nonzero(away) < SKY_FRACTION * away.size:
        away = finite
    sky, sigma = _clipped_statistics(residual[away])
    residual -= np.float32(sky)
    residual[~finite] = 0.0
    sky += float(image.min(where=finite, initial=np.inf))
    return _Background(sky, sigma, residual, smooth, sigma_smooth)


def _opened(pixels: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return cv2.morphologyEx(pixels.astype(np.uint8), cv2.MORPH_OPEN, _OPENING)


def _clipped_statistics(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the median and the rms about it of the finite ``values``, clipped at 3 sigma."""
    values = np.sort(values, axis=None)  # sorted once, every clipping is a slice
    pivot = values[values.size // 2]
    offsets = (values - pivot).astype(np.float64)
    piled_up = int(np.searchsorted(offsets, offsets[0], side="right")) >= PILE_UP * offsets.size
    low, high = 0, offsets.size
    for _ in range(10):
        middle = (low + high) // 2
        median = 0.5 * (offsets[(low + high - 1) // 2] + offsets[middle])
        kept = offsets[middle if piled_up else low : high] - median
        sigma = math.sqrt(kept @ kept / kept.size)
        clipped = (
            max(low, int(np.searchsorted(offsets, median - 3 * sigma, side="left"))),
            min(high, int(np.searchsorted(offsets, median + 3 * sigma, side="right"))),
        )
        if clipped == (low, high):
            break
        low, high = clipped
    return float(pivot) + float(median), sigma


def _noise(sigma: float, image: NDArray[np.float32]) -> float:
    """Return an rms to divide by: that of rounding to 8 bits where the image shows no noise."""
    span = float(image.max() - image.min())
    if sigma > 1e-6 * span:
        return sigma
    return span / 255 / math.sqrt(12) or 1.0


def detect(image: ArrayLike, settings: Preprocess) -> Detection:
    """Find the light above ``settings.threshold`` times the noise of the smoothed image.

    ``image`` is (height, width), any real numbers; InputError for anything else. The noise is
    measured after the smoothing, for that is what reduces it, by a factor that depends on how the
    noise of neighbouring pixels is correlated.
    """
    sky, sigma, residual, smooth, sigma_smooth = _background(_as_image(image))
    noise = _noise(sigma, residual)
    noise_smooth = sigma_smooth
    if noise != sigma or not sigma_smooth:
        noise_smooth = max(sigma_smooth, noise / (2 * math.sqrt(math.pi) * SMOOTHING))
    mask = _opened(smooth > settings.threshold * noise_smooth)
    return Detection(sky, sigma, noise, residual, smooth, noise_smooth, mask)


def find_roi(image: ArrayLike, settings: Preprocess) -> Roi:
    """Find the largest connected region of light above the noise, its centre and orientation.

    ``image`` is (height, width), any real numbers; InputError for anything else. Only outer
    contours count and the largest is taken. The angle is that of the flux-weighted second moments,
    tan(2 angle) = 2 mu11 / (mu20 - mu02) (principal axes: Hu 1962, doi:10.1109/TIT.1962.1057692);
    of its two directions the one with the positive third moment is taken.
    """
    return roi_of(detect(image, settings))


def roi_of(light: Detection) -> Roi:
    """Return the region of interest of light that is already detected (see ``find_roi``)."""
    height, width = light.mask.shape
    contours = cv2.findContours(light.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    if not contours:
        centre = ((width - 1) / 2, (height - 1) / 2)
        return Roi(False, *centre, sky=light.sky, sigma=light.sigma)
    contour = max(contours, key=cv2.contourArea)
    mask = cv2.drawContours(np.zeros_like(light.mask), [contour], -1, 1, cv2.FILLED)
    left, top, columns, rows = cv2.boundingRect(contour)
    box = np.s_[top : top + rows, left : left + columns]
    x, y, angle, elongation = _shape(np.where(mask[box], light.smooth[box], 0), mask[box])
    oriented = elongation >= ROUND
    return Roi(
        found=True,
        x=left + x,
        y=top + y,
        angle=angle if oriented else 0.0,
        elongation=elongation,
        area=cv2.countNonZero(mask),
        oriented=oriented,
        contour=contour[:, 0],
        mask=mask,
        sky=light.sky,
        sigma=light.sigma,
    )


def _shape(flux: NDArray, mask: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Return centre x, y, angle (deg) and elongation from the moments of the smoothed flux."""
    moments = cv2.moments(flux)
    if moments["m00"] <= 0:
        moments = cv2.moments(mask, binaryImage=True)
    total = moments["m00"]
    mu20, mu11, mu02 = (moments[name] / total for name in ("mu20", "mu11", "mu02"))
    middle = 0.5 * (mu20 + mu02) - SMOOTHING**2  # second moments add in a convolution
    radius = math.hypot(0.5 * (mu20 - mu02), mu11)
    pixel = 1 / 12  # the second moment of a single pixel: nothing seen is narrower
    elongation = math.sqrt(max(middle + radius, pixel) / max(middle - radius, pixel))
    angle = 0.5 * math.atan2(2 * mu11, mu20 - mu02)
    cos, sin = math.cos(angle), math.sin(angle)
    skewness = (
        cos**3 * moments["mu30"]
        + 3 * cos**2 * sin * moments["mu21"]
        + 3 * cos * sin**2 * moments["mu12"]
        + sin**3 * moments["mu03"]
    )
    degrees = math.degrees(angle)
    if skewness < 0:
        degrees += 180 if degrees <= 0 else -180
    return moments["m10"] / total, moments["m01"] / total, degrees, elongation


def process(image: ArrayLike, settings: Preprocess) -> tuple[NDArray[np.float32], Roi]:
    """Cut, turn and stretch an image into what the network sees: (size, size), float32.

    ``image`` is (height, width), any real numbers and any size; InputError for anything else. The
    sky is subtracted; the cut is made around the centre of the image or of the region of interest
    at the native resolution, with ``derotate`` turned about the centre of the cut so that the
    region's major axis lies along +x. What lies beyond the image, and pixels without a number, get
    the sky's 0. The result is x = (image - sky) / sigma, or arcsinh(x / softening). If no region is
    found, the cut is around the centre and nothing is turned.
    """
    light = detect(image, settings)
    roi = roi_of(light)
    square = cut(light.residual, roi, settings) / np.float32(light.noise)
    if settings.stretch == "arcsinh":
        square = np.arcsinh(square / np.float32(settings.softening))
    return square, roi


def cut(image: NDArray[np.float32], roi: Roi, settings: Preprocess) -> NDArray[np.float32]:
    """Return the square (size, size) of an image, turned if so set; 0 beyond the image."""
    height, width = image.shape
    x, y = (roi.x, roi.y) if settings.crop == "roi" else ((width - 1) / 2, (height - 1) / 2)
    if settings.derotate and roi.oriented:
        return _turned(image, x, y, roi.angle, settings.size)
    return _slice(image, x, y, settings.size)


def _turned(
    image: NDArray[np.float32], x: float, y: float, angle: float, size: int
) -> NDArray[np.float32]:
    """Return the square around (x, y) turned by -angle (deg), by cubic interpolation."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    middle = (size - 1) / 2
    output_to_input = np.array(
        [
            [cos, -sin, x - middle * (cos - sin)],
            [sin, cos, y - middle * (sin + cos)],
        ]
    )
    return cv2.warpAffine(
        image,
        output_to_input,
        (size, size),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )


def _slice(image: NDArray[np.float32], x: float, y: float, size: int) -> NDArray[np.float32]:
    """Return the square whose centre is closest to (x, y): whole pixels, 0 beyond the image."""
    left, top = math.ceil(x - size / 2), math.ceil(y - size / 2)
    height, width = image.shape
    square = np.zeros((size, size), np.float32)
    rows = slice(max(top, 0), min(top + size, height))
    columns = slice(max(left, 0), min(left + size, width))
    if rows.start < rows.stop and columns.start < columns.stop:
        inside = np.s_[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        square[inside] = image[rows, columns]
    return square


def process_dataset(
    dataset_folder: str | Path, out: str | Path, settings: Preprocess, progress: bool = True
) -> None:
    """Process every image of a dataset into a dataset of its own, chunk by chunk.

    The catalog gets the columns of ``Roi``: roi_x, roi_y (px), roi_angle (deg; empty where the
    region has no orientation), roi_found (0 or 1), roi_elongation, noise_sigma (image units).
    """
    started = time.time()
    source = dataset.Dataset.open(dataset_folder)
    catalog = source.catalog.copy()

    def chunks() -> Iterator[NDArray[np.float32]]:
        regions = []
        for images in _chunks(source, "preprocess", progress):
            processed, rois = zip(*(process(image, settings) for image in images), strict=True)
            regions += [roi.columns for roi in rois]
            yield np.stack(processed)
        # The catalog is written after the images: by then its new columns are there.
        catalog[list(regions[0])] = pd.DataFrame(regions, index=catalog.index)

    dataset.write(
        out,
        chunks(),
        catalog,
        rule="preprocess",
        config=settings,
        inputs=[source.folder / "images.npy", source.folder / "catalog.csv"],
        started=started,
    )


def stream(source: dataset.Dataset, label: str, progress: bool = True) -> Iterator[NDArray]:
    """Yield the images of a dataset one by one, read chunk by chunk, with a progress bar."""
    for chunk in _chunks(source, label, progress):
        yield from chunk


def _chunks(source: dataset.Dataset, label: str, progress: bool) -> Iterator[NDArray]:
    with tqdm(total=len(source.images), desc=label, unit="image", disable=not progress) as bar:
        for chunk in source.blocks(CHUNK):
            yield chunk
            bar.update(len(chunk))
