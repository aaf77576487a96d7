"""Checks of posteriors on normal distributions, for which all is known."""

import numpy as np
import pytest
from scipy import stats

from vitdm.evaluation import posteriors

BOX = ((-5.0, -5.0), (5.0, 5.0))


def drawn(scale, correlation=0.8, n=1500):
    """Truths about random middles, and draws whose width is wrong by a factor ``scale``."""
    rng = np.random.default_rng(0)
    factor = np.linalg.cholesky([[1, correlation], [correlation, 1]])
    middles = rng.uniform(-1, 1, (n, 2))
    truths = middles + rng.normal(size=(n, 2)) @ factor.T
    return middles[:, None] + scale * rng.normal(size=(n, 300, 2)) @ factor.T, truths


def test_ranks_and_coverage_tell_widths():
    draws, truths = drawn(1)
    shares = posteriors.ranks(draws, truths)
    for k in range(2):
        assert posteriors.uniform_p(shares[:, k]) > 0.01
    value, low, high = posteriors.coverage(shares[:, 0], 0.68)
    assert low < 0.68 < high and low < value < high
    narrow = posteriors.ranks(*drawn(0.7))[:, 0]
    expected = 2 * stats.norm.cdf(0.7 * stats.norm.ppf(0.84)) - 1
    assert posteriors.coverage(narrow, 0.68)[0] == pytest.approx(expected, abs=0.03)
    assert posteriors.uniform_p(narrow) < 1e-4


def test_tarp_tells_widths():
    draws, truths = drawn(1)
    shares = posteriors.tarp(draws, truths, BOX, 0)
    assert posteriors.uniform_p(shares) > 0.01
    assert posteriors.uniform_p(posteriors.tarp(*drawn(0.7), BOX, 0)) < 1e-3
    assert not np.array_equal(shares, posteriors.tarp(draws, truths, BOX, 1))  # other points


def test_tarp_counts_draws_that_are_closer_to_the_point():
    """Of a truth in the middle of a wide box and draws on a circle about it: about a half."""
    angle = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    circle = 0.01 * np.stack([np.cos(angle), np.sin(angle)], axis=1)[None]
    assert posteriors.tarp(circle, np.zeros((1, 2)), BOX, 0)[0] == pytest.approx(0.5, abs=0.01)


def test_a_rank_counts_draws_below():
    draws = np.arange(9.0).reshape(1, 9, 1)
    assert posteriors.ranks(draws, np.array([[3.5]]))[0, 0] == pytest.approx(4.5 / 10)


def test_lenses_that_share_a_number_are_multiplied_with_one_prior():
    """Normal likelihoods times a normal prior: precisions add, the prior's once."""
    grid = posteriors.cells(-4, 4, 800)
    prior = stats.norm(0, 2).logpdf(grid)
    middles, widths = np.array([0.5, -0.2, 1.0]), np.array([0.5, 1.0, 0.8])
    each = stats.norm(middles[:, None], widths[:, None]).logpdf(grid) + prior
    together = posteriors.shared(each, prior)
    precision = (1 / widths**2).sum() + 1 / 4
    mean = (middles / widths**2).sum() / precision
    found = posteriors.summarise(together[None], grid, np.array([mean]))
    assert [float(x[0]) for x in found] == pytest.approx([mean, precision**-0.5, 0.5], abs=2e-3)


def test_an_even_posterior_is_summarised_by_its_bounds():
    grid = posteriors.cells(-3, -1.5, 30)
    assert grid[0] == pytest.approx(-2.975) and grid[-1] == pytest.approx(-1.525)
    mean, sd, rank = posteriors.summarise(np.zeros((2, 30)), grid, np.array([-3.0, -1.5]))
    np.testing.assert_allclose(mean, -2.25)
    np.testing.assert_allclose(sd, 1.5 / np.sqrt(12), rtol=1e-2)
    np.testing.assert_allclose(rank, [0, 1], atol=1e-12)
