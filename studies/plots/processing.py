"""From the raw image to the crop, and the ring laid straight (notebook 01)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from studies.plots.style import BLUE, GREEN, VERMILION, WIDTH, nothing

#: label, colour, line style of a procedure
PROCEDURES = {
    "derotated": ("turned, cut around the light", BLUE, "-"),
    "plain": ("as it is", VERMILION, "--"),
    "precursor": ("the precursor's", GREEN, ":"),
}


def processing_steps(image: np.ndarray, light: Any, roi: Any, square: np.ndarray) -> plt.Figure:
    """Draw the way from a raw image to what the network sees, in four steps.

    ``image`` (H, W) raw, ``light`` and ``roi`` what ``preprocess`` finds in it, ``square``
    (size, size) the result. (a) raw pixels; (b) smoothed, in units of the noise, with the contour
    of the threshold; (c) the region of interest, its centre and major axis, the arrow towards the
    longer tail; (d) cut and stretched.
    """
    figure, grid = plt.subplots(1, 4, figsize=(WIDTH, 1.95), layout="constrained")
    for axes, letter, title in zip(
        grid, "abcd", ("raw", "smoothed / noise", "region of interest", "stretched"), strict=True
    ):
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"({letter}) {title}", loc="left", fontsize=8)
        sns.despine(ax=axes, left=True, bottom=True)
    residual = light.residual / light.noise
    steps = [residual, light.smooth / light.noise_smooth, residual, square]
    for axes, step in zip(grid, steps, strict=True):
        high = np.quantile(step, 0.9995)
        shown = axes.imshow(step, vmin=min(0, np.quantile(step, 0.01)), vmax=high)
        figure.colorbar(shown, ax=axes, location="bottom", shrink=0.9, aspect=14, pad=0.02)
    grid[1].contour(light.mask, [0.5], colors="w", linewidths=0.7)
    if roi.found:
        grid[2].contour(roi.mask, [0.5], colors="w", linewidths=0.7)
        grid[2].plot(roi.x, roi.y, "+", color="c", ms=7)
    if roi.oriented:
        length = 0.3 * len(image)
        dx, dy = (length * f(np.radians(roi.angle)) for f in (np.cos, np.sin))
        arrow = {"arrowstyle": "->", "color": "c", "lw": 1.2}
        start, end = (roi.x - dx, roi.y - dy), (roi.x + dx, roi.y + dy)
        grid[2].annotate("", end, start, arrowprops=arrow)
    return figure


def invariance(table: pd.DataFrame) -> plt.Figure:
    """Draw the correlation of a processed image with its rotated copy, against the angle.

    ``table`` is that of ``studies.invariance.correlations``, with a column population: a panel
    each. Lines are medians over the images, bands hold the central 90 %; n is the number of images.
    How to read it: a processing that undoes a rotation stays close to one (not at one: noise does
    not survive resampling); one that does not, falls, and comes back where the lens is nearly
    symmetric. Images without a direction are among those drawn; leave them out to see the others
    alone.
    """
    rotations = table[table["perturbation"] == "rotation"]
    populations = list(dict.fromkeys(rotations["population"]))
    if not populations:
        return nothing("no image whose light has a direction")
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
        axes.set(xticks=np.arange(0, 361, 90), xlim=(0, 355), ylim=(-0.5, 1.03))
    figure.supxlabel("rotation of the raw image (deg)", fontsize=9)
    figure.supylabel("correlation with the unrotated", fontsize=9)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


class RealLens(NamedTuple):
    """An image from the sky (H, W), what was found in it, and its crop (size, size)."""

    name: str
    image: np.ndarray
    roi: Any
    window: Any
    crop: np.ndarray


def real_lenses(examples: Sequence[RealLens]) -> plt.Figure:
    """Draw real lenses: the region of interest and the square cut around it, and the crop below.

    Above, each image from its sky to its peak on an arcsinh scale; white: the outline of the
    region; cyan: the square that is cut, its arrow along the major axis to the longer tail (no
    arrow: the region is round, and is not turned). Below, the crop: turned, mirrored, resized so
    that the region fills it. A neighbour must lie outside the white line.
    """
    if not examples:
        return nothing("no real images")
    columns = 5
    rows = -(-len(examples) // columns)
    size = (WIDTH, rows * 2.62)
    figure, grid = plt.subplots(2 * rows, columns, figsize=size, layout="constrained")
    for axes in grid.flat:
        axes.axis("off")
    for k, example in enumerate(examples):
        above, below = (grid[2 * (k // columns) + i, k % columns] for i in (0, 1))
        for axes, image in ((above, example.image), (below, example.crop)):
            low, high = np.nanquantile(image, [0.02, 0.999])
            axes.imshow(image, vmin=low, vmax=high, cmap="gray")
        above.set_title(example.name, fontsize=6, pad=2)
        for contour in example.roi.contours:
            closed = np.vstack([contour, contour[:1]])
            above.plot(closed[:, 0], closed[:, 1], "w", lw=0.8)
        frame = example.window
        cos, sin = np.cos(np.radians(frame.angle)), np.sin(np.radians(frame.angle))
        along, across = (
            np.array([cos, sin]) * frame.side / 2,
            np.array([-sin, cos]) * frame.side / 2,
        )
        corners = [along + across, along - across, -along - across, across - along, along + across]
        square = np.array(corners) + (frame.x, frame.y)
        above.plot(square[:, 0], square[:, 1], "c", lw=0.7)
        if example.roi.oriented:
            arrow = {"arrowstyle": "->", "color": "c", "lw": 0.8}
            start = np.array([frame.x, frame.y])
            above.annotate("", start + along, start, arrowprops=arrow)
        height, width = example.image.shape
        above.set(xlim=(-0.5, width - 0.5), ylim=(-0.5, height - 0.5))
    return figure


def unrolled_rings(rings: Mapping[str, tuple[np.ndarray, Any, Any]], first: int) -> plt.Figure:
    """Draw how the light of a ring is laid straight, and what a model smooth in azimuth leaves.

    ``rings`` has by label the image (H, W) in units of the noise, its circle and its ring
    (``features.Measured``); ``first`` is the lowest order that is left. One
    lens a row: (a) the image with the fitted circle and the annulus; (b) the annulus unrolled,
    azimuth to the right; (c) what the orders from ``first`` on hold, in units of the noise;
    (d) the power by azimuthal order: the dashed line is noise alone, the grey part is what a
    smooth lens may have.
    """
    if not rings:  # light that lies on no circle: other people's images may have nothing else
        return nothing("no image whose light lies on a circle")
    shape = (len(rings), 4)
    figure, grid = plt.subplots(
        *shape, figsize=(WIDTH, 1.55 * len(rings) + 0.3), squeeze=False, layout="constrained",
        gridspec_kw={"width_ratios": [1, 1.35, 1.35, 1.25]},
    )  # fmt: skip
    titles = ("circle", "unrolled", "fine orders", "power / noise")
    for axes, letter, title in zip(grid[0], "abcd", titles, strict=True):
        axes.set_title(f"({letter}) {title}", loc="left", fontsize=8)
    for row, (label, (image, circle, ring)) in zip(grid, rings.items(), strict=True):
        row[0].imshow(np.arcsinh(image / 2))
        azimuth = np.linspace(0, 2 * np.pi, 200)
        for radius, style in ((circle.radius, "-"), (ring.radii[0], ":"), (ring.radii[-1], ":")):
            x, y = (circle[i] + radius * f(azimuth) for i, f in enumerate((np.cos, np.sin)))
            row[0].plot(x, y, f"c{style}", lw=0.8)
        half = 1.25 * ring.radii[-1]
        row[0].set(xlim=(circle.x - half, circle.x + half), ylim=(circle.y - half, circle.y + half))
        row[0].set(xticks=[], yticks=[])
        row[0].set_ylabel(label, fontsize=8)
        extent = (0, 360, ring.radii[0] - 0.5, ring.radii[-1] + 0.5)
        limit = max(3.0, float(np.abs(ring.rest).max()))
        colours = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
        shown = {"extent": extent, "aspect": "auto"}
        row[1].imshow(np.arcsinh(ring.polar.T / 2), **shown)
        residual = row[2].imshow(ring.rest.T, **shown, **colours)
        figure.colorbar(residual, ax=row[2], aspect=12, pad=0.02).ax.tick_params(labelsize=6)
        for axes in row[1:3]:
            axes.set(xticks=range(0, 361, 120))
            axes.yaxis.set_major_locator(plt.MaxNLocator(4, integer=True))
            axes.set_ylabel("radius (px)", fontsize=7)
        orders = np.arange(1, ring.power.size)
        row[3].axvspan(0.8, first - 0.5, color="0.92", lw=0)
        row[3].loglog(orders, ring.power[1:], "o-", ms=2.5, lw=1, color=BLUE)
        row[3].axhline(1, color="0.4", lw=0.8, ls="--")
        row[3].set(xticks=[1, 2, 5, 10, 20], xticklabels=[1, 2, 5, 10, 20], xlim=(0.8, 28))
        row[3].minorticks_off()
        for axes in row[1:]:
            axes.tick_params(labelsize=6, length=2)
    for axes in grid[-1][1:3]:
        axes.set_xlabel("azimuth (deg)", fontsize=7)
    grid[-1][3].set_xlabel("azimuthal order", fontsize=7)
    return figure
