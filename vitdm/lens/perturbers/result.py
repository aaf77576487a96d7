"""What a search for perturbers returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vitdm.config import Perturbers
from vitdm.lens.free_form.model import LensModel
from vitdm.lens.free_form.problem import Problem


@dataclass(frozen=True, eq=False)
class Map:
    """A map of a profile: ``amplitude`` and its ``error`` (places,), masses in arcsec^2.

    The error has source, light, macro-model and PSF marginalised, and the correlation of the
    noise; ``snr`` is their ratio. All are NaN where a smooth model can imitate the perturber. For
    strings they are those of the direction with the largest S/N, ``angle`` [rad].
    """

    profile: str
    amplitude: NDArray
    error: NDArray
    angle: NDArray | None = None

    @property
    def snr(self) -> NDArray:
        """Amplitude over error (places,)."""
        return self.amplitude / self.error


@dataclass(frozen=True, eq=False)
class Search:
    """The search for perturbers in one lens.

    ``x``, ``y`` (places,) ["] are the places that were searched, at ``row``, ``column`` of a
    regular grid with the axes ``axis_x``, ``axis_y`` ["]. ``score`` is the largest S/N of
    ``settings.detect``, over ``misfit`` where that is above 1: the rms of its S/N map once its
    highest peaks are taken out, in units of that of the twins. ``p_value`` is the share of smooth
    twins, and the lens itself, that score as much, ``twin_scores`` (n,) are theirs, and
    ``refitted_scores`` (m,) those of twins that were simulated, fitted and searched.
    ``solar_masses`` of 1 arcsec^2 are NaN if the redshifts are unknown. ``perturbed`` is the fit
    with the perturber that gains most evidence, ``after`` the map of ``settings.detect``
    that is left with it.
    """

    model: LensModel
    settings: Perturbers
    x: NDArray
    y: NDArray
    row: NDArray
    column: NDArray
    axis_x: NDArray
    axis_y: NDArray
    maps: dict[str, Map]
    peaks: pd.DataFrame
    score: float
    misfit: float
    p_value: float
    twin_scores: NDArray
    refitted_scores: NDArray
    solar_masses: float
    perturbed: Problem | None = None
    after: Map | None = None

    def image(self, values: NDArray) -> NDArray:
        """Return values at the places (places,) as an image (rows, columns), NaN elsewhere."""
        image = np.full((len(self.axis_y), len(self.axis_x)), np.nan)
        image[self.row, self.column] = values
        return image

    def sensitivity(self, profile: str, snr: float = 5.0) -> NDArray:
        """Return the mass (places,) that would be seen with some S/N.

        In solar masses, or in arcsec^2 if the redshifts are unknown.
        """
        unit = self.solar_masses if np.isfinite(self.solar_masses) else 1.0
        return snr * self.maps[profile].error * unit
