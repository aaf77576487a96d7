"""Cosmology: how angles follow from masses between two redshifts."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from vitdm.config.sections import wrong
from vitdm.simulation.priors import Part, quirk

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM


#: the redshift behind which nothing is seen
FARTHEST = 1100


class Cosmology(Part):
    """A flat universe with two redshifts, and how angles follow from masses in it."""

    z_lens: float = Field(gt=0, le=FARTHEST, description="redshift of the lens")
    z_source: float = Field(gt=0, le=FARTHEST, description="redshift of the source")
    H0: float = Field(70.0, ge=1, le=1000, description="km/s/Mpc")
    Om0: float = Field(0.3, gt=0, lt=1, description="matter density")
    Ob0: float = Field(0.05, ge=0, lt=1, description="baryon density")
    distances: Literal["angular_diameter", "luminosity"] = Field(
        "angular_diameter",
        description="the distances that turn a mass into theta_E of a point mass",
        json_schema_extra=quirk(
            "luminosity",
            "angular_diameter",
            "luminosity distances, with D_LS = D_S - D_L, give 0.770 times the right theta_E",
        ),
    )
    z_source_convention: float | None = Field(
        None,
        gt=0,
        le=FARTHEST,
        description="deflections are given for a source here, and rescaled; null: z_source",
        json_schema_extra=quirk(
            "2.5",
            "null",
            "deflections computed for a source at z = 1 are handed over as if for one at z = 2.5, "
            "which makes all of them, the ring and the shear, 0.634 times as large",
        ),
    )
    Om0_convention: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="matter density with which they are rescaled; null: Om0",
        json_schema_extra=quirk(
            "0.2814",
            "null",
            "that rescaling uses the cosmology of pyHalo, not the one of the masses",
        ),
    )

    @model_validator(mode="after")
    def _behind_the_lens(self) -> Cosmology:
        for name in ("z_source", "z_source_convention"):
            z = getattr(self, name)
            if z is not None and z <= self.z_lens:
                raise wrong([(name, f"expected more than z_lens = {self.z_lens}, found {z}")])
        return self


def theta_E_point(mass: float | np.ndarray, cosmology: Cosmology) -> float | np.ndarray:
    r"""Return the Einstein radius of point masses ["], ``mass`` in solar masses.

    :math:`\theta_E = \sqrt{4GM/c^2 \cdot D_{LS}/(D_L D_S)}` (Narayan & Bartelmann 1996, eq. 20),
    times the square root of ``deflection_scale``. With ``distances: luminosity`` the distances are
    luminosity distances and :math:`D_{LS} = D_S - D_L`, as in the published code of DeepLenseSim.
    """
    return np.sqrt(mass) * _theta_E_of_the_sun(cosmology)


@functools.cache
def _theta_E_of_the_sun(cosmology: Cosmology) -> float:
    from astropy import constants, units  # late: astropy takes a second to load

    universe = _universe(H0=cosmology.H0, Om0=cosmology.Om0, Ob0=cosmology.Ob0)
    z_lens, z_source = cosmology.z_lens, cosmology.z_source
    if cosmology.distances == "luminosity":
        d_l, d_s = universe.luminosity_distance([z_lens, z_source])
        d_ls = d_s - d_l
    else:
        d_l, d_s = universe.angular_diameter_distance([z_lens, z_source])
        d_ls = universe.angular_diameter_distance(z_lens, z_source)
    squared = 4 * constants.G * constants.M_sun / constants.c**2 * d_ls / (d_l * d_s)
    squared = squared.to_value(units.dimensionless_unscaled) * deflection_scale(cosmology)
    return math.degrees(math.sqrt(squared)) * 3600


def _universe(**parameters: float) -> FlatLambdaCDM:
    from astropy.cosmology import FlatLambdaCDM  # late: astropy takes a second to load

    return FlatLambdaCDM(**parameters)


@functools.cache
def deflection_scale(cosmology: Cosmology) -> float:
    """Return what all deflections are multiplied by, to go from the convention to the source.

    1, unless ``z_source_convention`` names another redshift than that of the source: then
    D_LS / D_S of the source over that of the convention, as in lenstronomy's multi-plane lensing.
    """
    if cosmology.z_source_convention is None:
        return 1.0
    universe = _universe(H0=cosmology.H0, Om0=cosmology.Om0_convention or cosmology.Om0)
    source, convention = (
        universe.angular_diameter_distance(cosmology.z_lens, z)
        / universe.angular_diameter_distance(z)
        for z in (cosmology.z_source, cosmology.z_source_convention)
    )
    return float(source / convention)


def mass_within(theta_E: float, cosmology: Cosmology) -> float:
    """Return the mass within an Einstein radius ["] of any round lens, in solar masses."""
    return (theta_E / theta_E_point(1.0, cosmology)) ** 2


def tidal_radius(theta: np.ndarray, theta_E: float) -> np.ndarray:
    r"""Return the truncation radius ["] of subhalos of total mass :math:`\theta^2` ["^2].

    An isothermal sphere of Einstein radius b, cut at a, has the mass :math:`\theta^2 = b a`; the
    tide of an isothermal halo cuts it at :math:`a = \sqrt{b \theta_E}` (Dalal & Kochanek 2002, ApJ
    572, 25). So :math:`a^3 = \theta_E \theta^2`.
    """
    return np.cbrt(theta_E * theta**2)


@functools.cache
def arcsec_per_kpc(cosmology: Cosmology) -> float:
    """Return the angle ["] of a kpc at the lens."""
    universe = _universe(H0=cosmology.H0, Om0=cosmology.Om0, Ob0=cosmology.Ob0)
    return float(universe.arcsec_per_kpc_proper(cosmology.z_lens).value)


@functools.cache
def virial_radius(mass: float, cosmology: Cosmology) -> float:
    """Return r200 ["] of a halo of ``mass`` [solar masses]: 200 times the critical density."""
    from astropy import units  # late: astropy takes a second to load

    universe = _universe(H0=cosmology.H0, Om0=cosmology.Om0, Ob0=cosmology.Ob0)
    density = universe.critical_density(cosmology.z_lens).to_value(units.Msun / units.kpc**3)
    radius = np.cbrt(3 * mass / (4 * math.pi * 200 * density))
    return float(radius) * arcsec_per_kpc(cosmology)
