"""``vitdm ingest``: a dataset of images in files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vitdm import commands
from vitdm.bounds import PIXEL_SCALES
from vitdm.errors import shown

HELP = "Make a dataset of images in files."
EXAMPLE = "vitdm ingest images.zip --out dataset"
#: of the splits that are drawn, unless the settings have n_images
PROPORTIONS = {"train": 70, "valid": 10, "opt": 10, "test": 10}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", type=Path, help="folder, archive or .npz file of images with classes (docs/data.md)"
    )
    commands.add_config(parser)
    parser.add_argument(
        "--resplit", action="store_true", help="draw all splits anew, whatever was published"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out files that cannot be used, list them"
    )
    parser.add_argument(
        "--drop-duplicates", action="store_true", help="keep one of several images that are equal"
    )
    parser.add_argument(
        "--pixel-scale",
        type=commands.real(*PIXEL_SCALES),
        metavar="ARCSEC",
        help="of all images; default: FITS headers",
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="table (CSV, TSV) with columns file and class"
    )
    parser.add_argument(
        "--class",
        dest="classes",
        type=_class,
        action="append",
        default=[],
        metavar="NAME=CLASS",
        help="of a folder or label; wdm=wdm is a class of your own",
    )
    commands.add_out(parser, "dataset folder")


def run(options: argparse.Namespace) -> None:
    from vitdm.data.ingest import ingest

    settings = commands.read_settings(options)
    chosen, scale = settings.ingest, options.pixel_scale
    summary = ingest(
        options.path,
        options.out,
        settings.n_images or PROPORTIONS,
        settings.seed,
        resplit=options.resplit or chosen.resplit,
        skip_bad=options.skip_bad or chosen.skip_bad,
        drop_duplicates=options.drop_duplicates or chosen.drop_duplicates,
        pixel_scale=chosen.pixel_scale if scale is None else scale,
        classes=chosen.classes | dict(options.classes),
        labels=options.labels or chosen.labels,
    )
    print(summary, file=sys.stderr)


def _class(text: str) -> tuple[str, str]:
    name, equals, kind = text.partition("=")
    if not (name and equals and kind):
        raise argparse.ArgumentTypeError(
            f"found {shown(text)}; expected NAME=CLASS, such as wdm=cdm"
        )
    return name, kind
