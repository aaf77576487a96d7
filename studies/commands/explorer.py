"""``explorer``: a page with every lens of the final test."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands

HELP = "Write a page (HTML) with every lens of a run's final test."
EXAMPLE = "python -m studies explorer results/paper --out results/paper/explorer.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, help="folder of a run, with its evaluation")
    commands.add_out(parser, "HTML file; its sidecar lies beside it", apart=False)


def run(options: argparse.Namespace) -> None:
    from studies.explorer import explorer

    explorer(options.results, options.out)
