"""``vitdm select``: features judged, and those that a model joins."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands

HELP = "Judge the features, choose those for the model."
EXAMPLE = "vitdm select processed --features features.csv --out selection"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("processed", type=Path, help="dataset folder; its catalog is read")
    parser.add_argument("--features", type=Path, metavar="CSV", required=True, help="feature table")
    commands.add_config(parser)
    parser.add_argument(
        "--ranking-only",
        action="store_true",
        help="one by one, on split train: no redundancy, no classifiers, no choice",
    )
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from vitdm.evaluation.selection import select

    settings = commands.read_settings(options)
    select(options.processed, options.features, settings, options.out, options.ranking_only)
