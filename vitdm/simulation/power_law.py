r"""Deflection of one ray by an elliptical power law and by multipoles, compiled.

Positions, deflections and ellipticities are complex numbers: :math:`z = x + i y` ["], from the
centre of the mass, :math:`\alpha = \alpha_x + i \alpha_y` ["], :math:`e = e_1 + i e_2`. No position
angle is then needed: with :math:`\zeta = z - e \bar z` and t = slope - 1, eqs. 13 and 23 of
Tessore & Metcalf 2015 (A&A 580, A79) are

.. math:: \alpha = s^t \zeta F(u), \quad s = \theta_E \sqrt{1 - |e|^2} / |\zeta|, \quad
    u = -\bar e \zeta / \bar\zeta,

where F is the hypergeometric function :math:`_2F_1(1, t/2; 2 - t/2; u)`. As :math:`|u| = |e| < 1`,
its series converges, and a round lens is no special case. Of any lens,
:math:`\partial\alpha / \partial z` is the convergence, a real number, and
:math:`\partial\alpha / \partial\bar z` the complex shear. Everything equals lenstronomy's EPL and
MULTIPOLE; theta_E must be above 0, abs(e) below 1, the slope between 1 and 3.
"""

from __future__ import annotations

import math

import numpy as np

from vitdm.compiled import compiled

#: what the series may lack, relative to the deflection
PRECISION = 1e-13
#: the smallest squared radius ["^2] at which the power law is evaluated
_CORE = 1e-18


@compiled
def series(slope, modulus):
    """Return the coefficients of (F(u) - 1) / u and their derivatives by the slope, (2, n).

    ``modulus`` is that of the ellipticity; n is such that the rest of the series is below
    ``PRECISION``. The coefficients c_1, c_2, … are those of Tessore & Metcalf 2015, eqs. 28-29.
    """
    n = 1
    if modulus > PRECISION:
        n += int(math.log(PRECISION * (1 - modulus)) / math.log(modulus))
    coefficients = np.empty((2, n))
    t = slope - 1
    c, by_slope = 1.0, 0.0  # by_slope: of ln c
    for k in range(n):
        above, below = 2 * k + t, 2 * k + 4 - t
        c *= above / below
        by_slope += 1 / above + 1 / below
        coefficients[0, k] = c
        coefficients[1, k] = c * by_slope
    return coefficients


@compiled
def _polynomial(coefficients, u):
    """Return the sum of coefficients[k] u^k, of a complex u, in real arithmetic (Goertzel)."""
    twice, square = 2 * u.real, u.real * u.real + u.imag * u.imag
    b, previous = 0.0, 0.0
    for k in range(coefficients.size - 1, -1, -1):
        b, previous = coefficients[k] + twice * b - square * previous, b
    return complex(b - previous * u.real, previous * u.imag)


@compiled
def power_law(z, theta_E, e, slope, terms):
    """Return the deflection ["] at ``z`` ["]; ``terms`` is ``series(slope, abs(e))``."""
    t = slope - 1
    zeta = z - e * z.conjugate()
    square = max(zeta.real * zeta.real + zeta.imag * zeta.imag, _CORE)
    u = -e.conjugate() * (zeta * zeta / square)
    modulus = e.real * e.real + e.imag * e.imag
    strength = (theta_E * theta_E * (1 - modulus) / square) ** (t / 2)
    return strength * zeta * (1 + u * _polynomial(terms[0], u))


@compiled
def power_law_derivatives(z, theta_E, e, slope, terms):
    """Return the deflection, its derivatives by theta_E, e1, e2 and slope, convergence, shear.

    All but the convergence are complex. Arguments are those of ``power_law``.
    """
    t, conjugate = slope - 1, e.conjugate()
    zeta = z - e * z.conjugate()
    square = max(zeta.real * zeta.real + zeta.imag * zeta.imag, _CORE)
    turn = zeta * zeta / square  # zeta over its conjugate
    u = -conjugate * turn
    rest = 1 - (e.real * e.real + e.imag * e.imag)
    log_s = 0.5 * math.log(theta_E * theta_E * rest / square)
    strength = math.exp(t * log_s)
    tail = _polynomial(terms[0], u)
    F = 1 + u * tail
    # dF/du, from the equation 2 u (1 - u) F' = (2 - t) (1 - F) + t u F, which F solves
    w = 1 - u
    dF = (t * F - (2 - t) * tail) * w.conjugate() / (2 * (w.real * w.real + w.imag * w.imag))
    alpha = strength * zeta * F
    by_slope = strength * zeta * (log_s * F + u * _polynomial(terms[1], u))
    # derivatives by zeta and by its conjugate
    by_zeta = strength * ((1 - t / 2) * F + u * dF)
    by_conjugate = -strength * turn * (t / 2 * F + u * dF)
    # by e and by its conjugate, through zeta, through the normalisation, and through u
    normalisation = t / (2 * rest) * alpha
    by_e = -z.conjugate() * by_zeta - conjugate * normalisation
    by_e_bar = -z * by_conjugate - e * normalisation - strength * zeta * turn * dF
    convergence = (1 - t / 2) * strength
    shear = by_conjugate - e * by_zeta
    by_e1, by_e2 = by_e + by_e_bar, 1j * (by_e - by_e_bar)
    return alpha, t / theta_E * alpha, by_e1, by_e2, by_slope, convergence, shear


@compiled
def polar(z):
    """Return the direction z / |z| (0 at the centre) and the radius ["], at least 1e-6."""
    radius = math.sqrt(z.real * z.real + z.imag * z.imag)
    return z / max(radius, 1e-300), max(radius, 1e-6)


@compiled
def multipole(m, direction, log_radius, amplitude):
    """Return the deflection ["] of an isothermal circular multipole of order ``m`` >= 1.

    ``amplitude`` is a_m exp(i m phi_m) ["] of Xu et al. 2013, arXiv:1307.4220, eq. B12;
    ``log_radius``, which matters for m = 1 only, is ln(r / theta_E).
    """
    power = amplitude.conjugate()
    for _ in range(m):
        power = power * direction
    if m == 1:
        return 0.5 * (amplitude * log_radius + direction * power.real)
    return direction * complex(power.real, -m * power.imag) / (1 - m * m)


@compiled
def multipole_hessian(m, direction, radius, amplitude):
    """Return the convergence and the complex shear of ``multipole``."""
    power = amplitude.conjugate()
    for _ in range(m):
        power = power * direction
    convergence = power.real / (2 * radius)
    shear = -convergence * direction * direction
    if m == 1:
        shear += amplitude * direction / (2 * radius)
    return convergence, shear


@compiled
def multipoles(z, theta_E, amplitudes):
    """Return the deflection ["] of the multipoles m = 1, 3, 4.

    ``amplitudes`` (6 numbers) are x and y of each a_m exp(i m phi_m) / theta_E.
    """
    a1_x, a1_y, a3_x, a3_y, a4_x, a4_y = amplitudes
    direction, radius = polar(z)
    return theta_E * (
        multipole(1, direction, math.log(radius / theta_E), complex(a1_x, a1_y))
        + multipole(3, direction, 0.0, complex(a3_x, a3_y))
        + multipole(4, direction, 0.0, complex(a4_x, a4_y))
    )


@compiled
def multipoles_derivatives(z, theta_E, amplitudes):
    """Return the deflection, its derivatives by theta_E and by the amplitudes, convergence, shear.

    The derivatives by the six amplitudes are a tuple; all but the convergence are complex.
    Arguments are those of ``multipoles``.
    """
    a1_x, a1_y, a3_x, a3_y, a4_x, a4_y = amplitudes
    direction, radius = polar(z)
    log_radius = math.log(radius / theta_E)
    # the deflection is linear in the amplitudes: theirs are the deflections of 1 and of i
    by_1x = multipole(1, direction, log_radius, 1 + 0j)
    by_1y = multipole(1, direction, log_radius, 1j)
    by_3x = multipole(3, direction, 0.0, 1 + 0j)
    by_3y = multipole(3, direction, 0.0, 1j)
    by_4x = multipole(4, direction, 0.0, 1 + 0j)
    by_4y = multipole(4, direction, 0.0, 1j)
    unit = a1_x * by_1x + a1_y * by_1y + a3_x * by_3x + a3_y * by_3y + a4_x * by_4x + a4_y * by_4y
    by_theta_E = unit - 0.5 * complex(a1_x, a1_y)  # m = 1 has the logarithm of r / theta_E
    by_1 = (theta_E * by_1x, theta_E * by_1y)
    by_3 = (theta_E * by_3x, theta_E * by_3y)
    by_4 = (theta_E * by_4x, theta_E * by_4y)
    kappa1, shear1 = multipole_hessian(1, direction, radius, complex(a1_x, a1_y))
    kappa3, shear3 = multipole_hessian(3, direction, radius, complex(a3_x, a3_y))
    kappa4, shear4 = multipole_hessian(4, direction, radius, complex(a4_x, a4_y))
    convergence = theta_E * (kappa1 + kappa3 + kappa4)
    shear = theta_E * (shear1 + shear3 + shear4)
    return theta_E * unit, by_theta_E, by_1 + by_3 + by_4, convergence, shear
