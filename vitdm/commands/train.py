"""``vitdm train``: one model, trained with one or several seeds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vitdm import commands
from vitdm.bounds import LARGEST_SEED
from vitdm.errors import InputError

if TYPE_CHECKING:
    from vitdm.config.settings import Settings

HELP = "Train one model, of one or several seeds."
EXAMPLE = "vitdm train processed --config mine.yaml --out run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("processed", type=Path, help="folder of processed images")
    commands.add_model_inputs(parser)
    parser.add_argument(
        "--copies", type=Path, help="of vitdm resample, to learn from beside the lenses themselves"
    )
    commands.add_config(parser)
    parser.add_argument(
        "--seed",
        type=commands.whole(0, LARGEST_SEED),
        nargs="+",
        default=[0],
        help="added to the configuration's seed; of several one after another",
    )
    parser.add_argument(
        "--tuned", type=Path, metavar="TUNE", help="with the values that this search chose"
    )
    parser.add_argument(
        "--start", action="store_true", help="with --tuned: with the values it started from instead"
    )
    parser.add_argument(
        "--final",
        action="store_true",
        help="train on splits train and opt for all epochs, score on valid",
    )
    commands.add_out(parser, "run folder, {seed} for its seed")


def run(options: argparse.Namespace) -> None:
    from vitdm.commands.tuned import settings_of_search
    from vitdm.data import Dataset
    from vitdm.model.runs import checkpoint_of

    folders = {
        seed: options.out.with_name(options.out.name.replace("{seed}", str(seed)))
        for seed in options.seed
    }
    if len(set(folders.values())) < len(options.seed):
        raise InputError(
            f"--out {options.out}: found one folder for {len(options.seed)} seeds; expected "
            "different seeds, and {seed} in its name"
        )
    if options.start and not options.tuned:
        raise InputError("--start: found no --tuned; expected the folder of a search")
    settings = commands.read_settings(options)
    if options.tuned:
        settings = settings_of_search(settings, options.tuned, start=options.start)
    settings.check()
    Dataset.open(options.processed).check_raw(False)
    for seed, out in folders.items():
        _train(options, settings.model_copy(update={"seed": settings.seed + seed}), out)
    # only now: whoever starts a killed command again may have lost the folders that were ready
    for out in folders.values():
        checkpoint_of(out).unlink(missing_ok=True)


def _train(options: argparse.Namespace, settings: Settings, out: Path) -> None:
    """Train with one seed, and write its run folder."""
    from vitdm.model.inputs import Tables
    from vitdm.model.runs import Splits, train_run
    from vitdm.model.training import Diverged

    final = Splits(train=("train", "opt"), valid=None, score="valid")
    try:
        train_run(
            options.processed,
            out,
            settings,
            tables=Tables(options.features, options.selection, options.fits, options.copies),
            splits=final if options.final else Splits(),
            keep_checkpoint=True,
        )
    except Diverged as error:
        raise InputError(f"{out}: {error}; expected a lower learning rate") from error
