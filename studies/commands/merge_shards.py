"""``merge-shards``: shards of a simulated dataset joined."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands

HELP = "Join the shards of a simulated dataset."
EXAMPLE = "python -m studies merge-shards shards/0-of-2 shards/1-of-2 --out dataset"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", nargs="+", type=Path, help="folders of vitdm simulate --shard")
    commands.add_out(parser, "dataset folder")


def run(options: argparse.Namespace) -> None:
    from vitdm.data.dataset import merge_shards

    inputs = [folder / "images.npy" for folder in options.shards]
    merge_shards(options.shards, options.out, inputs=inputs)
