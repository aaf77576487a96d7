"""The features of an image, one function each; ``registry`` says how to add another.

Two groups: those of the project's *proposal* (area, points of greatest luminosity, their
separations), and the *morphology* that the field uses for galaxies and arcs. Lengths are in pixels,
brightness is counted in units of the noise.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from vitdm.features import morphology
from vitdm.features.measured import Measured
from vitdm.features.registry import feature

_PRECURSOR = "after github.com/SVJLucas"
_LOTZ = "Lotz, Primack & Madau (2004), doi:10.1086/421849"
_CONSELICE = "Conselice (2003), doi:10.1086/375001"
_BRIGHT = "regions brighter than {level} of the smoothed peak and than the noise"
_FINER = "larger: perturbers add structure finer than that of a smooth lens"

#: the decorator of features of the light along the ring that are this work's
_of_ring = partial(feature, "morphology", reference="this work", needs="ring")

# ------------------------------------------------------------------------------------- proposal


@feature(
    "proposal",
    unit="px²",
    definition="number of pixels of the smoothed image above the noise threshold, after 3×3 "
    "opening",
    reference=_PRECURSOR,
    expects="larger: added mass magnifies more",
)
def lensed_area(lens: Measured) -> float:
    return float(cv2.countNonZero(lens.light.mask))


@feature(
    "proposal",
    definition=f"number of {_BRIGHT}",
    reference=_PRECURSOR,
    expects="larger: perturbers split arcs",
    levels=True,
)
def n_bright(lens: Measured, level: float) -> float:
    return float(lens.bright(level).count)


@feature(
    "proposal",
    unit="px",
    definition=f"largest distance of the centroids of {_BRIGHT}",
    reference=_PRECURSOR,
    expects="larger: the image separation is twice the Einstein radius",
    levels=True,
)
def max_separation(lens: Measured, level: float) -> float:
    return lens.bright(level).largest


@feature(
    "proposal",
    unit="px",
    definition=f"smallest distance of the centroids of {_BRIGHT}",
    reference=_PRECURSOR,
    expects="smaller: perturbers split an image into close neighbours",
    levels=True,
)
def min_separation(lens: Measured, level: float) -> float:
    return lens.bright(level).smallest


# -------------------------------------------------------------------- morphology: light in pixels


@feature(
    "morphology",
    definition="maximum of the smoothed image above its sky / rms of the smoothed image",
    reference="this work",
    expects="either way: a perturber near an image magnifies or demagnifies it",
)
def peak_snr(lens: Measured) -> float:
    return float(lens.light.smooth.max()) / lens.light.noise_smooth


@feature(
    "morphology",
    definition="sum of (I - sky) / sigma over the lensed area",
    reference="this work",
    expects="larger: added mass magnifies more",
)
def total_flux_snr(lens: Measured) -> float:
    return float(lens.flux.sum()) / lens.light.noise


@feature(
    "morphology",
    definition="sqrt(l1 / l2), l1 > l2 the eigenvalues of the second moments of the lens's light",
    reference="Hu (1962), doi:10.1109/TIT.1962.1057692",
    expects="either way: added mass closes a ring or breaks an arc",
    needs="region",
)
def roi_elongation(lens: Measured) -> float:
    return lens.roi.elongation


@feature(
    "morphology",
    definition="Gini coefficient of F = I - sky in the lensed area: 0 all pixels equal, 1 all in "
    "one",
    reference=f"{_LOTZ}, eq. 6",
    expects="larger: light is gathered into bright spots",
    needs="region",
)
def gini(lens: Measured) -> float:
    return morphology.gini(lens.flux)


@feature(
    "morphology",
    definition="log10 of the share of the brightest 20 % of F in sum(F d²), d from the centroid",
    reference=f"{_LOTZ}, eqs. 7, 8",
    expects="larger: bright spots away from the centre",
    needs="region",
)
def m20(lens: Measured) -> float:
    return morphology.m20(lens.region.flux, lens.region.x, lens.region.y)


@feature(
    "morphology",
    definition="5 log10(r80 / r20), r the radii about the centroid that hold 80 and 20 % of F",
    reference=f"{_CONSELICE}, sect. 3.2",
    expects="either way: a perturber moves light inwards or outwards",
    needs="region",
)
def concentration(lens: Measured) -> float:
    radii = np.hypot(lens.region.x - lens.roi.x, lens.region.y - lens.roi.y)
    return morphology.concentration(lens.region.flux, radii)


@feature(
    "morphology",
    definition="sum |I - I180| / sum |I| in the lens's light, I180 turned by 180°, less what "
    "noise adds",
    reference=f"{_CONSELICE}, sect. 3.1",
    expects="larger: perturbers act on one side",
    needs="region",
)
def asymmetry(lens: Measured) -> float:
    light, roi = lens.light, lens.roi
    return morphology.asymmetry(light.residual, lens.region.mask, roi.x, roi.y, light.noise)


# ------------------------------------------------------------------ morphology: light along a ring


@feature(
    "morphology",
    unit="px",
    definition="radius of the circle fitted to the lens's light, weights F above the noise: about "
    "theta_E",
    reference="Taubin (1991), doi:10.1109/34.103273",
    expects="larger: the mass inside the ring grows by that of the substructure",
    needs="circle",
)
def ring_radius(lens: Measured) -> float:
    return lens.circle.radius


@feature(
    "morphology",
    unit="px",
    definition="sqrt(sum(F (r - R)²) / sum(F)), r the distance to the centre of that circle, R its "
    "radius",
    reference="this work",
    expects="larger: perturbed arcs leave the circle",
    needs="circle",
)
def ring_width(lens: Measured) -> float:
    return lens.circle.width


@feature(
    "morphology",
    definition="sqrt(a² + b²) / r0 of the ridge r(phi) = r0 + … + a cos 2phi + b sin 2phi, "
    "weights F",
    reference="this work; about (1 - q) / (1 + q)",
    expects="either way: clumps add a quadrupole of their own",
    needs="ring",
)
def ring_ellipticity(lens: Measured) -> float:
    return lens.ridge[0]


@_of_ring(
    unit="px",
    definition="rms deviation of the ridge from that fit, weights F",
    expects="larger: clumps shift pieces of the arc",
)
def ring_wiggle(lens: Measured) -> float:
    return lens.ridge[1]


@_of_ring(
    unit="deg",
    definition="angle in which the flux along the ring exceeds half its maximum",
    expects="either way: added mass closes a ring or breaks an arc",
)
def arc_angle(lens: Measured) -> float:
    return 360 * float(np.mean(lens.ring.flux > 0.5 * lens.ring.flux.max()))


@_of_ring(definition="|sum F exp(i phi)| / sum F along the ring", expects="none: the source")
def fourier_1(lens: Measured) -> float:
    return float(lens.amplitudes[1])


@_of_ring(definition="the same of order 2", expects="none: ellipticity and shear")
def fourier_2(lens: Measured) -> float:
    return float(lens.amplitudes[2])


@_of_ring(definition="the same of order 3", expects="larger: not of a smooth lens")
def fourier_3(lens: Measured) -> float:
    return float(lens.amplitudes[3])


@_of_ring(definition="the same of order 4", expects="larger: not of a smooth lens")
def fourier_4(lens: Measured) -> float:
    return float(lens.amplitudes[4])


@_of_ring(definition="root of the summed squares of orders 5 to 8", expects=_FINER)
def fourier_5_8(lens: Measured) -> float:
    return float(np.sqrt((lens.amplitudes[5:9] ** 2).sum()))


@_of_ring(definition="root of the summed squares of orders 9 to 16", expects=_FINER)
def fourier_9_16(lens: Measured) -> float:
    return float(np.sqrt((lens.amplitudes[9:17] ** 2).sum()))


@_of_ring(
    definition="mean power, over that of noise, of the azimuthal orders 5 to 24 about the ring: "
    "what a model smooth in azimuth leaves",
    expects=_FINER,
)
def residual_power(lens: Measured) -> float:
    return float(lens.fine_power.mean())


@_of_ring(
    definition="largest |residual| of that model, in units of the noise of a pixel", expects=_FINER
)
def residual_peak(lens: Measured) -> float:
    return float(np.abs(lens.ring.rest).max())


@feature(
    "morphology",
    definition="slope of log power against log order, of these orders",
    reference="after Bayer et al. (2018), arXiv:1803.05952",
    expects="larger (flatter): clumps have structure at all scales",
    needs="ring",
)
def residual_slope(lens: Measured) -> float:
    return morphology.power_slope(lens.ring.power, morphology.SMOOTH_ORDERS + 1)
