"""``misspecification``: lenses unlike what the fit is told, searched with all methods."""

from __future__ import annotations

import argparse
import sys

from studies.commands import add_config, read_config
from vitdm import commands
from vitdm.bounds import MOST_IMAGES

HELP = "Search lenses that are unlike what the fit is told."
EXAMPLE = "python -m studies misspecification psf_plus_10 --config stage.yaml --out lenses"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "parts",
        nargs="+",
        metavar="PART",
        help="rows of studies.misspecified, calibration, training",
    )
    parser.add_argument(
        "--block",
        type=commands.whole(0, MOST_IMAGES),
        metavar="K",
        help="number of a block; default: all that are not in the folder yet",
    )
    add_config(parser)
    commands.add_out(parser, "folder", apart=False)


def run(options: argparse.Namespace) -> None:
    from studies import misspecification

    settings = read_config(options)
    for part in options.parts:
        n = settings.misspecification.blocks(part)
        for k in range(n) if options.block is None else [options.block]:
            out = options.out / part / str(k)
            lenses = misspecification.score_block(part, k, settings, out)
            print(f"{part}, block {k + 1} of {n}: {len(lenses)} lenses", file=sys.stderr)
