"""``vitdm look``: a contact sheet of a dataset."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands
from vitdm.bounds import LARGEST_SEED
from vitdm.errors import InputError

HELP = "Show images of a dataset, with class, split and truth."
EXAMPLE = "vitdm look lenses --figure lenses.pdf --n 48 --class cdm axion"
MOST = 1200  # images: fifty pages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="dataset folder: simulated, ingested, processed")
    commands.add_figure(parser, "images with class, split and truth", required=True)
    parser.add_argument("--n", type=commands.whole(1, MOST), default=24, help="images; default: 24")
    parser.add_argument(
        "--seed",
        type=commands.whole(0, LARGEST_SEED),
        default=0,
        help="of the choice of the images; default: 0",
    )
    parser.add_argument("--class", dest="classes", nargs="+", metavar="NAME", help="of these only")
    parser.add_argument("--split", dest="splits", nargs="+", metavar="NAME", help="of these only")


def run(options: argparse.Namespace) -> None:
    import numpy as np
    import pandas as pd

    from vitdm import plots
    from vitdm.data import Dataset

    commands.check_figure(options, [options.dataset])
    data = Dataset.open(options.dataset)
    catalog = data.catalog
    rows = np.arange(len(catalog))
    for column, names in (("class", options.classes), ("split", options.splits)):
        if names is not None:
            _check_names(data.folder / "catalog.csv", column, names, set(catalog[column]))
            rows = rows[catalog[column].iloc[rows].isin(names)]
    if not len(rows):
        raise InputError(f"{data.folder}: found no image of these classes in these splits")
    print(pd.crosstab(catalog["class"], catalog["split"]).to_string())
    some = np.random.default_rng(options.seed).permutation(rows)[: options.n]
    pages = plots.contact_sheet(data, np.sort(some))
    plots.save(pages, options.figure, f"Images of {data.folder.name}")


def _check_names(table: Path, column: str, names: list[str], known: set[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        expected = ", ".join(sorted(known))
        raise InputError(f"{table}: {column}: found no {unknown[0]!r}; expected {expected}")
