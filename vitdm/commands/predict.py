"""``vitdm predict``: the class of images in files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vitdm.bounds import PIXEL_SCALES
from vitdm.commands import real
from vitdm.errors import InputError

HELP = "Classify images."
EXAMPLE = "vitdm predict lens.fits more_lenses/ --out classes.csv"
OF_IMAGES = ("hdu", "band", "noise", "psf", "mask", "pixel_scale", "gain")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="jpg, png, npy or FITS files, or folders of them")
    parser.add_argument(
        "--run", nargs="+", type=Path, help="run folder(s); averaged; default: the reference model"
    )
    parser.add_argument("--out", type=Path, help="CSV file; default: standard output")
    known = parser.add_argument_group("what is known of all images, where their files do not tell")
    known.add_argument("--hdu", help="image of a FITS file: number or name of its extension")
    known.add_argument("--band", help="of a cube or a colour image: its number")
    known.add_argument("--noise", help="rms: a file, an extension, or the sky's as a number")
    known.add_argument("--psf", help="a file, an extension, or the FWHM in arcsec")
    known.add_argument("--mask", help="a file or an extension; not 0: the pixel is not used")
    known.add_argument(
        "--pixel-scale", type=real(*PIXEL_SCALES), help="arcsec; instead of the file's"
    )
    known.add_argument(
        "--gain", type=real(0, 1e6), help="photon noise: variance per brightness; 1 for counts"
    )


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
    known = {name: getattr(options, name) for name in OF_IMAGES}
    for name in ("hdu", "band"):
        known[name] = _number(known[name], int)
    for name in ("noise", "psf"):
        known[name] = _number(known[name], float)
    table = predict_files(options.images, options.run or [pretrained.FOLDER], **known)
    for text, rows in table[table["warning"] != ""].groupby("warning", sort=False):
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        print(f"WARNING: {rows['file'].iloc[0]}{more}: {text}", file=sys.stderr)
    if options.out is None:
        table.to_csv(sys.stdout, index=False)
        return
    with atomic(options.out) as temporary:
        table.to_csv(temporary, index=False)


def _number(text: str | None, kind: type) -> str | float | None:
    """Return the number that a text is, or else the text."""
    try:
        return None if text is None else kind(text)
    except ValueError:
        return text
