"""``write-reference``: a run made the reference, its numbers and its model."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Make a run the reference: its numbers, the README's, the reference model."
EXAMPLE = "python -m studies write-reference --results results/paper"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", default="results/paper", help="(default: %(default)s)")
    parser.add_argument(
        "--reference", default="paper/reference.json", help="(default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    from studies import reference_model
    from studies.check import fill_numbers, read_numbers, write_reference
    from vitdm.provenance import write_json

    numbers = read_numbers(options.results)
    write_reference(numbers, options.reference)
    write_json(Path(options.reference).with_name("numbers.json"), numbers)
    fill_numbers("README.md", numbers)
    reference_model.write(options.results, numbers)
