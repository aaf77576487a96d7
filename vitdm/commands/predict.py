"""``vitdm predict``: the class of images in files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vitdm import commands
from vitdm.errors import InputError

HELP = "Classify images."
EXAMPLE = "vitdm predict lens.fits more_lenses/ --out classes.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", nargs="+", type=Path, help="run folder(s); averaged; default: the reference model"
    )
    parser.add_argument("--out", type=Path, help="CSV file; default: standard output")
    commands.add_images(parser)


def run(options: argparse.Namespace) -> None:
    from vitdm import pretrained
    from vitdm.data.readers import suffix_of
    from vitdm.predict import predict_files
    from vitdm.provenance import atomic, check_writable

    if options.out is not None:
        check_writable(options.out, filter(Path.is_file, map(Path, options.images)))
        if options.out.is_dir():
            raise InputError(f"{options.out}: is a folder; expected the name of a CSV file")
        if suffix_of(options.out.name):
            raise InputError(
                f"{options.out}: has the name of an image; expected that of a CSV file"
            )
    known = commands.known_of_images(options)
    table = predict_files(options.images, options.run or [pretrained.FOLDER], **known)
    for text, rows in table[table["warning"] != ""].groupby("warning", sort=False):
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        print(f"WARNING: {rows['file'].iloc[0]}{more}: {text}", file=sys.stderr)
    if options.out is None:
        table.to_csv(sys.stdout, index=False)
        return
    with atomic(options.out) as temporary:
        table.to_csv(temporary, index=False)
