"""What a fit with a source of free form costs, and how good it is.

``python benchmarks/free_form.py``: some ten minutes, one thread. Parts, of which ``--only`` names
some:

* ``others``: one simulated lens, fitted here and by lenstronomy (power law, shear, a Sérsic profile
  with shapelets) to the same chi^2 on the same pixels.
* ``profile``: where the time of a fit goes, by stages and by what is computed.
* ``size``: seconds of a fit that starts from one with a Sérsic source (96 x 96 pixels), of one that
  starts from nothing (160 x 160, with the lens galaxy), and of real lenses, if there are any.

``--validate N`` instead fits N simulated smooth lenses, from Sérsic fits, and prints the pulls of
the mass. ``docs/benchmarks.md`` tells what was measured.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(
    ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)

import argparse
import cProfile
import functools
import pstats
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from scipy.optimize import least_squares

from vitdm import lens
from vitdm.config import FreeForm, LensFit
from vitdm.data.observation import Observation
from vitdm.data.readers import read_observation
from vitdm.data.simulated import observed
from vitdm.lens import LensModel
from vitdm.simulation import Population, load_population
from vitdm.simulation.drawing import draw
from vitdm.simulation.population import population_file, population_of

ROOT = Path(__file__).resolve().parents[1]
REAL = "J0946+1006", "J2300+0022"
NO_LIGHT = FreeForm(lens_light=False, neighbours=False, cosmic_rays=False)
FROM_SERSIC = NO_LIGHT.model_copy(update={"splines": 18})
SERSIC = LensFit(size=96, lens_light=False, gain=0.0)
PULLED = ("theta_E", "slope", "gamma1", "gamma2", "e1", "e2")
EQUAL = 1.03, 1.01, 1.0  # times our chi^2, which lenstronomy has to reach
COMPARED = 2, 5  # index and seed of the lens that both codes fit


def smooth_population(num_pix: int, multipoles: bool = True) -> Population:
    """Return ``hubble`` with white noise and without the light of the lens galaxies.

    Sources are those brighter than magnitude 23.5.
    """
    content = yaml.safe_load(population_file("hubble").read_text())
    del content["lens_light"], content["instrument"]["drizzle"]
    content |= {"name": "hubble_smooth", "num_pix": num_pix}
    content["source"]["magnitude"] = {"uniform": [21.3, 23.5]}
    if not multipoles:
        del content["halo"]["multipoles"]
    return population_of(content)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return a result and the seconds of the processor that it took."""
    started = time.process_time()
    result = function()
    return result, time.process_time() - started


# ----------------------------------------------------------------------------------------- others


class Shapelets:
    """lenstronomy's power law with shear, and a Sérsic source with shapelets of an ``order``.

    Fits the pixels ``fitted`` (H, W) of an observation with a ``noise`` map. Amplitudes are solved
    for. Parameters: theta_E, e1, e2, center_x, center_y, gamma1, gamma2, slope, those of the source
    x, y ["], e1, e2, ln R_sersic, ln n_sersic, and ln of the width of the shapelets.
    """

    def __init__(
        self,
        observation: Observation,
        noise: NDArray,
        fitted: NDArray,
        order: int,
        supersampling: int,
    ) -> None:
        from lenstronomy.Data.imaging_data import ImageData
        from lenstronomy.Data.psf import PSF
        from lenstronomy.ImSim.image_linear_solve import ImageLinearFit
        from lenstronomy.LensModel import lens_model
        from lenstronomy.LightModel.light_model import LightModel

        self.data, self.noise, self.fitted, self.order = observation.data, noise, fitted, order
        scale = observation.pixel_scale
        corner = -(len(self.data) - 1) / 2 * scale
        data = ImageData(
            self.data.astype(float),
            noise_map=noise,
            ra_at_xy_0=corner,
            dec_at_xy_0=corner,
            transform_pix2angle=np.eye(2) * scale,
        )
        # rays are traced where fitted pixels see them through the PSF
        seen = cv2.dilate(fitted.astype(np.uint8), np.ones(observation.psf.shape, np.uint8)) > 0
        self.image = ImageLinearFit(
            data,
            PSF("PIXEL", kernel_point_source=np.array(observation.psf)),
            lens_model.LensModel(["EPL", "SHEAR"]),
            LightModel(["SERSIC_ELLIPSE", "SHAPELETS"]),
            kwargs_numerics={
                "supersampling_factor": supersampling,
                "supersampling_convolution": False,
                "flux_evaluate_indexes": seen,
            },
            likelihood_mask=fitted,
        )

    def residual(self, values: NDArray) -> NDArray:
        """Return the residual of the fitted pixels, in units of the noise, for the best source."""
        theta_E, e1, e2, x, y, gamma1, gamma2, slope, sx, sy, se1, se2, *logs = map(float, values)
        R, n, beta = np.exp(logs)
        mass = {"theta_E": theta_E, "e1": e1, "e2": e2, "center_x": x, "center_y": y}
        shear = {"gamma1": gamma1, "gamma2": gamma2, "ra_0": x, "dec_0": y}
        place = {"center_x": sx, "center_y": sy, "amp": 1}
        sersic = place | {"e1": se1, "e2": se2, "R_sersic": R, "n_sersic": n}
        shapelets = place | {"n_max": self.order, "beta": beta}
        model, *_ = self.image.image_linear_solve(
            [mass | {"gamma": slope}, shear], [sersic, shapelets]
        )
        return ((self.data - model) / self.noise)[self.fitted]


class Traced:
    """A residual that notes seconds of the processor, evaluations, and the best chi^2 so far.

    ``limit`` [s] is what a method may take; ``best`` are chi^2 per pixel and its parameters.
    """

    def __init__(self, residual: Callable, limit: float) -> None:
        self.residual, self.limit, self.started = residual, limit, time.process_time()
        self.best: tuple[float, NDArray] = (np.inf, np.empty(0))
        self.trace: list[tuple[float, float]] = []

    def __call__(self, values: NDArray) -> NDArray:
        residual = self.residual(values)
        chi2 = float((residual**2).mean())
        if chi2 < self.best[0]:
            self.best = chi2, values.copy()
        self.trace.append((time.process_time() - self.started, self.best[0]))
        return residual

    @property
    def seconds(self) -> float:
        return self.trace[-1][0] if self.trace else 0.0

    def until(self, aim: float) -> tuple[float, int] | None:
        """Return seconds and evaluations until chi^2 was at most an ``aim``, None if never."""
        for k, (seconds, chi2) in enumerate(self.trace, 1):
            if chi2 <= aim:
                return seconds, k
        return None


def near_truth(truth: dict[str, Any]) -> NDArray:
    """Return lenstronomy's start: the mass a few per cent off, the smooth source as simulated."""
    mass = [truth[name] for name in ("theta_E", "e1", "e2", "center_x", "center_y")]
    mass += [truth["gamma1"], truth["gamma2"], truth["slope"]]
    off = np.array([0.03 * truth["theta_E"], 0.02, -0.02, 0.01, -0.01, 0.01, -0.01, -0.06])
    place = [truth[f"source_{axis}"] + truth[f"center_{axis}"] for axis in "xy"]
    shape = [truth["source_e1"], truth["source_e2"]]
    logs = np.log([truth["source_R_sersic"], truth["source_n_sersic"], 0.1])
    return np.array([*(np.array(mass) + off), *place, *shape, *logs])


#: how far from the start the parameters may go, and, at most, the particles of a first swarm
REACH = np.array([0.3, *[0.3] * 2, *[0.2] * 4, 0.5, *[0.3] * 2, *[0.4] * 2, 1, 1, 1])
SWARM = REACH / 5


def by_least_squares(residual: Traced, start: NDArray) -> tuple[NDArray, bool]:
    """Return errors from scipy's trust region, derivatives by differences; and whether it ended."""

    def limited(values: NDArray) -> NDArray:
        if residual.seconds > residual.limit:
            raise TimeoutError
        return residual(values)

    bounds = start - REACH, start + REACH
    steps = {"x_scale": "jac", "diff_step": 1e-4, "ftol": 1e-4, "xtol": 1e-5}
    try:
        J = least_squares(limited, start, bounds=bounds, **steps).jac
    except TimeoutError:
        return np.full(len(start), np.nan), False
    return np.sqrt(np.diag(np.linalg.pinv(J.T @ J))), True


def by_swarm(residual: Traced, start: NDArray) -> tuple[NDArray, bool]:
    """Let lenstronomy's swarm fly, 50 particles and 100 iterations; it knows no errors."""
    from lenstronomy.Sampling.Samplers.pso import ParticleSwarmOptimizer

    np.random.seed(1)  # noqa: NPY002, lenstronomy draws from NumPy's global state

    def log_likelihood(values: NDArray) -> float:
        if np.any(np.abs(values - start) > REACH) or residual.seconds > residual.limit:
            return -1e15
        return -float((residual(values) ** 2).sum()) / 2

    swarm = ParticleSwarmOptimizer(log_likelihood, start - SWARM, start + SWARM, 50)
    swarm.set_global_best(start, np.zeros(len(start)), log_likelihood(start))
    for _ in swarm.sample(100, verbose=False):
        if residual.seconds > residual.limit:
            break
    return np.full(len(start), np.nan), residual.seconds <= residual.limit


METHODS = {"least squares": by_least_squares, "swarm": by_swarm}


def others(repeats: int, order: int, supersampling: int, limit: float) -> None:
    """Print chi^2, theta_E and seconds of both codes on one lens, in turns; the swarm once."""
    index, seed = COMPARED
    population = smooth_population(100, multipoles=False)
    observation = observed(index, "no_sub", seed, population)
    truth = draw(index, "no_sub", seed, population).truth
    print(f"{observation.name}: theta_E {truth['theta_E']:.4f}")
    lens.fit(observation, NO_LIGHT)  # compiles
    ratios: dict[tuple[str, float], list[float]] = {}
    for turn in range(repeats):
        model, ours = timed(lambda: lens.fit(observation, NO_LIGHT))
        print(
            f"ours, from nothing: {ours:.1f} s, chi2 {model.chi2:.4f} on {model.n_pixels} pixels, "
            f"ln E {model.evidence:.1f}, theta_E {model.values[0]:.4f} ± {model.errors[0]:.4f}"
        )
        there = Shapelets(observation, model.noise, model.fitted, order, supersampling)
        for method in list(METHODS)[: 1 if turn else None]:
            residual = Traced(there.residual, limit)
            errors, ended = METHODS[method](residual, near_truth(truth))
            tell(method, residual, errors, ended)
            for equal in EQUAL:
                reached = residual.until(equal * model.chi2)
                ratios.setdefault((method, equal), []).append(
                    reached[0] / ours if reached else np.inf
                )
                if reached is None:
                    print(f"    did not reach {equal} x our chi2")
                else:
                    print(
                        f"    {equal} x our chi2 after {reached[0]:.1f} s, {reached[1]} evaluations"
                    )
    for (method, equal), each in ratios.items():
        print(
            f"RATIO to {equal} x our chi2, lenstronomy by {method} over ours: "
            f"{np.median(each):.1f} ({len(each)} runs)"
        )


def tell(method: str, residual: Traced, errors: NDArray, ended: bool) -> None:
    chi2, values = residual.best
    seconds, count = residual.seconds, len(residual.trace)
    print(
        f"  lenstronomy by {method}, from near the truth: {'ended' if ended else 'was stopped'} "
        f"after {seconds:.1f} s, {count} evaluations of {1e3 * seconds / count:.0f} ms; chi2 "
        f"{chi2:.4f}, theta_E {values[0]:.4f} ± {errors[0]:.4f}"
    )


# ---------------------------------------------------------------------------------------- profile


class Stages:
    """The ``progress`` of a fit: seconds of the processor by stage, in the order of the stages.

    The fit tells a stage as its first point is known and after each of its steps: what lies between
    its last step and the next stage, such as the choice of the prior, counts to the next.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.process_time()

    def __call__(self, stage: str, chi2: float) -> None:
        now = time.process_time()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now


#: what is computed: names of functions, of which none is called by another of the table
COMPUTED = {
    "light of the lens galaxy": {("galaxy.py", "fit_galaxy")},
    "deflection": {("mass.py", "deflection"), ("mass.py", "deflection_and_derivatives")},
    "matrix (splines through the PSF)": {("optics.py", "matrix")},
    "normal equations": {("inversion.py", "__init__")},
    "Cholesky, solution, evidence": {("inversion.py", "solve")},
    "gradient of the source's prior": {("inversion.py", "prior_gradient")},
    "gradient and curvature of the mass": {("posterior.py", "derivatives")},
}


def profile() -> None:
    """Print where the time of a fit goes: a lens of ``hubble`` with the light of its galaxy."""
    observation = observed(0, "no_sub", 3, load_population("hubble"))
    lens.fit(observation)  # compiles
    stages = Stages()
    _, seconds = timed(lambda: lens.fit(observation, progress=stages))
    stages("the prior of the last, errors, result", 0.0)
    print(f"a fit of {observation.shape[0]} x {observation.shape[1]} pixels: {seconds:.1f} s")
    table({name: used / seconds for name, used in stages.seconds.items()})
    profiler = cProfile.Profile(time.process_time)
    profiler.runcall(lens.fit, observation)
    table(shares(pstats.Stats(profiler)))


def shares(stats: pstats.Stats) -> dict[str, float]:
    """Return the share of the time of what is computed, and of the rest."""
    used, inside = dict.fromkeys(COMPUTED, 0.0), 0.0
    for (file, _, name), (_, _, _, cumulative, callers) in stats.stats.items():
        key = Path(file).name, name
        for what, functions in COMPUTED.items():
            if key in functions and "free_form" in file:
                used[what] += cumulative
        if key[1] == "deflection_and_derivatives":  # counted as deflection, not as gradient
            inside += sum(row[3] for caller, row in callers.items() if caller[2] == "derivatives")
    used["gradient and curvature of the mass"] -= inside
    result = {what: seconds / stats.total_tt for what, seconds in used.items()}
    return result | {"all else": 1 - sum(result.values())}


def table(rows: dict[str, float]) -> None:
    for name, share in rows.items():
        print(f"  {name:40s} {share:5.1%}")


# ------------------------------------------------------------------------------------------- size


def size(n: int, folder: Path) -> None:
    """Print medians of seconds: from a Sérsic fit, from nothing, from the files of real lenses."""
    population = smooth_population(96)
    observations = [observed(k, "no_sub", 11, population) for k in range(n)]
    lens.fit(observations[:1], FROM_SERSIC, start=lens.fit(observations[:1], SERSIC))
    _, batched = timed(lambda: lens.fit(observations, SERSIC))
    rows = []
    for observation in observations:
        sersic, alone = timed(lambda o=observation: lens.fit([o], SERSIC))
        fit = functools.partial(lens.fit, [observation], FROM_SERSIC, start=sersic)
        (model,), more = timed(fit)
        rows.append((alone, more, model.chi2, sersic.chi2[0]))
    alone, more, chi2, before = map(np.array, zip(*rows, strict=True))
    print(
        f"96 x 96 pixels, {n} lenses: Sérsic fit {1e3 * batched / n:.0f} ms a lens in a batch, "
        f"{1e3 * np.median(alone):.0f} ms alone; free form from there {np.median(more):.2f} s more "
        f"({more.min():.2f} to {more.max():.2f}); median chi2 {np.median(before):.2f}, then "
        f"{np.median(chi2):.2f}"
    )
    population = load_population("hubble")
    report("160 x 160 pixels, from nothing", [
        functools.partial(lens.fit, observed(k, "no_sub", 12, population)) for k in range(n)
    ])  # fmt: skip
    real = [folder / name for name in REAL if (folder / name).is_dir()]
    if not real:
        print(f"no real lenses in {folder}")
        return
    report("real lenses, from file to model", [functools.partial(from_file, path) for path in real])


def from_file(folder: Path) -> LensModel:
    return lens.fit(read_observation(folder, pixel_scale=0.05))


def report(what: str, fits: list[Callable[[], LensModel]]) -> None:
    models, seconds = zip(*map(timed, fits), strict=True)
    chi2 = ", ".join(f"{model.chi2:.2f}" for model in models)
    pixels = " x ".join(map(str, models[0].noise.shape))
    print(
        f"{what} ({pixels}), {len(fits)} lenses: median {np.median(seconds):.1f} s "
        f"({min(seconds):.1f} to {max(seconds):.1f}); chi2 {chi2}"
    )


# --------------------------------------------------------------------------------------- validate


def validate(n: int, seed: int, jobs: int, out: Path | None) -> None:
    """Print how many fits of n smooth lenses converge, chi^2, and pulls; write a row of each."""
    chunks = [(range(k, min(k + 10, n)), seed) for k in range(0, n, 10)]
    if jobs > 1:
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            parts = list(pool.map(validated, *zip(*chunks, strict=True)))
    else:
        parts = [validated(*chunk) for chunk in chunks]
    rows = pd.concat(parts, ignore_index=True)
    if out:
        rows.to_csv(out, index=False)
    print(
        f"{n} smooth lenses: Sérsic fits of {rows['sersic'].mean():.1%} converged, "
        f"these of {rows['converged'].mean():.1%}; chi2 median {rows['chi2'].median():.3f}, "
        f"5 to 95 % {rows['chi2'].quantile(0.05):.3f} to {rows['chi2'].quantile(0.95):.3f}"
    )
    poor = rows["flags"].str.contains("poor")
    good = rows["converged"] & ~poor
    for chosen, which in ((rows.index >= 0, "all"), (good, "those converged and not flagged poor")):
        print(f"pulls of {which}, {chosen.sum()}:")
        for name in PULLED:
            print(f"  {name:8s} {moments(rows.loc[chosen, f'pull_{name}'].to_numpy())}")


def validated(indices: range, seed: int) -> pd.DataFrame:
    """Return a row for each of the smooth lenses ``indices``."""
    torch.set_num_threads(1)
    population = smooth_population(96)
    observations = [observed(k, "no_sub", seed, population) for k in indices]
    sersic = lens.fit(observations, SERSIC)
    models = lens.fit(observations, FROM_SERSIC, start=sersic)
    rows = []
    for j, (k, model) in enumerate(zip(indices, models, strict=True)):
        truth = draw(k, "no_sub", seed, population).truth
        row = {"index": k, "converged": model.converged, "chi2": model.chi2}
        row |= {"sersic": bool(sersic.converged[j]), "sersic_chi2": sersic.chi2[j]}
        for name in PULLED:
            at = model.names.index(name)
            value, error = model.values[at], model.errors[at]
            row |= {name: value, f"{name}_error": error, f"{name}_true": truth[name]}
            row[f"pull_{name}"] = (value - truth[name]) / error
        rows.append(row | {"flags": " ".join(model.flags)})
    return pd.DataFrame(rows)


def moments(pull: NDArray) -> str:
    """Return mean, s.d., robust s.d. (1.4826 times the median deviation) and median in words."""
    middle = np.median(pull)
    robust = 1.4826 * np.median(np.abs(pull - middle))
    return (
        f"mean {pull.mean():+.2f}, s.d. {pull.std(ddof=1):.2f}, robust s.d. {robust:.2f}, "
        f"median {middle:+.2f}; {np.sum(np.abs(pull) > 5)} of {len(pull)} beyond 5"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = ("others", "profile", "size")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--repeats", type=int, default=2, help="turns of both codes")
    parser.add_argument("--order", type=int, default=28, help="of lenstronomy's shapelets")
    parser.add_argument("--supersampling", type=int, default=1, help="of lenstronomy's rays")
    parser.add_argument("--limit", type=float, default=330, help="s of lenstronomy, a turn")
    parser.add_argument("--lenses", type=int, default=7, help="of each size")
    parser.add_argument("--real", type=Path, default=ROOT / "data/real/slacs_hst")
    parser.add_argument("--validate", type=int, metavar="N", help="smooth lenses to fit, instead")
    parser.add_argument("--seed", type=int, default=77, help="of the lenses that are validated")
    parser.add_argument("--jobs", type=int, default=1, help="processes of the validation")
    parser.add_argument("--out", type=Path, help="CSV of the validation")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.validate:
        validate(options.validate, options.seed, options.jobs, options.out)
        return
    if "others" in options.only:
        others(options.repeats, options.order, options.supersampling, options.limit)
    if "profile" in options.only:
        profile()
    if "size" in options.only:
        size(options.lenses, options.real)


if __name__ == "__main__":
    main()
