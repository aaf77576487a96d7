"""Misclassified test images in notebook 05: what the network looks at, what they share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from studies import mistakes
from studies.story.final_test import ENDS, rows_of
from vitdm.config import Preprocess
from vitdm.data.dataset import Dataset
from vitdm.evaluation import metrics
from vitdm.model.inputs import fitted_of
from vitdm.model.runs import load_run

RESAMPLINGS = 500  # of the bootstrap of the odds


def attention(
    results: Path, processed: Dataset, ids: Sequence[str], features: pd.DataFrame
) -> np.ndarray | None:
    """Return the attention of the final networks to images, (n, rows, columns), their mean.

    ``features`` are of all images, by id. None without images, or if the network has no attention.
    """
    folders = sorted(path.parent for path in results.glob("final/seed*/config.yaml"))
    runs, rows = [load_run(folder) for folder in folders], rows_of(processed, ids)
    if not len(rows) or not hasattr(runs[0].model, "attention"):
        return None
    values = features.loc[ids, runs[0].feature_names].to_numpy(float)
    fitted = fitted_of(runs[0].settings.model, results / "lensfit", processed)
    fitted = [None if array is None else array[rows] for array in fitted]
    images = processed.images[rows]
    return np.mean([run.attention(images, values, *fitted) for run in runs], axis=0)


def pixel_scale(results: Path, cut: Preprocess) -> float | None:
    """Return the pixel scale ["] of processed images on which the truth can be marked.

    None if it is unknown, or if processing moves, turns or resizes the images.
    """
    if cut.crop != "centre" or cut.derotate or cut.resize:
        return None
    return json.loads((results / "dataset" / "dataset.json").read_text()).get("pixel_scale")


def odds_of_errors(
    wrong: np.ndarray,
    truth: pd.DataFrame,
    features: pd.DataFrame,
    classes: Sequence[str],
    seed: int,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return what the errors of each class go with, and how well they are told from the rest.

    ``wrong`` (n,) boolean, ``truth`` and ``features`` are of the test images. The table has the
    columns class, property, odds, low, high, n, errors; the numbers are ROC-AUC by class, of
    classes with enough errors (``studies.mistakes.explain``).
    """
    tables, aucs = [], {}
    for name in classes:
        rows = (truth["class"] == name).to_numpy()
        known = mistakes.properties(truth, features, name)[rows]
        table, auc = mistakes.explain(wrong[rows], known, RESAMPLINGS, seed)
        tables.append(table.assign(**{"class": name}))
        if len(table):
            aucs[name] = auc
    columns = ["class", "property", "odds", "low", "high", "n", "errors"]
    return pd.concat(tables)[columns], aucs


def odds_numbers(odds: pd.DataFrame, aucs: dict[str, float]) -> dict[str, float]:
    """Return the odds with their intervals by class and property, and the ROC-AUC by class."""
    numbers = {f"errors_foreseen_{name}": auc for name, auc in aucs.items()}
    for row in odds.to_dict("records"):
        key = f"odds_{row['class']}_{row['property']}"
        values = (row["odds"], row["low"], row["high"])
        numbers |= {f"{key}{end}": value for end, value in zip(ENDS, values, strict=True)}
    return numbers


def missed_but_visible(
    labels: np.ndarray, scores: np.ndarray, threshold: float, chi2: np.ndarray | None
) -> float | None:
    """Return the fraction of the missed lenses that the known-lens bound finds.

    ``labels`` and ``scores`` (n,) are of the test images, a score above the ``threshold`` calls
    substructure; ``chi2`` (n,) is that with the true smooth lens, at a threshold with the same
    false-positive rate. None if nothing was missed, or no smooth lens is known.
    """
    missed = (scores <= threshold) & (labels == 1)
    if chi2 is None or not missed.any():
        return None
    false_positive_rate = (scores > threshold)[labels == 0].mean()
    visible = chi2 > metrics.threshold_at_fpr(labels, chi2, false_positive_rate)
    return float(visible[missed].mean())
