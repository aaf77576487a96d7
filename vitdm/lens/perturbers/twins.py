"""Smooth twins of a lens: how high the peaks are where there is no perturber.

A twin has the mass, source, PSF and noise of the lens's own fit. In the linear regime all twins are
searched at once: source, light and macro-model are drawn from their priors, and so is the noise,
with the correlation that is measured on the sky. Others are simulated, fitted and searched as the
lens itself was.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from vitdm.lens.free_form.fit import arcs_of
from vitdm.lens.free_form.mass import NAMES
from vitdm.lens.free_form.problem import Problem
from vitdm.lens.perturbers.maps import FREE, Marginal

LAGS = 2  # px along each axis, up to which noise is correlated
FAINT = 0.5  # of the noise, the arcs' brightness up to which there is but sky
INNER = 0.3  # ", about the centre of the galaxy: its model is not good enough there
FEWEST = 400  # pixels of the sky
AROUND = 21  # px, side of the square whose mean is taken away
SURE = 3.0  # standard errors: a correlation of less is none
WILD = 5.0  # of the noise: what is above is no noise


def noise_lags(problem: Problem, residual: NDArray, arcs: NDArray) -> NDArray:
    """Return the covariance (5, 5) of the noise of pixels some lags apart.

    ``residual`` (H, W), in units of the noise, and ``arcs`` (H, W) are those of the fit. Measured
    where there is sky, in units of the variance that the noise map tells.
    """
    scene = problem.scene
    sky = scene.good & (arcs < FAINT * scene.noise) & (scene.distance() > INNER)
    sky &= np.isfinite(scene.noise)
    lags = np.zeros((2 * LAGS + 1,) * 2)
    lags[LAGS, LAGS] = 1.0
    if sky.sum() < FEWEST:
        return lags
    sky &= np.abs(residual) < WILD * max(1.0, np.sqrt(np.median(residual[sky] ** 2) / 0.455))
    share = cv2.blur(sky.astype(float), (AROUND, AROUND))
    around = cv2.blur(np.where(sky, residual, 0.0), (AROUND, AROUND)) / np.maximum(share, 1e-9)
    r = np.where(sky, residual - around, 0.0)
    height, width = r.shape
    for a in range(LAGS + 1):
        for b in range(-LAGS, LAGS + 1):
            if (a, b) < (0, 0):
                continue
            one = np.s_[: height - a, max(-b, 0) : width - max(b, 0)]
            other = np.s_[a:, max(b, 0) : width - max(-b, 0)]
            count = (sky[one] & sky[other]).sum()
            found = (r[one] * r[other]).sum() / max(count, 1)
            if (a, b) == (0, 0):
                variance = found
            elif abs(found) < SURE * variance / np.sqrt(max(count, 1)):
                found = 0.0
            lags[LAGS + a, LAGS + b] = lags[LAGS - a, LAGS - b] = found
    return lags


class Noise:
    """Noise of pixels (H, W), in units of the noise map, with a covariance of ``lags`` (5, 5)."""

    def __init__(self, shape: tuple[int, int], lags: NDArray) -> None:
        self.shape = shape
        # larger by some lags, for the edges of a Fourier transform touch each other
        self.sides = tuple(scipy.fft.next_fast_len(side + 2 * LAGS, real=True) for side in shape)
        kernel = np.zeros(self.sides)
        steps = np.arange(-LAGS, LAGS + 1)
        kernel[steps[:, None], steps] = lags
        spectrum = scipy.fft.rfft2(kernel).real
        self.filter = np.sqrt(np.clip(spectrum, 0, None)).astype(np.float32)

    def draw(self, rng: np.random.Generator) -> NDArray:
        """Return a draw (H, W)."""
        white = scipy.fft.rfft2(rng.standard_normal(self.sides, np.float32))
        unit = scipy.fft.irfft2(white * self.filter, s=self.sides)
        return unit[: self.shape[0], : self.shape[1]]


def linear_data(
    marginal: Marginal, problem: Problem, noise: Noise, n: int, rng: np.random.Generator
) -> NDArray:
    """Return data (N, n) of twins, less their prior mean, in units of the noise."""
    shape = len(marginal.precision), n
    known = (marginal.precision > FREE)[:, None]
    draws = rng.standard_normal(shape) / np.sqrt(marginal.precision)[:, None]
    data = marginal.matrix @ np.where(known, draws, 0.0)
    fitted, weight = problem.view.fitted, problem.posterior.weight
    relative = problem.scene.noise[fitted] * weight
    rest = np.sqrt(np.clip(1 - relative**2, 0, None))  # the error of the model, of each pixel
    data += rest[:, None] * rng.standard_normal(data.shape)
    for k in range(n):
        data[:, k] += noise.draw(rng)[fitted] * relative
    return data


def simulated(problem: Problem, light: NDArray, noise: Noise, rng: np.random.Generator) -> Problem:
    """Return the problem of a twin's image, fitted as the lens was.

    ``light`` (H, W) is the model of all that is not the source. The twin has the source and mass
    of the lens, but multipoles drawn from their prior.
    """
    values = problem.values.copy()
    some = [k for k, name in enumerate(NAMES) if name[0] == "a" and problem.prior.sd[k] > 0]
    values[some] = rng.normal(problem.prior.mean[some], problem.prior.sd[some])
    arcs = arcs_of(problem.scene, replace(problem.point, values=values), int(problem.samples.max()))
    scene = problem.scene
    known = scene.good & np.isfinite(scene.noise)
    data = light + arcs + np.where(known, scene.noise, 0.0) * noise.draw(rng)
    return problem.seeing(np.where(scene.good, data, 0.0)).refitted()[0]


def p_value(score: float, scores: NDArray) -> float:
    """Return the share of twins, with the lens itself, that score as much; NaN without twins."""
    if not len(scores):
        return float("nan")
    return float((1 + (scores >= score).sum()) / (1 + len(scores)))
