"""``merge-efficiency``: the scores of several numbers of images joined."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands

HELP = "Join the scores of trainings on several numbers of images."
EXAMPLE = "python -m studies merge-efficiency n500_seed0 n1000_seed0 --out efficiency"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, help="of python -m studies efficiency")
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from studies import efficiency

    efficiency.merge_scores(options.folders, options.out)
