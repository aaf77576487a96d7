"""How alike an image and its rotated copy are once processed (notebook 01)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from vitdm.plots.style import COLOURS, WIDTH

#: label, colour, line style of a procedure
PROCEDURES = {
    "derotated": ("turned, cut around the light", COLOURS["no_sub"], "-"),
    "plain": ("as it is", COLOURS["cdm"], "--"),
    "precursor": ("the precursor's", COLOURS["axion"], ":"),
}


def invariance(table: pd.DataFrame) -> plt.Figure:
    """Draw the correlation of a processed image with its rotated copy, against the angle.

    ``table`` is that of ``vitdm.invariance.measure``, with a column population: a panel each. Lines
    are medians over the images, bands hold the central 90 %; n is the number of images. How to read
    it: a processing that undoes a rotation stays close to one (not at one: noise does not survive
    resampling); one that does not, falls, and comes back where the lens is nearly symmetric. Images
    without a direction are among those drawn; leave them out to see the others alone.
    """
    rotations = table[table["perturbation"] == "rotation"]
    populations = list(dict.fromkeys(rotations["population"]))
    columns = min(3, len(populations))
    rows = -(-len(populations) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH, 0.7 + 1.6 * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat[len(populations) :]:
        axes.axis("off")
    for axes, population in zip(grid.flat, populations, strict=False):
        part = rotations[rotations["population"] == population]
        for name, (label, colour, line) in PROCEDURES.items():
            groups = part[part["procedure"] == name].groupby("amount")["correlation"]
            low, middle, high = (groups.quantile(q) for q in (0.05, 0.5, 0.95))
            axes.fill_between(middle.index, low, high, color=colour, alpha=0.2, lw=0)
            axes.plot(middle.index, middle, line, color=colour, lw=1.5, label=label)
        axes.axhline(0, color="0.6", lw=0.6)
        axes.set_title(f"{population} (n = {part['id'].nunique()})", fontsize=8, pad=3)
        axes.set(xticks=np.arange(0, 361, 90), xlim=(0, 360), ylim=(-0.5, 1.03))
    figure.supxlabel("rotation of the raw image (deg)", fontsize=9)
    figure.supylabel("correlation with the unrotated", fontsize=9)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure
