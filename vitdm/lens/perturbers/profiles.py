r"""How perturbers deflect light: points, isothermal spheres and NFW halos that are cut, strings.

A perturber of mass m, in units of the squared Einstein radius of a point mass [arcsec²], deflects
by :math:`m\,g(r)\,d / r^2`, d being the way from it, and g the share of its projected mass within
r. That of an isothermal sphere cut at a (pseudo-Jaffe) is

.. math:: g = 1 + r / a - \sqrt{1 + (r / a)^2},

that of an NFW halo of scale radius r_s cut at :math:`\tau r_s` is eq. (A.11) of Baltz, Marshall &
Oguri (2009, JCAP 01, 015) with n = 1. A string is a straight line of equal mass everywhere; in
complex numbers, with ends z1 and z2, its deflection is
:math:`m \overline{\ln((z - z_1) / (z - z_2)) / (z_2 - z_1)}`.
"""

from __future__ import annotations

import cmath
import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitdm.compiled import compiled
from vitdm.config import Perturbers
from vitdm.simulation.cosmology import Cosmology, theta_E_point, virial_radius

INFALL = 1e10  # solar masses, of NFW halos before they were cut
CUT = 20.0  # r200 over the radius at which an NFW halo is cut
TYPICAL = Cosmology(z_lens=0.2, z_source=0.6)  # if the redshifts of a lens are unknown
ANGLES = 6  # of strings, in half a turn
SOFTENING = 0.01  # ", of points and at the ends of strings
TABLE = 1024  # values of the deflection, evenly in r / (r + scale)
ROUND, STRING = 0, 1  # kinds of deflection in compiled loops


@dataclass(frozen=True)
class Profile:
    """A perturber: its ``name``, ``scale`` ["] and, for NFW halos, ``tau``, the cut in scales.

    The scale is the radius of the cut (isothermal), the scale radius (NFW), the length (string) or
    the softening (point). ``angle`` [rad] is that of a string.
    """

    name: str
    scale: float
    tau: float = math.inf
    angle: float = 0.0

    def mass_within(self, r: ArrayLike) -> NDArray:
        """Return the share of the mass within projected radii r ["] (any shape), round ones."""
        x = np.asarray(r, float) / self.scale
        if self.name == "point":
            return x**2 / (x**2 + 1)
        if self.name == "isothermal":
            return 1 + x - np.sqrt(1 + x**2)
        return _nfw_within(x, self.tau)

    def deflection(self, dx: NDArray, dy: NDArray) -> NDArray:
        """Return the deflection (2, n) ["] by unit mass [arcsec^2] at offsets dx, dy (n,) ["]."""
        out = np.empty((2, len(dx)))
        _deflect(self.layout, np.ascontiguousarray(dx), np.ascontiguousarray(dy), out)
        return out

    @property
    def layout(self) -> NDArray:
        """What compiled loops need: kind, scale, half vector of a string, table of g / r."""
        if self.name == "string":
            half = self.scale / 2 * cmath.exp(1j * self.angle)
            return np.array([STRING, self.scale, half.real, half.imag])
        return np.concatenate([[ROUND, self.scale, 0.0, 0.0], _table(self)])


@functools.lru_cache(maxsize=64)
def _table(profile: Profile) -> NDArray:
    u = np.arange(1, TABLE) / TABLE
    r = profile.scale * u / (1 - u)
    inner = r[0] / 4  # g / r at the centre, all but reached
    values = profile.mass_within(np.concatenate([[inner], r])) / np.concatenate([[inner], r])
    if profile.name != "isothermal":
        values[0] = 0.0
    return np.concatenate([values, [0.0]])


def cosmology_of(settings: Perturbers) -> Cosmology | None:
    """Return the cosmology of a lens; None if its redshifts are unknown."""
    if settings.z_lens is None:
        return None
    return Cosmology(z_lens=settings.z_lens, z_source=settings.z_source)


def solar_masses(settings: Perturbers) -> float:
    """Return the solar masses of 1 arcsec^2; NaN if redshifts are unknown."""
    cosmology = cosmology_of(settings)
    return float(theta_E_point(1.0, cosmology)) ** -2 if cosmology else math.nan


def profiles_of(name: str, settings: Perturbers) -> list[Profile]:
    """Return the profiles that a name of the settings stands for: several for strings, else one."""
    if name == "point":
        return [Profile(name, SOFTENING)]
    if name == "isothermal":
        return [Profile(name, settings.truncation)]
    if name == "string":
        turns = np.arange(ANGLES) * math.pi / ANGLES
        return [Profile(name, settings.length, angle=float(turn)) for turn in turns]
    concentration = float(name.removeprefix("nfw_"))
    radius = virial_radius(INFALL, cosmology_of(settings) or TYPICAL)
    return [Profile(name, radius / concentration, concentration / CUT)]


def _nfw_within(x: NDArray, tau: float) -> NDArray:
    """Return the share of the mass within x scale radii, of an NFW halo cut at tau of them."""
    x = np.maximum(x, 1e-9)
    t2, root = tau**2, np.sqrt(tau**2 + x**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        inner = np.arccosh(1 / np.minimum(x, 1)) / np.sqrt(1 - np.minimum(x, 1) ** 2)
        outer = np.arccos(1 / np.maximum(x, 1)) / np.sqrt(np.maximum(x, 1) ** 2 - 1)
    F = np.where(np.abs(x - 1) < 1e-6, 1.0, np.where(x < 1, inner, outer))
    L = np.log(x / (root + tau))
    within = (t2 + 1 + 2 * (x**2 - 1)) * F + tau * math.pi + (t2 - 1) * math.log(tau)
    within += root * (-math.pi + (t2 - 1) / tau * L)
    return within / ((t2 - 1) * math.log(tau) + tau * math.pi - (t2 + 1))


# ------------------------------------------------------------------------------- compiled loops


@compiled
def deflection_at(layout, dx, dy):
    """Return x and y of the deflection by unit mass at an offset."""
    if layout[0] == STRING:
        half = complex(layout[2], layout[3])
        z = complex(dx, dy)
        first, second = z + half, z - half
        near = SOFTENING * SOFTENING
        a = first.real * first.real + first.imag * first.imag + near
        b = second.real * second.real + second.imag * second.imag + near
        ratio = first * second.conjugate()
        log = complex(0.5 * math.log(a / b), math.atan2(ratio.imag, ratio.real))
        out = (log / (2 * half)).conjugate()
        return out.real, out.imag
    r = math.sqrt(dx * dx + dy * dy)
    u = r / (r + layout[1]) * TABLE
    k = int(u)
    strength = layout[4 + k] + (u - k) * (layout[5 + k] - layout[4 + k])
    r = max(r, 1e-12)
    return strength * dx / r, strength * dy / r


@compiled
def _deflect(layout, dx, dy, out):
    for k in range(dx.size):
        out[0, k], out[1, k] = deflection_at(layout, dx[k], dy[k])
