r"""The probability of a mass, whatever the source and the light of the lens galaxy may be.

:math:`\ln P(p) = \ln E(p) - \frac12 \sum (p - \bar p)^2 / \sigma^2`, E the evidence of
``inversion``: source and light are integrated out, not only fitted. It is climbed by
Levenberg-Marquardt steps with its exact gradient and the curvature of variable projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import NDArray

from vitdm.lens.free_form.inversion import Inversion, Prior, Solution
from vitdm.lens.free_form.mass import deflection, deflection_and_derivatives
from vitdm.lens.free_form.optics import Optics
from vitdm.lens.free_form.source import Mesh

WIDE = 1e3  # s.d. of what has no prior


@dataclass(frozen=True, eq=False)
class Point:
    """A mass and what it makes of the data: its ``values`` (p,) and ln of their probability.

    ``x`` and ``y`` (rays,) ["] are where the rays meet the source plane.
    """

    values: NDArray
    log_probability: float
    solution: Solution
    x: NDArray
    y: NDArray

    @property
    def chi2(self) -> float:
        """The mean square of the residual, in units of the noise."""
        return self.solution.chi2 / len(self.solution.residual)


class Posterior:
    """ln P of a mass (p,), given pixels (N,) of an image and their noise.

    ``light`` (N, k) are components of the lens galaxy, as seen through the PSF, with a normal prior
    of ``light_mean`` and ``light_sd`` (k,); ``mean`` and ``sd`` (p,) are those of the mass (sd: inf
    for none, 0 for what is not free).
    """

    def __init__(
        self,
        optics: Optics,
        data: NDArray,
        noise: NDArray,
        light: NDArray,
        light_mean: NDArray,
        light_sd: NDArray,
        mean: NDArray,
        sd: NDArray,
    ) -> None:
        self.optics, self.weight = optics, 1 / noise
        self.data, self.light = data * self.weight, light * self.weight[:, None]
        self.light_mean, self.light_precision = light_mean, light_sd**-2.0
        self.log_weight = 2 * float(np.log(self.weight).sum())
        self.mean, self.free = mean, np.flatnonzero(sd > 0)
        # no prior is a wide one: an image without arcs would leave the curvature singular
        self.precision = np.where(sd > 0, np.minimum(sd, WIDE), math.inf) ** -2.0

    def inversion(self, values: NDArray, mesh: Mesh) -> tuple[Inversion, NDArray]:
        """Return the linear problem of a mass, and where (2, rays) the rays meet the source."""
        o = self.optics
        x, y = np.array([o.x, o.y]) - deflection(values, o.x, o.y)
        matrix = np.hstack([o.matrix(mesh, x, y, self.weight), self.light])
        inversion = Inversion(
            *(matrix, self.data, mesh, self.light_mean, self.light_precision, self.log_weight)
        )
        return inversion, np.array([x, y])

    def at(self, values: NDArray, mesh: Mesh, prior: Prior) -> Point:
        """Return the point of a mass."""
        inversion, (x, y) = self.inversion(values, mesh)
        return self.point(values, inversion.solve(prior), x, y)

    def point(self, values: NDArray, solution: Solution, x: NDArray, y: NDArray) -> Point:
        penalty = float(self.precision @ (values - self.mean) ** 2) / 2
        return Point(values, solution.evidence - penalty, solution, x, y)

    def derivatives(self, point: Point) -> tuple[NDArray, NDArray]:
        """Return the gradient (f,) of ln P by what is free, and its negative curvature (f, f)."""
        o, s = self.optics, point.solution
        mesh, free = s.inversion.mesh, self.free
        _, by = deflection_and_derivatives(point.values, o.x, o.y)
        by = -by[free]  # of the places in the source plane
        _, along_x, along_y = mesh.gradient(s.source, point.x, point.y)
        J = o.seen(along_x * by[:, 0] + along_y * by[:, 1]) * self.weight
        G = scipy.linalg.cho_solve((s.root, True), s.inversion.matrix.T, check_finite=False).T
        pull = o.pull(mesh, point.x, point.y, self.weight, G[:, : mesh.size])
        gradient = J @ s.residual - np.einsum("pkr,kr->p", by, pull)
        gradient -= (self.precision * (point.values - self.mean))[free]
        curvature = s.projected_curvature(J.T) + np.diag(self.precision[free])
        return gradient, curvature

    def best_prior(self, point: Point, nu: float | None = None) -> Point:
        """Return the point with the strength and length of the source's prior of most evidence."""
        inversion, start = point.solution.inversion, point.solution.prior

        def prior_of(logs: NDArray) -> Prior:
            strength, kappa = np.exp(logs)
            return Prior(float(strength), float(kappa), start.nu)

        def against(logs: NDArray) -> float:
            if not 0.2 < math.exp(logs[1]) < 60:
                return math.inf
            return -inversion.solve(prior_of(logs)).evidence

        first = np.log([start.strength, start.kappa])
        simplex = first + np.array([[0, 0], [1.0, 0], [0, 0.5]])
        options = {"initial_simplex": simplex, "xatol": 0.1, "fatol": 0.5, "maxfev": 40}
        found = scipy.optimize.minimize(against, first, method="Nelder-Mead", options=options)
        solution = inversion.solve(prior_of(found.x))
        return self.point(point.values, solution, point.x, point.y)


def climb(
    posterior: Posterior,
    point: Point,
    largest: NDArray,
    steps: int,
    tolerance: float,
    progress: Callable[[Point], None] = lambda point: None,
) -> tuple[Point, bool]:
    """Take steps up to the most probable mass; return it, and whether it was reached.

    ``largest`` (p,) are the largest steps. It is reached when an undamped step would gain less than
    ``tolerance`` in ln P.
    """
    damping, free = 1e-3, posterior.free
    gradient, curvature = posterior.derivatives(point)
    for _ in range(steps):
        undamped = np.linalg.solve(curvature, gradient)
        if undamped @ gradient / 2 < tolerance:
            return point, True
        scale = np.diag(curvature.diagonal())
        step = np.linalg.solve(curvature + damping * scale, gradient)
        step /= max(1.0, np.abs(step / largest[free]).max())
        values = point.values.copy()
        values[free] += step
        s = point.solution
        trial = posterior.at(values, s.inversion.mesh, s.prior)
        if trial.log_probability > point.log_probability:
            gain = trial.log_probability - point.log_probability
            point, damping = trial, max(damping * 0.2, 1e-6)
            progress(point)
            if gain < tolerance:
                return point, True
            gradient, curvature = posterior.derivatives(point)
        else:
            damping = max(damping, 1e-3) * 8
            if damping > 1e4:
                return point, False
    return point, False
