"""``maps``: a row of the study of networks on maps of perturbers."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Tune and train a model on maps of perturbers, or a rival."
EXAMPLE = "python -m studies maps realistic --row vit --config stage.yaml --out realistic/rows/vit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sample", type=Path, help="folder with processed, features.csv, lensfit")
    parser.add_argument("--row", required=True, help="name of an entry in maps.rows")
    add_config(parser)
    commands.add_out(parser, "folder", apart=False)


def run(options: argparse.Namespace) -> None:
    from studies import maps

    maps.train_row(options.sample, read_config(options), options.row, options.out)
