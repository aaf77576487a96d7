"""``ideal-observer``: how well the classes of a population can be separated at all."""

from __future__ import annotations

import argparse
import sys

from studies.commands import add_config, read_config
from vitdm import commands
from vitdm.bounds import LARGEST_SEED, MOST_IMAGES
from vitdm.errors import InputError

HELP = "Bound the class separation of a population by the ideal observer."
EXAMPLE = "python -m studies ideal-observer marginal --n 300 --out bound"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("population", help="name of one that comes with vitdm, or a file (YAML)")
    add_config(parser, required=False)
    parser.add_argument(
        "--n",
        type=commands.whole(2, MOST_IMAGES),
        help="number of images; default: the configuration's",
    )
    parser.add_argument(
        "--seed",
        type=commands.whole(0, LARGEST_SEED),
        help="of the dataset; default: the configuration's, 0",
    )
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from studies import ideal_observer
    from vitdm.simulation.population import load_population

    n, seed = options.n, options.seed
    if options.config is not None:
        settings = read_config(options)
        n = settings.populations.n_ideal_observer if n is None else n
        seed = settings.seed if seed is None else seed
    if n is None:
        raise InputError("found neither --n nor --config; expected one")
    population = load_population(options.population)
    summary = ideal_observer.write(population, n, seed or 0, options.out)
    print(ideal_observer.in_words(summary), file=sys.stderr)
