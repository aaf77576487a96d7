"""``audit``: the precursor's recipe, fault by fault."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Train the precursor's recipe, fault by fault, and ours."
EXAMPLE = "python -m studies audit sample --config stage.yaml --out audit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sample", type=Path, help="folder with dataset, processed, features.csv")
    add_config(parser)
    commands.add_out(parser, "folder", apart=False)


def run(options: argparse.Namespace) -> None:
    from studies import audit

    audit.train_rows(options.sample, read_config(options), options.out)
