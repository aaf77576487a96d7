"""Levenberg-Marquardt steps for many sums of squares at once, within bounds.

Marquardt (1963), doi:10.1137/0111030; the normal equations come from the problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vitdm.lens.model import Camera
from vitdm.lens.parameters import Pair, Parameter

MAX_STEPS = 30  # on all pixels; half as many on binned ones
CONVERGED = 0.02  # what the next step may still gain in chi^2: a tenth of an error bar
KINK = 0.5  # the same where steps of any size raise chi^2


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


def best_of(states: list[State]) -> State:
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
