"""``join-trials``: the trials of several searches, or of recipes, in one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Join the trials of several searches, or of recipes."
EXAMPLE = "python -m studies join-trials rates/ours --config stage.yaml --out rates.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, help="named after an arm, or a recipe")
    add_config(parser)
    commands.add_out(parser, "CSV file")


def run(options: argparse.Namespace) -> None:
    from studies import rates

    rates.join_trials(options.folders, read_config(options), options.out)
