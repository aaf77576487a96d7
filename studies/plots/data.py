"""What images and features look like (notebook 01)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from studies.plots.style import VERMILION, WIDTH, classes_in, colour_of, label_of


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
    axes.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=VERMILION, label=label)
    axes.set(xlabel=r"(pixel $-$ sky) / $\sigma$", ylabel="density", yscale="log", ylim=(1e-3, 40))
    axes.legend(loc="upper right", fontsize=7)
    return figure


def feature_distributions(values: pd.DataFrame, units: dict[str, str]) -> plt.Figure:
    """Draw the distribution of each feature, one line a class.

    ``values`` has a column class and one a feature; ``units`` names the features to draw, with
    their units. Each histogram has unit area over the images in which the feature exists; the axis
    leaves out the lowest 5 % (a long tail of merged regions) and the highest 0.5 %. Lines that
    coincide: the feature says nothing by itself.
    """
    columns = 5
    rows = -(-len(units) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(WIDTH, 1.12 * rows), squeeze=False, layout="constrained"
    )
    classes = classes_in(values["class"])
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
            axes.hist(chosen, bins, weights=weights, histtype="step", lw=1.1, color=colour_of(name))
        axes.set(yticks=[])
        axes.tick_params(labelsize=6, pad=1.5, length=2.5)
        axes.xaxis.set_major_locator(plt.MaxNLocator(3))
        axes.set_title(feature + (f" ({unit})" if unit else ""), fontsize=6.5, pad=2)
        sns.despine(ax=axes, left=True)
    handles = [plt.Line2D([], [], color=colour_of(name)) for name in classes]
    names = [label_of(name) for name in classes]
    figure.legend(handles, names, loc="outside lower center", ncols=len(classes))
    return figure
