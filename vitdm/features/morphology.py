"""How light is distributed: in pixels, about a point, and along the ring that a lens makes.

Pure functions of arrays; ``features`` applies them to the light of a lens. Lengths are in pixels,
the first pixel's centre is (0, 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vitdm.compiled import compiled

BINS = 128  # azimuthal bins of a ring: about one a pixel on rings of 20 px
SMOOTH_ORDERS = 4  # azimuthal orders that a smooth lens needs: ellipticity and shear make two
FINE_ORDERS = 24  # beyond, neighbouring bins share pixels
VALLEY = 0.05  # a ring around a galaxy is this fraction brighter than the gap between them
BILINEAR = 4 / 9  # of the variance of white noise, left on average by bilinear interpolation
CENTRAL = 0.25  # light whose peak is nearer to its centre than this times its extent is a galaxy

# ------------------------------------------------------------------------------ light in pixels


def gini(flux: NDArray) -> float:
    """Return the Gini coefficient of the flux of pixels (n,): 0 all equal, 1 all light in one.

    Lotz, Primack & Madau (2004), doi:10.1086/421849, eq. 6. NaN for fewer than two pixels.
    """
    n = flux.size
    if n < 2:
        return math.nan
    ordered = np.sort(np.abs(flux))
    total = float(ordered.sum(dtype=np.float64))
    ranks = np.arange(1 - n, n, 2, dtype=np.float64)  # 2 i - n - 1, i = 1 … n
    return float(ranks @ ordered) / (total * (n - 1)) if total > 0 else math.nan


def m20(flux: NDArray, x: NDArray, y: NDArray) -> float:
    """Return log10 of the share of the brightest 20 % of the light in the second moment.

    ``flux``, ``x``, ``y`` (n,); the moment is about the centroid. Lotz, Primack & Madau (2004),
    doi:10.1086/421849, eqs. 7 and 8. NaN without light, or if the light is in one pixel.
    """
    total = float(flux.sum())
    if not total > 0:
        return math.nan
    squared = (x - flux @ x / total) ** 2 + (y - flux @ y / total) ** 2
    # From the brightest pixel on, as many as hold less than 20 % of the light.
    order = np.argsort(flux)[::-1]
    bright = order[np.cumsum(flux[order]) < 0.2 * total]
    brightest = float(flux[bright] @ squared[bright])
    moment = float(flux @ squared)
    return math.log10(brightest / moment) if brightest > 0 and moment > 0 else math.nan


def concentration(flux: NDArray, radii: NDArray) -> float:
    """Return C = 5 log10(r80 / r20), r the radii that hold 80 and 20 % of the light.

    ``flux``, ``radii`` (n,); Conselice (2003), doi:10.1086/375001, section 3.2. NaN without light.
    """
    total = float(flux.sum())
    if not total > 0:
        return math.nan
    # The growth curve: the share of the light within each pixel's radius.
    order = np.argsort(radii)
    share = np.cumsum(flux[order]) / total
    r20, r80 = (radii[order][min(np.searchsorted(share, s), share.size - 1)] for s in (0.2, 0.8))
    return 5 * math.log10(r80 / r20) if r20 > 0 else math.nan


def asymmetry(image: NDArray, mask: NDArray, x: float, y: float, noise: float) -> float:
    """Return A = sum |I - I180| / sum |I|, without what noise adds; I180 is I turned by 180 deg.

    ``image`` (H, W) without its sky, ``mask`` (H, W) its light; the sums are over the mask and the
    mask turned, the centre is the half pixel closest to (x, y) (px). Noise of rms ``noise`` adds
    2 noise / sqrt(pi) a pixel. Conselice (2003), doi:10.1086/375001, section 3.1. NaN without
    light.
    """
    height, width = image.shape
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return math.nan
    # Where each pixel comes to lie when the image is turned; beyond the image there is no light.
    turned_rows, turned_columns = round(2 * y) - rows, round(2 * x) - columns
    inside = (turned_rows >= 0) & (turned_rows < height)
    inside &= (turned_columns >= 0) & (turned_columns < width)
    flux, opposite = image[rows, columns].astype(np.float64), np.zeros(rows.size)
    opposite[inside] = image[turned_rows[inside], turned_columns[inside]]
    # Pairs within the mask are met from both ends, others once: these count twice in both sums.
    twice = np.ones(rows.size)
    twice[inside] = mask[turned_rows[inside], turned_columns[inside]] > 0
    weight = 2.0 - twice
    difference = float(weight @ (np.abs(flux - opposite))) - weight.sum() * 2 * noise / math.sqrt(
        math.pi
    )
    total = float(np.abs(flux).sum() + np.abs(opposite) @ (1 - twice))
    return difference / total if total > 0 else math.nan


# -------------------------------------------------------------------------------- bright regions


def bright_regions(
    smooth: NDArray[np.float32], mask: NDArray[np.uint8], threshold: float
) -> NDArray[np.float64]:
    """Return the flux-weighted centroids (n, 2), x and y (px), of the regions above a threshold.

    ``smooth`` (H, W) is the image, of which ``mask`` (H, W), 1 or 0, tells the pixels that count. A
    ring is one region, whatever it surrounds; pixels that touch at a corner are connected.
    """
    if not mask.size:
        return np.empty((0, 2))
    bright = cv2.compare(smooth, threshold, cv2.CMP_GT) & mask
    count, labels = cv2.connectedComponents(bright, connectivity=8)
    return _centroids(labels, smooth, count - 1)


@compiled
def _centroids(labels, flux, count):
    """Return the flux-weighted mean x, y (count, 2) of the pixels labelled 1 … count."""
    sums = np.zeros((count, 3))
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            k = labels[row, column] - 1
            if k >= 0:
                sums[k, 0] += flux[row, column] * column
                sums[k, 1] += flux[row, column] * row
                sums[k, 2] += flux[row, column]
    return sums[:, :2] / sums[:, 2:]


def separations(points: NDArray[np.float64]) -> tuple[float, float]:
    """Return the smallest and the largest distance between points (n, 2), NaN if n < 2."""
    return _extreme_distances(points) if len(points) > 1 else (math.nan, math.nan)


@compiled
def _extreme_distances(points):
    """Return the smallest and the largest distance between points (n, 2), n > 1."""
    smallest, largest = np.inf, 0.0
    for i in range(len(points)):
        for k in range(i):
            squared = (points[i, 0] - points[k, 0]) ** 2 + (points[i, 1] - points[k, 1]) ** 2
            smallest, largest = min(smallest, squared), max(largest, squared)
    return math.sqrt(smallest), math.sqrt(largest)


# --------------------------------------------------------------------------------- light in rings


def hole_radius(radii: NDArray, flux: NDArray) -> float:
    """Return the radius of the gap between a central galaxy and the ring about it; NaN if none.

    ``radii``, ``flux`` (n,) of pixels about the galaxy's centre. The gap is where the mean
    brightness at a radius is lowest before it rises again, by VALLEY of itself at least.
    """
    # The mean brightness in rings of 1 px, of those radii at which there are pixels.
    bins = np.rint(radii).astype(np.intp)
    pixels = np.bincount(bins)
    profile = np.bincount(bins, flux)[pixels > 0] / pixels[pixels > 0]
    # The ring is where the profile rises most above its lowest value farther in, times the radius;
    # the gap is where it is lowest inside the ring.
    lowest = np.minimum.accumulate(profile)
    ring = int(np.argmax((profile - lowest) * np.flatnonzero(pixels)))
    if not profile[ring] > (1 + VALLEY) * lowest[ring]:
        return math.nan
    return float(np.flatnonzero(pixels)[int(np.argmin(profile[: ring + 1]))])


@dataclass(frozen=True)
class Ring:
    """The light along a circle; all arrays run over azimuth, BINS values from 0 to 360 deg.

    ``polar`` (BINS, radii) is the brightness in units of the noise, at the ``radii`` (px). ``flux``
    is the sum over the radii of the annulus, ``ridge`` the flux-weighted mean radius (px)
    with the weights ``light`` (>= 0), ``power`` (FINE_ORDERS + 1,) the power of the brightness by
    azimuthal order, averaged over the annulus, in units of that of the noise: about one where there
    is only noise. ``rest`` (BINS, radii) is what the orders up to SMOOTH_ORDERS leave, in units of
    the noise.
    """

    polar: NDArray
    radii: NDArray
    flux: NDArray
    ridge: NDArray
    light: NDArray
    power: NDArray
    rest: NDArray


def unroll(
    image: NDArray[np.float32], x: float, y: float, radius: float, width: float, noise: float
) -> Ring:
    """Return the light in the annulus ``radius`` ± ``width`` (px) about (x, y) (px).

    ``image`` (H, W) is without its sky; what lies beyond it counts as 0. ``noise`` is the rms of a
    pixel, in the image's units.
    """
    inner, outer = max(1, math.floor(radius - width)), math.ceil(radius + width)
    polar = cv2.warpPolar(
        image,
        (outer + 1, BINS),
        (x, y),
        outer + 1,
        cv2.INTER_LINEAR + cv2.WARP_POLAR_LINEAR + cv2.WARP_FILL_OUTLIERS,
    )[:, inner:].astype(np.float64)
    # A step in azimuth is longer at larger radii: brightness times radius is flux.
    radii = np.arange(inner, outer + 1, dtype=np.float64)
    lit = np.maximum(polar, 0) * radii
    light = lit.sum(axis=1)
    ridge = np.divide(lit @ radii, light, out=np.full(BINS, radius), where=light > 0)
    orders = np.fft.rfft(polar, axis=0)
    # White noise has the same power at all orders; in bins finer than pixels, at fewer of them.
    pixels = np.minimum(BINS, 2 * np.pi * radii)
    expected = BILINEAR * noise**2 * BINS**2 * (radii / pixels).sum()
    power = (np.abs(orders[: FINE_ORDERS + 1]) ** 2 @ radii) / expected
    # Without the orders of a smooth lens, and those that bins finer than pixels cannot hold.
    orders[: SMOOTH_ORDERS + 1] = 0
    orders[FINE_ORDERS + 1 :] = 0
    rest = np.fft.irfft(orders, n=BINS, axis=0) / noise
    return Ring(polar / noise, radii, (polar * radii).sum(axis=1), ridge, light, power, rest)


def ridge_shape(ring: Ring) -> tuple[float, float]:
    """Return ellipticity and wiggle (px) of a ring's ridge.

    The ridge is fitted, weighted with the light, by
    r = r0 + a1 cos(phi) + b1 sin(phi) + a2 cos(2 phi) + b2 sin(2 phi). The ellipticity is
    sqrt(a2² + b2²) / r0, for an ellipse (1 - q) / (1 + q) to first order, q its axis ratio; the
    wiggle is the rms of what the fit leaves. NaN if the light spans too little of the circle.
    """
    azimuth = 2 * np.pi * np.arange(BINS) / BINS
    weight = np.sqrt(ring.light)
    shape = [np.ones(BINS), np.cos(azimuth), np.sin(azimuth)]
    design = np.stack([*shape, np.cos(2 * azimuth), np.sin(2 * azimuth)], axis=1)
    design = design * weight[:, None]
    normal = design.T @ design
    # A short arc does not determine all five parameters: the normal matrix is nearly singular.
    if not ring.light.sum() > 0 or np.linalg.cond(normal) > 1e6:
        return math.nan, math.nan
    fit = np.linalg.solve(normal, design.T @ (ring.ridge * weight))
    left = ring.ridge * weight - design @ fit
    wiggle = math.sqrt(float(left @ left) / float(ring.light.sum()))
    return float(np.hypot(fit[3], fit[4]) / fit[0]) if fit[0] > 0 else math.nan, wiggle


def fourier_amplitudes(ring: Ring) -> NDArray:
    """Return |sum F exp(i m phi)| / sum F of the flux F along the ring, m = 0 … FINE_ORDERS."""
    orders = np.abs(np.fft.rfft(ring.flux))[: FINE_ORDERS + 1]
    return orders / orders[0] if orders[0] > 0 else np.full(FINE_ORDERS + 1, math.nan)


def power_slope(power: NDArray, first: int) -> float:
    """Return the slope of log(power) against log(order) of the orders from ``first`` on."""
    orders = np.arange(first, power.size)
    if not (power[first:] > 0).all():
        return math.nan
    return float(np.polyfit(np.log(orders), np.log(power[first:]), 1)[0])
