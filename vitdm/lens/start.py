"""Where a fit of a smooth lens starts: the best of many round lenses on binned pixels."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vitdm.lens.minimise import MAX_STEPS, Bounds, State, best_of, minimise
from vitdm.lens.model import SmoothLens
from vitdm.lens.parameters import (
    CENTER,
    LIGHT_POSITION,
    MASS,
    SOURCE_POSITION,
    SOURCE_PROFILE,
    profiles,
)
from vitdm.lens.problem import LensProblem
from vitdm.lens.squares import Squares

COARSE = 0.5  # what a step on binned pixels may still gain in chi^2: half an error bar


def _circle(radius: float, n: int) -> list[tuple[float, float]]:
    angles = 2 * math.pi / n * np.arange(n)
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


#: where the source may be, in units of theta_E: the middle, and two circles around it
POSITIONS = [(0.0, 0.0), *_circle(0.12, 6), *_circle(0.28, 8)]
#: the same when the first fit has left more than noise
OTHERS = [(0.0, 0.0), *_circle(0.15, 6), *_circle(0.3, 10)]
#: radii tried, in units of the flux-weighted one; light of the lens galaxy draws that inwards
RADII, RADII_WITH_LIGHT = (0.8, 0.9, 1.0), (1.0, 1.4, 1.8)
#: the same when a first fit has left more than noise; the light of the lens galaxy is then known
OTHER_RADII, OTHER_RADII_WITH_LIGHT = (0.7, 0.8, 0.9, 1.0, 1.15, 1.3), np.geomspace(0.75, 2.25, 12)
#: px, of the source on the way to the minimum: not to be caught where a pixel meets its cusp
CORE = 0.6
TIED = 1e-3  # arcsec, prior of the light of a lens galaxy about the mass, on the way
PEAK = 2.5  # binned px, radius of the peak of a lens galaxy that a start does not look at
#: the profiles of the light of the lens galaxy: size in those units, Sérsic index and, among them,
#: amplitude. Two start as a halo and a core
LIGHT_STARTS = {0: (), 1: ((0.5, 3.0, 1.0),), 2: ((1.0, 1.0, 1.0), (0.3, 2.0, 8.0))}
#: how many of the best starts take how many steps before one is chosen; the same when a first fit
#: without lens light has left more than noise: some minima show themselves late
TRIALS, OTHER_TRIALS = (4, 6), (16, 12)


def _starts(problem: LensProblem, squares: Squares, before: Tensor | None, count: int) -> Tensor:
    """Return the best (count, n, p) of some round sources, with the amplitudes that fit best.

    ``before`` (n, p) is what a first fit has found:
    the light of the lens galaxy is taken from there, and other places of the source are tried.
    """
    model, radius = problem.model, squares.radius
    if before is None:
        positions, radii = POSITIONS, RADII_WITH_LIGHT if model.lens_light else RADII
    else:
        positions, radii = OTHERS, OTHER_RADII_WITH_LIGHT if model.lens_light else OTHER_RADII
    choices = torch.tensor(
        [(r, *(r * x for x in place)) for r in radii for place in positions], dtype=torch.float64
    )
    values = torch.zeros(len(radius), len(choices), len(model.names), dtype=torch.float64)
    column = {name: values[:, :, k] for k, name in enumerate(model.names)}
    for name, factor in zip(("theta_E", "source_x", "source_y"), choices.T, strict=True):
        column[name][:] = radius[:, None] * factor
    for name, middle in zip(("center_x", "center_y"), squares.center.T, strict=True):
        column[name][:] = middle[:, None]
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
        known = [*CENTER, *LIGHT_POSITION, *(row for light in lights for row in light)]
        galaxy = model.columns(known)
        values[:, :, galaxy] = before[:, None, galaxy]
    # amplitudes that are fitted: of the source; of all light of the lens galaxy together
    amplitudes = [model.columns(SOURCE_PROFILE[-1:])]
    if lights:
        amplitudes.append(model.columns([light[-1] for light in lights]))
    best = []
    for i, candidates in enumerate(values):
        if before is not None and torch.isfinite(squares.circle[i]).all():
            candidates = torch.cat(
                [candidates, _around(squares.circle[i], choices, candidates, model)]
            )
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
        taken = 2 * (amps * projected).sum(1) - curved - problem.penalty(candidates)
        chosen = taken.topk(count).indices
        start = candidates[chosen].clone()
        for columns, amp in zip(amplitudes, amps[chosen].T, strict=True):
            start[:, columns] += torch.log(amp)[:, None]
        best.append(start)
    return torch.stack(best, 1)


def _around(circle: Tensor, choices: Tensor, candidates: Tensor, model: SmoothLens) -> Tensor:
    """Return the candidates (k, p) at another centre and of another radius: x, y, radius ["]."""
    x, y, radius = circle
    moved = candidates.clone()
    for row, value in zip(
        (*CENTER, MASS[0], *SOURCE_POSITION), (x, y, *(radius * choices).T), strict=True
    ):
        moved[:, model.columns([row])[0]] = value
    moved[:, model.columns(SOURCE_PROFILE[2:3])] = torch.log(0.2 * radius * choices[:, :1])
    return moved


def coarse_fit(
    squares: Squares,
    model: SmoothLens,
    precision: Tensor,
    before: Tensor | None = None,
) -> State:
    """Return the best fits to binned pixels; others than a first one, ``before`` (n, p)."""
    coarse = SmoothLens(
        model.camera.binned(2), model.lens_light, 2 * CORE * model.camera.pixel_scale
    )
    good = squares.good
    weight = 4 * _pooled(good)
    share = weight.clamp(min=1) / 4
    binned = _pooled(squares.data * good) / share
    variance = _pooled(squares.variance * good) / share + (weight == 0)
    if model.lens_light:  # its peak, badly sampled, would outweigh all arcs
        x, y = coarse.camera.axes()
        dx, dy = (
            axis - middle[:, None] for axis, middle in zip((x, y), squares.center.T, strict=True)
        )
        distance = torch.hypot(dy[:, :, None], dx[:, None]) / coarse.camera.pixel_scale
        weight = weight * (distance > PEAK)
    precision = precision.clone()
    precision[model.columns(LIGHT_POSITION if model.lens_light else ())] = TIED**-2
    problem = LensProblem(
        coarse, binned, weight, squares.gain, squares.clipped, variance, precision
    )
    bounds = Bounds(coarse.parameters, coarse.camera, start=True)
    count, steps = TRIALS if before is None or model.lens_light else OTHER_TRIALS
    trials = []
    for start in _starts(problem, squares, before, count):
        state = State.of(problem, bounds.inside(start))
        minimise(problem, state, bounds, steps, COARSE)
        trials.append(state)
    state = best_of(trials)
    minimise(problem, state, bounds, MAX_STEPS // 2, COARSE)
    return state


def _pooled(images: Tensor) -> Tensor:
    """Return the means of 2 x 2 pixels."""
    return torch.nn.functional.avg_pool2d(images[:, None], 2)[:, 0]
