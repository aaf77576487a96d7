"""The features of a smooth lens that is fitted to the image (group *lensfit*): what each is.

``vitdm.lens`` fits the lens and computes them; here they are defined, by the names of its columns.
"""

from __future__ import annotations

from vitdm.config.images import ORDERS, SCALES
from vitdm.features.registry import Feature

POINTS = (1, 3, 6)  # numbers of point masses that a string is compared with
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
    """Return what the feature of a band-pass is, by the width of its wider Gaussian (px)."""
    written, shared = (
        f"mean of (g r - G r)² over the arcs / its value for white noise, {_R}, G a Gaussian blur "
        f"({width} px), g of half its width"
        for width in (f"{sigma:g}", "S")
    )
    source = "this work; after Marr & Hildreth (1980)"
    return Feature("lensfit", "", written, source, _LARGER, ("fit_power_Spx", shared))


_MASS = "this work; after Scharf & Friedlander (1994), doi:10.1109/78.301849"
_TEMPLATE = "T what a mass changes in the image, in sigma, beyond what a smooth lens imitates"


def _evidence(of: str, share: str) -> str:
    return (
        f"ln of the mean, over the places of {of} and positive normal masses of scale {share} "
        f"theta_E², of the likelihood ratio with and without it, {_R}"
    )


_MORE = "larger: masses are there"
_PERTURBERS: dict[str, tuple[str, str]] = {
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
}


def _against_points(k: int) -> Feature:
    """Return what the chi² of a string, less that of ``k`` points, is."""
    written, shared = (
        f"chi² that the best string takes away, less what the best {points} points take away"
        for points in (k, "K")
    )
    expects = "larger for a vortex, smaller for subhalos"
    return Feature("lensfit", "", written, _MASS, expects, ("fit_string_gain_K", shared))


def _azimuth(low: int, high: int, name: str, of: str) -> Feature:
    """Return what the power of azimuthal orders, from ``low`` to ``high``, of a signal is."""
    written, shared = (
        f"mean over m = {orders} of |sum of {of} exp(i m phi)|² / number of pixels in the "
        f"arcs, phi the azimuth, {_R}; 1 for white noise"
        for orders in (f"{low} … {high}", "A … B")
    )
    return Feature("lensfit", "", written, "this work", _LARGER, (f"fit_{name}_A_B", shared))


#: the features of a fit, by name; of the parameters, those that every fit has
LENSFIT: dict[str, Feature] = {
    **_SHAPES,
    **_RESIDUALS,
    **{
        name: Feature("lensfit", "", meaning, _MASS, expects)
        for name, (meaning, expects) in _PERTURBERS.items()
    },
    **{f"fit_string_gain_{k}": _against_points(k) for k in POINTS},
    **{f"fit_power_{sigma:g}px": _band(sigma) for sigma in SCALES},
    **{
        f"fit_{name}_{a}_{b}": _azimuth(a, b, name, of)
        for name, of in (("azimuth", "r"), ("azimuth_abs", "(r² - 1) / √2"))
        for a, b in ORDERS
    },
}
