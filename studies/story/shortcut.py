"""The size of the ring as a score, in notebook 05: does it alone separate the classes?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from studies.story.final_test import ENDS
from vitdm.evaluation import metrics

RADIUS = "ring_radius"
SIZES = (RADIUS, "max_separation")  # features that begin so measure a size


def size_scores(
    features: pd.DataFrame, development: pd.DataFrame, test: pd.DataFrame
) -> dict[str, float]:
    """Return the ROC-AUC of each measure of size on development images.

    ``features`` are of all images, by id; ``development`` and ``test`` have id and class. Left out
    are features that exist in one class only, in either of the two.
    """
    scores = {}
    for name in [name for name in features if name.startswith(SIZES)]:
        labels, values = _measured(features[name], development)
        in_test, _ = _measured(features[name], test)
        if len(set(labels)) == len(set(in_test)) == 2:
            scores[name] = metrics.roc_auc(labels, values)
    return scores


def _measured(feature: pd.Series, images: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and values of a feature of the images in which it exists."""
    values = feature.loc[images["id"]].to_numpy(float)
    labels = (images["class"] != metrics.NULL_CLASS).to_numpy(int)
    known = np.isfinite(values)
    return labels[known], values[known]


def on_test(feature: pd.Series, test: pd.DataFrame, n: int, seed: int) -> dict[str, float]:
    """Return the ROC-AUC of a feature on the test images, and the fraction that has it.

    ``feature`` is of all images, by id, ``test`` has id and class. ``n`` resamplings with a
    ``seed`` give the 95 % interval. Keys: ``test_auc``, ``test_auc_low``, ``test_auc_high``,
    ``measured``.
    """
    labels, values = _measured(feature, test)
    known = np.isfinite(feature.loc[test["id"]].to_numpy(float))
    strata = test["class"].to_numpy()[known]
    interval = metrics.bootstrap_interval(
        metrics.weighted_auc, labels, [values], n, seed, strata=strata
    )
    ends = [f"test_auc{end}" for end in ENDS]
    return dict(zip(ends, interval, strict=True)) | {"measured": known.mean()}


def shortcut_table(
    features: pd.DataFrame, sizes: dict[str, float], test: pd.DataFrame, n: int, seed: int
) -> pd.DataFrame:
    """Return ``on_test`` of the radius of the ring and of the best size, by ring_radius and
    size_feature, with the ``feature``.

    ``sizes`` are those of ``size_scores``; what is not among them has no row.
    """
    shown = {RADIUS: RADIUS, "size_feature": max(sizes, key=sizes.get, default=None)}
    rows = {
        key: {"feature": name} | on_test(features[name], test, n, seed)
        for key, name in shown.items()
        if name in sizes
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def medians(features: pd.DataFrame, names: list[str], test: pd.DataFrame) -> pd.DataFrame:
    """Return the median of some features of the test images, a row a class."""
    return features.loc[test["id"], names].groupby(test["class"].to_numpy()).median()


def shortcut_numbers(table: pd.DataFrame) -> dict[str, Any]:
    """Return the rows of ``shortcut_table`` by their names, and the name of the best size."""
    best = table["feature"].get("size_feature") if len(table) else None
    numbers: dict[str, Any] = {"size_feature": best}
    for key, row in table.iterrows():
        numbers |= {f"{key}_{column}": row[column] for column in table.columns.drop("feature")}
    return numbers
