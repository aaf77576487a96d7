"""Detection of the light in an image, and the region of interest: which of it is the lens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitdm.config import Preprocess
from vitdm.preprocess.background import (
    CLEAN,
    SMALLEST,
    SMOOTHING,
    as_image,
    measure_background,
    opened,
)

ROUND = 1.1  # below this ratio of the rms axes, a shape has no orientation worth the name
OFF_CENTRE = 1 / 8  # of the image's side: the scatter of lenses about the centre of their cutout
CUT_OFF = 0.05  # what the area of a region counts that the image's edge cuts off
ARC = 0.6  # of the circle around it: an arc fills less, a galaxy or a star more
NEAR = 2.0  # times the circle around an arc holds the further images of its source
SPREAD = 1.5  # peaks of images of one source agree to this factor: lensing keeps the brightness

# An image is far too small to be worth OpenCV's threads: waking them costs more than they do.
cv2.setNumThreads(1)


@dataclass(frozen=True)
class Detection:
    """The light of an image that stands out of the noise; arrays have the image's shape.

    ``residual`` is image - sky (0 where the image has no number), ``smooth`` the smoothed image
    above its own sky, ``noise_smooth`` the noise that is left in it, ``mask`` (uint8) is 1 where
    ``smooth`` exceeds ``level``, after opening. ``sigma`` is the rms of the sky, and ``noise``, in
    units of which light is counted, the same, but never less than that of rounding: it is above 0.
    """

    sky: float
    sigma: float
    noise: float
    residual: NDArray[np.float32]
    smooth: NDArray[np.float32]
    noise_smooth: float
    level: float
    mask: NDArray[np.uint8]


@dataclass(frozen=True)
class Roi:
    """The region of interest: the light of the lens, with its holes filled.

    ``x, y`` (px; column and row, the first pixel's centre is 0, 0) is the flux-weighted centre,
    ``angle`` (deg, in (-180, 180], from +x to +y) the direction of the major axis towards its
    longer tail, ``mirrored`` tells that the longer tail of the minor axis is then towards -y,
    ``elongation`` is the ratio of the flux-weighted rms axes, ``area`` (px²) that of the filled
    region, ``radius`` (px) the distance of its farthest pixel from the centre. ``oriented`` tells
    whether the region is long enough for ``angle`` to mean anything; if not, it is 0 and nothing is
    mirrored. If nothing is ``found``, the centre is the image's. ``contours`` are the outlines of
    the region's parts, (n, 2) of x, y each, the largest first.
    """

    found: bool
    x: float
    y: float
    angle: float = 0.0
    elongation: float = 1.0
    area: int = 0
    radius: float = 0.0
    oriented: bool = False
    mirrored: bool = False
    contours: tuple[NDArray[np.int32], ...] = ()
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
            "roi_oriented": int(self.oriented),
            "roi_mirrored": int(self.mirrored),
            "roi_elongation": self.elongation if self.found else math.nan,
            "noise_sigma": self.sigma,
        }


def detect(image: ArrayLike, settings: Preprocess) -> Detection:
    """Find the light above ``settings.threshold`` times the noise of the smoothed image.

    ``image`` is (height, width), any real numbers; InputError for anything else. The noise is
    measured after the smoothing: how much smoothing reduces it depends on how the noise of
    neighbouring pixels is correlated.
    """
    sky, sigma, residual, smooth, sigma_smooth, rounding = measure_background(as_image(image))
    span = float(residual.max() - residual.min())
    # White noise is lowered by 2 sqrt(pi) times the sigma of the Gaussian (in px).
    noise, noise_smooth = sigma, sigma_smooth or sigma / (2 * math.sqrt(math.pi) * SMOOTHING)
    if sigma <= max(CLEAN * span, rounding):
        # What is seen is rounding, if only that to 8 bits, and smoothing does not reduce it: it is
        # shared by whole patches of pixels. (A step of nearly the whole range is a saturated lens.)
        noise = rounding if CLEAN * span < rounding < 0.02 * span else span / 255 / math.sqrt(12)
        noise = noise if noise > SMALLEST else 1.0
        noise_smooth = max(sigma_smooth, noise)
    level = settings.threshold * noise_smooth
    mask = opened(smooth > level)
    return Detection(sky, sigma, noise, residual, smooth, noise_smooth, level, mask)


def find_roi(image: ArrayLike, settings: Preprocess) -> Roi:
    """Find the light of the lens, its centre and its orientation.

    ``image`` is (height, width), any real numbers; InputError for anything else. The main region is
    the outer contour of the light above the noise with the largest area; areas count less the
    farther they are from the image's centre, where a cutout has its lens, and if the edge cuts them
    off. If the main region is an arc, other regions belong to it that may be further images of the
    same source: about the same circle, and not brighter, for lensing conserves surface brightness.
    The angle is that of the flux-weighted second moments, tan(2 angle) = 2 mu11 / (mu20 - mu02)
    (principal axes: Hu 1962, doi:10.1109/TIT.1962.1057692); of its two directions, and of the two
    sides of the axis, those with the positive third moment are taken.
    """
    return roi_of(detect(image, settings))


def roi_of(light: Detection) -> Roi:
    """Return the region of interest of light that is already detected (see ``find_roi``)."""
    height, width = light.mask.shape
    bright, level = light.mask, light.level
    if 2 * cv2.countNonZero(bright) > bright.size:  # a galaxy fills the image: its brighter half
        level = float(np.median(light.smooth))
        bright = opened(light.smooth > level)
    contours = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    if not contours:
        centre = ((width - 1) / 2, (height - 1) / 2)
        return Roi(False, *centre, sky=light.sky, sigma=light.sigma)
    if len(contours) > 1:
        contours = _lens(contours, light.smooth)
    # The region is filled: the gap between a ring and its centre belongs to it.
    mask = cv2.drawContours(np.zeros_like(bright), contours, -1, 1, cv2.FILLED)
    left, top, columns, rows = cv2.boundingRect(mask)
    box = np.s_[top : top + rows, left : left + columns]
    # The weights vanish at the edge: a pixel more or less there does not change the shape.
    flux = np.maximum(light.smooth[box] - np.float32(level), 0) * mask[box]
    shape = _shape(flux / max(float(flux.max()), SMALLEST), mask[box])
    outline = np.concatenate(contours)[:, 0] - (left + shape.x, top + shape.y)
    oriented = shape.elongation >= ROUND
    return Roi(
        found=True,
        x=left + shape.x,
        y=top + shape.y,
        angle=shape.angle if oriented else 0.0,
        elongation=shape.elongation,
        area=cv2.countNonZero(mask),
        radius=float(np.hypot(*outline.T).max()),
        oriented=oriented,
        mirrored=oriented and shape.mirrored,
        contours=tuple(contour[:, 0] for contour in contours),
        mask=mask,
        sky=light.sky,
        sigma=light.sigma,
    )


def _lens(contours: Sequence[NDArray], smooth: NDArray[np.float32]) -> list[NDArray]:
    """Return the contours that belong to the lens, the main one first (see ``find_roi``)."""
    height, width = smooth.shape
    middle, scale = ((width - 1) / 2, (height - 1) / 2), OFF_CENTRE * min(height, width)

    def weight(contour: NDArray) -> float:
        # 0 if the contour is around the middle, else how far its nearest point is
        distance = max(0.0, -cv2.pointPolygonTest(contour, middle, True)) / scale
        left, top, columns, rows = cv2.boundingRect(contour)
        cut_off = min(left, top, width - left - columns, height - top - rows) <= 0
        share = CUT_OFF if cut_off else 1.0
        return share * cv2.contourArea(contour) * math.exp(-0.5 * distance**2)

    main = max(contours, key=weight)
    lens, peak, reach = [main], _peak(main, smooth), cv2.minEnclosingCircle(main)[1]
    for other in contours:
        if other is main or _peak(other, smooth) > SPREAD * peak:  # brighter: another object
            continue
        # The larger of the two must be an arc: it fills little of the smallest circle around it.
        # The other is an image of the same source if both lie in a circle not much larger.
        larger, radius = main, reach
        if (other_radius := cv2.minEnclosingCircle(other)[1]) > reach:
            larger, radius = other, other_radius
        both = cv2.minEnclosingCircle(np.concatenate([main, other]))[1]
        if cv2.contourArea(larger) < ARC * math.pi * radius**2 and both < NEAR * radius:
            lens.append(other)
    return lens


def _peak(contour: NDArray, smooth: NDArray[np.float32]) -> float:
    """Return the largest value of the smoothed image (height, width) inside a contour (n, 1, 2)."""
    left, top, columns, rows = cv2.boundingRect(contour)
    region = np.zeros((rows, columns), np.uint8)
    cv2.drawContours(region, [contour], -1, 1, cv2.FILLED, offset=(-left, -top))
    return float((smooth[top : top + rows, left : left + columns] * region).max())


class _Shape(NamedTuple):
    """Centre (px, within the box) and angle, mirrored and elongation as in ``Roi``."""

    x: float
    y: float
    angle: float
    mirrored: bool
    elongation: float


def _shape(flux: NDArray[np.float32], mask: NDArray[np.uint8]) -> _Shape:
    """Return the shape of a region from the moments of its smoothed flux (height, width)."""
    moments = cv2.moments(flux)
    if not moments["m00"] > 0:  # no flux: the shape of the region itself
        moments = cv2.moments(mask, binaryImage=True)
    total = moments["m00"]
    # The eigenvalues of the second moments, middle ± radius, are the squares of the rms axes.
    mu20, mu11, mu02 = (moments[name] / total for name in ("mu20", "mu11", "mu02"))
    middle = 0.5 * (mu20 + mu02) - SMOOTHING**2  # second moments add in a convolution
    radius = math.hypot(0.5 * (mu20 - mu02), mu11)
    pixel = 1 / 12  # the second moment of a single pixel: nothing seen is narrower
    elongation = math.sqrt(max(middle + radius, pixel) / max(middle - radius, pixel))
    angle = 0.5 * math.atan2(2 * mu11, mu20 - mu02)
    # An axis has two directions: the positive third moment, the skewness, picks the longer tail.
    mu = [moments[name] for name in ("mu30", "mu21", "mu12", "mu03")]
    if _third_moment(mu, angle) < 0:
        angle += math.pi if angle <= 0 else -math.pi
    mirrored = _third_moment(mu, angle + math.pi / 2) < 0
    return _Shape(
        moments["m10"] / total,
        moments["m01"] / total,
        math.degrees(angle),
        mirrored,
        elongation,
    )


def _third_moment(mu: list[float], angle: float) -> float:
    """Return the third central moment along a direction (rad) from mu30, mu21, mu12, mu03."""
    cos, sin = math.cos(angle), math.sin(angle)
    return cos**3 * mu[0] + 3 * cos**2 * sin * mu[1] + 3 * cos * sin**2 * mu[2] + sin**3 * mu[3]
