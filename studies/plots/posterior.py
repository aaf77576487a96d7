"""Posteriors of the mass fraction in subhalos, and whether they hold (notebook 03)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from studies.plots.style import BLUE, GREEN, VERMILION, WIDTH

COLOURS = (BLUE, VERMILION, GREEN, "0.3")
RUNNING = 15  # lenses of a mean, at least


def posterior(lenses: pd.DataFrame, groups: pd.DataFrame) -> plt.Figure:
    """Draw posterior means against truths, calibration, and what many lenses tell together.

    ``lenses`` and ``groups`` are those of ``studies.posterior.merge``; a row of panels for each
    population and network. Left: posterior mean of log10 f_sub against the truth, of single lenses
    (dots) and of the largest groups (with 68 % of the posterior); the line is the truth. Middle:
    share of the lenses whose truth has at most a credibility (TARP), or rank, less that
    credibility: 0 if posteriors hold, with the 95 % band of the Kolmogorov-Smirnov test. Right:
    posterior standard deviation against the truth, by the number of lenses.
    """
    keys = list(dict.fromkeys(zip(lenses["population"], lenses["row"], strict=True)))
    figure, grid = plt.subplots(
        len(keys), 3, figsize=(WIDTH, 2.2 * len(keys)), squeeze=False, layout="constrained"
    )
    for (left, middle, right), (population, row) in zip(grid, keys, strict=True):
        own, many = (
            table[(table["population"] == population) & (table["row"] == row)]
            for table in (lenses, groups)
        )
        _means(left, own, many)
        _calibration(middle, own)
        _widths(right, many)
        left.set_title(f"{population}: {own['label'].iloc[0]}", loc="left", fontsize="small")
    return figure


def _means(axes: plt.Axes, lenses: pd.DataFrame, groups: pd.DataFrame) -> None:
    axes.plot(lenses["log_f_sub"], lenses["log_f_sub_mean"], ".", ms=2, color="0.7")
    largest = groups[groups["n_lenses"] == groups["n_lenses"].max()]
    axes.errorbar(
        largest["log_f_sub"], largest["log_f_sub_mean"], yerr=largest["log_f_sub_sd"],
        fmt="o", ms=3, lw=1, color=VERMILION, label=f"{largest['n_lenses'].iloc[0]} lenses",
    )  # fmt: skip
    ends = lenses["log_f_sub"].min(), lenses["log_f_sub"].max()
    axes.plot(ends, ends, lw=0.8, color="k")
    axes.set(xlabel=r"true $\log_{10} f_\mathrm{sub}$", ylabel="posterior mean")
    axes.legend(fontsize="small", frameon=False)


def _calibration(axes: plt.Axes, lenses: pd.DataFrame) -> None:
    names = {"log_f_sub_rank": r"rank, $f_\mathrm{sub}$", "log_mass_rank": "rank, heaviest"}
    level = (np.arange(len(lenses)) + 1) / len(lenses)
    for colour, (column, label) in zip(COLOURS, (names | {"tarp": "TARP"}).items(), strict=False):
        share = np.sort(lenses[column])
        axes.plot(share, level - share, lw=1, color=colour, label=label)
    band = 1.358 / np.sqrt(len(lenses))  # Kolmogorov's 95 %
    axes.axhspan(-band, band, color="0.92", zorder=0)
    axes.axhline(0, lw=0.8, color="k")
    axes.set(xlim=(0, 1), xlabel="credibility", ylabel="share of lenses − credibility")
    axes.legend(fontsize="small", frameon=False)


def _widths(axes: plt.Axes, groups: pd.DataFrame) -> None:
    for colour, (size, part) in zip(COLOURS, groups.groupby("n_lenses"), strict=False):
        part = part.sort_values("log_f_sub")
        k = max(1, min(RUNNING, len(part) // 10))
        means = part[["log_f_sub", "log_f_sub_sd"]].rolling(k).mean().dropna()
        label = f"{size} lens" + "es" * (size > 1)
        axes.plot(means["log_f_sub"], means["log_f_sub_sd"], lw=1, color=colour, label=label)
    axes.set(yscale="log", xlabel=r"true $\log_{10} f_\mathrm{sub}$", ylabel="posterior s.d. (dex)")
    axes.legend(fontsize="small", frameon=False)
