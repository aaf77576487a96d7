"""Features in notebook 02: their ranking in each population, and numbers of the article."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from studies.config import Config
from studies.story.folders import main_population, population_names

ENDS = ("", "_low", "_high")  # of the names of a value and its interval


def rankings_by_population(config: Config, results: Path) -> dict[str, pd.DataFrame]:
    """Return the table of ``vitdm select`` of each population, a row a feature, the best first.

    The first is that of the article's model, on its training images.
    """
    folders = {main_population(config): results}
    for name in population_names(config):
        folders.setdefault(name, results / "populations" / name)
    return {name: pd.read_csv(at / "selection" / "ranking.csv") for name, at in folders.items()}


def side_by_side(rankings: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return how well each feature does in each population, in the order of the first ranking.

    Columns: ``name``, ``group`` and, of each population, ``auc_<population>``,
    ``direction_<population>`` (+ if substructure makes the feature larger) and
    ``significant_<population>`` (yes or no).
    """
    first = next(iter(rankings.values()))
    table = pd.DataFrame({"name": first["name"], "group": first["group"]})
    for name, ranking in rankings.items():
        part = ranking.set_index("name").loc[table["name"]]
        table[f"auc_{name}"] = part["roc_auc"].to_numpy()
        table[f"direction_{name}"] = part["sign"].map({1: "+", -1: "−"}).to_numpy()
        significant = part["significant"].map({True: "yes", False: "no"})
        table[f"significant_{name}"] = significant.to_numpy()
    return table


# ----------------------------------------------------------------------------------- numbers


def best_feature_numbers(ranking: pd.DataFrame) -> dict[str, Any]:
    """Return the name of the best feature and its scores, ``best_feature_...``."""
    best = ranking.iloc[0]
    return {
        "best_feature": best["name"],
        "best_feature_rho": best["spearman"],
        "best_feature_point_biserial": best["point_biserial"],
        "best_feature_information": best["mutual_information"],
        "best_feature_q": best["q"],
        **{f"best_feature_auc{end}": best[f"roc_auc{end}"] for end in ENDS},
    }


def selection_numbers(ranking: pd.DataFrame, choice: Mapping[str, Any]) -> dict[str, int]:
    """Return how many features and clusters there are, are significant, and are kept.

    ``choice`` is the content of ``selection.json``.
    """
    return {
        "n_features": len(ranking),
        "n_features_significant": choice["n_significant"],
        "n_feature_clusters": ranking["cluster"].nunique(),
        "n_features_selected": len(choice["features"]),
    }


def classifier_numbers(scores: pd.DataFrame) -> dict[str, float]:
    """Return the ROC-AUC, with its interval, of the classifiers that see features alone."""
    rows = scores.set_index(["model", "features"])
    numbers = {}
    for key, row in {
        "features_only_auc": ("gradient boosting", "all"),
        "features_logistic_auc": ("logistic regression", "all"),
        "features_selected_auc": ("gradient boosting", "selected"),
    }.items():
        numbers |= {f"{key}{end}": rows.loc[row, f"roc_auc{end}"] for end in ENDS}
    return numbers


def population_numbers(rankings: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Return the best feature and how many are significant, of all populations but the first."""
    numbers = {}
    for name, ranking in list(rankings.items())[1:]:
        numbers |= {f"best_feature_{name}": ranking["name"][0]}
        numbers |= {f"best_feature_auc_{name}": ranking["roc_auc"][0]}
        numbers |= {f"n_features_significant_{name}": int(ranking["significant"].sum())}
    return numbers
