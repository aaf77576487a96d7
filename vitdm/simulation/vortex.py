"""A vortex in a condensate of axion-like particles: a straight string of point masses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from vitdm.bounds import MOST_CLUMPS
from vitdm.simulation.compensation import compensated
from vitdm.simulation.cosmology import Cosmology, mass_within
from vitdm.simulation.priors import Mass, Part, Position, Positive, either, quirk
from vitdm.simulation.system import System

if TYPE_CHECKING:
    from vitdm.simulation.population import Population


class Vortex(Part):
    """A straight string of equal point masses."""

    mass: Mass | None = Field(None, description="solar masses")
    mass_fraction: Positive | None = Field(None, description="as a fraction of the halo's mass")
    axion_mass: Positive | None = Field(
        None, description='eV; the length is then 0.06" (1e-22 eV / axion_mass)'
    )
    length: Positive | None = Field(None, description="from end to end, arcsec")
    position: Position = Field(
        description="of its middle",
        json_schema_extra=quirk(
            "{disc: 0}",
            "{disc: 2}",
            "every vortex goes through the centre; a short one there cannot be told from a little "
            "more ellipticity of the halo",
        ),
    )
    points: int = Field(100, ge=1, le=MOST_CLUMPS, description="point masses that it is made of")

    @model_validator(mode="after")
    def _one_of_each(self) -> Vortex:
        either(self, ("mass",), ("mass_fraction",))
        either(self, ("axion_mass",), ("length",))
        return self

    def draw_length(
        self, rng: np.random.Generator, size: int | None = None
    ) -> tuple[Any, Any | None]:
        """Return the length [arcsec], and the mass of the axion [eV] if that is what is drawn."""
        if self.length is not None:
            return self.length.draw(rng, size), None
        axion_mass = self.axion_mass.draw(rng, size)
        return 0.06 * (1e-22 / axion_mass), axion_mass

    def spread(
        self, rng: np.random.Generator, n: int, theta_E: np.ndarray, cosmology: Cosmology
    ) -> np.ndarray:
        """Return how far from the vortex's middle n pieces of its matter lie, (n,) in arcsec."""
        return self.draw_length(rng, n)[0] * rng.uniform(-0.5, 0.5, n)


def draw_vortex(system: System, rng: np.random.Generator, population: Population) -> System:
    """Add a straight string of equal point masses, and take its mean mass out of the halo."""
    vortex = population.vortex
    mass = vortex.mass
    if mass is None:
        mass = vortex.mass_fraction.draw(rng) * mass_within(system.theta_E, population.cosmology)
    length, axion_mass = vortex.draw_length(rng)
    (x,), (y,) = vortex.position.draw(rng, 1)
    angle = rng.uniform(0, np.pi)
    truth = {"vortex_length": length, "vortex_x": x, "vortex_y": y, "vortex_angle": angle}
    if axion_mass is not None:
        truth["axion_mass"] = axion_mass
    along = np.linspace(-length / 2, length / 2, vortex.points)
    system = replace(
        system,
        x=x + along * np.cos(angle),
        y=y + along * np.sin(angle),
        masses=np.full(vortex.points, mass / vortex.points),
        truth=truth,
    )
    return compensated(system, mass, vortex, population)
