r"""A smooth lens fitted to each image: its parameters, and the residual.

The model is that of ``vitdm.lens.model``; :math:`\chi^2 = \sum r^2` over the pixels of a
square, with :math:`r = (y - \mu) / \sqrt v` and :math:`v = \sigma^2 + \mathrm{gain} \cdot m`: the
noise of the sky, measured on the image, and that of the photons of the model m. It is minimised by
Levenberg-Marquardt steps (Marquardt 1963, doi:10.1137/0111030) with analytic derivatives, for a
batch of images; first on 2 x 2 binned pixels, from the best of a few radii and source
positions, then on all. Where noise was clipped at zero, the mean brightness of a pixel of noiseless
brightness m is not m, and the model goes through the clip too (``vitdm.lens.noise``).

A fit never fails: what is wrong with an image or its fit is written in its ``flags``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vitdm.config import LensFit, Preprocess
from vitdm.errors import InputError
from vitdm.lens.model import Camera, SmoothLens
from vitdm.lens.noise import clipped_normal, clipped_variance, noise_of_the_faint, photon_noise
from vitdm.lens.parameters import (
    BRIGHTNESS,
    CENTER,
    MASS,
    SKY,
    SOURCE_POSITION,
    SOURCE_PROFILE,
    Pair,
    Parameter,
    profiles,
)
from vitdm.lens.search import NAMES, search_of
from vitdm.preprocess import detect
from vitdm.preprocess.background import PILE_UP
from vitdm.simulation.population import Population

#: what can be wrong with an image or its fit
FLAGS = {
    "blank": "no light stands out of the noise; nothing was fitted",
    "not_finite": "some pixels are no numbers; they were left out",
    "edge": "light reaches the edge of the square",
    "not_converged": "no minimum was found in as many steps as are taken at most",
    "bound": "a parameter, or the modulus of an ellipticity, ended at the limit of what is allowed",
    "no_ring": "the source is not lensed into several images, or the radius is hardly determined",
    "poor": "chi2 per degree of freedom above 1.3: not a smooth lens, or another minimum",
}
CLIPPED_RMS = 0.9849  # rms of normal numbers, clipped again and again at 3 of it: preprocess' noise
MAX_STEPS = 30  # on all pixels; half as many on binned ones
MORE_STEPS = 300  # with two profiles of lens light: they share what they explain, and move together
CONVERGED = 0.02  # what the next step may still gain in chi^2: a tenth of an error bar
KINK = 0.5  # the same where steps of any size raise chi^2
COARSE = 0.5  # the same while the start is improved on binned pixels
POOR = 1.3

# ------------------------------------------------------------------------------------------ input


@dataclass
class _Images:
    """Squares of images, above the sky and in units of its noise; tensors have n rows.

    ``data`` and ``good`` are (n, size, size); ``good`` is 0 where a pixel is no number. ``sky`` and
    ``unit`` are the level and the noise of the sky in the units of the image, ``radius`` ["] is the
    flux-weighted one.
    """

    data: Tensor
    good: Tensor
    sky: Tensor
    unit: Tensor
    clipped: Tensor
    radius: Tensor
    flags: list[list[str]]


def _prepare(images: NDArray, pixel_scale: float, settings: LensFit) -> _Images:
    """Measure sky and noise of each image (n, H, W), cut its middle out, and tell what is wrong."""
    size = settings.size
    n, height, width = images.shape
    top, left = (height - size) // 2, (width - size) // 2  # as the processed image is cut
    box = np.s_[max(top, 0) : top + size, max(left, 0) : left + size]
    data, good = (np.zeros((n, size, size), np.float32) for _ in range(2))
    inner = np.s_[:, max(-top, 0) : max(-top, 0) + height, max(-left, 0) : max(-left, 0) + width]
    sky, unit, radius = np.zeros(n), np.ones(n), np.full(n, math.nan)
    clipped, flags = np.zeros(n, bool), [[] for _ in range(n)]
    axis = (np.arange(size) - (size - 1) / 2) * pixel_scale
    distance = np.hypot(axis[:, None], axis)
    for i, image in enumerate(images):
        light = detect(image, Preprocess())
        unit[i] = light.noise / CLIPPED_RMS
        if settings.lens_light and light.sigma:
            # where the light of a galaxy is everywhere, none of it is sky, and its slope no noise
            faint = noise_of_the_faint(light.residual, settings.noise_lag)
            unit[i] = min(unit[i], faint or unit[i])
        finite = np.isfinite(image)
        if not finite.all():
            flags[i].append("not_finite")
        lowest = image.min(where=finite, initial=np.inf)
        clipped[i] = np.mean(image == lowest) >= PILE_UP
        sky[i] = lowest if clipped[i] else light.sky
        residual = image - lowest if clipped[i] else light.residual
        where = (i, *inner[1:])
        data[where] = np.where(finite, residual, 0)[box] / unit[i]
        good[where] = finite[box]
        mask = np.zeros((size, size), bool)
        mask[inner[1:]] = light.mask[box] > 0
        if not mask.any():
            flags[i].append("blank")
            continue
        seen = light.mask[box] > 0
        if seen[[0, 1, -2, -1]].any() or seen[:, [0, 1, -2, -1]].any():
            flags[i].append("edge")
        flux = np.clip(data[i], 0, None) * mask
        radius[i] = (flux * distance).sum() / max(flux.sum(), 1e-30)
    return _Images(
        data=torch.from_numpy(data),
        good=torch.from_numpy(good),
        sky=torch.from_numpy(sky),
        unit=torch.from_numpy(unit),
        clipped=torch.from_numpy(clipped),
        radius=torch.from_numpy(radius).float(),
        flags=flags,
    )


# ------------------------------------------------------------------------------------- chi squared


class LensProblem:
    """The chi^2 of some images as a function of the parameters of their lenses.

    ``images`` is (n, size, size) in units of the noise of the sky, ``weight`` the number of pixels
    that a pixel is the mean of (0: none), ``gain`` (n,) the variance per brightness of the photon
    noise, ``clipped`` (n,) whether the noise was cut at zero.
    """

    def __init__(
        self, model: SmoothLens, images: Tensor, weight: Tensor, gain: Tensor, clipped: Tensor
    ) -> None:
        self.model, self.images, self.weight = model, images, weight
        self.gain, self.clipped = gain.to(images.dtype), clipped
        self.pixels = (weight > 0).flatten(1).sum(1).clamp(min=1)
        # until there is a model, the image itself, smoothed, tells how many photons there are
        smooth = [cv2.GaussianBlur(image, (0, 0), 1.0) for image in images.numpy()]
        self.renew(torch.from_numpy(np.array(smooth)))

    def renew(self, brightness: Tensor, rows: Tensor | slice = slice(None)) -> None:
        """Take the noise of some images to be that of a brightness (k, size, size)."""
        if not hasattr(self, "sigma"):
            self.sigma, self.inverse = torch.ones_like(self.images), self.weight.clone()
        gain, at_zero = self.gain[rows, None, None], self.clipped[rows]
        variance = 1 + gain * brightness.clamp(min=0)
        self.sigma[rows] = sigma = torch.sqrt(variance)
        if at_zero.any():
            variance[at_zero] = clipped_variance(brightness[at_zero], sigma[at_zero]).clamp(
                min=1e-3
            )
        self.inverse[rows] = torch.sqrt(self.weight[rows] / variance)

    def expected(self, brightness: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the mean of the pixels, and its derivative where that is not 1."""
        at_zero = self.clipped[rows]
        if not at_zero.any():
            return brightness, None
        # sigma is that of the last ``renew``: it does not move with the parameters
        mean, above, _ = clipped_normal(brightness, self.sigma[rows])
        at_zero = at_zero[:, None, None]
        return torch.where(at_zero, mean, brightness), torch.where(at_zero, above, 1.0)

    def residual(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the residuals (k, size, size) of some images, in units of their noise."""
        mean, _ = self.expected(self.model.image(values), rows)
        return (self.images[rows] - mean) * self.inverse[rows]

    def linear(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return r and J of a few images in one array (k, 1 + p, size, size).

        Residuals, and derivatives of the model, in units of the noise. The next call overwrites it.
        """
        both = self.model.image_and_derivatives(values)
        mean, slope = self.expected(both[:, 0], rows)
        inverse = self.inverse[rows]
        r = (self.images[rows] - mean) * inverse
        both *= (inverse if slope is None else inverse * slope)[:, None]
        both[:, 0] = r
        return both

    def normal_equations(self, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return chi^2 (k,), J J^T (k, p, p) and J r (k, p) at ``values`` (k, p), double precision.

        J (p, pixels) are the derivatives of the model in units of the noise, r the residuals.
        """
        parts = []
        chunk = self.model.chunk
        for some, index in zip(values.split(chunk), rows.split(chunk), strict=True):
            both = self.linear(some, index).flatten(2)
            product = both @ both.mT  # one product gives J J^T and J r
            chi2 = both[:, 0].square().sum(1, dtype=torch.float64)
            parts.append((chi2, product[:, 1:, 1:].double(), product[:, 1:, 0].double()))
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _solve(H: Tensor, J_r: Tensor, scale: Tensor) -> Tensor:
    """Return the steps (n, p) that solve H step = J r; down the slope where H is singular."""
    step, singular = torch.linalg.solve_ex(H, J_r)
    return torch.where((singular > 0)[:, None], J_r / scale, step).nan_to_num(0.0)


class Problem(Protocol):
    """A sum of squares for each of n images, that ``minimise`` can minimise.

    ``pixels`` (n,) are the numbers of squares. ``normal_equations(values, rows)`` returns, for the
    images ``rows`` (k,) at ``values`` (k, p), chi^2 (k,), J J^T (k, p, p) and J r (k, p) in double
    precision: r are the residuals, J (p, pixels) minus their derivatives by the parameters.
    """

    pixels: Tensor

    def normal_equations(self, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...


@dataclass
class State:
    """Where the fits of n images are.

    Parameters ``values`` (n, p), ``chi2`` (n,), ``curvature`` J J^T (n, p, p), ``gradient`` J r
    (n, p), and whether they ``converged`` (n,).
    """

    values: Tensor
    chi2: Tensor
    curvature: Tensor
    gradient: Tensor
    converged: Tensor

    @classmethod
    def of(cls, problem: Problem, values: Tensor) -> State:
        equations = problem.normal_equations(values, torch.arange(len(values)))
        return cls(values, *equations, torch.zeros(len(values), dtype=torch.bool))


def _best(states: list[State]) -> State:
    """Return the states with the lowest chi^2 of each image."""
    chosen = torch.stack([state.chi2 for state in states]).argmin(0)
    rows = torch.arange(len(chosen))
    parts = ([getattr(state, name) for state in states] for name in vars(states[0]))
    return State(*(torch.stack(part)[chosen, rows] for part in parts))


class Bounds:
    """What values the parameters ``rows`` may have, and how far a step may go."""

    def __init__(self, rows: Sequence[Parameter], camera: Camera, start: bool = False) -> None:
        """``start`` gives the narrower bounds of a coarse start."""
        pixel, field = camera.pixel_scale, camera.size * camera.pixel_scale
        low, high = [], []
        for row in rows:
            bounds = (start and row.start_bounds) or row.bounds
            ends = bounds(pixel, field) if bounds else (-math.inf, math.inf)
            if bounds and row.logarithmic:
                ends = tuple(math.log(end) for end in ends)
            low.append(ends[0])
            high.append(ends[1])
        self.low = torch.tensor(low, dtype=torch.float64)
        self.high = torch.tensor(high, dtype=torch.float64)
        self.step = torch.tensor([row.step for row in rows], dtype=torch.float64)
        pairs: dict[Pair, list[int]] = {}
        for k, row in enumerate(rows):
            if row.pair:
                pairs.setdefault(row.pair, []).append(k)
        self.pairs = [(columns, pair.largest) for pair, columns in pairs.items()]

    def inside(self, values: Tensor) -> Tensor:
        """Return the closest values (n, p) that are allowed."""
        values = torch.minimum(torch.maximum(values, self.low), self.high)
        for pair, largest in self.pairs:
            modulus = values[:, pair].norm(dim=1, keepdim=True)
            values[:, pair] *= (largest / modulus.clamp(min=1e-9)).clamp(max=1)
        return values

    def at(self, values: Tensor) -> Tensor:
        """Return whether values (n, p) lie at a bound (n, p)."""
        edge = (values <= self.low + 1e-9) | (values >= self.high - 1e-9)
        for pair, largest in self.pairs:
            edge[:, pair] |= values[:, pair].norm(dim=1, keepdim=True) >= largest * (1 - 1e-6)
        return edge

    def blocked(self, values: Tensor, gradient: Tensor) -> Tensor:
        """Return which parameters (n, p) are at a bound and pulled beyond it by J r."""
        return ((values <= self.low) & (gradient < 0)) | ((values >= self.high) & (gradient > 0))


def minimise(problem: Problem, state: State, bounds: Bounds, steps: int, tolerance: float) -> None:
    """Take Levenberg-Marquardt steps until each fit has nothing more to gain, in ``state``.

    A fit has converged when an undamped step would lower chi^2, were it quadratic, by less than
    ``tolerance``; after ``steps`` it is left as it is. What has converged is not evaluated again.
    """
    damping = torch.full((len(state.values),), 1e-3, dtype=torch.float64)
    active = torch.arange(len(state.values))
    for _ in range(steps):
        if not len(active):
            break
        values, J_r, H = state.values[active], state.gradient[active], state.curvature[active]
        # a parameter at a bound that is pulled beyond it is left out of the equations
        blocked = bounds.blocked(values, J_r)
        J_r = J_r.masked_fill(blocked, 0.0)
        H = H.masked_fill(blocked[:, :, None] | blocked[:, None, :], 0.0)
        scale = torch.where(blocked, 1.0, H.diagonal(dim1=1, dim2=2).clamp(min=1e-12))
        H = H + torch.diag_embed(blocked.double())
        step = _solve(H + torch.diag_embed(scale * damping[active, None]), J_r, scale)
        undamped = _solve(H, J_r, scale)
        # too long a step is shortened as a whole: its direction stays
        longest = (step.abs() / bounds.step).amax(1, keepdim=True).clamp(min=1)
        trial = bounds.inside(values + step / longest)
        chi2, curvature, gradient = problem.normal_equations(trial, active)
        old = state.chi2[active]
        better = (chi2 <= old) & gradient.isfinite().all(1)
        # what the undamped step should still gain; of a fit with chi^2 above 1 in units of its own
        left = (undamped * J_r).sum(1) / (old / problem.pixels[active]).clamp(min=1)
        # a pixel on the cusp of a source makes kinks, of less than an error bar, in chi^2
        kink = ~better & (damping[active] >= 1) & (left < KINK)
        done = ((left < tolerance) & (undamped.abs() < bounds.step).all(1)) | kink
        stuck = ~better & ~done & (damping[active] > 1e6)
        taken = active[better]
        state.values[taken], state.chi2[taken] = trial[better], chi2[better]
        state.curvature[taken], state.gradient[taken] = curvature[better], gradient[better]
        state.converged[active[done]] = True
        # a step that does not lower chi^2 is tried again with more damping
        damping[active] *= torch.where(better, 0.1, 10.0)
        damping.clamp_(min=1e-9)
        active = active[~done & ~stuck]


# --------------------------------------------------------------------------------------- the fit


def _circle(radius: float, n: int) -> list[tuple[float, float]]:
    angles = 2 * math.pi / n * np.arange(n)
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


#: where the source may be, in units of theta_E: the middle, and two circles around it
POSITIONS = [(0.0, 0.0), *_circle(0.12, 6), *_circle(0.28, 8)]
#: the same when the first fit has left more than noise
OTHERS = [(0.0, 0.0), *_circle(0.15, 6), *_circle(0.3, 10)]
RETRY = 1.1  # chi^2 per degree of freedom of such a fit
ELSEWHERE = 0.03  # arcsec, or ellipticity: what is farther apart may be another minimum
#: radii tried, in units of the flux-weighted one; light of the lens galaxy draws that inwards
RADII, RADII_WITH_LIGHT = (0.8, 0.9, 1.0), (1.0, 1.4, 1.8)
#: the same when a first fit has left more than noise; the light of the lens galaxy is then known
OTHER_RADII, OTHER_RADII_WITH_LIGHT = (0.7, 0.8, 0.9, 1.0, 1.15, 1.3), np.geomspace(0.75, 2.25, 12)
#: px, of the source on the way to the minimum: not to be caught where a pixel meets its cusp
CORE = 0.6
PEAK = 2.5  # binned px, radius of the peak of a lens galaxy that a start does not look at
#: the profiles of the light of the lens galaxy: size in those units, Sérsic index and, among them,
#: amplitude. Two start as a halo and a core
LIGHT_STARTS = {0: (), 1: ((0.5, 3.0, 1.0),), 2: ((1.0, 1.0, 1.0), (0.3, 2.0, 8.0))}
#: how many of the best starts take how many steps before one is chosen; the same when a first fit
#: without lens light has left more than noise: some minima show themselves late
TRIALS, OTHER_TRIALS = (4, 6), (16, 12)


def _starts(problem: LensProblem, radius: Tensor, before: Tensor | None, count: int) -> Tensor:
    """Return the best (count, n, p) of some round sources, with the amplitudes that fit best.

    ``radius`` (n,) is flux-weighted, in arcsec. ``before`` (n, p) is what a first fit has found:
    the light of the lens galaxy is taken from there, and other places of the source are tried.
    """
    model = problem.model
    if before is None:
        positions, radii = POSITIONS, RADII_WITH_LIGHT if model.lens_light else RADII
    else:
        positions, radii = OTHERS, OTHER_RADII_WITH_LIGHT if model.lens_light else OTHER_RADII
    choices = torch.tensor([(r, *(r * x for x in place)) for r in radii for place in positions])
    values = torch.zeros(len(radius), len(choices), len(model.names), dtype=torch.float64)
    column = {name: values[:, :, k] for k, name in enumerate(model.names)}
    for name, factor in zip(("theta_E", "source_x", "source_y"), choices.T, strict=True):
        column[name][:] = radius[:, None] * factor
    column["source_R_sersic"][:] = torch.log(0.2 * column["theta_E"])
    column["source_n_sersic"][:] = math.log(1.2)
    for name in ("e1", "source_e1"):  # not 0, where the axes have no direction
        column[name][:] = 0.01
    lights = profiles(model.lens_light)
    for light, start in zip(lights, LIGHT_STARTS[model.lens_light], strict=True):
        _, _, R_sersic, n_sersic, amp = (column[row.name] for row in light)
        size, index, amplitude = start
        R_sersic[:] = torch.log(size * radius[:, None])
        n_sersic[:] = math.log(index)
        amp[:] = math.log(amplitude)
    if lights and before is not None:
        galaxy = model.columns([*CENTER, *(row for light in lights for row in light)])
        values[:, :, galaxy] = before[:, None, galaxy]
    # amplitudes that are fitted: of the source; of all light of the lens galaxy together
    amplitudes = [model.columns(SOURCE_PROFILE[-1:])]
    if lights:
        amplitudes.append(model.columns([light[-1] for light in lights]))
    best = []
    for i, candidates in enumerate(values):
        inverse = problem.inverse[i].flatten()
        data = problem.images[i].flatten() * inverse
        templates = [model.arcs(candidates).flatten(1) * inverse]
        if model.lens_light:
            both = model.image(candidates).flatten(1) * inverse
            templates.append(both - templates[0])
        # chi^2 is quadratic in the amplitudes: those that fit best, and what they take from chi^2
        T = torch.stack(templates, 1)  # (choices, amplitudes, pixels)
        normal, projected = T @ T.mT, T @ data
        normal.diagonal(dim1=1, dim2=2).add_(1e-12)
        amps = torch.linalg.solve(normal, projected).clamp(min=1e-6)
        curved = (amps[:, None] @ normal @ amps[..., None])[:, 0, 0]
        taken = 2 * (amps * projected).sum(1) - curved
        chosen = taken.topk(count).indices
        start = candidates[chosen].clone()
        for columns, amp in zip(amplitudes, amps[chosen].T, strict=True):
            start[:, columns] += torch.log(amp)[:, None]
        best.append(start)
    return torch.stack(best, 1)


@dataclass(frozen=True)
class Fits:
    """Smooth lenses fitted to n images; nothing that was not fitted has a value other than NaN.

    ``values`` and ``errors`` (n, p) are of the parameters ``names``, called as in the catalog:
    angles in arcsec, amplitudes and sky in the image's units per square arcsec. Errors are those
    of the curvature of chi^2. ``chi2`` (n,) is per degree of freedom, ``residual`` (n, size, size)
    float32 in units of the noise, 0 where nothing was fitted; ``lensed`` (n, size, size) tells
    where the fitted arcs are brighter than the noise of the sky, with the neighbouring pixels.
    ``flags`` are words of ``FLAGS``, separated by spaces; ``converged`` (n,) tells whether a
    minimum was found. ``perturbers`` (n, names) are the ``vitdm.lens.search.NAMES``. ``gain``
    is the photon noise that was assumed.
    """

    names: tuple[str, ...]
    values: NDArray
    errors: NDArray
    chi2: NDArray
    converged: NDArray
    flags: list[str]
    perturbers: NDArray
    residual: NDArray
    lensed: NDArray
    pixel_scale: float
    gain: float


def _fit(images: _Images, model: SmoothLens, gain: Tensor) -> dict[str, Tensor]:
    """Fit the smooth lens to images that show light; ``gain`` (n,) in units of their noise.

    Fits that leave more than noise may be local minima: they are tried again from other starts.
    """
    start = _coarse(images, model, gain)
    best = _refined(start.values, images, model, gain)
    rows = torch.nonzero(~(best["chi2"] < RETRY) | ~best["converged"])[:, 0]
    if not len(rows):
        return best
    before = best["values"][rows]
    other = _coarse(_select(images, rows), model, gain[rows], before)
    places = model.columns([*MASS, *SOURCE_POSITION])
    moved = (other.values - start.values[rows])[:, places].abs().amax(1)
    elsewhere = moved > ELSEWHERE
    rows = rows[elsewhere]
    if len(rows):
        values = other.values[elsewhere]
        again = _refined(values, _select(images, rows), model, gain[rows])
        better = again["chi2"] < best["chi2"][rows]
        for name, values in best.items():
            values[rows[better]] = again[name][better]
    return best


def _coarse(
    images: _Images,
    model: SmoothLens,
    gain: Tensor,
    before: Tensor | None = None,
) -> State:
    """Return the best fits to binned pixels; others than a first one, ``before`` (n, p)."""
    coarse = SmoothLens(
        model.camera.binned(2), model.lens_light, 2 * CORE * model.camera.pixel_scale
    )
    pooled = torch.nn.functional.avg_pool2d
    weight = 4 * pooled(images.good[:, None], 2)[:, 0]
    binned = pooled((images.data * images.good)[:, None], 2)[:, 0] * 4 / weight.clamp(min=1)
    if model.lens_light:  # its peak, badly sampled, would outweigh all arcs
        axis = torch.arange(weight.shape[-1]) - (weight.shape[-1] - 1) / 2
        weight = weight * (torch.hypot(axis[:, None], axis) > PEAK)
    problem = LensProblem(coarse, binned, weight, gain, images.clipped)
    bounds = Bounds(coarse.parameters, coarse.camera, start=True)
    count, steps = TRIALS if before is None or model.lens_light else OTHER_TRIALS
    trials = []
    for start in _starts(problem, images.radius, before, count):
        state = State.of(problem, bounds.inside(start))
        minimise(problem, state, bounds, steps, COARSE)
        trials.append(state)
    state = _best(trials)
    minimise(problem, state, bounds, MAX_STEPS // 2, COARSE)
    return state


def _refined(values: Tensor, images: _Images, model: SmoothLens, gain: Tensor) -> dict[str, Tensor]:
    """Return the fits to all pixels that start from ``values`` (n, p), and what is told of them."""
    softened = SmoothLens(model.camera, model.lens_light, CORE * model.camera.pixel_scale)
    problem = LensProblem(softened, images.data, images.good, gain, images.clipped)
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
    search, at_theta = search_of(model.camera), model.names.index("theta_E")
    source = tuple(1 + column for column in model.columns(SOURCE_POSITION))
    perturbers = [
        search(problem.linear(some, index), source, some[:, at_theta])
        for some, index in zip(
            state.values.split(model.chunk), rows.split(model.chunk), strict=True
        )
    ]
    arcs, residual = model.arcs(state.values), problem.residual(state.values, rows)
    return {
        "values": state.values,
        "errors": torch.where(bad, math.nan, variance.clamp(min=0).sqrt()),
        "bound": blocked.any(1),
        "chi2": state.chi2 / (images.good.flatten(1).sum(1) - len(model.names)).clamp(min=1),
        "converged": state.converged,
        "perturbers": torch.cat(perturbers),
        "residual": residual,
        "misfit": residual / problem.inverse.clamp(min=1e-6),  # not in units of the photon noise
        "brightness": model.image(state.values),
        "lensed": torch.nn.functional.max_pool2d((arcs > 1).float()[:, None], 3, 1, 1)[:, 0]
        * images.good,
    }


def _select(images: _Images, rows: Tensor) -> _Images:
    tensors = {k: v[rows] for k, v in vars(images).items() if isinstance(v, Tensor)}
    return replace(images, **tensors, flags=[images.flags[i] for i in rows])


def fit(
    images: ArrayLike, pixel_scale: float, settings: LensFit, gain: float | None = None
) -> Fits:
    """Fit a smooth lens to each image (n, H, W), of any real numbers in any unit, pixels square.

    ``pixel_scale`` is in arcsec. ``gain`` is the variance of the photon noise per brightness (1 for
    images in counts); default: that of the settings, or ``estimate_gain`` of these images.
    InputError for anything but a stack of images.
    """
    images = _checked(images, pixel_scale)
    if gain is None:
        gain = settings.gain
    if gain is None:
        gain = estimate_gain(images, pixel_scale, settings)
    camera = Camera.of(settings.size, pixel_scale, settings.psf_fwhm, settings.psf_truncation)
    model = SmoothLens(camera, settings.n_lights)
    batches = [
        _fit_batch(images[start : start + settings.batch], model, settings, gain)
        for start in range(0, len(images), settings.batch)
    ]
    parts = {name: np.concatenate([part[name] for part in batches]) for name in batches[0]}
    return Fits(
        names=model.names,
        flags=parts.pop("flags").tolist(),
        **parts,
        pixel_scale=pixel_scale,
        gain=float(gain),
    )


def _checked(images: ArrayLike, pixel_scale: float) -> NDArray[np.float32]:
    images = np.asarray(images)
    if images.ndim != 3 or 0 in images.shape or images.dtype.kind not in "buif":
        raise InputError(
            f"images: found an array of shape {images.shape} and type {images.dtype}; "
            "expected real numbers (n, height, width)"
        )
    if not (math.isfinite(pixel_scale) and pixel_scale > 0):
        raise InputError(f"pixel_scale: found {pixel_scale}; expected arcsec per pixel, above 0")
    return images.astype(np.float32)


def modelled(fits: Fits, settings: LensFit) -> tuple[NDArray, NDArray]:
    """Return the images (n, size, size) of the fitted lenses, and their arcs alone.

    In the units of the images that were fitted, before any noise was cut at zero, on a level sky
    even if that of the image had a slope; NaN where nothing was fitted. ``settings`` are those of
    the fit.
    """
    camera = Camera.of(settings.size, fits.pixel_scale, settings.psf_fwhm, settings.psf_truncation)
    model = SmoothLens(camera, settings.n_lights, dtype=torch.float64)
    values = torch.tensor(fits.values)
    logarithms = [row.logarithmic for row in model.parameters]
    values[:, logarithms] = torch.log(values[:, logarithms])
    return model.image(values).numpy(), model.arcs(values).numpy()


def _fit_batch(
    images: NDArray, model: SmoothLens, settings: LensFit, gain: float
) -> dict[str, NDArray]:
    """Fit a batch (k, H, W); the entries of ``Fits`` that have a row for each image."""
    prepared = _prepare(images, model.camera.pixel_scale, settings)
    k, p, size = len(images), len(model.names), model.camera.size
    at_theta = model.names.index("theta_E")
    values, errors = np.full((2, k, p), math.nan)
    chi2, converged = np.full(k, math.nan), np.zeros(k, bool)
    perturbers = np.full((k, len(NAMES)), math.nan)
    residual, lensed = np.zeros((k, size, size), np.float32), np.zeros((k, size, size), bool)
    seen = torch.isfinite(prepared.radius)
    if seen.any():
        rows = torch.nonzero(seen)[:, 0]
        fitted = _fit(_select(prepared, rows), model, gain / prepared.unit[rows])
        values[rows], errors[rows] = _natural(fitted, model, _select(prepared, rows))
        rows = rows.numpy()
        chi2[rows], converged[rows] = fitted["chi2"], fitted["converged"]
        residual[rows], lensed[rows] = fitted["residual"], fitted["lensed"] > 0
        perturbers[rows] = fitted["perturbers"]
        for row, at_bound in zip(rows, fitted["bound"], strict=True):
            flags = prepared.flags[row]
            theta_E, error = values[row, at_theta], errors[row, at_theta]
            source = np.hypot(*values[row, model.columns(SOURCE_POSITION)])
            flags += ["not_converged"] * int(not converged[row])
            flags += ["bound"] * int(at_bound)
            sure = theta_E > 2 * model.camera.pixel_scale and error < 0.1 * theta_E
            flags += ["no_ring"] * int(not sure or source > theta_E)
            flags += ["poor"] * int(not chi2[row] < POOR)
    flags = np.array([" ".join(words) for words in prepared.flags], dtype=object)
    return {
        "values": values,
        "errors": errors,
        "chi2": chi2,
        "converged": converged,
        "flags": flags,
        "perturbers": perturbers,
        "residual": residual,
        "lensed": lensed,
    }


def _natural(
    fitted: dict[str, Tensor], model: SmoothLens, images: _Images
) -> tuple[NDArray, NDArray]:
    """Return values and errors (k, p) in the units of the images, and without logarithms."""
    values, errors = fitted["values"].clone(), fitted["errors"].clone()
    for k, row in enumerate(model.parameters):
        if row.logarithmic:
            values[:, k] = torch.exp(values[:, k])
            errors[:, k] *= values[:, k]
        if row.unit == BRIGHTNESS:
            values[:, k] *= images.unit
            errors[:, k] *= images.unit
        if row in SKY:
            values[:, k] += images.sky / model.camera.pixel_scale**2
    return values.numpy(), errors.numpy()


def settings_for(population: Population, settings: LensFit) -> LensFit:
    """Return the settings with what a population tells: PSF, photon noise, light of the lens."""
    instrument = population.instrument
    known = {
        "psf_fwhm": instrument.psf_fwhm,
        "psf_truncation": instrument.psf_truncation,
        "lens_light": population.lens_light is not None,
    }
    if instrument.output == "counts" and instrument.noise != "none" and not population.eight_bit:
        known["gain"] = {"single": 1.0, "double_poisson": 2.0}[instrument.noise]
    return settings.model_copy(update=known)


def estimate_gain(images: ArrayLike, pixel_scale: float, settings: LensFit) -> float:
    """Return the variance of the photon noise per brightness that images (n, H, W) show.

    The median, over the images that a smooth lens fits, of what the roughness of their residuals
    tells (``photon_noise``), after two rounds of fits; 0 if no image shows light.
    """
    images = _checked(images, pixel_scale)
    camera = Camera.of(settings.size, pixel_scale, settings.psf_fwhm, settings.psf_truncation)
    model = SmoothLens(camera, settings.n_lights)
    prepared = _prepare(images, pixel_scale, settings)
    rows = torch.nonzero(torch.isfinite(prepared.radius))[:, 0]
    if not len(rows):
        return 0.0
    prepared = _select(prepared, rows)
    smooth = np.array([cv2.GaussianBlur(image, (0, 0), 1.0) for image in prepared.data.numpy()])
    smooth = torch.from_numpy(smooth)
    gain = photon_noise(prepared.data - smooth, smooth, settings.noise_lag) * prepared.unit
    for _ in range(2):
        middle = gain.median().item()
        fitted = _fit(prepared, model, middle / prepared.unit)
        gain = (
            photon_noise(fitted["misfit"], fitted["brightness"], settings.noise_lag) * prepared.unit
        )
        gain = gain[fitted["chi2"] <= max(POOR, fitted["chi2"].median().item())]
    return gain.median().item()
