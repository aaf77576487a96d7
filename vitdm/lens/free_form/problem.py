"""All that the last inversion of a fit needs, for what starts from it: searches and refits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vitdm.lens.free_form.inversion import Prior
from vitdm.lens.free_form.mass import SMOOTH, MassModel
from vitdm.lens.free_form.posterior import Frame, Point, Posterior, climb
from vitdm.lens.free_form.source import Mesh
from vitdm.lens.free_form.start import Box, MassPrior, posterior_of, rays
from vitdm.lens.free_form.view import Scene, View

TOLERANCE = 0.5  # of ln P that a step may still gain: that of one standard deviation


@dataclass(frozen=True, eq=False)
class Problem:
    """A fitted lens as a linear problem: the mass ``values`` (p,) at which its source is solved.

    ``fitted`` (H, W) are the pixels of a ``scene`` that are fitted, ``error`` (H, W) their noise
    with the errors of the model, ``samples`` (H, W) into how many parts each is divided along both
    axes; ``prior`` is that of the mass, of which ``mass`` tells the model; ``mesh`` and
    ``source_prior`` belong to the source.
    """

    scene: Scene
    fitted: NDArray
    error: NDArray
    samples: NDArray
    prior: MassPrior
    values: NDArray
    mesh: Mesh
    source_prior: Prior
    mass: MassModel = SMOOTH

    @cached_property
    def view(self) -> View:
        """The fitted pixels."""
        return View(self.scene, self.fitted, self.error, samples=self.samples)

    @cached_property
    def posterior(self) -> Posterior:
        """The posterior of the mass; the box of the source follows it."""
        posterior = posterior_of(self.view, self.prior, mass=self.mass)
        x, y = rays(self.view, self.values, self.mass)
        posterior.frame = Frame(self.mesh, Box(self.view).weight, x, y)
        return posterior

    @cached_property
    def point(self) -> Point:
        """The source and the light of the lens galaxy that are most probable, and the evidence."""
        return self.posterior.at(self.values, self.mesh, self.source_prior)

    def seeing(self, data: NDArray) -> Problem:
        """Return the problem of another image (H, W) of the same scene."""
        return replace(self, scene=replace(self.scene, data=data))

    def of_mass(self, mass: MassModel, prior: MassPrior, values: NDArray) -> Problem:
        """Return the problem of a mass of another model; the box of the source follows it."""
        mesh = self.posterior.frame.mesh(self.mesh, *rays(self.view, values, mass))
        return replace(self, mass=mass, prior=prior, values=values, mesh=mesh)

    def log_evidence(self) -> float:
        """Return ln P, integrated over what is free of the mass in Laplace's approximation.

        It holds at the most probable mass. What has no prior counts as if its s.d. were ``WIDE``.
        """
        posterior = self.posterior
        _, curvature = posterior.derivatives(self.point)
        occam = np.log(posterior.precision[posterior.free]).sum() - np.linalg.slogdet(curvature)[1]
        return self.point.log_probability + float(occam) / 2

    def refitted(self, steps: int = 10, tolerance: float = TOLERANCE) -> tuple[Problem, bool]:
        """Return the problem at the mass that is most probable, and whether it was reached.

        The climb starts at ``values``; the prior of the source is chosen anew before and after it.
        """
        posterior = self.posterior
        point = posterior.best_prior(self.point)
        point, reached = climb(posterior, point, self.mass.largest_step, steps, tolerance)
        point = posterior.best_prior(point)
        solution = point.solution
        mesh, prior = solution.inversion.mesh, solution.prior
        return replace(self, values=point.values, mesh=mesh, source_prior=prior), reached
