"""``rates``: a recipe trained at each of a grid of learning rates."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Train a recipe at each learning rate of a grid."
EXAMPLE = "python -m studies rates processed --recipe ours --config stage.yaml --out ours"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("processed", type=Path, help="folder of processed images")
    parser.add_argument("--recipe", required=True, help="name of an entry in rates.recipes")
    commands.add_model_inputs(parser)
    add_config(parser)
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from studies import rates

    rates.train_recipe(
        options.processed,
        options.features,
        read_config(options),
        options.recipe,
        options.out,
        selection=options.selection,
        fits=options.fits,
    )
