"""Where the subhalos of a lens are: a map made by a network, beside the peaks of the search itself.

Networks see the maps of lenses that were simulated and fitted for ``studies.maps``, and learn the
probability of a subhalo at each place (``vitdm.model.where``). Their peaks are compared with the
subhalos, which are drawn again from the seed of the lenses, and so are the peaks of one of the maps
themselves, which nothing is learned for. All have as many false peaks a lens on average, smooth
lenses among them; what is found by chance is told by the peaks of another lens. A network also
learns how far from the middle of a lens the subhalos of a population may be: a row whose peaks are
limited to that field (``within``) tells what this alone is worth.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from studies.config import Config
from studies.config.studies import WhereRow
from studies.efficiency import Sample
from vitdm.config import CHANNELS
from vitdm.data.dataset import Dataset
from vitdm.errors import InputError
from vitdm.evaluation import places
from vitdm.lens.fits import read_maps
from vitdm.model.inputs import Tables, first_rows, inputs_for, inputs_of
from vitdm.model.where import learn_where, where
from vitdm.provenance import atomic, check_replaceable, read_json, sidecar
from vitdm.simulation import draw, load_population, population_name
from vitdm.simulation.classes import NO_SUB

ROW = ("subhalos.csv", "peaks.csv", "history.csv", "shown.npz", "where.json")
FILES = ("where.csv", "where_history.csv", "where_maps.npz", "where.json")
MARKED = 0.16  # ", about a subhalo: the places that a network is to name
SHOWN = 3  # lenses whose maps are kept, those with the heaviest subhalos of the first that score
AMONG = 200
LEVEL = 0.95  # of intervals


def train_row(
    folder: str | Path, population: str | Path, settings: Config, name: str, out: str | Path
) -> pd.DataFrame:
    """Make the maps of one row for the lenses of a population in ``folder``; write ``out``.

    ``subhalos.csv``, which is returned, has a line for each subhalo of the lenses that score and
    each seed: seed, lens, x, y ["], mass [solar masses], height of the highest peak near it, and of
    the highest one there of another lens (``chance``). ``peaks.csv`` has those of all peaks: seed,
    lens, height, right. InputError if there is no such row.
    """
    started = time.time()
    check_replaceable(out, ROW)
    chosen, sample = settings.where, Sample(Path(folder))
    tables = Tables(fits=sample.fits)
    if name not in chosen.rows:
        known = ", ".join(chosen.rows) or "none"
        raise InputError(f"--row {name}: no such row of where.rows; expected one of: {known}")
    row, data = chosen.rows[name], Dataset.open(sample.processed)
    rows = _rows(data, sample.processed, settings)
    subhalos = subhalos_of(data, population)
    scored = _of(subhalos, rows["score"], 10 ** chosen.log_masses[0])
    axis, maps, history = _maps(row, data, sample, settings, subhalos, rows)
    parts, tops = [], []
    for seed, answers in enumerate(maps):
        found = places.peaks(answers, axis, chosen.apart, chosen.most_peaks, row.within)
        _, heights = places.matched(found, scored, chosen.radius)
        others = found.assign(lens=(found["lens"] + 1) % len(answers))
        _, chance = places.matched(others, scored, chosen.radius)
        parts.append(scored.assign(seed=seed, height=heights, chance=chance))
        heavy = scored[scored["mass"] >= chosen.least_mass]
        right, _ = places.matched(found, heavy, chosen.radius)
        tops.append(found.assign(seed=seed, right=right)[["seed", "lens", "height", "right"]])
    table = pd.concat(parts, ignore_index=True)
    heaviest = scored[scored["lens"] < AMONG].groupby("lens")["mass"].max()
    shown = heaviest.sort_values(ascending=False).index[:SHOWN].to_numpy()
    with atomic(out) as temporary:
        temporary.mkdir()
        table.to_csv(temporary / "subhalos.csv", index=False)
        pd.concat(tops).to_csv(temporary / "peaks.csv", index=False)
        history.to_csv(temporary / "history.csv", index=False)
        kept = {"maps": maps[0][shown].astype(np.float16), "axis": axis, "lenses": shown}
        np.savez_compressed(temporary / "shown.npz", **kept)
        sidecar(
            temporary / "where.json",
            rule="where",
            inputs=inputs_of(sample.processed, tables),
            started=started,
            seed=settings.seed,
            config=recipe(settings, name),
            population=population_name(population),
            label=row.label,
            n_scored=len(rows["score"]),
        )
    return table


def subhalos_of(data: Dataset, population: str | Path) -> pd.DataFrame:
    """Return the subhalos of simulated lenses: lens (row of the dataset), x, y ["], mass.

    They are not in the catalog, and are drawn again from the lens's seed.
    """
    given, parts = load_population(population), []
    for index, row in data.catalog.iterrows():
        if row["class"] == NO_SUB:
            continue
        lens = draw(index, row["class"], int(row["seed"]), given)
        x, y = lens.x + lens.center[0], lens.y + lens.center[1]
        parts.append(pd.DataFrame({"lens": index, "x": x, "y": y, "mass": lens.masses}))
    return pd.concat(parts, ignore_index=True)


def _rows(data: Dataset, processed: Path, settings: Config) -> dict[str, np.ndarray]:
    """Return the rows that learn, that choose the epoch, and that score."""
    learning, scored = data.rows("train"), data.rows("opt")
    if len(learning) <= settings.where.n_valid or not len(scored):
        raise InputError(
            f"{processed}: found {len(learning)} lenses in split train, {len(scored)} in opt; "
            f"expected more than where.n_valid = {settings.where.n_valid}, and some"
        )
    valid = first_rows(learning, settings.where.n_valid, settings.seed)
    return {"train": np.setdiff1d(learning, valid), "valid": valid, "score": scored}


def _of(subhalos: pd.DataFrame, rows: np.ndarray, least: float) -> pd.DataFrame:
    """Return the subhalos from a mass on of some rows, whose place among them is the lens."""
    number = pd.Series(np.arange(len(rows)), index=rows)
    own = subhalos[subhalos["lens"].isin(rows) & (subhalos["mass"] >= least)]
    return own.assign(lens=own["lens"].map(number)).reset_index(drop=True)


def _maps(
    row: WhereRow,
    data: Dataset,
    sample: Sample,
    settings: Config,
    subhalos: pd.DataFrame,
    rows: dict[str, np.ndarray],
) -> tuple[np.ndarray, list[np.ndarray], pd.DataFrame]:
    """Return the axis (g,) ["], the maps (n, g, g) of each seed, and the trainings' epochs."""
    own, given = settings.override(row), read_maps(sample.fits, data)
    side = own.model.side(given.shape[-1])
    camera = read_json(sample.fits / "provenance.json")["camera"]
    step = camera["lensfit"]["size"] * camera["pixel_scale"] / given.shape[-1]
    axis = (np.arange(side) - (side - 1) / 2) * step
    if not row.trained:
        rim = (given.shape[-1] - side) // 2
        middle = slice(rim, rim + side)
        maps = given[rows["score"], CHANNELS.index(own.model.maps[0]), middle, middle]
        return axis, [np.asarray(maps, float)], pd.DataFrame(columns=["epoch", "seed"])
    arrays, _ = inputs_for(own, data, Tables(fits=sample.fits))
    parts = {}
    for part, numbers in rows.items():
        images, features, _ = arrays(numbers)
        heavy = _of(subhalos, numbers, settings.where.least_mass)
        parts[part] = images, features, marked(heavy, len(numbers), axis)
    maps, histories = [], []
    for seed in range(settings.where.seeds):
        learnt = learn_where(
            *(parts["train"], parts["valid"], own.model, own.train),
            seed=settings.seed + seed,
            label=f"{sample.name} {row.label} {seed}",
        )
        answers = where(learnt.model, parts["score"][0], own.model.average)
        maps.append(torch.logit(answers.double(), eps=1e-9).numpy())
        histories.append(learnt.history.assign(seed=seed, cpu_seconds=learnt.cpu_seconds))
    return axis, maps, pd.concat(histories)


def marked(subhalos: pd.DataFrame, n: int, axis: np.ndarray) -> torch.Tensor:
    """Return the places (n, g, g) that are ``MARKED`` or nearer to a subhalo of each lens."""
    places_of = torch.zeros(n, len(axis), len(axis), dtype=torch.bool)
    for lens, x, y in subhalos[["lens", "x", "y"]].itertuples(index=False):
        near = (axis - x) ** 2 + (axis[:, None] - y) ** 2 <= MARKED**2
        places_of[int(lens)] |= torch.from_numpy(near)
    return places_of


def recipe(settings: Config, name: str | None = None) -> dict[str, Any]:
    """Return what the maps of a row, or of all, depend on, but for the lenses."""
    chosen = settings.where.model_dump(mode="json", exclude={"population"})
    if name is None:
        return {"seed": settings.seed, "where": chosen}
    chosen["rows"] = {name: chosen["rows"][name]}
    sections = ("model", "train", "seed")
    return {key: getattr(settings, key) for key in sections} | {"where": chosen}


# ---------------------------------------------------------------------------------- all together


def merge(parts: Sequence[str | Path], settings: Config, out: str | Path) -> pd.DataFrame:
    """Join the rows ``<population>/where/<row>``; write what is small enough to be kept.

    ``where.csv``, which is returned: row, label, low, high (of log10 of the mass), n subhalos,
    found (their share, the mean over the seeds), its low and high over lenses (found_low,
    found_high), sd over the seeds, what chance finds (chance), and the gain over the row
    ``where.against`` with gain_low and gain_high. ``where_maps.npz``: the maps of some lenses.
    InputError if a row is missing.
    """
    started = time.time()
    check_replaceable(out, FILES)
    chosen = settings.where
    folders = {Path(part).name: Path(part) for part in parts}
    if missing := [name for name in chosen.rows if name not in folders]:
        raise InputError(f"{out}: found no row {missing[0]}; expected all rows")
    told = {name: read_json(folders[name] / "where.json") for name in chosen.rows}
    shares, lines, shown = {}, [], {}
    for name, row in chosen.rows.items():
        subhalos, tops = (pd.read_csv(folders[name] / file) for file in ROW[:2])
        shares[name] = drawn_shares(subhalos, tops, told[name]["n_scored"], settings)
        with np.load(folders[name] / "shown.npz") as kept:
            shown |= {f"{name}_maps": kept["maps"], "axis": kept["axis"], "lenses": kept["lenses"]}
        own = subhalos[subhalos["lens"].isin(shown["lenses"]) & (subhalos["seed"] == 0)]
        shown["subhalos"] = own[["lens", "x", "y", "mass"]].to_numpy(float)
        single = shares[name].first
        for k, (low, high) in enumerate(_bins(chosen.log_masses)):
            about = {"row": name, "label": row.label, "low": low, "high": high}
            about |= {"n": int(shares[name].n[k]), "found": single[:, k].mean()}
            about |= _ends("found", shares[name].draws[:, k])
            about |= {"sd": single[:, k].std(ddof=1) if len(single) > 1 else np.nan}
            lines.append(about | {"chance": shares[name].chance[k]})
    reference = shares[chosen.against] if chosen.against else None
    for line in lines if reference else []:
        k = chosen.log_masses.index(line["low"])
        if line["row"] != chosen.against:
            line["gain"] = line["found"] - reference.first[:, k].mean()
            line |= _ends("gain", shares[line["row"]].draws[:, k] - reference.draws[:, k])
    table = pd.DataFrame(lines)
    histories = [
        pd.read_csv(folders[name] / "history.csv").assign(row=name, label=row.label)
        for name, row in chosen.rows.items()
    ]
    with atomic(out) as temporary:
        temporary.mkdir()
        table.to_csv(temporary / "where.csv", index=False)
        pd.concat(histories).to_csv(temporary / "where_history.csv", index=False)
        np.savez_compressed(temporary / "where_maps.npz", **shown)
        sidecar(
            temporary / "where.json",
            rule="merge_where",
            inputs=[folders[name] / ROW[0] for name in chosen.rows],
            started=started,
            seed=settings.seed,
            config=recipe(settings),
            cpu_seconds=round(sum(entry["seconds"] for entry in told.values()), 1),
        )
    return table


class Shares:
    """Shares that are found: ``first`` (seeds, bins), ``draws`` (draws, bins) over lenses.

    ``chance`` (bins,) is what the peaks of other lenses find, ``n`` (bins,) the subhalos.
    """

    def __init__(self, first: np.ndarray, draws: np.ndarray, chance: np.ndarray, n: np.ndarray):
        self.first, self.draws, self.chance, self.n = first, draws, chance, n


def drawn_shares(
    subhalos: pd.DataFrame, tops: pd.DataFrame, n_lenses: int, settings: Config
) -> Shares:
    """Return the shares of a row's subhalos that are found, and of those of lenses drawn again."""
    chosen = settings.where
    edges = 10.0 ** np.array(chosen.log_masses)
    rng = np.random.default_rng(np.random.SeedSequence(settings.seed))
    counts = [np.ones(n_lenses, int)]
    counts += [
        np.bincount(rng.integers(0, n_lenses, n_lenses), minlength=n_lenses)
        for _ in range(settings.evaluation.bootstrap)
    ]
    seeds = sorted(subhalos["seed"].unique())
    found, chance = np.empty((len(seeds), len(counts), len(edges) - 1)), []
    for at, seed in enumerate(seeds):
        own, top = subhalos[subhalos["seed"] == seed], tops[tops["seed"] == seed]
        wrong = top[~top["right"]].sort_values("height", ascending=False, kind="stable")
        lens, height = own["lens"].to_numpy(), own["height"].to_numpy()
        bins = np.digitize(own["mass"], edges) - 1
        for k, count in enumerate(counts):
            above = places.threshold(wrong, count, chosen.false_peaks)
            weight = count[lens]
            for j in range(len(edges) - 1):
                inside = weight * (bins == j)
                found[at, k, j] = (inside * (height > above)).sum() / max(inside.sum(), 1)
            if k == 0:
                lucky = own["chance"].to_numpy() > above
                chance.append([lucky[bins == j].mean() for j in range(len(edges) - 1)])
    n = np.bincount(bins[bins >= 0], minlength=len(edges) - 1)[: len(edges) - 1]
    return Shares(found[:, 0], found[:, 1:].mean(axis=0), np.mean(chance, axis=0), n)


def _bins(log_masses: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(log_masses[:-1], log_masses[1:], strict=True))


def _ends(name: str, draws: np.ndarray) -> dict[str, float]:
    """Return the ends of the central ``LEVEL`` of draws."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}
