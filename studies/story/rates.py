"""Learning rate against recipe in notebook 04: scores, and the highest rate that trains."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from studies.config import Config
from studies.plots.tuning import COLLAPSED
from studies.story.extended import committed, first_there


def rate_trials(config: Config, results: Path) -> pd.DataFrame | None:
    """Return the trainings of ``studies.rates``, a row each; None if there are none.

    Those of this run, else the committed ones that the article shows. Columns used here:
    ``recipe``, its ``label``, ``learning_rate`` and ``score`` (ROC-AUC on opt).
    """
    file = first_there([results / "rates" / "rates.csv", *committed(config, "rates.csv")])
    return None if file is None else pd.read_csv(file)


def recipe_labels(trials: pd.DataFrame) -> dict[str, str]:
    """Return the label of each recipe."""
    return dict(trials[["recipe", "label"]].drop_duplicates().to_numpy())


def median_scores(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the median ROC-AUC over the seeds: a row a recipe, a column a learning rate."""
    return trials.pivot_table(
        index="recipe", columns="learning_rate", values="score", aggfunc="median", sort=False
    )


def highest_rates(medians: pd.DataFrame) -> dict[str, float]:
    """Return the highest learning rate at which a recipe trains, of those that do at any.

    A recipe trains where its ``median_scores`` exceed ``COLLAPSED``.
    """
    works = medians.gt(COLLAPSED)
    return {name: float(row[row].index.max()) for name, row in works.iterrows() if row.any()}


def rates_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Return ``median_scores`` and ``highest_rate`` (NaN if none) by the label of the recipe."""
    medians = median_scores(trials)
    limits = pd.Series(highest_rates(medians), dtype=float)
    return medians.assign(highest_rate=limits).rename(index=recipe_labels(trials))


def rates_numbers(trials: pd.DataFrame) -> dict[str, float]:
    """Return the best score and the highest rate that trains by recipe, and the highest of all."""
    medians = median_scores(trials)
    limits = highest_rates(medians)
    numbers = {f"rates_limit_{name}": limit for name, limit in limits.items()}
    numbers |= {f"rates_best_{name}": score for name, score in medians.max(axis=1).items()}
    return numbers | ({"rates_highest": float(trials["learning_rate"].max())} if limits else {})
