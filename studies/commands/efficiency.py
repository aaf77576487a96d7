"""``efficiency``: scores of models trained on some number of images."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands
from vitdm.bounds import MOST_IMAGES

HELP = "Train on a number of images, and score."
EXAMPLE = "python -m studies efficiency sample --n 500 --config stage.yaml --out n500_seed0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sample", type=Path, help="folder with processed, features.csv, lensfit")
    parser.add_argument("also", nargs="*", type=Path, help="other samples to score")
    parser.add_argument(
        "--n", type=commands.whole(3, MOST_IMAGES), required=True, help="number of training images"
    )
    commands.add_seed(parser)
    parser.add_argument(
        "--runs", nargs="+", metavar="NAME", help="only these networks, which see images alone"
    )
    add_config(parser)
    commands.add_out(parser, "folder", apart=False)


def run(options: argparse.Namespace) -> None:
    from studies import efficiency

    settings = read_config(options)
    efficiency.train_and_score(
        options.sample,
        settings,
        options.n,
        options.seed,
        options.out,
        options.also,
        options.runs,
    )
