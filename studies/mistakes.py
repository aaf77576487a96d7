"""Logistic regression of misclassification on lens properties, within one class.

Odds are per standard deviation of a property, the others held: 2 means that the odds of an error
double.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from studies.sensitivity import FLUX_SNR, ring_distance
from vitdm.simulation.classes import CLASSES, Quantity

FEWEST = 10  # errors, and images that are right: of fewer nothing is told
FOLDS = 5
#: looked at in the images of all classes, beside ``explained_by`` of each class
SHARED = (
    FLUX_SNR,
    Quantity("source_offset", "source to lens (arcsec)", log=False),
    Quantity("ellipticity", "ellipticity of the halo", log=False),
    Quantity("source_n_sersic", "Sérsic index of the source", log=False),
)


def properties(catalog: pd.DataFrame, features: pd.DataFrame, of_class: str) -> pd.DataFrame:
    """Return what is known of the images of a class: a column a property; NaN where it is not.

    ``catalog`` has the truth of simulated lenses, ``features`` what was measured, row by row.
    ``ring_distance`` ["]: of the heaviest subhalo, or the middle of the vortex, from the Einstein
    radius; ``source_offset`` ["]: of the source from the lens; ``ellipticity``: of the halo.
    """
    known = pd.concat([catalog.reset_index(drop=True), features.reset_index(drop=True)], axis=1)
    known = known.copy()  # in one piece: pandas warns of columns put to many pieces

    def distance(x: str, y: str) -> pd.Series:
        return np.hypot(known[x].astype(float), known[y].astype(float))

    own = CLASSES[of_class]
    if (to_ring := ring_distance(catalog, own)) is not None:
        known["ring_distance"] = to_ring
    if {"source_x", "source_y"} <= set(known):
        known["source_offset"] = distance("source_x", "source_y")
    if {"e1", "e2"} <= set(known):
        known["ellipticity"] = distance("e1", "e2")
    table = pd.DataFrame(index=known.index)
    for quantity in (*own.explained_by, *SHARED):
        if quantity.column in known:
            value = known[quantity.column].astype(float)
            table[quantity.column] = np.log10(value.where(value > 0)) if quantity.log else value
    table.loc[(known["class"] != of_class).to_numpy()] = np.nan
    return table.loc[:, table.std() > 0]


def _regression() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression())  # with its ridge of unit strength


def explain(
    wrong: np.ndarray, known: pd.DataFrame, n_bootstrap: int = 500, seed: int = 0
) -> tuple[pd.DataFrame, float]:
    """Return the odds of an error by property, and how well they tell errors that are new.

    ``wrong`` (n,) boolean, ``known`` (n, p) as of ``properties``; rows with a NaN are left out. The
    table: property, odds (per standard deviation), low, high (95 %, of resampled images), n,
    errors. The number: ROC-AUC of the regression on errors that it was not fitted to (folds). An
    empty table and NaN if there are fewer than ``FEWEST`` errors.
    """
    there = known.notna().all(axis=1).to_numpy()
    values, errors = known.to_numpy(float)[there], np.asarray(wrong)[there].astype(int)
    n = len(errors)
    columns = ["property", "odds", "low", "high", "n", "errors"]
    if known.shape[1] == 0 or min(errors.sum(), n - errors.sum()) < FEWEST:
        return pd.DataFrame(columns=columns), np.nan
    model = _regression().fit(values, errors)
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    sides = [np.flatnonzero(errors == side) for side in (0, 1)]
    draws = []
    for _ in range(n_bootstrap):
        rows = np.concatenate([generator.choice(side, len(side)) for side in sides])
        scaled = model[0].transform(values[rows])  # the unit stays that of the images
        draws.append(LogisticRegression().fit(scaled, errors[rows]).coef_[0])
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    table = pd.DataFrame(
        {
            "property": known.columns,
            "odds": np.exp(model[1].coef_[0]),
            "low": np.exp(low),
            "high": np.exp(high),
            "n": n,
            "errors": int(errors.sum()),
        }
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    new = cross_val_predict(_regression(), values, errors, cv=folds, method="predict_proba")[:, 1]
    return table, float(roc_auc_score(errors, new))
