"""From a raw image to the network's input: sky, region of interest, rotation, crop, stretch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from vitdm.config import Preprocess
from vitdm.data import dataset
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
MARGIN = 1.1  # a resized region is given this much room
CHUNK = 256  # images read, processed and written at once

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
    measured after the smoothing, for that is what reduces it, by a factor that depends on how the
    noise of neighbouring pixels is correlated.
    """
    sky, sigma, residual, smooth, sigma_smooth, rounding = measure_background(as_image(image))
    span = float(residual.max() - residual.min())
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

    ``image`` is (height, width), any real numbers; InputError for anything else. Of the outer
    contours of the light above the noise the largest counts, less so the farther it is from the
    image's centre, where cutouts have their lens and not its neighbours, and if the edge cuts it
    off. If it is an arc, regions
    belong to it that may be further images of the same source: about the same circle, and not
    brighter, for lensing conserves surface brightness. The angle is that of the flux-weighted
    second moments, tan(2 angle) = 2 mu11 / (mu20 - mu02) (principal axes: Hu 1962,
    doi:10.1109/TIT.1962.1057692); of its two directions, and of the two sides of the axis, those
    with the positive third moment are taken.
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
    mask = cv2.drawContours(np.zeros_like(bright), contours, -1, 1, cv2.FILLED)
    left, top, columns, rows = cv2.boundingRect(mask)
    box = np.s_[top : top + rows, left : left + columns]
    # Weights that vanish at the edge: a pixel more or less there does not change the shape.
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
        distance = max(0.0, -cv2.pointPolygonTest(contour, middle, True)) / scale
        left, top, columns, rows = cv2.boundingRect(contour)
        cut_off = min(left, top, width - left - columns, height - top - rows) <= 0
        share = CUT_OFF if cut_off else 1.0
        return share * cv2.contourArea(contour) * math.exp(-0.5 * distance**2)

    main = max(contours, key=weight)
    lens, peak, reach = [main], _peak(main, smooth), cv2.minEnclosingCircle(main)[1]
    for other in contours:
        if other is main or _peak(other, smooth) > SPREAD * peak:
            continue
        larger, radius = main, reach
        if (other_radius := cv2.minEnclosingCircle(other)[1]) > reach:
            larger, radius = other, other_radius
        both = cv2.minEnclosingCircle(np.concatenate([main, other]))[1]
        if cv2.contourArea(larger) < ARC * math.pi * radius**2 and both < NEAR * radius:
            lens.append(other)
    return lens


def _peak(contour: NDArray, smooth: NDArray[np.float32]) -> float:
    left, top, columns, rows = cv2.boundingRect(contour)
    region = np.zeros((rows, columns), np.uint8)
    cv2.drawContours(region, [contour], -1, 1, cv2.FILLED, offset=(-left, -top))
    return float((smooth[top : top + rows, left : left + columns] * region).max())


class _Shape(NamedTuple):
    x: float
    y: float
    angle: float
    mirrored: bool
    elongation: float


def _shape(flux: NDArray[np.float32], mask: NDArray[np.uint8]) -> _Shape:
    """Return the shape of a region from the moments of its smoothed flux."""
    moments = cv2.moments(flux)
    if not moments["m00"] > 0:
        moments = cv2.moments(mask, binaryImage=True)
    total = moments["m00"]
    mu20, mu11, mu02 = (moments[name] / total for name in ("mu20", "mu11", "mu02"))
    middle = 0.5 * (mu20 + mu02) - SMOOTHING**2  # second moments add in a convolution
    radius = math.hypot(0.5 * (mu20 - mu02), mu11)
    pixel = 1 / 12  # the second moment of a single pixel: nothing seen is narrower
    elongation = math.sqrt(max(middle + radius, pixel) / max(middle - radius, pixel))
    angle = 0.5 * math.atan2(2 * mu11, mu20 - mu02)
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


def process(image: ArrayLike, settings: Preprocess) -> tuple[NDArray[np.float32], Roi]:
    """Cut, turn and stretch an image into what the network sees: (size, size), float32.

    ``image`` is (height, width), any real numbers and any size; InputError for anything else. The
    sky is subtracted; the cut is made around the centre of the image or of the region of interest,
    at the native resolution or, with ``resize``, so that the whole image or region fills it. With
    ``derotate`` it is turned about its centre, so that the region's major axis lies along +x and
    points to its longer tail, and mirrored so that the longer tail across is towards +y. What lies
    beyond the image, and pixels without a number, get the sky's 0. The result is
    x = (image - sky) / sigma, or arcsinh(x / softening). If no region is found, the cut is around
    the centre and nothing is turned.
    """
    light = detect(image, settings)
    roi = roi_of(light)
    return process_light(light, roi, settings), roi


def process_light(light: Detection, roi: Roi, settings: Preprocess) -> NDArray[np.float32]:
    """Return what ``process`` makes of an image whose light and region are already found."""
    square = cut(light.residual, roi, settings) / np.float32(light.noise)
    if settings.stretch == "arcsinh":
        square = np.arcsinh(square / np.float32(settings.softening))
    return square


class Window(NamedTuple):
    """The square that is cut: its centre (px), turn (deg), mirror, and side (px of the image)."""

    x: float
    y: float
    angle: float
    mirrored: bool
    side: float


def window(shape: tuple[int, int], roi: Roi, settings: Preprocess) -> Window:
    """Return what is cut of an image of a shape (height, width) with this region of interest."""
    height, width = shape
    x, y, side = (width - 1) / 2, (height - 1) / 2, float(max(height, width))
    if settings.crop == "roi" and roi.found:
        x, y, side = roi.x, roi.y, 2 * MARGIN * max(roi.radius, 1.0)
    turn = (roi.angle, roi.mirrored) if settings.derotate and roi.oriented else (0.0, False)
    return Window(x, y, *turn, side if settings.resize else float(settings.size))


def cut(image: NDArray[np.float32], roi: Roi, settings: Preprocess) -> NDArray[np.float32]:
    """Return the square (size, size) of an image, turned and resized if so set; 0 beyond."""
    frame = window(image.shape, roi, settings)
    if frame[2:] == (0.0, False, settings.size):
        return _slice(image, frame.x, frame.y, settings.size)
    return _warped(image, frame, settings.size)


def _warped(image: NDArray[np.float32], frame: Window, size: int) -> NDArray[np.float32]:
    """Return a square of an image by cubic interpolation, smoothed to what wider pixels can hold.

    It is turned by -angle, then mirrored top to bottom.
    """
    scale, angle = frame.side / size, math.radians(frame.angle)
    if scale > 1:
        image = cv2.GaussianBlur(image, (0, 0), 0.5 * math.sqrt(scale**2 - 1))
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    along, across = np.array([cos, sin]), np.array([-sin, cos]) * (-1 if frame.mirrored else 1)
    corner = np.array([frame.x, frame.y]) - (size - 1) / 2 * (along + across)
    return cv2.warpAffine(
        image,
        np.column_stack([along, across, corner]),
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
    region has no orientation), roi_found, roi_oriented, roi_mirrored (0 or 1), roi_elongation,
    noise_sigma (image units).
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
