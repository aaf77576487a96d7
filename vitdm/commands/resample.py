"""``vitdm resample``: fitted lenses made up again, with other substructure and noise."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands
from vitdm.bounds import LARGEST_SEED, MOST_PARTS

HELP = "Make up fitted lenses again, perturbed anew."
EXAMPLE = "vitdm resample dataset --fits fits --population realistic --out c"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="its folder")
    parser.add_argument(
        "--fits", type=Path, required=True, help="of vitdm fit, with lensfit.maps: matched"
    )
    parser.add_argument(
        "--population", required=True, help="of the lenses, name or file: substructure is its"
    )
    parser.add_argument(
        "--number", type=commands.whole(1, MOST_PARTS), default=16, help="of copies of each lens"
    )
    parser.add_argument(
        "--seed", type=commands.whole(0, LARGEST_SEED), default=0, help="of all that is drawn"
    )
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from vitdm.lens.resampled import resample
    from vitdm.simulation.population import load_population

    population = load_population(options.population)
    given = options.dataset, options.fits, population, options.number, options.out
    resample(*given, seed=options.seed)
