"""``vitdm simulate``: a dataset of simulated lenses."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vitdm import commands
from vitdm.bounds import LARGEST_SEED, MOST_IMAGES
from vitdm.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from vitdm.simulation import Population

HELP = "Simulate lenses of a population."
EXAMPLE = "vitdm simulate --population marginal --n 1000 --out lenses"
SHOWN = 6  # lenses of each class in the figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--population", required=True, help="name of one that comes with vitdm, or a file (YAML)"
    )
    commands.add_config(parser)
    parser.add_argument(
        "--n",
        type=commands.whole(1, MOST_IMAGES),
        help="images, all in split train; default: n_images",
    )
    parser.add_argument(
        "--n-opt", type=commands.whole(0, MOST_IMAGES), default=0, help="as many more in split opt"
    )
    parser.add_argument(
        "--seed", type=commands.whole(0, LARGEST_SEED), help="default: the configuration's, or 0"
    )
    commands.add_shard(parser)
    commands.add_figure(parser, f"the first {SHOWN} lenses of each class as they were drawn")
    commands.add_out(parser, "dataset folder")


def run(options: argparse.Namespace) -> None:
    from vitdm.data.simulated import planned, simulate_dataset
    from vitdm.simulation.population import load_population

    settings = commands.read_settings(options)
    population = load_population(options.population)
    n_images = {"train": options.n} if options.n is not None else settings.n_images
    if n_images is None:
        raise InputError("n_images: found none; expected --n, or n_images in the file of --config")
    if options.n_opt:
        n_images = n_images | {"opt": options.n_opt}
    seed = settings.seed if options.seed is None else options.seed
    commands.check_figure(options, [])
    test_seed = settings.test_seed
    shown = None
    if options.figure is not None:
        shown = _shown(planned(population, n_images, seed, test_seed), options.shard)
    simulate_dataset(population, n_images, seed, options.out, options.shard, test_seed=test_seed)
    if shown is not None:
        _draw(population, shown, options)


def _shown(plan: pd.DataFrame, shard: tuple[int, int]) -> pd.DataFrame:
    """Return the first lenses of each class in a shard, or an InputError if it has none.

    They are those with the seed of the shard's first lens: lenses of the test may have another one,
    and a picture names one.
    """
    from vitdm import plots

    (k, of), n = shard, len(plan)
    lenses = plan.iloc[n * k // of : n * (k + 1) // of]
    if lenses.empty:
        raise InputError(f"--figure: found no lens in shard {k}/{of} of {n}; expected some to show")
    lenses = lenses[lenses["seed"] == lenses["seed"].iloc[0]]
    return lenses.iloc[plots.first_of_each(lenses["class"].tolist(), SHOWN)]


def _draw(population: Population, shown: pd.DataFrame, options: argparse.Namespace) -> None:
    """Write the picture of some lenses, and where their perturbers are."""
    from vitdm import plots

    seed = int(shown["seed"].iloc[0])
    pages = plots.simulated(population, shown.index.tolist(), shown["class"].tolist(), seed)
    plots.save(pages, options.figure, f"Lenses of the population {population.name}")
