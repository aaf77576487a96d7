"""Scores against the number of training images, and without the shortcut, in notebook 03."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.config import Config

EXTENDED = Path("paper/extended/efficiency.csv")  # the larger grid of config/extended.yaml
UNTRAINED = {
    "fit_point_evidence": "untrained: evidence of a point mass",
    "fit_fourth_power": "untrained: 4th power of the residual",
    "fit_theta_E": r"untrained: fitted $\theta_\mathrm{E}$",
}


def efficiency_curves(config: Config, results: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the scores of ``studies.efficiency``, a row for each training and scored population.

    Those of the larger grid, and those of this run beside it, if the article shows it; else those
    of this run, and None. Without curves in the configuration the table is empty. The sample of
    networks that see images alone has the name of its population.
    """
    if not config.efficiency.curves:
        return pd.DataFrame(), None
    files = [EXTENDED] * (config.publish and EXTENDED.exists())
    files += [results / "efficiency" / "all" / "efficiency.csv"]
    tables = [pd.read_csv(file) for file in files]
    for table in tables:
        for column in ("population", "scored_on"):
            table[column] = table[column].str.removesuffix("_images")
    return tables[0], tables[1] if len(tables) > 1 else None


def model_labels(curves: pd.DataFrame) -> dict[str, str]:
    """Return the label of each model of ``efficiency_curves``."""
    labels = dict(zip(curves["model"], curves["label"], strict=True))
    labels = {name: text.replace("ViT + SPT + LSA", "ViT: image") for name, text in labels.items()}
    return labels | UNTRAINED


def with_several_sizes(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the populations with several numbers of training images, or all if none has."""
    trained = curves[curves["n_train"] > 0]
    sizes = trained.groupby("population")["n_train"].nunique()
    several = sizes.index[sizes > min(1, sizes.max() - 1)]
    return curves[curves["population"].isin(several)]


def own_scores(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of models on the population that they were trained on."""
    return curves[curves["population"] == curves["scored_on"]]


def efficiency_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the mean scores over the seeds, by population, model and number of training images.

    Columns: ``population``, ``model``, ``n_train``, ``roc_auc``, ``roc_auc_sd``,
    ``macro_roc_auc``, ``macro_roc_auc_sd``, ``seeds``.
    """
    by_size = own_scores(curves).groupby(["population", "model", "n_train"], sort=False)
    scores = by_size[["roc_auc", "macro_roc_auc"]].agg(["mean", "std"])
    scores.columns = ["roc_auc", "roc_auc_sd", "macro_roc_auc", "macro_roc_auc_sd"]
    return scores.reset_index().assign(seeds=by_size.size().to_numpy())


# ----------------------------------------------------------------------------------- numbers


def efficiency_numbers(curves: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """Return scores and seconds by population, model and number of training images.

    ``table`` is the ``efficiency_table`` of the ``curves``.
    """
    numbers: dict[str, Any] = {}
    for row in table.itertuples():
        key = f"efficiency_{row.population}_{row.model}_{row.n_train}"
        numbers |= {f"{key}_auc": row.roc_auc, f"{key}_sd": row.roc_auc_sd}
        numbers |= {f"{key}_macro": row.macro_roc_auc, f"{key}_macro_sd": row.macro_roc_auc_sd}
    timed = own_scores(curves).dropna(subset="seconds").groupby(["population", "model", "n_train"])
    for (population, name, n), seconds in timed["seconds"].mean().items():
        numbers |= {f"efficiency_{population}_{name}_{n}_seconds": seconds}
    numbers |= {"efficiency_n_scored": int(curves["n_scored"].max())}
    return numbers | {"efficiency_seeds": int(table["seeds"].max())}


def numbers_of_this_run(curves: pd.DataFrame) -> dict[str, Any]:
    """Return the ROC-AUC of this run's own trainings, beside those of the larger grid."""
    return {
        f"efficiency_here_{row.population}_{row.model}_{row.n_train}_auc": row.roc_auc
        for row in efficiency_table(curves).itertuples()
    }


def published_from_scratch(published: pd.DataFrame) -> float:
    """Return the best published macro ROC-AUC on Model I of a network trained from scratch."""
    scratch = published.query("population == 'model_i' and pretrained == 'no'")
    return scratch["macro_roc_auc"].max()


def shortcut_numbers(loss: pd.DataFrame) -> dict[str, Any]:
    """Return the finite scores of ``plots.efficiency.shortcut_table``, by model."""
    numbers: dict[str, Any] = {"shortcut_n_train": int(loss["n_train"].max())}
    for row in loss.to_dict("records"):
        for score in ("roc_auc", "macro_roc_auc"):
            for kind in ("here", "there", "learnt"):
                if np.isfinite(row[f"{score}_{kind}"]):
                    key = f"shortcut_{row['model']}_{score}_{kind}"
                    numbers[key] = row[f"{score}_{kind}"]
    return numbers
