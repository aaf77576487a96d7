"""``known-lens``: the separation of classified images with their true smooth lens."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands
from vitdm.bounds import LARGEST_SEED, MOST_PROCESSES

HELP = "Score classified images by chi-squared with the true smooth lens."
EXAMPLE = "python -m studies known-lens marginal predictions.csv --out known"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("population", help="name of one that comes with vitdm, or a file (YAML)")
    parser.add_argument("predictions", type=Path, help="predictions.csv of vitdm evaluate")
    add_config(parser, required=False)
    parser.add_argument(
        "--seed",
        type=commands.whole(0, LARGEST_SEED),
        help="of the dataset; default: the configuration's, 0",
    )
    parser.add_argument(
        "--jobs",
        type=commands.whole(1, MOST_PROCESSES),
        default=1,
        help="processes (default: %(default)s)",
    )
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from studies import ideal_observer
    from vitdm.simulation.population import load_population

    population, seed = load_population(options.population), options.seed or 0
    if options.seed is None and options.config is not None:
        settings = read_config(options)
        seed = settings.seed if settings.test_seed is None else settings.test_seed
    auc = ideal_observer.write_known(
        population, options.predictions, seed, options.out, jobs=options.jobs
    )
    print(f"smooth lens known: ROC-AUC of chi2 {auc:.4f}", file=sys.stderr)
