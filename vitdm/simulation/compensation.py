"""Mass compensation: the halo loses the mean mass that substructure adds within theta_E."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vitdm.errors import InputError
from vitdm.simulation.cosmology import Cosmology, deflection_scale, theta_E_point
from vitdm.simulation.priors import Position
from vitdm.simulation.system import System

if TYPE_CHECKING:
    from vitdm.simulation.population import Halo, Population


class Extended(Protocol):
    """The section of a class whose mass can be compensated: where its matter lies."""

    position: Position  # of each subhalo, or of the middle of the whole

    def spread(
        self, rng: np.random.Generator, n: int, theta_E: np.ndarray, cosmology: Cosmology
    ) -> np.ndarray:
        """Return how far n pieces of matter lie from ``position``, (n,) or (k, n) ["].

        ``theta_E`` (k,) ["] are the Einstein radii of the lenses that they lie in.
        """


def compensated(
    system: System, mean_mass: float, section: Extended, population: Population
) -> System:
    """Take the mean mass of the substructure within theta_E out of the halo.

    ``mean_mass`` [solar masses] is that of all substructure, given the mass fraction of this lens;
    ``section`` tells how it is spread. All mass within theta_E is theta_E^2, in units of angle^2;
    that of an isothermal halo is theta_E_halo * theta_E.

    Raises InputError if the substructure has more mass there than the whole lens. Nothing changes
    in a population with ``compensate_mass: false``.
    """
    if not population.compensate_mass:
        return system
    radii, fractions = _fraction_within(section, population.halo, population.cosmology)
    enclosed = mean_mass * np.interp(system.theta_E, radii, fractions)
    moved = theta_E_point(enclosed, population.cosmology) ** 2
    if moved >= system.theta_E**2:
        raise InputError(
            f"population {population.name}: found substructure of {enclosed:.3g} solar masses "
            f'within theta_E = {system.theta_E:.3g}"; expected less than all mass there'
        )
    return replace(system, theta_E_halo=system.without(moved))


@functools.cache
def _fraction_within(
    section: Extended, halo: Halo, cosmology: Cosmology
) -> tuple[np.ndarray, np.ndarray]:
    """Return Einstein radii ["] and the mean fraction of the substructure's mass within each.

    By Monte Carlo with a seed of its own: many small parts of the matter of many lenses.
    """
    n = 100_000
    rng = np.random.default_rng(0)
    x, y = section.position.draw(rng, n)
    angle = rng.uniform(0, 2 * np.pi, n)
    if halo.theta_E is not None:
        radii = np.linspace(*halo.theta_E.bounds, 25) * deflection_scale(cosmology)
    else:
        radii = theta_E_point(halo.mass, cosmology) * np.sqrt([deflection_scale(cosmology)])
    offsets = section.spread(rng, n, radii, cosmology)
    distance = np.hypot(x + offsets * np.cos(angle), y + offsets * np.sin(angle))
    return radii, (distance < radii[:, None]).mean(axis=1)
