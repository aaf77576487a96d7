"""``vitdm preprocess``: every image cut, turned and stretched."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands

HELP = "Cut, turn and stretch every image."
EXAMPLE = "vitdm preprocess dataset --out processed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="its folder")
    commands.add_config(parser)
    parser.add_argument(
        "--tuned", type=Path, metavar="TUNE", help="as this search chose, if it varied preprocess"
    )
    commands.add_out(parser, "dataset folder")


def run(options: argparse.Namespace) -> None:
    from vitdm.commands.tuned import settings_of_search
    from vitdm.preprocess import process_dataset

    settings = commands.read_settings(options)
    if options.tuned:
        settings = settings_of_search(settings, options.tuned)
    process_dataset(options.dataset, options.out, settings.preprocess)
