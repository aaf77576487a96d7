"""``merge-misspecification``: false alarms and completeness of each method on each row."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Join the blocks of misspecification in one table."
EXAMPLE = "python -m studies merge-misspecification lenses --config stage.yaml --out table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder of misspecification, <part>/<block>")
    add_config(parser)
    commands.add_out(parser, "folder", apart=False)


def run(options: argparse.Namespace) -> None:
    from studies import misspecification

    misspecification.merge(options.folder, read_config(options), options.out)
