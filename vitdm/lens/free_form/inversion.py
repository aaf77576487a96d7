r"""The source and the light of the lens galaxy that are most probable, given the mass.

Data d with noise of weights w are a linear function of the coefficients s of source and light,
:math:`d = M s + n`. With a normal prior of inverse covariance Q,

.. math:: A = M^T W M + Q, \quad \hat s = A^{-1} M^T W d, \quad
    -2 \ln E = \chi^2 + \hat s^T Q \hat s + \ln\det A - \ln\det Q + N \ln 2\pi - \ln\det W

(Suyu et al. 2006, MNRAS 371, 983, eq. 19). The derivative of ln E by a parameter p of the mass,
with :math:`M' = \partial M / \partial p`, is

.. math:: \hat s^T M'^T W (d - M \hat s) - \mathrm{tr}(A^{-1} M^T W M'),

and its curvature, with :math:`J = M' \hat s`, is that of variable projection (Golub & Pereyra
1973, SIAM J. Numer. Anal. 10, 413) in Kaufman's form,
:math:`J^T W J - J^T W M A^{-1} M^T W J`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpotri

from vitdm.lens.free_form.source import Mesh

WEAKEST = 1e-12  # inverse variance of the prior, over the largest that the data give


@dataclass(frozen=True)
class Prior:
    """The prior of a source on a mesh: ``strength`` lambda, ``kappa`` and ``nu`` of ``source``."""

    strength: float
    kappa: float
    nu: float = 1.0

    def precision(self, mesh: Mesh) -> NDArray:
        """Return the inverse variances (size,) of the modes of a mesh."""
        return self.strength * mesh.precision(self.kappa, self.nu)


class Inversion:
    """The linear problem of one mass: data (N,) and matrix (N, m + k), both times w^1/2.

    The last k columns of the matrix are the light of the lens galaxy, with a normal prior of
    ``light_mean`` and ``light_precision`` (k,). ``log_weight`` is ln det W.
    """

    def __init__(
        self,
        matrix: NDArray,
        data: NDArray,
        mesh: Mesh,
        light_mean: NDArray,
        light_precision: NDArray,
        log_weight: float,
    ) -> None:
        self.mesh, self.data, self.log_weight = mesh, data, log_weight
        self.precision, self.mean = light_precision, light_mean
        self.matrix = matrix
        # only the lower triangle is filled
        self.normal = dsyrk(1.0, self.matrix.T, lower=1)
        self.projected = self.matrix.T @ data

    def solve(self, prior: Prior) -> Solution:
        """Return the most probable source, and the evidence."""
        # a weaker prior than that would be lost in the digits of A
        weakest = WEAKEST * self.normal.diagonal()[: self.mesh.size].max()
        Q = np.concatenate([np.maximum(prior.precision(self.mesh), weakest), self.precision])
        mean = np.concatenate([np.zeros(self.mesh.size), self.mean])
        A, right = self.normal.copy(order="F"), self.projected + Q * mean
        A[np.diag_indices(len(Q))] += Q
        root = scipy.linalg.cholesky(A, lower=True, overwrite_a=True, check_finite=False)
        s = scipy.linalg.cho_solve((root, True), right, check_finite=False)
        r = self.data - self.matrix @ s
        chi2 = float(r @ r)
        penalty = float(Q @ (s - mean) ** 2)
        log_det_A = 2 * float(np.log(np.diag(root)).sum())
        constant = len(self.data) * math.log(2 * math.pi) - self.log_weight
        evidence = -0.5 * (chi2 + penalty + log_det_A - float(np.log(Q).sum()) + constant)
        m = self.mesh.size
        return Solution(s[:m], s[m:], r, chi2, evidence, root, self, prior)


@dataclass(frozen=True, eq=False)
class Solution:
    """The most probable ``source`` (m,) and ``light`` (k,), what they leave, and the evidence.

    ``residual`` (N,) is in units of the noise, ``root`` the lower Cholesky factor of A.
    """

    source: NDArray
    light: NDArray
    residual: NDArray
    chi2: float
    evidence: float
    root: NDArray
    inversion: Inversion
    prior: Prior

    def covariance(self) -> NDArray:
        """Return the covariance (m + k, m + k) of source and light, given the mass: A^-1."""
        inverse, _ = dpotri(self.root, lower=1)
        return np.tril(inverse) + np.tril(inverse, -1).T  # LAPACK fills the lower triangle

    def prior_gradient(self) -> NDArray:
        """Return the derivatives (2,) of the evidence by the logarithms of strength and kappa."""
        mesh, prior, m = self.inversion.mesh, self.prior, len(self.source)
        inverse, _ = dpotri(self.root, lower=1)
        Q = prior.precision(mesh)
        # d ln E / d ln Q: what the prior gains, less what source and its uncertainty cost
        gain = 0.5 * (1 - Q * (self.source**2 + np.diag(inverse)[:m]))
        return np.array([gain.sum(), gain @ mesh.precision_slope(prior.kappa, prior.nu)])

    def balanced_strength(self) -> float:
        """Return the strength with which the prior expects the source that was found.

        A fixed point of the evidence (MacKay 1992, Neural Comput. 4, 415).
        """
        m = len(self.source)
        inverse, _ = dpotri(self.root, lower=1)
        Q = self.prior.precision(self.inversion.mesh)
        measured = max(m - Q @ np.diag(inverse)[:m], 0.5)  # as of nothing but noise
        change = measured / max(float(Q @ self.source**2), 1e-300)
        return self.prior.strength * float(np.clip(change, 1e-3, 1e3))

    def projected_curvature(self, J: NDArray) -> NDArray:
        """Return J^T J (p, p) without what source and light can imitate; J is (N, p)."""
        K = self.inversion.matrix.T @ J
        V = scipy.linalg.solve_triangular(self.root, K, lower=True, check_finite=False)
        return J.T @ J - V.T @ V
