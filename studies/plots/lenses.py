"""Simulated lenses beside real ones of the set that they imitate (benchmarks/lenses_match.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm

from studies.plots.style import WIDTH, label_of
from vitdm.simulation.classes import NO_SUB, SUB

COLOUR = {"real": "#000000", "simulated": "#D55E00"}


@dataclass(frozen=True)
class Sample:
    """Images (n, H, W) in grey levels, their classes, and what was measured on each.

    ``statistics`` has a row an image, with ``ring_radius`` [px] among its columns; ``residuals``
    are the pixels of each image less their smooth surroundings, in grey levels.
    """

    name: str
    images: np.ndarray
    kinds: Sequence[str]
    statistics: pd.DataFrame
    residuals: Sequence[np.ndarray]


def lenses_match(real: Sample, simulated: Sample, pixel_scale: float, shown: int = 4) -> plt.Figure:
    """Draw real and simulated lenses side by side, and four of their statistics.

    Above: ``shown`` images of each sample and class on one grey scale, by the square root of the
    brightness, a bar of one arcsecond (``pixel_scale`` ["/px]). Below: (a) fraction of the pixels
    at each grey level, (b) brightness against the distance from the centre, mean over all angles,
    (c) pixels less their 3×3 median, (d) mean radius of the arcs' light. Lines are means over the
    images, bands hold the central 68 % of them. How to read it: where the bands lie on each other,
    the simulation cannot be told from the real thing by that statistic.
    """
    figure = plt.figure(figsize=(WIDTH, 0.58 * WIDTH), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.1, 1])
    _thumbnails(above, real, simulated, pixel_scale, shown)
    panels = below.subplots(1, 4)
    for sample in (real, simulated):
        _brightness(panels[0], sample)
        _profile(panels[1], sample)
        _noise(panels[2], sample)
        _ring(panels[3], sample)
    panels[0].set(xlabel="grey level", ylabel="pixels per level", xscale="log", yscale="log")
    panels[1].set(xlabel="radius [px]", ylabel="mean grey level", yscale="log", ylim=(0.5, 3000))
    panels[2].set(xlabel="pixel − median", ylabel="density", yscale="log", ylim=(1e-4, 2))
    panels[3].set(xlabel="radius of arcs [px]", ylabel="density")
    for axes, letter in zip(panels, "abcd", strict=True):
        axes.set_title(f"({letter})", loc="left", fontsize=8)
    panels[1].legend(loc="upper right", fontsize=7, handlelength=1.5, borderaxespad=0)
    return figure


def _thumbnails(figure, real: Sample, simulated: Sample, pixel_scale: float, shown: int) -> None:
    kinds = (NO_SUB, SUB)
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    grid = figure.subplots(2, 2 * shown)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for sample, columns in ((real, grid[:, :shown]), (simulated, grid[:, shown:])):
        columns[0, 0].set_title(sample.name, loc="left", color=COLOUR[sample.name])
        for kind, row in zip(kinds, columns, strict=True):
            chosen = [i for i, k in zip(sample.images, sample.kinds, strict=True) if k == kind]
            for axes, image in zip(row, chosen, strict=False):
                norm = PowerNorm(0.5, 0, 255)
                axes.imshow(image, cmap="gray", norm=norm, origin="upper")
    for kind, row in zip(kinds, grid, strict=True):
        row[0].set_ylabel(label_of(kind).replace(" ", "\n"), fontsize=8)
    height = real.images.shape[1]
    grid[0, 0].plot([8, 8 + 1 / pixel_scale], [0.93 * height] * 2, "w", lw=2)
    grid[0, 0].text(8, 0.9 * height, '1"', color="w", va="bottom", fontsize=7)


def _band(axes: plt.Axes, x: np.ndarray, each: np.ndarray, name: str) -> None:
    """Draw the mean of curves (n, len(x)) and the band that holds the central 68 % of them."""
    low, high = np.quantile(each, (0.16, 0.84), axis=0)
    low = np.clip(low, 1e-9, None)  # a logarithmic axis has no room for 0
    axes.fill_between(x, low, high, color=COLOUR[name], alpha=0.2, lw=0)
    axes.plot(
        x,
        each.mean(axis=0),
        color=COLOUR[name],
        lw=1,
        ls="-" if name == "real" else "--",
        label=name,
    )


def _brightness(axes: plt.Axes, sample: Sample) -> None:
    edges = np.r_[-0.5, 0.5, 1.5, 2.5, 3.5, np.geomspace(5, 256, 12).round() - 0.5]
    widths = np.diff(edges)
    each = np.array([np.histogram(i, edges)[0] / i.size / widths for i in sample.images])
    x = np.clip((edges[1:] + edges[:-1]) / 2, 0.5, None)  # 0 stands at 0.5 on the logarithmic axis
    _band(axes, x, each, sample.name)
    axes.set_ylim(1e-6, 2)


def _profile(axes: plt.Axes, sample: Sample) -> None:
    y, x = np.indices(sample.images.shape[1:])
    middle = (np.array(sample.images.shape[1:]) - 1) / 2
    ring = np.hypot(x - middle[1], y - middle[0]).astype(int).ravel()
    counts = np.bincount(ring)
    each = np.array([np.bincount(ring, i.ravel()) / counts for i in sample.images])
    _band(axes, np.arange(70) + 0.5, each[:, :70], sample.name)


def _noise(axes: plt.Axes, sample: Sample) -> None:
    edges = np.arange(-10.5, 11)
    each = np.array([np.histogram(r, edges)[0] / len(r) for r in sample.residuals])
    _band(axes, (edges[1:] + edges[:-1]) / 2, each, sample.name)


def _ring(axes: plt.Axes, sample: Sample) -> None:
    edges = np.arange(15, 41, 2.5)
    filled = {"histtype": "step", "lw": 1, "ls": "-" if sample.name == "real" else "--"}
    radii = sample.statistics["ring_radius"]
    axes.hist(radii, edges, density=True, color=COLOUR[sample.name], **filled)
