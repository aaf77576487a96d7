"""Searches on lenses unlike what the fit is told, in notebook 06: the matrix, and its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from studies.config import Config
from studies.misspecification import LEVELS, METHODS
from studies.misspecified import NOMINAL
from studies.story.extended import committed, first_there
from vitdm.data.dataset import read_catalog

FACTOR = 2.0  # around the nominal rate of false positives


def read_matrix(config: Config, results: Path) -> pd.DataFrame | None:
    """Return the table of ``studies.misspecification``; None if there is none.

    That of this run goes before the committed one.
    """
    own = results / "misspecification/all/misspecification.csv"
    file = first_there([own, *committed(config, own.name)])
    return None if file is None else read_catalog(file)


def compact(table: pd.DataFrame, level: int = LEVELS[0]) -> pd.DataFrame:
    """Return the table of the article: of each method false positives / completeness, in %."""
    about = table.drop_duplicates("row").set_index("row")[["group", "label"]]
    columns = {"misspecification": about["group"] + ": " + about["label"]}
    for method in METHODS:
        own = table[table["method"] == method].set_index("row").loc[about.index]
        pairs = zip(own[f"fpr_{level}"], own[f"completeness_{level}"], strict=True)
        columns[method] = [f"{100 * fpr:.1f} / {100 * found:.0f}" for fpr, found in pairs]
    return pd.DataFrame(columns).reset_index(drop=True)


def off_nominal(table: pd.DataFrame, level: int = LEVELS[0]) -> pd.DataFrame:
    """Return rows and methods whose interval of false positives lies beyond half or twice of it."""
    nominal, low, high = level / 100, table[f"fpr_{level}_low"], table[f"fpr_{level}_high"]
    return table[(low > FACTOR * nominal) | (high < nominal / FACTOR)]


def matrix_numbers(table: pd.DataFrame) -> dict[str, Any]:
    """Return for each method the extremes over the rows, and what nominal lenses have.

    At each of the levels: ``fpr_max`` and ``fpr_mean`` over the rows but the nominal one,
    ``n_off`` of them (``off_nominal``), ``fpr`` and ``completeness`` of nominal lenses;
    ``roc_auc_min`` and ``roc_auc``.
    """
    numbers: dict[str, Any] = {"n_rows": int(table["row"].nunique())}
    for name in ("n_smooth", "n_perturbed", "n_calibration"):
        numbers[name] = int(table[name].max())
    for method in METHODS:
        own = table[table["method"] == method]
        nominal, others = own[own["row"] == NOMINAL], own[own["row"] != NOMINAL]
        for level in LEVELS:
            key = f"{method}_{level}"
            numbers[f"{key}_fpr_max"] = float(others[f"fpr_{level}"].max())
            numbers[f"{key}_fpr_mean"] = float(others[f"fpr_{level}"].mean())
            numbers[f"{key}_n_off"] = len(off_nominal(others, level))
            if len(nominal):
                numbers[f"{key}_fpr"] = float(nominal[f"fpr_{level}"].iloc[0])
                numbers[f"{key}_completeness"] = float(nominal[f"completeness_{level}"].iloc[0])
        numbers[f"{method}_roc_auc_min"] = float(others["roc_auc"].min())
        if len(nominal):
            numbers[f"{method}_roc_auc"] = float(nominal["roc_auc"].iloc[0])
    return {f"misspecification_{key}": value for key, value in numbers.items()}
