"""Numbers of a search, for classifiers: one row for each lens."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.special import log_ndtr

from vitdm.config import FreeForm, LensFit, Perturbers
from vitdm.data.observation import Observation
from vitdm.errors import InputError
from vitdm.lens.fit import Fits
from vitdm.lens.free_form import LensModel, fit
from vitdm.lens.free_form.mass import NAMES as MASS
from vitdm.lens.perturbers.result import Map, Search
from vitdm.lens.perturbers.search import search

TYPICAL = 0.015  # of theta_E^2: s.d. of the masses that the evidence expects
SPLINES, PARTS = 18, 2  # of the fits: simulated lenses need no more
LOOKED_FOR = Perturbers(profiles=("isothermal", "nfw_10", "string"), peaks=0, twins=100)

#: what is told of each lens; ``vitdm.features.definitions`` says how
NAMES = ("score", "snr", "misfit", "p_value", "mass", "evidence", "rms", "skew")
NAMES += ("nfw_gain", "string_snr", "string_mass", "string_gain")
NAMES += ("slope", "multipoles", "chi2_arcs")
COLUMNS = tuple(f"search_{name}" for name in NAMES)


def numbers(found: Search) -> dict[str, float]:
    """Return the ``NAMES`` of a search for the profiles of ``LOOKED_FOR``; NaN without places."""
    theta_E = found.model.values[0]
    lumps, halo, string = (found.maps[name] for name in LOOKED_FOR.profiles)
    snr = lumps.snr[np.isfinite(lumps.snr)]
    if not snr.size:
        return dict.fromkeys(NAMES, math.nan)
    at, along = np.nanargmax(lumps.snr), _highest(string)
    values = dict(zip(MASS, found.model.values, strict=True))
    orders = [values[name] for name in ("a1_x", "a1_y", "a3_x", "a3_y", "a4_x", "a4_y")]
    return {
        "score": found.score,
        "snr": lumps.snr[at],
        "misfit": found.misfit,
        "p_value": found.p_value,
        "mass": lumps.amplitude[at] / theta_E**2,
        "evidence": evidence(lumps, TYPICAL * theta_E**2),
        "rms": math.sqrt((snr**2).mean()),
        "skew": (snr**3).mean(),
        "nfw_gain": np.nanmax(halo.snr, initial=0.0) - lumps.snr[at],
        "string_snr": string.snr[along] if along is not None else math.nan,
        "string_mass": string.amplitude[along] / theta_E**2 if along is not None else math.nan,
        "string_gain": string.snr[along] - lumps.snr[at] if along is not None else math.nan,
        "slope": values["slope"],
        "multipoles": math.sqrt(np.square(orders).sum()),
        "chi2_arcs": found.model.chi2_arcs,
    }


def _highest(found: Map) -> int | None:
    return int(np.nanargmax(found.snr)) if np.isfinite(found.snr).any() else None


def evidence(found: Map, tau: float) -> float:
    """Return ln of the mean, over places and positive masses, of the likelihood ratio with one.

    The masses are half normal, of s.d. ``tau`` [arcsec^2]; see ``vitdm.lens.matched``.
    """
    told = np.isfinite(found.snr)
    D = found.error[told] ** -2.0
    wider = D + tau**-2
    z = found.snr[told] * np.sqrt(D / wider)
    ratio = math.log(2) - np.log(tau * np.sqrt(wider)) + z**2 / 2 + log_ndtr(z)
    largest = ratio.max()
    return float(largest + np.log(np.exp(ratio - largest).mean()))


def measure(
    observations: Sequence[Observation],
    start: Fits,
    settings: LensFit,
    *,
    pixel_scale: float | None = None,
    gain: float | None = None,
) -> pd.DataFrame:
    """Return the ``NAMES``, as ``search_...``, of lenses (rows) that Sérsic fits have found.

    Each is fitted with a source of free form, from its Sérsic fit ``start``, and searched: a second
    each. ``settings`` tell what the observations do not; NaN of lenses that cannot be fitted, or
    whose Sérsic fit did not converge.
    """
    known = {"pixel_scale": pixel_scale, "gain": gain}
    return table_of([numbers_if_any(m) for m in refitted(observations, start, settings, **known)])


def numbers_if_any(model: LensModel | None) -> dict[str, float]:
    """Return ``numbers`` of a search for ``LOOKED_FOR``; none without a model, or without arcs."""
    with contextlib.suppress(InputError):
        return numbers(search(model, LOOKED_FOR)) if model else {}
    return {}


def table_of(rows: Sequence[dict[str, float]]) -> pd.DataFrame:
    """Return ``numbers`` of lenses as a table with the ``COLUMNS``; NaN where there are none."""
    table = pd.DataFrame(rows, index=range(len(rows)), columns=list(NAMES), dtype=float)
    return table.set_axis(list(COLUMNS), axis=1)


def refitted(
    observations: Sequence[Observation],
    start: Fits,
    settings: LensFit,
    *,
    pixel_scale: float | None = None,
    gain: float | None = None,
) -> Iterator[LensModel | None]:
    """Yield the fit with a source of free form of each lens that a Sérsic fit has found.

    Arguments as of ``measure``. None of lenses that cannot be fitted, or whose Sérsic fit did not
    converge.
    """
    free = FreeForm(
        lens_light=settings.lens_light,
        neighbours=False,
        cosmic_rays=False,
        psf_fwhm=settings.psf_fwhm,
        gain=gain if gain is not None else settings.gain,
        noise_lag=settings.noise_lag,
        splines=SPLINES,
        most_splines=SPLINES,  # the same time for each lens
        supersampling=PARTS,
    )
    for k, observation in enumerate(observations):
        model = None
        if start.converged[k]:
            with contextlib.suppress(InputError):  # an image of too few pixels
                model = fit([observation], free, start=start.row(k), pixel_scale=pixel_scale)[0]
        yield model
