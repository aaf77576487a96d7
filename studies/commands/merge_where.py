"""``merge-where``: the rows of the study of where subhalos are joined."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Join the rows of the study of where subhalos are."
EXAMPLE = "python -m studies merge-where realistic/where/* --config s.yaml --out where"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, help="all rows: <population>/where/<row>")
    add_config(parser)
    commands.add_out(parser, "folder", apart=False)


def run(options: argparse.Namespace) -> None:
    from studies import where

    where.merge(options.folders, read_config(options), options.out)
