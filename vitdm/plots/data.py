"""What images and features look like (notebook 01)."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from vitdm.plots.style import COLOURS, NAMES, WIDTH


def noise_histogram(pixels: np.ndarray, sigma: float) -> plt.Figure:
    """Draw the distribution of sky pixels and the Gaussian of the measured noise.

    ``pixels`` (n,) are sky-subtracted, in units of the measured rms ``sigma`` (image units, in the
    legend). A spike at the left edge is noise that was clipped at zero: the Gaussian describes what
    is right of the sky, and continues to the left where the clipped half would be.
    """
    figure, axes = plt.subplots(figsize=(WIDTH / 1.6, 2.4), layout="tight")
    bins = np.arange(-4.1, 4.2, 0.2)
    axes.hist(pixels, bins, density=True, color="0.75", label="pixels outside the lensed area")
    x = np.linspace(-4, 4, 200)
    label = f"Gaussian, $\\sigma$ = {sigma:.3g}"
    axes.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=COLOURS["cdm"], label=label)
    axes.set(xlabel=r"(pixel $-$ sky) / $\sigma$", ylabel="density", yscale="log", ylim=(1e-3, 40))
    axes.legend(loc="upper right", fontsize=7)
    return figure


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


def rotation_test(table: pd.DataFrame) -> plt.Figure:
    """Draw how alike an image and its rotated copy are after processing, against the angle.

    ``table`` has the columns angle (deg), derotate (bool), correlation. Lines are medians over the
    images, bands hold the central 90 %. If the de-rotation works, its line stays at one.
    """
    figure, axes = plt.subplots(figsize=(WIDTH / 1.4, 2.7), layout="tight")
    styles = {True: ("de-rotated", COLOURS["no_sub"]), False: ("as it is", COLOURS["cdm"])}
    for derotate, (label, colour) in styles.items():
        groups = table[table["derotate"] == derotate].groupby("angle")["correlation"]
        low, middle, high = (groups.quantile(q) for q in (0.05, 0.5, 0.95))
        axes.fill_between(middle.index, low, high, color=colour, alpha=0.2, lw=0)
        axes.plot(middle.index, middle, "o-", color=colour, ms=3.5, label=label)
    axes.axhline(0, color="0.6", lw=0.8, ls=":")
    axes.set(xlabel="rotation of the raw image (deg)", ylabel="correlation with the unrotated")
    axes.set(xticks=range(0, 361, 60), xlim=(-5, 365), ylim=(min(-0.1, axes.get_ylim()[0]), 1.03))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def feature_distributions(values: pd.DataFrame, units: dict[str, str]) -> plt.Figure:
    """Draw the distribution of each feature, one line a class.

    ``values`` has a column class and one a feature; ``units`` names the features to draw, with
    their units. Each histogram has unit area over the images in which the feature exists; the axis
    leaves out the lowest 5 % (a long tail of merged regions) and the highest 0.5 %. Lines that
    coincide: the feature says nothing by itself.
    """
    columns, rows = 4, -(-len(units) // 4)
    figure, grid = plt.subplots(
        rows, columns, figsize=(WIDTH, 1.28 * rows), squeeze=False, layout="constrained"
    )
    classes = [name for name in COLOURS if name in set(values["class"])]
    for axes in grid.flat[len(units) :]:
        axes.axis("off")
    for axes, (feature, unit) in zip(grid.flat, units.items(), strict=False):
        known = values[feature].dropna()
        low, high = known.quantile([0.05, 0.995]) if len(known) else (0.0, 1.0)
        bins = np.linspace(low, high if high > low else low + 1, 31)
        if feature.startswith("n_"):
            bins = np.arange(np.floor(low) - 0.5, high + 1)
        for name in classes:
            chosen = known[values.loc[known.index, "class"] == name]
            weights = np.full(len(chosen), 1 / max(len(chosen), 1))
            axes.hist(chosen, bins, weights=weights, histtype="step", lw=1.1, color=COLOURS[name])
        axes.set(yticks=[])
        axes.tick_params(labelsize=7, pad=1.5, length=2.5)
        axes.set_title(feature + (f" ({unit})" if unit else ""), fontsize=7, pad=2)
        sns.despine(ax=axes, left=True)
    handles = [plt.Line2D([], [], color=COLOURS[name]) for name in classes]
    names = [NAMES[name] for name in classes]
    figure.legend(handles, names, loc="outside lower center", ncols=len(classes))
    return figure
