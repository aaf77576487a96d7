"""Physics features: numbers with a meaning, measured on the raw image of a lens.

Two groups are measured on the image: those of the project's *proposal* (area, points of greatest
luminosity, their separations), and the *morphology* that the field uses for galaxies and arcs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vitdm import dataset, morphology
from vitdm.compiled import compiled
from vitdm.config import Features, Preprocess
from vitdm.preprocess import Detection, Roi, detect, roi_of, stream
from vitdm.provenance import atomic, sidecar

GROUPS = ("proposal", "morphology")


@dataclass(frozen=True)
class Feature:
    """What a feature is: group, unit, formula, where it is from, how substructure changes it."""

    group: str
    unit: str
    definition: str
    reference: str
    expects: str


_PRECURSOR = "after github.com/SVJLucas"
_LOTZ = "Lotz, Primack & Madau (2004), doi:10.1086/421849"
_CONSELICE = "Conselice (2003), doi:10.1086/375001"
_AREA = Feature(
    "proposal",
    "px²",
    "number of pixels of the smoothed image above the noise threshold, after 3×3 opening",
    _PRECURSOR,
    "larger: added mass magnifies more",
)
_FINER = "larger: perturbers add structure finer than that of a smooth lens"
_MORPHOLOGY = {
    "peak_snr": (
        "",
        "maximum of the smoothed image above its sky / rms of the smoothed image",
        "this work",
        "either way: a perturber near an image magnifies or demagnifies it",
    ),
    "total_flux_snr": (
        "",
        "sum of (I - sky) / sigma over the lensed area",
        "this work",
        "larger: added mass magnifies more",
    ),
    "roi_elongation": (
        "",
        "sqrt(l1 / l2), l1 > l2 the eigenvalues of the second moments of the lens's light",
        "Hu (1962), doi:10.1109/TIT.1962.1057692",
        "either way: added mass closes a ring or breaks an arc",
    ),
    "gini": (
        "",
        "Gini coefficient of F = I - sky in the lensed area: 0 all pixels equal, 1 all in one",
        f"{_LOTZ}, eq. 6",
        "larger: light is gathered into bright spots",
    ),
    "m20": (
        "",
        "log10 of the share of the brightest 20 % of F in sum(F d²), d from the centroid",
        f"{_LOTZ}, eqs. 7, 8",
        "larger: bright spots away from the centre",
    ),
    "concentration": (
        "",
        "5 log10(r80 / r20), r the radii about the centroid that hold 80 and 20 % of F",
        f"{_CONSELICE}, sect. 3.2",
        "either way: a perturber moves light inwards or outwards",
    ),
    "asymmetry": (
        "",
        "sum |I - I180| / sum |I| in the lens's light, I180 turned by 180°, less what noise adds",
        f"{_CONSELICE}, sect. 3.1",
        "larger: perturbers act on one side",
    ),
    "ring_radius": (
        "px",
        "radius of the circle fitted to the lens's light, weights F above the noise: about theta_E",
        "Taubin (1991), doi:10.1109/34.103273",
        "larger: the mass inside the ring grows by that of the substructure",
    ),
    "ring_width": (
        "px",
        "sqrt(sum(F (r - R)²) / sum(F)), r the distance to the centre of that circle, R its radius",
        "this work",
        "larger: perturbed arcs leave the circle",
    ),
    "ring_ellipticity": (
        "",
        "sqrt(a² + b²) / r0 of the ridge r(phi) = r0 + … + a cos 2phi + b sin 2phi, weights F",
        "this work; about (1 - q) / (1 + q)",
        "either way: clumps add a quadrupole of their own",
    ),
    "ring_wiggle": (
        "px",
        "rms deviation of the ridge from that fit, weights F",
        "this work",
        "larger: clumps shift pieces of the arc",
    ),
    "arc_angle": (
        "deg",
        "angle in which the flux along the ring exceeds half its maximum",
        "this work",
        "either way: added mass closes a ring or breaks an arc",
    ),
    "fourier_1": ("", "|sum F exp(i phi)| / sum F along the ring", "this work", "none: the source"),
    "fourier_2": ("", "the same of order 2", "this work", "none: ellipticity and shear"),
    "fourier_3": ("", "the same of order 3", "this work", "larger: not of a smooth lens"),
    "fourier_4": ("", "the same of order 4", "this work", "larger: not of a smooth lens"),
    "fourier_5_8": ("", "root of the summed squares of orders 5 to 8", "this work", _FINER),
    "fourier_9_16": ("", "root of the summed squares of orders 9 to 16", "this work", _FINER),
    "residual_power": (
        "",
        "mean power, over that of noise, of the azimuthal orders 5 to 24 about the ring: what a "
        "model smooth in azimuth leaves",
        "this work",
        _FINER,
    ),
    "residual_peak": (
        "",
        "largest |residual| of that model, in units of the noise of a pixel",
        "this work",
        _FINER,
    ),
    "residual_slope": (
        "",
        "slope of log power against log order, of these orders",
        "after Bayer et al. (2018), arXiv:1803.05952",
        "larger (flatter): clumps have structure at all scales",
    ),
}


def _suffix(level: float) -> str:
    return f"{100 * level:02.6g}".replace(".", "p").zfill(2)


def _level_features(level: float) -> dict[str, Feature]:
    name, percent = _suffix(level), f"{100 * level:g} %"
    bright = f"regions brighter than {percent} of the smoothed peak and than the noise"
    return {
        f"n_bright_{name}": Feature(
            "proposal",
            "",
            f"number of {bright}",
            _PRECURSOR,
            "larger: perturbers split arcs",
        ),
        f"max_separation_{name}": Feature(
            "proposal",
            "px",
            f"largest distance of the centroids of {bright}",
            _PRECURSOR,
            "larger: the image separation is twice the Einstein radius",
        ),
        f"min_separation_{name}": Feature(
            "proposal",
            "px",
            f"smallest distance of the centroids of {bright}",
            _PRECURSOR,
            "smaller: perturbers split an image into close neighbours",
        ),
    }


def definitions(settings: Features, groups: Sequence[str] = GROUPS) -> dict[str, Feature]:
    """Return the features that ``measure`` gives with these settings, by name, in its order."""
    features = {}
    if "proposal" in groups:
        features["lensed_area"] = _AREA
        for level in settings.levels:
            features |= _level_features(level)
    if "morphology" in groups:
        features |= {name: Feature("morphology", *entry) for name, entry in _MORPHOLOGY.items()}
    return features


FEATURES: dict[str, Feature] = definitions(Features())


def feature_names(settings: Features) -> list[str]:
    """Return the names of the features that ``measure`` gives with these settings, in its order."""
    return list(definitions(settings))


def table(settings: Features | None = None, merged: bool = False) -> pd.DataFrame:
    """Return one row a feature: name, group, unit, definition, reference, expects.

    ``merged`` gives the features that differ in their level only one row together, the level L %.
    """
    settings = settings or Features()
    features = definitions(settings)
    if merged and settings.levels:
        first, *others = settings.levels
        same = {name for level in others for name in _level_features(level)}
        features = {name: entry for name, entry in features.items() if name not in same}
    rows = pd.DataFrame([{"name": name} | asdict(entry) for name, entry in features.items()])
    if merged and settings.levels:
        family = rows["name"].isin(_level_features(first))
        rows.loc[family, "name"] = rows["name"].str.replace(f"_{_suffix(first)}", "_L")
        rows.loc[family, "definition"] = rows["definition"].str.replace(f"{100 * first:g} %", "L %")
    return rows


def measure(
    image: ArrayLike,
    preprocess_settings: Preprocess,
    features_settings: Features,
    groups: Sequence[str] = GROUPS,
) -> dict[str, float]:
    """Measure the features of a raw image, (height, width) of any real numbers.

    What has no value is NaN: separations of fewer than two bright regions, shapes where no light is
    found, ring features of light that lies on no circle. InputError if the image is no
    two-dimensional array of real numbers.
    """
    light = detect(image, preprocess_settings)
    return measure_light(light, roi_of(light), features_settings, groups)


def measure_light(
    light: Detection, roi: Roi, settings: Features, groups: Sequence[str] = GROUPS
) -> dict[str, float]:
    """Measure the features of an image whose light and region are already found."""
    values: dict[str, float] = {}
    left, top, width, height = cv2.boundingRect(light.mask)
    box = np.s_[top : top + height, left : left + width]  # empty if no light is found
    mask, smooth = light.mask[box], light.smooth[box]
    if "proposal" in groups:
        values["lensed_area"] = float(cv2.countNonZero(light.mask))
        peak = float(cv2.minMaxLoc(smooth, mask)[1]) if mask.size else 0.0
        for level in settings.levels:
            name = _suffix(level)
            centroids = _bright_regions(smooth, mask, max(level * peak, light.level))
            smallest, largest = _separations(centroids)
            values[f"n_bright_{name}"] = float(len(centroids))
            values[f"max_separation_{name}"] = largest
            values[f"min_separation_{name}"] = smallest
    if "morphology" in groups:
        values |= _morphology(light, roi)
    return values


def _morphology(light: Detection, roi: Roi) -> dict[str, float]:
    values = dict.fromkeys(_MORPHOLOGY, math.nan)
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
    progress: bool = True,
) -> None:
    """Measure every image of a dataset of raw images: a CSV of id and the features, and a sidecar.

    A value that does not exist is an empty cell.
    """
    started = time.time()
    source = dataset.Dataset.open(dataset_folder)
    rows = [
        measure(image, preprocess_settings, features_settings)
        for image in stream(source, "features", progress)
    ]
    measured = pd.DataFrame(rows, columns=feature_names(features_settings))
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
        inputs=[Path(dataset_folder) / "images.npy", Path(dataset_folder) / "catalog.csv"],
        started=started,
    )
