"""Networks on maps of perturbers and their rivals (notebook 03)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from studies.plots.style import BLUE, GREEN, VERMILION, WIDTH

KINDS = {"network": BLUE, "trees": GREEN, "score": "0.45", "bound": VERMILION}
ROW, HEAD = 0.22, 1.1  # inches: height of a row, and of what stands around them


def maps(table: pd.DataFrame) -> plt.Figure:
    """Draw the ROC-AUC of networks on maps of perturbers, of trees and of untrained numbers.

    ``table`` is that of ``studies.maps.merge``; a row of panels a population. Left: all rows with
    the largest number of lenses, with 95 % intervals over the lenses that score; networks blue,
    trees green, a number that nothing is learned for grey; the red line is the bound of one who is
    told the perturbation, but not the smooth lens. Right: those that are trained on several numbers
    of lenses, with the standard deviation over the seeds.
    """
    populations = list(dict.fromkeys(table["population"]))
    rows = table[table["kind"] != "bound"]
    heights = [ROW * rows.loc[rows["population"] == name, "row"].nunique() for name in populations]
    figure, grid = plt.subplots(
        len(populations), 2, figsize=(WIDTH, sum(heights) + HEAD * len(populations)),
        squeeze=False, layout="constrained", height_ratios=[height + 0.6 for height in heights],
    )  # fmt: skip
    for (left, right), name in zip(grid, populations, strict=True):
        own = table[table["population"] == name]
        _scores(left, own)
        _curves(right, own)
        left.set_title(name, loc="left", fontsize="medium")
    handles, labels = grid[0, 1].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _scores(axes: plt.Axes, own: pd.DataFrame) -> None:
    """Draw a point a row, trained on all lenses."""
    bound = own[own["kind"] == "bound"]
    largest = own[own["kind"] != "bound"].sort_values("n_train", kind="stable")
    rows = list(dict.fromkeys(own.loc[own["kind"] != "bound", "row"]))
    shown = largest.drop_duplicates("row", keep="last").set_index("row").loc[rows]
    for place, row in enumerate(shown.itertuples()):
        error = [[row.roc_auc - row.low], [row.high - row.roc_auc]]
        axes.errorbar(row.roc_auc, place, xerr=error, fmt="o", ms=4, lw=1, color=KINDS[row.kind])
    for value in bound["roc_auc"]:
        axes.axvline(value, color=KINDS["bound"], lw=1)
    axes.set_yticks(range(len(shown)), shown["label"])
    axes.set(ylim=(len(shown) - 0.5, -0.5), xlabel="ROC-AUC")
    axes.grid(axis="x", lw=0.4, color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def _curves(axes: plt.Axes, own: pd.DataFrame) -> None:
    """Draw the ROC-AUC against the number of lenses, of rows with more than one."""
    drawn = 0
    for _, part in own[own["n_train"] > 0].groupby("row", sort=False):
        if len(part) < 2:
            continue
        part, first = part.sort_values("n_train"), part.iloc[0]
        style = ("-", "--", ":", "-.")[drawn % 4]
        axes.errorbar(
            part["n_train"], part["roc_auc"], yerr=np.nan_to_num(part["sd"]), fmt=f"o{style}",
            ms=3, lw=1, color=KINDS[first["kind"]], label=first["label"],
        )  # fmt: skip
        drawn += 1
    for row in own[own["kind"] == "score"].itertuples():
        axes.axhline(row.roc_auc, color=KINDS["score"], lw=1)
    axes.set(xlabel="training lenses", ylabel="ROC-AUC")
    if not drawn:
        axes.set_axis_off()
        return
    axes.set_xscale("log")
    sizes = sorted(set(own.loc[own["n_train"] > 0, "n_train"]))
    axes.set_xticks(sizes, [f"{int(n):,}".replace(",", "\u202f") for n in sizes])
    axes.minorticks_off()
