"""``benchmark``: a model of the table of the DeepLense benchmark."""

from __future__ import annotations

import argparse

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Train a model on a set of the DeepLense benchmark and score it."
EXAMPLE = "python -m studies benchmark model_ii --rival resnet18 --config stage.yaml --out resnet18"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("set", help="a set of vitdm benchmark list")
    parser.add_argument("--rival", required=True, help="name of an entry in benchmark.rivals")
    add_config(parser)
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from studies import rivals

    rivals.score_rival(options.set, options.rival, read_config(options), options.out)
