"""Search for dark subhalos in real lenses, each from the fit of ``studies.slacs``.

All lenses are searched with one configuration (``perturbers``). Clumps are injected into their
images to learn which would have been found: what a clump changes in the model of the arcs is added
to the image, so that the residual of the fit, whatever it is made of, stays. Redshifts of lens and
source, for masses, are those of Bolton et al. (2008, doi:10.1086/589327).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.config import Config
from vitdm import lens
from vitdm.config import Perturbers
from vitdm.data.dataset import read_catalog
from vitdm.errors import InputError
from vitdm.lens import LensModel
from vitdm.lens.free_form import mass
from vitdm.lens.free_form.problem import Problem
from vitdm.lens.perturbers import Search
from vitdm.lens.perturbers.maps import Marginal
from vitdm.lens.perturbers.profiles import Profile, profiles_of
from vitdm.lens.perturbers.search import Grid, Searched
from vitdm.lens.perturbers.twins import p_value
from vitdm.lens.perturbers.verdict import warnings_of

FILES = ("search.csv", "peaks.csv", "injections.csv", "search.npz")
MERGED = ("slacs_search.csv", "slacs_peaks.csv", "slacs_injections.csv", "slacs_search.npz")
UNMASKED = "_unmasked"  # ends the name of a lens whose neighbours are not masked
RING = 0.25  # ", of the critical curve, up to which a place is on the ring
FOUND = 0.005  # largest p-value of what is found
NEAR = 0.2  # ", of the place of an injected clump, within which its peak lies
SNR = 5.0  # of the sensitivity
MASSES = ("mass", "mass_error", "fit_mass", "fit_mass_error")  # of peaks, in arcsec^2
BEST = ("fit_x", "fit_y", "solar_mass_1kpc", "delta_evidence")  # of the peak that gains most
RESULTS = ("score", "p_value", "offset")  # of the search for an injected clump
REFITTED = tuple(f"{name}_refitted" for name in RESULTS)
ARCS = (0.4, 1.3)  # chi^2 of the arcs of fits that are good


class Maps(NamedTuple):
    """The maps of a search (rows, columns) on the axes ``x`` and ``y`` ["], NaN where not searched.

    ``snr`` is that of the profile that detects, ``sensitivity`` log10 of the mass with S/N 5 [solar
    masses]; ``left`` is the S/N that is left when the clump that gains most evidence is part of the
    model, all NaN if none was fitted. ``twins`` and ``refitted`` are the scores of smooth twins.
    """

    snr: NDArray
    sensitivity: NDArray
    left: NDArray
    x: NDArray
    y: NDArray
    twins: NDArray
    refitted: NDArray


# -------------------------------------------------------------------------------------- one lens


def search_lens(
    name: str, model: LensModel, settings: Config, redshifts: Mapping[str, tuple[float, float]]
) -> tuple[dict[str, Any], Search]:
    """Search a fitted lens; return its row of the table (``measured``) and the search.

    All have the same settings, but for the redshifts and how many twins are refitted. Masses are
    NaN if the redshifts of a lens are unknown.
    """
    chosen = settings.slacs.search
    z_lens, z_source = redshifts.get(name.removesuffix(UNMASKED), (None, None))
    twins = chosen.more_twins.get(name, chosen.refitted_twins)
    known = {"z_lens": z_lens, "z_source": z_source, "refitted_twins": twins}
    found = lens.search(model, settings.perturbers.model_copy(update=known))
    return {"name": name} | measured(found), found


def measured(found: Search) -> dict[str, Any]:
    """Return the numbers of a search: the highest peak, as mapped and as refitted, and the twins.

    ``best_`` are those of the peak that gains most evidence. ``threshold`` is the lowest score with
    a p-value of ``FOUND``, sensitivities are masses with S/N 5 on the ring: the median of what was
    searched of it, and the smallest. Masses are in units of the sun.
    """
    unit, model = found.solar_masses, found.model
    peaks = peaks_of(found)
    gains = peaks["delta_evidence"].dropna()
    best = peaks.loc[gains.idxmax()].to_dict() if len(gains) else {}
    least = found.sensitivity(found.settings.detect, SNR)[on_ring(found)]
    least = least[np.isfinite(least)] if np.isfinite(unit) else np.array([])
    return {
        "z_lens": found.settings.z_lens,
        "z_source": found.settings.z_source,
        "score": found.score,
        "misfit": found.misfit,
        "p_value": found.p_value,
        "threshold": threshold(found),
        "n_refitted": len(found.refitted_scores),
        "n_refitted_above": int((found.refitted_scores >= found.score).sum()),
        "sensitivity": float(np.median(least)) if len(least) else np.nan,
        "sensitivity_best": float(least.min()) if len(least) else np.nan,
        "chi2_arcs": model.chi2_arcs,
        "converged": int(model.converged),
        "flags": " ".join(model.flags),
        "warnings": " ".join(warnings_of(found)),
        **(peaks.iloc[0].to_dict() if len(peaks) else {}),
        **{f"best_{key}": best.get(key, np.nan) for key in BEST},
    }


def peaks_of(found: Search) -> pd.DataFrame:
    """Return the peaks of a search, masses in units of the sun; ``fit_`` is what was refitted."""
    table = found.peaks.rename(columns={name: f"fit_{name}" for name in ("chi2", "converged")})
    for key in table.columns.intersection(MASSES):
        table[key] = table[key] * found.solar_masses
    return table


def threshold(found: Search) -> float:
    """Return the lowest score whose p-value is at most ``FOUND``; NaN if twins are too few."""
    scores = np.sort(found.twin_scores)[::-1]
    above = int(FOUND * (1 + len(scores))) - 1  # twins that may score as much
    return float(scores[above]) if 0 <= above < len(scores) else float("nan")


def ring(model: LensModel) -> NDArray:
    """Return the tangential critical curve (n, 2) ["], a circle if there is none."""
    theta_E, center = model.values[0], model.values[3:5]
    curves = mass.critical_curves(model.values, 3 * theta_E)
    if curves:
        return max(curves, key=len)
    phi = np.linspace(0, 2 * np.pi, 361)
    return center + theta_E * np.array([np.cos(phi), np.sin(phi)]).T


def on_ring(found: Search) -> NDArray:
    """Return which places (places,) of a search lie on the ring."""
    curve = ring(found.model)
    off = np.hypot(found.x[:, None] - curve[:, 0], found.y[:, None] - curve[:, 1])
    return off.min(1) < RING


def maps_of(found: Search) -> Maps:
    """Return the maps of a search, with three digits."""
    detect, unit = found.settings.detect, found.solar_masses
    least = found.sensitivity(detect, SNR) if np.isfinite(unit) else np.full(len(found.x), np.nan)
    snr, least = found.image(found.maps[detect].snr), found.image(np.log10(least))
    left = found.image(found.after.snr) if found.after else np.full(snr.shape, np.nan)
    rest = (found.axis_x, found.axis_y, found.twin_scores, found.refitted_scores)
    return Maps(*map(np.float16, (snr, least, left)), *map(np.float32, rest))


# ------------------------------------------------------------------------------ injected clumps


def imprints(problem: Problem, profile: Profile, clumps: Iterable[Sequence[float]]) -> NDArray:
    """Return what clumps, one at a time, change in the fitted pixels, (n, N).

    A clump has x, y ["] and mass [arcsec^2]. Its deflection is added to that of the fitted mass,
    before the fitted source.
    """
    point, optics = problem.point, problem.view.optics
    mesh, source = point.solution.inversion.mesh, point.solution.source
    smooth, changes = mesh.brightness(source, point.x, point.y), []
    for x, y, m in clumps:
        alpha = m * profile.deflection(optics.x - x, optics.y - y)
        bent = mesh.brightness(source, point.x - alpha[0], point.y - alpha[1])
        changes.append(optics.seen(bent - smooth))
    return np.array(changes)


def with_change(problem: Problem, change: NDArray) -> Problem:
    """Return the problem of the same image with a change (N,) of its fitted pixels."""
    data = problem.scene.data.copy()
    data[problem.view.fitted] += change
    return problem.seeing(data)


def refit(found: Search, change: NDArray) -> Search:
    """Return the search of the image with a change (N,), after a fit of its own."""
    problem, _ = with_change(found.model.problem, change).refitted()
    detect = found.settings.detect
    less = {"profiles": (detect,), "peaks": 0, "twins": 0, "refitted_twins": 0}
    model = replace(found.model, problem=problem)
    return lens.search(model, found.settings.model_copy(update=less))


def clump(settings: Perturbers) -> Profile:
    """Return the profile that detects; the first of several directions."""
    return profiles_of(settings.detect, settings)[0]


def inject(name: str, found: Search, settings: Config) -> pd.DataFrame:
    """Inject clumps one at a time on the ring of a lens and search each image; return a row each.

    Columns: name, log_mass [log10 of solar masses], x, y ["], score, p_value, and ``offset`` ["] of
    the highest peak from the clump, of a search without a refit; for a few of them the same with
    ``_refitted``, if the fit of the lens is good. Nothing is injected if redshifts are unknown.
    """
    chosen, problem = settings.slacs.search, found.model.problem
    if not np.isfinite(found.solar_masses):
        return pd.DataFrame(columns=["name", "log_mass", "x", "y", *RESULTS, *REFITTED])
    places, profile = _places(found.model, chosen.places), clump(found.settings)
    rows = [(name, log_mass, x, y) for log_mass in chosen.masses for x, y in places]
    table = pd.DataFrame(rows, columns=["name", "log_mass", "x", "y"])
    m = 10 ** table["log_mass"] / found.solar_masses
    changes = imprints(problem, profile, zip(table["x"], table["y"], m, strict=True))
    table[list(RESULTS)] = _linear(found, changes, table)
    table[list(REFITTED)] = np.nan
    rng = np.random.default_rng([found.settings.seed, *name.encode()])
    for log_mass in chosen.refitted_masses if is_good(found.model) else ():
        k = rng.choice(table.index[table["log_mass"] == log_mass])
        again = refit(found, changes[k])
        snr = again.maps[found.settings.detect].snr
        high = np.nan_to_num(snr, nan=-np.inf).argmax()
        offset = np.hypot(again.x[high] - table["x"][k], again.y[high] - table["y"][k])
        result = again.score, p_value(again.score, found.twin_scores), offset
        table.loc[k, list(REFITTED)] = result
    return table


def _places(model: LensModel, n: int) -> NDArray:
    """Return n places (n, 2) ["] on the ring, evenly in the angle about the centre."""
    curve, center = ring(model), model.values[3:5]
    angle = np.arctan2(*(curve - center).T[::-1])
    wanted = 2 * np.pi * (np.arange(n) + 0.5) / n
    off = np.abs(np.exp(1j * angle) - np.exp(1j * wanted)[:, None])
    return curve[off.argmin(1)]


def _linear(found: Search, changes: NDArray, table: pd.DataFrame) -> NDArray:
    """Return ``RESULTS`` (n, 3) of images with changes (n, N), about the fit as it is."""
    settings, problem = found.settings, found.model.problem
    marginal = Marginal(problem, settings.psf_sd)
    grid = Grid.of(marginal, problem, settings.spacing)
    searched = Searched(marginal, profiles_of(settings.detect, settings), grid)
    posterior = problem.posterior
    data = np.column_stack([posterior.data, *(changes * posterior.weight)])
    snr = searched.significance(marginal.residual(data))
    told = searched.D > 0
    # the scale of the noise that the search has measured with twins
    spread = np.nanmedian(found.maps[settings.detect].error[told] * np.sqrt(searched.D[told]))
    peaks, rests = searched.scores(snr / spread)
    misfit = rests * found.misfit / rests[0]
    scores = (peaks / np.maximum(1.0, misfit))[1:]
    high = snr[:, 1:].argmax(0)
    offset = np.hypot(grid.x[high] - table["x"], grid.y[high] - table["y"])
    p_values = [p_value(score, found.twin_scores) for score in scores]
    return np.column_stack([scores, p_values, offset])


# ------------------------------------------------------------------------------------ all of them


def write(
    searches: Mapping[str, tuple[dict[str, Any], Search]], settings: Config, folder: Path
) -> None:
    """Write the ``FILES`` of a lens: searches by name, injections into the first of them.

    search.csv has the row of each, peaks.csv its peaks, search.npz its ``Maps``.
    """
    name, (_, first) = next(iter(searches.items()))
    tables = {
        "search.csv": pd.DataFrame([row for row, _ in searches.values()]),
        "peaks.csv": pd.concat(
            [peaks_of(found).assign(name=n) for n, (_, found) in searches.items()]
        ),
        "injections.csv": inject(name, first, settings),
    }
    for file, table in tables.items():
        table.to_csv(folder / file, index=False, float_format="%.5g")
    maps = {n: maps_of(found) for n, (_, found) in searches.items()}
    write_maps(maps, folder / "search.npz")


def merge(
    folders: Sequence[Path], shown: Sequence[str], notes: Mapping[str, str], out: Path
) -> list[Path]:
    """Join the searches in folders (``write``) into the files ``MERGED``; return what was read.

    ``notes`` are words on lenses, in the column ``why``; of the maps those of the lenses ``shown``
    are kept, and of those whose neighbours were not masked.
    """
    files = [folder / file for folder in folders for file in FILES[:3]]
    for written, read in zip(MERGED[:3], FILES[:3], strict=True):
        tables = [read_catalog(folder / read) for folder in folders]
        table = pd.concat([table for table in tables if len(table)], ignore_index=True)
        if written == MERGED[0]:
            table["why"] = [notes.get(name, "") for name in table["name"]]
        table.to_csv(out / written, index=False, float_format="%.5g")
    maps = {n: found for folder in folders for n, found in read_maps(folder / FILES[3]).items()}
    kept = [n for n in maps if n in shown or n.endswith(UNMASKED)]
    write_maps({n: maps[n] for n in kept}, out / MERGED[3])
    return files


def read_redshifts(file: str | Path) -> dict[str, tuple[float, float]]:
    """Read the redshifts of lens and source by the name of the lens; InputError if it has none."""
    try:
        table = pd.read_csv(file, comment="#", dtype={"name": str})
        return {r.name: (float(r.z_lens), float(r.z_source)) for r in table.itertuples(index=False)}
    except (OSError, ValueError, AttributeError) as error:
        expected = "a CSV table with the columns name, z_lens, z_source"
        raise InputError(f"{file}: cannot be read ({error}); expected {expected}") from error


def write_maps(lenses: Mapping[str, Maps], file: Path) -> None:
    """Write the maps of several lenses as ``<name>/<map>`` into one file (npz)."""
    arrays = {f"{n}/{key}": a for n, maps in lenses.items() for key, a in maps._asdict().items()}
    np.savez_compressed(file, **arrays)


def read_maps(file: str | Path) -> dict[str, Maps]:
    """Read maps by the name of the lens."""
    with np.load(file, allow_pickle=False) as arrays:
        names = dict.fromkeys(key.split("/")[0] for key in arrays)
        return {n: Maps(*(arrays[f"{n}/{key}"] for key in Maps._fields)) for n in names}


# ------------------------------------------------------------------------------- what was found


def is_good(model: LensModel) -> bool:
    """Return whether a fit is good: converged, and the arcs described to the noise."""
    return model.converged and ARCS[0] <= model.chi2_arcs <= ARCS[1]


def good(table: pd.DataFrame) -> pd.Series:
    """Return which fits of a table are good (``is_good``)."""
    return (table["converged"] == 1) & table["chi2_arcs"].between(*ARCS)


def completeness(injections: pd.DataFrame, suffix: str = "") -> pd.DataFrame:
    """Return the share of injected clumps that are found, by mass, with its standard error.

    A clump is found if the p-value of the score is at most ``FOUND`` and the highest peak lies
    within ``NEAR``; ``anywhere`` is the share without the latter. ``suffix`` "_refitted": of the
    searches after a refit. Errors are those of the scatter between lenses.
    """
    table = injections.dropna(subset=f"score{suffix}")
    alarm = table[f"p_value{suffix}"] <= FOUND
    found, rows = alarm & (table[f"offset{suffix}"] <= NEAR), []
    for log_mass, some in table.assign(found=found, alarm=alarm).groupby("log_mass"):
        shares = some.groupby("name")["found"].mean()
        error = shares.std(ddof=1) / np.sqrt(len(shares)) if len(shares) > 1 else np.nan
        rows.append((log_mass, some["found"].mean(), error, some["alarm"].mean(), len(some)))
    return pd.DataFrame(rows, columns=["log_mass", "share", "error", "anywhere", "n"])
