r"""The ideal observer of a population, and the scores of one who knows the smooth lens.

A classifier is limited by the noise, and by what it does not know about the smooth lens. Both
limits can be computed, for the simulation knows each lens without its substructure. Let
:math:`\mu(m)` and :math:`v(m)` be the mean and variance of a pixel whose noiseless brightness is
:math:`m`; :math:`m_1` the noiseless image of a lens, :math:`m(p)` that of a smooth lens with
parameters p, :math:`p_0` the true ones (without the substructure), :math:`v_0 = v(m(p_0))`.

**Matched filter.** The signal-to-noise ratio of the perturbation if the smooth lens is known, and
if it is not: what the best smooth lens cannot imitate,

.. math::
    s^2 = \sum [\mu(m_1) - \mu(m(p_0))]^2 / v_0, \qquad
    s_\mathrm{free}^2 = \min_p \sum [\mu(m_1) - \mu(m(p))]^2 / v_0

over the fourteen ``FREE`` parameters. (Close to :math:`p_0` the second is s of the perturbation
without its projection on the derivatives of the smooth model: the matched subspace detector of
Scharf & Friedlander 1994, IEEE Trans. Signal Process. 42, 2146. Substructure that adds mass is not
close.)

**Ideal observer.** If the perturbation that an image may have is known, the best score is the
likelihood ratio, :math:`\ln L \sim N(\pm s^2/2, s^2)`, and no score of the image alone has a
larger area under its ROC curve than

.. math:: \mathrm{AUC} = \langle \Phi(\sqrt{s_i^2 + s_j^2} / 2) \rangle_{ij}

(Barrett, Abbey & Clarkson 1998, JOSA A 15, 1520), the mean over pairs of lenses of the class; for
:math:`s_i = s_j` it is the familiar :math:`\Phi(s/\sqrt 2)`. This is an upper bound, and not a
tight one: a classifier does not know the perturbation.

**Residuals.** What a researcher can do without that: subtract a smooth lens from the noisy image
and look at what is left, :math:`r = (y - \mu(m)) / \sqrt{v_0}`. Scores are the sum
:math:`\chi^2 = \sum r^2`, and the mean fourth power of r summed over 3×3 pixels (divided by 3, so
that white noise gives 3). They are computed with the true smooth lens, only the source's position
refitted (``known``), and with all parameters refitted (``free``); over the pixels where the true
smooth lens is brighter than the noise of the sky, and their neighbours.

**Fits** are those of ``vitdm.lens``: its model (double precision), its Levenberg-Marquardt steps.
The model starts from the simulator's own image of the true smooth lens, to which it adds what
changes with the parameters, :math:`m(p) = m(p_0) + S(p) - S(p_0)`: the residual of the truth is
exact, whatever the two assume about light from beyond the edge.

All this takes the noise of a pixel for Gaussian, with the variance of the smooth lens. For
``double_poisson``, noise that is clipped at zero, mean and variance are those after the clip
(``PixelNoise``). Images of whole numbers (``eight_bit``) are taken as they are before that step,
light of the lens galaxy as known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from scipy import ndimage, stats
from torch import Tensor
from tqdm import tqdm

from vitdm import simulation
from vitdm.data.simulated import class_of_each, ids_of, index_of, population_of_id
from vitdm.errors import InputError
from vitdm.evaluation.metrics import (
    NULL_CLASS,
    Interval,
    bootstrap_interval,
    resamplings,
    roc_auc,
    weighted_auc,
)
from vitdm.lens import Camera, SmoothLens
from vitdm.lens.minimise import CONVERGED, MAX_STEPS, Bounds, State, minimise
from vitdm.lens.noise import clipped_normal, clipped_variance
from vitdm.lens.parameters import CENTER, MASS, SOURCE, SOURCE_POSITION, Parameter, parameters
from vitdm.lens.residuals import fourth_power
from vitdm.provenance import atomic, check_replaceable, sidecar, write_json
from vitdm.simulation import Population, System

FREE = (*MASS, *SOURCE, *CENTER)
BATCH = 16  # images that are fitted at once, and by one process
#: columns of the table that are scores of an actual image: larger, more like substructure
SCORES = ("chi2_known", "fourth_known", "chi2_free", "fourth_free")
FILES = ("ideal_observer.csv", "ideal_observer.json", "provenance.json")
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


@dataclass(frozen=True)
class PixelNoise:
    r"""The noise of n images: what the mean and variance of a pixel are, given its brightness.

    Brightness is in counts/s. Noise of one realisation has the noiseless image as its mean.
    ``double`` noise draws x, of mean m and variance :math:`v = |m| / t + \mathrm{sky}^2`, clips it
    at zero, and draws a Poisson number. With x Gaussian and :math:`y = \max(x, 0)` the mean is that
    of y, and the variance is that of y plus :math:`E y / t`. ``exposure`` t [s] and ``sky``
    [counts/s], the rms of the sky, are (n, 1, 1).
    """

    double: bool
    exposure: Tensor
    sky: Tensor

    @classmethod
    def of(cls, systems: Sequence[System], population: Population) -> PixelNoise:
        """Return the noise of lenses. InputError if there is none: then nothing is a limit.

        InputError as well for noise that neighbouring pixels share.
        """
        kind = population.instrument.noise
        if population.instrument.drizzle:
            raise InputError(
                f"population {population.name}: found instrument.drizzle; expected none, for the "
                "ideal observer takes the noise of each pixel for independent"
            )
        if kind == "none":
            raise InputError(
                f"population {population.name}: found instrument.noise: none; expected single or "
                "double_poisson, for without noise nothing limits a classifier"
            )
        exposure = torch.tensor([system.exposure_time for system in systems])
        sky = [float(simulation.background_rms(system, population)) for system in systems]
        columns = (column.double()[:, None, None] for column in (exposure, torch.tensor(sky)))
        return cls(kind == "double_poisson", *columns)

    def mean(self, m: Tensor, rows: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor | None]:
        """Return the mean of pixels (k, H, W) of some images, and its derivative if not 1."""
        if not self.double:
            return m, None
        sigma = self._sigma(m, rows)
        mean, by_mean, by_sigma = clipped_normal(m, sigma)
        return mean, by_mean + by_sigma * torch.sign(m) / (2 * sigma * self.exposure[rows])

    def variance(self, m: Tensor) -> Tensor:
        """Return the variance [(counts/s)^2] of the pixels (n, H, W) of all images."""
        if not self.double:
            return m.clamp(min=0) / self.exposure + self.sky**2
        sigma = self._sigma(m)
        return clipped_normal(m, sigma).mean / self.exposure + clipped_variance(m, sigma)

    def _sigma(self, m: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return the sigma of double noise before the clip."""
        return torch.sqrt(m.abs() / self.exposure[rows] + self.sky[rows] ** 2)


# ----------------------------------------------------------------------------- the smooth lenses


def true_values(system: System) -> np.ndarray:
    """Return the values (p,) of ``vitdm.lens.parameters.parameters()`` of a lens's smooth part.

    Those that are logarithmic are logarithms; the sky, which the simulation takes away, is 0.
    """
    names = ("e1", "e2", "gamma1", "gamma2")
    values = {"theta_E": system.theta_E_halo} | {name: getattr(system, name) for name in names}
    values |= {f"source_{name.removeprefix('center_')}": v for name, v in system.source.items()}
    values |= {"sky": 0.0, "center_x": system.center[0], "center_y": system.center[1]}
    return np.array(
        [
            math.log(values[row.name]) if row.logarithmic else values[row.name]
            for row in parameters()
        ]
    )


@dataclass(frozen=True)
class Fit:
    """Smooth lenses fitted to n images.

    ``values`` (n, p), ``chi2`` (n,), ``residual`` (n, H, W) in units of the noise.
    """

    values: Tensor
    chi2: Tensor
    residual: Tensor


class KnownLenses:
    """The smooth parts of n simulated lenses, of one population, and fits that start from them.

    ``truth`` (n, p) are their parameters, ``image`` (n, H, W) the noiseless images [counts/s],
    ``expected`` their means after the noise, ``sigma`` the noise of each pixel if the true smooth
    lens is all there is, ``lensed`` where the arcs are brighter than the noise of the sky, with
    the neighbouring pixels.
    """

    def __init__(self, systems: Sequence[System], population: Population) -> None:
        systems = [simulation.smooth(system) for system in systems]
        instrument = population.instrument
        self.copies = 2 if instrument.double_image else 1
        self.noise = PixelNoise.of(systems, population)
        self.image = torch.from_numpy(np.array([signal(s, population) for s in systems]))
        self.expected, _ = self.noise.mean(self.image)
        self.sigma = torch.sqrt(self.noise.variance(self.image))
        arcs = self.image.numpy()
        if population.lens_light:
            arcs = np.array([signal(replace(s, lens_light=None), population) for s in systems])
        dark = torch.sqrt(self.noise.variance(torch.zeros(len(systems), 1, 1))).numpy()
        self.lensed = ndimage.binary_dilation(arcs > dark, np.ones((1, 3, 3)))
        self.camera = Camera.of(
            population.num_pix,
            instrument.pixel_scale,
            instrument.psf_fwhm,
            instrument.psf_truncation,
        )
        self.model = SmoothLens(self.camera, dtype=torch.float64)
        self.truth = torch.from_numpy(np.array([true_values(system) for system in systems]))
        self.offset = self.image - self.copies * self.model.image(self.truth)

    def fit(
        self,
        target: Tensor,
        free: Sequence[Parameter] = FREE,
        start: Tensor | None = None,
    ) -> Fit:
        """Fit the parameters ``free`` to images ``target`` (n, H, W) [counts/s].

        From ``start`` (n, p), by default the truth. The other parameters stay the true ones.
        """
        problem = ObserverProblem(self, target, free)
        # no bounds but those of the moduli: the truth may be anything that can be drawn
        bounds = Bounds([replace(row, bounds=None) for row in free], self.camera)
        state = State.of(problem, (self.truth if start is None else start)[:, problem.columns])
        minimise(problem, state, bounds, MAX_STEPS, CONVERGED)
        values = problem.whole(state.values, torch.arange(len(target)))
        return Fit(values, state.chi2, problem.residual(values))


class ObserverProblem:
    """The chi^2 of images (n, H, W) [counts/s], all pixels, as ``vitdm.lens.minimise.Problem``."""

    def __init__(self, lenses: KnownLenses, target: Tensor, free: Sequence[Parameter]) -> None:
        self.lenses, self.target, self.columns = lenses, target, lenses.model.columns(free)
        self.pixels = torch.full((len(target),), target[0].numel())

    def whole(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return all parameters (k, p) for values (k, free) of those that are free."""
        whole = self.lenses.truth[rows].clone()
        whole[:, self.columns] = values
        return whole

    def residual(self, values: Tensor) -> Tensor:
        """Return the residuals (n, H, W) for all parameters (n, p), in units of the noise."""
        lenses = self.lenses
        mean, _ = lenses.noise.mean(lenses.offset + lenses.copies * lenses.model.image(values))
        return (self.target - mean) / lenses.sigma

    def normal_equations(self, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return chi^2 (k,), J J^T (k, free, free) and J r (k, free); see ``Problem``."""
        lenses, parts = self.lenses, []
        chunk = lenses.model.chunk
        for some, index in zip(values.split(chunk), rows.split(chunk), strict=True):
            both = lenses.model.image_and_derivatives(self.whole(some, index), self.columns)
            m = lenses.offset[index] + lenses.copies * both[:, 0]
            mean, slope = lenses.noise.mean(m, index)
            sigma = lenses.sigma[index]
            both *= (lenses.copies / sigma * (1 if slope is None else slope))[:, None]
            both[:, 0] = (self.target[index] - mean) / sigma
            # of rows r and J, one product gives chi^2, J r and J J^T
            product = both.flatten(2) @ both.flatten(2).mT
            parts.append((product[:, 0, 0], product[:, 1:, 1:], product[:, 1:, 0]))
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))


# ------------------------------------------------------------------------------- the population


def catalog_of(n: int, seed: int, population: Population) -> pd.DataFrame:
    """Return id, class and seed of the images of a data set of ``n`` simulated lenses."""
    kinds = class_of_each(n, seed, population)
    return pd.DataFrame({"id": ids_of(n, seed, population), "class": kinds, "seed": seed})


def scores_of(fit: Fit, lenses: KnownLenses, name: str) -> pd.DataFrame:
    """Return ``chi2_<name>`` and ``fourth_<name>`` of the residuals of fits to noisy images."""
    rows = []
    for residual, lensed in zip(fit.residual.numpy(), lenses.lensed, strict=True):
        n = np.count_nonzero(lensed)
        chi2 = (np.sum(residual[lensed] ** 2) - n) / np.sqrt(2 * n)
        rows.append((chi2, fourth_power(residual, lensed)))
    return pd.DataFrame(rows, columns=[f"chi2_{name}", f"fourth_{name}"])


#: index, class and seed of a simulated image
Drawn = tuple[int, str, int]


def _exposures(drawn: Sequence[Drawn], population: Population) -> Tensor:
    return torch.from_numpy(np.array([exposure(*image, population) for image in drawn])).double()


def score_known_lens(drawn: Sequence[Drawn], population: Population) -> pd.DataFrame:
    """Return the scores of images if the smooth lens is known, a fraction of the work of all."""
    systems = [simulation.draw(*image, population) for image in drawn]
    lenses = KnownLenses(systems, population)
    fit = lenses.fit(_exposures(drawn, population), SOURCE_POSITION)
    return scores_of(fit, lenses, "known")


def score_images(drawn: Sequence[Drawn], population: Population) -> pd.DataFrame:
    """Return the signal-to-noise ratios and the ``SCORES`` of images; see the module."""
    systems = [simulation.draw(*image, population) for image in drawn]
    lenses = KnownLenses(systems, population)
    images = np.array([signal(system, population) for system in systems])
    perturbed, _ = lenses.noise.mean(torch.from_numpy(images))
    observed = _exposures(drawn, population)
    difference = (perturbed - lenses.expected) / lenses.sigma
    nearest = lenses.fit(perturbed)
    snr = {"snr_known": difference.flatten(1).norm(dim=1), "snr_free": nearest.chi2.sqrt()}
    known = lenses.fit(observed, SOURCE_POSITION)
    free = lenses.fit(observed, start=nearest.values)
    scores = scores_of(known, lenses, "known"), scores_of(free, lenses, "free")
    return pd.concat([pd.DataFrame(snr), *scores], axis=1)


def score_catalog(
    catalog: pd.DataFrame,
    population: Population,
    progress: bool = True,
    score: Callable[[Sequence[Drawn], Population], pd.DataFrame] = score_images,
    jobs: int = 1,
) -> pd.DataFrame:
    """Return a table with a row for each image of a simulated catalog.

    ``catalog`` has the columns id, class and seed. The table has id, class, ``snr_known`` and
    ``snr_free`` (s and s_free), ``chi2_known``, ``fourth_known``, ``chi2_free``, ``fourth_free``
    (the scores; chi^2 as its distance from the number of pixels, in standard deviations); with
    ``score=score_known_lens``, ``chi2_known`` and ``fourth_known`` only. ``jobs`` processes share
    the images. InputError if the population has no noise.
    """
    drawn = list(zip(catalog["id"].map(index_of), catalog["class"], catalog["seed"], strict=True))
    batches = [drawn[start : start + BATCH] for start in range(0, len(drawn), BATCH)]
    call = joblib.delayed(score)
    # Snakemake lets each process of a rule have as many threads as the rule
    with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
        tables = joblib.Parallel(return_as="generator")(call(some, population) for some in batches)
    bar = tqdm(
        tables,
        desc=f"ideal observer {population.name}",
        total=len(batches),
        unit="batch",
        disable=not progress,
        mininterval=5,
    )
    columns = catalog[["id", "class"]].reset_index(drop=True)
    return pd.concat([columns, pd.concat(bar, ignore_index=True)], axis=1)


def ideal_auc(snr: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the ideal observer's ROC-AUC (B,) of images of which i stands ``weights[b, i]`` times.

    ``snr`` (n,) are the signal-to-noise ratios of the images' perturbations, ``weights`` (B, n).
    """
    pairs = stats.norm.cdf(np.hypot(snr[:, None], snr) / 2)
    return np.einsum("bi,bi->b", weights @ pairs, weights) / weights.sum(axis=1) ** 2


def summarise(table: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Return the bounds by class: each kind of substructure, and any (``sub``), against no_sub.

    For each: the number of images, median and central 90 % of the signal-to-noise ratios, the
    ROC-AUC of the ideal observers and of each score, with 95 % bootstrap intervals over the images.
    """
    kinds = table["class"].to_numpy()
    groups = {kind: kinds == kind for kind in np.unique(kinds[kinds != NULL_CLASS])}
    if len(groups) != 1:
        groups["sub"] = kinds != NULL_CLASS
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
            interval = bootstrap_interval(weighted_auc, labels, scores, n_bootstrap, seed)
            entry[f"auc_{name}"] = interval._asdict()
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
    """Write the ideal observer's scores of ``n`` lenses to a folder: ``FILES``."""
    started = time.time()
    check_replaceable(out, FILES)
    table = score_catalog(catalog_of(n, seed, population), population, progress)
    summary = summarise(table, seed=seed)
    with atomic(out) as folder:
        folder.mkdir()
        table.to_csv(folder / "ideal_observer.csv", index=False, float_format="%.6g")
        write_json(folder / "ideal_observer.json", summary)
        sidecar(
            folder / "provenance.json",
            rule="ideal_observer",
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
    names = set(catalog["id"].map(population_of_id))
    if names != {population.name}:
        raise InputError(
            f"{predictions}: found images of {', '.join(sorted(names))}; expected of "
            f"{population.name}"
        )
    table = score_catalog(
        catalog.assign(seed=seed), population, progress, score=score_known_lens, jobs=jobs
    )
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
