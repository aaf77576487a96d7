"""The precursor's image processing and features as published, for the audit only.

The procedure of github.com/SVJLucas/ViT-for-Dark-Matter-Morphology (notebook 2), written anew, so
that ours can be compared with it on the same images (``studies.invariance``), and to see what each
fault did to a training (``studies.audit``). The faults below are kept on purpose, since the
published numbers rest on them; each of 1 to 8 but 3 is a switch (``Faults``), and with all of them
off, the procedure does what it was meant to do:

1. The square of 64 rows and 88 columns is re-wrapped into 88 rows and 64 columns, not transposed:
   each row of the image breaks off and goes on in the next.
2. The cut is always upright (shorter side wide, longer side high), whichever side the rotation has
   laid along x, and then stretched to a landscape; and the image is rotated on a canvas of the size
   of the upright box, which clips it. So an image and its rotated copy do not become alike.
3. The rotation angle was to be brought into -45 to 45 degrees. With OpenCV 4.5 to 4.x angles are in
   (0, 90], and this never happens. OpenCV 5 has other angles; here the angle is derived from the
   corners of the box, so that every version gives what 4.x gave.
4. The first contour is taken, not the largest: the one whose uppermost pixel is lowest.
5. Holes count as objects: a ring is two of them, at distance 0.
6. The number of objects at the very low level is that of the low level.
7. A contour without area has its centre at (0, 0).
8. Distances of fewer than two objects are -1, and are then normalised like any distance.
9. Thresholds are absolute and the image is cut at 8 bits, distances and centres at whole pixels.

The published images were in [0, 1]. Any other image is scaled so first, from its smallest to its
largest value; its noise then decides what an absolute threshold means. Where no light is
found the published code stops with an error; here the whole image is resized, and has no area.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from studies.config import Faults

PUBLISHED = Faults()
LEVELS = {"very_low": 0.1, "low": 0.3, "medium": 0.35, "high": 0.4}
ROWS, COLUMNS = 64, 88
DIAGONAL = math.hypot(ROWS, COLUMNS)  # px, the unit of the distances


class Box(NamedTuple):
    """The smallest rectangle about a contour, and the upright one about its corners.

    ``centre`` (x, y) and ``size`` (width, height) are those of the upright one [px]; ``sides`` are
    the shorter and the longer side of the rectangle [px], ``angle`` (deg, in (0, 90], from +x to
    +y) is the direction of one of them.
    """

    centre: tuple[float, float]
    size: tuple[int, int]
    sides: tuple[int, int]
    angle: float


def scale(image: ArrayLike) -> NDArray[np.float64]:
    """Return an image (height, width) between 0 and 1; what is no finite number becomes 0."""
    image = np.asarray(image, np.float64)
    finite = np.isfinite(image)
    if not finite.all():
        image = np.where(finite, image, image[finite].min() if finite.any() else 0.0)
    low, high = image.min(), image.max()
    return (image - low) / ((high - low) or 1.0)


def find(scaled: NDArray[np.float64], faults: Faults = PUBLISHED) -> NDArray[np.int32] | None:
    """Return the contour (n, 1, 2) that the procedure takes, None if there is none (4).

    Without the fault, the largest.
    """
    smooth = cv2.GaussianBlur(scaled, (15, 15), 0)
    bright = cv2.threshold(smooth, 0.02, 1, cv2.THRESH_BINARY)[1]
    opened = cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    outer = [contour for contour, parent in _contours(opened) if parent < 0]
    if not faults.first_contour:
        return max(outer, key=cv2.contourArea, default=None)
    # in this order OpenCV 4 returns them; a later version need not
    return max(outer, key=lambda contour: contour[:, 0, 1].min(), default=None)


def _contours(
    bright: NDArray[np.float64], mode: int = cv2.RETR_TREE
) -> list[tuple[NDArray[np.int32], int]]:
    """Return outer and inner contours of what is 1, with their parents' number (outermost: -1).

    With RETR_CCOMP every outer contour is an outermost one, within a ring too.
    """
    bright = cv2.convertScaleAbs(bright)
    contours, hierarchy = cv2.findContours(bright, mode, cv2.CHAIN_APPROX_NONE)
    return list(zip(contours, hierarchy[0, :, 3], strict=True)) if contours else []


def box_of(contour: NDArray[np.int32]) -> Box:
    """Return the box about a contour, with the angle that OpenCV 4.5 to 4.x gives (3)."""
    corners = cv2.boxPoints(cv2.minAreaRect(contour)).astype(np.float64)
    side, other = corners[1] - corners[0], corners[2] - corners[1]
    angle = math.degrees(math.atan2(side[1], side[0])) % 90
    if angle < 1e-3 or angle > 90 - 1e-3:  # a box along the axes, up to the corners' rounding
        angle = 90.0
    lengths = sorted((math.hypot(*side), math.hypot(*other)))
    # rounded first: a side of 2 pixels can be 1.9999999
    short, long = (max(int(round(length, 4)), 1) for length in lengths)
    corners = np.trunc(corners)
    low, high = corners.min(axis=0), corners.max(axis=0)
    width, height = np.maximum(high - low, 1).astype(int).tolist()
    return Box(tuple(((low + high) / 2).tolist()), (width, height), (short, long), angle)


def cut(image: NDArray, box: Box) -> NDArray:
    """Return what the procedure leaves of an image (uint8 or float32): (longer, shorter side) (2).

    Box and image are cut upright, turned on a canvas of that size, and cut again.
    """
    middle = (box.size[0] / 2, box.size[1] / 2)
    upright = cv2.getRectSubPix(image, box.size, box.centre)
    turned = cv2.warpAffine(upright, cv2.getRotationMatrix2D(middle, box.angle, 1.0), box.size)
    return cv2.getRectSubPix(turned, box.sides, middle)


def turn(image: NDArray, contour: NDArray[np.int32]) -> NDArray:
    """Return the smallest rectangle about a contour, its longer side along x: ``cut`` fixed.

    (shorter, longer side) px, nothing of it clipped but what lies outside the image.
    """
    corners = cv2.boxPoints(cv2.minAreaRect(contour)).astype(np.float64)
    long, short = sorted((corners[1] - corners[0], corners[2] - corners[1]), key=_length)[::-1]
    width, height = (max(round(_length(side)), 1) for side in (long, short))
    centre = corners.mean(axis=0)
    angle = math.degrees(math.atan2(long[1], long[0]))
    matrix = cv2.getRotationMatrix2D(tuple(centre.tolist()), angle, 1.0)
    matrix[:, 2] += np.array([width - 1, height - 1]) / 2 - centre
    return cv2.warpAffine(image, matrix, (width, height))


def _length(side: NDArray[np.float64]) -> float:
    """Return the length (px) of a side (2,) of a box."""
    return math.hypot(*side)


def inside(x: NDArray, y: NDArray, box: Box) -> NDArray[np.bool_]:
    """Return (n,) which pixels (x, y) of an image are in what ``cut`` leaves of it.

    Pixels that it repeats at the borders of the canvas do not count.
    """
    size, middle = np.array(box.size), np.array(box.size) / 2
    upright = np.column_stack([x, y]) - box.centre + (size - 1) / 2
    matrix = cv2.getRotationMatrix2D(tuple(middle.tolist()), box.angle, 1.0)
    turned = upright @ matrix[:, :2].T + matrix[:, 2]
    on_canvas = (np.minimum(upright, turned) >= -0.5) & (np.maximum(upright, turned) < size - 0.5)
    return (on_canvas & (np.abs(turned - middle) <= np.array(box.sides) / 2)).all(axis=1)


def crop(image: ArrayLike) -> NDArray[np.float64]:
    """Return the image cut, turned and resized: (64, 88), values from 0 to 1."""
    scaled = scale(image)
    return resized(scaled, find(scaled))


def resized(
    scaled: NDArray[np.float64], contour: NDArray[np.int32] | None, faults: Faults = PUBLISHED
) -> NDArray[np.float64]:
    """Return ``crop`` of an image that is already scaled, about the contour found in it."""
    part = levels = cv2.convertScaleAbs(255 * scaled)
    if contour is not None:
        part = cut(levels, box_of(contour)) if faults.upright_cut else turn(levels, contour)
    return cv2.resize(part / 255, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)


def process(image: ArrayLike) -> NDArray[np.float64]:
    """Return what the precursor's network saw of an image (height, width): (88, 64) (1)."""
    return crop(image).reshape(COLUMNS, ROWS)


def published_features(image: ArrayLike) -> dict[str, float]:
    """Return the 13 features of an image (height, width): area, and three for each of ``LEVELS``.

    ``area`` is the fraction of the image within the contour; ``dmax`` and ``dmin`` are the largest
    and smallest distance of bright objects / the diagonal of 64 x 88 pixels, ``number`` (n - 3) / 3
    of n objects.
    """
    scaled = scale(image)
    return _features(scaled, find(scaled))


def process_and_measure(
    image: ArrayLike, faults: Faults = PUBLISHED
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Return what ``process`` and ``published_features`` return; the contour is found once.

    ``image`` is (height, width); ``faults`` are those that are left in, by default all. With
    ``faults.placeholders`` off, a distance that does not exist is NaN.
    """
    scaled = scale(image)
    contour = find(scaled, faults)
    landscape = resized(scaled, contour, faults)
    seen = landscape.reshape(COLUMNS, ROWS) if faults.rewrapped else landscape.T
    return seen, _features(scaled, contour, faults)


def _features(
    scaled: NDArray[np.float64], contour: NDArray[np.int32] | None, faults: Faults = PUBLISHED
) -> dict[str, float]:
    """Return the features of an image scaled to [0, 1], with the contour found in it."""
    area = 0.0 if contour is None else cv2.contourArea(contour) / scaled.size
    smooth = cv2.GaussianBlur(scaled, (5, 5), 0)
    mode = cv2.RETR_TREE if faults.holes_counted else cv2.RETR_CCOMP
    objects = {
        name: [
            contour
            for contour, parent in _contours(cv2.threshold(smooth, level, 1, 0)[1], mode)
            if faults.holes_counted or parent < 0  # (5)
        ]
        for name, level in LEVELS.items()
    }
    distances = {name: _distances(contours, faults) for name, contours in objects.items()}
    counted = objects | ({"very_low": objects["low"]} if faults.low_level_twice else {})  # (6)
    return (
        {"area": area}
        | {f"dmax_{name}": largest / DIAGONAL for name, (largest, _) in distances.items()}
        | {f"dmin_{name}": smallest / DIAGONAL for name, (_, smallest) in distances.items()}
        | {f"number_{name}": (len(contours) - 3) / 3 for name, contours in counted.items()}
    )


def _distances(
    contours: list[NDArray[np.int32]], faults: Faults = PUBLISHED
) -> tuple[float, float]:
    """Return the largest and smallest distance of the contours' centres, whole pixels."""
    if len(contours) < 2:
        return (-1, -1) if faults.placeholders else (math.nan, math.nan)  # (8)
    centres = []
    for contour in contours:
        moments = cv2.moments(contour)
        if moments["m00"] > 0:
            centre = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
        else:  # (7)
            centre = (0, 0) if faults.placeholders else contour[:, 0].mean(axis=0)
        centres.append((int(centre[0]), int(centre[1])))
    distances = [math.dist(a, b) for i, a in enumerate(centres) for b in centres[i + 1 :]]
    return int(max(distances)), int(min(distances))
