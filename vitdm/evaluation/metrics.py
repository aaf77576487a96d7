"""Scores of predictions, with intervals: ROC-AUC, rates, bootstrap, DeLong, paired differences.

A table of predictions has the columns ``id, label, class, split`` and ``p_<class>`` for each class
of the model, in its order; ``label`` is the index of the true class among these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from sklearn import metrics

from vitdm.errors import InputError
from vitdm.evaluation.calibration import best_threshold
from vitdm.simulation.classes import NO_SUB

NULL_CLASS = NO_SUB
CHUNK = 250  # resamplings held in memory at a time
NO_WIDTH = 1e-12  # of an interval: rounding

#: of labels (N,), scores (N,) and counts (B, N) to (B,)
Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class Interval(NamedTuple):
    """A statistic and its confidence interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """Of two kinds of model: mean over the seeds, 95 % interval, standard error, each seed's."""

    value: float
    low: float
    high: float
    sd: float
    seeds: list[float]

    @property
    def beyond_error(self) -> bool:
        """Whether it is more than twice its standard error, up or down."""
        return abs(self.value) > 2 * self.sd


# ---------------------------------------------------------------------------- tables → arrays


def model_classes(predictions: pd.DataFrame) -> list[str]:
    """Return the classes of the model that made these predictions, in its order."""
    return [name[2:] for name in predictions.columns if name.startswith("p_")]


def probabilities(predictions: pd.DataFrame) -> np.ndarray:
    """Return the probabilities of all classes, (n, K)."""
    return predictions[[f"p_{name}" for name in model_classes(predictions)]].to_numpy(float)


def binary_scores(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,), 1 for any substructure, and scores (n,), ``1 - p_no_sub``."""
    if f"p_{NULL_CLASS}" not in predictions:
        raise InputError(
            f"predictions: found columns {', '.join(predictions.columns)}; expected p_{NULL_CLASS}"
        )
    labels = (predictions["class"] != NULL_CLASS).to_numpy().astype(int)
    return labels, 1.0 - predictions[f"p_{NULL_CLASS}"].to_numpy(float)


def ensemble(predictions: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the table of the mean over the seeds' probabilities; the tables share their rows."""
    first = predictions[0]
    for other in predictions[1:]:
        if list(other.columns) != list(first.columns) or not other["id"].equals(first["id"]):
            raise InputError("predictions: the seeds' tables differ in their images or classes")
    mean = first.copy()
    columns = [f"p_{name}" for name in model_classes(first)]
    mean[columns] = np.mean([probabilities(table) for table in predictions], axis=0)
    return mean


# ------------------------------------------------------------------------------------- metrics


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve; InputError if the labels are all the same."""
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError(f"ROC-AUC: found label {present.tolist()} only; expected both 0 and 1")
    return float(metrics.roc_auc_score(labels, scores))


def step_curve(labels: np.ndarray, scores: np.ndarray, fpr: np.ndarray) -> np.ndarray:
    """Return the highest true-positive rate at a false-positive rate of at most ``fpr`` (m,)."""
    x, y, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    return y[np.searchsorted(x, fpr, side="right") - 1]


def threshold_at_fpr(labels: np.ndarray, scores: np.ndarray, fpr: float) -> float:
    """Return the lowest score above which at most the fraction ``fpr`` of the negatives lies."""
    negatives = np.sort(scores[labels == 0])[::-1]
    return float(negatives[min(int(fpr * len(negatives)), len(negatives) - 1)])


def roc_band(predictions: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the ROC curve's mean, lowest and highest over the seeds: fpr, tpr, tpr_low, tpr_high.

    The curves are averaged at fixed false-positive rates, dense towards 0 (vertical averaging,
    Fawcett 2006, Pattern Recognition Letters 27, 861, section 8.1).
    """
    fpr = np.unique(np.concatenate([[0.0], np.geomspace(1e-4, 1, 400), np.linspace(0, 1, 201)]))
    curves = np.array([step_curve(*binary_scores(table), fpr) for table in predictions])
    fpr, curves = np.append(0.0, fpr), np.pad(curves, ((0, 0), (1, 0)))  # begin at the origin
    return pd.DataFrame(
        {
            "fpr": fpr,
            "tpr": curves.mean(axis=0),
            "tpr_low": curves.min(axis=0),
            "tpr_high": curves.max(axis=0),
        }
    )


def per_class_auc(predictions: pd.DataFrame) -> dict[str, float]:
    """Return the ROC-AUC of each class against the rest; NaN for a class without images."""
    scores, labels = probabilities(predictions), predictions["label"].to_numpy()
    return {
        name: roc_auc(labels == k, scores[:, k]) if 0 < (labels == k).mean() < 1 else np.nan
        for k, name in enumerate(model_classes(predictions))
    }


def confusion(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the counts of images: rows are true classes, columns the most probable class."""
    classes = model_classes(predictions)
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (predictions["label"], probabilities(predictions).argmax(axis=1)), 1)
    return pd.DataFrame(counts, index=classes, columns=classes)


def multiclass_accuracy(predictions: pd.DataFrame) -> float:
    """Return the fraction of images whose most probable class is the true one."""
    return float((probabilities(predictions).argmax(axis=1) == predictions["label"]).mean())


def fewest_errors(predictions: pd.DataFrame) -> float:
    """Return 1 minus the balanced accuracy at the threshold where that is best."""
    labels, scores = binary_scores(predictions)
    return 1 - roc_auc(labels, (scores > best_threshold(labels, scores)).astype(float))


# ----------------------------------------------------------------------------------- bootstrap


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the ROC-AUC (B,) of samples in which image i stands ``weights[b, i]`` times (B, n).

    The area is the probability that a positive outscores a negative, ties counting half. With the
    negatives sorted once, the weight of those below each positive is one entry of a cumulative
    sum, so a resampling costs one pass over the images and no sorting.
    """
    positive, negative = labels == 1, labels == 0
    order = np.argsort(scores[negative], kind="stable")
    ranked = scores[negative][order]
    below = np.zeros((len(weights), len(ranked) + 1))
    np.cumsum(weights[:, negative][:, order], axis=1, out=below[:, 1:])
    left = np.searchsorted(ranked, scores[positive], side="left")
    right = np.searchsorted(ranked, scores[positive], side="right")
    wins = 0.5 * (below[:, left] + below[:, right])
    copies = weights[:, positive]
    return np.einsum("bi,bi->b", copies, wins) / (copies.sum(axis=1) * below[:, -1])


def _cumulative(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of true and false positives (B, m) at each score that occurs, from above.

    They begin at 0, where nothing is called positive.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of equal scores
    positive = labels[order] == 1
    sums = (np.cumsum(weights[:, order] * side, axis=1)[:, ends] for side in (positive, ~positive))
    true, false = (np.pad(counts, ((0, 0), (1, 0))) for counts in sums)
    return true, false


def weighted_average_precision(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the average precision (B,) of such samples: sum of precision times step in recall."""
    true, false = _cumulative(labels, scores, weights)
    called = true[:, 1:] + false[:, 1:]
    precision = true[:, 1:] / np.where(called > 0, called, 1)
    return (np.diff(true) * precision).sum(axis=1) / true[:, -1]


def weighted_tpr(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray, fpr: float
) -> np.ndarray:
    """Return the highest true-positive rate (B,) at a false-positive rate of at most ``fpr``."""
    true, false = _cumulative(labels, scores, weights)
    allowed = false <= fpr * false[:, -1:] * (1 + 1e-12)
    return np.where(allowed, true, 0).max(axis=1) / true[:, -1]


def weighted_accuracy(labels: np.ndarray, called: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the fraction right (B,) of decisions, 0 or 1; ``weighted_auc`` balances it."""
    return weights @ (called == labels) / weights.sum(axis=1)


def resamplings(strata: np.ndarray, n: int, seed: int) -> Iterator[np.ndarray]:
    """Yield counts (≤ CHUNK, n images) of how often each image is drawn, n resamplings in all.

    Each stratum is drawn with replacement to its own size. The same seed gives the same draws.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    members = [np.flatnonzero(strata == value) for value in np.unique(strata)]
    total = len(strata)
    for start in range(0, n, CHUNK):
        size = min(CHUNK, n - start)
        offset = total * np.arange(size)[:, None]
        drawn = [
            (ids[generator.integers(len(ids), size=(size, len(ids)))] + offset).ravel()
            for ids in members
        ]
        counts = np.bincount(np.concatenate(drawn), minlength=size * total)
        yield counts.reshape(size, total).astype(float)


def bootstrap_interval(
    statistic: Statistic,
    labels: np.ndarray,
    scores_list: Sequence[np.ndarray],
    n: int,
    seed: int,
    level: float = 0.95,
    strata: np.ndarray | None = None,
    lowest: float = 0.0,
) -> Interval:
    """Return the mean of a statistic over the seeds with its bootstrap interval over the images.

    ``statistic(labels, scores, weights)`` maps labels (N,), scores (N,) and counts (B, N) to (B,);
    ``scores_list`` has one array (N,) a seed. All seeds see the same resampled images, and the
    statistic is averaged over the seeds within each of the ``n`` resamplings; the interval holds
    the central ``level`` of these means (percentile bootstrap, Efron and Tibshirani 1993, ch. 13).
    It is stratified: each value of ``strata`` (default: the labels) keeps its number of images.
    Where all resamplings agree, as of a test without a mistake, the interval is ``cautious``:
    the statistic lies between ``lowest`` and 1.
    """
    if len(np.unique(labels)) < 2:
        raise InputError(f"bootstrap: found label {np.unique(labels).tolist()} only; expected both")

    def mean(weights: np.ndarray) -> np.ndarray:
        return np.mean([statistic(labels, scores, weights) for scores in scores_list], axis=0)

    value = mean(np.ones((1, len(labels))))[0]
    draws = [
        mean(weights) for weights in resamplings(labels if strata is None else strata, n, seed)
    ]
    low, high = np.quantile(np.concatenate(draws), [0.5 - level / 2, 0.5 + level / 2])
    if high - low <= NO_WIDTH:
        return cautious(float(value), labels, level, lowest)
    return Interval(float(value), float(low), float(high))


def cautious(
    value: float, labels: np.ndarray, level: float = 0.95, lowest: float = 0.0
) -> Interval:
    """Return an interval of a rate or a ROC-AUC that has a width however few the images are.

    Wilson's (1927, J. Am. Stat. Assoc. 22, 209) for a fraction of m images, m the smaller number
    of both classes: the variance of a ROC-AUC A is at most A (1 - A) / m (Birnbaum and Klose 1957,
    Ann. Math. Stat. 28, 933), and that of a rate is of as many images, or more. A statistic from
    ``lowest`` to 1, such as a correlation, is scaled to this range.
    """
    m, z = int(np.bincount(labels, minlength=2).min()), stats.norm.ppf(0.5 + level / 2)
    rate = (value - lowest) / (1 - lowest)
    middle = (rate + z**2 / (2 * m)) / (1 + z**2 / m)
    half = z / (1 + z**2 / m) * (rate * (1 - rate) / m + z**2 / (4 * m**2)) ** 0.5
    low, high = (lowest + (1 - lowest) * float(end) for end in (middle - half, middle + half))
    return Interval(value, max(min(low, value), lowest), min(max(high, value), 1.0))


def delong(labels: np.ndarray, scores_list: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ROC-AUC (S,) of several scores of the same images, and their covariance (S, S).

    DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44, 837, by ranks (Sun and Xu 2014, IEEE
    Signal Processing Letters 21, 1389). ``scores_list`` has one array (N,) a model.
    """
    positive, negative = labels == 1, labels == 0
    n_positive, n_negative = positive.sum(), negative.sum()
    if min(n_positive, n_negative) < 2:
        raise InputError(f"DeLong: found {n_positive} and {n_negative} images; expected 2 of both")
    above, below = [], []  # of each positive, the negatives it beats; of each negative the reverse
    for scores in scores_list:
        ranks = stats.rankdata(scores)
        above.append((ranks[positive] - stats.rankdata(scores[positive])) / n_negative)
        below.append(1 - (ranks[negative] - stats.rankdata(scores[negative])) / n_positive)
    covariance = np.cov(above) / n_positive + np.cov(below) / n_negative
    return np.mean(above, axis=1), np.atleast_2d(covariance)


def delong_interval(
    labels: np.ndarray, scores_list: Sequence[np.ndarray], level: float = 0.95
) -> Interval:
    """Return the mean ROC-AUC over the seeds with DeLong's interval over the images, up to 1.

    It is ``cautious`` where the variance is 0, or a class has one image only.
    """
    if np.bincount(labels, minlength=2).min() < 2:
        mean = float(np.mean([roc_auc(labels, scores) for scores in scores_list]))
        return cautious(mean, labels, level)
    aucs, covariance = delong(labels, scores_list)
    half = stats.norm.ppf(0.5 + level / 2) * covariance.mean() ** 0.5
    mean = float(aucs.mean())
    if half <= NO_WIDTH:
        return cautious(mean, labels, level)
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def delong_p(
    labels: np.ndarray, first: Sequence[np.ndarray], second: Sequence[np.ndarray]
) -> float:
    """Return p of DeLong's two-sided test that two kinds of model have the same mean ROC-AUC.

    The images are random, the models are given: what another training would do is not in it.
    """
    aucs, covariance = delong(labels, [*first, *second])
    contrast = np.repeat([-1 / len(first), 1 / len(second)], [len(first), len(second)])
    variance = contrast @ covariance @ contrast
    difference = abs(contrast @ aucs)
    if variance <= 0:
        return float(difference == 0)
    return float(2 * stats.norm.sf(difference / variance**0.5))


def paired_difference(
    without: Sequence[pd.DataFrame],
    with_: Sequence[pd.DataFrame],
    n: int,
    seed: int,
    macro: bool = False,
) -> Difference:
    """Return by how much the binary ROC-AUC of one kind of run exceeds that of another.

    ``macro`` compares the mean over the classes of the ROC-AUC of each against the rest instead.
    Each of the two has one table of predictions a seed, all of the same images, the k-th of both of
    the same seed. One of ``n`` resamplings draws the images, which all runs share, so that those
    hard for all of them cancel, each class to its own number; and of the S seeds' differences S
    with replacement. Their distances from their mean are widened by sqrt(S / (S - 1)), without
    which so few draws make the scatter too small (Davison and Hinkley 1997, Bootstrap Methods,
    section 3.8). The variance is then that over images plus the seeds' var / S. With one seed the
    scatter between trainings is unknown, and the error too small. Interval and error are NaN where
    all resamplings agree, as of models without a mistake, unless the predictions are the same.
    InputError if the tables do not match.
    """
    if not without or len(without) != len(with_):
        raise InputError(
            f"paired difference: found {len(without)} and {len(with_)} seeds; expected as many"
        )
    first = without[0]
    for table in (*without, *with_):
        if not (table["id"].equals(first["id"]) and table["label"].equals(first["label"])):
            raise InputError(
                "paired difference: the tables differ in their images; expected the same"
            )
    strata = first["label"].to_numpy()
    pairs = list(zip(without, with_, strict=True))

    def auc(table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        if not macro:
            scores = 1.0 - table[f"p_{NULL_CLASS}"].to_numpy(float)
            return weighted_auc((strata > 0).astype(int), scores, weights)
        rest = enumerate(probabilities(table).T)
        return np.mean([weighted_auc((strata == k).astype(int), p, weights) for k, p in rest], 0)

    def differences(weights: np.ndarray) -> np.ndarray:
        """Return the difference of each seed, (B, S)."""
        aucs = [[auc(table, weights) for table in pair] for pair in pairs]
        return np.array([after - before for before, after in aucs]).T

    seeds = differences(np.ones((1, len(strata))))[0]
    draws = np.concatenate([differences(weights) for weights in resamplings(strata, n, seed)])
    mean = draws.mean(axis=1)
    if (count := len(pairs)) > 1:
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
        chosen = generator.integers(count, size=draws.shape)
        redrawn = np.take_along_axis(draws, chosen, axis=1).mean(axis=1)
        mean = mean + (redrawn - mean) * (count / (count - 1)) ** 0.5
    low, high = np.quantile(mean, [0.025, 0.975])
    error = float(mean.std())
    if high - low <= NO_WIDTH and not all(before.equals(after) for before, after in pairs):
        low = high = error = np.nan
    return Difference(float(seeds.mean()), float(low), float(high), error, seeds.tolist())
