"""``vitdm tune``: a search for the hyperparameters."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands
from vitdm.errors import InputError

HELP = "Search the hyperparameters (gp_minimize)."
EXAMPLE = "vitdm tune processed --config mine.yaml --out search"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("processed", type=Path, help="folder of processed images")
    commands.add_model_inputs(parser)
    parser.add_argument(
        "--dataset", type=Path, help="images before processing, if the space has preprocess keys"
    )
    commands.add_config(parser, required=True)
    commands.add_workers(parser, "trials", None)
    commands.add_out(parser, "search folder")


def run(options: argparse.Namespace) -> None:
    from vitdm.config import Tune
    from vitdm.config.sections import checked
    from vitdm.tuning.tuner import tune

    settings = commands.read_settings(options)
    if settings.tune is None:
        raise InputError(f"{options.config}: tune: missing; expected the space of the search")
    search = settings.tune.model_dump()
    if options.parallel is not None:
        search["parallel"] = options.parallel
    settings = settings.model_copy(update={"tune": checked(Tune, search, "--parallel")})
    tune(
        options.processed,
        options.features,
        settings,
        options.out,
        selection=options.selection,
        fits=options.fits,
        dataset=options.dataset,
        backend=options.backend,
    )
