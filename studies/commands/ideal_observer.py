"""``ideal-observer``: how well the classes of a population can be separated at all."""

from __future__ import annotations

import argparse
import sys

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Bound the class separation of a population by the ideal observer."
EXAMPLE = "python -m studies ideal-observer marginal --config stage.yaml --out bound"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("population", help="name of one that comes with vitdm, or a file (YAML)")
    add_config(parser)
    parser.add_argument("--n", type=int, help="number of images; default: the configuration's")
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from studies import ceiling
    from vitdm.config import load_population

    settings = read_config(options)
    n = settings.populations.n_ceiling if options.n is None else options.n
    summary = ceiling.write(load_population(options.population), n, settings.seed, options.out)
    print(ceiling.in_words(summary), file=sys.stderr)
