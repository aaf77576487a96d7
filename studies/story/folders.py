"""The populations that notebooks set side by side, by name, and where their results are."""

from __future__ import annotations

from pathlib import Path

from studies.config import Config
from vitdm.simulation import population_name

UNKNOWN = "these images"  # the name of images that were not simulated


def main_population(config: Config) -> str:
    """Return the name of the population of the article's model, or of images from files."""
    return population_name(config.population) if config.data == "simulate" else UNKNOWN


def population_names(config: Config) -> list[str]:
    """Return the populations that are set side by side; none if the images are from files."""
    files = config.populations.files if config.data == "simulate" else []
    return [population_name(file) for file in files]


def population_folders(config: Config, results: Path) -> dict[str, Path]:
    """Return the folder with the results of each population, by name.

    Without populations to show it is the folder of the run, by the name ``UNKNOWN``.
    """
    names = population_names(config)
    return {name: results / "populations" / name for name in names} or {UNKNOWN: results}
