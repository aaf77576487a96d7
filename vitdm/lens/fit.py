r"""A smooth lens fitted to each image: its parameters, and the residual.

The model is that of ``vitdm.lens.model``, :math:`\chi^2` that of ``vitdm.lens.problem``. It is
minimised by Levenberg-Marquardt steps (``vitdm.lens.minimise``) with analytic derivatives, for a
batch of images; first on 2 x 2 binned pixels, from the best of a few radii and source positions
(``vitdm.lens.start``), then on all. The centre of the mass is free; it follows the light of the
lens galaxy, where that is fitted, by a normal prior on what lies between them.

A fit never fails: what is wrong with an image or its fit is written in its ``flags``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vitdm.config import CHANNELS, LensFit
from vitdm.config.images import PROFILES
from vitdm.data.observation import Observation, as_observations, positive
from vitdm.lens.channels import perturber_channels, pixel_channels
from vitdm.lens.matched import NAMES, search_of
from vitdm.lens.minimise import CONVERGED, MAX_STEPS, Bounds, State, minimise
from vitdm.lens.model import Camera, SmoothLens
from vitdm.lens.noise import photon_noise
from vitdm.lens.parameters import BRIGHTNESS, CENTER, MASS, SKY, SOURCE_POSITION
from vitdm.lens.problem import LensProblem
from vitdm.lens.squares import Squares, camera_of, squares_of
from vitdm.lens.start import COARSE, CORE, coarse_fit
from vitdm.simulation.population import Population
from vitdm.threads import one_thread

#: what can be wrong with an image or its fit
FLAGS = {
    "blank": "no light stands out of the noise; nothing was fitted",
    "not_finite": "some pixels are missing; they were left out",
    "edge": "light reaches the edge of the square",
    "not_converged": "no minimum was found in as many steps as are taken at most",
    "bound": "a parameter, or the modulus of an ellipticity, ended at the limit of what is allowed",
    "no_ring": "the source is not lensed into several images, or the radius is hardly determined",
    "poor": "chi2 per degree of freedom above 1.3: not a smooth lens, or another minimum",
    "quiet": "chi2 per degree of freedom below 0.7: too large a noise, or one that pixels share",
}
MORE_STEPS = 300  # with two profiles of lens light: they share what they explain, and move together
POOR, QUIET = 1.3, 0.7
BLIND = 2.0  # px, about the centre of a mass without light, that are not fitted
SAMPLE = 64  # images at most that tell the photon noise of all
RETRY = 1.1  # chi^2 per degree of freedom of a fit that is tried again from other starts
ELSEWHERE = 0.03  # arcsec, or ellipticity: what is farther apart may be another minimum


@dataclass(frozen=True)
class Fits:
    """Smooth lenses fitted to n images; nothing that was not fitted has a value other than NaN.

    ``values`` and ``errors`` (n, p) are of the parameters ``names``, called as in the catalog:
    angles in arcsec, amplitudes and sky in the image's units per square arcsec. Errors are those
    of the curvature of chi^2. ``chi2`` (n,) is per degree of freedom, ``residual`` (n, size, size)
    float32 in units of the noise, 0 where nothing was fitted; ``lensed`` (n, size, size) tells
    where the fitted arcs are brighter than the noise of the sky, with the neighbouring pixels.
    ``flags`` are words of ``FLAGS``, separated by spaces; ``converged`` (n,) tells whether a
    minimum was found. ``perturbers`` (n, names) are the ``vitdm.lens.matched.NAMES``, ``maps``
    (n, C, g, g) float32 those of ``vitdm.lens.channels``, C = 0 if none were asked for. ``cameras``
    are those of the images, ``gain`` (n,) the photon noise that was assumed, and ``unknown`` what
    the observations did not tell, so that it was measured on the image (``noise``, ``gain``) or
    taken from the settings (``psf``, or a ``gain`` that stands there), as words.
    """

    names: tuple[str, ...]
    values: NDArray
    errors: NDArray
    chi2: NDArray
    converged: NDArray
    flags: list[str]
    perturbers: NDArray
    maps: NDArray
    residual: NDArray
    lensed: NDArray
    cameras: list[Camera]
    gain: NDArray
    unknown: list[str]

    def column(self, name: str) -> NDArray:
        """Return the values (n,) of a parameter."""
        return self.values[:, self.names.index(name)]

    def row(self, k: int) -> Fits:
        """Return the fit of image k alone."""
        some = slice(k, k + 1)
        parts = {f.name: getattr(self, f.name)[some] for f in fields(self) if f.name != "names"}
        return replace(self, **parts)


@one_thread()
def fit(
    images: Observation | ArrayLike | Sequence[Any],
    settings: LensFit,
    *,
    pixel_scale: float | None = None,
    gain: float | None = None,
) -> Fits:
    """Fit a smooth lens to each image: an array (n, H, W), a list of arrays, or observations.

    Images may be of any size and unit; pixels are square. What an observation tells is used: its
    noise, PSF, mask, pixel scale and photon noise. ``pixel_scale`` [arcsec] and ``gain``, the
    variance of the photon noise per brightness (1 for images in counts), hold for those that do not
    tell them. The rest is taken from the settings, or estimated from all images of one camera.
    InputError if the scale of an image is unknown, or one is no image.
    """
    observations = as_observations(images, pixel_scale=pixel_scale)
    gain = positive(gain, "gain", zero=True)
    groups: dict[tuple, list[int]] = {}
    for k, observation in enumerate(observations):
        key = (observation.shape, camera_of(observation, settings))
        groups.setdefault(key, []).append(k)
    parts, order = [], []
    for (_, camera), rows in groups.items():
        model = SmoothLens(camera, settings.n_lights)
        alike = [observations[row] for row in rows]
        known = _gains(alike, camera, settings, gain)
        for start in range(0, len(rows), settings.batch):
            some = slice(start, start + settings.batch)
            parts.append(_fit_batch(alike[some], model, settings, known[some]))
        order += rows
    back = np.argsort(order)
    whole = {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}
    cameras = [camera for (_, camera), rows in groups.items() for _ in rows]
    return Fits(
        names=model.names,
        flags=whole.pop("flags").tolist(),
        cameras=[cameras[k] for k in back],
        unknown=[" ".join(observation.unknown) for observation in observations],
        **whole,
    )


def _gains(
    observations: Sequence[Observation], camera: Camera, settings: LensFit, gain: float | None
) -> NDArray:
    """Return the photon noise per brightness (n,): as told, or estimated where nothing tells it."""
    otherwise = settings.gain if gain is None else gain
    untold = [o for o in observations if "gain" in o.unknown]
    if otherwise is None and untold:
        otherwise = _estimate_gain(untold, camera, settings)
    gains = []
    for o in observations:  # a noise map has the photons already
        own = otherwise if o.gain is None else o.gain
        gains.append(0.0 if isinstance(o.noise, np.ndarray) else own)
    return np.array(gains, float)


@one_thread()
def estimate_gain(
    images: ArrayLike | Sequence[Any], settings: LensFit, *, pixel_scale: float | None = None
) -> float:
    """Return the variance of the photon noise per brightness that images (n, H, W) show.

    The median, over the images that a smooth lens fits, of what the roughness of their residuals
    tells (``photon_noise``), after two rounds of fits; 0 if no image shows light. Images of the
    most frequent camera and shape are looked at, at most ``SAMPLE`` of those whose photon noise
    is unknown.
    """
    observations = as_observations(images, pixel_scale=pixel_scale)
    observations = [o for o in observations if "gain" in o.unknown]
    if not observations:
        return 0.0
    kinds = [(o.shape, camera_of(o, settings)) for o in observations]
    shape, camera = max(dict.fromkeys(kinds), key=kinds.count)
    alike = [o for o, kind in zip(observations, kinds, strict=True) if kind == (shape, camera)]
    return _estimate_gain(alike, camera, settings)


def _estimate_gain(observations: Sequence[Observation], camera: Camera, settings: LensFit) -> float:
    spread = np.linspace(0, len(observations) - 1, SAMPLE).round().astype(int)
    observations = [observations[k] for k in np.unique(spread)]
    model = SmoothLens(camera, settings.n_lights)
    squares = squares_of(observations, camera, settings, np.zeros(len(observations)))
    rows = torch.nonzero(torch.isfinite(squares.radius))[:, 0]
    if not len(rows):
        return 0.0
    squares = squares.select(rows)
    smooth = np.array([cv2.GaussianBlur(image, (0, 0), 1.0) for image in squares.data.numpy()])
    smooth = torch.from_numpy(smooth)
    gain = photon_noise(squares.data - smooth, smooth, settings.noise_lag) * squares.unit
    for _ in range(2):
        squares.gain = gain.median() / squares.unit
        fitted = _fit(squares, model, settings)
        gain = (
            photon_noise(fitted["misfit"], fitted["brightness"], settings.noise_lag) * squares.unit
        )
        gain = gain[fitted["chi2"] <= max(POOR, fitted["chi2"].median().item())]
    return gain.median().item()


# --------------------------------------------------------------------------------------- the fit


def _precision(model: SmoothLens, settings: LensFit) -> Tensor:
    """Return the inverse variances (p,) of the priors of parameters; 0 for those without."""
    deviations = [
        getattr(settings, row.prior) if row.prior else math.inf for row in model.parameters
    ]
    return torch.tensor(deviations, dtype=torch.float64) ** -2


def _fit(squares: Squares, model: SmoothLens, settings: LensFit) -> dict[str, Tensor]:
    """Fit the smooth lens to images that show light.

    Fits that leave more than noise may be local minima: they are tried again from other starts.
    """
    precision = _precision(model, settings)
    start = coarse_fit(squares, model, precision)
    refined = functools.partial(_refined, model=model, precision=precision, settings=settings)
    best = refined(start.values, squares)
    rows = torch.nonzero(~(best["chi2"] < RETRY) | ~best["converged"])[:, 0]
    if not len(rows):
        return best
    other = coarse_fit(squares.select(rows), model, precision, best["values"][rows])
    places = model.columns([*MASS, *CENTER, *SOURCE_POSITION])
    moved = (other.values - start.values[rows])[:, places].abs().amax(1)
    elsewhere = moved > ELSEWHERE
    rows = rows[elsewhere]
    if len(rows):
        values = other.values[elsewhere]
        again = refined(values, squares.select(rows))
        better = again["chi2"] < best["chi2"][rows]
        for name, values in best.items():
            values[rows[better]] = again[name][better]
    return best


def _refined(
    values: Tensor,
    squares: Squares,
    model: SmoothLens,
    precision: Tensor,
    settings: LensFit,
) -> dict[str, Tensor]:
    """Return the fits to all pixels that start from ``values`` (n, p), and what is told of them."""
    softened = SmoothLens(model.camera, model.lens_light, CORE * model.camera.pixel_scale)
    problem = _problem(softened, squares, values, precision)
    bounds = Bounds(model.parameters, model.camera)
    rounds = [(softened, softened, COARSE), (softened, model, CONVERGED)]
    if model.lens_light:  # its cusp, where most photons are
        rounds.append((model, model, CONVERGED))
    for noisy, problem.model, tolerance in rounds:
        problem.renew(noisy.image(values))  # the noise depends on the model
        state = State.of(problem, values)
        steps = MORE_STEPS if model.lens_light > 1 else MAX_STEPS
        minimise(problem, state, bounds, steps, tolerance)
        values = state.values
    rows = torch.arange(len(state.values))
    blocked = bounds.at(state.values)
    H = state.curvature.masked_fill(blocked[:, :, None] | blocked[:, None, :], 0.0)
    H = H + torch.diag_embed(blocked.double())
    covariance, singular = torch.linalg.inv_ex(H)
    variance = covariance.diagonal(dim1=1, dim2=2)
    bad = (singular > 0)[:, None] | (variance <= 0) | blocked
    source = tuple(1 + column for column in model.columns(SOURCE_POSITION))
    halo = model.columns([MASS[0], *CENTER])
    search = search_of(model.camera, settings.places).numbers_and_maps
    searched = [
        search(
            problem.linear(some, index),
            source,
            *some[:, halo].float().T,
            mapped=settings.maps == "matched",
        )
        for some, index in zip(
            state.values.split(model.chunk), rows.split(model.chunk), strict=True
        )
    ]
    perturbers, maps = map(torch.cat, zip(*searched, strict=True))
    arcs, residual = model.arcs(state.values), problem.residual(state.values, rows)
    degrees = (problem.pixels - len(model.names)).clamp(min=1)
    return {
        "values": state.values,
        "errors": torch.where(bad, math.nan, variance.clamp(min=0).sqrt()),
        "bound": blocked.any(1),
        "chi2": (state.chi2 - problem.penalty(state.values)) / degrees,
        "converged": state.converged,
        "perturbers": perturbers,
        "maps": maps,
        "residual": residual,
        "misfit": residual / problem.inverse.clamp(min=1e-6),  # not in units of the photon noise
        "brightness": model.image(state.values),
        "lensed": torch.nn.functional.max_pool2d((arcs > 1).float()[:, None], 3, 1, 1)[:, 0]
        * squares.good,
    }


def _off_centre(values: Tensor, model: SmoothLens) -> Tensor:
    """Return where (n, size, size) an isothermal lens deflects in one direction.

    Not at its very centre: the ray through a pixel there jumps from one side of the source to the
    other as the centre moves across. There is nothing to see there but the lens galaxy.
    """
    (x, y), center = model.camera.axes(), values[:, model.columns(CENTER)]
    distance = torch.hypot((y - center[:, 1:])[:, :, None], (x - center[:, :1])[:, None])
    return (distance > BLIND * model.camera.pixel_scale).float()


def _fit_batch(
    observations: Sequence[Observation], model: SmoothLens, settings: LensFit, gain: NDArray
) -> dict[str, NDArray]:
    """Fit a batch of images of one camera; the entries of ``Fits`` that have a row for each."""
    squares = squares_of(observations, model.camera, settings, gain)
    k, p, size = len(observations), len(model.names), model.camera.size
    at_theta = model.names.index("theta_E")
    values, errors = np.full((2, k, p), math.nan)
    chi2, converged = np.full(k, math.nan), np.zeros(k, bool)
    perturbers = np.full((k, len(NAMES)), math.nan)
    residual, lensed = np.zeros((k, size, size), np.float32), np.zeros((k, size, size), bool)
    side = settings.map_side
    maps = np.zeros((k, len(CHANNELS) if settings.maps else 0, side, side), np.float32)
    seen = torch.isfinite(squares.radius)
    if seen.any():
        rows = torch.nonzero(seen)[:, 0]
        fitted = _fit(squares.select(rows), model, settings)
        values[rows], errors[rows] = _natural(fitted, model, squares.select(rows))
        rows = rows.numpy()
        chi2[rows], converged[rows] = fitted["chi2"], fitted["converged"]
        residual[rows], lensed[rows] = fitted["residual"], fitted["lensed"] > 0
        perturbers[rows] = fitted["perturbers"]
        if settings.maps:
            own = squares.select(torch.from_numpy(rows))
            maps[rows] = _channels(fitted, own, model, side)
        for row, at_bound in zip(rows, fitted["bound"], strict=True):
            flags = squares.flags[row]
            theta_E, error = values[row, at_theta], errors[row, at_theta]
            source = np.hypot(*values[row, model.columns(SOURCE_POSITION)])
            flags += ["not_converged"] * int(not converged[row])
            flags += ["bound"] * int(at_bound)
            sure = theta_E > 2 * model.camera.pixel_scale and error < 0.1 * theta_E
            flags += ["no_ring"] * int(not sure or source > theta_E)
            flags += ["poor"] * int(not chi2[row] < POOR) + ["quiet"] * int(chi2[row] < QUIET)
    flags = np.array([" ".join(words) for words in squares.flags], dtype=object)
    return {
        "values": values,
        "errors": errors,
        "chi2": chi2,
        "converged": converged,
        "flags": flags,
        "perturbers": perturbers,
        "maps": maps,
        "residual": residual,
        "lensed": lensed,
        "gain": gain,
    }


def _channels(fitted: dict[str, Tensor], squares: Squares, model: SmoothLens, side: int) -> Tensor:
    """Return the channels (k, C, g, g) of fits; without those of perturbers these are 0."""
    snr, information = fitted["maps"].unbind(1)
    pixels = pixel_channels(fitted["residual"], squares.data * squares.good, side)
    if not snr.shape[1]:
        snr = information = pixels.new_zeros(len(pixels), len(PROFILES), *pixels.shape[2:])
    information = information * fitted["converged"][:, None, None, None]
    theta_E = fitted["values"][:, model.names.index("theta_E")]
    return torch.cat([perturber_channels(snr, information, theta_E), pixels], 1)


def _natural(
    fitted: dict[str, Tensor], model: SmoothLens, squares: Squares
) -> tuple[NDArray, NDArray]:
    """Return values and errors (k, p) in the units of the images, and without logarithms."""
    values, errors = fitted["values"].clone(), fitted["errors"].clone()
    for k, row in enumerate(model.parameters):
        if row.logarithmic:
            values[:, k] = torch.exp(values[:, k])
            errors[:, k] *= values[:, k]
        if row.unit == BRIGHTNESS:
            values[:, k] *= squares.unit
            errors[:, k] *= squares.unit
        if row in SKY:
            values[:, k] += squares.sky / model.camera.pixel_scale**2
    return values.numpy(), errors.numpy()


# ------------------------------------------------------------------------------------ afterwards


def modelled(fits: Fits) -> tuple[NDArray, NDArray]:
    """Return the images (n, size, size) of the fitted lenses, and their arcs alone.

    In the units of the images that were fitted, before any noise was cut at zero, on a level sky
    even if that of the image had a slope; NaN where nothing was fitted.
    """
    n_lights = sum(name.endswith("_amp") for name in fits.names) - 1
    whole, arcs = [], []
    for row, camera in zip(fits.values, fits.cameras, strict=True):
        model = SmoothLens(camera, n_lights, dtype=torch.float64)
        values = torch.tensor(row[None])
        logarithms = [parameter.logarithmic for parameter in model.parameters]
        values[:, logarithms] = torch.log(values[:, logarithms])
        whole.append(model.image(values)[0].numpy())
        arcs.append(model.arcs(values)[0].numpy())
    return np.array(whole), np.array(arcs)


@one_thread()
def point_snr(
    observations: Sequence[Observation], fits: Fits, settings: LensFit
) -> list[NDArray[np.float32] | None]:
    """Return a map of the S/N of a point mass in each fitted lens, None where nothing was fitted.

    ``fits`` and ``settings`` are those of the ``observations``. A map (g, g) covers the square that
    was fitted, of which it bins 1 x 1 or more pixels into one; NaN where no mass could be told, or
    too far from the lens. It is the mass over its error, smooth parameters being free
    (``vitdm.lens.matched``); its maximum is the feature ``fit_point_snr``, to some per cent, for
    the noise is that of the model as it ended.
    """
    maps = []
    for k, observation in enumerate(observations):
        row, camera = fits.row(k), fits.cameras[k]
        if not np.isfinite(row.values).all():
            maps.append(None)
            continue
        squares = squares_of([observation], camera, settings, row.gain)
        model = SmoothLens(camera, sum(name.endswith("_amp") for name in fits.names) - 1)
        problem, values = solved(row.values, squares, model)
        source = tuple(1 + column for column in model.columns(SOURCE_POSITION))
        search = search_of(camera, settings.places)
        N, D = search.maps(problem.linear(values, torch.tensor([0])), source)
        center = torch.tensor(row.values[:, model.columns(CENTER)]).float()
        known = (D > 0) & search.inside(*center.T).view_as(D)
        snr = torch.where(known, N / D.clamp(min=1e-12).sqrt(), math.nan)
        maps.append(snr[0].numpy())
    return maps


def solved(natural: NDArray, squares: Squares, model: SmoothLens) -> tuple[LensProblem, Tensor]:
    """Return the problem of one fitted image, and its values (1, p) as the fit has them.

    ``natural`` (1, p) are the ``values`` of ``Fits``.
    """
    values = torch.tensor(natural)
    for k, parameter in enumerate(model.parameters):
        if parameter in SKY:
            values[:, k] -= squares.sky / model.camera.pixel_scale**2
        if parameter.unit == BRIGHTNESS:
            values[:, k] /= squares.unit
        if parameter.logarithmic:
            values[:, k] = torch.log(values[:, k])
    problem = _problem(model, squares, values)
    problem.renew(model.image(values))
    return problem, values


def _problem(
    model: SmoothLens, squares: Squares, values: Tensor, precision: Tensor | None = None
) -> LensProblem:
    """Return the problem of some images near ``values`` (n, p), of no prior if none is given."""
    good = squares.good if model.lens_light else squares.good * _off_centre(values, model)
    noise = squares.gain, squares.clipped, squares.variance
    return LensProblem(model, squares.data, good, *noise, precision)


def settings_for(population: Population, settings: LensFit) -> LensFit:
    """Return the settings with what a population tells: PSF, photon noise, light of the lens."""
    instrument = population.instrument
    known = {
        "psf_fwhm": instrument.psf_fwhm,
        "psf_truncation": instrument.psf_truncation,
        "lens_light": population.lens_light is not None,
    }
    if instrument.drizzle:
        known["noise_lag"] = 2
    if instrument.output == "counts" and instrument.noise != "none" and not population.eight_bit:
        known["gain"] = {"single": 1.0, "double_poisson": 2.0}[instrument.noise]
    return settings.model_copy(update=known)
