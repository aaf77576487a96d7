"""``merge-maps``: the rows of the study of maps joined."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Join the rows of the study of maps."
EXAMPLE = "python -m studies merge-maps realistic/rows/* --config s.yaml --out all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, help="all rows: <population>/rows/<row>")
    parser.add_argument(
        "--bounds", nargs="*", type=Path, default=[], help="ideal_observer.json of populations"
    )
    add_config(parser)
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from studies import maps

    maps.merge(options.folders, read_config(options), options.out, options.bounds)
