r"""The probability of a mass, whatever the source and the light of the lens galaxy may be.

:math:`\ln P(p) = \ln E(p) - \frac12 \sum (p - \bar p)^2 / \sigma^2`, E the evidence of
``inversion``: source and light are integrated out, not only fitted. It is climbed by
Levenberg-Marquardt steps with its exact gradient and the curvature of variable projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import NDArray

from vitdm.lens.free_form.inversion import Inversion, Prior, Solution
from vitdm.lens.free_form.mass import SMOOTH, MassModel
from vitdm.lens.free_form.optics import Optics
from vitdm.lens.free_form.source import Mesh

TRUSTED = 0.4, 10.0  # of the curvature of variable projection, that a learned one may be
KINK = 5.0  # of ln P that is left where steps of any size lower it
KAPPA = 5.0  # from which the prior's is looked for, beside the last one
BALANCED = 3  # steps to the strength that belongs to it
KAPPAS = 0.2, 60.0  # of the prior: from the length of the box to that of a cell
FARTHEST = 4.0  # standard deviations of a parameter's prior that a fit may go
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


class Frame:
    """How the box of a source follows the rays of the arcs, as the mass changes.

    A mass that magnifies more makes all sources smaller. Were the box fixed, such masses would be
    preferred, for a small source fits into the middle of any box. So its middle moves with the mean
    of the rays ``weight`` (rays,) that meet the source plane near it at ``x``, ``y``, and its width
    with their scatter.
    """

    def __init__(self, mesh: Mesh, weight: NDArray, x: NDArray, y: NDArray) -> None:
        near = np.hypot(x - mesh.center[0], y - mesh.center[1]) < mesh.half_width
        weight = weight * near
        self.weight = weight / max(weight.sum(), 1e-300)
        self.mean, self.scatter = self._moments(x, y)
        self.center, self.half_width = np.array(mesh.center), mesh.half_width

    def _moments(self, x: NDArray, y: NDArray) -> tuple[NDArray, float]:
        mean = np.array([self.weight @ x, self.weight @ y])
        return mean, math.sqrt(self.weight @ ((x - mean[0]) ** 2 + (y - mean[1]) ** 2))

    def mesh(self, mesh: Mesh, x: NDArray, y: NDArray) -> Mesh:
        """Return a mesh in the box that belongs to rays at x, y (rays,)."""
        if not self.scatter > 0:
            return mesh
        mean, scatter = self._moments(x, y)
        # in this order the box of the same rays is the same to the last bit
        center = self.center + (mean - self.mean)
        half_width = self.half_width * (scatter / self.scatter)
        return replace(mesh, center=(float(center[0]), float(center[1])), half_width=half_width)

    def slopes(self, by: NDArray, mesh: Mesh, x: NDArray, y: NDArray) -> NDArray:
        """Return derivatives (p, 2, rays) of the rays' places, as seen from the moving box."""
        if not self.scatter > 0:
            return by
        mean, scatter = self._moments(x, y)
        off = np.array([x - mean[0], y - mean[1]])
        of_center = by @ self.weight
        of_width = np.einsum("pkr,kr->p", by, self.weight * off) / scatter**2  # of ln half width
        place = np.array([x - mesh.center[0], y - mesh.center[1]])
        return by - of_center[:, :, None] - of_width[:, None, None] * place


class Posterior:
    """ln P of a mass (p,), given pixels (N,) of an image and their noise.

    ``light`` (N, k) are components of the lens galaxy, as seen through the PSF, with a normal prior
    of ``light_mean`` and ``light_sd`` (k,); ``mean`` and ``sd`` (p,) are those of the mass (sd: inf
    for none, 0 for what is not free). With a ``frame`` the box of a mesh follows the mass.
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
        frame: Frame | None = None,
        mass: MassModel = SMOOTH,
    ) -> None:
        self.frame, self.mass = frame, mass
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
        x, y = np.array([o.x, o.y]) - self.mass.deflection(values, o.x, o.y)
        mesh = self.frame.mesh(mesh, x, y) if self.frame else mesh
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

    def inside(self, values: NDArray, step: NDArray) -> NDArray:
        """Return the values (p,) after a step (f,) of what is free, as far as the prior reaches."""
        values = values.copy()
        values[self.free] += step
        far = FARTHEST / np.sqrt(self.precision[self.free])
        mean = self.mean[self.free]
        values[self.free] = np.clip(values[self.free], mean - far, mean + far)
        return values

    def derivatives(self, point: Point) -> tuple[NDArray, NDArray]:
        """Return the gradient (f,) of ln P by what is free, and its negative curvature (f, f)."""
        o, s = self.optics, point.solution
        mesh, free = s.inversion.mesh, self.free
        _, by = self.mass.deflection_and_derivatives(point.values, o.x, o.y)
        by = -by[free]  # of the places in the source plane
        if self.frame:
            by = self.frame.slopes(by, mesh, point.x, point.y)
        _, along_x, along_y = mesh.gradient(s.source, point.x, point.y)
        J = o.seen(along_x * by[:, 0] + along_y * by[:, 1]) * self.weight
        G = s.inversion.matrix @ s.covariance()
        pull = o.pull(mesh, point.x, point.y, self.weight, G[:, : mesh.size])
        gradient = J @ s.residual - np.einsum("pkr,kr->p", by, pull)
        gradient -= (self.precision * (point.values - self.mean))[free]
        curvature = s.projected_curvature(J.T) + np.diag(self.precision[free])
        return gradient, curvature

    def best_prior(self, point: Point) -> Point:
        """Return the point with the strength and length of the source's prior of most evidence."""
        inversion, start = point.solution.inversion, point.solution.prior

        def prior_of(logs: NDArray) -> Prior:
            # strength / kappa^(2 nu) is what small scales feel: it hardly depends on kappa
            kappa = math.exp(logs[1])
            strength = math.exp(logs[0] + 2 * start.nu * logs[1])
            return replace(start, strength=strength, kappa=kappa)

        def against(logs: NDArray) -> tuple[float, NDArray]:
            solution = inversion.solve(prior_of(logs))
            by_strength, by_kappa = solution.prior_gradient()
            gradient = np.array([by_strength, by_kappa + 2 * start.nu * by_strength])
            return -solution.evidence, -gradient

        options = {"maxiter": 10, "ftol": 1e-7, "gtol": 0.3, "maxls": 8}
        tried = []
        # there may be two maxima: a source without a length, and one with it
        for kappa in (start.kappa, KAPPA):
            strength = start.strength * (kappa / start.kappa) ** (2 * start.nu)
            prior = replace(start, strength=strength, kappa=kappa)
            for _ in range(BALANCED):
                prior = replace(prior, strength=inversion.solve(prior).balanced_strength())
            first = np.array(
                [math.log(prior.strength) - 2 * start.nu * math.log(kappa), math.log(kappa)]
            )
            within = [(first[0] - 12, first[0] + 12), np.log(KAPPAS)]
            tried.append(
                scipy.optimize.minimize(
                    against, first, method="L-BFGS-B", jac=True, bounds=within, options=options
                )
            )
        found = min(tried, key=lambda result: result.fun)
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

    ``largest`` (p,) are the largest steps. It is reached when a step gains, or an undamped one
    would gain, less than ``tolerance`` in ln P. What the curvature of variable projection lacks is
    learned from the gradients on the way (Dennis, Gay & Welsch 1981, ACM Trans. Math. Softw. 7,
    348).
    """
    damping, free = 1e-3, posterior.free
    gradient, curvature = posterior.derivatives(point)
    lacking = np.zeros_like(curvature)
    for _ in range(steps):
        whole = _bounded(curvature + lacking, curvature)
        left = gradient @ np.linalg.solve(whole, gradient) / 2
        if left < tolerance:
            return point, True
        step = np.linalg.solve(whole + damping * np.diag(curvature.diagonal()), gradient)
        step /= max(1.0, np.abs(step / largest[free]).max())
        values = posterior.inside(point.values, step)
        moved = values[free] - point.values[free]
        solution = point.solution
        trial = _allowed(posterior, values, solution)
        if trial is None or trial.log_probability <= point.log_probability:
            damping = max(damping, 1e-3) * 4
            if damping > 1 and left < KINK:  # rays that enter the box make small kinks
                return point, True
            if damping > 1e4:
                return point, False
            if trial is not None:  # a step too far tells how the gradient changes, too
                there, _ = posterior.derivatives(trial)
                lacking = _learned(lacking, moved, gradient - there, curvature)
            continue
        gain = trial.log_probability - point.log_probability
        point, damping = trial, max(damping * 0.2, 1e-6)
        progress(point)
        if gain < tolerance:
            return point, True
        before = gradient
        gradient, curvature = posterior.derivatives(point)
        lacking = _learned(lacking, moved, before - gradient, curvature)
    return point, False


def _allowed(posterior: Posterior, values: NDArray, solution: Solution) -> Point | None:
    """Return the point of other values; None if no lens has them."""
    if not posterior.mass.allowed(values):
        return None
    return posterior.at(values, solution.inversion.mesh, solution.prior)


def _bounded(whole: NDArray, curvature: NDArray) -> NDArray:
    """Return a curvature within some factors of another, positive one, in all directions."""
    ratios, vectors = scipy.linalg.eigh(whole, curvature)
    turned = curvature @ vectors
    return (turned * np.clip(ratios, *TRUSTED)) @ turned.T


def _learned(lacking: NDArray, step: NDArray, change: NDArray, curvature: NDArray) -> NDArray:
    """Return what a curvature lacks to explain by a ``step`` the ``change`` of the gradient."""
    along = change @ step
    if along <= 0:
        return np.zeros_like(lacking)
    wanted = change - curvature @ step
    now = step @ lacking @ step
    if now:  # an old lack that is too large is reduced first
        lacking = lacking * min(1.0, abs(step @ wanted) / abs(now))
    left = wanted - lacking @ step
    outer = np.outer(left, change)
    return lacking + (outer + outer.T) / along - left @ step * np.outer(change, change) / along**2
