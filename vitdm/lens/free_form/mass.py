"""The mass of a lens: elliptical power law, external shear, multipoles m = 1, 3 and 4.

Deflection, its analytic derivatives, convergence, magnification, critical curves and caustics.
Positions and deflections are in arcsec, from the middle of the image. Conventions are those of
lenstronomy's EPL, SHEAR and MULTIPOLE, shear and multipoles about the centre of the power law.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import contourpy
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitdm.compiled import compiled
from vitdm.errors import InputError, shown
from vitdm.simulation.power_law import (
    multipoles,
    multipoles_derivatives,
    power_law,
    power_law_derivatives,
    series,
)


@dataclass(frozen=True)
class Parameter:
    """Name, unit (empty: dimensionless) and meaning of a parameter of the mass."""

    name: str
    unit: str
    meaning: str


def _multipole(m: int) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(f"a{m}_{axis}", "", f"multipole of order {m} over theta_E, a{m} {turn}({m} phi)")
        for axis, turn in (("x", "cos"), ("y", "sin"))
    )


PARAMETERS = (
    Parameter("theta_E", "arcsec", "Einstein radius of the power law"),
    Parameter("e1", "", "ellipticity of the mass, (1 - q) / (1 + q) cos(2 phi)"),
    Parameter("e2", "", "ellipticity of the mass, (1 - q) / (1 + q) sin(2 phi)"),
    Parameter("center_x", "arcsec", "x of the centre of the mass, from the middle of the image"),
    Parameter("center_y", "arcsec", "y of the centre of the mass, from the middle of the image"),
    Parameter("gamma1", "", "external shear, component 1"),
    Parameter("gamma2", "", "external shear, component 2"),
    Parameter("slope", "", "logarithmic slope of the density; 2: isothermal"),
    *_multipole(1),
    *_multipole(3),
    *_multipole(4),
)
NAMES = tuple(row.name for row in PARAMETERS)

#: the largest steps of a climb, in the order of ``NAMES``
LARGEST_STEP = np.array([0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.1, *[0.02] * 6])
FLATTEST = 0.85  # largest ellipticity
SLOPES = 1.1, 2.9

#: points of the grid of critical curves are sinh(4) = 27 times as dense at the centre as far out
_DENSER = 4.0


# ------------------------------------------------------------------------------- compiled loops


@compiled
def _deflect(values, x, y, alpha):
    """Write the deflection of the rays at ``x``, ``y`` (n,) into ``alpha`` (2, n)."""
    theta_E, e1, e2, center_x, center_y, gamma1, gamma2, slope = values[:8]
    e, shear = complex(e1, e2), complex(gamma1, gamma2)
    terms = series(slope, math.hypot(e1, e2))
    for i in range(x.size):
        z = complex(x[i] - center_x, y[i] - center_y)
        ray = power_law(z, theta_E, e, slope, terms) + shear * z.conjugate()
        ray += multipoles(z, theta_E, values[8:])
        alpha[0, i], alpha[1, i] = ray.real, ray.imag


@compiled
def _derive(values, x, y, alpha, derivatives):
    """Write deflection (2, n) and derivatives (14, 2, n), in the order of ``NAMES``."""
    theta_E, e1, e2, center_x, center_y, gamma1, gamma2, slope = values[:8]
    e, shear = complex(e1, e2), complex(gamma1, gamma2)
    terms = series(slope, math.hypot(e1, e2))
    for i in range(x.size):
        z = complex(x[i] - center_x, y[i] - center_y)
        halo, by_theta_E, by_e1, by_e2, by_slope, kappa, gamma = power_law_derivatives(
            z, theta_E, e, slope, terms
        )
        angular, by_theta_E_m, by_amplitudes, kappa_m, gamma_m = multipoles_derivatives(
            z, theta_E, values[8:]
        )
        ray = halo + angular + shear * z.conjugate()
        kappa, gamma = kappa + kappa_m, gamma + gamma_m + shear
        columns = (
            by_theta_E + by_theta_E_m,
            by_e1,
            by_e2,
            -(kappa + gamma),  # a shift of the centre is one of the ray, backwards
            -1j * (kappa - gamma),
            z.conjugate(),
            1j * z.conjugate(),
            by_slope,
            *by_amplitudes,
        )
        alpha[0, i], alpha[1, i] = ray.real, ray.imag
        for k in range(len(columns)):
            derivatives[k, 0, i], derivatives[k, 1, i] = columns[k].real, columns[k].imag


@compiled
def _kappa_and_determinant(values, x, y):
    """Return the convergence and the determinant of d beta / d theta, (2, n)."""
    theta_E, e1, e2, center_x, center_y, gamma1, gamma2, slope = values[:8]
    e, result = complex(e1, e2), np.empty((2, x.size))
    terms = series(slope, math.hypot(e1, e2))
    for i in range(x.size):
        z = complex(x[i] - center_x, y[i] - center_y)
        kappa, shear = power_law_derivatives(z, theta_E, e, slope, terms)[5:]
        kappa_m, shear_m = multipoles_derivatives(z, theta_E, values[8:])[3:]
        kappa, shear = kappa + kappa_m, shear + shear_m + complex(gamma1, gamma2)
        result[0, i] = kappa
        result[1, i] = (1 - kappa) ** 2 - shear.real**2 - shear.imag**2
    return result


# ----------------------------------------------------------------------------------- functions


class MassModel:
    """What a fit needs to know of a mass; the smooth one of this module, to which others add.

    ``names`` (p,) are those of its values, ``largest_step`` (p,) the largest ones of a climb.
    """

    names: tuple[str, ...] = NAMES
    largest_step: NDArray = LARGEST_STEP

    def allowed(self, values: NDArray) -> bool:
        """Whether values (p,) are those of a lens that may be fitted."""
        flat = math.hypot(values[1], values[2])
        return bool(values[0] > 0 and flat < FLATTEST and SLOPES[0] < values[7] < SLOPES[1])

    def deflection(self, values: NDArray, x: NDArray, y: NDArray) -> NDArray:
        """Return the deflection (2, n) ["] of values (p,) at x, y (n,) ["]."""
        return deflection(values, x, y)

    def deflection_and_derivatives(
        self, values: NDArray, x: NDArray, y: NDArray
    ) -> tuple[NDArray, NDArray]:
        """Return the deflection (2, n) ["] and its derivatives by all values, (p, 2, n)."""
        return deflection_and_derivatives(values, x, y)


def _checked(values: ArrayLike) -> tuple[float, ...]:
    """Return the parameters as 14 floats; raise an ``InputError`` for those of no lens."""
    given = tuple(np.asarray(values, dtype=float).tolist())
    if len(given) != len(NAMES):
        raise InputError(f"mass: {len(given)} values; expected {len(NAMES)}: {', '.join(NAMES)}")
    named = dict(zip(NAMES, given, strict=True))
    right = {
        "theta_E": (named["theta_E"] > 0, "above 0"),
        "slope": (1 < named["slope"] < 3, "between 1 and 3"),
        "e1": (math.hypot(named["e1"], named["e2"]) < 1, "such that e1^2 + e2^2 < 1"),
    }
    for name, value in named.items():
        good, expected = right.get(name, (math.isfinite(value), "finite"))
        if not good:
            raise InputError(f"mass: {name} = {shown(value)}; expected {expected}")
    return given


def _rays(x: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray]:
    x, y = (np.ascontiguousarray(a, dtype=np.float64) for a in (x, y))
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"rays: x has shape {x.shape}, y {y.shape}; expected (n,) for both")
    return x, y


def _result(out: NDArray | None, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return ``out``, or a new array; compiled loops do not notice that they leave an array."""
    if out is None:
        return np.empty(shape)
    if out.shape != shape or out.dtype != np.float64:
        raise InputError(f"out: {out.dtype} of shape {out.shape}; expected float64 of {shape}")
    return out


def deflection(
    values: ArrayLike, x: ArrayLike, y: ArrayLike, out: NDArray | None = None
) -> NDArray[np.float64]:
    """Return the total deflection (2, n) ["] at ``x``, ``y`` (n,) ["] of the mass ``values`` (14,).

    ``out`` (2, n) float64 receives it, if given. Raises ``InputError`` for values of no lens.
    """
    x, y = _rays(x, y)
    alpha = _result(out, (2, x.size))
    _deflect(_checked(values), x, y, alpha)
    return alpha


def deflection_and_derivatives(
    values: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    out: tuple[NDArray, NDArray] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the deflection (2, n) ["] and its derivatives by all ``values``, (14, 2, n).

    ``out``, two float64 arrays of these shapes, receives them, if given. Raises ``InputError`` for
    values of no lens.
    """
    x, y = _rays(x, y)
    given = out or (None, None)
    alpha, derivatives = _result(given[0], (2, x.size)), _result(given[1], (14, 2, x.size))
    _derive(_checked(values), x, y, alpha, derivatives)
    return alpha, derivatives


def convergence(values: ArrayLike, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Return the convergence (n,) at ``x``, ``y`` (n,) ["]."""
    return _kappa_and_determinant(_checked(values), *_rays(x, y))[0]


def magnification(values: ArrayLike, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Return the signed magnification (n,) at ``x``, ``y`` (n,) ["]: 1 / det(d beta / d theta)."""
    return 1 / _kappa_and_determinant(_checked(values), *_rays(x, y))[1]


def critical_curves(values: ArrayLike, extent: float, n: int = 500) -> list[NDArray[np.float64]]:
    """Return the curves (k, 2) [", x and y] where the magnification diverges.

    They are looked for in a square of half width ``extent`` ["] about the centre of the mass, on
    n x n points that are denser at the centre, where the radial curve may be small. A closed curve
    ends where it starts; one that leaves the square is open.
    """
    given = _checked(values)
    step = extent * np.sinh(np.linspace(-_DENSER, _DENSER, n)) / np.sinh(_DENSER)
    x, y = given[3] + step, given[4] + step
    rays = (a.ravel() for a in np.meshgrid(x, y))
    determinant = _kappa_and_determinant(given, *rays)[1].reshape(n, n)
    return contourpy.contour_generator(x, y, determinant).lines(0.0)


def caustics(values: ArrayLike, extent: float, n: int = 500) -> list[NDArray[np.float64]]:
    """Return the ``critical_curves`` traced to the source plane."""
    curves = critical_curves(values, extent, n)
    return [curve - deflection(values, *curve.T).T for curve in curves]


SMOOTH = MassModel()
