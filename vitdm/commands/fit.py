"""``vitdm fit``: a smooth lens fitted to every image."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands
from vitdm.errors import InputError

HELP = "Fit a smooth lens to every image."
EXAMPLE = "vitdm fit dataset --out fits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="its folder")
    commands.add_config(parser)
    parser.add_argument(
        "--population", help="of simulated lenses, name or file: its PSF and photon noise are known"
    )
    commands.add_shard(parser)
    commands.add_out(parser, "folder")


def run(options: argparse.Namespace) -> None:
    from vitdm.data import Dataset
    from vitdm.lens import fit_dataset, settings_for
    from vitdm.simulation.population import load_population

    chosen = commands.read_settings(options).lensfit
    if options.population:
        population = load_population(options.population)
        catalog = Dataset.open(options.dataset).catalog
        others = set(catalog["source"]) - {population.name}
        if others and "theta_E" in catalog:  # simulated, and by another name
            raise InputError(
                f"--population {options.population}: {options.dataset} is of {min(others)}; "
                "expected that population"
            )
        chosen = settings_for(population, chosen)
    fit_dataset(options.dataset, options.out, chosen, options.shard)
