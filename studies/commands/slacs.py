"""``slacs``: a real lens fitted with a source of free form and searched for subhalos."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Fit a real lens with a source of free form and search it for subhalos."
EXAMPLE = "python -m studies slacs data/J0946+1006 --config stage.yaml --out lenses/J0946+1006"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="image.fits, noise.fits and psf.fits of the lens")
    parser.add_argument("--redshifts", type=Path, metavar="FILE", help="of all lenses (CSV)")
    add_config(parser)
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from studies import slacs

    row = slacs.fit_lens(options.folder, read_config(options), options.out, options.redshifts)
    radius = f"theta_E {row['theta_E']:.4f} ± {row['theta_E_error']:.4f} arcsec"
    print(f"{row['name']}: {radius}, chi2 {row['chi2']:.3f} {row['flags']}", file=sys.stderr)
