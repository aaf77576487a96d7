"""The parameters of a smooth lens: one table, of which a row says all that the fit knows of one.

Columns of the arrays of values, errors and derivatives are in the order of ``parameters(...)``.
Angles are in arcsec. The centre of the mass is measured from the middle of the image; shear, source
and the light of the lens galaxy are measured from the centre of the mass, so that a lens elsewhere
in its image differs in its centre only. Ellipticities are those of lenstronomy: of axis ratio q and
position angle phi, (1 - q) / (1 + q) times cos 2 phi and sin 2 phi.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

#: the unit of amplitudes and sky: that of the image, per square arcsec
BRIGHTNESS = "brightness/arcsec²"
#: lower and upper bound, of the side of a pixel and the side of the field ["]
Range = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Pair:
    """Two parameters that are the components of a vector, whose modulus is at most ``largest``."""

    name: str
    largest: float


@dataclass(frozen=True)
class Parameter:
    """A row of the table.

    ``name`` and ``unit`` are those of the catalog; a ``logarithmic`` parameter is fitted as its
    natural logarithm. ``bounds`` are those of a fit, ``start_bounds`` those of a fit's coarse start
    (default: the same), both in ``unit``. ``step`` is the largest step of the fit, in ``unit`` or,
    of a logarithm, in e-folds. ``prior`` names the key of ``LensFit`` that has the standard
    deviation of a normal prior about 0.
    """

    name: str
    unit: str
    meaning: str
    step: float
    bounds: Range | None = None
    start_bounds: Range | None = None
    logarithmic: bool = False
    pair: Pair | None = None
    prior: str | None = None


def _pair(name: str, meaning: str, step: float, pair: Pair) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(f"{name}{k}", "", f"{meaning}, component {k}", step, pair=pair) for k in (1, 2)
    )


def _position(
    name: str, meaning: str, share: float, prior: str | None = None
) -> tuple[Parameter, ...]:
    """Return x and y of a point that stays within a ``share`` of the field on each side."""
    return tuple(
        Parameter(
            f"{name}_{axis}",
            "arcsec",
            f"{axis} of {meaning}",
            0.25,
            lambda pixel, field: (-share * field, share * field),
            prior=prior,
        )
        for axis in "xy"
    )


def _sersic(name: str, of: str, largest: float) -> tuple[Parameter, ...]:
    """Return the shape of an elliptical Sérsic profile, in the order of its derivatives."""
    return (
        *_pair(f"{name}_e", f"ellipticity of {of}", 0.15, Pair(f"{name}_e", largest)),
        Parameter(
            f"{name}_R_sersic",
            "arcsec",
            f"half-light radius of {of}",
            0.7,
            lambda pixel, field: (0.2 * pixel, field),
            # a start must not make a large source of a ring
            lambda pixel, field: (0.5 * pixel, field / 8),
            logarithmic=True,
        ),
        Parameter(
            f"{name}_n_sersic",
            "",
            f"Sérsic index of {of}",
            0.7,
            lambda pixel, field: (0.3, 8.0),
            lambda pixel, field: (0.7, 2.5),
            logarithmic=True,
        ),
        Parameter(
            f"{name}_amp", BRIGHTNESS, f"brightness of {of} at R_sersic", 0.7, logarithmic=True
        ),
    )


MASS = (
    Parameter(
        "theta_E",
        "arcsec",
        "Einstein radius of the isothermal ellipsoid",
        0.25,
        lambda pixel, field: (pixel, field / 2),
    ),
    *_pair("e", "ellipticity of the mass", 0.15, Pair("e", 0.8)),
    *_pair("gamma", "external shear", 0.1, Pair("gamma", 0.5)),
)
SOURCE_POSITION = _position("source", "the source, from the centre of the mass", 1 / 2)
SOURCE_PROFILE = _sersic("source", "the source", 0.8)
SOURCE = (*SOURCE_POSITION, *SOURCE_PROFILE)
SKY = (Parameter("sky", BRIGHTNESS, "constant brightness of the sky", math.inf),)
CENTER = _position(
    "center", "the centre of the mass, from the middle of the image", 1 / 8, "center_offset"
)
#: all profiles of the light of a lens galaxy have the same centre
LIGHT_POSITION = _position(
    "lens_light", "the light of the lens galaxy, from the centre of the mass", 1 / 8, "light_offset"
)
LENS_LIGHT = _sersic("lens_light", "the lens galaxy", 0.9)
#: a second profile with the same centre: one is too simple for a nearby elliptical
SECOND_LIGHT = _sersic("lens_light2", "the second profile of the lens galaxy", 0.9)


def profiles(lens_light: int) -> tuple[tuple[Parameter, ...], ...]:
    """Return the shapes of ``lens_light`` (0, 1 or 2) profiles of the lens galaxy's light."""
    return (LENS_LIGHT, SECOND_LIGHT)[:lens_light]


def parameters(lens_light: int = 0) -> tuple[Parameter, ...]:
    """Return the parameters of a lens with ``lens_light`` profiles (0, 1 or 2), in their order."""
    lights = [row for profile in profiles(lens_light) for row in profile]
    return (*MASS, *SOURCE, *SKY, *CENTER, *(LIGHT_POSITION if lights else ()), *lights)
