"""``merge-compare``: the rows of the fair comparison joined."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Join the rows of the fair comparison."
EXAMPLE = "python -m studies merge-compare vit stem --config stage.yaml --out comparison"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, help="all rows, named after them")
    add_config(parser)
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from studies import compare

    compare.merge_rows(options.folders, read_config(options), options.out)
