"""``merge-slacs``: the fits of real lenses in one table, beside published radii."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Join the fits of slacs, beside published Einstein radii."
EXAMPLE = "python -m studies merge-slacs lenses/J* --config stage.yaml --out slacs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, help="folders of fits, of a lens each")
    parser.add_argument("--published", type=Path, metavar="FILE", help="published radii (CSV)")
    parser.add_argument("--notes", type=Path, metavar="FILE", help="words on single lenses (YAML)")
    add_config(parser)
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from studies import slacs

    settings, known = read_config(options), (options.published, options.notes)
    slacs.merge(options.folders, settings, options.out, *known)
