"""``vitdm features``: the table of physics features."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands

HELP = "Measure the physics features of every image."
EXAMPLE = "vitdm features dataset --fits fits --out features.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="its folder")
    commands.add_fits(parser, "the group lensfit")
    commands.add_config(parser)
    commands.add_out(parser, "CSV file")


def run(options: argparse.Namespace) -> None:
    from vitdm.features import measure_dataset

    settings = commands.read_settings(options)
    chosen = settings.features
    if options.fits and "lensfit" not in chosen.groups:
        chosen = chosen.model_copy(update={"groups": [*chosen.groups, "lensfit"]})
    measure_dataset(options.dataset, options.out, settings.preprocess, chosen, options.fits)
