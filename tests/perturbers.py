"""A search for perturbers that was not made: smooth random maps about the lens of ``free_form``."""

import numpy as np
import pandas as pd
from free_form import made
from scipy.ndimage import gaussian_filter

from vitdm.config import Perturbers
from vitdm.lens.perturbers import Map, Search

PROFILES = ("point", "isothermal", "nfw_30", "string")
#: fields of a search that a test may set; what else it changes are settings
OWN = ("peaks", "p_value", "twin_scores", "refitted_scores", "misfit")


def peak(search_map, x, y, solar_masses, **changes):
    """Return a row of the table of peaks for the place that is nearest to x, y."""
    amplitude, error, snr = search_map.amplitude, search_map.error, search_map.snr
    k = int(np.nanargmax(snr))
    row = {"x": x[k], "y": y[k], "snr": snr[k], "mass": amplitude[k], "mass_error": error[k]}
    row |= {"fit_x": x[k] + 0.03, "fit_x_error": 0.02, "fit_y": y[k] - 0.02, "fit_y_error": 0.015}
    row |= {"fit_mass": 1.2 * amplitude[k], "fit_mass_error": error[k], "truncation": 0.2}
    row |= {"profile": "isothermal", "concentration": np.nan}
    row |= {"solar_mass": 1.2 * amplitude[k] * solar_masses}
    row |= {"solar_mass_1kpc": 0.7 * amplitude[k] * solar_masses, "delta_evidence": 41.3}
    row |= {"delta_multipoles": 6.1, "delta_luminous": 2.4, "chi2": 0.98, "converged": True}
    return row | changes


def searched(model=None, seed=0, at=(-0.6, 0.9), height=9.0, n=200, **changes):
    """Return a search of a model whose maps are noise and one peak, of some S/N ``height``."""
    model = model or made()
    own = {name: value for name, value in changes.items() if name in OWN}
    known = {"profiles": PROFILES, "z_lens": 0.222, "z_source": 0.609, "refitted_twins": 20}
    settings = Perturbers(**(known | {k: v for k, v in changes.items() if k not in OWN}))
    rng = np.random.default_rng(seed)
    axis = np.arange(-20, 21) * settings.spacing
    grid_x, grid_y = np.meshgrid(axis, axis)
    r = np.hypot(grid_x, grid_y)
    row, column = np.nonzero(abs(r - 1.1) < 0.7)
    x, y = axis[column], axis[row]
    clump = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * 0.15**2))
    maps = {}
    for profile in settings.profiles:
        noise = gaussian_filter(rng.standard_normal(r.shape), 1.5)
        snr = noise[row, column] / noise.std() + height * clump
        error = 8e-4 * np.exp(2 * (r[row, column] - 1.2) ** 2 / 0.4**2)
        snr[:5] = error[:5] = np.nan
        angle = np.arctan2(y, x) % np.pi if profile == "string" else None
        maps[profile] = Map(profile, snr * error, error, angle)
    unit = 4.5e11 if settings.z_lens else np.nan
    score = float(np.nanmax(maps[settings.detect].snr))
    twins = rng.gumbel(3.0, 0.4, n)
    best = peak(maps[settings.detect], x, y, unit)
    second = best | {"x": 0.8, "y": -0.9, "snr": 3.1, "fit_x": 0.85, "fit_y": -0.95}
    second |= {"delta_evidence": 1.2, "delta_luminous": 0.5, "profile": "nfw", "concentration": 30}
    kept = {
        "peaks": pd.DataFrame([best, second]),
        "p_value": (1 + (twins >= score).sum()) / (1 + n) if n else np.nan,
        "twin_scores": twins,
        "refitted_scores": rng.gumbel(3.1, 0.4, settings.refitted_twins),
        "misfit": 0.97,
    }
    kept |= own
    place = x, y, row, column, axis, axis
    return Search(model, settings, *place, maps, score=score, solar_masses=unit, **kept)
