"""From scores to decisions and to probabilities that hold: threshold, temperature, and a check.

Threshold and temperature are chosen on images that a model did not learn from, and that no score is
quoted for. Probabilities are (n, K), labels of images 0 to K - 1, or 0 and 1 beside one score each.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import optimize, special, stats
from sklearn import metrics

BINS = 15  # of equal width, as in Guo et al. (2017)
RANGE = 20.0  # temperatures lie within this factor of 1
UNTEMPERED = 1.0  # which leaves scores as they are


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the threshold of the best balanced accuracy; above it is class 1.

    That is where TPR - FPR is largest (Youden 1950, Cancer 3, 32), midway between two scores that
    occur; of several such places the highest.
    """
    fpr, tpr, cuts = metrics.roc_curve(labels, scores, drop_intermediate=False)
    lowest = cuts[np.argmax(tpr - fpr)]  # of the scores called class 1
    below = scores[scores < lowest]
    return float((min(lowest, scores.max()) + below.max()) / 2) if len(below) else float(lowest)


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities (n, K) as if the logits had been divided by a temperature."""
    logits = np.log(np.clip(probabilities, 1e-15, None))
    return special.softmax(logits / temperature, axis=1)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature of the smallest cross-entropy (Guo et al. 2017, ICML 70, sect. 4.2).

    Above 1 the model was too sure of itself, below 1 not sure enough, as one is that was trained
    with label smoothing. ``UNTEMPERED`` if there is none within a factor ``RANGE`` of 1: where all
    images are right, or the scores no better than chance, it would be zero or infinite.
    """
    rows = np.arange(len(labels))

    def loss(logarithm: float) -> float:
        of_truth = tempered(probabilities, np.exp(logarithm))[rows, labels]
        return -np.log(np.clip(of_truth, 1e-15, None)).mean()

    limits = (-np.log(RANGE), np.log(RANGE))
    best = optimize.minimize_scalar(loss, bounds=limits, method="bounded")
    at_limit = min(map(loss, limits)) <= best.fun + 1e-9  # or nearly as good there
    return UNTEMPERED if at_limit else float(np.exp(best.x))


def _bins(scores: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((scores * bins).astype(int), bins - 1)


def calibration_error(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray, bins: int = BINS
) -> np.ndarray:
    """Return the expected calibration error (B,) of samples with image i ``weights[b, i]`` times.

    In bins of the score, the mean distance of score and fraction of class 1, weighted with the
    images in each (Guo et al. 2017, eq. 5, for one probability of two classes).
    """
    member = _bins(scores, bins)[:, None] == np.arange(bins)
    gaps = np.abs((weights * (labels - scores)) @ member)
    return gaps.sum(axis=1) / weights.sum(axis=1)


def calibration_floor(scores: np.ndarray, seed: int, n: int = 200) -> float:
    """Return the mean calibration error of a perfect model with these scores (n,).

    It is not 0: of few images, a fraction is never quite its probability. Labels are drawn ``n``
    times with the scores as their probabilities.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    ones = np.ones((1, len(scores)))
    drawn = (generator.random(len(scores)) < scores for _ in range(n))
    return float(np.mean([calibration_error(labels, scores, ones)[0] for labels in drawn]))


def reliability(labels: np.ndarray, scores: np.ndarray, copies: int = 1) -> pd.DataFrame:
    """Return score and fraction of class 1 in bins: score, rate, rate_low, rate_high, n.

    ``copies`` is how often each image occurs, scored by as many models: the 95 % Wilson interval
    counts it once, as ``n`` does. Empty bins are left out.
    """
    member, rows = _bins(scores, BINS), []
    for k in np.unique(member):
        inside = member == k
        n = max(1, round(inside.sum() / copies))
        rate = labels[inside].mean()
        interval = stats.binomtest(round(rate * n), n).proportion_ci(method="wilson")
        rows.append((scores[inside].mean(), rate, *interval, n))
    return pd.DataFrame(rows, columns=["score", "rate", "rate_low", "rate_high", "n"])
