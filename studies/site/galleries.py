"""The page of the populations that ship: words, a gallery and the truth's priors of each."""

from __future__ import annotations

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from studies.plots import style
from studies.plots.populations import population_gallery
from studies.story.populations import drawn_again
from vitdm.data import Dataset, simulate_dataset
from vitdm.simulation import Population, load_population
from vitdm.simulation.population import shipped, table

SEED = 2026
EACH = 4  # lenses of each class
INTRODUCTION = f"""# Populations

These populations of simulated lenses ship with the library and are known by name:
`vitdm simulate --population NAME`. The lenses below were drawn when this site was built (seed
{SEED}), a row for each class. What substructure changed in an image stands below it, in units of
the noise of a pixel, or of the peak where there is no noise. What the columns of the truth mean,
what of published simulations is reproduced, and how to write a population of your own:
[data](data.md#populations).
"""


def galleries(folder: Path) -> str:
    """Return the page, and write its pictures (PNG) to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    style.style()
    text = [INTRODUCTION]
    for name in shipped():
        population = load_population(name)
        picture = f"{name}.png"
        _draw(population, folder / picture)
        words = " ".join(population.description.split())
        text.append(f"## {name}\n\n{words}\n\n![Lenses of {name}](populations/{picture})\n")
        text.append(_priors(population))
    return "\n".join(text)


def _draw(population: Population, file: Path) -> None:
    """Draw lenses of each class of a population."""
    kinds = len(population.class_fractions)
    with tempfile.TemporaryDirectory() as place:
        n_images = {"train": 4 * EACH * kinds}
        simulate_dataset(population, n_images, SEED, Path(place) / "data", progress=False)
        data = Dataset.open(Path(place) / "data")
        rows = data.catalog.groupby("class").head(EACH).index
        figure = population_gallery(
            drawn_again(data, rows, population), population.instrument.pixel_scale
        )
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _priors(population: Population) -> str:
    rows = [
        f"    | `{key}` | {value} | {unit} |"
        for key, value, unit in table(population).itertuples(index=False)
    ]
    head = [
        '??? note "What it is drawn from"',
        "",
        "    | setting | value | |",
        "    |---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"
