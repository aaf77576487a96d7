"""``where``: a row of the study of where the subhalos of a lens are."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Map where subhalos are, and compare the peaks with them."
EXAMPLE = "python -m studies where realistic --population realistic --row vit --config s.yaml"
EXAMPLE += " --out realistic/where/vit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sample", type=Path, help="folder with processed, features.csv, lensfit")
    parser.add_argument("--population", required=True, help="name or file: its subhalos")
    parser.add_argument("--row", required=True, help="name of an entry in where.rows")
    add_config(parser)
    commands.add_out(parser, "folder", apart=False)


def run(options: argparse.Namespace) -> None:
    from studies import where

    sample, population = options.sample, options.population
    where.train_row(sample, population, read_config(options), options.row, options.out)
