r"""Maps of perturbers in a fitted lens, with all that a smooth model could imitate marginalised.

A perturber of unit mass with the deflection a(x - s) changes the image, to first order, by

.. math:: T_s = -B\,(\nabla S \cdot a(x - s)) / \sigma,

S the source at the rays x, B the PSF and the pixels, :math:`\sigma` the noise. To first order, too,
the image of the smooth model is :math:`G \theta`, :math:`\theta` being the coefficients of source
and lens light, steps of the mass, shift and growth of the source's box, the width of the PSF, and
splines where the source is brightest, for its cusp and clumps (``Beside``), with a normal prior of
mean :math:`\mu` and inverse covariance Q. With :math:`C = 1 + G Q^{-1} G^T`,

.. math:: N = T^T C^{-1} (d - G \mu), \quad D = T^T C^{-1} T, \quad
    \hat m = N / D \pm D^{-1/2},

what is most probable for the mass and its error when :math:`\theta` is integrated out: the matched
subspace detector (Scharf & Friedlander 1994, IEEE Trans. Signal Process. 42, 2146) with a subspace
that has a prior. By Woodbury's identity, with :math:`A = G^T G + Q = L L^T`,
:math:`D = |T|^2 - |L^{-1} G^T T|^2`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk
from scipy.ndimage import affine_transform

from vitdm.compiled import compiled
from vitdm.lens.free_form.problem import Problem
from vitdm.lens.free_form.source import Mesh, splines
from vitdm.lens.perturbers.profiles import Profile, deflection_at

SURE = 1e-4  # of |T|^2 must be left, or the smooth model imitates the perturber
KEPT = 0.999  # of the squared signal, in the pixels that templates are made of
NEAR = 4.0  # px from a perturber within which rays count one by one, not pixels
BLOCK = 128  # places at a time
WIDER = 0.05  # relative step of the derivative by the PSF's width
FREE = 1e-6  # inverse variance of what has no prior


@dataclass(frozen=True)
class Beside:
    """Splines beside those of the mesh, whose prior expects the same roughness everywhere.

    They lie where the source is brightest: ``most`` of them, on a square grid ``spacing`` apart (in
    cells of the middle of the mesh), none where the brightness is less than ``faintest`` of the
    largest. The standard deviation of their heights is ``sd`` times the brightness there.
    """

    most: int
    spacing: float
    sd: float
    faintest: float


BESIDE = (
    Beside(250, 1.5, 1.0, 0.005),  # clumps, spiral arms
    Beside(100, 0.5, 0.3, 0.02),  # a cusp, which no mesh can follow
)


class Marginal:
    """The linear problem of a fitted lens, about which perturbers are looked for."""

    def __init__(self, problem: Problem, psf_sd: float = 0.0) -> None:
        posterior, point, self.optics = problem.posterior, problem.point, problem.view.optics
        solution, o = point.solution, self.optics
        mesh, free, self.weight = solution.inversion.mesh, posterior.free, posterior.weight
        brightness, *along = mesh.gradient(solution.source, point.x, point.y)
        self.along = np.array(along)
        _, by = posterior.mass.deflection_and_derivatives(point.values, o.x, o.y)
        growth = along[0] * (point.x - mesh.center[0]) + along[1] * (point.y - mesh.center[1])
        steps = -(along[0] * by[free, 0] + along[1] * by[free, 1])
        columns = [o.seen(np.concatenate([steps, self.along, growth[None]]))]
        precision = [posterior.precision[free], np.full(3, FREE)]
        if psf_sd:
            columns.append(o.seen(brightness, _widened(o.kernel))[None])
            precision.append(np.array([psf_sd**-2.0]))
        for beside in BESIDE:
            places, spacing, height = _brightest(mesh, solution.source, beside)
            columns.append(o.seen(splines(places, spacing, point.x, point.y)))
            precision.append((beside.sd * height) ** -2.0)
        self.matrix = np.hstack([solution.inversion.matrix, (np.vstack(columns) * self.weight).T])
        Q = solution.prior.precision(mesh)
        self.precision = np.concatenate([Q, posterior.light_precision, *precision])
        self.mean = np.zeros(len(self.precision))
        at = len(Q) + len(posterior.light_mean)
        self.mean[len(Q) : at] = posterior.light_mean
        self.mean[at : at + len(free)] = (posterior.mean - point.values)[free]
        normal = dsyrk(1.0, self.matrix.T, lower=1)
        normal[np.diag_indices_from(normal)] += self.precision
        self.root = scipy.linalg.cholesky(normal, lower=True, overwrite_a=True)
        self._choose_rows()

    def _choose_rows(self) -> None:
        """Choose the pixels of the image that perturbers change, and those that light them."""
        o = self.optics
        change = o.seen(np.hypot(*self.along)) * self.weight
        self.rows = _most(change**2)
        row, column = o.row[self.rows], o.column[self.rows]
        seen = np.zeros(o.slot.shape, np.uint8)
        seen[row, column] = 1
        tall, wide = o.kernel.shape
        anchor = ((wide - 1) // 2, (tall - 1) // 2)
        seen = cv2.dilate(seen, (o.kernel != 0).astype(np.uint8), anchor=anchor) > 0
        flux = np.hypot(*np.add.reduceat(self.along**2 * o.share, o.first[:-1], axis=1))
        lit = np.flatnonzero((flux > 0) & seen[o.lit])
        self.lit = lit[_most(flux[lit])]
        self.slot = np.full(o.slot.shape, -1, np.int64)
        self.slot.flat[np.flatnonzero(o.slot.ravel() >= 0)[self.lit]] = np.arange(len(self.lit))
        self.row, self.column = row, column
        self.compact = self.matrix[self.rows].astype(np.float32)

    def residual(self, data: NDArray) -> NDArray:
        """Return C^-1 (d - G mu), (N,) or (N, k), of data in units of the noise."""
        mean = self.mean if data.ndim == 1 else self.mean[:, None]
        off = data - self.matrix @ mean
        best = scipy.linalg.cho_solve((self.root, True), self.matrix.T @ off, check_finite=False)
        return off - self.matrix @ best

    def templates(self, profile: Profile, x: NDArray, y: NDArray) -> NDArray:
        """Return what unit masses at x, y (n,) ["] change in the image, (rows, n) float32."""
        o = self.optics
        force = np.ascontiguousarray(-self.along * o.share)
        out = np.empty((len(self.rows), len(x)), np.float32)
        near = NEAR * math.sqrt(o.area)
        near += profile.scale / 2 if profile.name == "string" else 0.0  # of its ends
        for first in range(0, len(x), BLOCK):
            some = slice(first, first + BLOCK)
            rays = o.x, o.y, force, o.first, self.lit
            pixels = _change(profile.layout, x[some], y[some], *rays, near)
            place = self.slot, self.row, self.column, o.kernel, self.weight[self.rows]
            out[:, some] = _through(pixels, *place)
        return out

    def whitened(self, templates: NDArray) -> NDArray:
        """Return L^-1 G^T T (m, n): what the smooth model imitates of templates (rows, n)."""
        seen = self.compact.T @ templates
        return scipy.linalg.solve_triangular(
            self.root.astype(np.float32), seen, lower=True, check_finite=False
        )


def _brightest(mesh: Mesh, modes: NDArray, beside: Beside) -> tuple[NDArray, float, NDArray]:
    """Return the brightest places (2, n) ["] of a source, their spacing and brightness (n,)."""
    spacing = beside.spacing * mesh.finest_cell
    count = min(math.floor(mesh.half_width / spacing), 2 * mesh.n)
    axis = np.arange(-count, count + 1) * spacing
    x, y = (grid.ravel() for grid in np.meshgrid(*(middle + axis for middle in mesh.center)))
    brightness = mesh.brightness(modes, x, y)
    order = np.argsort(-brightness, kind="stable")[: beside.most]
    order = order[brightness[order] > beside.faintest * brightness.max()]
    return np.array([x[order], y[order]]), spacing, brightness[order]


def information(templates: NDArray, whitened: NDArray) -> NDArray:
    """Return D (n,) of templates (rows, n), 0 where that is but rounding."""
    whole = np.einsum("ij,ij->j", templates, templates, dtype=np.float64)
    left = whole - np.einsum("ij,ij->j", whitened, whitened, dtype=np.float64)
    return np.where(left > SURE * whole, left, 0.0)


def _most(squares: NDArray) -> NDArray:
    """Return the fewest indices, in order, that hold nearly all of a sum."""
    order = np.argsort(-squares, kind="stable")
    total = np.cumsum(squares[order])
    return np.sort(order[: np.searchsorted(total, KEPT * total[-1]) + 1])


def _widened(kernel: NDArray) -> NDArray:
    """Return the derivative (h, w) of a PSF by the logarithm of its width."""
    wide, narrow = (_scaled(kernel, 1 + sign * WIDER) for sign in (1, -1))
    return np.ascontiguousarray((wide - narrow) / (2 * WIDER))


def _scaled(kernel: NDArray, factor: float) -> NDArray:
    """Return a kernel, as much wider about its middle, of the same sum."""
    middle = (np.array(kernel.shape) - 1) / 2
    scaled = affine_transform(kernel, np.eye(2) / factor, middle - middle / factor, order=5)
    return scaled * kernel.sum() / scaled.sum()


# ------------------------------------------------------------------------------- compiled loops


@compiled
def _change(layout, at_x, at_y, x, y, force, first, lit, near):
    """Return what perturbers at places (n,) change in the brightness of pixels, (lit, n)."""
    out = np.empty((lit.size, at_x.size), np.float32)
    for p in range(lit.size):
        begin, end = first[lit[p]], first[lit[p] + 1]
        middle_x, middle_y = x[begin:end].mean(), y[begin:end].mean()
        total_x, total_y = force[0, begin:end].sum(), force[1, begin:end].sum()
        for k in range(at_x.size):
            dx, dy = middle_x - at_x[k], middle_y - at_y[k]
            if end - begin == 1 or dx * dx + dy * dy > near * near:
                a, b = deflection_at(layout, dx, dy)
                out[p, k] = total_x * a + total_y * b
                continue
            total = 0.0
            for i in range(begin, end):
                a, b = deflection_at(layout, x[i] - at_x[k], y[i] - at_y[k])
                total += force[0, i] * a + force[1, i] * b
            out[p, k] = total
    return out


@compiled
def _through(pixels, slot, row, column, kernel, weight):
    """Return what pixels at ``row``, ``column`` see of changes (lit, n), times a weight."""
    height, width = slot.shape
    tall, wide = kernel.shape
    up, left = (tall - 1) // 2, (wide - 1) // 2
    out = np.zeros((row.size, pixels.shape[1]), np.float32)
    for i in range(row.size):
        for a in range(tall):
            r = row[i] + up - a
            if r < 0 or r >= height:
                continue
            for b in range(wide):
                c = column[i] + left - b
                if c < 0 or c >= width or slot[r, c] < 0:
                    continue
                p = slot[r, c]
                strength = np.float32(kernel[a, b] * weight[i])
                for k in range(pixels.shape[1]):
                    out[i, k] += strength * pixels[p, k]
    return out
