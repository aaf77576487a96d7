"""An image whose light is detected: what several features share, computed once, when asked for."""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from vitdm.features import morphology
from vitdm.preprocess import Detection, Roi
from vitdm.preprocess.circle import fit_circle


class Region(NamedTuple):
    """The light of the lens: the lit pixels within the region of interest.

    ``x``, ``y`` (n,) are their columns and rows (px), ``flux`` (n,) is their brightness above the
    sky (image units), ``mask`` (H, W) is 1 in them and 0 elsewhere.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    flux: NDArray[np.float64]
    mask: NDArray[np.uint8]


class Bright(NamedTuple):
    """Bright regions of an image: how many, and their smallest and largest separation (px)."""

    count: int
    smallest: float
    largest: float


class Circle(NamedTuple):
    """The circle through the lens's light: centre, radius, rms width of the light about it (px)."""

    x: float
    y: float
    radius: float
    width: float


class Measured:
    """What features are measured on: the light of an image and its region of interest.

    Everything else is derived from them and kept; what an image does not have is None.
    """

    def __init__(self, light: Detection, roi: Roi):
        self.light = light
        self.roi = roi
        self._bright: dict[float, Bright] = {}

    @cached_property
    def flux(self) -> NDArray[np.float64]:
        """The brightness above the sky (image units) of all lit pixels (n,)."""
        return self.light.residual[np.nonzero(self.light.mask)].astype(np.float64)

    @cached_property
    def region(self) -> Region | None:
        """The lit pixels within the region of interest; None if no region is found."""
        if not self.roi.found:
            return None
        mask = self.light.mask * self.roi.mask
        y, x = np.nonzero(mask)
        return Region(x, y, self.light.residual[y, x].astype(np.float64), mask)

    # ------------------------------------------------------------------------- bright regions

    @cached_property
    def _smooth(self) -> tuple[NDArray[np.float32], NDArray[np.uint8], float]:
        """The smoothed image and the mask in the smallest box of the light, and the peak there."""
        left, top, width, height = cv2.boundingRect(self.light.mask)
        box = np.s_[top : top + height, left : left + width]  # empty if no light is found
        mask, smooth = self.light.mask[box], self.light.smooth[box]
        return smooth, mask, float(cv2.minMaxLoc(smooth, mask)[1]) if mask.size else 0.0

    def bright(self, level: float) -> Bright:
        """Return the regions brighter than ``level`` of the smoothed peak, and than the noise."""
        if level not in self._bright:
            smooth, mask, peak = self._smooth
            centres = morphology.bright_regions(smooth, mask, max(level * peak, self.light.level))
            self._bright[level] = Bright(len(centres), *morphology.separations(centres))
        return self._bright[level]

    # ------------------------------------------------------------------------------- the ring

    @cached_property
    def circle(self) -> Circle | None:
        """The circle that the lens's light lies on, without a galaxy in its middle.

        None if it lies on no circle of the size of the region.
        """
        light, roi = self.light, self.roi
        if self.region is None or not self.region.x.size:
            return None
        x, y = self.region.x, self.region.y
        # The weights vanish at the edge of the light: a pixel more or less there moves nothing.
        weight = np.maximum(light.smooth[y, x].astype(np.float64) - light.level, 0)
        brightest = int(np.argmax(weight))
        offset = math.hypot(x[brightest] - roi.x, y[brightest] - roi.y)
        if offset < morphology.CENTRAL * roi.radius:  # a galaxy: the ring is what is around it
            radii = np.hypot(x - x[brightest], y - y[brightest])
            outside = radii > morphology.hole_radius(radii, weight)  # none, if there is no hole
            x, y, weight = x[outside], y[outside], weight[outside]
        x0, y0, radius = fit_circle(x, y, weight)
        # A circle far larger than the region, or beside it, means that the light is no part of one.
        if not (
            1 < radius < 2 * roi.radius and math.hypot(x0 - roi.x, y0 - roi.y) < 2 * roi.radius
        ):
            return None
        deviation = np.hypot(x - x0, y - y0) - radius
        width = math.sqrt(float(weight @ deviation**2) / float(weight.sum()))
        return Circle(x0, y0, radius, width)

    @cached_property
    def ring(self) -> morphology.Ring | None:
        """The light along the circle, in the annulus that holds nearly all of it; None without."""
        if self.circle is None:
            return None
        x, y, radius, width = self.circle
        width = max(2.5 * width, 2.0)
        return morphology.unroll(self.light.residual, x, y, radius, width, self.light.noise)

    @cached_property
    def ridge(self) -> tuple[float, float]:
        """Ellipticity and wiggle (px) of the ring's ridge (``morphology.ridge_shape``)."""
        return morphology.ridge_shape(self.ring)

    @cached_property
    def amplitudes(self) -> NDArray[np.float64]:
        """|sum F exp(i m phi)| / sum F along the ring by order m (``fourier_amplitudes``)."""
        return morphology.fourier_amplitudes(self.ring)

    @cached_property
    def fine_power(self) -> NDArray[np.float64]:
        """Power over that of noise, of the azimuthal orders beyond those of a smooth lens."""
        return self.ring.power[morphology.SMOOTH_ORDERS + 1 :]
