"""Physics features: numbers with a meaning, measured on the raw image of a lens."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.spatial.distance import pdist

from vitdm import dataset
from vitdm.config import Features, Preprocess
from vitdm.preprocess import detect, roi_of, stream
from vitdm.provenance import atomic, sidecar


@dataclass(frozen=True)
class Feature:
    """What a feature is: its unit, its formula, where it is from, how substructure changes it."""

    unit: str
    definition: str
    reference: str
    expects: str


_PRECURSOR = "after github.com/SVJLucas/ViT-for-Dark-Matter-Morphology"
_GENERAL = {
    "lensed_area": Feature(
        "px²",
        "number of pixels of the smoothed image above the noise threshold, after 3×3 opening",
        _PRECURSOR,
        "larger: added mass magnifies more",
    ),
    "peak_snr": Feature(
        "",
        "maximum of the smoothed image above its sky / rms of the smoothed image",
        "this work",
        "either way: a perturber near an image magnifies or demagnifies it",
    ),
    "roi_elongation": Feature(
        "",
        "sqrt(l1 / l2), l1 > l2 the eigenvalues of the flux's second moments in the largest region",
        "Hu (1962), doi:10.1109/TIT.1962.1057692",
        "either way: added mass closes a ring or breaks an arc",
    ),
    "total_flux_snr": Feature(
        "",
        "sum of (I - sky) / sigma over the lensed area",
        "this work",
        "larger: added mass magnifies more",
    ),
    "ring_radius": Feature(
        "px",
        "R = sum(F r) / sum(F), F = I - sky, r the distance to the image centre, in the area",
        "this work; estimates theta_E, e.g. Narayan & Bartelmann (1996), arXiv:astro-ph/9606001",
        "larger: the mass inside the ring grows by that of the substructure",
    ),
    "ring_width": Feature(
        "px",
        "sqrt(sum(F (r - R)²) / sum(F)) in the lensed area",
        "this work",
        "larger: perturbed arcs leave the circle",
    ),
    "gini": Feature(
        "",
        "Gini coefficient of F in the lensed area: 0 all pixels equal, 1 all light in one pixel",
        "Lotz, Primack & Madau (2004), doi:10.1086/421849, eq. 6",
        "larger: light is gathered into bright spots",
    ),
}


def _suffix(level: float) -> str:
    return f"{100 * level:02.6g}".replace(".", "p").zfill(2)


def _level_features(level: float) -> dict[str, Feature]:
    name, percent = _suffix(level), f"{100 * level:g} %"
    bright = f"the regions brighter than {percent} of the smoothed image's peak and than the noise"
    return {
        f"n_bright_{name}": Feature(
            "", f"number of {bright} threshold", _PRECURSOR, "larger: perturbers split arcs"
        ),
        f"max_separation_{name}": Feature(
            "px",
            f"largest distance of the flux-weighted centroids of {bright} threshold",
            _PRECURSOR,
            "larger: the image separation is twice the Einstein radius",
        ),
        f"min_separation_{name}": Feature(
            "px",
            f"smallest distance of the flux-weighted centroids of {bright} threshold",
            _PRECURSOR,
            "smaller: perturbers split an image into close neighbours",
        ),
    }


def definitions(settings: Features) -> dict[str, Feature]:
    """Return the features that ``measure`` gives with these settings, by name, in its order."""
    features = dict(_GENERAL)
    for level in settings.levels:
        features |= _level_features(level)
    return features


FEATURES: dict[str, Feature] = definitions(Features())


def feature_names(settings: Features) -> list[str]:
    """Return the names of the features that ``measure`` gives with these settings, in its order."""
    return list(definitions(settings))


def table(settings: Features | None = None) -> pd.DataFrame:
    """Return one row a feature: name, unit, definition, reference, expects."""
    features = definitions(settings or Features())
    return pd.DataFrame([{"name": name} | asdict(entry) for name, entry in features.items()])


def measure(
    image: ArrayLike, preprocess_settings: Preprocess, features_settings: Features
) -> dict[str, float]:
    """Measure the features of a raw image, (height, width) of any real numbers.

    What has no value is NaN: separations of fewer than two bright regions, and shapes where no
    light is found. InputError if the image is no two-dimensional array of real numbers.
    """
    light = detect(image, preprocess_settings)
    roi = roi_of(light)
    left, top, width, height = cv2.boundingRect(light.mask)
    box = np.s_[top : top + height, left : left + width]  # empty if no light is found
    mask, smooth = light.mask[box], light.smooth[box]
    rows, columns = np.nonzero(mask)
    centre = np.subtract(light.mask.shape, 1) / 2
    radii = np.hypot(rows + top - centre[0], columns + left - centre[1])
    values = {
        "lensed_area": float(rows.size),
        "peak_snr": float(light.smooth.max()) / light.noise_smooth,
        "roi_elongation": roi.elongation if roi.found else math.nan,
    }
    values |= _light_profile(light.residual[box][rows, columns], radii, light.noise)
    peak = float(smooth[rows, columns].max(initial=0.0))
    faintest = preprocess_settings.threshold * light.noise_smooth
    for level in features_settings.levels:
        name = _suffix(level)
        centroids = _bright_regions(smooth, mask, max(level * peak, faintest))
        smallest, largest = _separations(centroids)
        values[f"n_bright_{name}"] = float(len(centroids))
        values[f"max_separation_{name}"] = largest
        values[f"min_separation_{name}"] = smallest
    return values


def _light_profile(flux: np.ndarray, radii: np.ndarray, noise: float) -> dict[str, float]:
    """Return the features of the lensed pixels' flux and distance to the image centre (px)."""
    flux = flux.astype(np.float64)
    total = float(flux.sum())
    values = {"total_flux_snr": total / noise}
    if not total > 0:
        return values | {"ring_radius": math.nan, "ring_width": math.nan, "gini": math.nan}
    mean = float(flux @ radii) / total
    variance = float(flux @ (radii - mean) ** 2) / total
    return values | {
        "ring_radius": mean,
        "ring_width": math.sqrt(max(variance, 0.0)),
        "gini": _gini(flux),
    }


def _gini(flux: np.ndarray) -> float:
    n = flux.size
    if n < 2:
        return math.nan
    ordered = np.sort(np.abs(flux))
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (ordered.mean() * n * (n - 1)))


def _bright_regions(smooth: np.ndarray, mask: np.ndarray, threshold: float) -> np.ndarray:
    """Return the flux-weighted centroids (x, y), px, of the connected regions above a threshold.

    A ring is one region, whatever it surrounds; pixels that touch at a corner are connected.
    """
    if not mask.size:
        return np.empty((0, 2))
    bright = (smooth > threshold).astype(np.uint8) & mask
    count, labels = cv2.connectedComponents(bright, connectivity=8)
    rows, columns = np.nonzero(bright)
    region, weight = labels[rows, columns] - 1, smooth[rows, columns].astype(np.float64)
    flux, x, y = (np.bincount(region, weight * f, count - 1) for f in (1.0, columns, rows))
    return np.column_stack([x / flux, y / flux])


def _separations(points: np.ndarray) -> tuple[float, float]:
    """Return the smallest and the largest distance between points (n, 2), NaN if n < 2."""
    if len(points) < 2:
        return math.nan, math.nan
    distances = pdist(points)
    return float(distances.min()), float(distances.max())


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
