"""Posteriors of the mass fraction in subhalos: of one lens, and of many that share it.

Networks see maps of lenses that were simulated and fitted for ``studies.maps``, those with subhalos
alone, and learn p(log10 f_sub, log10 of the heaviest subhalo's mass) by ``vitdm.model.posterior``.
The prior is the population's. Others of the lenses in split ``train`` choose the epoch, those of
split ``opt`` are asked. Each seed is one posterior, and their mean another (``MEAN``), of which all
else is said: whether it holds (ranks, TARP, coverage), and what 1, 10, 100 lenses together say of
an f_sub that they share. Lenses of one f_sub are neighbours in it: those asked are sorted by it and
cut into groups, whose truth is the mean of log10 f_sub; its scatter within is in the table.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from studies.config import Config
from studies.efficiency import Sample
from vitdm.config import Model
from vitdm.data.dataset import Dataset
from vitdm.errors import InputError, shown
from vitdm.evaluation import posteriors
from vitdm.model.inputs import copies_of, first_rows, inputs_for, joined_with
from vitdm.model.posterior import Box, Mixture, learn_posterior, posterior
from vitdm.model.training import Arrays
from vitdm.provenance import atomic, check_replaceable, sidecar
from vitdm.simulation import load_population, population_name
from vitdm.simulation.classes import CDM

TABLES = ("posterior.csv", "posterior_lenses.csv", "posterior_groups.csv", "posterior_history.csv")
FILES = (*TABLES, "posterior.json")
#: what there is a posterior of: columns of the catalog, their logarithm's name in tables
PROPERTIES = {"f_sub": "log_f_sub", "max_subhalo_mass": "log_mass"}
MEAN = "mean"  # of the posteriors of all seeds
RICH = 0.01  # f_sub above which errors are told apart
CELLS = 600  # of the grid of log10 f_sub


def prior_box(population: str | Path) -> Box:
    """Return the bounds of log10 f_sub, drawn evenly, and of log10 of a subhalo's mass.

    InputError if the population does not draw f_sub evenly in its logarithm.
    """
    subhalos = getattr(load_population(population), "subhalos", None)
    f_sub = subhalos and subhalos.f_sub
    if not f_sub or f_sub.form != "log_uniform":
        found = f_sub.text if f_sub else None
        raise InputError(
            f"{population}: subhalos.f_sub: found {shown(found)}; expected {{log_uniform: [low, "
            "high]}, the prior that posteriors are divided by"
        )
    bounds = np.log10([f_sub.bounds, subhalos.mass_range])
    return tuple(bounds[:, 0].tolist()), tuple(bounds[:, 1].tolist())


def train_row(
    folder: str | Path, population: str | Path, settings: Config, name: str, out: str | Path
) -> pd.DataFrame:
    """Train one row on the lenses of a population in ``folder``; write ``out``.

    ``posterior.csv``, which is returned, has a line for each seed and the mean of their posteriors,
    number of lenses together and range of f_sub (``summary``); ``posterior_lenses.csv`` a line a
    lens (``of_lenses``), ``posterior_groups.csv`` a line a group (``of_groups``), both of the mean;
    ``posterior_history.csv`` the epochs. InputError if there is no such row, or there are too few
    lenses.
    """
    started = time.time()
    check_replaceable(out, FILES)
    chosen, box, sample = settings.posterior, prior_box(population), Sample(Path(folder))
    if name not in chosen.rows:
        known = ", ".join(chosen.rows) or "none"
        raise InputError(f"--row {name}: no such row of posterior.rows; expected one of: {known}")
    data = Dataset.open(sample.processed)
    truths, rows = truths_of(data), _rows(data, sample.processed, settings)
    answers, histories = _posteriors(data, sample, settings, name, box, truths, rows)
    truths = truths[rows["score"]]
    lines = []
    for seed, mixture in answers.items():
        lenses = of_lenses(mixture, truths, settings)
        groups = of_groups(mixture, truths[:, 0], chosen.group_sizes)
        lines += [line | {"seed": seed} for line in summary(lenses, groups)]
    about = {"population": population_name(population), "row": name}
    lenses.insert(0, "id", data.catalog["id"].to_numpy()[rows["score"]])
    tables = pd.DataFrame(lines), lenses, groups, pd.concat(histories)
    tables = [table.assign(**about, label=chosen.rows[name].label) for table in tables]
    with atomic(out) as temporary:
        temporary.mkdir()
        for file, table in zip(TABLES, tables, strict=True):
            table.to_csv(temporary / file, index=False)
        sidecar(
            temporary / "posterior.json",
            rule="posterior",
            inputs=sample.inputs,
            started=started,
            seed=settings.seed,
            config=recipe(settings, name),
            lenses={part: len(chosen_rows) for part, chosen_rows in rows.items()},
        )
    return tables[0]


def truths_of(data: Dataset) -> np.ndarray:
    """Return the logarithms of the ``PROPERTIES`` of all lenses (n, d), NaN without subhalos."""
    columns = [data.catalog.get(name, np.nan) for name in PROPERTIES]
    with np.errstate(divide="ignore"):
        values = np.log10(np.column_stack([np.broadcast_to(c, len(data.catalog)) for c in columns]))
    return np.where(np.isfinite(values), values, np.nan)


def _rows(data: Dataset, processed: Path, settings: Config) -> dict[str, np.ndarray]:
    """Return the rows that learn, that choose the epoch, and that are asked: with subhalos alone.

    Those that choose are the first of an order that depends on the seed.
    """
    known = np.isfinite(truths_of(data)).all(axis=1)
    learning, scored = (rows[known[rows]] for rows in map(data.rows, ("train", "opt")))
    wanted, most = settings.posterior.n_valid, max(settings.posterior.group_sizes)
    if len(learning) <= wanted or len(scored) < most:
        raise InputError(
            f"{processed}: found {len(learning)} lenses with f_sub in split train, {len(scored)} "
            f"in opt; expected more than posterior.n_valid = {wanted}, and at least {most}, the "
            "largest of posterior.group_sizes"
        )
    valid = first_rows(learning, wanted, settings.seed)
    return {"train": np.setdiff1d(learning, valid), "valid": valid, "score": scored}


def _posteriors(
    data: Dataset,
    sample: Sample,
    settings: Config,
    name: str,
    box: Box,
    truths: np.ndarray,
    rows: dict[str, np.ndarray],
) -> tuple[dict[str, Mixture], list[pd.DataFrame]]:
    """Return the posteriors of the lenses that are asked, by each seed and their mean."""
    chosen = settings.posterior
    own = settings.override(chosen.rows[name])
    arrays, _ = inputs_for(own, data, sample.tables)
    targets = torch.from_numpy(truths).float()
    given = {part: arrays(numbers)[:2] for part, numbers in rows.items()}
    train, valid = ((*given[part], targets[rows[part]]) for part in ("train", "valid"))
    if chosen.rows[name].copies:
        apart = np.setdiff1d(data.rows("train"), rows["valid"])
        train = _with_copies(train, own.model, data.catalog["id"].iloc[apart], sample.copies)
    mixtures, histories = {}, []
    for seed in range(chosen.seeds):
        learnt = learn_posterior(
            train,
            valid,
            box,
            own.model,
            own.train,
            components=chosen.components,
            seed=settings.seed + seed,
            label=f"{sample.name} {name} {seed}",
        )
        average = own.model.average
        mixtures[str(seed)] = posterior(learnt.model, *given["score"], box, average=average)
        histories.append(learnt.history.assign(seed=seed, cpu_seconds=learnt.cpu_seconds))
    return mixtures | {MEAN: Mixture.mean(list(mixtures.values()))}, histories


def _with_copies(given: Arrays, model: Model, ids: pd.Series, copies: Path) -> Arrays:
    """Return what a network learns from, and the copies with subhalos of lenses with these ids."""
    images, table = copies_of(model, ids, copies, [CDM.name])
    truths = np.log10(table[list(PROPERTIES)].to_numpy(float))
    known = np.isfinite(truths).all(axis=1)  # f_sub may be so small that there is no subhalo
    return joined_with(given, images[known], torch.from_numpy(truths[known]).float())


# ------------------------------------------------------------------------------ what they are worth


def of_lenses(mixture: Mixture, truths: np.ndarray, settings: Config) -> pd.DataFrame:
    """Return a line a lens: truth, mean, sd and rank of each property; tarp; log_density.

    Columns are log_f_sub, log_f_sub_mean, …; tarp is the credibility of ``posteriors.tarp``.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    draws = mixture.sample(settings.posterior.draws, generator).numpy()
    shares = posteriors.ranks(draws, truths)
    columns = {}
    for k, name in enumerate(PROPERTIES.values()):
        columns |= {name: truths[:, k], f"{name}_mean": draws[..., k].mean(axis=1)}
        columns |= {f"{name}_sd": draws[..., k].std(axis=1), f"{name}_rank": shares[:, k]}
    density = mixture.log_density(torch.from_numpy(truths).float()[:, None])[:, 0]
    tarp = posteriors.tarp(draws, truths, mixture.box, settings.seed)
    return pd.DataFrame(columns | {"tarp": tarp, "log_density": density.numpy()})


def of_groups(mixture: Mixture, truths: np.ndarray, sizes: Sequence[int]) -> pd.DataFrame:
    """Return a line a group of lenses of nearly one f_sub, and what they say of it together.

    Columns: n_lenses, log_f_sub (the mean of the truths), scatter (their standard deviation),
    log_f_sub_mean, log_f_sub_sd, log_f_sub_rank. A rest that fills no group is left out.
    """
    grid = posteriors.cells(mixture.box[0][0], mixture.box[1][0], CELLS)
    points = torch.from_numpy(grid)[None, :, None]
    blocks = [
        part.log_density(points.expand(len(part.logits), -1, -1)) for part in mixture.split(50)
    ]
    densities = torch.cat(blocks).numpy()
    order, parts = np.argsort(truths, kind="stable"), []
    for size in sizes:
        groups = order[: len(order) // size * size].reshape(-1, size)
        # evenly drawn in its logarithm: the prior is a constant
        together = np.stack([posteriors.shared(densities[group]) for group in groups])
        middle = truths[groups].mean(axis=1)
        mean, sd, rank = posteriors.summarise(together, grid, middle)
        columns = {"n_lenses": size, "log_f_sub": middle, "scatter": truths[groups].std(axis=1)}
        columns |= {"log_f_sub_mean": mean, "log_f_sub_sd": sd, "log_f_sub_rank": rank}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def summary(lenses: pd.DataFrame, groups: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Give a line for each number of lenses, of all f_sub and of those of at least ``RICH``.

    n_lenses, range (all or rich), n (groups), scatter (mean within a group); sigma (mean posterior
    standard deviation of log10 f_sub), rms (of the error of the posterior mean), bias (its mean),
    each with its standard error (…_error); coverage_68 and coverage_95 with …_low and …_high, and
    rank_p (Kolmogorov-Smirnov), where f_sub is not chosen by; of single lenses also rank_p_mass,
    tarp_p and log_density.
    """
    for size, own in groups.groupby("n_lenses", sort=False):
        for kind, part in (("all", own), ("rich", own[own["log_f_sub"] >= np.log10(RICH)])):
            if len(part) < 2:
                continue
            error = part["log_f_sub_mean"] - part["log_f_sub"]
            root, sigma = np.sqrt(len(part)), part["log_f_sub_sd"]
            rms = np.sqrt((error**2).mean())
            line = {"n_lenses": size, "range": kind, "n": len(part)}
            line |= {"scatter": part["scatter"].mean()}
            line |= {"sigma": sigma.mean(), "sigma_error": sigma.std() / root}
            line |= {"rms": rms, "rms_error": (error**2).std() / (2 * rms * root)}
            line |= {"bias": error.mean(), "bias_error": error.std() / root}
            if kind == "all":
                for level in (68, 95):
                    share = posteriors.coverage(part["log_f_sub_rank"], level / 100)
                    names = (f"coverage_{level}{end}" for end in ("", "_low", "_high"))
                    line |= dict(zip(names, share, strict=True))
                line |= {"rank_p": posteriors.uniform_p(part["log_f_sub_rank"])}
            if kind == "all" and size == 1:
                line |= {"rank_p_mass": posteriors.uniform_p(lenses["log_mass_rank"])}
                line |= {"tarp_p": posteriors.uniform_p(lenses["tarp"])}
                line |= {"log_density": lenses["log_density"].mean()}
            yield line


def recipe(settings: Config, name: str | None = None) -> dict[str, Any]:
    """Return what the posteriors of a row, or of all, depend on, but for the lenses."""
    chosen = settings.posterior.model_dump(mode="json", exclude={"populations"})
    if name is None:
        return {"seed": settings.seed, "posterior": chosen}
    chosen["rows"] = {name: chosen["rows"][name]}
    sections = ("task", "model", "train", "seed")
    return {key: getattr(settings, key) for key in sections} | {"posterior": chosen}


# ---------------------------------------------------------------------------------- all together


def merge(parts: Sequence[str | Path], settings: Config, out: str | Path) -> None:
    """Join the rows ``<population>/posterior/<row>``; write what is small enough to be kept.

    The ``TABLES`` are those of all rows, with population, row, label. InputError if one is missing.
    """
    started = time.time()
    check_replaceable(out, FILES)
    folders = {(Path(part).parents[1].name, Path(part).name): Path(part) for part in parts}
    populations = dict.fromkeys(population for population, _ in folders)
    wanted = [(population, row) for population in populations for row in settings.posterior.rows]
    if missing := [key for key in wanted if key not in folders]:
        raise InputError(
            f"{out}: found no row {missing[0][1]} of {missing[0][0]}; expected all rows"
        )
    ordered = [folders[key] for key in wanted]
    if absent := [part / name for part in ordered for name in FILES if not (part / name).is_file()]:
        raise InputError(f"{absent[0].parent}: no row of posteriors: {absent[0].name} missing")
    with atomic(out) as temporary:
        temporary.mkdir()
        for name in TABLES:
            table = pd.concat([pd.read_csv(part / name, dtype={"id": str}) for part in ordered])
            table.to_csv(temporary / name, index=False)
        told = [json.loads((part / FILES[-1]).read_text()) for part in ordered]
        sidecar(
            temporary / FILES[-1],
            rule="merge_posterior",
            inputs=[part / TABLES[0] for part in ordered],
            started=started,
            seed=settings.seed,
            config=recipe(settings),
            cpu_seconds=round(sum(entry["seconds"] for entry in told), 1),
        )
