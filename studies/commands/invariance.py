"""``invariance``: images rotated, shifted and brightened, compared with themselves."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands
from vitdm.bounds import MOST_IMAGES

HELP = "Compare rotated, shifted, brighter images with themselves after processing."
EXAMPLE = "python -m studies invariance dataset --config stage.yaml --out invariance"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="its folder")
    add_config(parser)
    parser.add_argument(
        "--n",
        type=commands.whole(2, MOST_IMAGES),
        help="number of images; default: the configuration's",
    )
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from studies import invariance

    settings = read_config(options)
    n = settings.populations.n_invariance if options.n is None else options.n
    summary = invariance.write(options.dataset, settings.preprocess, n, settings.seed, options.out)
    print(invariance.in_words(summary), file=sys.stderr)
