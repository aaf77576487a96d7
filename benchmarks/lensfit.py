"""What a fit of a smooth lens costs, and how good it is.

``python benchmarks/lensfit.py``: some ten minutes, one thread. Parts, of which ``--only`` names
some:

* ``derivatives``: the image and all its derivatives, ours analytic, those of caustics (if it is
  installed) by ``vmap(jacfwd)``, on the same 96 x 96 pixels with the same PSF.
* ``speed``: milliseconds of a step and of a fit by size of the square and number of parameters;
  draws ``docs/lensfit_cost.png``.
* ``others``: the same model fitted to the same images by lenstronomy's downhill simplex and by
  caustics' ``batch_lm``, both from the start that ours has found on coarse pixels.
* ``quality``: how many converge and pulls, for each population; how well one number or the radius
  tells the classes, and where the residual peaks.

``docs/benchmarks.md`` tells what was measured. Derivatives, with other work on the machine: an
image 0.15 ms, with its 13 derivatives 0.5 to 1.3 ms; by caustics 0.3 ms and 11 to 18 ms, 9 to 40
times as much.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse
import contextlib
import io
import math
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import LogLocator
from sklearn.metrics import roc_auc_score

from studies import plots
from studies.ideal_observer import true_values
from vitdm import simulation
from vitdm.config import LensFit
from vitdm.data.simulated import class_of_each
from vitdm.lens import Camera, Fits, SmoothLens, estimate_gain, features, fit, settings_for
from vitdm.lens.fit import POOR
from vitdm.lens.problem import LensProblem
from vitdm.simulation import load_population

ROOT = Path(__file__).resolve().parents[1]
GAIN = {"marginal": 1.0, "model_i": 2.0}
SIZES = (48, 64, 80, 96, 128, 150)
#: populations that are fitted with 15 and 22 parameters, and the sizes of the squares, px
FITTED = {"marginal": (64, 80, 96, 128, 150), "realistic": (48, 64, 80, 100)}
CAMERA = Camera.of(96, 0.05, 0.087, 3.0)
REPEATS = 7


def population_of(name: str):
    return load_population(name)


def drawn(name: str, n: int, seed: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Return images and truth of a population as ``vitdm simulate`` makes it."""
    population = population_of(name)
    kinds = class_of_each(n, seed, population)
    pairs = [simulation.simulate_one(i, kind, seed, population) for i, kind in enumerate(kinds)]
    images, truth = zip(*pairs, strict=True)
    return np.array(images), pd.DataFrame(truth).assign(kind=kinds)


def milliseconds(function: Callable, repeats: int = REPEATS) -> float:
    """Return the median time of a call, after one that does not count."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times))


# ------------------------------------------------------------------------------------- derivatives


def caustics_image(values: torch.Tensor) -> torch.Tensor:
    """Return the image (96, 96) of ``vitdm.lens.parameters.parameters()`` by functions of caustics.

    ``values`` (15,) are without batch dimension, for ``torch.vmap``.
    """
    from caustics.lenses import func as lens
    from caustics.light import func as light

    theta_E, e1, e2, gamma1, gamma2, sx, sy, se1, se2, log_R, log_n, log_amp, sky, cx, cy = values
    side = CAMERA.size + 2 * CAMERA.psf_radius
    axis = (torch.arange(side, dtype=values.dtype) - (side - 1) / 2) * CAMERA.pixel_scale
    y, x = torch.meshgrid(axis - cy, axis - cx, indexing="ij")  # from the centre of the mass
    zero = values.new_zeros(())
    q, phi = axis_ratio(e1, e2)
    a = lens.reduced_deflection_angle_sie(zero, zero, q, phi, theta_E, x, y)
    b = lens.reduced_deflection_angle_external_shear(zero, zero, gamma1, gamma2, x, y)
    q, phi = axis_ratio(se1, se2)
    n, R = torch.exp(log_n), torch.exp(log_R) / torch.sqrt(q)
    at = (x - a[0] - b[0], y - a[1] - b[1])
    bright = light.brightness_sersic(
        sx, sy, q, phi, n, R, torch.exp(log_amp), *at, light.k_lenstronomy(n)
    )
    kernel = torch.tensor(CAMERA.weights, dtype=values.dtype)
    image = (bright + sky)[None, None] * CAMERA.pixel_scale**2
    image = torch.nn.functional.conv2d(image, kernel[None, None, :, None])
    return torch.nn.functional.conv2d(image, kernel[None, None, None])[0, 0]


def axis_ratio(e1: torch.Tensor, e2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    modulus = torch.sqrt(e1**2 + e2**2)
    return (1 - modulus) / (1 + modulus), torch.atan2(e2, e1) / 2


def smooth_values(n: int) -> torch.Tensor:
    """Return the parameters (n, 15) of lenses of ``marginal``."""
    population = population_of("marginal")
    systems = [simulation.smooth(simulation.draw(i, "no_sub", 0, population)) for i in range(n)]
    rows = np.array([true_values(system) for system in systems])
    return torch.tensor(rows, dtype=torch.float32)


def derivatives() -> None:
    values = smooth_values(8)
    model = SmoothLens(CAMERA)
    image = milliseconds(lambda: model.image(values)) / 8
    both = milliseconds(lambda: model.image_and_derivatives(values)) / 8
    print(f"one 96 x 96 image {image:.2f} ms, with 15 derivatives {both:.2f} ms, analytic")
    try:
        import caustics  # noqa: F401
    except ImportError:
        print("caustics is not installed")
        return
    forward = torch.vmap(caustics_image)
    jacobian = torch.vmap(torch.func.jacfwd(caustics_image))
    difference = (forward(values) - model.image(values)).abs().amax((1, 2))
    worst = float((difference / model.image(values).amax((1, 2))).max())
    theirs = model.derivatives(values)[1].movedim(1, -1) - jacobian(values)
    scale = model.derivatives(values)[1].abs().amax((2, 3))
    wrong = float((theirs.abs().amax((1, 2)) / scale).median())
    print(
        f"caustics: images differ by {worst:.1e} of the peak, derivatives by {wrong:.1e} (median)"
    )
    for n in (1, 8, 32):
        some = smooth_values(n)
        a = milliseconds(lambda some=some: forward(some)) / n
        b = milliseconds(lambda some=some: (forward(some), jacobian(some))) / n
        print(f"  batch {n:2d}: image {a:.2f} ms, with jacobian {b:.2f} ms, {b / both:.1f} x ours")


# ------------------------------------------------------------------------------------------ speed


def speed(n: int) -> None:
    """Print and draw what a step and a fit cost, against the number of pixels and parameters.

    Time is that of the processor, which other work on the machine stretches less than the clock.
    The fits with 22 parameters are those of a population whose lens galaxies shine.
    """
    plots.style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH, 2.7), layout="constrained")
    for light, style in ((False, "o-"), (True, "s--")):
        costs = {size: step(size, light) for size in SIZES}
        line(left, costs, style, f"{22 if light else 15} parameters", "a step")
    for (name, sizes), style in zip(FITTED.items(), ("o-", "s--"), strict=True):
        images, _ = drawn(name, n, 5)
        population = population_of(name)
        scale, costs = population.instrument.pixel_scale, {}
        for size in sizes:
            settings = settings_for(population, LensFit(size=size))
            fit(images[:2], settings, pixel_scale=scale)
            used = time.process_time()
            fits = fit(images, settings, pixel_scale=scale)
            costs[size] = 1e3 * (time.process_time() - used) / n
        line(right, costs, style, f"{len(fits.names)} parameters ({name})", "a fit")
    for axes, title in ((left, "one step: model, derivatives, sums"), (right, "a whole fit")):
        axes.set(xscale="log", yscale="log", title=title, xlabel="pixels")
        axes.set_ylabel("ms an image")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        axes.set_ylim(top=2 * axes.get_ylim()[1])  # room for the legend
        axes.legend(fontsize=7, loc="upper left")
    figure.savefig(ROOT / "docs/lensfit_cost.png", dpi=110, metadata={"Software": None})
    print("drawn: docs/lensfit_cost.png")


def step(size: int, light: bool) -> float:
    """Return milliseconds an image of chi^2, gradient and curvature on size x size pixels."""
    model = SmoothLens(Camera.of(size, 0.05, 0.087, 3.0), light)
    values = smooth_values(32).double()
    if light:  # as bright as the source
        galaxy = [0.0, 0.0, 0.1, 0.05, math.log(0.6), math.log(4.0), math.log(20.0)]
        values = torch.cat([values, torch.tensor([galaxy] * len(values), dtype=torch.float64)], 1)
    n, everything = len(values), torch.arange(len(values))
    images, weight = model.image(values), torch.ones(n, size, size)
    none = torch.zeros(n, dtype=torch.bool)
    problem = LensProblem(model, images, weight, torch.ones(n), none)
    used = []
    for _ in range(REPEATS):
        started = time.process_time()
        problem.normal_equations(values, everything)
        used.append(time.process_time() - started)
    return 1e3 * min(used) / n  # the least disturbed


def line(axes: plt.Axes, costs: dict[int, float], style: str, label: str, what: str) -> None:
    """Draw and print costs [ms] by size, and the power of the number of pixels they follow."""
    pixels, cost = np.array(list(costs)) ** 2, np.array(list(costs.values()))
    power, _ = np.polyfit(np.log(pixels), np.log(cost), 1)
    axes.plot(pixels, cost, style, ms=4, lw=1, label=f"{label}: power {power:.2f}")
    by_size = ", ".join(f"{size} x {size} {ms:.2f}" for size, ms in costs.items())
    print(f"{what}, {label}: ms an image {by_size}; as pixels^{power:.2f}")


# ----------------------------------------------------------------------------------------- others


def others(n: int) -> None:
    population = population_of("marginal")
    images, truth = smooth_images(n)
    settings = LensFit(gain=1.0)
    fit(images[:2], settings, pixel_scale=0.05)
    started = time.perf_counter()
    fits = fit(images, settings, pixel_scale=0.05)
    ours = (time.perf_counter() - started) / n
    print(f"ours: {1e3 * ours:.1f} ms an image, chi2 {np.round(fits.chi2, 3)}")
    seconds, chi2 = [], []
    for image, fitted, exposure in zip(images, fits.values, truth["exposure_time"], strict=True):
        started = time.perf_counter()
        chi2.append(simplex(image[27:123, 27:123], nearby(fitted), exposure, population))
        seconds.append(time.perf_counter() - started)
    print(
        f"lenstronomy, downhill simplex: {np.mean(seconds):.2f} s an image, chi2 "
        f"{np.round(chi2, 3)}; {np.mean(seconds) / ours:.0f} x ours"
    )
    try:
        import caustics  # noqa: F401
    except ImportError:
        print("caustics is not installed")
        return
    started = time.perf_counter()
    reduced = np.round(by_caustics(images, fits, truth["exposure_time"].to_numpy()), 3)
    took = (time.perf_counter() - started) / n
    print(f"caustics, batch_lm: {took:.2f} s an image, chi2 {reduced}; {took / ours:.0f} x ours")


def smooth_images(n: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Return n smooth images of ``marginal`` and their truth."""
    images, truth = drawn("marginal", 2 * n + 20, 5)
    chosen = np.flatnonzero(truth["kind"] == "no_sub")[:n]
    return images[chosen], truth.iloc[chosen]


def by_caustics(images: np.ndarray, fits: Fits, exposure: np.ndarray) -> np.ndarray:
    """Return chi^2 per degree of freedom (n,) of caustics' ``batch_lm``, from near our fits."""
    from caustics.utils import batch_lm

    start = torch.tensor(np.array([nearby(fitted) for fitted in fits.values]), dtype=torch.float32)
    start[:, 9:12] = torch.log(start[:, 9:12])
    sky = torch.tensor(0.01 * exposure, dtype=torch.float32)
    start[:, 11] -= torch.log(sky)  # in units of the noise, as ours
    start[:, 12] = 0
    side = CAMERA.size
    data = torch.from_numpy(images[:, 27:123, 27:123]).flatten(1) / sky[:, None]
    bright = torch.nn.functional.avg_pool2d(data.view(-1, 1, side, side).clamp(min=0), 3, 1, 1)
    variance = 1 + bright.flatten(1) / sky[:, None]
    _, _, chi2 = batch_lm(start, data, lambda v: caustics_image(v).flatten(), C=variance)
    return chi2.numpy() / (side**2 - start.shape[1])


def nearby(values: np.ndarray) -> np.ndarray:
    """Return parameters as far from the best ones as those of a good start."""
    start = values.copy()
    start[0] *= 1.02
    start[1:5] *= 0.7
    start[5:7] += 0.02
    start[7:9] *= 0.5
    start[9] *= 1.2
    start[10] *= 0.85
    return start


def simplex(image: np.ndarray, start: np.ndarray, exposure: float, population) -> float:
    """Return chi^2 per degree of freedom of lenstronomy's downhill simplex."""
    from lenstronomy.Workflow.fitting_sequence import FittingSequence

    n, scale = len(image), population.instrument.pixel_scale
    corner = -(n - 1) / 2 * scale
    band = {
        "image_data": image / exposure,
        "background_rms": 0.01,
        "exposure_time": exposure,
        "ra_at_xy_0": corner,
        "dec_at_xy_0": corner,
        "transform_pix2angle": np.eye(2) * scale,
    }
    psf = {"psf_type": "GAUSSIAN", "fwhm": 0.087, "truncation": 3, "pixel_size": scale}
    numerics = {"supersampling_factor": 1, "supersampling_convolution": False}
    data = {"multi_band_list": [[band, psf, numerics]], "multi_band_type": "multi-linear"}
    model = {"lens_model_list": ["SIE", "SHEAR"], "source_light_model_list": ["SERSIC_ELLIPSE"]}
    names = [("theta_E", "e1", "e2"), ("gamma1", "gamma2")]
    lens = [
        dict(zip(names[0], start[:3], strict=True)),
        dict(zip(names[1], start[3:5], strict=True)),
    ]
    keys = ("center_x", "center_y", "e1", "e2", "R_sersic", "n_sersic")
    source = [dict(zip(keys, start[5:11], strict=True))]
    widths = {"theta_E": 0.05, "R_sersic": 0.05, "n_sersic": 0.2}

    def parts(initial: list[dict], fixed: list[dict]) -> list[list[dict]]:
        sigma = [{key: widths.get(key, 0.03) for key in entry} for entry in initial]
        low = [{key: 0.01 if key in widths else -0.8 for key in entry} for entry in initial]
        return [initial, sigma, fixed, low, [dict.fromkeys(entry, 8.0) for entry in initial]]

    centre = {"center_x": 0, "center_y": 0}
    params = {
        "lens_model": parts(lens, [centre, {"ra_0": 0, "dec_0": 0}]),
        "source_model": parts(source, [{}]),
    }
    sequence = FittingSequence(data, model, {}, {"source_marg": False}, params, verbose=False)
    with contextlib.redirect_stdout(io.StringIO()):
        sequence.fit_sequence([["SIMPLEX", {"n_iterations": 3000}]])
    return float(-2 * sequence.best_fit_likelihood() / (n * n - 13))


# ---------------------------------------------------------------------------------------- quality


def quality(n: int) -> None:
    """Print how many fits of n smooth images converge, and their pulls, for each population."""
    for file in sorted((ROOT / "config/populations").glob("*.yaml")):
        name, population = file.stem, population_of(file.stem)
        images, truth = drawn(name, 2 * n, 7)
        scale = population.instrument.pixel_scale
        settings = settings_for(population, LensFit())
        gain = settings.gain
        if gain is None:
            gain = estimate_gain(images[:64], settings, pixel_scale=scale)
        used = time.process_time()
        fits = fit(images, settings, pixel_scale=scale, gain=gain)
        cost = 1e3 * (time.process_time() - used) / len(images)
        smooth = (truth["kind"] == "no_sub").to_numpy()
        good = fits.converged & (fits.chi2 < POOR)
        print(
            f"{name}: of {smooth.sum()} smooth {fits.converged[smooth].mean():.1%} converge, "
            f"{good[smooth].mean():.1%} to chi2 < 1.3 (median {np.median(fits.chi2[smooth]):.2f}); "
            f"of others {fits.converged[~smooth].mean():.1%} converge; {cost:.0f} ms an image"
        )
        pulls(fits, truth, smooth & fits.converged)
        if name in ("marginal", "model_i"):
            table = features(fits)
            for kind in ("cdm", "axion"):
                rows = np.flatnonzero(smooth | (truth["kind"] == kind).to_numpy())
                scores = {
                    score: roc_auc_score(~smooth[rows], table[score].fillna(0)[rows])
                    for score in ("fit_fourth_power", "fit_peak", "fit_chi2", "fit_theta_E")
                }
                text = ", ".join(f"{score} {auc:.3f}" for score, auc in scores.items())
                print(f"  no_sub against {kind}: {text}")
            peaks(name, truth, table)


def pulls(fits: Fits, truth: pd.DataFrame, chosen: np.ndarray) -> None:
    """Print (fitted - true) / error of the lens: plain, and from the median and the central 68 %.

    Where no noise was added, errors are those of the noise that the fit assumes, and pulls vanish.
    """
    for parameter in ("theta_E", "e1", "e2", "gamma1", "gamma2"):
        k = fits.names.index(parameter)
        off = (fits.values[chosen, k] - truth[parameter][chosen]).to_numpy()
        pull = off / fits.errors[chosen, k]
        pull = pull[np.isfinite(pull)]
        low, middle, high = np.quantile(pull, [0.1587, 0.5, 0.8413])
        print(
            f"  pull of {parameter}: mean {pull.mean():+.2f}, width {pull.std():.2f}; median "
            f"{middle:+.2f}, half of the central 68 % {(high - low) / 2:.2f}; "
            f"{np.sum(np.abs(pull) > 5)} of {len(pull)} beyond 5; |off| median "
            f"{np.median(np.abs(off)):.1e}, error {np.nanmedian(fits.errors[chosen, k]):.1e}"
        )


def peaks(name: str, truth: pd.DataFrame, table: pd.DataFrame) -> None:
    """Print how far from massive subhalos near the ring the residual peaks.

    By chance, a place on the ring would be as near as the place on the opposite side of the lens.
    """
    population, rows = population_of(name), []
    for index in np.flatnonzero(truth["kind"] == "cdm"):
        system = simulation.draw(index, "cdm", int(truth["seed"][index]), population)
        x, y = (table[f"fit_peak_{axis}"][index] for axis in "xy")
        near = np.abs(np.hypot(system.x, system.y) - system.theta_E) < 0.3
        if not near.any():
            continue
        largest = np.flatnonzero(near)[system.masses[near].argmax()]
        massive = near & (system.masses > 3e9)
        row = {"log_mass": np.log10(system.masses[largest])}
        for side, sign in (("peak", 1), ("chance", -1)):
            distance = np.hypot(sign * x - system.x, sign * y - system.y)
            row |= {side: distance[largest], f"{side}_any": distance[massive].min(initial=9)}
        rows.append(row)
    found = pd.DataFrame(rows)
    for low, high in ((8, 9), (9, 9.5), (9.5, 9.75), (9.75, 10)):
        part = found[(found["log_mass"] >= low) & (found["log_mass"] < high)]
        if len(part) > 4:
            close = (part[["peak", "chance", "peak_any", "chance_any"]] < 0.2).mean()
            print(
                f"  most massive subhalo near the ring 10^{low:g} to 10^{high:g} ({len(part)}): "
                f"the peak is within 0.2 arcsec of it for {close['peak']:.2f} (by chance "
                f"{close['chance']:.2f}), median distance {part['peak'].median():.2f} arcsec; of "
                f"any above 3e9 for {close['peak_any']:.2f} (by chance {close['chance_any']:.2f})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=500, help="smooth images of each population")
    parser.add_argument("--n-others", type=int, default=5, help="images that the others fit")
    parts = ("derivatives", "speed", "others", "quality")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "derivatives" in arguments.only:
        derivatives()
    if "speed" in arguments.only:
        speed(min(arguments.n, 96))
    if "others" in arguments.only:
        others(arguments.n_others)
    if "quality" in arguments.only:
        quality(arguments.n)


if __name__ == "__main__":
    main()
