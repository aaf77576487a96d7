"""Finished runs applied to image files: processing, features and model in one step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vitdm.config import InputError, RunSettings
from vitdm.features import measure
from vitdm.preprocess import process
from vitdm.readers import fill_missing, load_images
from vitdm.train import Run, load_run


def predict(run: Run, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each class (n, K) of raw images, and where a lens was found (n,).

    Each image is (H, W), of any size and unit; it is processed as the run's training images were.
    """
    settings = run.settings
    crops, regions = zip(*(process(image, settings.preprocess) for image in images), strict=True)
    features = None
    if run.feature_names:
        rows = [measure(image, settings.preprocess, settings.features) for image in images]
        features = pd.DataFrame(rows)[run.feature_names].to_numpy(np.float32)
    return run.predict(np.stack(crops), features), np.array([region.found for region in regions])


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
        images.append(fill_missing(image, path))
    answers = [predict(run, images) for run in runs]
    probability = np.mean([p for p, _ in answers], axis=0)
    classes = runs[0].classes
    table = pd.DataFrame({"file": names})
    for k, name in enumerate(classes):
        table[f"p_{name}"] = probability[:, k].round(6)
    table["class"] = np.array(classes)[probability.argmax(axis=1)]
    table["lens_found"] = answers[0][1].astype(int)
    return table


def _kind(settings: RunSettings) -> tuple:
    return settings.classes, settings.preprocess, settings.features, settings.image_size
