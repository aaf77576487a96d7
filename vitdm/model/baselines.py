"""What one would try before a network: standard classifiers on the table of features alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def gradient_boosting(seed: int, learning_rate: float = 0.05) -> HistGradientBoostingClassifier:
    """Return untrained gradient-boosted trees; in each node the missing go where they fit better.

    Ke et al. (2017), NeurIPS 30, as in scikit-learn, with its defaults but for a lower rate.
    """
    return HistGradientBoostingClassifier(
        learning_rate=learning_rate, max_iter=200, random_state=seed
    )


def logistic_regression(seed: int) -> Pipeline:
    """Return an untrained logistic regression: missing → median and an indicator, standardised."""
    imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    return make_pipeline(
        imputer, StandardScaler(), LogisticRegression(max_iter=2000, random_state=seed)
    )


#: by name, functions of the seed
BASELINES: dict[str, Callable[..., HistGradientBoostingClassifier | Pipeline]] = {
    "gradient boosting": gradient_boosting,
    "logistic regression": logistic_regression,
}

Scorer = Callable[[np.ndarray], np.ndarray]


def trained(
    name: str, values: np.ndarray, labels: np.ndarray, seed: int, **settings: float
) -> Scorer:
    """Train a baseline; return the function from features (m, F) to probabilities (m, K).

    ``values`` (n, F), NaN where missing; ``labels`` (n,) from 0 to K - 1. A feature that no
    training image has, or that never varies, is left out: it can tell nothing.
    """
    known = np.isfinite(values)
    low = np.where(known, values, np.inf).min(axis=0)
    high = np.where(known, values, -np.inf).max(axis=0)
    useful = known.any(axis=0) & ((low < high) | ~known.all(axis=0))
    shares = np.bincount(labels) / len(labels)
    if not useful.any():
        return lambda others: np.tile(shares, (len(others), 1))
    model = BASELINES[name](seed, **settings).fit(values[:, useful], labels)

    def probabilities(others: np.ndarray) -> np.ndarray:
        scores = np.zeros((len(others), len(shares)))
        scores[:, model.classes_] = model.predict_proba(others[:, useful])
        return scores

    return probabilities


def permutation_importance(
    quality: Callable[[np.ndarray], float],
    values: np.ndarray,
    blocks: Sequence[Sequence[int]],
    repeats: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much a quality falls when blocks of columns are shuffled: mean and s.d.

    ``quality`` maps features (n, F) to a number. The columns of one block are moved together from
    image to image (Breiman 2001, Machine Learning 45, 5, section 10, for a block of one), since
    features that repeat one another would each seem useless beside the other. The s.d. (ddof 1) is
    over the ``repeats``. A block that tells nothing given the others is one of its own shufflings:
    its mean lies beyond two s.d. in one case of forty.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    orders = [generator.permutation(len(values)) for _ in range(repeats)]
    whole = quality(values)
    falls = np.empty((len(blocks), repeats))
    for k, block in enumerate(blocks):
        columns, shuffled = list(block), values.copy()
        for r, order in enumerate(orders):
            shuffled[:, columns] = values[np.ix_(order, columns)]
            falls[k, r] = whole - quality(shuffled)
    return falls.mean(axis=1), falls.std(axis=1, ddof=1)
