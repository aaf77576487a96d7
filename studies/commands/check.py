"""``check``: the numbers of a rebuild against the reference."""

from __future__ import annotations

import argparse

HELP = "Compare the numbers of a rebuild with the reference."
EXAMPLE = "python -m studies check --results results/paper"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", default="results/paper", help="folder (default: %(default)s)")
    parser.add_argument(
        "--reference", default="paper/reference.json", help="numbers (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    from studies.check import check

    return 1 if check(options.results, options.reference) else 0
