"""The features of a search with a free-form source (group *search*): what each is.

``vitdm.lens.perturbers`` fits the lens, searches it and computes them; here they are defined, by
the names of its columns. They are to those of the group *lensfit* what a lens without hidden
assumptions is to one with a Sérsic source.
"""

from __future__ import annotations

from vitdm.features.registry import Feature

_HERE = "this work; docs/search.md"
_MAP = "the S/N map of a truncated isothermal sphere, source, macro-model, light and PSF marginal"
_MORE = "larger: masses are there"
_MISFIT = "larger: many masses, or a wrong model"

_ROWS: dict[str, tuple[str, str]] = {
    "score": (f"largest S/N / max(1, misfit), in {_MAP}", _MORE),
    "snr": (f"largest S/N in {_MAP}", _MORE),
    "misfit": (
        f"rms of {_MAP}, without its five highest peaks, over that of smooth twins",
        _MISFIT,
    ),
    "p_value": ("share of smooth twins of the lens whose score is as large", "smaller"),
    "mass": ("mass of the highest peak, its squared Einstein radius / theta_E²", _MORE),
    "evidence": (
        "ln of the mean, over places and positive normal masses of scale 0.015 theta_E², of the "
        "likelihood ratio with and without a truncated isothermal sphere",
        _MORE,
    ),
    "rms": (f"rms of {_MAP}", _MISFIT),
    "skew": (f"mean third power of {_MAP}", "larger: few masses that stand out"),
    "nfw_gain": (
        "largest S/N of a truncated NFW halo of concentration 10, less that of the isothermal one",
        "larger for extended masses",
    ),
    "string_snr": ("largest S/N of a straight string of mass, 1″ long", "larger for a vortex"),
    "string_mass": ("mass of that string, its squared Einstein radius / theta_E²", _MORE),
    "string_gain": (
        "largest S/N of a string, less that of a truncated isothermal sphere",
        "larger for a vortex, smaller for subhalos",
    ),
    "slope": ("logarithmic slope of the density of the lens", "same: a nuisance"),
    "multipoles": ("root of the sum of the squared multipoles m = 1, 3 and 4", _MISFIT),
    "chi2_arcs": ("mean of r² over the arcs, r the residual of the fit in sigma", _MISFIT),
}

#: the features of a search, by name
SEARCH = {
    f"search_{name}": Feature("search", "", definition, _HERE, expects)
    for name, (definition, expects) in _ROWS.items()
}
