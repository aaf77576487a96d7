"""The dataset of a population: simulated lenses with classes, splits and truth.

An image depends on the seed, its index and the number of images (from which its class is drawn),
whatever the number of shards.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from vitdm.data import dataset
from vitdm.data.observation import Observation
from vitdm.data.splits import assign_splits
from vitdm.errors import InputError
from vitdm.simulation.classes import CLASSES
from vitdm.simulation.drawing import observe, simulate_one, truth_columns
from vitdm.simulation.population import Population


def ids_of(n: int, seed: int, population: Population, test_seed: int | None = None) -> list[str]:
    """Return the ids of images 0 … n-1: ``<population>_<data set>_<index>``.

    The middle part follows from all that the data set depends on, so that a table of another one
    is not taken for this one's.
    """
    seeds = [seed] if test_seed in (None, seed) else [seed, test_seed]
    made_of = json.dumps([population.model_dump(mode="json"), *seeds, n], sort_keys=True)
    tag = hashlib.sha256(made_of.encode()).hexdigest()[:8]
    return [f"{population.name}_{tag}_{i:06d}" for i in range(n)]


def class_of_each(n: int, seed: int, population: Population) -> list[str]:
    """Return the classes of images 0 … n-1: exact fractions, in an order drawn from the seed."""
    fractions = population.class_fractions
    names = [name for name in CLASSES if name in fractions]  # whatever the file's order
    sums = np.cumsum([fractions[name] for name in names])
    edges = np.round(sums / sums[-1] * n).astype(int)
    kinds = np.repeat(names, np.diff(edges, prepend=0))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(n, 0)))
    return rng.permutation(kinds).tolist()


def planned(
    population: Population, n_images: dict[str, int], seed: int, test_seed: int | None = None
) -> pd.DataFrame:
    """Return id, class, split, source and seed of each lens of a data set, before it is simulated.

    The arguments are those of ``simulate_dataset``.
    """
    total = sum(n_images.values())
    kinds = class_of_each(total, seed, population)
    # the draw of the splits is that of a population, whatever else the data set depends on
    drawn = [f"{population.name}_{i:06d}" for i in range(total)]
    splits = assign_splits(drawn, kinds, n_images, seed)
    of_test = seed if test_seed is None else test_seed
    return pd.DataFrame(
        {
            "id": ids_of(total, seed, population, test_seed),
            "class": kinds,
            "split": splits,
            "source": population.name,
            "seed": [of_test if split == "test" else seed for split in splits],
        }
    )


def simulate_dataset(
    population: Population,
    n_images: dict[str, int],
    seed: int,
    out: str | Path,
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
    test_seed: int | None = None,
) -> None:
    """Write shard ``(k, of)`` of a data set of ``sum(n_images)`` lenses to the folder ``out``.

    ``n_images`` gives the images of each split, ``seed`` all that is random; ``shard`` is the
    number of this one, from 0, and how many there are; ``progress``: show a bar. Classes and
    splits are drawn for the whole data set, so that the shards, merged, are the same whatever their
    number. The lenses of the split test and their noise are drawn from ``test_seed``, if there is
    one: a test can be set anew while all other images stay. InputError for a shard that does not
    exist.
    """
    started = time.time()
    k, of = shard
    if not 0 <= k < of:
        raise InputError(f"shard {k}/{of}: expected k/n with 0 <= k < n")
    every = planned(population, n_images, seed, test_seed)
    total = len(every)
    indices = range(total * k // of, total * (k + 1) // of)
    catalog = every.iloc[indices.start : indices.stop].reset_index(drop=True)
    seeds = catalog.pop("seed")

    columns = truth_columns(population)
    truths = np.full((len(indices), len(columns)), np.nan)

    def images() -> Iterator[np.ndarray]:
        bar = tqdm(indices, desc=f"simulate {k + 1}/{of}", disable=not progress, mininterval=5)
        for row, i in enumerate(bar):
            image, truth = simulate_one(i, catalog["class"][row], int(seeds[row]), population)
            truths[row] = [truth.get(name, np.nan) for name in columns]
            yield image[None]
        # The catalog is written after the images: by then the truth is known.
        catalog[columns] = truths
        catalog["n_subhalos"] = catalog["n_subhalos"].astype(int)
        catalog["seed"] = seeds

    dataset.write(
        out,
        images(),
        catalog,
        rule="simulate",
        seed=seed,
        config=population,
        started=started,
        pixel_scale=population.instrument.pixel_scale,
    )


def observed(index: int, kind: str, seed: int, population: Population) -> Observation:
    """Return lens ``index`` of a population as an observation with its noise map and PSF.

    The same image as ``simulate_one`` gives, which also has the truth.
    """
    known = observe(index, kind, seed, population)
    del known["truth"]
    return Observation(known.pop("image"), name=f"{population.name} {index}", **known)


def index_of(image_id: str) -> int:
    """Return the index that a simulated image was drawn with: the end of its id."""
    return int(image_id.rpartition("_")[2])


def population_of_id(image_id: str) -> str:
    """Return the name of the population of a simulated image: the beginning of its id."""
    return image_id.rsplit("_", 2)[0]
