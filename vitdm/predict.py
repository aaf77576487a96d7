"""Finished runs applied to image files: processing, features and model in one step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vitdm import lens
from vitdm.config import RunSettings
from vitdm.data.readers import load_images
from vitdm.errors import InputError
from vitdm.features import LENSFIT, measure
from vitdm.lens.fits import middle
from vitdm.model.runs import Run, load_run
from vitdm.preprocess import process


def predict(runs: Sequence[Run], images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each class (n, K) of raw images, and where a lens was found (n,).

    Each image is (H, W), of any size and unit; it is processed as the runs' training images were.
    If a run needs the fit of a smooth lens, the images must have the pixel scale and the PSF of the
    training images. Several runs, which must agree in classes, processing and features, are
    averaged. InputError if a run needs features that are not measured here.
    """
    needed = [name for run in runs for name in run.feature_names]
    residual = any(run.settings.model.residual for run in runs)
    crops, measured, maps, lens_found = prepare(images, runs[0].settings, needed, residual)
    answers = [
        run.predict(crops, measured[run.feature_names].to_numpy(np.float32), maps) for run in runs
    ]
    return np.mean(answers, axis=0), lens_found


def prepare(
    images: Sequence[np.ndarray], settings: RunSettings, names: Sequence[str], residual: bool
) -> tuple[np.ndarray, pd.DataFrame, np.ndarray | None, np.ndarray]:
    """Return what networks see of raw images (H, W), of any size.

    That is the processed images (n, size, size), the features ``names`` (n rows), if ``residual``
    what a fitted lens leaves (n, size, size), and where a lens was found (n,). InputError if a
    feature is not measured here.
    """
    crops, regions = zip(*(process(image, settings.preprocess) for image in images), strict=True)
    measured, maps = pd.DataFrame(index=range(len(images))), None
    if set(names) - set(LENSFIT):
        rows = [measure(image, settings.preprocess, settings.features) for image in images]
        measured = pd.DataFrame(rows)
    if set(names) & set(LENSFIT) or residual:
        table, maps = _fitted(settings, images)
        measured = pd.concat([measured, table], axis=1)
    if absent := [name for name in names if name not in measured]:
        raise InputError(f"run: needs the feature {absent[0]!r}, which vitdm cannot measure")
    return np.stack(crops), measured, maps, np.array([region.found for region in regions])


def _fitted(settings: RunSettings, images: Sequence[np.ndarray]) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the features (n rows) and residual maps (n, size, size) of fitted smooth lenses."""
    if settings.pixel_scale is None:
        raise InputError("run: needs lens fits, and its config.yaml tells no pixel_scale")
    fits = lens.fit(images, settings.lensfit, pixel_scale=settings.pixel_scale)
    return lens.usable_features(fits), middle(fits.residual, settings.image_size)


def predict_files(paths: Iterable[str | Path], folders: Sequence[str | Path]) -> pd.DataFrame:
    """Return file, p_<class> (mean over the runs), class and lens_found of images in files.

    InputError if the runs do not belong together or a file cannot be read.
    """
    runs = [load_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        if _kind(run.settings) != _kind(runs[0].settings):
            raise InputError(
                f"{folder}: found other classes, processing or features than {folders[0]} has; "
                "expected runs that differ in seed or model only"
            )
    names, images = [], []
    for path, image in load_images(paths):
        names.append(str(path))
        images.append(image)
    probability, lens_found = predict(runs, images)
    classes = runs[0].classes
    table = pd.DataFrame({"file": names})
    for k, name in enumerate(classes):
        table[f"p_{name}"] = probability[:, k].round(6)
    table["class"] = np.array(classes)[probability.argmax(axis=1)]
    table["lens_found"] = lens_found.astype(int)
    return table


def _kind(settings: RunSettings) -> tuple:
    camera = settings.lensfit, settings.pixel_scale
    return settings.classes, settings.preprocess, settings.features, settings.image_size, camera
