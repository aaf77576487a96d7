"""``vitdm evaluate``: the final test."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands

HELP = "Open the test split: apply runs and score them."
EXAMPLE = "vitdm evaluate processed runs/seed0 runs/seed1 --out evaluation"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("processed", type=Path, help="folder of processed images")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of one model")
    commands.add_model_inputs(parser, selection=False)
    commands.add_config(parser)
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from vitdm.evaluation.final_test import evaluate

    settings = commands.read_settings(options)
    evaluate(
        options.processed,
        options.features,
        options.runs,
        options.out,
        task=settings.task,
        n_bootstrap=settings.evaluation.bootstrap,
        seed=settings.seed,
        fits=options.fits,
    )
