"""Whether the search for perturbers tells the truth, and what it costs.

``python benchmarks/search.py``: half an hour, one thread. Parts, of which ``--only`` names some:

* ``null``: simulated smooth lenses, fitted and searched: S/N over places, scores, p-values.
* ``twins``: scores of linear twins against those of twins that are simulated, fitted and searched.
* ``inject``: smooth lenses into which one clump of known mass and place is put: pulls of its mass,
  where it is found, and the mass of S/N 5 against the map of the lens without it.
* ``others``: delta chi^2 of a clump at some places against lenstronomy, with all else refitted.
* ``speed``: seconds of maps and twins.

``--out FOLDER`` keeps the tables of ``null``, ``inject`` and ``others`` as CSV.
``docs/benchmarks.md`` tells what was measured.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(
    ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)

import argparse
import functools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import least_squares

from vitdm import lens
from vitdm.config import FreeForm, LensFit, Perturbers
from vitdm.data.observation import Observation
from vitdm.errors import InputError
from vitdm.lens import LensModel
from vitdm.lens.perturbers import Search, search
from vitdm.lens.perturbers.maps import Marginal, information
from vitdm.lens.perturbers.profiles import profiles_of
from vitdm.simulation import Population, add_noise, draw, load_population, population_of, render
from vitdm.simulation.cosmology import theta_E_point
from vitdm.simulation.noise import variance
from vitdm.simulation.population import population_file
from vitdm.simulation.psf import kernel
from vitdm.simulation.system import System

SEED = 2022  # of the lenses; that of their noise is drawn with it
PLAIN = FreeForm(neighbours=False, cosmic_rays=False)
FITS = {  # of a population: the free-form fit and the Sérsic fit from which it starts
    "marginal": (
        PLAIN.model_copy(update={"lens_light": False, "splines": 18, "supersampling": 1}),
        LensFit(size=96, lens_light=False),
    ),
    "hubble": (
        PLAIN.model_copy(update={"noise_lag": 2, "splines": 20, "supersampling": 2}),
        LensFit(size=96, lens_light=True, noise_lag=2),
    ),
}
DETECT = "isothermal"
SETTINGS = Perturbers(profiles=(DETECT,), peaks=0)
EDGE = 5.0  # times the smallest error of a map: places with more are at the edge
TARGETS = 3.0, 20.0  # S/N of the clumps that are put in
CLOSE = 0.15  # ", within which a clump counts as found where it is
SURE = 5.0  # S/N of a detection
RESAMPLED = 1000  # draws of lenses, for standard errors


def seen(system: System, population: Population, rng: np.random.Generator) -> Observation:
    """Return a lens as an observation with its noise map and PSF, as ``data.simulated`` does."""
    instrument, noiseless = population.instrument, render(system, population)
    image = add_noise(noiseless, system, rng, population)
    noise = np.sqrt(variance(noiseless, system, population))
    counted = instrument.output == "counts"
    scale = instrument.pixel_scale
    return Observation(
        (image if counted else image / system.exposure_time).astype(np.float32),
        noise=noise * (system.exposure_time if counted else 1.0),
        psf=kernel(instrument.psf, scale) if instrument.psf else instrument.psf_fwhm,
        pixel_scale=scale,
        unit="counts" if counted else "counts/s",
        name=population.name,
    )


def fitted(observation: Observation, name: str) -> LensModel:
    """Return the free-form fit of a lens of a population, from a Sérsic fit."""
    settings, sersic = FITS[name]
    return lens.fit([observation], settings, start=lens.fit([observation], sersic))[0]


def inside(found: Search) -> NDArray:
    """Return whether each place (places,) is away from the edge."""
    error = found.maps[DETECT].error
    return error < EDGE * np.nanmin(error)


def of_lenses(statistic: Callable[[pd.DataFrame], float], rows: pd.DataFrame) -> str:
    """Return a statistic of a table, a row a lens, with its standard error by the bootstrap."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(rows), (RESAMPLED, len(rows)))
    spread = np.std([statistic(rows.iloc[drawn]) for drawn in draws])
    return f"{statistic(rows):.3f} ± {spread:.3f}"


def words(column: pd.Series) -> pd.Series:
    """Return flags as text, also where none was written."""
    return column.astype(object).fillna("").astype(str)


def table_of(
    row: Callable[[int], dict[str, Any]], n: int, first: int, out: Path | None
) -> pd.DataFrame:
    """Return the rows of lenses ``first`` ... ``first + n - 1``, and write them as they come.

    Rows that ``out`` already has are not made again.
    """
    rows = pd.read_csv(out).to_dict("records") if out and out.is_file() else []
    known = {known["index"] for known in rows}
    for index in sorted(set(range(first, first + n)) - known):
        rows.append({"index": index} | row(index))
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(out, index=False)
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------- null


def null(name: str, n: int, first: int, out: Path | None) -> None:
    """Print moments of S/N over places, and whether p-values are uniform."""
    row = functools.partial(smooth_row, load_population(name), name)
    rows = table_of(row, n, first, out / f"null_{name}.csv" if out else None)
    tell_null(name, rows)


def smooth_row(population: Population, name: str, index: int) -> dict[str, Any]:
    """Return what the search finds in a smooth lens."""
    rng = np.random.default_rng([SEED, index])
    system = draw(index, "no_sub", SEED, population)
    model = fitted(seen(system, population, rng), name)
    fit = {
        "converged": model.converged,
        "flags": " ".join(model.flags),
        "chi2": model.chi2,
        "chi2_arcs": model.chi2_arcs,
        "theta_E": model.values[0] - system.theta_E,
    }
    try:
        found = search(model, SETTINGS)
    except InputError:  # no arcs on which a perturber could be seen
        return fit
    snr, places = found.maps[DETECT].snr, inside(found)
    told = np.isfinite(snr)
    return fit | {
        "places": int(places.sum()),
        "told": float(told.mean()),
        "mean": float(snr[places].mean()),
        "square": float((snr[places] ** 2).mean()),
        "square_all": float((snr[told] ** 2).mean()),
        "largest": float(np.nanmax(snr)),
        "smallest": float(np.nanmin(snr)),
        "misfit": found.misfit,
        "score": found.score,
        "p_value": found.p_value,
        "twins_99": float(np.quantile(found.twin_scores, 0.99)),
    }


def tell_null(name: str, rows: pd.DataFrame) -> None:
    good = rows["converged"] & ~words(rows["flags"]).str.contains("poor|ambiguous|single")
    print(
        f"{name}: {len(rows)} smooth lenses, {rows['converged'].mean():.1%} fits converged", end=""
    )
    searched = rows["score"].notna()
    print(f"; {(~searched).sum()} have no arcs to search")
    rows, good = rows[searched], good[searched]
    for which, some in (("all", rows), ("good fits", rows[good])):
        print(f"  {which}, {len(some)}: chi2 median {some['chi2'].median():.3f}")
        print(f"    mean of S/N {of_lenses(lambda t: t['mean'].mean(), some)}")
        print(f"    width of S/N {of_lenses(lambda t: math.sqrt(t['square'].mean()), some)}")
        print(f"    median width of a map {of_lenses(lambda t: t['square'].median() ** 0.5, some)}")
        score, p = some["score"], some["p_value"]
        quantiles = ", ".join(f"{score.quantile(q):.2f}" for q in (0.05, 0.5, 0.95, 0.99))
        print(f"    score at 5, 50, 95, 99 %: {quantiles}; above {SURE}: {(score > SURE).sum()}")
        # p-values of 200 twins are multiples of 1/201: spread each over its step
        rng = np.random.default_rng(0)
        spread = p - rng.uniform(0, 1, len(p)) / (1 + SETTINGS.twins)
        ks = stats.kstest(spread, "uniform")
        shares = ", ".join(f"{(spread < q).mean():.1%}" for q in (0.01, 0.05, 0.1, 0.5))
        print(f"    p below 1, 5, 10, 50 %: {shares}; K-S {ks.statistic:.3f}, p {ks.pvalue:.2g}")


# ------------------------------------------------------------------------------------------ twins


def twins(name: str, n: int, refitted: int) -> None:
    """Print scores of linear twins and of refitted ones."""
    population = load_population(name)
    ranks = []
    for index in range(n):
        rng = np.random.default_rng([SEED, index])
        model = fitted(seen(draw(index, "no_sub", SEED, population), population, rng), name)
        found = search(model, SETTINGS.model_copy(update={"refitted_twins": refitted}))
        linear, whole = found.twin_scores, found.refitted_scores
        ranks += [(linear < score).mean() for score in whole]
        print(
            f"  {name} {index}: median score {np.median(linear):.2f} of {len(linear)} linear twins,"
            f" {np.median(whole):.2f} of {len(whole)} refitted ones; 95 % "
            f"{np.quantile(linear, 0.95):.2f}, {np.quantile(whole, 0.95):.2f}"
        )
    above = ", ".join(f"{np.mean(np.array(ranks) > q):.1%}" for q in (0.5, 0.9, 0.95, 0.99))
    print(f"{name}: refitted twins above 50, 90, 95, 99 % of their linear ones: {above}")


# ----------------------------------------------------------------------------------------- inject


def inject(name: str, n: int, first: int, out: Path | None) -> None:
    """Print pulls of the mass of clumps, where they are found, and the mass of S/N 5."""
    row = functools.partial(injected_row, load_population(name), name)
    rows = table_of(row, n, first, out / f"inject_{name}.csv" if out else None)
    tell_inject(name, rows)


def injected_row(population: Population, name: str, index: int) -> dict[str, Any]:
    """Return what the search finds in a lens with a clump, and what its map expected before."""
    rng = np.random.default_rng([SEED, index, 1])
    system = draw(index, "no_sub", SEED, population)
    before = search(fitted(seen(system, population, rng), name), SETTINGS)
    k = rng.choice(np.flatnonzero(inside(before)))
    half = SETTINGS.spacing / 2
    x, y = before.x[k] + rng.uniform(-half, half), before.y[k] + rng.uniform(-half, half)
    target = math.exp(rng.uniform(*np.log(TARGETS)))
    _, expected_error = at_place(before, x, y)
    mass = target * expected_error
    model = fitted(seen(with_clump(system, x, y, mass, population), population, rng), name)
    found = search(model, SETTINGS.model_copy(update={"peaks": 1}))
    amplitude, error = at_place(found, x, y)
    highest = found.peaks.iloc[0]
    return {
        "x": x,
        "y": y,
        "mass": mass,
        "solar_mass": mass / theta_E_point(1.0, population.cosmology) ** 2,
        "expected": target,
        "amplitude": amplitude,
        "error": error,
        "peak": highest["snr"],
        "apart": math.hypot(highest["x"] - x, highest["y"] - y),
        "fit_apart": math.hypot(highest["fit_x"] - x, highest["fit_y"] - y),
        "fit_mass": highest["fit_mass"],
        "fit_error": highest["fit_mass_error"],
        "fit_converged": highest["converged"],
        "delta_evidence": highest["delta_evidence"],
        "score": found.score,
        "misfit": found.misfit,
        "p_value": found.p_value,
        "converged": model.converged,
        "flags": " ".join(model.flags),
        "before": " ".join(before.model.flags),
        "chi2": model.chi2,
    }


def at_place(found: Search, x: float, y: float) -> tuple[float, float]:
    """Return the mass and its error [arcsec^2] at a place that need not lie on the grid."""
    marginal = Marginal(found.model.problem, found.settings.psf_sd)
    (profile,) = profiles_of(DETECT, found.settings)
    near = int(np.nanargmin(np.hypot(found.x - x, found.y - y)))
    T = marginal.templates(profile, np.array([x, found.x[near]]), np.array([y, found.y[near]]))
    D = information(T, marginal.whitened(T))
    residual = marginal.residual(found.model.problem.posterior.data)
    # the map's error has what the noise's correlation adds, the same everywhere
    spread = found.maps[DETECT].error[near] * math.sqrt(D[1])
    return float(T[:, 0] @ residual[marginal.rows] / D[0]), spread / math.sqrt(D[0])


def with_clump(system: System, x: float, y: float, mass: float, population: Population) -> System:
    """Return a lens with one isothermal clump of a ``mass`` [arcsec^2] at x, y ["] of its image."""
    solar = mass / float(theta_E_point(1.0, population.cosmology)) ** 2
    return replace(
        system,
        x=np.array([x - system.center[0]]),
        y=np.array([y - system.center[1]]),
        masses=np.array([solar]),
        truncation=np.array([SETTINGS.truncation]),
    )


def tell_inject(name: str, rows: pd.DataFrame) -> None:
    poor = (words(rows["flags"]) + words(rows["before"])).str.contains("poor")
    print(f"{name}: {len(rows)} clumps, {rows['converged'].mean():.1%} fits converged")
    for which, some in (("all", rows), ("good fits", rows[rows["converged"] & ~poor])):
        pull = (some["amplitude"] - some["mass"]) / some["error"]
        some = some.assign(pull=pull, ratio=some["amplitude"] / some["error"] / some["expected"])
        print(f"  {which}, {len(some)}:")
        for low, high in ((3, 20), (3, 6), (6, 11), (11, 20)):
            part = some[some["expected"].between(low, high)]
            robust = 1.4826 * (part["pull"] - part["pull"].median()).abs().median()
            share = (part["amplitude"] / part["mass"]).median()
            print(
                f"    S/N {low} to {high}, {len(part)}: pulls of mean "
                f"{of_lenses(lambda t: t['pull'].mean(), part)}, width "
                f"{of_lenses(lambda t: t['pull'].std(), part)}, robust width {robust:.2f}; "
                f"measured mass over true one, median {share:.3f}"
            )
        sure = some[some["peak"] > SURE]
        found, told = (sure["apart"] < CLOSE).mean(), (sure["p_value"] < 0.01).mean()
        print(
            f"    {len(sure)} above {SURE}: {found:.1%} within {CLOSE} arcsec, median "
            f"{sure['apart'].median():.3f}; p < 1 % for {told:.1%}"
        )
        fits = sure[(sure["fit_apart"] < CLOSE) & (sure["fit_error"] > 0)]
        fits = fits.assign(pull=(fits["fit_mass"] - fits["mass"]) / fits["fit_error"])
        robust = 1.4826 * (fits["pull"] - fits["pull"].median()).abs().median()
        print(
            f'    refitted: {(sure["fit_apart"] < CLOSE).mean():.1%} within {CLOSE}", median '
            f'{sure["fit_apart"].median():.3f}"; pulls of their masses: mean '
            f"{of_lenses(lambda t: t['pull'].mean(), fits)}, width "
            f"{of_lenses(lambda t: t['pull'].std(), fits)}, robust {robust:.2f}; mass over true "
            f"one, median {(fits['fit_mass'] / fits['mass']).median():.3f}"
        )
        near = some[some["expected"].between(3.5, 7)]
        print(
            f"    mass of S/N 5 over that of the map, dex: "
            f"{of_lenses(lambda t: -math.log10(t['ratio'].mean()), near)} ({len(near)} clumps)"
        )


# ----------------------------------------------------------------------------------------- others

ORDERS = None, 10  # of lenstronomy's shapelets beside a Sérsic profile; None: that alone
AROUND_RING = 7  # places at which both codes are asked for a clump
STEPS = {"x_scale": "jac", "ftol": 1e-6, "xtol": 1e-6}  # of least squares
COMPARED = 8.0  # S/N of the clump that is put in
EXACT = FITS["marginal"][0].model_copy(
    update={"source_error": 0.0, "slope": 2.0} | dict.fromkeys(("m1_sd", "m3_sd", "m4_sd"), 0.0)
)


def plain_population() -> Population:
    """Return ``marginal`` in images of 80 pixels, with sources that a Sérsic profile describes."""
    content = yaml.safe_load(population_file("marginal").read_text())
    content |= {"name": "plain", "num_pix": 80}
    content["halo"]["theta_E"] = {"uniform": [0.9, 1.2]}
    content["source"]["n_sersic"] = {"uniform": [0.7, 1.5]}
    return population_of(content)


class Clumped:
    """lenstronomy's power law, shear and a truncated isothermal clump; a Sérsic source.

    With shapelets of an ``order`` beside it, if that is not None. Amplitudes are solved for.
    Parameters: theta_E, e1, e2, center_x, center_y, gamma1, gamma2, slope, with the priors of our
    fit; x, y ["], e1, e2, ln R_sersic, ln n_sersic of the source; the clump's mass [arcsec^2].
    """

    CORE = 1e-4  # ", of the clump: lenstronomy's has two radii

    def __init__(self, model: LensModel, order: int | None) -> None:
        from lenstronomy.Data.imaging_data import ImageData
        from lenstronomy.Data.psf import PSF
        from lenstronomy.ImSim.image_linear_solve import ImageLinearFit
        from lenstronomy.LensModel.lens_model import LensModel as Deflectors
        from lenstronomy.LightModel.light_model import LightModel

        problem = model.problem
        self.scene, self.fitted, self.noise = problem.scene, problem.fitted, problem.error
        self.order, self.mean, self.sd = order, problem.prior.mean[:8], problem.prior.sd[:8]
        scale = self.scene.pixel_scale
        corner = -(len(self.scene.data) - 1) / 2 * scale
        data = ImageData(
            self.scene.data,
            noise_map=self.noise,
            ra_at_xy_0=corner,
            dec_at_xy_0=corner,
            transform_pix2angle=np.eye(2) * scale,
        )
        self.image = ImageLinearFit(
            data,
            PSF("PIXEL", kernel_point_source=self.scene.kernel),
            Deflectors(["EPL", "SHEAR", "PJAFFE"]),
            LightModel(["SERSIC_ELLIPSE"] + ["SHAPELETS"] * (order is not None)),
            kwargs_numerics={"supersampling_factor": 1},
            likelihood_mask=self.fitted,
        )

    def residual(self, values: NDArray, x: float, y: float) -> NDArray:
        """Return residuals of pixels and priors, in units of their s.d., with a clump at x, y."""
        theta_E, e1, e2, cx, cy, gamma1, gamma2, slope, sx, sy, se1, se2, R, n, m = map(
            float, values
        )
        mass = {"theta_E": theta_E, "e1": e1, "e2": e2, "gamma": slope}
        shear = {"gamma1": gamma1, "gamma2": gamma2, "ra_0": cx, "dec_0": cy}
        cut = SETTINGS.truncation
        clump = {"sigma0": m / (2 * self.CORE * cut), "Ra": self.CORE, "Rs": cut}
        place = {"center_x": sx, "center_y": sy, "amp": 1}
        source = [place | {"e1": se1, "e2": se2, "R_sersic": math.exp(R), "n_sersic": math.exp(n)}]
        if self.order is not None:
            source.append(place | {"n_max": self.order, "beta": math.exp(R) / 2})
        deflectors = [
            mass | {"center_x": cx, "center_y": cy},
            shear,
            clump | {"center_x": x, "center_y": y},
        ]
        image, *_ = self.image.image_linear_solve(deflectors, source)
        off = ((self.scene.data - image) / self.noise)[self.fitted]
        return np.concatenate([off, (values[:8] - self.mean) / self.sd])

    def fit(self, start: NDArray, x: float, y: float, clumpy: bool = True) -> tuple[float, NDArray]:
        """Return the least chi^2, priors included, and its values (15,); no clump: of mass 0."""
        free = len(start) if clumpy else len(start) - 1

        def residual(some: NDArray) -> NDArray:
            return self.residual(np.append(some, start[free:]), x, y)

        scale = np.append(np.ones(14), 0.01)[:free]  # arcsec, and arcsec^2 of the mass
        found = least_squares(lambda u: residual(u * scale), start[:free] / scale, **STEPS)
        return 2 * found.cost, np.append(found.x * scale, start[free:])


def others(n: int, first: int, out: Path | None) -> None:
    """Print delta chi^2 and mass of a clump at some places, here and by lenstronomy."""
    file = out / "others.csv" if out else None
    rows = pd.read_csv(file).to_dict("records") if file and file.is_file() else []
    known = {row["index"] for row in rows}
    for index in sorted(set(range(first, first + n)) - known):
        rows += compared_places(index)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(file, index=False)
    tell_others(pd.DataFrame(rows))


def compared_places(index: int) -> list[dict[str, float]]:
    """Return what both codes find at places about one lens, a row a place and kind of source."""
    population = plain_population()
    rng = np.random.default_rng([SEED, index, 2])
    system = draw(index, "no_sub", SEED, population)
    angle = rng.uniform(0, 2 * math.pi) + np.arange(AROUND_RING) * 2 * math.pi / AROUND_RING
    x = system.theta_E * np.cos(angle) + system.center[0]
    y = system.theta_E * np.sin(angle) + system.center[1]
    before = searched_at(exact_fit(seen(system, population, rng)), x, y)
    mass = COMPARED * before[1][0]
    model = exact_fit(seen(with_clump(system, x[0], y[0], mass, population), population, rng))
    found, error = searched_at(model, x, y)
    rows = []
    for order in ORDERS:
        there, start = Clumped(model, order), near_truth(system, model)
        smooth, best = there.fit(start, 9.0, 9.0, clumpy=False)
        for k in range(AROUND_RING):
            chi2, values = there.fit(best, x[k], y[k])
            rows.append(
                {
                    "index": index,
                    "order": 0 if order is None else order,
                    "place": k,
                    "true": mass,
                    "mass": found[k],
                    "error": error[k],
                    "gain_there": smooth - chi2,
                    "mass_there": values[-1],
                }
            )
    return rows


def exact_fit(observation: Observation) -> LensModel:
    return lens.fit([observation], EXACT, start=lens.fit([observation], FITS["marginal"][1]))[0]


def near_truth(system: System, model: LensModel) -> NDArray:
    """Return lenstronomy's start: our mass, the true source, no clump."""
    source = system.source
    place = [source[f"center_{axis}"] + c for axis, c in zip("xy", system.center, strict=True)]
    logs = np.log([source["R_sersic"], source["n_sersic"]])
    return np.array([*model.values[:8], *place, source["e1"], source["e2"], *logs, 0.0])


def searched_at(model: LensModel, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Return the masses of clumps at places (n,) and their errors, the PSF as given."""
    marginal = Marginal(model.problem)
    T = marginal.templates(profiles_of(DETECT, SETTINGS)[0], x, y)
    D = information(T, marginal.whitened(T))
    residual = marginal.residual(model.problem.posterior.data)[marginal.rows]
    return T.T @ residual / D, D**-0.5


def tell_others(table: pd.DataFrame) -> None:
    for order, some in table.groupby("order"):
        true, mass, there = (some[name].to_numpy() for name in ("true", "mass", "mass_there"))
        gain, snr = some["gain_there"].to_numpy(), mass / some["error"].to_numpy()
        ours, signed = snr**2, np.sign(there) * np.sqrt(np.clip(gain, 0, None))
        at = some["place"].to_numpy() == 0
        with_shapelets = f" and shapelets of order {order}" if order else ""
        print(
            f"lenstronomy, Sérsic source{with_shapelets}; {len(some)} places about {at.sum()} "
            f"lenses: delta chi2 correlates by {np.corrcoef(ours, gain)[0, 1]:.3f} (of its signed "
            f"root, by {np.corrcoef(snr, signed)[0, 1]:.3f}); ours over theirs where the clump is: "
            f"{np.median(ours[at] / gain[at]):.2f}; elsewhere "
            f"{np.median(ours[~at]):.1f} and {np.median(gain[~at]):.1f}; mass over true one, ours "
            f"{np.median(mass[at] / true[at]):.3f}, theirs {np.median(there[at] / true[at]):.3f}"
        )
        best = sum(
            ours[rows].argmax() == gain[rows].argmax()
            for rows in (some["index"].to_numpy() == i for i in some["index"].unique())
        )
        print(f"  both prefer the same place in {best} of {at.sum()} lenses")


# ------------------------------------------------------------------------------------------ speed


def speed(repeats: int) -> None:
    """Print seconds of the processor of maps and twins, of a simulated and an HST-size lens."""
    for name, settings, start in (("marginal", *FITS["marginal"]), ("hubble", FreeForm(), None)):
        population = load_population(name)
        system = draw(3, "no_sub", SEED, population)
        observation = seen(system, population, np.random.default_rng(0))
        first = lens.fit([observation], start) if start else None
        model = lens.fit([observation], settings, start=first)[0]
        shape = " x ".join(map(str, model.noise.shape))
        none = Perturbers(peaks=0, twins=0)
        tasks = {
            profile: none.model_copy(update={"profiles": (profile,), "detect": profile})
            for profile in none.profiles
        }
        tasks |= {"all six": none, "all six, with 200 twins": Perturbers(peaks=0)}
        search(model, Perturbers(peaks=0))  # compiles
        print(f"{name}, {shape} pixels, {model.n_pixels} fitted, {model.settings.splines} splines:")
        for what, asked in tasks.items():
            seconds = [timed(functools.partial(search, model, asked)) for _ in range(repeats)]
            print(f"  {what:24s} {np.median(seconds):.2f} s")


def timed(function: Callable[[], Any]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = ("null", "twins", "inject", "others", "speed")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--populations", nargs="+", choices=tuple(FITS), default=tuple(FITS))
    parser.add_argument("--lenses", type=int, default=20, help="of each population")
    parser.add_argument("--first", type=int, default=0, help="index of the first of them")
    parser.add_argument("--out", type=Path, help="folder of the tables")
    parser.add_argument("--refitted", type=int, default=20, help="twins of a lens that are fitted")
    parser.add_argument("--compared", type=int, default=10, help="lenses that both codes search")
    parser.add_argument("--repeats", type=int, default=3, help="of what is timed")
    parser.add_argument("--tell", type=Path, help="folder of tables that are told of, not made")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.tell:
        tell(options.tell)
        return
    for name in options.populations:
        if "null" in options.only:
            null(name, options.lenses, options.first, options.out)
        if "twins" in options.only:
            twins(name, min(options.lenses, 6), options.refitted)
        if "inject" in options.only:
            inject(name, options.lenses, options.first, options.out)
    if "others" in options.only:
        others(options.compared, options.first, options.out)
    if "speed" in options.only:
        speed(options.repeats)


def tell(folder: Path) -> None:
    """Print what the tables of an earlier run say."""
    for name in FITS:
        for part, say in (("null", tell_null), ("inject", tell_inject)):
            if (path := folder / f"{part}_{name}.csv").is_file():
                say(name, pd.read_csv(path))
    if (path := folder / "others.csv").is_file():
        tell_others(pd.read_csv(path))


if __name__ == "__main__":
    main()
