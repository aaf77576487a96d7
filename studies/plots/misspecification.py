"""Searches on lenses that are unlike what the fit is told (notebook 06)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from studies.misspecification import METHODS
from studies.plots.style import BLUE, GREEN, VERMILION, WIDTH

#: colour (Okabe and Ito's) and marker of each method; those on the marginalised search are filled
MARKS = {
    "evidence": ("0.45", "s", False),
    "network": ("0.45", "D", False),
    "search": ("#56B4E9", "o", True),
    "twins": (VERMILION, "X", True),
    "trees": (GREEN, "^", True),
    "learned": (BLUE, "v", True),
}
ROW, HEAD = 0.26, 1.1  # inches: height of a row, and of what stands around them
SPREAD = 0.74  # of a row, over which the methods are spread
FACTOR = 2.0  # around the nominal rate: as it should stay
LEAST = 0.5  # lens: where a share of 0 is drawn, on the logarithmic axis


def misspecification(table: pd.DataFrame, level: int = 1) -> plt.Figure:
    """Draw false positives, completeness and ROC-AUC of each search on lenses unlike what it knows.

    ``table`` is that of ``studies.misspecification``. A row a misspecification; thresholds are
    fixed at ``level`` % false positives on nominal lenses, for twins at p = ``level`` %. Left: the
    share of lenses without substructure that are called perturbed; the line is the nominal rate,
    the band half and twice of it, and arrows mean none. Middle: the share of perturbed lenses that
    are. Right: ROC-AUC of perturbed against smooth lenses of the row. Bars are 95 % intervals.
    """
    names = list(dict.fromkeys(table["row"]))
    methods = [method for method in METHODS if method in set(table["method"])]
    figure, grid = plt.subplots(
        1, 3, figsize=(WIDTH, ROW * len(names) + HEAD), sharey=True, layout="constrained",
        width_ratios=(1.25, 1, 1),
    )  # fmt: skip
    for k, method in enumerate(methods):
        offset = SPREAD * ((k + 0.5) / len(methods) - 0.5)
        own = table[table["method"] == method].set_index("row").loc[names]
        height = np.arange(len(names)) + offset
        _points(grid[0], own, f"fpr_{level}", height, method, LEAST / own["n_smooth"])
        _points(grid[1], own, f"completeness_{level}", height, method)
        _points(grid[2], own, "roc_auc", height, method)
    _rates(grid[0], table, level)
    grid[1].set(xlim=(-0.03, 1.03), xlabel="completeness")
    grid[2].set(xlim=(min(0.48, table["roc_auc"].min() - 0.03), 1.01), xlabel="ROC-AUC")
    _names(grid, table.drop_duplicates("row"))
    handles, labels = grid[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, columnspacing=1.5)
    return figure


def _points(
    axes: Axes,
    own: pd.DataFrame,
    column: str,
    height: np.ndarray,
    method: str,
    least: pd.Series | None = None,
) -> None:
    """Draw the values of one method; those below ``least``, if it is given, as arrows at it."""
    colour, marker, filled = MARKS[method]
    ends = ("low", "high") if column == "roc_auc" else (f"{column}_low", f"{column}_high")
    value, low, high = (own[name].astype(float) for name in (column, *ends))
    none = pd.Series(False, own.index)
    if least is not None:
        none = value < least
        value, low, high = (np.maximum(each, least) for each in (value, low, high))
    axes.hlines(height, low, high, color=colour, lw=0.7, alpha=0.55)
    style = {"color": colour, "mfc": colour if filled else "white", "ms": 3.2, "mew": 0.8, "ls": ""}
    axes.plot(value[~none], height[~none], marker=marker, label=METHODS[method], **style)
    axes.plot(value[none], height[none], marker="<", **style)


def _rates(axes: Axes, table: pd.DataFrame, level: int) -> None:
    nominal = level / 100
    axes.axvspan(nominal / FACTOR, nominal * FACTOR, color="0.82", lw=0, zorder=0)
    axes.axvline(nominal, color="black", lw=0.8, zorder=0.5)
    least = LEAST / table["n_smooth"].max()
    axes.set(xscale="log", xlim=(0.75 * min(least, nominal / FACTOR), 1.15))
    ticks = [tick for tick in (0.001, 0.01, 0.1, 1.0) if tick > 0.75 * least]
    axes.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes.set_xlabel("false positives")


def _names(grid: np.ndarray, rows: pd.DataFrame) -> None:
    """Write what each row changes, and shade every other group."""
    groups = rows["group"].to_numpy()
    first = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    words = [
        f"{group}: {label}" if k in first else label
        for k, (group, label) in enumerate(zip(groups, rows["label"], strict=True))
    ]
    grid[0].set_yticks(range(len(rows)), words, fontsize=7)
    grid[0].set_ylim(len(rows) - 0.5, -0.5)
    edges = [*first, len(rows)]
    for axes in grid:
        axes.tick_params(axis="y", length=0)
        for low, high in zip(edges[1::2], edges[2::2], strict=False):
            axes.axhspan(low - 0.5, high - 0.5, color="0.95", lw=0, zorder=-1)
        for edge in edges[1:-1]:
            axes.axhline(edge - 0.5, color="0.8", lw=0.5, zorder=0)
