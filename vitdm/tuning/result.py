"""What the Gaussian process of a finished search makes of the space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult
from skopt import space as skopt_space

from vitdm.config import Settings
from vitdm.tuning.finished import load_best, load_trials
from vitdm.tuning.search import opinion
from vitdm.tuning.space import dimensions, plain
from vitdm.tuning.trials import value_of


def load_result(folder: str | Path, settings: Settings) -> OptimizeResult:
    """Return scikit-optimize's result of a finished search, its Gaussian process fitted anew.

    Its plots (convergence, evaluations, partial dependence) work on it.
    """
    best, trials = load_best(folder), load_trials(folder)
    trials = trials[trials["stage"] != "again"]
    points = [plain(list(row)) for row in trials[list(settings.tune.space)].itertuples(index=False)]
    values = [value_of(score) for score in trials["score"]]
    seed = settings.seed if settings.tune.seed is None else settings.tune.seed
    return opinion(dimensions(settings.tune.space), points, values, best["noise_sd"], seed)


def setting_grid(dimension: skopt_space.Dimension, points: int = 25) -> list[Any]:
    """Return values that span a dimension of the search, evenly spaced on its own scale."""
    if isinstance(dimension, skopt_space.Categorical):
        return list(dimension.categories)
    spaced = np.geomspace if dimension.prior == "log-uniform" else np.linspace
    values = spaced(dimension.low, dimension.high, points)
    if isinstance(dimension, skopt_space.Integer):
        return np.unique(values.round().astype(int)).tolist()
    return values.clip(dimension.low, dimension.high).tolist()


def partial_dependence(
    search: OptimizeResult, names: Sequence[str], samples: int = 200, seed: int = 0
) -> np.ndarray:
    """Return what the Gaussian process predicts for some settings, all others averaged out.

    ``search`` comes from ``load_result``. The result is log10(1 - AUC), one axis a name, on its
    ``setting_grid``: the mean prediction over ``samples`` random settings of the other dimensions
    (Friedman 2001, Annals of Statistics 29, 1189, section 8.2).
    """
    dimensions = search.space.dimensions
    ends = np.cumsum([dimension.transformed_size for dimension in dimensions])
    places, columns = [], []  # of each name, in the transformed space: where, and its grid
    for name in names:
        i = next(i for i, dimension in enumerate(dimensions) if dimension.name == name)
        grid = dimensions[i].transform(setting_grid(dimensions[i]))
        places.append(slice(ends[i] - dimensions[i].transformed_size, ends[i]))
        columns.append(np.reshape(grid, (len(grid), -1)))
    others = search.space.transform(search.space.rvs(samples, random_state=seed))
    result = np.empty([len(column) for column in columns])
    for index in np.ndindex(*result.shape):
        for place, column, k in zip(places, columns, index, strict=True):
            others[:, place] = column[k]
        result[index] = search.models[-1].predict(others).mean()
    return result
