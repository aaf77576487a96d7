"""Subhalos of cold dark matter: their mass function, where they lie, how they are cut."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from vitdm.bounds import MOST_CLUMPS
from vitdm.config.sections import wrong
from vitdm.errors import InputError
from vitdm.simulation.compensation import compensated
from vitdm.simulation.cosmology import Cosmology, mass_within, theta_E_point, tidal_radius
from vitdm.simulation.priors import Mass, Part, Position, Positive, either, power_law_draw, quirk
from vitdm.simulation.system import System

if TYPE_CHECKING:
    from vitdm.simulation.population import Population


class Subhalos(Part):
    """Subhalos with a power-law mass function."""

    number: int | None = Field(None, ge=0, le=MOST_CLUMPS, description="mean number")
    f_sub: Positive | None = Field(
        None, description="instead: mean mass, as a fraction of all mass in the disc they lie in"
    )
    distribution: Literal["poisson", "fixed"] = Field(
        "poisson",
        description="of the number",
        json_schema_extra=quirk("fixed", "poisson", "a Poisson number is drawn and not used"),
    )
    mass_range: tuple[Mass, Mass] = Field(description="solar masses")
    mass_slope: float = Field(
        ge=-10,
        le=10,
        description="dN/dm is proportional to m^slope",
        json_schema_extra=quirk(
            "-0.9",
            "-1.9, with f_sub",
            "the documentation says -1.9, the code has -0.9; 25 subhalos with -1.9 would have so "
            "little mass that no classifier could see them, so it is the mass that must be given",
        ),
    )
    mass_fraction: Positive | None = Field(
        None, description="scale all masses to this total, as a fraction of the halo's mass"
    )
    position: Position
    profile: Literal["point", "pseudo_jaffe"] = Field(
        "point",
        description="point masses, or isothermal spheres cut at their tidal radius",
        json_schema_extra=quirk("point", "pseudo_jaffe", "subhalos are not points"),
    )

    @model_validator(mode="after")
    def _possible(self) -> Subhalos:
        either(self, ("number",), ("f_sub",))
        low, high = self.mass_range
        if low > high:
            raise wrong([("mass_range", f"expected low <= high, found [{low}, {high}]")])
        if self.f_sub is not None and not self.position.disc:
            raise wrong([("position", "expected {disc: radius}, for f_sub counts the mass in it")])
        if self.f_sub is not None and self.mass_fraction is not None:
            raise wrong([("mass_fraction", "expected none beside f_sub, which gives the mass")])
        return self

    @property
    def mean_mass(self) -> float:
        """The mean of the mass function, in solar masses."""
        low, high = self.mass_range
        return _integral(low, high, self.mass_slope + 1) / _integral(low, high, self.mass_slope)

    def draw_masses(
        self, rng: np.random.Generator, n: int, weighted_by_mass: bool = False
    ) -> np.ndarray:
        """Return (n,) masses in solar masses, by inverse CDF; of subhalos, or of their matter."""
        slope = self.mass_slope + weighted_by_mass
        return power_law_draw(rng.uniform(size=n), *self.mass_range, slope)

    def spread(
        self, rng: np.random.Generator, n: int, theta_E: np.ndarray, cosmology: Cosmology
    ) -> np.ndarray:
        """Return how far from their subhalo's centre n pieces of matter lie, in arcsec.

        (n,) zeros for points; else (k, n), for lenses of Einstein radii ``theta_E`` (k,) ["].
        """
        if self.profile == "point":
            return np.zeros(n)
        # the mass within r, 1 + r/a - sqrt(1 + (r/a)^2), solved for r/a
        rest = rng.uniform(size=n)
        scaled = (1 - rest**2) / (2 * rest)
        theta = theta_E_point(self.draw_masses(rng, n, weighted_by_mass=True), cosmology)
        return scaled * tidal_radius(theta, theta_E[:, None])


def _integral(low: float, high: float, power: float) -> float:
    """Return the mean of m^power over m from low to high."""
    if low == high:
        return low**power
    if abs(power + 1) < 1e-12:
        return np.log(high / low) / (high - low)
    return (high ** (power + 1) - low ** (power + 1)) / (power + 1) / (high - low)


def draw_subhalos(system: System, rng: np.random.Generator, population: Population) -> System:
    """Add clumps of the given mass function, and take their mean mass out of the halo."""
    subhalos, cosmology = population.subhalos, population.cosmology
    truth = {}
    if subhalos.f_sub is None:
        mean_number = subhalos.number
    else:
        f_sub = truth["f_sub"] = subhalos.f_sub.draw(rng)
        held = mass_within(system.mean_radius(subhalos.position.disc), cosmology)
        mean_number = f_sub * held / subhalos.mean_mass
        if mean_number > MOST_CLUMPS:
            raise InputError(
                f"subhalos: f_sub = {f_sub:g} makes {mean_number:.0e} of them in a lens; expected "
                f"up to {MOST_CLUMPS}, so a larger mass_range"
            )
    n = round(mean_number) if subhalos.distribution == "fixed" else rng.poisson(mean_number)
    masses = subhalos.draw_masses(rng, n)
    mean_mass = mean_number * subhalos.mean_mass
    if subhalos.mass_fraction is not None:
        mean_mass = subhalos.mass_fraction.draw(rng) * mass_within(system.theta_E, cosmology)
        masses *= mean_mass / masses.sum() if n else 1
    x, y = subhalos.position.draw(rng, n)
    truth["n_subhalos"] = n
    if n:
        largest = masses.argmax()
        truth |= {"max_subhalo_mass": masses[largest]}
        truth |= {"max_subhalo_x": x[largest], "max_subhalo_y": y[largest]}
    truncation = None
    if subhalos.profile == "pseudo_jaffe":
        truncation = tidal_radius(theta_E_point(masses, cosmology), system.theta_E)
    system = replace(system, x=x, y=y, masses=masses, truncation=truncation, truth=truth)
    return compensated(system, mean_mass, subhalos, population)
