"""Physics features: numbers with a meaning, measured on the raw image of a lens.

What each of them is stands in ``definitions``; those of the group ``lensfit`` join the table from
the fits of ``vitdm.lens``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vitdm.compiled import compiled
from vitdm.config import Features, Preprocess
from vitdm.data import dataset
from vitdm.errors import InputError
from vitdm.features import morphology
from vitdm.features.definitions import LENSFIT, MORPHOLOGY, definitions, suffix
from vitdm.preprocess.process import Detection, Roi, detect, roi_of, stream
from vitdm.provenance import atomic, sidecar


def measure(
    image: ArrayLike,
    preprocess_settings: Preprocess,
    features_settings: Features,
    groups: Sequence[str] | None = None,
) -> dict[str, float]:
    """Measure the features of a raw image, (height, width) of any real numbers.

    ``groups`` are those of the settings if not given; those of a fitted lens are not measured here.

    What has no value is NaN: separations of fewer than two bright regions, shapes where no light is
    found, ring features of light that lies on no circle. InputError if the image is no
    two-dimensional array of real numbers.
    """
    light = detect(image, preprocess_settings)
    return measure_light(light, roi_of(light), features_settings, groups)


def measure_light(
    light: Detection, roi: Roi, settings: Features, groups: Sequence[str] | None = None
) -> dict[str, float]:
    """Measure the features of an image whose light and region are already found."""
    groups = settings.groups if groups is None else groups
    values: dict[str, float] = {}
    left, top, width, height = cv2.boundingRect(light.mask)
    box = np.s_[top : top + height, left : left + width]  # empty if no light is found
    mask, smooth = light.mask[box], light.smooth[box]
    if "proposal" in groups:
        values["lensed_area"] = float(cv2.countNonZero(light.mask))
        peak = float(cv2.minMaxLoc(smooth, mask)[1]) if mask.size else 0.0
        for level in settings.levels:
            name = suffix(level)
            centroids = _bright_regions(smooth, mask, max(level * peak, light.level))
            smallest, largest = _separations(centroids)
            values[f"n_bright_{name}"] = float(len(centroids))
            values[f"max_separation_{name}"] = largest
            values[f"min_separation_{name}"] = smallest
    if "morphology" in groups:
        values |= _morphology(light, roi)
    return values


def _morphology(light: Detection, roi: Roi) -> dict[str, float]:
    values = dict.fromkeys(MORPHOLOGY, math.nan)
    values["peak_snr"] = float(light.smooth.max()) / light.noise_smooth
    rows, columns = np.nonzero(light.mask)
    flux = light.residual[rows, columns].astype(np.float64)
    values["total_flux_snr"] = float(flux.sum()) / light.noise
    if not roi.found:
        return values
    values["roi_elongation"] = roi.elongation
    values["gini"] = morphology.gini(flux)
    mask = light.mask * roi.mask
    rows, columns = np.nonzero(mask)
    flux = light.residual[rows, columns].astype(np.float64)
    values["m20"] = morphology.m20(flux, columns, rows)
    radii = np.hypot(columns - roi.x, rows - roi.y)
    values["concentration"] = morphology.concentration(flux, radii)
    values["asymmetry"] = morphology.asymmetry(light.residual, mask, roi.x, roi.y, light.noise)
    circle = fit_circle(light, roi)
    return values | (_ring_features(light, circle) if circle else {})


class Circle(NamedTuple):
    """The circle through the lens's light: centre, radius, rms width of the light about it (px)."""

    x: float
    y: float
    radius: float
    width: float


def fit_circle(light: Detection, roi: Roi) -> Circle | None:
    """Return the circle that the lens's light lies on, without a galaxy in its middle.

    None if it lies on no circle of the size of the region.
    """
    rows, columns = np.nonzero(light.mask * roi.mask) if roi.found else ((), ())
    if not len(rows):
        return None
    weight = np.maximum(light.smooth[rows, columns].astype(np.float64) - light.level, 0)
    brightest = int(np.argmax(weight))
    offset = math.hypot(columns[brightest] - roi.x, rows[brightest] - roi.y)
    if offset < morphology.CENTRAL * roi.radius:  # a galaxy: the ring is what is around it
        radii = np.hypot(columns - columns[brightest], rows - rows[brightest])
        outside = radii > morphology.hole_radius(radii, weight)  # none, if there is no hole
        rows, columns, weight = rows[outside], columns[outside], weight[outside]
    x, y, radius = morphology.fit_circle(columns, rows, weight)
    if not (1 < radius < 2 * roi.radius and math.hypot(x - roi.x, y - roi.y) < 2 * roi.radius):
        return None
    deviation = np.hypot(columns - x, rows - y) - radius
    width = math.sqrt(float(weight @ deviation**2) / float(weight.sum()))
    return Circle(x, y, radius, width)


def unroll(light: Detection, circle: Circle) -> morphology.Ring:
    """Return the light along a circle, in the annulus that holds nearly all of it."""
    width = max(2.5 * circle.width, 2.0)
    return morphology.unroll(light.residual, circle.x, circle.y, circle.radius, width, light.noise)


def _ring_features(light: Detection, circle: Circle) -> dict[str, float]:
    ring = unroll(light, circle)
    ellipticity, wiggle = morphology.ridge_shape(ring)
    amplitudes = morphology.fourier_amplitudes(ring)
    fine = ring.power[morphology.SMOOTH_ORDERS + 1 :]
    return {
        "ring_radius": circle.radius,
        "ring_width": circle.width,
        "ring_ellipticity": ellipticity,
        "ring_wiggle": wiggle,
        "arc_angle": 360 * float(np.mean(ring.flux > 0.5 * ring.flux.max())),
        **{f"fourier_{order}": float(amplitudes[order]) for order in range(1, 5)},
        "fourier_5_8": float(np.sqrt((amplitudes[5:9] ** 2).sum())),
        "fourier_9_16": float(np.sqrt((amplitudes[9:17] ** 2).sum())),
        "residual_power": float(fine.mean()),
        "residual_peak": float(np.abs(ring.rest).max()),
        "residual_slope": morphology.power_slope(ring.power, morphology.SMOOTH_ORDERS + 1),
    }


def _bright_regions(smooth: NDArray, mask: NDArray, threshold: float) -> NDArray:
    """Return the flux-weighted centroids (n, 2) of x, y, px, of the regions above a threshold.

    A ring is one region, whatever it surrounds; pixels that touch at a corner are connected.
    """
    if not mask.size:
        return np.empty((0, 2))
    bright = cv2.compare(smooth, threshold, cv2.CMP_GT) & mask
    count, labels = cv2.connectedComponents(bright, connectivity=8)
    return _centroids(labels, smooth, count - 1)


@compiled
def _centroids(labels, flux, count):
    """Return the flux-weighted mean x, y (count, 2) of the pixels labelled 1 … count."""
    sums = np.zeros((count, 3))
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            k = labels[row, column] - 1
            if k >= 0:
                sums[k, 0] += flux[row, column] * column
                sums[k, 1] += flux[row, column] * row
                sums[k, 2] += flux[row, column]
    return sums[:, :2] / sums[:, 2:]


def _separations(points: NDArray) -> tuple[float, float]:
    """Return the smallest and the largest distance between points (n, 2), NaN if n < 2."""
    return _extreme_distances(points) if len(points) > 1 else (math.nan, math.nan)


@compiled
def _extreme_distances(points):
    smallest, largest = np.inf, 0.0
    for i in range(len(points)):
        for k in range(i):
            squared = (points[i, 0] - points[k, 0]) ** 2 + (points[i, 1] - points[k, 1]) ** 2
            smallest, largest = min(smallest, squared), max(largest, squared)
    return math.sqrt(smallest), math.sqrt(largest)


def measure_dataset(
    dataset_folder: str | Path,
    out_csv: str | Path,
    preprocess_settings: Preprocess,
    features_settings: Features,
    fits: str | Path | None = None,
    progress: bool = True,
) -> None:
    """Measure every image of a dataset of raw images: a CSV of id and the features, and a sidecar.

    A value that does not exist is an empty cell. With the group ``lensfit``, ``fits`` is the folder
    of the fits of the same dataset (``vitdm.lens.fit_dataset``); of a fit that did not converge
    nothing is used. InputError if they are not given, or of other images.
    """
    started = time.time()
    source = dataset.Dataset.open(dataset_folder)
    inputs = [Path(dataset_folder) / "images.npy", Path(dataset_folder) / "catalog.csv"]
    fitted, more = None, {}
    if "lensfit" in features_settings.groups:
        if fits is None:
            raise InputError("features.groups: found lensfit; expected the folder of the fits, too")
        inputs.append(Path(fits) / "fits.csv")
        fitted = read_fits(inputs[-1], source.catalog["id"])
        told = json.loads((Path(fits) / "provenance.json").read_text())
        more = {"camera": told.get("camera")}  # what new images must be fitted with
    rows = [
        measure_light(light := detect(image, preprocess_settings), roi_of(light), features_settings)
        for image in stream(source, "features", progress)
    ]
    measured = pd.DataFrame(rows)
    if fitted is not None:
        measured = pd.concat([measured, fitted], axis=1)
    measured = measured[list(definitions(features_settings))]
    measured.insert(0, "id", source.catalog["id"].to_numpy())
    out_csv = Path(out_csv)
    with atomic(out_csv) as temporary:
        measured.to_csv(temporary, index=False, float_format="%.7g")
    sidecar(
        out_csv.with_suffix(".json"),
        rule="features",
        config={
            "preprocess": preprocess_settings.model_dump(),
            "features": features_settings.model_dump(),
        },
        inputs=inputs,
        started=started,
        **more,
    )


def read_fits(path: str | Path, ids: pd.Series) -> pd.DataFrame:
    """Return the features of the fits of images, in the order of ``ids``; NaN if not converged."""
    table = dataset.read_catalog(path).drop_duplicates("id").set_index("id")
    absent = [str(name) for name in ids if name not in table.index]
    if absent or not set(LENSFIT) < set(table):
        what = f"no fit of {len(absent)} images, such as {absent[0]!r}" if absent else "no fits"
        raise InputError(f"{path}: found {what}; expected one row an image, of vitdm lensfit")
    table = table.loc[ids].reset_index(drop=True)
    return table[list(LENSFIT)].where(table["fit_converged"] == 1)
