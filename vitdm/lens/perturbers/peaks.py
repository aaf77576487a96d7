r"""Peaks of a map fitted without linearisation, and what else could explain them.

A perturber is fitted together with the macro-model, source and light: place, mass and, of an
isothermal one, the radius where it is cut. Its gain of ln evidence over the smooth model is

.. math:: \Delta =
    \Big[\ln P + \tfrac12 \ln\det\Lambda - \tfrac12 \ln\det H\Big]^{perturbed}_{smooth},

P the probability of the most probable mass with source and light integrated out, its curvature
-H and the prior's inverse covariance :math:`\Lambda`: Laplace's approximation of the integral over
the mass (MacKay 1992, Neural Comput. 4, 415). The prior's density of the place is that of an even
one over the area that was searched, that of ln mass over four decades; ln of the cut has a s.d.
of 1. So :math:`\Delta` allows for how many places and masses could have been found, and the smooth
model is fitted in the same way before. Correlated noise makes it too large by the square of what
it adds to the width of the map.

The rivals have the same prior where they have the same freedom: a multipole of order 5 with
amplitudes of 1 %, and a Gaussian spot of light near the peak, of any place and flux.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.linalg
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from scipy.special import ndtr

from vitdm.config import Perturbers
from vitdm.lens.free_form.problem import Problem
from vitdm.lens.free_form.start import MassPrior
from vitdm.lens.free_form.view import FREE_LIGHT
from vitdm.lens.perturbers.maps import Marginal
from vitdm.lens.perturbers.models import MASSES, REACH, SMOOTH, WithMultipole, WithPerturber
from vitdm.lens.perturbers.profiles import Profile, cosmology_of, profiles_of, solar_masses
from vitdm.simulation.cosmology import arcsec_per_kpc

FAINTEST = 3.0  # S/N of a peak that is fitted
NFW = "nfw_10", "nfw_30", "nfw_100"
DECADES = math.log(1e4)  # of masses and fluxes that are as probable
CUT_SD = 1.0  # of ln of the radius at which an isothermal perturber is cut
MULTIPOLE_SD = 0.01
STEPS, TOLERANCE = 20, 0.1
SAME = 0.1  # ", between the fits of two peaks that are one
WIDTHS = 0.0, 0.1, 0.2  # ", s.d. of spots of light
COARSE, FINE = 0.1, 0.02  # ", between their places
WIDE_FLUX = 30.0  # s.d. of a spot's flux, in units of its own
STEP = 0.01  # ", of the derivative of a spot by its place
SPOT = "x", "y", "flux", "width"  # of the rival of light
COLUMNS = (
    *("fit_x", "fit_x_error", "fit_y", "fit_y_error", "fit_mass", "fit_mass_error"),
    *("truncation", "profile", "concentration", "solar_mass", "solar_mass_1kpc"),
    *("delta_evidence", "delta_multipoles", "delta_luminous", "chi2", "converged"),
    *(f"luminous_{name}" for name in SPOT),
)


@dataclass(frozen=True, eq=False)
class Refit:
    """A perturber fitted with all else: the ``problem`` at its most probable mass.

    ``evidence`` is ln of it, with the mass integrated out.
    """

    problem: Problem
    evidence: float
    converged: bool

    @property
    def model(self) -> WithPerturber:
        """The smooth mass and a perturber."""
        return self.problem.mass

    @property
    def profile(self) -> Profile:
        """The perturber's profile, with the fitted cut."""
        return self.model.profile_of(self.problem.values)

    @property
    def mass(self) -> float:
        """Its total mass [arcsec^2]."""
        return math.exp(self.problem.values[SMOOTH + 2])

    def distance(self, other: Refit) -> float:
        """Return the distance ["] of two perturbers."""
        here, there = (one.problem.values[SMOOTH : SMOOTH + 2] for one in (self, other))
        return math.hypot(*(here - there))

    def errors(self) -> NDArray:
        """Return the s.d. of x, y ["] and mass [arcsec^2], (3,)."""
        posterior = self.problem.posterior
        _, curvature = posterior.derivatives(self.problem.point)
        some = np.searchsorted(posterior.free, SMOOTH) + np.arange(3)
        sd = np.sqrt(np.diag(np.linalg.inv(curvature))[some])
        return sd * [1, 1, self.mass]


def refit_peaks(
    problem: Problem,
    marginal: Marginal,
    peaks: pd.DataFrame,
    settings: Perturbers,
    area: float,
    progress: Callable[[str], None] = lambda stage: None,
) -> tuple[pd.DataFrame, Problem | None]:
    """Fit the peaks of a table of x, y ["], snr, mass [arcsec^2]; return it with what was found.

    ``marginal`` is that of the smooth ``problem``, ``area`` ["^2] what was searched. Peaks below a
    S/N of 3 are left out (NaN); two that lead to the same place share a fit. Also return the
    problem with the perturber that gains most.
    """
    table = peaks.reindex(columns=[*peaks.columns, *COLUMNS])
    table = table.astype({"profile": object, "converged": object})
    worth = np.flatnonzero(peaks["snr"] > FAINTEST)
    if not len(worth):
        return table, None
    progress("fitting the smooth model")
    smooth, _ = problem.refitted(STEPS, TOLERANCE)
    evidence = smooth.log_evidence()
    multipoles = _with_multipole(smooth) - evidence
    done: list[tuple[Refit, Refit, dict[str, object]]] = []
    for k in worth:
        progress(f"fitting peak {k + 1} of {len(peaks)}")
        place, mass = tuple(peaks[["x", "y"]].iloc[k].tolist()), float(peaks["mass"].iloc[k])
        first = first_fit(smooth, place, mass, settings, area)
        row = next((row for other, _, row in done if other.distance(first) < SAME), None)
        if row is None:
            found = refit(first, settings, area)
            row = _row(found, settings)
            row["delta_evidence"] = found.evidence - evidence
            row["delta_multipoles"] = multipoles
            spot = luminous(smooth, marginal, place, area)
            row["delta_luminous"] = spot.evidence - evidence
            row |= {f"luminous_{name}": getattr(spot, name) for name in SPOT}
            done.append((first, found, row))
        table.loc[table.index[k], list(row)] = list(row.values())
    return table, max((found for _, found, _ in done), key=lambda one: one.evidence).problem


def first_fit(
    smooth: Problem, place: tuple[float, float], mass: float, settings: Perturbers, area: float
) -> Refit:
    """Return the most probable isothermal sphere near a place (x, y) ["], cut where it was mapped.

    ``smooth`` is at its most probable mass; the fit starts at ``mass`` [arcsec^2].
    """
    model = WithPerturber(profiles_of("isothermal", settings)[0], place)
    start = np.array([*place, math.log(np.clip(mass, 10 * MASSES[0], MASSES[1] / 10))])
    return _climbed(_proposed(smooth, model, start, area))


def refit(first: Refit, settings: Perturbers, area: float) -> Refit:
    """Return the most probable perturber near a first fit, of any profile.

    Tried are an isothermal sphere that is cut anywhere, and NFW halos of those two of three
    concentrations that promise most.
    """
    problem, model, found = first.problem, first.model, first.problem.values[SMOOTH:]
    start = np.append(found, math.log(model.profile.scale))
    tried = [first, _climbed(_proposed(problem, replace(model, cut_free=True), start, area))]
    halos = []
    for name in NFW:
        profile, r = profiles_of(name, settings)[0], model.profile.scale
        # as much mass within the cut of the isothermal sphere, which is what the image tells
        share = float(model.profile.mass_within(r) / profile.mass_within(r))
        start = found + [0, 0, math.log(share)]
        halos.append(_proposed(problem, replace(model, profile=profile), start, area))
    tried += [_climbed(halo) for halo in sorted(halos, key=_promise)[1:]]
    return max(tried, key=lambda one: one.evidence)


def _proposed(problem: Problem, model: WithPerturber, start: NDArray, area: float) -> Problem:
    """Return the problem of a perturber of x, y, ln mass and, maybe, ln cut."""
    # normal priors with the density, at their middle, of even ones
    even = 1 / math.sqrt(2 * math.pi)
    mean = np.array([*model.place, start[2], math.log(model.profile.scale)])[: len(start)]
    sd = np.array([*[math.sqrt(area) * even] * 2, DECADES * even, CUT_SD])[: len(start)]
    prior = problem.prior
    prior = MassPrior(np.append(prior.mean[:SMOOTH], mean), np.append(prior.sd[:SMOOTH], sd))
    return problem.of_mass(model, prior, np.append(problem.values[:SMOOTH], start))


def _promise(problem: Problem) -> float:
    """Return ln P that a Newton step would reach."""
    gradient, curvature = problem.posterior.derivatives(problem.point)
    return problem.point.log_probability + gradient @ np.linalg.solve(curvature, gradient) / 2


def _climbed(problem: Problem) -> Refit:
    fitted, reached = problem.refitted(STEPS, TOLERANCE)
    return Refit(fitted, fitted.log_evidence(), reached)


def _row(found: Refit, settings: Perturbers) -> dict[str, object]:
    """Return the columns of the table that tell what was fitted."""
    profile, cosmology, unit = found.profile, cosmology_of(settings), solar_masses(settings)
    x, y = found.problem.values[SMOOTH : SMOOTH + 2]
    halo = profile.name.startswith("nfw")
    kpc = float(profile.mass_within(arcsec_per_kpc(cosmology))) if cosmology else math.nan
    values = np.array([x, y, found.mass])
    return {
        **dict(zip(COLUMNS[0:6:2], values.tolist(), strict=True)),
        **dict(zip(COLUMNS[1:6:2], found.errors().tolist(), strict=True)),
        "truncation": profile.scale * (profile.tau if halo else 1.0),
        "profile": "nfw" if halo else profile.name,
        "concentration": float(profile.name.removeprefix("nfw_")) if halo else math.nan,
        "solar_mass": found.mass * unit,
        "solar_mass_1kpc": found.mass * kpc * unit,
        "chi2": found.problem.point.chi2,
        "converged": found.converged,
    }


# -------------------------------------------------------------------------------------- rivals


def _with_multipole(smooth: Problem) -> float:
    """Return ln evidence of the smooth model with a multipole of order 5."""
    prior, zero = smooth.prior, np.zeros(2)
    prior = MassPrior(np.append(prior.mean, zero), np.append(prior.sd, zero + MULTIPOLE_SD))
    values = np.append(smooth.values, zero)
    fitted, _ = smooth.of_mass(WithMultipole(), prior, values).refitted(STEPS, TOLERANCE)
    return fitted.log_evidence()


@dataclass(frozen=True)
class Spot:
    """A spot of light at ``x``, ``y`` ["] of s.d. ``width`` ["], and ln ``evidence`` with it."""

    x: float
    y: float
    flux: float
    width: float
    evidence: float


def luminous(smooth: Problem, marginal: Marginal, place: tuple[float, float], area: float) -> Spot:
    """Return a spot of light near a place (x, y) ["] and ln evidence of the smooth model with it.

    Its place and width are those of the largest S/N with all else marginalised (``marginal``); then
    all else is fitted with it. The evidence is that without it where the flux is not positive.
    """
    spots = _Spots(smooth, marginal)
    snr, x, y, width = max(spots.near(place, width) for width in WIDTHS)
    none = Spot(x, y, 0.0, width, smooth.log_evidence())
    if not snr > 0:
        return none
    scene, full = smooth.scene, WIDE_FLUX / FREE_LIGHT * snr * spots.error(x, y, width)
    light = np.insert(scene.light, -1, full * spots.image(x, y, width), axis=0)
    fitted, _ = replace(smooth, scene=replace(scene, light=light)).refitted(STEPS, TOLERANCE)
    flux, sd = float(fitted.point.solution.light[-2]) * full, FREE_LIGHT * full
    if not flux > 0:
        return none
    # the normal prior of the flux is exchanged for one that is even in ln flux and in place
    normal = -((flux / sd) ** 2) / 2 - math.log(math.sqrt(2 * math.pi) * sd)
    even = -math.log(flux * DECADES) - math.log(area)
    integral = math.log(2 * math.pi) - np.linalg.slogdet(spots.curvature(x, y, width, flux))[1] / 2
    evidence = fitted.log_evidence() - normal + even + float(integral)
    return Spot(x, y, flux, width, evidence)


def _disc(middle: tuple[float, float], radius: float, step: float) -> list[tuple[float, float]]:
    """Return the places of a grid within a radius of its middle."""
    axis = np.arange(-math.floor(radius / step), math.floor(radius / step) + 1) * step
    steps = ((dx, dy) for dx in axis for dy in axis if math.hypot(dx, dy) < radius)
    return [(float(middle[0] + dx), float(middle[1] + dy)) for dx, dy in steps]


class _Spots:
    """Round Gaussian spots of unit flux, as seen through the PSF, and how well they are told."""

    def __init__(self, problem: Problem, marginal: Marginal) -> None:
        self.scene, self.fitted = problem.scene, problem.view.fitted
        self.marginal, self.weight = marginal, problem.posterior.weight
        self.residual = marginal.residual(problem.posterior.data)

    def image(self, x: float, y: float, width: float) -> NDArray:
        """Return a spot (H, W) at x, y ["] of s.d. ``width`` ["], or else of half a pixel."""
        scene = self.scene
        sd = max(width / scene.pixel_scale, 0.5)
        across, up = (
            np.diff(ndtr((np.arange(n + 1) - n / 2 - at / scene.pixel_scale) / sd))
            for n, at in zip(scene.data.shape[::-1], (x, y), strict=True)
        )
        return fftconvolve(np.outer(up, across), scene.kernel, mode="same")

    def templates(self, places: list[tuple[float, float]], width: float) -> NDArray:
        """Return the spots at places, (N, n), in units of the noise."""
        made = [self.image(x, y, width)[self.fitted] for x, y in places]
        return np.array(made).T * self.weight[:, None]

    def information(self, templates: NDArray) -> NDArray:
        """Return T^T C^-1 T (n, n) of templates (N, n)."""
        m = self.marginal
        seen = scipy.linalg.solve_triangular(
            m.root, m.matrix.T @ templates, lower=True, check_finite=False
        )
        return templates.T @ templates - seen.T @ seen

    def best(
        self, places: list[tuple[float, float]], width: float
    ) -> tuple[float, float, float, float]:
        """Return S/N, x, y and width of the spot of largest S/N among places."""
        templates = self.templates(places, width)
        error = 1 / np.sqrt(np.maximum(self.information(templates).diagonal(), 1e-300))
        snr = templates.T @ self.residual * error
        k = int(snr.argmax())
        return float(snr[k]), *places[k], width

    def near(self, place: tuple[float, float], width: float) -> tuple[float, float, float, float]:
        """Return S/N, x, y and width of the best spot within ``REACH`` of a place."""
        _, x, y, _ = self.best(_disc(place, REACH, COARSE), width)
        return self.best(_disc((x, y), COARSE, FINE), width)

    def error(self, x: float, y: float, width: float) -> float:
        """Return the s.d. of the flux of a spot."""
        return float(self.information(self.templates([(x, y)], width))[0, 0]) ** -0.5

    def curvature(self, x: float, y: float, width: float, flux: float) -> NDArray:
        """Return the inverse covariance (2, 2) of a spot's place, with all else marginalised."""
        around = [(x + STEP, y), (x - STEP, y), (x, y + STEP), (x, y - STEP)]
        moved = self.templates(around, width)
        return self.information((moved[:, ::2] - moved[:, 1::2]) * flux / (2 * STEP))
