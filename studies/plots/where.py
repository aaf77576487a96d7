"""Where the subhalos of a lens are, by a network and by the search itself (notebook 03)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from studies.plots.style import BLUE, GREEN, VERMILION, WIDTH

COLOURS = (BLUE, VERMILION, GREEN, "0.35")
MARKERS = "osD^"
SPREAD = 0.04  # dex, between the points of two rows
HEAVY = (9.0, 8.5)  # log10 of the masses from which a circle is large, and small


def where(
    table: pd.DataFrame, shown: Mapping[str, np.ndarray], network: str, search: str
) -> plt.Figure:
    """Draw the share of subhalos that are found at one false peak a lens, and maps of some lenses.

    ``table`` and ``shown`` are those of ``studies.where.merge``; ``network`` and ``search`` the two
    rows whose maps are drawn. Left: share that has a peak near, by mass, with 95 % over lenses;
    dashed: what the peaks of another lens find there. Right: for each lens the S/N of the search,
    and the probability of a subhalo by the network, as its logit; circles are the subhalos from
    10^9 (large) and 10^8.5 solar masses on.
    """
    lenses = shown["lenses"]
    figure = plt.figure(figsize=(WIDTH, 3.0), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
    _completeness(left.subplots(), table)
    grid = right.subplots(2, len(lenses), squeeze=False)
    for k, (across, lens) in enumerate(zip(grid.T, lenses, strict=True)):
        own = shown["subhalos"][shown["subhalos"][:, 0] == lens]
        for axes, row in zip(across, (search, network), strict=True):
            _map(axes, shown[f"{row}_maps"][k].astype(float), shown["axis"], own, row == search)
    for axes, label in zip(grid[:, 0], ("S/N of the search", "network"), strict=True):
        axes.set_ylabel(label, fontsize=7)
    return figure


def _completeness(axes: plt.Axes, table: pd.DataFrame) -> None:
    rows = list(dict.fromkeys(table["row"]))
    for k, row in enumerate(rows):
        own = table[table["row"] == row]
        middle = (own["low"] + own["high"]) / 2 + SPREAD * (k - (len(rows) - 1) / 2)
        bars = own["found"] - own["found_low"], own["found_high"] - own["found"]
        style = {"fmt": MARKERS[k % 4], "ms": 4, "lw": 1, "color": COLOURS[k % 4]}
        axes.errorbar(
            middle, own["found"], np.clip(bars, 0, None), label=own["label"].iloc[0], **style
        )
        axes.plot(middle, own["chance"], "--", lw=0.8, color=COLOURS[k % 4])
    edges = sorted({*table["low"], *table["high"]})
    axes.set_xticks(edges)
    axes.set(ylim=(0, 1), ylabel="completeness")
    axes.set_xlabel(r"$\log_{10}$ of the subhalo's mass ($M_\odot$)")
    axes.legend(fontsize=6.5, loc="upper left")


def _map(
    axes: plt.Axes, values: np.ndarray, axis: np.ndarray, subhalos: np.ndarray, centred: bool
) -> None:
    half = (axis[1] - axis[0]) / 2
    extent = (axis[0] - half, axis[-1] + half) * 2
    if centred:
        ends = np.abs(values).max()
        axes.imshow(values, extent=extent, cmap="RdBu_r", vmin=-ends, vmax=ends)
    else:
        axes.imshow(values, extent=extent, cmap="viridis")
    for least, size in zip(HEAVY, (9, 5), strict=True):
        above = subhalos[:, 3] >= 10**least
        if least != HEAVY[0]:
            above &= subhalos[:, 3] < 10 ** HEAVY[0]
        for width, colour in ((2.0, "white"), (0.9, "black")):
            axes.plot(*subhalos[above, 1:3].T, "o", mfc="none", mec=colour, mew=width, ms=size)
    axes.set(xticks=[], yticks=[])
