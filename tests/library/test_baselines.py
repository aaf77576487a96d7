"""The classifiers on features alone, on tables whose answer is known."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from vitdm.model.baselines import BASELINES, permutation_importance, trained


def table(n=3000, shift=1.5, seed=0):
    """Labels, and features: one shifted, noise, constant, empty, one missing only if label is 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    values = rng.normal(size=(n, 5))
    values[:, 0] += shift * labels
    values[:, 2], values[:, 3] = 7.0, np.nan
    values[(labels == 1) & (rng.random(n) < 0.5), 4] = np.nan
    return values, labels


@pytest.mark.parametrize("name", BASELINES)
def test_two_gaussians_are_told_apart_as_well_as_can_be(name):
    values, labels = table()
    fresh, truth = table(seed=1)
    scores = trained(name, values[:, :4], labels, 0)(fresh[:, :4])[:, 1]
    assert roc_auc_score(truth, scores) == pytest.approx(norm.cdf(1.5 / 2**0.5), abs=0.02)
    again = trained(name, values[:, :4], labels, 0)(fresh[:, :4])[:, 1]
    np.testing.assert_array_equal(scores, again)
    assert scores.min() >= 0 and scores.max() <= 1


@pytest.mark.parametrize("name", BASELINES)
def test_an_absence_that_tells_is_used(name):
    values, labels = table(shift=0.0)
    fresh, truth = table(shift=0.0, seed=1)
    auc = roc_auc_score(truth, trained(name, values, labels, 0)(fresh)[:, 1])
    assert auc == pytest.approx(0.75, abs=0.04)  # half of the positives are known for sure


@pytest.mark.parametrize("name", BASELINES)
def test_without_a_useful_feature_all_scores_are_the_same(name):
    values, labels = table()
    scores = trained(name, values[:, 2:4], labels, 0)(values[:10, 2:4])[:, 1]
    assert set(scores) == {0.5}


def test_permutation_importance_of_a_known_score():
    """The score is x0 + x1 of two independent clues: shuffling one leaves the other's AUC."""
    rng = np.random.default_rng(2)
    labels = np.arange(20000) % 2
    values = rng.normal(size=(len(labels), 4)) + np.outer(labels, [1, 1, 0, 0])
    values[:, 3] = values[:, 0]  # a copy that the score shares with the first

    def quality(x):
        return roc_auc_score(labels, (x[:, 0] + x[:, 3]) / 2 + x[:, 1])

    blocks = [[0], [1], [2], [0, 3], [0, 1, 3]]
    mean, sd = permutation_importance(quality, values, blocks, repeats=8, seed=0)
    whole = norm.cdf(1.0)  # of x0 + x1: distance 2, s.d. sqrt(2), and again sqrt(2)
    # one shuffled: distance 1 between sums whose s.d. grows by the shuffled shift, 1/4
    alone = roc_auc_score(
        labels, rng.normal(size=len(labels)) + values[:, 1] + rng.permutation(labels)
    )
    assert mean[1] == pytest.approx(whole - alone, abs=0.015)
    assert mean[3] == pytest.approx(mean[1], abs=0.015)
    assert 0 < mean[0] < mean[3] and mean[2] == sd[2] == 0
    assert mean[4] == pytest.approx(whole - 0.5, abs=0.015)
    assert (sd[[0, 1, 3, 4]] > 0).all() and sd.max() < 0.01


def test_importance_of_noise_is_within_its_scatter():
    rng = np.random.default_rng(3)
    ratios = []
    for seed in range(60):
        labels, values = rng.integers(0, 2, 200), rng.normal(size=(200, 1))
        mean, sd = permutation_importance(
            lambda x, labels=labels: roc_auc_score(labels, x[:, 0]), values, [[0]], 20, seed
        )
        ratios.append(mean[0] / sd[0])
    assert np.mean(np.array(ratios) > 2) < 0.12 and np.std(ratios) == pytest.approx(1, abs=0.35)
