r"""A source without a formula: splines on a mesh, and how smooth they are expected to be.

The brightness is a sum of quadratic B-splines on a mesh of n x n cells within a box of the source
plane, whose cells are finer in its middle: with :math:`t \in [-1, 1]` along each axis,
:math:`x = h \sinh(a t) / \sinh(a)`. All splines lie inside, so that brightness and its gradient
vanish at the edge of the box.

The prior of the source is a Gaussian process in t with a Matérn covariance, times an envelope
:math:`(1 + r^2 / r_0^2)^{-p / 2}` that tells how its expected brightness falls with the distance r
from the middle of the box (:math:`r_0 = h / 10`): galaxies are bright in their middle, and what is
the noise there must not be allowed for in their outskirts. The process is the solution of a
stochastic differential equation (Lindgren, Rue & Lindström 2011, J. R. Stat. Soc. B 73, 423), so
that the inverse covariance Q of the splines' coefficients follows from their Gram matrices along
one axis, of the splines (M) and of their slopes (K): in the basis of the generalised eigenvectors
of K and M, of eigenvalues :math:`\mu`, Q is diagonal,

.. math:: Q = \frac{\lambda}{4 \pi \nu \kappa^{2 \nu}} (\kappa^2 + \mu_i + \mu_j)^{\nu + 1}.

Far from the edge, :math:`\lambda^{-1/2}` is the standard deviation of the brightness and
:math:`\sqrt{8 \nu} / \kappa` the length over which it changes. Both and p are chosen by the
evidence (``inversion``).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from vitdm.compiled import compiled

CORE = 0.1  # of the half width of the box, radius within which the envelope is flat


@dataclass(frozen=True)
class Mesh:
    """A mesh of ``n`` x ``n`` splines in a box of the source plane; lengths in arcsec.

    ``center`` (x, y) and ``half_width`` are those of the box; ``focus`` is a, how much finer the
    cells in its middle are (0: not); ``taper`` is p, how fast the expected brightness falls.
    """

    center: tuple[float, float]
    half_width: float
    n: int
    focus: float = 3.0
    taper: float = 1.0

    @property
    def size(self) -> int:
        """The number of splines."""
        return self.n**2

    @property
    def layout(self) -> NDArray:
        """The numbers that compiled loops need: x, y, half width, n, focus."""
        return np.array([*self.center, self.half_width, self.n, self.focus], float)

    @property
    def finest_cell(self) -> float:
        """The width ["] of the cells in the middle."""
        slope = self.focus / math.sinh(self.focus) if self.focus else 1.0
        return self.half_width * slope * 2 / (self.n + 2)

    @property
    def envelope(self) -> NDArray:
        """The expected brightness (size,) of the splines, falling from 1 in the middle."""
        t = (2 * np.arange(self.n) + 3) / (self.n + 2) - 1
        x = np.sinh(self.focus * t) / math.sinh(self.focus) if self.focus else t
        radius2 = (x[:, None] ** 2 + x**2).ravel()
        return (1 + radius2 / CORE**2) ** (-self.taper / 2)

    def brightness(self, modes: NDArray, x: NDArray, y: NDArray) -> NDArray:
        """Return the brightness at places of the source plane (any shape), 0 outside the box."""
        x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
        return self.gradient(modes, x.ravel(), y.ravel())[0].reshape(x.shape)

    def gradient(self, modes: NDArray, x: NDArray, y: NDArray) -> NDArray:
        """Return brightness and its derivatives by x and y, (3, n), at x, y (n,)."""
        return _evaluate(self.layout, self.from_modes(modes), x, y)

    def basis(self, x: NDArray, y: NDArray) -> NDArray:
        """Return the modes (places, size) at x, y (places,)."""
        rows = np.zeros((len(x), self.size))
        _write_basis(self.layout, x, y, rows)
        return self.to_modes(rows)

    def to_modes(self, rows: NDArray) -> NDArray:
        """Return what is linear in the splines, (k, size), as linear in the modes: the columns."""
        return self._along_axes(rows * self.envelope, _modes(self.n)[1])

    def from_modes(self, modes: NDArray) -> NDArray:
        """Return the splines' coefficients (..., size) of the modes' (..., size)."""
        return self._along_axes(modes, _modes(self.n)[1].T) * self.envelope

    def _along_axes(self, rows: NDArray, matrix: NDArray) -> NDArray:
        """Return rows (..., size) times a matrix (n, n) along both axes of the mesh."""
        n, count = self.n, rows.size // self.size
        # two large products are faster than many small ones
        turned = (rows.reshape(-1, n) @ matrix).reshape(count, n, n).swapaxes(1, 2)
        turned = (turned.reshape(-1, n) @ matrix).reshape(count, n, n).swapaxes(1, 2)
        return turned.reshape(rows.shape)

    def precision(self, kappa: float, nu: float) -> NDArray:
        """Return the prior's inverse variances (size,) of the modes, for unit amplitude."""
        return (kappa**2 + self._squares()) ** (nu + 1) / (4 * np.pi * nu * kappa ** (2 * nu))

    def precision_slope(self, kappa: float, nu: float) -> NDArray:
        """Return the derivative (size,) of ln ``precision`` by ln kappa."""
        return 2 * (nu + 1) * kappa**2 / (kappa**2 + self._squares()) - 2 * nu

    def _squares(self) -> NDArray:
        """Return the squared wave numbers (size,) of the modes."""
        mu, _ = _modes(self.n)
        return (mu[:, None] + mu).ravel()

    def draw(self, kappa: float, nu: float, rng: np.random.Generator) -> NDArray:
        """Return the modes (size,) of a source drawn from the prior of unit amplitude."""
        return rng.standard_normal(self.size) / np.sqrt(self.precision(kappa, nu))


def splines(places: NDArray, spacing: float, x: NDArray, y: NDArray) -> NDArray:
    """Return quadratic B-splines about places (2, n), on cells of a width, at x, y (k,): (n, k)."""
    return _splines(np.ascontiguousarray(places), spacing, x, y)


@functools.lru_cache(maxsize=16)
def _gram(n: int) -> tuple[NDArray, NDArray]:
    """Return the Gram matrices of n splines, and of their slopes, on cells of width 2 / (n + 2)."""
    step = 2 / (n + 2)
    mass = scipy.linalg.toeplitz([66, 26, 1, *[0] * (n - 3)]) / 120 * step
    slope = scipy.linalg.toeplitz([6, -2, -1, *[0] * (n - 3)]) / 6 / step
    return mass, slope


@functools.lru_cache(maxsize=16)
def _modes(n: int) -> tuple[NDArray, NDArray]:
    mass, slope = _gram(n)
    return scipy.linalg.eigh(slope, mass)


# ------------------------------------------------------------------------------- compiled loops


@compiled
def _along(position, half_width, n, focus, weights, slopes):
    """Write the three splines that are not 0 at a position, and their slopes; return the first.

    Splines are numbered from -2; -9 if the position is outside.
    """
    if not abs(position) < half_width:
        return -9
    if focus > 0:
        scale = np.sinh(focus) / half_width
        t = np.arcsinh(position * scale) / focus
        dt = scale / np.sqrt(1 + (position * scale) ** 2) / focus
    else:
        t, dt = position / half_width, 1 / half_width
    u = (t + 1) / 2 * (n + 2)
    du = dt / 2 * (n + 2)
    cell = min(int(u), n + 1)
    f = u - cell
    weights[0], weights[1], weights[2] = (
        0.5 * (1 - f) * (1 - f),
        0.5 + f * (1 - f),
        0.5 * f * f,
    )
    slopes[0], slopes[1], slopes[2] = -(1 - f) * du, (1 - 2 * f) * du, f * du
    return cell - 2


@compiled
def _evaluate(layout, coefficients, x, y):
    n = int(layout[3])
    out = np.zeros((3, x.size))
    wx, wy, sx, sy = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    for k in range(x.size):
        i = _along(x[k] - layout[0], layout[2], n, layout[4], wx, sx)
        j = _along(y[k] - layout[1], layout[2], n, layout[4], wy, sy)
        if i == -9 or j == -9:
            continue
        for b in range(3):
            if not 0 <= j + b < n:
                continue
            for a in range(3):
                if 0 <= i + a < n:
                    c = coefficients[(j + b) * n + i + a]
                    out[0, k] += c * wy[b] * wx[a]
                    out[1, k] += c * wy[b] * sx[a]
                    out[2, k] += c * sy[b] * wx[a]
    return out


@compiled
def _write_basis(layout, x, y, rows):
    n = int(layout[3])
    wx, wy, sx, sy = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    for k in range(x.size):
        i = _along(x[k] - layout[0], layout[2], n, layout[4], wx, sx)
        j = _along(y[k] - layout[1], layout[2], n, layout[4], wy, sy)
        if i == -9 or j == -9:
            continue
        for b in range(3):
            for a in range(3):
                if 0 <= j + b < n and 0 <= i + a < n:
                    rows[k, (j + b) * n + i + a] = wy[b] * wx[a]


@compiled
def _splines(places, spacing, x, y):
    out = np.zeros((places.shape[1], x.size))
    for k in range(places.shape[1]):
        for i in range(x.size):
            u, v = abs(x[i] - places[0, k]) / spacing, abs(y[i] - places[1, k]) / spacing
            if u < 1.5 and v < 1.5:
                wide = 0.75 - u * u if u < 0.5 else 0.5 * (1.5 - u) ** 2
                tall = 0.75 - v * v if v < 0.5 else 0.5 * (1.5 - v) ** 2
                out[k, i] = wide * tall
    return out
