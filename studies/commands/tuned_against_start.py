"""``tuned-against-start``: the result of a search against the settings it started from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from studies.commands import add_config, read_config
from vitdm import commands

HELP = "Compare tuned runs with untuned ones, pair by pair, on new images."
EXAMPLE = (
    "python -m studies tuned-against-start processed --runs final/seed0"
    " --against final/start0 --config stage.yaml --out tuned.json"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("processed", type=Path, help="of images that these runs have not seen")
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="tuned models")
    parser.add_argument(
        "--against", nargs="+", type=Path, required=True, help="models with the start's settings"
    )
    commands.add_model_inputs(parser, selection=False)
    add_config(parser)
    commands.add_out(parser, "JSON file")


def run(options: argparse.Namespace) -> None:
    from studies import tuned_against_start

    settings = read_config(options)
    comparison = tuned_against_start.compare_runs(
        options.processed,
        options.features,
        options.runs,
        options.against,
        options.out,
        task=settings.task,
        n_bootstrap=settings.evaluation.bootstrap,
        seed=settings.seed,
        fits=options.fits,
    )
    text = "difference in ROC-AUC {gain:+.4f} ({low:+.4f} to {high:+.4f})"
    print(text.format(**comparison), file=sys.stderr)
