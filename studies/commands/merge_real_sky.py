"""``merge-real-sky``: what models of simulated lenses say of real images, in tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Join the results of real-sky."
EXAMPLE = "python -m studies merge-real-sky slacs/seed0 --config stage.yaml --out real_sky"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, help="folders <set>/seed<k>")
    add_config(parser)
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from studies import real_sky

    real_sky.merge_predictions(options.folders, read_config(options), options.out)
