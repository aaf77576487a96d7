"""From a raw image to the input of a network, and the same for all images of a dataset.

Sky and noise and the region of interest come from ``regions``; here the image is cut, turned and
stretched.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from vitdm.config import Preprocess
from vitdm.data import dataset
from vitdm.preprocess.regions import Detection, Roi, detect, roi_of

MARGIN = 1.1  # a resized region is given this much room
CHUNK = 256  # images read, processed and written at once


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
    if scale > 1:  # a blur that, in quadrature, makes a pixel of 1 px as wide as ``scale``
        image = cv2.GaussianBlur(image, (0, 0), 0.5 * math.sqrt(scale**2 - 1))
    # ``along`` and ``across`` are the steps in the image (px) from one pixel of the square to the
    # next, in its row and in its column; ``corner`` is where its first pixel lies.
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
    # what of the square lies in the image; the rest stays 0
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
    """Process every image of a dataset, chunk by chunk, into a dataset of its own in ``out``.

    The catalog gets the columns of ``Roi``: roi_x, roi_y (px), roi_angle (deg; empty where the
    region has no orientation), roi_found, roi_oriented, roi_mirrored (0 or 1), roi_elongation,
    noise_sigma (image units).
    """
    started = time.time()
    dataset.check_replaceable(out, [dataset_folder])
    source = dataset.Dataset.open(dataset_folder)
    source.check_raw()
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
        # images that are resized show no scale
        pixel_scale=None if settings.resize else source.pixel_scale,
    )


def stream(source: dataset.Dataset, label: str, progress: bool = True) -> Iterator[NDArray]:
    """Yield the images of a dataset one by one, read chunk by chunk, with a progress bar."""
    for chunk in _chunks(source, label, progress):
        yield from chunk


def _chunks(source: dataset.Dataset, label: str, progress: bool) -> Iterator[NDArray]:
    """Yield blocks (CHUNK, height, width) of the images of a dataset, with a progress bar."""
    with tqdm(total=len(source.images), desc=label, unit="image", disable=not progress) as bar:
        for chunk in source.blocks(CHUNK):
            yield chunk
            bar.update(len(chunk))
