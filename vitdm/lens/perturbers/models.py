"""Masses with something more than the smooth model: a perturber, or a multipole of order 5."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vitdm.compiled import compiled
from vitdm.lens.free_form.mass import LARGEST_STEP, NAMES, MassModel
from vitdm.lens.perturbers.profiles import Profile
from vitdm.simulation.power_law import multipole, multipole_hessian, polar

SMOOTH = len(NAMES)  # parameters of the smooth model, which come first
REACH = 0.5  # ", that a perturber may go from where it is looked for
MASSES = 1e-6, 1.0  # arcsec^2
CLOSEST = 1e-4  # ", of a ray and the middle of a perturber
RELATIVE = 1e-4  # step of r in the slope of an enclosed mass
ORDER = 5  # of the multipole


@dataclass(frozen=True, eq=False)
class WithPerturber(MassModel):
    """The smooth mass and a perturber: x, y ["] and ln of its mass [arcsec^2], after the others.

    If its cut is free, ln of that radius ["] comes last. It stays within ``REACH`` of ``place``.
    """

    profile: Profile
    place: tuple[float, float]
    cut_free: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        extra = ("x", "y", "log_mass", "log_cut")
        return NAMES + extra[: 3 + self.cut_free]

    @property
    def largest_step(self) -> NDArray:
        return np.array([*LARGEST_STEP, 0.1, 0.1, 0.5, 0.5][: len(self.names)])

    def profile_of(self, values: NDArray) -> Profile:
        """Return the profile of values (p,)."""
        return replace(self.profile, scale=math.exp(values[-1])) if self.cut_free else self.profile

    def allowed(self, values: NDArray) -> bool:
        off = math.hypot(*(values[SMOOTH : SMOOTH + 2] - self.place))
        massive = MASSES[0] < math.exp(values[SMOOTH + 2]) < MASSES[1]
        return super().allowed(values[:SMOOTH]) and off < REACH and massive

    def deflection(self, values: NDArray, x: NDArray, y: NDArray) -> NDArray:
        alpha = super().deflection(values[:SMOOTH], x, y)
        way, strength, _ = self._round(values, x, y)
        return alpha + strength * way

    def deflection_and_derivatives(
        self, values: NDArray, x: NDArray, y: NDArray
    ) -> tuple[NDArray, NDArray]:
        alpha, smooth = super().deflection_and_derivatives(values[:SMOOTH], x, y)
        way, strength, slope = self._round(values, x, y)
        by = np.empty((len(values), *alpha.shape))
        by[:SMOOTH] = smooth
        # a = s(r) d: da_i / dd_j = s delta_ij + s (g'/g - 2) d_i d_j / r^2, g' by ln r
        bent = strength * (slope - 2) * way / np.maximum((way**2).sum(0), CLOSEST**2)
        by[SMOOTH : SMOOTH + 2] = -bent * way[:, None]
        for k in range(2):
            by[SMOOTH + k, k] -= strength
        by[SMOOTH + 2] = strength * way
        if self.cut_free:  # g is a function of r over the cut
            by[SMOOTH + 3] = -strength * slope * way
        return alpha + by[SMOOTH + 2], by

    def _round(self, values: NDArray, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return the way (2, n) from the perturber, m g / r^2, and d ln g / d ln r (n,)."""
        way = np.array([x - values[SMOOTH], y - values[SMOOTH + 1]])
        r = np.maximum(np.hypot(*way), CLOSEST)
        within, slope = _within_and_slope(self.profile_of(values), r)
        return way, math.exp(values[SMOOTH + 2]) * within / r**2, slope


def _within_and_slope(profile: Profile, r: NDArray) -> tuple[NDArray, NDArray]:
    """Return the share of the mass within r (n,) and its logarithmic slope."""
    within = profile.mass_within(r)
    if profile.name == "isothermal":
        root = np.sqrt(1 + (r / profile.scale) ** 2)
        return within, r / profile.scale * (1 - r / profile.scale / root) / within
    more, less = (profile.mass_within(r * math.exp(sign * RELATIVE)) for sign in (1, -1))
    return within, (more - less) / (2 * RELATIVE * within)


class WithMultipole(MassModel):
    """The smooth mass and a multipole of order 5, whose two amplitudes come last."""

    names = (*NAMES, f"a{ORDER}_x", f"a{ORDER}_y")
    largest_step = np.array([*LARGEST_STEP, 0.02, 0.02])

    def deflection(self, values: NDArray, x: NDArray, y: NDArray) -> NDArray:
        return self.deflection_and_derivatives(values, x, y)[0]

    def deflection_and_derivatives(
        self, values: NDArray, x: NDArray, y: NDArray
    ) -> tuple[NDArray, NDArray]:
        alpha, smooth = super().deflection_and_derivatives(values[:SMOOTH], x, y)
        by = np.zeros((len(values), *alpha.shape))
        by[:SMOOTH] = smooth
        _add_multipole(tuple(values.tolist()), x, y, alpha, by)
        return alpha, by


@compiled
def _add_multipole(values, x, y, alpha, by):
    """Add a multipole to the deflection (2, n) and its derivatives (16, 2, n)."""
    theta_E, amplitude = values[0], complex(values[SMOOTH], values[SMOOTH + 1])
    for i in range(x.size):
        direction, radius = polar(complex(x[i] - values[3], y[i] - values[4]))
        unit = multipole(ORDER, direction, 0.0, amplitude)
        kappa, gamma = multipole_hessian(ORDER, direction, radius, amplitude)
        columns = (
            (0, unit),
            (3, -theta_E * (kappa + gamma)),  # a shift of the centre is one of the ray, backwards
            (4, -1j * theta_E * (kappa - gamma)),
            (SMOOTH, theta_E * multipole(ORDER, direction, 0.0, 1 + 0j)),
            (SMOOTH + 1, theta_E * multipole(ORDER, direction, 0.0, 1j)),
        )
        alpha[0, i] += theta_E * unit.real
        alpha[1, i] += theta_E * unit.imag
        for k, column in columns:
            by[k, 0, i] += column.real
            by[k, 1, i] += column.imag
