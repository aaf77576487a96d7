"""``merge-fits``: shards of the lens fits of a dataset joined."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands

HELP = "Join the shards of the lens fits of a dataset."
EXAMPLE = "python -m studies merge-fits shards/fits-0-of-2 shards/fits-1-of-2 --out fits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", nargs="+", type=Path, help="folders of vitdm fit --shard")
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from vitdm.lens import merge_fits

    merge_fits(options.shards, options.out)
