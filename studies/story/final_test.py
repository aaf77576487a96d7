"""The final test in notebook 05: predictions, truth, tables of scores, calibration, numbers.

A table of predictions has a row an image: ``id``, ``class``, ``label``, ``split`` and ``p_<class>``
for each class of the model. ``tested`` is the content of ``metrics.json`` of the evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.config import Config
from vitdm.data.dataset import Dataset, read_catalog
from vitdm.evaluation import calibration, metrics

ENDS = ("", "_low", "_high")  # of the keys of a value and its interval
RESULTS = {  # key: what it is, in words
    "test_auc": "ROC-AUC, any substructure",
    "test_auc_delong": "the same, interval by DeLong",
    "test_ensemble_auc": "ROC-AUC, ensemble of the seeds",
    "test_auc_macro": "ROC-AUC, mean of the classes",
    "test_average_precision": "average precision",
    "test_balanced_accuracy": "balanced accuracy",
    "test_accuracy": "accuracy",
    "test_tpr_at_fpr_01": "true-positive rate at 1 % false positives",
    "test_tpr_at_fpr_001": "true-positive rate at 0.1 % false positives",
    "test_multiclass_accuracy": "accuracy among all classes",
    "test_ece": "expected calibration error",
    "test_ece_tempered": "the same, with the temperature",
    "test_ece_floor": "the same, of a perfect model",
}
#: of a model of two classes these are the ROC-AUC and the accuracy
MULTICLASS = ("test_auc_macro", "test_multiclass_accuracy")


def read_predictions(folder: Path, kind: str = "predictions") -> dict[str, pd.DataFrame]:
    """Return the predictions of each network by the name of its run, seed0, seed1, …

    ``kind`` is predictions, of the test images, or held_out, of those that chose the thresholds.
    """
    files = sorted(folder.glob(f"{kind}_*.csv"))
    return {file.stem.removeprefix(f"{kind}_"): read_catalog(file) for file in files}


def rows_of(data: Dataset, ids: Sequence[str]) -> np.ndarray:
    """Return the rows of a dataset, (n,), that have some ids."""
    places = pd.Series(np.arange(len(data.catalog)), index=data.catalog["id"])
    return places[list(ids)].to_numpy()


def truth_of(data: Dataset, ids: Sequence[str]) -> pd.DataFrame:
    """Return the rows of the catalog that have some ids, in their order."""
    return data.catalog.iloc[rows_of(data, ids)].reset_index(drop=True)


def read_features(results: Path) -> pd.DataFrame:
    """Return the features of all images, a column each, by id."""
    return pd.read_csv(results / "features.csv", dtype={"id": str}).set_index("id")


# ------------------------------------------------------------------------------------- tables


def results_table(tested: Mapping[str, Any]) -> pd.DataFrame:
    """Return the scores of the test in words: quantity, value, low, high (95 %, if there is one).

    A model of two classes has no row for ``MULTICLASS``.
    """
    left_out = MULTICLASS if len(tested["classes"]) == 2 else ()
    rows = [
        (text, tested[key.removesuffix("_delong")], *(tested.get(key + end) for end in ENDS[1:]))
        for key, text in RESULTS.items()
        if key not in left_out
    ]
    return pd.DataFrame(rows, columns=["quantity", "value", "low", "high"])


def per_class_table(tested: Mapping[str, Any], predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the ROC-AUC of each class against the rest: class, images, roc_auc, low, high."""
    rows = [
        (name, int((predictions["label"] == label).sum()))
        + tuple(tested[f"test_auc_{name}{end}"] for end in ENDS)
        for label, name in enumerate(tested["classes"])
        if f"test_auc_{name}" in tested
    ]
    return pd.DataFrame(rows, columns=["class", "images", "roc_auc", "low", "high"])


def reliability_curves(
    networks: Sequence[pd.DataFrame], temperatures: Sequence[float]
) -> dict[str, pd.DataFrame]:
    """Return tables of ``calibration.reliability`` of all networks together, before and after.

    ``temperatures`` are those of the networks. Keys are raw and tempered.
    """
    labels = np.concatenate([metrics.binary_scores(table)[0] for table in networks])
    scores = {
        "raw": _calibrated(networks, np.ones(len(networks))),
        "tempered": _calibrated(networks, temperatures),
    }
    n = len(networks)
    return {name: calibration.reliability(labels, each, n) for name, each in scores.items()}


def _calibrated(networks: Sequence[pd.DataFrame], temperatures: Sequence[float]) -> np.ndarray:
    """Return the scores of all networks one after the other, each with its own temperature."""
    place = metrics.model_classes(networks[0]).index(metrics.NULL_CLASS)
    return np.concatenate(
        [
            1 - calibration.tempered(metrics.probabilities(table), temperature)[:, place]
            for table, temperature in zip(networks, temperatures, strict=True)
        ]
    )


# ------------------------------------------------------------------------------------ numbers


def score_numbers(tested: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores and counts of the test, but for those of single seeds."""
    left_out = ("test_auc_seeds", "n_test")  # a list; and the second is among notebook 01's
    kept = [key for key in tested if key.startswith(("test_", "n_")) and key not in left_out]
    return {key: tested[key] for key in kept}


def training_numbers(config: Config, results: Path) -> dict[str, int]:
    """Return epochs, parameters and number of training images of the final networks."""
    first = sorted((results / "final").glob("seed*/metrics.json"))[0]
    of_run = json.loads(first.read_text())
    return {
        "final_epochs": config.final.epochs,
        "final_parameters": of_run["parameters"],
        "n_final": of_run["n_train"],
    }
