"""``vitdm predict``: the class of images in files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "Classify images."
EXAMPLE = "vitdm predict lens.fits more_lenses/ --out classes.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="jpg, png, npy or FITS files, or folders of them")
    parser.add_argument(
        "--run", nargs="+", type=Path, help="run folder(s); averaged; default: the reference model"
    )
    parser.add_argument("--out", type=Path, help="CSV file; default: standard output")


def run(options: argparse.Namespace) -> None:
    from vitdm import pretrained
    from vitdm.predict import predict_files
    from vitdm.provenance import atomic

    table = predict_files(options.images, options.run or [pretrained.FOLDER])
    if options.out is None:
        table.to_csv(sys.stdout, index=False)
        return
    with atomic(options.out) as temporary:
        table.to_csv(temporary, index=False)
