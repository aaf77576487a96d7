"""The circle that the light of a lens lies on."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def fit_circle(x: NDArray, y: NDArray, weight: NDArray) -> tuple[float, float, float]:
    """Return the centre x, y and the radius of the circle through weighted points (n,).

    Taubin's algebraic fit (1991, doi:10.1109/34.103273), which minimises
    sum w (z - 2 a x - 2 b y - c)² / sum w |grad|², z = x² + y², as an eigenvalue problem. NaN if
    the points lie on a line, or are fewer than three.
    """
    nothing = (math.nan, math.nan, math.nan)
    total = float(weight.sum())
    if weight.size < 3 or not total > 0:
        return nothing
    # About the weighted mean, in which case sum w u = sum w v = 0.
    w = weight / total
    x0, y0 = float(w @ x), float(w @ y)
    u, v = x - x0, y - y0
    z = u * u + v * v
    mean_z = float(w @ z)
    if not mean_z > 0:
        return nothing
    # Unknowns (a, b) of the centre and c, in the basis where the gradient's norm is one.
    scale = 2 * math.sqrt(mean_z)
    design = np.stack([(z - mean_z) / scale, u, v]) * np.sqrt(w)
    values, vectors = np.linalg.eigh(design @ design.T)
    curvature, a, b = vectors[:, 0]  # of the smallest eigenvalue: the best fit
    curvature /= scale
    # No curvature, or two vanishing eigenvalues: the points lie on a line.
    if abs(curvature) * math.sqrt(mean_z) < 1e-6 or values[1] <= 1e-12 * values[2]:
        return nothing
    cx, cy = -a / (2 * curvature), -b / (2 * curvature)
    return x0 + cx, y0 + cy, math.sqrt(cx * cx + cy * cy + mean_z)
