"""What a fitted smooth lens leaves, and its Einstein radius (notebook 01)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import LogLocator

from studies.plots.populations import Example
from studies.plots.style import VERMILION, WIDTH, classes_in, colour_of, label_of
from vitdm.simulation.classes import CLASSES


def residual_maps(lenses: Sequence[tuple[str, Example, np.ndarray]]) -> plt.Figure:
    """Draw lenses, what substructure changed in them, and what a fitted smooth lens leaves.

    ``lenses`` are a label, the lens, and the residual (size, size) of its fit in units of the
    noise. A column a lens: the image, arcsinh stretched; the change that its substructure makes,
    which only a simulator knows, with the clumps (circles, their area proportional to the mass, or
    the line of a vortex); the residual of the fit, which needs no truth. Both from -5 (blue) to 5
    (red) sigma. A smooth lens leaves noise. The fit takes away what another smooth lens would do as
    well, and leaves the rest: where the two maps agree, substructure is seen.
    """
    figure, grid = plt.subplots(
        3, len(lenses), figsize=(WIDTH, 3 * WIDTH / len(lenses) * 0.93 + 0.2), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for column, (label, lens, residual) in zip(grid.T, lenses, strict=True):
        edge = max(0, (len(residual) - len(lens.image)) // 2)  # of the fit's square, without data
        residual = residual[edge : len(residual) - edge, edge : len(residual) - edge]
        rim, size = (len(lens.image) - len(residual)) // 2, len(residual)
        middle = np.s_[rim : rim + size, rim : rim + size]
        change = np.zeros_like(residual) if lens.difference is None else lens.difference[middle]
        image = lens.image[middle]
        low, high = np.nanquantile(image, [0.3, 0.999])
        column[0].imshow(np.arcsinh((image - low) / (0.1 * (high - low))))
        for axes, shown in zip(column[1:], (change, residual), strict=True):
            drawn = axes.imshow(shown, cmap="RdBu_r", vmin=-5, vmax=5)
        x, y = lens.x - rim, lens.y - rim
        if CLASSES[lens.kind].line:
            column[1].plot(x, y, "k", lw=1)
        elif len(lens.masses):
            area = 60 * lens.masses / lens.masses.max()
            column[1].scatter(x, y, s=area, facecolors="none", edgecolors="k", lw=0.6)
        for axes in column:
            axes.set(xticks=[], yticks=[], xlim=(-0.5, size - 0.5), ylim=(-0.5, size - 0.5))
            sns.despine(ax=axes, left=True, bottom=True)
        column[0].set_title(label, fontsize=7.5, pad=3, color=colour_of(lens.kind))
    for axes, text in zip(grid[:, 0], ("image", "true change", "fit's residual"), strict=True):
        axes.set_ylabel(text, fontsize=8)
    bar = figure.colorbar(drawn, ax=grid[1:], aspect=30, pad=0.01)
    bar.set_label(r"in units of the noise, $\sigma$", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def einstein_radii(populations: Mapping[str, pd.DataFrame]) -> plt.Figure:
    """Draw the distribution of the fitted Einstein radius by class, a panel a population.

    The tables have the columns class and fit_theta_E (arcsec). Classes that stand apart: the
    Einstein radius alone gives them away, and no clump need be seen. Classes that lie on one
    another: it tells nothing.
    """
    figure, grid = plt.subplots(
        1, len(populations), figsize=(WIDTH, 2.3), layout="constrained", squeeze=False
    )
    for axes, (name, table) in zip(grid[0], populations.items(), strict=True):
        known = table.dropna(subset="fit_theta_E")
        low, high = known["fit_theta_E"].quantile([0.005, 0.995])
        bins = np.linspace(low, high, 36)
        for kind in classes_in(known["class"]):
            values = known["fit_theta_E"][known["class"] == kind]
            style = {
                "histtype": "step",
                "lw": 1.3,
                "color": colour_of(kind),
                "label": label_of(kind),
            }
            axes.hist(values, bins, weights=np.full(len(values), 1 / len(values)), **style)
        axes.set_title(name, fontsize=9)
        axes.set(xlabel=r"fitted $\theta_\mathrm{E}$ (arcsec)", yticks=[])
        sns.despine(ax=axes, left=True)
    grid[0][0].set_ylabel("fraction of a class")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def subhalo_distance(
    populations: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], threshold: float
) -> plt.Figure:
    """Draw where the residual peaks beside the most massive subhalo near the ring, by its mass.

    A column a population: the tables of ``distance_to_subhalo`` and ``found_by_mass`` of
    ``studies.subhalo_distance``. Above, the distance [arcsec] of each image against the mass of
    that subhalo, and the line at ``threshold`` [arcsec] within which it counts as found. Below, the
    fraction found by mass (points; horizontal bars are bins, vertical ones 95 % intervals) and by
    chance (grey steps).
    """
    figure, grid = plt.subplots(
        2, len(populations), figsize=(WIDTH, 4.2), layout="constrained", squeeze=False,
        sharex=True, sharey="row", gridspec_kw={"height_ratios": (1.4, 1)},
    )  # fmt: skip
    colour = VERMILION
    for column, (name, (each, binned)) in zip(grid.T, populations.items(), strict=True):
        above, below = column
        above.scatter(each["mass"] / 1e9, each["distance"], s=7, color=colour, alpha=0.6, lw=0)
        above.axhline(threshold, color="0.3", lw=0.8, ls="--")
        above.set(xscale="log", yscale="log", title=name)
        middle, rate = 10 ** ((binned["low"] + binned["high"]) / 2 - 9), binned["rate"]
        edges = [10 ** (binned[side] - 9) for side in ("low", "high")]
        below.errorbar(
            middle,
            rate,
            xerr=[middle - edges[0], edges[1] - middle],
            yerr=np.abs([rate - binned["rate_low"], binned["rate_high"] - rate]),
            fmt="o", ms=4, lw=1, color=colour, label="measured",
        )  # fmt: skip
        below.hlines(binned["chance"], *edges, color="0.5", lw=1.5, label="by chance")
        below.set(xlabel=r"most massive subhalo ($10^9\,M_\odot$)", ylim=(-0.03, 1.03))
    grid[0][0].set_ylabel("distance to the residual's\npeak (arcsec)")
    grid[1][0].set_ylabel(f"fraction within\n{threshold:g} arcsec")
    grid[1][0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (grid[1][0].xaxis, grid[0][0].yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    figure.legend(*grid[1][0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


class RealFit(NamedTuple):
    """A real image (size, size) and the smooth lens that was fitted to it.

    ``theta_E`` is in arcsec, ``chi2`` per degree of freedom, ``flags`` are those of the fit.
    ``model`` and ``arcs`` (size, size), in units of the image, are all of the fitted light and that
    of the source alone; ``residual`` is in units of the noise. Pixels of ``image`` that were not
    fitted are NaN.
    """

    name: str
    theta_E: float
    chi2: float
    flags: str
    image: np.ndarray
    model: np.ndarray
    arcs: np.ndarray
    residual: np.ndarray


def real_residuals(lenses: Sequence[RealFit]) -> plt.Figure:
    """Draw real lenses and what a smooth lens, its light included, makes of them.

    A column a lens: the image and the model, on one arcsinh scale; the image without the lens
    galaxy's light and the sky of the model, on the scale of the model's arcs; and the residual from
    -5 (blue) to 5 (red) sigma. Grey was not fitted. A lens that the model describes leaves noise.
    """
    figure, grid = plt.subplots(
        4, len(lenses), figsize=(WIDTH, 4 * WIDTH / len(lenses) * 0.88 + 0.6), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for column, lens in zip(grid.T, lenses, strict=True):
        low, high = np.nanquantile(lens.image, [0.01, 0.9995])
        for axes, shown in zip(column, (lens.image, lens.model), strict=False):
            bright = np.clip((shown - low) / (high - low), 0, 1)
            axes.imshow(np.arcsinh(50 * bright), vmin=0, vmax=np.arcsinh(50))
        peak = np.quantile(lens.arcs, 0.995)
        left = lens.image - (lens.model - lens.arcs)
        column[2].imshow(left, vmin=-0.2 * peak, vmax=1.2 * peak)
        residual = np.where(np.isnan(lens.image), np.nan, lens.residual)
        drawn = column[3].imshow(residual, cmap="RdBu_r", vmin=-5, vmax=5)
        for axes in column:
            axes.set(xticks=[], yticks=[], facecolor="0.6")
            sns.despine(ax=axes, left=True, bottom=True)
        flags = textwrap.fill(lens.flags.replace(" ", ", ").replace("_", " "), 26)
        title = rf"$\theta_\mathrm{{E}}$ = {lens.theta_E:.2f}″, $\chi^2$/dof = {lens.chi2:.1f}"
        column[0].set_title(f"{lens.name}\n{title}\n{flags}", fontsize=6, pad=3, va="bottom")
    labels = ("image", "model", "without lens light", "residual")
    for axes, text in zip(grid[:, 0], labels, strict=True):
        axes.set_ylabel(text, fontsize=8)
    bar = figure.colorbar(drawn, ax=grid[3:], aspect=12, pad=0.01)
    bar.set_label(r"residual ($\sigma$)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure
