"""``merge-posterior``: the rows of the study of posteriors joined."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Join the rows of the study of posteriors."
EXAMPLE = "python -m studies merge-posterior realistic/posterior/* --config s.yaml --out all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="+", type=Path, help="all rows: <population>/posterior/<row>"
    )
    add_config(parser)
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from studies import posterior

    posterior.merge(options.folders, read_config(options), options.out)
