"""``posterior``: a row of the study of posteriors of the mass fraction in subhalos."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Train a network on maps for posteriors of f_sub, and test them."
EXAMPLE = "python -m studies posterior realistic --population realistic --row cnn --config s.yaml"
EXAMPLE += " --out realistic/posterior/cnn"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sample", type=Path, help="folder with processed, features.csv, lensfit")
    parser.add_argument("--population", required=True, help="name or file: its prior of f_sub")
    parser.add_argument("--row", required=True, help="name of an entry in posterior.rows")
    add_config(parser)
    commands.add_out(parser, "folder", apart=False)


def run(options: argparse.Namespace) -> None:
    from studies import posterior

    sample, population = options.sample, options.population
    posterior.train_row(sample, population, read_config(options), options.row, options.out)
