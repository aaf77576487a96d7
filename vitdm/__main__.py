"""The command line: ``vitdm simulate | ingest | preprocess | fit | features | select | …``."""

from __future__ import annotations

import argparse
import sys

from vitdm import __version__
from vitdm.commands import (
    benchmark,
    build_parser,
    evaluate,
    features,
    fit,
    ingest,
    lens,
    look,
    predict,
    preprocess,
    resample,
    run_command,
    search,
    select,
    simulate,
    survey,
    train,
    tune,
)

COMMANDS = {
    "simulate": simulate,
    "ingest": ingest,
    "look": look,
    "preprocess": preprocess,
    "fit": fit,
    "resample": resample,
    "features": features,
    "select": select,
    "train": train,
    "tune": tune,
    "evaluate": evaluate,
    "predict": predict,
    "lens": lens,
    "search": search,
    "survey": survey,
    "benchmark": benchmark,
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    description = "Find dark matter substructure in images of strong gravitational lenses."
    return build_parser("vitdm", description, COMMANDS, __version__)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    return run_command(parser(), COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
