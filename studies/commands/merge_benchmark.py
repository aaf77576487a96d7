"""``merge-benchmark``: the table of the DeepLense benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Join the scores of all models of the DeepLense benchmark."
EXAMPLE = "python -m studies merge-benchmark benchmark --config stage.yaml --out table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder with <set>/<rival> of each")
    add_config(parser)
    commands.add_out(parser, "folder", apart=False)


def run(options: argparse.Namespace) -> None:
    from studies import rivals

    rivals.merge_rivals(options.folder, read_config(options), options.out)
