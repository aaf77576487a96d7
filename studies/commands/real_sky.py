"""``real-sky``: models of simulated lenses applied to real images."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Train on simulated lenses, apply to a set of real images."
EXAMPLE = "python -m studies real-sky sample --set slacs --config stage.yaml --out seed0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sample", type=Path, help="folder with dataset, and lensfit if needed")
    parser.add_argument("--set", required=True, help="name of an entry in real_sky.sets")
    commands.add_seed(parser)
    add_config(parser)
    commands.add_out(parser, "folder", apart=False)


def run(options: argparse.Namespace) -> None:
    from studies import real_sky

    settings = read_config(options)
    real_sky.train_and_predict(options.sample, settings, options.set, options.seed, options.out)
