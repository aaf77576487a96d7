"""Whether posteriors hold, and what many lenses together say of a number that they share.

Posteriors are given as draws (n lenses, S, d), or as log densities (n, G) at the middles of the
cells of a grid of one property; truths are (n, d) or (n,).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats
from scipy.special import logsumexp


def ranks(draws: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Return the rank (n, d) of each truth among the draws, from 0 to 1.

    If posteriors hold, ranks are uniform (simulation-based calibration, Talts et al. 2018,
    arXiv:1804.06788). A rank is the share of the draws below, (k + 1/2) / (S + 1).
    """
    below = (draws < truths[:, None]).sum(axis=1)
    return (below + 0.5) / (draws.shape[1] + 1)


def tarp(
    draws: np.ndarray, truths: np.ndarray, box: tuple[Sequence[float], Sequence[float]], seed: int
) -> np.ndarray:
    """Return the credibility (n,) of the smallest ball about a random point that has the truth.

    The share of the draws that lie closer to a point, which is drawn evenly in the ``box``, than
    the truth does, distances being in units of the box: uniform if posteriors hold, in all d
    properties together (Lemos et al. 2023, arXiv:2302.03026, algorithm 2).
    """
    low, high = map(np.asarray, box)
    points = np.random.default_rng(np.random.SeedSequence(seed)).uniform(size=truths.shape)
    far = (((truths - low) / (high - low) - points) ** 2).sum(axis=1)
    distances = (((draws - low) / (high - low) - points[:, None]) ** 2).sum(axis=2)
    return ((distances < far[:, None]).sum(axis=1) + 0.5) / (draws.shape[1] + 1)


def uniform_p(shares: np.ndarray) -> float:
    """Return the p-value of the Kolmogorov-Smirnov test that numbers from 0 to 1 are uniform."""
    return float(stats.kstest(shares, "uniform").pvalue)


def coverage(shares: np.ndarray, level: float) -> tuple[float, float, float]:
    """Return the share of truths in the central interval of a level, with its 95 % interval.

    ``shares`` are the ranks of the truths (n,); the interval is Wilson's, over the lenses.
    """
    inside = int((np.abs(shares - 0.5) < level / 2).sum())
    interval = stats.binomtest(inside, len(shares)).proportion_ci(method="wilson")
    return inside / len(shares), interval.low, interval.high


def cells(low: float, high: float, n: int) -> np.ndarray:
    """Return the middles (n,) of the cells of a grid from ``low`` to ``high``."""
    return low + (np.arange(n) + 0.5) * (high - low) / n


def shared(log_densities: np.ndarray, log_prior: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the log posterior (G,) of what lenses (n, G) share, up to a constant.

    Each posterior over the prior is a likelihood; their product, times the prior, is the posterior
    of all. Nothing else is shared by the lenses: what differs is integrated over in each.
    """
    return (log_densities - log_prior).sum(axis=0) + log_prior


def summarise(
    log_densities: np.ndarray, grid: np.ndarray, truths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, standard deviation and rank of the truth (n,) of posteriors (n, G) on a grid.

    The density is constant in each cell of the grid, which is even.
    """
    p = np.exp(log_densities - logsumexp(log_densities, axis=1, keepdims=True))
    mean = p @ grid
    sd = np.sqrt(np.maximum(p @ grid**2 - mean**2, 0))
    step = grid[1] - grid[0]
    edges = np.append(grid - step / 2, grid[-1] + step / 2)
    below = np.concatenate([np.zeros((len(p), 1)), p.cumsum(axis=1)], axis=1)
    rows = zip(truths, below, strict=True)
    return mean, sd, np.array([np.interp(truth, edges, share) for truth, share in rows])
