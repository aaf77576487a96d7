"""Neighbours and cosmic rays in an image of a lens without its galaxy, found with ``sep``.

``sep`` (Barbary 2016, JOSS 1, 58) is the library of Source Extractor (Bertin & Arnouts 1996, A&AS
117, 393). Arcs are found, too: what the lens model explains is no neighbour; before there is one,
``looks_like_arcs`` tells by their shapes.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import pandas as pd
import sep
from numpy.typing import NDArray

from vitdm.errors import InputError

COLUMNS = ["label", "x", "y", "flux", "radius", "kind", "snr", "axis_ratio", "angle", "pixels"]
HIGH = 3.0  # sigmas of the filtered image, above which an object begins
SMALLEST = 5  # px of an object
SHEET = 64  # px, side of the boxes in which the background is measured
KEPT = 0.5  # of an object's light in the pixels to keep, from which it is not listed
RAY, SHARPER = 6.0, 0.5  # sigmas of a cosmic ray; its neighbours over those of a point source
CERTAIN = 4.0  # sigmas by which neighbours of a cosmic ray's pixel are too faint
DIRECTIONS = (0, 1), (1, 0), (1, 1), (1, -1)  # rows and columns to a neighbouring pixel
NEAREST, FARTHEST = 0.4, 3.0  # ", of an arc from the centre
TANGENTIAL = 1.5  # extent of an arc along the circle, over that across


def find_neighbours(
    residual: NDArray,
    noise: NDArray,
    psf_fwhm: float,
    pixel_scale: float,
    keep: NDArray[np.bool_] | None = None,
) -> tuple[pd.DataFrame, NDArray[np.int32]]:
    """Return a table of objects in an image without the lens galaxy, and their label map (H, W).

    ``residual`` (H, W): NaN where data are missing; ``noise`` (H, W): rms in the same unit, with
    the error of the subtracted model, else its errors at the centre become objects; ``psf_fwhm``
    and ``pixel_scale``: arcsec. Objects with most of their light where ``keep`` (H, W) is True,
    such as known arcs, are left out.

    Columns: ``label`` in the map, 0 where there is no object; ``x``, ``y`` ["] from the middle of
    the image; ``flux`` [unit of the image]; ``radius`` ["] of a circle of the same area; ``kind``:
    ``neighbour`` or ``cosmic_ray``; ``snr``; ``axis_ratio``; ``angle`` of the major axis, degrees
    from x towards y; ``pixels``. InputError, if the shapes differ.
    """
    image, noise = np.array(residual, float), np.array(noise, float)
    for name, array in (("noise", noise), ("keep", keep)):
        if array is not None and np.shape(array) != image.shape:
            raise InputError(
                f"{name}: found an array of shape {np.shape(array)}; expected {image.shape}"
            )
    missing = ~(np.isfinite(image) & np.isfinite(noise) & (noise > 0))
    image[missing], noise[missing] = 0.0, np.median(noise[~missing]) if (~missing).any() else 1.0
    fwhm = psf_fwhm / pixel_scale
    image -= _background(image, noise, missing)
    rays = cosmic_rays(image, noise, fwhm, missing)
    labels = _objects(image, noise, fwhm, missing | rays)
    _, ray_labels = cv2.connectedComponents(rays.view(np.uint8), connectivity=8)
    number = labels.max(initial=0)
    labels = np.where(rays, ray_labels + number, labels).astype(np.int32)
    rows = [
        _row(label, labels == label, image, noise, pixel_scale, keep)
        for label in range(1, labels.max(initial=0) + 1)
    ]
    table = pd.DataFrame([row for row in rows if row], columns=COLUMNS)
    table["kind"] = np.where(table["label"] > number, "cosmic_ray", "neighbour")
    labels[~np.isin(labels, table["label"])] = 0
    return table, labels


def cosmic_rays(
    image: NDArray, noise: NDArray, fwhm: float, missing: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return pixels (H, W) brighter over their neighbours than a point source can be.

    ``fwhm``: of the PSF, px. Cosmic rays are lines or points: in one of four directions at least,
    the mean of both neighbours is far below that beside the peak of a point source.
    """
    found = np.zeros(image.shape, bool)
    padded, variance = (np.pad(array, 1, mode="edge") for array in (image, noise**2))
    height, width = image.shape
    for dy, dx in DIRECTIONS:
        ahead, behind = (
            (slice(1 + s * dy, 1 + s * dy + height), slice(1 + s * dx, 1 + s * dx + width))
            for s in (1, -1)
        )
        ratio = math.exp(-4 * math.log(2) * (dx * dx + dy * dy) / max(fwhm, 1e-3) ** 2)
        beside = (padded[ahead] + padded[behind]) / 2
        error = np.sqrt(ratio**2 * noise**2 + (variance[ahead] + variance[behind]) / 4)
        known = ~(np.pad(missing, 1)[ahead] | np.pad(missing, 1)[behind] | missing)
        found |= known & (beside + CERTAIN * error < SHARPER * ratio * image)
    return found & (image > RAY * noise)


def looks_like_arcs(
    table: pd.DataFrame,
    labels: NDArray,
    pixel_scale: float,
    center: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.bool_]:
    """Tell which objects of ``find_neighbours`` look like arcs about ``center`` (x, y) ["].

    Arcs are between 0.4 and 3 arcsec from it, and 1.5 times as long along the circle as across.
    Round images of the source are not told from neighbours.
    """
    height, width = labels.shape
    arcs = np.zeros(len(table), bool)
    for k, label in enumerate(table["label"]):
        rows, columns = np.nonzero(labels == label)
        x = (columns - (width - 1) / 2) * pixel_scale - center[0]
        y = (rows - (height - 1) / 2) * pixel_scale - center[1]
        distance, turn = np.hypot(x, y), np.exp(1j * np.arctan2(y, x))
        angles = np.angle(turn * np.conj(turn.sum()))  # from the mean direction
        along, across = np.sqrt(np.mean((distance * angles) ** 2)), distance.std() + 1e-12
        arcs[k] = NEAREST < distance.mean() < FARTHEST and along > TANGENTIAL * across
    return arcs & (table["kind"] == "neighbour").to_numpy()


def _background(image: NDArray, noise: NDArray, missing: NDArray[np.bool_]) -> NDArray:
    """Return the smooth background between objects."""
    level = np.median(image[~missing]) if not missing.all() else 0.0
    smooth = cv2.GaussianBlur(np.where(missing, 0.0, image - level), (0, 0), 2.0)
    light = cv2.dilate((smooth > noise).view(np.uint8), np.ones((9, 9), np.uint8)) > 0
    if np.mean(light | missing) > 0.9:  # nothing to measure it on
        return np.full_like(image, level)
    side = min(SHEET, *image.shape)
    return sep.Background(image, mask=light | missing, bw=side, bh=side).back()


def _objects(
    image: NDArray, noise: NDArray, fwhm: float, missing: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Return the label map of objects above the noise of the filtered image."""
    offset = np.arange(-math.ceil(fwhm), math.ceil(fwhm) + 1)
    row = np.exp(-4 * math.log(2) * (offset / max(fwhm, 0.5)) ** 2)
    sep.set_extract_pixstack(max(sep.get_extract_pixstack(), 2 * image.size))
    _, labels = sep.extract(
        np.ascontiguousarray(image),
        HIGH,
        err=noise,
        mask=missing,
        minarea=SMALLEST,
        filter_kernel=np.outer(row, row),
        segmentation_map=True,
    )
    return labels


def _row(
    label: int,
    region: NDArray[np.bool_],
    image: NDArray,
    noise: NDArray,
    scale: float,
    keep: NDArray | None,
) -> tuple | None:
    """Return the columns of one object, None of one that is not listed."""
    rows, columns = np.nonzero(region)
    light = np.clip(image[region], 0, None)
    if not light.sum() > 0 or (
        keep is not None and light[np.asarray(keep)[region]].sum() > KEPT * light.sum()
    ):
        return None
    height, width = image.shape
    x, y = (columns - (width - 1) / 2) * scale, (rows - (height - 1) / 2) * scale
    center = light @ x / light.sum(), light @ y / light.sum()
    dx, dy = x - center[0], y - center[1]
    xx, yy, xy = (light @ product / light.sum() for product in (dx * dx, dy * dy, dx * dy))
    xx, yy = xx + scale**2 / 12, yy + scale**2 / 12  # of a pixel
    spread, mean = math.hypot((xx - yy) / 2, xy), (xx + yy) / 2
    flux, pixels = float(image[region].sum()), rows.size
    return (
        label,
        *center,
        flux,
        scale * math.sqrt(pixels / math.pi),
        "",
        flux / math.sqrt((noise[region] ** 2).sum()),
        math.sqrt(max(mean - spread, 0) / (mean + spread)),
        math.degrees(math.atan2(2 * xy, xx - yy) / 2),
        pixels,
    )
