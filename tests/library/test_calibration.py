"""Threshold, temperature and calibration error against closed forms and hand-made numbers."""

import math

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics

from vitdm.evaluation import calibration


def logits_and_labels(n, seed, temperature=1.0):
    """Logits of three classes, and labels drawn with the probabilities that they stand for."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 3))
    chances = special.softmax(logits / temperature, axis=1)
    labels = (rng.random((n, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    return logits, labels


def test_best_threshold_by_hand():
    labels = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9])
    assert calibration.best_threshold(labels, scores) == pytest.approx(0.55)  # 3/4 and no alarm
    assert calibration.best_threshold(labels, -scores) == pytest.approx(-0.1)  # nothing is better
    found = calibration.best_threshold(np.array([0, 1]), np.array([0.3, 0.3]))
    assert found == 0.3  # scores that are equal tell nothing


def test_best_threshold_of_two_gaussians_lies_halfway():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [20000, 5000])  # how common a class is does not matter
    scores = rng.normal(size=25000) + 2 * labels
    threshold = calibration.best_threshold(labels, scores)
    assert threshold == pytest.approx(1.0, abs=0.2)
    reached = metrics.balanced_accuracy_score(labels, scores > threshold)
    assert reached == pytest.approx(stats.norm.cdf(1), abs=0.01)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_found_again(temperature):
    logits, labels = logits_and_labels(20000, seed=1, temperature=temperature)
    probabilities = special.softmax(logits, axis=1)
    found = calibration.fit_temperature(probabilities, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    tempered = calibration.tempered(probabilities, found)
    np.testing.assert_allclose(tempered, special.softmax(logits / found, axis=1), rtol=1e-6)
    losses = [
        metrics.log_loss(labels, calibration.tempered(probabilities, t))
        for t in (0.9 * found, found, 1.1 * found)
    ]
    assert losses[1] == min(losses)


def test_a_temperature_at_its_limit_is_none():
    """Without mistakes it would be 0; of scores that are always wrong, infinite."""
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    for labels in ([0, 1], [1, 0]):
        found = calibration.fit_temperature(probabilities, np.array(labels))
        assert found == calibration.UNTEMPERED
        np.testing.assert_allclose(calibration.tempered(probabilities, found), probabilities)
    probabilities = np.tile(probabilities, (50, 1))
    labels = np.append(np.tile([0, 1], 49), [1, 1])  # one mistake of a hundred
    assert 1 / 20 < calibration.fit_temperature(probabilities, labels) < 1


def test_calibration_error_by_hand():
    scores = np.array([0.1, 0.1, 0.9, 0.9])
    labels = np.array([0, 1, 1, 1])
    # in two bins |1/2 - 0.1| and |1 - 0.9|, half of the images each; then three to one
    weights = np.array([[1, 1, 1, 1], [3, 3, 1, 1.0]])
    found = calibration.calibration_error(labels, scores, weights, bins=2)
    np.testing.assert_allclose(found, [0.25, 0.75 * 0.4 + 0.25 * 0.1])
    table = calibration.reliability(labels, scores)
    np.testing.assert_allclose(table["rate"], [0.5, 1.0])
    np.testing.assert_allclose(table["score"], [0.1, 0.9])
    assert list(table["n"]) == [2, 2] and list(calibration.reliability(labels, scores, 2)["n"]) == [
        1,
        1,
    ]
    assert calibration.reliability(np.array([1]), np.array([1.0]))["rate"][0] == 1.0  # its own bin


def test_calibration_error_of_known_size():
    """Chances p are told as p² : the error is E|p - p²| = 1/6 for uniform p."""
    rng = np.random.default_rng(0)
    chance = rng.random(40000)
    labels = (rng.random(40000) < chance).astype(int)
    ones = np.ones((1, 40000))
    assert calibration.calibration_error(labels, chance**2, ones)[0] == pytest.approx(
        1 / 6, abs=0.01
    )
    honest = calibration.calibration_error(labels, chance, ones)[0]
    floor = calibration.calibration_floor(chance, seed=1, n=50)
    # in each of 15 bins a mean of |N(0, s)|, with s² = E p (1 - p) / n_bin
    p = (np.arange(15) + 0.5) / 15
    expected = math.sqrt(2 / math.pi) * np.mean(np.sqrt(p * (1 - p) / (40000 / 15)))
    assert floor == pytest.approx(expected, rel=0.1) and honest < 2 * floor
