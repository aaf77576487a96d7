"""Baselines and the known-lens bound in notebook 05: their scores beside those of the networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vitdm.data.dataset import read_catalog
from vitdm.evaluation import metrics
from vitdm.evaluation.final_test import BASELINE, UNTRAINED

KNOWN_LENS = "known_lens"
LABELS = {
    BASELINE: "gradient boosting on all features",
    UNTRAINED: "evidence of a point mass",
    KNOWN_LENS: "smooth lens known",
}


def read_baselines(folder: Path) -> dict[str, list[pd.DataFrame]]:
    """Return the predictions of each baseline, one table for each network.

    They are of the images held out and of those of the test; without features there are none.
    """
    return {
        name: [read_catalog(path) for path in sorted(folder.glob(f"rival_{name}_*.csv"))]
        for name in (BASELINE, UNTRAINED)
    }


def on_split(
    baselines: Mapping[str, Sequence[pd.DataFrame]], *, test: bool
) -> dict[str, list[pd.DataFrame]]:
    """Return the predictions of the test images, or of those held out."""
    return {
        name: [table[(table["split"] == "test") == test].reset_index(drop=True) for table in tables]
        for name, tables in baselines.items()
    }


def chi2_of_known_lens(results: Path, ids: pd.Series) -> np.ndarray | None:
    """Return chi^2 with the true smooth lens of some images, (n,); None if it is not known."""
    file = results / "known_model" / "scores.csv"
    if not file.exists():
        return None
    return read_catalog(file).set_index("id").loc[ids, "chi2_known"].to_numpy()


def known_lens(
    predictions: pd.DataFrame, chi2: np.ndarray | None, seeds: int
) -> dict[str, list[pd.DataFrame]]:
    """Return the known-lens bound as predictions of the same images, repeated for each network.

    ``chi2`` (n,) is the score of the rows of ``predictions``; without it the dictionary is empty.
    """
    if chi2 is None:
        return {}
    return {KNOWN_LENS: [predictions.assign(**{f"p_{metrics.NULL_CLASS}": 1 - chi2})] * seeds}


def beside_networks(
    networks: Sequence[pd.DataFrame],
    others: Mapping[str, Sequence[pd.DataFrame]],
    n: int,
    seed: int,
) -> pd.DataFrame:
    """Return the ROC-AUC of other scores, and by how much it exceeds that of the networks.

    All tables are of the same images, one for each network; ``n`` resamplings with a ``seed`` give
    the intervals. By the key of ``others``, the columns: ``rival``, ``roc_auc`` with ``low`` and
    ``high``; the difference ``gain`` with ``gain_low`` and ``gain_high``; ``p`` of DeLong's test.
    """
    labels, strata = metrics.binary_scores(networks[0])[0], networks[0]["class"].to_numpy()
    ours = [metrics.binary_scores(table)[1] for table in networks]
    rows = {}
    for key, tables in others.items():
        if tables:
            theirs = [metrics.binary_scores(table)[1] for table in tables]
            auc = metrics.bootstrap_interval(
                metrics.weighted_auc, labels, theirs, n, seed, strata=strata
            )
            difference = metrics.paired_difference(networks, tables, n, seed)
            p = metrics.delong_p(labels, ours, theirs)
            rows[key] = (LABELS[key], *auc, *difference[:3], p)
    columns = ["rival", "roc_auc", "low", "high", "gain", "gain_low", "gain_high", "p"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


# ------------------------------------------------------------------------------------ numbers


def baseline_numbers(table: pd.DataFrame) -> dict[str, float]:
    """Return the columns of ``beside_networks`` by the key of the baseline."""
    columns = {"test_auc": "roc_auc", "test_auc_low": "low", "test_auc_high": "high"}
    columns |= {name: name for name in ("gain", "gain_low", "gain_high", "p")}
    return {
        f"{key}_{short}": row[column]
        for key, row in table.iterrows()
        for short, column in columns.items()
    }


def macro_numbers(
    networks: Sequence[pd.DataFrame], trees: Sequence[pd.DataFrame], n: int, seed: int
) -> dict[str, float]:
    """Return by how much the macro ROC-AUC of trees exceeds that of networks; none of two classes.

    ``n`` resamplings with a ``seed`` give the interval.
    """
    if len(metrics.model_classes(networks[0])) == 2 or not trees:
        return {}
    difference = metrics.paired_difference(networks, trees, n, seed, macro=True)
    return dict(zip(("macro_gain", "macro_gain_low", "macro_gain_high"), difference, strict=False))
