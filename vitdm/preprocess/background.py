"""The sky and the noise of an image, also where there is hardly any sky or no noise to see."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitdm.compiled import compiled
from vitdm.errors import InputError

SMOOTHING = 1.0  # px, sigma of the Gaussian: below the width of an arc, above a pixel's noise
PILE_UP = 0.1  # this fraction of values at the smallest one means that the noise was clipped
CROWDED = 0.6  # smoothing leaves this fraction of the sky's rms: it is no noise, but light
STRUCTURE = 1.6  # the sky varies by this many times the noise: what is taken for sky is light
LAG = 3  # px, at which pixels are compared to see their noise: beyond its correlation
CLEAN = 1e-4  # below this fraction of the range of values there is no noise, only arithmetic
LARGEST = 1e30  # image units; a value beyond is none, and its square no number
SMALLEST = 1e-30  # image units; noise below is none
SKY_FRACTION = 0.1  # if less of the image than this is away from light, all of it counts as sky
_OPENING = np.ones((3, 3), np.uint8)
_MARGIN = np.ones((7, 7), np.uint8)  # how far from light a pixel has to be to count as sky


def as_image(image: ArrayLike) -> NDArray[np.float32]:
    """Return an image (height, width) as float32; InputError for anything else.

    NaN where ``numpy.ma`` masks a pixel.
    """
    masked = np.ma.isMaskedArray(image) and np.ma.is_masked(image)
    array = np.ma.filled(np.ma.asarray(image, np.float32), np.nan) if masked else np.asarray(image)
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
    median. If what is left still varies much more than the differences of its pixels, as where a
    galaxy fills the image, the noise is that of the differences (after Immerkaer 1996,
    doi:10.1006/cviu.1996.0060); the sky is a plane if most of the image lies on one, and else the
    faintest level of the smoothed image. Values that are no finite numbers are ignored. A constant
    image has rms 0; an image without a finite number, sky 0 and rms 0.
    """
    background = measure_background(as_image(image))
    return background.sky, background.sigma


class Background(NamedTuple):
    """What is measured of an image's sky, in its units; arrays have its shape."""

    sky: float
    sigma: float
    residual: NDArray[np.float32]  # image - sky; 0 where it has no number
    smooth: NDArray[np.float32]  # the residual, smoothed, above the sky of its own
    sigma_smooth: float
    rounding: float  # rms of the rounding of pixel values; 0 if they are not rounded


def measure_background(image: NDArray[np.float32], tilted: bool = False) -> Background:
    """Return sky, noise and what is above the sky, raw and smoothed (see ``estimate_background``).

    ``tilted`` tells that a plane was already taken out of the image.
    """
    finite = np.abs(image) < LARGEST  # no NaN either
    whole = bool(finite.all())
    if not whole and not finite.any():
        return Background(0.0, 0.0, np.zeros_like(image), np.zeros_like(image), 0.0, 0.0)
    # From the darkest pixel on, all values are small: float32 keeps its digits for the noise.
    darkest = image.min() if whole else image.min(where=finite, initial=np.inf)
    residual = image - darkest
    if not whole:
        residual[~finite] = np.median(residual[finite])
    smooth = cv2.GaussianBlur(residual, (0, 0), SMOOTHING)
    # Of a large image every other pixel is enough to know the noise, to one per cent.
    every = 2 if min(smooth.shape) > 64 else 1
    sparse = np.s_[::every, ::every]
    # First the smoothed image, to see its light; then the pixels that are away from light.
    sky_smooth, sigma_smooth = _clipped_statistics(np.sort(smooth[sparse], axis=None))
    smooth -= np.float32(sky_smooth)
    away = cv2.dilate(opened(smooth > 3 * sigma_smooth), _MARGIN) == 0
    if not whole:
        away &= finite
    if np.count_nonzero(away) < SKY_FRACTION * away.size:
        away = finite
    pixels = np.sort(residual[sparse][away[sparse]], axis=None)
    sky, sigma = _clipped_statistics(pixels)
    rounding = _rounding(pixels)
    if pixels[0] == pixels[-1]:  # a sky of one value: look at the light
        rounding = _rounding(np.sort(residual[sparse], axis=None))
    # Smoothing lowers noise: where it hardly does, what varies is light, or the sky is tilted.
    if sigma_smooth > CROWDED * sigma and not rounding:
        pixel_noise = _pixel_noise(residual, smooth, finite)
        if STRUCTURE * pixel_noise < sigma and pixel_noise > CLEAN * float(residual.max()):
            plane = _plane(smooth, finite, pixel_noise)
            if plane is not None and not tilted:
                level = measure_background(image - plane, tilted=True)
                return level._replace(sky=level.sky + float(np.median(plane)))
            # Light everywhere: what varies from pixel to pixel is noise, the darkest is sky.
            faintest = float(np.quantile(smooth[finite], 0.02))
            sky, sigma = faintest + sky_smooth, pixel_noise
            smooth -= np.float32(faintest)
            sigma_smooth = pixel_noise / (2 * math.sqrt(math.pi) * SMOOTHING)
    residual -= np.float32(sky)
    if not whole:
        residual[~finite] = 0.0
    sky += float(darkest)
    return Background(sky, sigma, residual, smooth, sigma_smooth, rounding)


def _plane(
    smooth: NDArray[np.float32], finite: NDArray[np.bool_], pixel_noise: float
) -> NDArray[np.float32] | None:
    """Return the plane (height, width) that most of a smoothed image lies on, None if none.

    Fitted by least squares, again and again without what is more than two rms above it.
    """
    rows, columns = (axis[:: max(1, axis.size // 5000)] for axis in np.nonzero(finite))
    design = np.stack([np.ones(rows.size), columns, rows], axis=1)
    values = smooth[rows, columns].astype(np.float64)
    kept = np.ones(values.size, bool)
    for _ in range(10):
        fit = np.linalg.lstsq(design[kept], values[kept], rcond=None)[0]
        left = values - design @ fit
        rms = math.sqrt(float(np.mean(left[kept] ** 2)))
        kept = left < 2 * rms
    if rms > pixel_noise or 2 * np.count_nonzero(kept) < kept.size:
        return None
    y, x = np.indices(smooth.shape)
    return (fit[1] * x + fit[2] * y).astype(np.float32)


def _pixel_noise(
    image: NDArray[np.float32], smooth: NDArray[np.float32], finite: NDArray[np.bool_]
) -> float:
    """Return the noise rms seen in the second differences of the fainter half, 0 if unknown.

    Pixels are compared across LAG, so that noise which neighbours share is seen in full. Where
    noise was clipped or rounded away, most differences are equal and nothing is known.
    """
    if min(image.shape) <= 4 * LAG:
        return 0.0
    left, middle, right = image[:, : -2 * LAG], image[:, LAG:-LAG], image[:, 2 * LAG :]
    level = smooth[:, LAG:-LAG]
    faint = (level <= np.median(level[::2, ::2])) & finite[:, LAG:-LAG]
    differences = np.abs((left - 2 * middle + right)[faint])
    if (
        not differences.size
        or np.count_nonzero(middle[faint] == middle.min()) > PILE_UP * faint.sum()
    ):
        return 0.0
    # 1.4826: rms of a Gaussian over its median |x|; 6 = 1 + 4 + 1: variance of a - 2 b + c
    return float(np.median(differences)) * 1.4826 / math.sqrt(6)


def opened(pixels: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return pixels (height, width), uint8, without specks that are smaller than 3 x 3."""
    return cv2.morphologyEx(pixels.astype(np.uint8), cv2.MORPH_OPEN, _OPENING)


@compiled
def _clipped_statistics(values):
    """Return the median and the rms about it of sorted ``values`` (n,), clipped at 3 sigma."""
    n = values.size
    pivot = np.float64(values[n // 2])
    if values[int(0.75 * n)] == values[0]:  # a sky without noise: the rest, of any size, is light
        return pivot, 0.0
    piled_up = values[min(n - 1, int(math.ceil(PILE_UP * n)) - 1)] == values[0]
    low, high = 0, n
    median, sigma = 0.0, 0.0
    for _ in range(10):
        middle = (low + high) // 2
        # Of what is left, values[low:high]: the median, and the rms about it (of clipped noise,
        # of the upper half only). All less the pivot, so that large values keep their digits.
        median = 0.5 * (values[(low + high - 1) // 2] - pivot + (values[middle] - pivot))
        first = middle if piled_up else low
        squares = 0.0
        for k in range(first, high):
            squares += (values[k] - pivot - median) ** 2
        sigma = math.sqrt(squares / (high - first))
        # The values are sorted: clipping moves the two ends.
        left, right = low, high
        while values[left] - pivot < median - 3 * sigma:
            left += 1
        while values[right - 1] - pivot > median + 3 * sigma:
            right -= 1
        if left == low and right == high:
            break
        low, high = left, right
    return pivot + median, sigma


def _rounding(pixels: NDArray[np.float32]) -> float:
    """Return the rms, step / sqrt(12), of the rounding of sorted pixels, 0 if hardly any agree."""
    some = pixels[pixels.size // 4 :][:500]  # sorted: rounded pixels stand beside their equals
    if 2 * np.count_nonzero(some[1:] == some[:-1]) < some.size:
        return 0.0
    # The smallest step between different values is the step of the rounding.
    steps = np.diff(pixels)
    larger = steps[steps > 1e-5 * (pixels[-1] - pixels[0])]
    if not larger.size or 2 * larger.size > steps.size:
        return 0.0
    return float(larger.min()) / math.sqrt(12)
