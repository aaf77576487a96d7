r"""The known-model ceiling of a population: how well its classes can be told apart at all.

What limits a classifier is the noise, and what it does not know about the smooth lens. Both limits
can be computed, for the simulation knows each lens without its substructure. Let
:math:`\mu(m)` and :math:`v(m)` be the mean and variance of a pixel whose noiseless brightness is
:math:`m`; :math:`m_1` the noiseless image of a lens, :math:`m(p)` that of a smooth lens with
parameters p, :math:`p_0` the true ones (without the substructure), :math:`v_0 = v(m(p_0))`.

**Matched filter.** The signal-to-noise ratio of the perturbation if the smooth lens is known, and
if it is not: what the best smooth lens cannot imitate,

.. math::
    s^2 = \sum [\mu(m_1) - \mu(m(p_0))]^2 / v_0, \qquad
    s_\mathrm{free}^2 = \min_p \sum [\mu(m_1) - \mu(m(p))]^2 / v_0

over the twelve ``PARAMETERS``. (Close to :math:`p_0` the second is s of the perturbation without
its projection on the derivatives of the smooth model: the matched subspace detector of Scharf &
Friedlander 1994, IEEE Trans. Signal Process. 42, 2146. Substructure that adds mass is not close.)

**Ideal observer.** Told for each image which perturbation it has if it has any, the best score is
the likelihood ratio, :math:`\ln L \sim N(\pm s^2/2, s^2)`, and no score of the image alone has a
larger area under its ROC curve than

.. math:: \mathrm{AUC} = \langle \Phi(\sqrt{s_i^2 + s_j^2} / 2) \rangle_{ij}

(Barrett, Abbey & Clarkson 1998, JOSA A 15, 1520), the mean over pairs of lenses of the class; for
:math:`s_i = s_j` it is the familiar :math:`\Phi(s/\sqrt 2)`. This bounds from above, and not
tightly: nobody is told the perturbation.

**Residuals.** What a researcher can do without that: subtract a smooth lens from the noisy image
and look at what is left, :math:`r = (y - \mu(m)) / \sqrt{v_0}`. Scores are the sum
:math:`\chi^2 = \sum r^2`, and the mean fourth power of r summed over 3×3 pixels (divided by 3, so
that white noise gives 3). They are computed with the true smooth lens, only the source's position
refitted (``known``), and with all parameters refitted (``free``); over the pixels where the true
smooth lens is brighter than the noise of the sky, and their neighbours.

All this takes the noise of a pixel for Gaussian, with the variance of the smooth lens. For
``double_poisson``, noise that is clipped at zero, mean and variance are those after the clip
(``moments``). Images of whole numbers (``eight_bit``) are taken as they are before that step, light
of the lens galaxy as known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from scipy import ndimage, stats
from tqdm import tqdm

from vitdm import simulation
from vitdm.data.simulated import class_of_each
from vitdm.errors import InputError
from vitdm.evaluation.metrics import (
    NULL_CLASS,
    Interval,
    bootstrap_interval,
    resamplings,
    roc_auc,
    weighted_auc,
)
from vitdm.lens.residuals import fourth_power
from vitdm.provenance import atomic, check_replaceable, sidecar, write_json
from vitdm.simulation.classes import SUB
from vitdm.simulation.population import Population
from vitdm.simulation.system import System

#: parameters of the smooth lens, with the steps of their numerical derivatives
PARAMETERS = {
    "theta_E": 1e-4,  # arcsec
    "e1": 1e-4,
    "e2": 1e-4,
    "gamma1": 1e-4,
    "gamma2": 1e-4,
    "source_x": 1e-4,  # arcsec
    "source_y": 1e-4,
    "source_e1": 1e-3,
    "source_e2": 1e-3,
    "log_R_sersic": 1e-3,
    "log_n_sersic": 1e-3,
    "log_amp": 1e-3,
}
STEPS = np.array(list(PARAMETERS.values()))
ALL = np.arange(len(PARAMETERS))
POSITION = np.array([list(PARAMETERS).index(name) for name in ("source_x", "source_y")])
MAX_STEPS = 30
#: columns of the table that are scores of an actual image: larger, more like substructure
SCORES = ("chi2_known", "fourth_known", "chi2_free", "fourth_free")
FILES = ("ceiling.csv", "ceiling.json", "provenance.json")
KNOWN_FILES = ("scores.csv", "provenance.json")


# ---------------------------------------------------------------------------------- the camera


def signal(system: System, population: Population) -> np.ndarray:
    """Return the noiseless image (num_pix, num_pix) that the camera sees, in counts/s."""
    copies = 2 if population.instrument.double_image else 1
    return copies * simulation.render(system, population)


def exposure(index: int, kind: str, seed: int, population: Population) -> np.ndarray:
    """Return the noisy image (num_pix, num_pix) of a data set in counts/s, not in whole numbers."""
    unquantised = population.model_copy(update={"eight_bit": None})
    image, truth = simulation.simulate_one(index, kind, seed, unquantised)
    return image / (truth["exposure_time"] if population.instrument.output == "counts" else 1.0)


def moments(
    image: np.ndarray, system: System, population: Population
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return mean and variance of each pixel of a noisy image, in counts/s and their square.

    ``image`` is noiseless, in counts/s. Noise of one realisation has the image as its mean.
    ``double_poisson`` clips x, of mean m and variance v, at zero, and draws a Poisson number: with
    x Gaussian, :math:`a = m / \sqrt v` and :math:`y = \max(x, 0)`, the mean is
    :math:`E y = m \Phi(a) + \sqrt v \varphi(a)`, the variance :math:`E y / t + E y^2 - (E y)^2`
    with :math:`E y^2 = (m^2 + v) \Phi(a) + m \sqrt v \varphi(a)`, t the exposure time. InputError
    if the population has no noise: then nothing limits a classifier.
    """
    instrument, t = population.instrument, system.exposure_time
    if instrument.noise == "none":
        raise InputError(
            f"population {population.name}: found instrument.noise: none; expected single or "
            "double_poisson, for without noise nothing limits a classifier"
        )
    if instrument.noise == "single":
        return image, simulation.variance(image, system, population)
    sigma = np.sqrt(np.abs(image) / t + simulation.background_rms(system, population) ** 2)
    above, density = stats.norm.cdf(image / sigma), stats.norm.pdf(image / sigma)
    mean = image * above + sigma * density
    square = (image**2 + sigma**2) * above + image * sigma * density
    return mean, mean / t + square - mean**2


# ------------------------------------------------------------------------------ the smooth lens


def parameters(system: System) -> np.ndarray:
    """Return the values (12,) of ``PARAMETERS`` of a lens; of its smooth part, if it has two."""
    source = system.source
    lens = [system.theta_E_halo, system.e1, system.e2, system.gamma1, system.gamma2]
    shape = [source[name] for name in ("center_x", "center_y", "e1", "e2")]
    return np.array([*lens, *shape, *np.log([source[n] for n in ("R_sersic", "n_sersic", "amp")])])


def with_parameters(system: System, values: np.ndarray) -> System:
    """Return the lens with other ``values`` (12,) of ``PARAMETERS``."""
    lens = dict(zip(("theta_E_halo", "e1", "e2", "gamma1", "gamma2"), values, strict=False))
    source = dict(zip(("center_x", "center_y", "e1", "e2"), values[5:], strict=False))
    source |= dict(zip(("R_sersic", "n_sersic", "amp"), np.exp(values[9:]), strict=True))
    return replace(system, source=source, **lens)


@dataclass(frozen=True)
class Fit:
    """A smooth lens that was fitted to an image; arrays are (num_pix**2,), in units of the noise.

    ``derivatives`` (parameters, num_pix**2) of the image are those of the last steps.
    """

    values: np.ndarray
    image: np.ndarray
    residual: np.ndarray
    derivatives: np.ndarray

    @property
    def chi2(self) -> float:
        return float(self.residual @ self.residual)


class SmoothLens:
    """The smooth lens of an image: its mean image as a function of parameters, in units of noise.

    ``system`` is the lens, with or without substructure. Images are (num_pix**2,), each pixel
    divided by the noise that it has if the true smooth lens is all there is.
    """

    def __init__(self, system: System, population: Population) -> None:
        self.system, self.population = simulation.smooth(system), population
        self.truth = parameters(self.system)
        image = signal(self.system, population)
        mean, variance = moments(image, self.system, population)
        self.sigma = np.sqrt(variance)
        self.expected = self.in_noise(mean)
        sky = moments(np.zeros((1, 1)), self.system, population)[1].item()
        arcs = signal(replace(self.system, lens_light=None), population)
        self.lensed = ndimage.binary_dilation(arcs > np.sqrt(sky), np.ones((3, 3)))

    def in_noise(self, image: np.ndarray) -> np.ndarray:
        """Return an image (num_pix, num_pix) [counts/s] in units of the noise, (num_pix**2,)."""
        return (image / self.sigma).ravel()

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of the noisy image for values (12,) of the parameters."""
        system = with_parameters(self.system, values)
        image = signal(system, self.population)
        return self.in_noise(moments(image, system, self.population)[0])

    def derivatives(self, values: np.ndarray, image: np.ndarray, free: np.ndarray) -> np.ndarray:
        """Return d image / d parameter (len(free), num_pix**2), by forward differences."""
        rows = []
        for index in free:
            moved = values.copy()
            moved[index] += STEPS[index]
            rows.append((self.mean(moved) - image) / STEPS[index])
        return np.array(rows)

    def fit(self, target: np.ndarray, free: np.ndarray = ALL, start: Fit | None = None) -> Fit:
        """Fit the parameters ``free`` to an image, from the truth or from another fit of them.

        Damped Gauss-Newton steps (Levenberg and Marquardt's): one that does not lower chi^2 is
        tried again with more damping. The derivatives are renewed after steps that gain much.
        """
        values, image = (
            (self.truth, self.expected) if start is None else (start.values, start.image)
        )
        derivatives = start.derivatives if start else self.derivatives(values, image, free)
        best = Fit(values, image, target - image, derivatives)
        damping = 1e-3
        for _ in range(MAX_STEPS):
            normal, gradient = derivatives @ derivatives.T, derivatives @ best.residual
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
            values = best.values.copy()
            values[free] += step
            image = self.mean(values)
            trial = Fit(values, image, target - image, derivatives)
            gain = best.chi2 - trial.chi2
            if not gain > 0:  # nor if it is no number
                if damping > 10:
                    break
                damping *= 10
                continue
            best, damping = trial, damping / 10
            if gain < 0.02:
                break
            if gain > 10:
                derivatives = self.derivatives(values, image, free)
                best = replace(best, derivatives=derivatives)
        return best


# ------------------------------------------------------------------------------- the population


def catalog_of(n: int, seed: int, population: Population) -> pd.DataFrame:
    """Return id, class and seed of the images of a data set of ``n`` simulated lenses."""
    kinds = class_of_each(n, seed, population)
    ids = [f"{population.name}_{index:06d}" for index in range(n)]
    return pd.DataFrame({"id": ids, "class": kinds, "seed": seed})


def index_of(image_id: str) -> int:
    """Return the index that a simulated image was drawn with: the end of its id."""
    return int(image_id.rpartition("_")[2])


def scores_of(fit: Fit, lens: SmoothLens, name: str) -> dict[str, float]:
    """Return ``chi2_<name>`` and ``fourth_<name>`` of what a fit leaves of a noisy image."""
    residual = fit.residual.reshape(lens.lensed.shape)
    n = np.count_nonzero(lens.lensed)
    return {
        f"chi2_{name}": float(np.sum(residual[lens.lensed] ** 2) - n) / np.sqrt(2 * n),
        f"fourth_{name}": fourth_power(residual, lens.lensed),
    }


def measure_known(index: int, kind: str, seed: int, population: Population) -> dict[str, float]:
    """Return the scores of one image if the smooth lens is known, a fourth of the work of all."""
    lens = SmoothLens(simulation.draw(index, kind, seed, population), population)
    observed = lens.in_noise(exposure(index, kind, seed, population))
    return scores_of(lens.fit(observed, POSITION), lens, "known")


def measure(index: int, kind: str, seed: int, population: Population) -> dict[str, float]:
    """Return the signal-to-noise ratios and the ``SCORES`` of one image; see the module."""
    system = simulation.draw(index, kind, seed, population)
    lens = SmoothLens(system, population)
    perturbed = lens.in_noise(moments(signal(system, population), system, population)[0])
    observed = lens.in_noise(exposure(index, kind, seed, population))
    nearest = lens.fit(perturbed)
    snr = {
        "snr_known": float(np.linalg.norm(perturbed - lens.expected)),
        "snr_free": nearest.chi2**0.5,
    }
    known, free = lens.fit(observed, POSITION), lens.fit(observed, start=nearest)
    return snr | scores_of(known, lens, "known") | scores_of(free, lens, "free")


def ceiling(
    catalog: pd.DataFrame,
    population: Population,
    progress: bool = True,
    of: Callable[[int, str, int, Population], dict[str, float]] = measure,
    jobs: int = 1,
) -> pd.DataFrame:
    """Return a table with a row for each image of a simulated catalog.

    ``catalog`` has the columns id, class and seed. The table has id, class, ``snr_known`` and
    ``snr_free`` (s and s_free), ``chi2_known``, ``fourth_known``, ``chi2_free``, ``fourth_free``
    (the scores; chi^2 as its distance from the number of pixels, in standard deviations); with
    ``of=measure_known``, ``chi2_known`` and ``fourth_known`` only. ``jobs`` processes share
    the images. InputError if the population has no noise.
    """
    lenses = list(zip(catalog["id"].map(index_of), catalog["class"], catalog["seed"], strict=True))
    call = joblib.delayed(of)
    # Snakemake lets each process of a rule have as many threads as the rule
    with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
        rows = joblib.Parallel(return_as="generator")(call(*lens, population) for lens in lenses)
    bar = tqdm(
        rows,
        desc=f"ceiling {population.name}",
        total=len(catalog),
        disable=not progress,
        mininterval=5,
    )
    return pd.concat([catalog[["id", "class"]].reset_index(drop=True), pd.DataFrame(bar)], axis=1)


def ideal_auc(snr: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the ideal observer's ROC-AUC (B,) of images of which i stands ``weights[b, i]`` times.

    ``snr`` (n,) are the signal-to-noise ratios of the images' perturbations, ``weights`` (B, n).
    """
    pairs = stats.norm.cdf(np.hypot(snr[:, None], snr) / 2)
    return np.einsum("bi,bi->b", weights @ pairs, weights) / weights.sum(axis=1) ** 2


def summarise(table: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Return the ceiling by class: each kind of substructure, and any (``sub``), against no_sub.

    For each: the number of images, median and central 90 % of the signal-to-noise ratios, the
    ROC-AUC of the ideal observers and of each score, with 95 % bootstrap intervals over the images.
    """
    kinds = table["class"].to_numpy()
    groups = {kind: kinds == kind for kind in np.unique(kinds[kinds != NULL_CLASS])}
    if len(groups) != 1:
        groups[SUB] = kinds != NULL_CLASS
    summary: dict[str, Any] = {NULL_CLASS: {"n": int(np.sum(kinds == NULL_CLASS))}}
    for kind, chosen in groups.items():
        part = table[chosen | (kinds == NULL_CLASS)]
        labels = (part["class"] != NULL_CLASS).to_numpy(int)
        entry: dict[str, Any] = {"n": int(chosen.sum())}
        for name in ("snr_known", "snr_free"):
            snr = table.loc[chosen, name].to_numpy()
            low, middle, high = np.quantile(snr, [0.05, 0.5, 0.95])
            entry[name] = {"median": middle, "p5": low, "p95": high}
            every = np.zeros(len(snr))
            draws = [ideal_auc(snr, w) for w in resamplings(every, n_bootstrap, seed)]
            bounds = np.quantile(np.concatenate(draws), [0.025, 0.975])
            value = ideal_auc(snr, np.ones((1, len(snr))))[0]
            entry[name.replace("snr", "auc_ideal")] = Interval(value, *bounds)._asdict()
        for name in SCORES:
            scores = [part[name].to_numpy()]
            found = bootstrap_interval(weighted_auc, labels, scores, n_bootstrap, seed)
            entry[f"auc_{name}"] = found._asdict()
        summary[kind] = entry
    return summary


def in_words(summary: dict[str, Any]) -> str:
    """Return the main numbers of ``summarise``, a line for each class with substructure."""
    lines = []
    for kind, entry in summary.items():
        if kind != NULL_CLASS:
            known, free = (entry[f"snr_{name}"]["median"] for name in ("known", "free"))
            scores = (entry[f"auc_{name}"]["value"] for name in ("chi2_known", "fourth_free"))
            lines.append(
                f"{kind}: median S/N {known:.3g} with the smooth lens known, {free:.3g} with it "
                "fitted; ROC-AUC of residuals {:.3f} (known, chi2), {:.3f} (fitted, 4th "
                "power)".format(*scores)
            )
    return "\n".join(lines)


def write(
    population: Population, n: int, seed: int, out: str | Path, progress: bool = True
) -> dict[str, Any]:
    """Write the ceiling of ``n`` lenses to a folder: ceiling.csv, ceiling.json and the sidecar."""
    started = time.time()
    check_replaceable(out, FILES)
    table = ceiling(catalog_of(n, seed, population), population, progress)
    summary = summarise(table, seed=seed)
    with atomic(out) as folder:
        folder.mkdir()
        table.to_csv(folder / "ceiling.csv", index=False, float_format="%.6g")
        write_json(folder / "ceiling.json", summary)
        sidecar(
            folder / "provenance.json",
            rule="ceiling",
            seed=seed,
            config=population,
            started=started,
            population=population.name,
            n=n,
        )
    return summary


def write_known(
    population: Population,
    predictions: str | Path,
    seed: int,
    out: str | Path,
    progress: bool = True,
    jobs: int = 1,
) -> float:
    """Write the scores with the smooth lens known of images that were classified; return an AUC.

    ``predictions`` (CSV) has their id and class; the images themselves are not read, they are drawn
    again from their id and the ``seed`` of the data set. ``out`` gets scores.csv (id, class,
    ``chi2_known``, ``fourth_known``) and the sidecar. Returned is the ROC-AUC of ``chi2_known``,
    any substructure against none. ``jobs`` processes share the work. InputError if the images are
    of another population.
    """
    started = time.time()
    check_replaceable(out, KNOWN_FILES)
    catalog = pd.read_csv(predictions, usecols=["id", "class"], dtype=str)
    names = {image.rpartition("_")[0] for image in catalog["id"]}
    if names != {population.name}:
        raise InputError(
            f"{predictions}: found images of {', '.join(sorted(names))}; expected of "
            f"{population.name}"
        )
    table = ceiling(catalog.assign(seed=seed), population, progress, of=measure_known, jobs=jobs)
    with atomic(out) as folder:
        folder.mkdir()
        table.to_csv(folder / "scores.csv", index=False, float_format="%.6g")
        sidecar(
            folder / "provenance.json",
            rule="known_model",
            seed=seed,
            config=population,
            inputs=[predictions],
            started=started,
            population=population.name,
            n=len(table),
        )
    return roc_auc((table["class"] != NULL_CLASS).to_numpy(int), table["chi2_known"].to_numpy())
