"""All that the last inversion of a fit needs, for what starts from it: searches and refits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from numpy.typing import NDArray

from vitdm.lens.free_form.inversion import Prior
from vitdm.lens.free_form.posterior import Frame, Point, Posterior, climb
from vitdm.lens.free_form.source import Mesh
from vitdm.lens.free_form.start import LARGEST_STEP, Box, MassPrior, posterior_of, rays
from vitdm.lens.free_form.view import Scene, View

TOLERANCE = 0.5  # of ln P that a step may still gain: that of one standard deviation


@dataclass(frozen=True, eq=False)
class Problem:
    """A fitted lens as a linear problem: the mass ``values`` (p,) at which its source is solved.

    ``fitted`` (H, W) are the pixels of a ``scene`` that are fitted, ``error`` (H, W) their noise
    with that of the model, ``samples`` (H, W) into how many parts each is divided along both axes;
    ``prior`` is that of the mass, ``mesh`` and ``source_prior`` belong to the source.
    """

    scene: Scene
    fitted: NDArray
    error: NDArray
    samples: NDArray
    prior: MassPrior
    values: NDArray
    mesh: Mesh
    source_prior: Prior

    @cached_property
    def view(self) -> View:
        """The fitted pixels."""
        return View(self.scene, self.fitted, self.error, samples=self.samples)

    @cached_property
    def posterior(self) -> Posterior:
        """The posterior of the mass; the box of the source follows it."""
        posterior = posterior_of(self.view, self.prior)
        x, y = rays(self.view, self.values)
        posterior.frame = Frame(self.mesh, Box(self.view).weight, x, y)
        return posterior

    @cached_property
    def point(self) -> Point:
        """The source and the light of the lens galaxy that are most probable, and the evidence."""
        return self.posterior.at(self.values, self.mesh, self.source_prior)

    def seeing(self, data: NDArray) -> Problem:
        """Return the problem of another image (H, W) of the same scene."""
        return replace(self, scene=replace(self.scene, data=data))

    def refitted(self, steps: int = 10) -> tuple[Problem, bool]:
        """Return the problem at the mass that is most probable, and whether it was reached.

        The climb starts at ``values``; the prior of the source is chosen anew before and after it.
        """
        posterior = self.posterior
        point = posterior.best_prior(self.point)
        point, reached = climb(posterior, point, LARGEST_STEP, steps, TOLERANCE)
        point = posterior.best_prior(point)
        solution = point.solution
        mesh, prior = solution.inversion.mesh, solution.prior
        return replace(self, values=point.values, mesh=mesh, source_prior=prior), reached
