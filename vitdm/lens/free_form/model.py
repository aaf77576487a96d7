"""What a fit with a source of free form returns: the model of one lens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vitdm.config.free_form import FreeForm
from vitdm.data.observation import Observation
from vitdm.lens.free_form.galaxy import Galaxy
from vitdm.lens.free_form.mass import PARAMETERS
from vitdm.lens.free_form.problem import Problem
from vitdm.lens.free_form.source import Mesh

#: what can be wrong with an image or its fit
FLAGS = {
    "no_arcs": "no light stands out beside the lens galaxy",
    "not_converged": "no maximum was found in as many steps as are taken at most",
    "poor": "chi2 per pixel of the arcs above 1.3: the model lacks something",
    "quiet": "chi2 per pixel below 0.4: too large a noise, or one that pixels share",
    "edge": "the arcs reach the edge of the image",
    "far": "a parameter lies more than three standard deviations from its prior's mean",
    "ambiguous": "another Einstein radius was nearly as probable at the start",
    "single": "most of the source is not lensed into several images",
    "crowded": "a masked neighbour is brighter than the arcs",
}


@dataclass(frozen=True, eq=False)
class SourcePlane:
    """The reconstructed source: its most probable ``modes`` on a ``mesh``, and their covariance.

    Brightness is in the unit of the image per square arcsec.
    """

    mesh: Mesh
    modes: NDArray
    root: NDArray  # lower Cholesky factor of the inverse covariance of source and light

    @property
    def center(self) -> tuple[float, float]:
        """The middle ["] of the box that the source lies in."""
        return self.mesh.center

    @property
    def half_width(self) -> float:
        """Half the side ["] of the box."""
        return self.mesh.half_width

    def brightness(self, x: NDArray, y: NDArray) -> NDArray:
        """Return the brightness at places x, y ["] of the source plane, 0 outside the box."""
        return self.mesh.brightness(self.modes, x, y)

    def errors(self, x: NDArray, y: NDArray) -> NDArray:
        """Return the standard deviation of ``brightness``, given the mass."""
        from scipy.linalg import solve_triangular

        x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
        basis = np.zeros((len(self.root), x.size))
        basis[: self.mesh.size] = self.mesh.basis(x.ravel(), y.ravel()).T
        whitened = solve_triangular(self.root, basis, lower=True, check_finite=False)
        return np.sqrt((whitened**2).sum(0)).reshape(x.shape)

    def image(self, n: int = 101) -> tuple[NDArray, NDArray]:
        """Return an image (n, n) of the box, and the distances (n,) ["] of its axes' pixels."""
        axis = np.linspace(-self.half_width, self.half_width, n)
        x, y = np.meshgrid(self.center[0] + axis, self.center[1] + axis)
        return self.brightness(x, y), axis


@dataclass(frozen=True, eq=False)
class LensModel:
    """The fit of one lens; lengths in arcsec from the middle of the image, images (H, W).

    ``values``, ``errors`` (p,) and ``covariance`` (p, p) are of the parameters ``names`` of the
    mass: NaN and 0 where a parameter was not free. ``chi2`` and ``chi2_arcs`` are mean squares of
    the residual over the ``n_pixels`` that were ``fitted``, and over those of them where the arcs
    are brighter than the noise. ``evidence`` is ln of the evidence of source and light, given the
    mass. ``flags`` are words of ``FLAGS``. ``lens_light`` (with the sky) and ``arcs`` are seen
    through the PSF; ``residual`` is in units of the ``noise``, 0 where data are missing.
    ``neighbours``: x, y ["], flux, radius ["], kind, masked. ``galaxy`` is None if its light was
    not fitted. ``problem`` is what searches and refits start from.
    """

    observation: Observation
    names: tuple[str, ...]
    values: NDArray
    errors: NDArray
    covariance: NDArray
    chi2: float
    chi2_arcs: float
    n_pixels: int
    evidence: float
    converged: bool
    flags: tuple[str, ...]
    noise: NDArray
    fitted: NDArray
    lens_light: NDArray
    arcs: NDArray
    residual: NDArray
    neighbours: pd.DataFrame
    galaxy: Galaxy | None
    source: SourcePlane
    problem: Problem
    settings: FreeForm

    def table(self) -> pd.DataFrame:
        """Return a row for each parameter of the mass: name, value, error, unit, meaning."""
        return pd.DataFrame(
            {
                "name": self.names,
                "value": self.values,
                "error": self.errors,
                "unit": [row.unit for row in PARAMETERS],
                "meaning": [row.meaning for row in PARAMETERS],
            }
        )
