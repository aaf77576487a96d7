"""``compare``: a row of the fair comparison of networks."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Tune and train a row of the fair comparison."
EXAMPLE = "python -m studies compare sample --row vit --config stage.yaml --out vit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sample", type=Path, help="folder with processed, features.csv, lensfit")
    parser.add_argument("--row", required=True, help="name of an entry in compare.rows")
    add_config(parser)
    commands.add_out(parser, "folder", apart=False)


def run(options: argparse.Namespace) -> None:
    from studies import compare

    compare.train_row(options.sample, read_config(options), options.row, options.out)
