"""What each feature is: its group, unit, formula, where it is from, what substructure does to it.

Three groups. Two are measured on the image (``features``): those of the project's *proposal*
(area, points of greatest luminosity, their separations), and the *morphology* that the field uses
for galaxies and arcs. The third, *lensfit*, is measured on a smooth lens that is fitted to the
image, and on what it leaves (``vitdm.lens.residuals``, ``vitdm.lens.search``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from vitdm.config import Features
from vitdm.lens.residuals import ORDERS, SCALES

GROUPS = ("proposal", "morphology", "lensfit")


@dataclass(frozen=True)
class Feature:
    """What a feature is: group, unit, formula, where it is from, how substructure changes it."""

    group: str
    unit: str
    definition: str
    reference: str
    expects: str


_PRECURSOR = "after github.com/SVJLucas"
_LOTZ = "Lotz, Primack & Madau (2004), doi:10.1086/421849"
_CONSELICE = "Conselice (2003), doi:10.1086/375001"
_AREA = Feature(
    "proposal",
    "px²",
    "number of pixels of the smoothed image above the noise threshold, after 3×3 opening",
    _PRECURSOR,
    "larger: added mass magnifies more",
)
_FINER = "larger: perturbers add structure finer than that of a smooth lens"
_MEASURED = {
    "peak_snr": (
        "",
        "maximum of the smoothed image above its sky / rms of the smoothed image",
        "this work",
        "either way: a perturber near an image magnifies or demagnifies it",
    ),
    "total_flux_snr": (
        "",
        "sum of (I - sky) / sigma over the lensed area",
        "this work",
        "larger: added mass magnifies more",
    ),
    "roi_elongation": (
        "",
        "sqrt(l1 / l2), l1 > l2 the eigenvalues of the second moments of the lens's light",
        "Hu (1962), doi:10.1109/TIT.1962.1057692",
        "either way: added mass closes a ring or breaks an arc",
    ),
    "gini": (
        "",
        "Gini coefficient of F = I - sky in the lensed area: 0 all pixels equal, 1 all in one",
        f"{_LOTZ}, eq. 6",
        "larger: light is gathered into bright spots",
    ),
    "m20": (
        "",
        "log10 of the share of the brightest 20 % of F in sum(F d²), d from the centroid",
        f"{_LOTZ}, eqs. 7, 8",
        "larger: bright spots away from the centre",
    ),
    "concentration": (
        "",
        "5 log10(r80 / r20), r the radii about the centroid that hold 80 and 20 % of F",
        f"{_CONSELICE}, sect. 3.2",
        "either way: a perturber moves light inwards or outwards",
    ),
    "asymmetry": (
        "",
        "sum |I - I180| / sum |I| in the lens's light, I180 turned by 180°, less what noise adds",
        f"{_CONSELICE}, sect. 3.1",
        "larger: perturbers act on one side",
    ),
    "ring_radius": (
        "px",
        "radius of the circle fitted to the lens's light, weights F above the noise: about theta_E",
        "Taubin (1991), doi:10.1109/34.103273",
        "larger: the mass inside the ring grows by that of the substructure",
    ),
    "ring_width": (
        "px",
        "sqrt(sum(F (r - R)²) / sum(F)), r the distance to the centre of that circle, R its radius",
        "this work",
        "larger: perturbed arcs leave the circle",
    ),
    "ring_ellipticity": (
        "",
        "sqrt(a² + b²) / r0 of the ridge r(phi) = r0 + … + a cos 2phi + b sin 2phi, weights F",
        "this work; about (1 - q) / (1 + q)",
        "either way: clumps add a quadrupole of their own",
    ),
    "ring_wiggle": (
        "px",
        "rms deviation of the ridge from that fit, weights F",
        "this work",
        "larger: clumps shift pieces of the arc",
    ),
    "arc_angle": (
        "deg",
        "angle in which the flux along the ring exceeds half its maximum",
        "this work",
        "either way: added mass closes a ring or breaks an arc",
    ),
    "fourier_1": ("", "|sum F exp(i phi)| / sum F along the ring", "this work", "none: the source"),
    "fourier_2": ("", "the same of order 2", "this work", "none: ellipticity and shear"),
    "fourier_3": ("", "the same of order 3", "this work", "larger: not of a smooth lens"),
    "fourier_4": ("", "the same of order 4", "this work", "larger: not of a smooth lens"),
    "fourier_5_8": ("", "root of the summed squares of orders 5 to 8", "this work", _FINER),
    "fourier_9_16": ("", "root of the summed squares of orders 9 to 16", "this work", _FINER),
    "residual_power": (
        "",
        "mean power, over that of noise, of the azimuthal orders 5 to 24 about the ring: what a "
        "model smooth in azimuth leaves",
        "this work",
        _FINER,
    ),
    "residual_peak": (
        "",
        "largest |residual| of that model, in units of the noise of a pixel",
        "this work",
        _FINER,
    ),
    "residual_slope": (
        "",
        "slope of log power against log order, of these orders",
        "after Bayer et al. (2018), arXiv:1803.05952",
        "larger (flatter): clumps have structure at all scales",
    ),
}


MORPHOLOGY = {name: Feature("morphology", *entry) for name, entry in _MEASURED.items()}

_R = "r the residual of the smooth lens fit in sigma"
_S = "s the residual of the smooth lens fit, summed over 3×3 pixels, / 3"
_HERE = "this work; lens models: Kormann, Schneider & Bartelmann (1994)"
_LARGER = "larger: what a smooth lens cannot imitate is left"


def _parameter(unit: str, meaning: str, expects: str = "same: a nuisance") -> Feature:
    return Feature("lensfit", unit, f"{meaning} of the smooth lens fit", _HERE, expects)


_SHAPES = {
    "fit_theta_E": _parameter(
        "arcsec",
        "Einstein radius",
        "larger where substructure adds mass to the halo, else the same",
    ),
    "fit_e1": _parameter("", "ellipticity e1 of the mass"),
    "fit_e2": _parameter("", "ellipticity e2 of the mass"),
    "fit_gamma1": _parameter("", "external shear gamma1"),
    "fit_gamma2": _parameter("", "external shear gamma2"),
    "fit_source_x": _parameter("arcsec", "source position x"),
    "fit_source_y": _parameter("arcsec", "source position y"),
    "fit_source_e1": _parameter("", "ellipticity e1 of the source"),
    "fit_source_e2": _parameter("", "ellipticity e2 of the source"),
    "fit_source_R_sersic": _parameter("arcsec", "half-light radius of the source"),
    "fit_source_n_sersic": _parameter("", "Sérsic index of the source"),
}
_RESIDUALS = {
    "fit_chi2": Feature("lensfit", "", f"sum(r²) / degrees of freedom, {_R}", _HERE, _LARGER),
    "fit_chi2_arcs": Feature("lensfit", "", f"mean of r² over the arcs, {_R}", _HERE, _LARGER),
    "fit_fourth_power": Feature(
        "lensfit", "", f"mean of s⁴ over the arcs, {_S}; 3 for white noise", _HERE, _LARGER
    ),
    "fit_third_power": Feature(
        "lensfit",
        "",
        f"mean of s³ over the arcs, {_S}",
        _HERE,
        "either way: bright or dark spots are left",
    ),
    "fit_peak": Feature("lensfit", "", f"largest |s| in the arcs, {_S}", _HERE, _LARGER),
    "fit_peak_signed": Feature(
        "lensfit", "", f"s where |s| is largest in the arcs, {_S}", _HERE, "either way: away from 0"
    ),
    "fit_peak_x": Feature(
        "lensfit", "arcsec", f"x where |s| is largest, {_S}", _HERE, "at a perturber"
    ),
    "fit_peak_y": Feature(
        "lensfit", "arcsec", f"y where |s| is largest, {_S}", _HERE, "at a perturber"
    ),
}


def _band(sigma: float) -> Feature:
    definition = (
        f"mean of (g r - G r)² over the arcs / its value for white noise, {_R}, G a Gaussian blur "
        f"({sigma:g} px), g of half its width"
    )
    return Feature("lensfit", "", definition, "this work; after Marr & Hildreth (1980)", _LARGER)


_MASS = "this work; after Scharf & Friedlander (1994), doi:10.1109/78.301849"
_TEMPLATE = "T what a mass changes in the image, in sigma, beyond what a smooth lens imitates"


def _evidence(of: str, share: str) -> str:
    return (
        f"ln of the mean, over the places of {of} and positive normal masses of scale {share} "
        f"theta_E², of the likelihood ratio with and without it, {_R}"
    )


_MORE = "larger: masses are there"
_PERTURBERS = {
    "fit_point_snr": (f"largest T · r / |T| of a point mass, {_TEMPLATE}, {_R}", _MORE),
    "fit_point_mass": (
        "T · r / |T|² there, the squared Einstein radius of that mass / theta_E²",
        _MORE,
    ),
    "fit_point_evidence": (_evidence("a point mass", "0.015"), _MORE),
    "fit_string_mass": (
        "T · r / |T|², as of a point mass, of the straight string of mass (0.7″ or 1.5″ long, of "
        "six directions) with the largest T · r / |T|",
        _MORE,
    ),
    "fit_string_evidence": (_evidence("a string", "0.04"), _MORE),
    **{
        f"fit_string_gain_{k}": (
            f"chi² that the best string takes away, less what the best {k} points take away",
            "larger for a vortex, smaller for subhalos",
        )
        for k in (1, 3, 6)
    },
}


def _azimuth(low: int, high: int, of: str) -> Feature:
    definition = (
        f"mean over m = {low} … {high} of |sum of {of} exp(i m phi)|² / number of pixels in the "
        f"arcs, phi the azimuth, {_R}; 1 for white noise"
    )
    return Feature("lensfit", "", definition, "this work", _LARGER)


#: the features of a fit, by name; of the parameters, those that every fit has
LENSFIT: dict[str, Feature] = {
    **_SHAPES,
    **_RESIDUALS,
    **{
        name: Feature("lensfit", "", meaning, _MASS, expects)
        for name, (meaning, expects) in _PERTURBERS.items()
    },
    **{f"fit_power_{sigma:g}px": _band(sigma) for sigma in SCALES},
    **{f"fit_azimuth_{a}_{b}": _azimuth(a, b, "r") for a, b in ORDERS},
    **{f"fit_azimuth_abs_{a}_{b}": _azimuth(a, b, "(r² - 1) / √2") for a, b in ORDERS},
}


def suffix(level: float) -> str:
    return f"{100 * level:02.6g}".replace(".", "p").zfill(2)


def level_features(level: float) -> dict[str, Feature]:
    name, percent = suffix(level), f"{100 * level:g} %"
    bright = f"regions brighter than {percent} of the smoothed peak and than the noise"
    return {
        f"n_bright_{name}": Feature(
            "proposal",
            "",
            f"number of {bright}",
            _PRECURSOR,
            "larger: perturbers split arcs",
        ),
        f"max_separation_{name}": Feature(
            "proposal",
            "px",
            f"largest distance of the centroids of {bright}",
            _PRECURSOR,
            "larger: the image separation is twice the Einstein radius",
        ),
        f"min_separation_{name}": Feature(
            "proposal",
            "px",
            f"smallest distance of the centroids of {bright}",
            _PRECURSOR,
            "smaller: perturbers split an image into close neighbours",
        ),
    }


def definitions(settings: Features, groups: Sequence[str] | None = None) -> dict[str, Feature]:
    """Return the features of these settings, or of some groups, by name, in their order."""
    features, groups = {}, settings.groups if groups is None else groups
    if "proposal" in groups:
        features["lensed_area"] = _AREA
        for level in settings.levels:
            features |= level_features(level)
    if "morphology" in groups:
        features |= MORPHOLOGY
    if "lensfit" in groups:
        features |= LENSFIT
    return features


def feature_names(settings: Features) -> list[str]:
    """Return the names of the features of these settings, in their order."""
    return list(definitions(settings))


def table(settings: Features | None = None, merged: bool = False) -> pd.DataFrame:
    """Return one row a feature: name, group, unit, definition, reference, expects.

    ``merged`` gives the features that differ in a number only one row together: in their level L %,
    in the scale S, in the azimuthal orders A … B, in the number of points K.
    """
    settings = settings or Features()
    features = definitions(settings)
    rows = pd.DataFrame([{"name": name} | asdict(entry) for name, entry in features.items()])
    if not merged:
        return rows
    families = {}
    for level in settings.levels:
        for name in level_features(level):
            families[name] = (name.replace(f"_{suffix(level)}", "_L"), f"{100 * level:g} %", "L %")
    for scale in SCALES:
        families[f"fit_power_{scale:g}px"] = ("fit_power_Spx", f"({scale:g} px)", "(S px)")
    for low, high in ORDERS:
        for kind in ("", "abs_"):
            name = f"fit_azimuth_{kind}{low}_{high}"
            families[name] = (f"fit_azimuth_{kind}A_B", f"{low} … {high}", "A … B")
    for k in (1, 3, 6):
        families[f"fit_string_gain_{k}"] = (
            "fit_string_gain_K",
            f"best {k} points",
            "best K points",
        )
    for name, (label, number, letter) in families.items():
        row = rows["name"] == name
        rows.loc[row, "definition"] = rows["definition"].str.replace(number, letter, regex=False)
        rows.loc[row, "name"] = label
    return rows.drop_duplicates("name").reset_index(drop=True)
