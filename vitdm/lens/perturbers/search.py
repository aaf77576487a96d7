"""The search for perturbers in a fitted lens: maps, peaks, and the twins' p-value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vitdm.config import Perturbers
from vitdm.errors import InputError
from vitdm.lens.free_form.model import LensModel
from vitdm.lens.free_form.problem import Problem
from vitdm.lens.perturbers.maps import Marginal, information
from vitdm.lens.perturbers.peaks import refit_peaks
from vitdm.lens.perturbers.profiles import Profile, profiles_of, solar_masses
from vitdm.lens.perturbers.result import Map, Search
from vitdm.lens.perturbers.twins import Noise, linear_data, noise_lags, p_value, simulated
from vitdm.threads import one_thread

Progress = Callable[[str], None]

BEYOND = 0.2  # ", of the pixels that perturbers change, up to which they are looked for
CLEANED = 5  # highest peaks that are taken out before the rest of a map is judged
APART = 0.3  # ", between two peaks of a table
FEWEST_TWINS = 50  # with which the spread of a map is measured, if none are asked for


@dataclass(frozen=True)
class Grid:
    """The places that are searched: ``x``, ``y`` (places,) ["], on a regular grid."""

    axis_x: NDArray
    axis_y: NDArray
    row: NDArray
    column: NDArray

    @property
    def x(self) -> NDArray:
        """x ["] of the places."""
        return self.axis_x[self.column]

    @property
    def y(self) -> NDArray:
        """y ["] of the places."""
        return self.axis_y[self.row]

    @cached_property
    def even(self) -> NDArray:
        """Which places (places,) lie on every other line along both axes."""
        return (self.row % 2 == 0) & (self.column % 2 == 0)

    def every_other(self) -> Grid:
        """Return the places that are ``even``: strings, of many directions, need no more."""
        return Grid(self.axis_x, self.axis_y, self.row[self.even], self.column[self.even])

    @classmethod
    def of(cls, marginal: Marginal, problem: Problem, spacing: float) -> Grid:
        """Return the places about the pixels that perturbers change."""
        scale = problem.scene.pixel_scale
        height, width = problem.scene.data.shape
        tall, wide = marginal.optics.kernel.shape
        changed = np.zeros((height + 2 * tall, width + 2 * wide), np.uint8)
        changed[marginal.row, marginal.column] = 1
        changed = changed[tall:-tall, wide:-wide]
        reach = 2 * math.ceil(BEYOND / scale) + 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
        near = cv2.dilate(changed, disc) > 0
        axes = []
        for size in (width, height):
            half = math.floor(size / 2 * scale / spacing)
            axes.append(np.arange(-half, half + 1) * spacing)
        columns, rows = (
            np.clip(np.round(axis / scale + (size - 1) / 2).astype(int), 0, size - 1)
            for axis, size in zip(axes, (width, height), strict=True)
        )
        row, column = np.nonzero(near[np.ix_(rows, columns)])
        return cls(axes[0], axes[1], row, column)


class Searched:
    """The linear search of one fitted lens, with one profile or the directions of a string."""

    def __init__(self, marginal: Marginal, profiles: list[Profile], grid: Grid) -> None:
        self.marginal = marginal
        made = [marginal.templates(profile, grid.x, grid.y) for profile in profiles]
        self.templates = np.hstack(made)
        self.whitened = marginal.whitened(self.templates)
        self.D = information(self.templates, self.whitened)

    def significance(self, residual: NDArray) -> NDArray:
        """Return N / D^1/2 of residuals C^-1 d, (N,) or (N, k); 0 where nothing can be told."""
        N = self.templates.T @ residual[self.marginal.rows].astype(np.float32)
        D = self.D if N.ndim == 1 else self.D[:, None]
        return np.where(D > 0, N / np.sqrt(np.maximum(D, 1e-300)), 0.0)

    @cached_property
    def overlap(self) -> NDArray:
        """The correlation (n, n) of the S/N of any two places."""
        H = self.templates.T @ self.templates - self.whitened.T @ self.whitened
        scale = np.where(self.D > 0, 1 / np.sqrt(np.maximum(self.D, 1e-300)), 0.0)
        return H * scale[:, None] * scale

    def cleaned(self, snr: NDArray) -> NDArray:
        """Return S/N maps (n, k) without their highest peaks, each put where it is highest.

        Orthogonal matching pursuit (Pati, Rezaiifar & Krishnaprasad 1993).
        """
        left, places = snr, []
        for _ in range(CLEANED):
            places.append(left.argmax(0))
            at = np.array(places).T  # (k, peaks)
            among = self.overlap[at[:, :, None], at[:, None, :]] + 1e-3 * np.eye(at.shape[1])
            there = np.take_along_axis(snr.T, at, 1)
            height = np.linalg.solve(among, there[:, :, None])[:, :, 0]
            left = snr - np.einsum("kin,ki->nk", self.overlap[at], height)
        return left

    def scores(self, snr: NDArray) -> tuple[NDArray, NDArray]:
        """Return the largest S/N (k,) of maps (n, k), and the rms (k,) of what is left of them."""
        some = self.D > 0
        left = self.cleaned(snr)[some]
        return snr.max(0), np.sqrt((left**2).mean(0))


@dataclass(frozen=True)
class Linear:
    """The linear search of one fitted lens and its twins, with one profile after the other."""

    marginal: Marginal
    grid: Grid
    settings: Perturbers
    residual: NDArray
    twins: NDArray  # (N, n), what the residual is of the lens

    @classmethod
    def of(
        cls,
        problem: Problem,
        settings: Perturbers,
        noise: Noise,
        rng: np.random.Generator,
        grid: Grid | None = None,
        twins: int = FEWEST_TWINS,
    ) -> Linear:
        """Return the search of a problem; on a ``grid`` of its own if none is given."""
        marginal = Marginal(problem, settings.psf_sd)
        grid = grid or Grid.of(marginal, problem, settings.spacing)
        drawn = linear_data(marginal, problem, noise, twins, rng)
        drawn += (marginal.matrix @ marginal.mean)[:, None]
        residual, drawn = (marginal.residual(data) for data in (problem.posterior.data, drawn))
        return cls(marginal, grid, settings, residual, drawn)

    def mapped(self, name: str) -> Mapped:
        """Return the S/N of a profile, in the lens and its twins."""
        profiles = profiles_of(name, self.settings)
        some = self.grid.every_other() if len(profiles) > 1 else self.grid
        searched = Searched(self.marginal, profiles, some)
        drawn, told = searched.significance(self.twins), searched.D > 0
        spread = float(np.sqrt((drawn[told] ** 2).mean())) if told.any() else 1.0
        snr = searched.significance(self.residual) / spread
        return Mapped(name, profiles, searched, some, spread, snr, drawn / spread)


@dataclass(frozen=True)
class Mapped:
    """The S/N of a profile: ``snr`` (n,) in the lens and ``twins`` (n, k), by their ``spread``."""

    name: str
    profiles: list[Profile]
    searched: Searched
    places: Grid
    spread: float
    snr: NDArray
    twins: NDArray

    def score(self, usual: float) -> tuple[float, float]:
        """Return score and misfit of the lens, whose twins have a ``usual`` rms left."""
        peak, rest = self.searched.scores(self.snr[:, None])
        misfit = float(rest[0] / usual)
        return float(peak[0] / max(1.0, misfit)), misfit

    def map(self, grid: Grid) -> Map:
        """Return the map on a grid; of several directions the one with the largest S/N."""
        shape = len(self.profiles), len(self.places.x)
        snr, D = self.snr.reshape(shape), self.searched.D.reshape(shape)
        with np.errstate(divide="ignore"):
            error = np.where(D > 0, self.spread / np.sqrt(D), np.nan)
        best = snr.argmax(0)
        at = best, np.arange(shape[1])
        angles = np.array([profile.angle for profile in self.profiles])[best]
        found = np.full((3, len(grid.x)), np.nan)
        found[:, slice(None) if self.places is grid else grid.even] = (
            (snr * error)[at],
            error[at],
            angles,
        )
        return Map(self.name, found[0], found[1], found[2] if shape[0] > 1 else None)


@one_thread()
def search(
    model: LensModel,
    settings: Perturbers | None = None,
    *,
    progress: Progress = lambda stage: None,
) -> Search:
    """Search the lens of a free-form fit (``vitdm.lens.fit``) for perturbers.

    ``progress(stage)`` is called as the search goes on. The same model and settings give the same
    result. InputError if the model has no arcs on which a perturber could be seen.
    """
    settings = settings or Perturbers()
    problem, rng = model.problem, np.random.default_rng(settings.seed)
    dark = "found no arcs on which a perturber could be seen; expected a lensed source"
    if not problem.point.solution.source.any():  # a blank image
        raise InputError(f"{model.observation.name}: {dark}")
    progress("marginalising")
    noise = Noise(problem.scene.data.shape, noise_lags(problem, model.residual, model.arcs))
    twins = max(settings.twins, FEWEST_TWINS)
    linear = Linear.of(problem, settings, noise, rng, twins=twins)
    grid, maps = linear.grid, {}
    for name in settings.profiles:
        progress(f"mapping {name}")
        mapped = linear.mapped(name)
        maps[name] = mapped.map(grid)
        if name == settings.detect:
            detector = mapped
    if not np.isfinite(maps[settings.detect].error).any():
        raise InputError(f"{model.observation.name}: {dark}")
    highest, rests = detector.searched.scores(detector.twins)
    usual = float(rests.mean())
    score, misfit = detector.score(usual)
    twin_scores = (highest / np.maximum(1.0, rests / usual))[: settings.twins]
    refitted = []
    for k in range(settings.refitted_twins):
        progress(f"twin {k + 1} of {settings.refitted_twins}")
        twin = simulated(problem, model.lens_light, noise, rng)
        again = Linear.of(twin, settings, noise, rng, grid)
        refitted.append(again.mapped(settings.detect).score(usual)[0])
    peaks = _peaks(maps[settings.detect], grid, settings.peaks)
    area = len(grid.x) * settings.spacing**2
    peaks, perturbed = refit_peaks(problem, linear.marginal, peaks, settings, area, progress)
    after = perturbed and Linear.of(perturbed, settings, noise, rng, grid).mapped(settings.detect)
    return Search(
        model=model,
        settings=settings,
        x=grid.x,
        y=grid.y,
        row=grid.row,
        column=grid.column,
        axis_x=grid.axis_x,
        axis_y=grid.axis_y,
        maps=maps,
        peaks=peaks,
        score=score,
        misfit=misfit,
        p_value=p_value(score, twin_scores),
        twin_scores=twin_scores,
        refitted_scores=np.array(refitted),
        solar_masses=solar_masses(settings),
        perturbed=perturbed,
        after=after.map(grid) if after else None,
    )


def _peaks(found: Map, grid: Grid, n: int) -> pd.DataFrame:
    """Return the highest peaks of a map that are apart from each other, the highest first."""
    snr, rows = np.nan_to_num(found.snr, nan=-np.inf), []
    for k in np.argsort(-snr, kind="stable"):
        if len(rows) == n or not snr[k] > 0:
            break
        if all(math.hypot(grid.x[k] - grid.x[i], grid.y[k] - grid.y[i]) > APART for i in rows):
            rows.append(k)
    return pd.DataFrame(
        {
            "x": grid.x[rows],
            "y": grid.y[rows],
            "snr": found.snr[rows],
            "mass": found.amplitude[rows],
            "mass_error": found.error[rows],
        }
    )
