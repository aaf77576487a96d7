"""The search for dark subhalos in real lenses (notebook 06)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from studies import slacs_search
from studies.plots.slacs import bare, show_brightness, show_residual, view_of
from studies.plots.style import BLUE, GREEN, VERMILION, WIDTH
from studies.slacs import Maps

#: where a subhalo was found: Vegetti et al. (2010, doi:10.1111/j.1365-2966.2010.16865.x)
PUBLISHED = {"J0946+1006": (-0.651, 1.040)}
TURN = 0.35  # radian, between the numbers of two peaks
MASSES = (10**8.3, 10**10.7)  # solar masses at the ends of the colours
APART = 0.3  # of a row, between the two marks of a lens


def searched_lens(
    name: str, fit: Maps, found: slacs_search.Maps, table: pd.DataFrame, peaks: pd.DataFrame
) -> plt.Figure:
    """Draw one lens and the search for subhalos in it.

    (a) The image without the model of the lens galaxy; (b) the residual of the smooth model, in
    units of the noise; (c) the S/N of a clump at each place, with the highest peaks (1 to 3) and,
    as a cross, where a subhalo was published; (d) the mass that would have an S/N of 5; (e) the S/N
    that is left when the clump that gains most evidence is part of the model; (f) the scores of
    smooth twins of the lens, and its own.
    """
    figure, grid = plt.subplots(2, 3, figsize=(WIDTH, 4.5), layout="constrained")
    (a, b, c), (d, e, f) = grid
    show_brightness(a, fit, fit.image - fit.light, fit.arcs)
    _colours(b, show_residual(b, fit), r"residual ($\sigma$)")
    seen = np.abs(np.concatenate([found.snr, found.left]).astype(float))
    ends = 2 * np.ceil(np.nanmax(seen) / 2)  # of the colours
    shown = _map(c, fit, found, found.snr, Normalize(-ends, ends), "RdBu_r")
    _colours(c, shown, "S/N")
    _peaks(c, name, peaks[peaks["name"] == name])
    least = 10 ** found.sensitivity.astype(float)
    shown = _map(d, fit, found, least, LogNorm(*MASSES), "viridis_r")
    _colours(d, shown, r"mass of S/N 5 ($M_\odot$)")
    shown = _map(e, fit, found, found.left, Normalize(-ends, ends), "RdBu_r")
    _colours(e, shown, "S/N")
    _twins(f, found, table.set_index("name").loc[name])
    titles = ("data without lens light", "residual", "clump, S/N", "sensitivity")
    titles += ("with a clump, S/N left", "smooth twins")
    for axes, letter, title in zip(grid.flat, "abcdef", titles, strict=True):
        axes.set_title(f"({letter}) {title}", loc="left", fontsize=8)
    return figure


def searched_lenses(table: pd.DataFrame) -> plt.Figure:
    """Draw the scores of all lenses and their sensitivities.

    ``table`` is that of ``studies.slacs_search``, a row a lens, the highest score first. Left: the
    score, and as a bar the lowest one with a p-value of 0.005, from 200 smooth twins of the lens;
    filled: the fit is good. Right: the mass with S/N 5, the median of the ring and its best place.
    """
    masked = ~table["name"].str.endswith(slacs_search.UNMASKED)
    table = table[masked].sort_values("score").reset_index(drop=True)
    size = WIDTH, 1.4 + 0.135 * len(table)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=size, sharey=True, layout="constrained", width_ratios=(3, 2)
    )
    rows, fine = np.arange(len(table)), slacs_search.good(table)
    above = table["p_value"] <= slacs_search.FOUND
    left.plot(table["threshold"], rows, "|", color="0.35", ms=7, label="$p$ = 0.005 of twins")
    for some, colour, marker in ((above, VERMILION, "D"), (~above, BLUE, "o")):
        for kind, face in ((fine, colour), (~fine, "white")):
            mine = some & kind
            left.plot(table["score"][mine], rows[mine], marker, color=colour, mfc=face, ms=4.5)
        label = "above it" if some is above else "below it"
        left.plot([], [], marker, color=colour, ms=4.5, label=label)
    left.plot([], [], "o", color="0.3", mfc="white", ms=4.5, label="fit not good")
    right.hlines(rows, table["sensitivity_best"], table["sensitivity"], color="0.7", lw=1)
    right.plot(table["sensitivity"], rows, "o", color=GREEN, ms=3.5, label="median of the ring")
    right.plot(table["sensitivity_best"], rows, "|", color="black", ms=6, label="best place")
    right.set(xscale="log", xlabel=r"mass of S/N 5 ($M_\odot$)")
    left.set(xlabel="score", xlim=(0, None), ylim=(-1, len(table)))
    left.set_yticks(rows, table["name"], fontsize=6.5)
    for tick, name in zip(left.get_yticklabels(), table["name"], strict=True):
        tick.set_fontweight("bold" if name in PUBLISHED else "normal")
    left.grid(axis="y", color="0.93", lw=0.6)
    right.grid(axis="y", color="0.93", lw=0.6)
    for axes, columns in ((left, 2), (right, 1)):
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": columns}
        axes.legend(fontsize=7, handletextpad=0.4, **place)
    return figure


def found_injections(linear: pd.DataFrame, refitted: pd.DataFrame) -> plt.Figure:
    """Draw the share of clumps injected into real images that are found, by their mass.

    Both tables are of ``studies.slacs_search.completeness``. A clump is found if the p-value of the
    lens is at most 0.005 and the highest peak lies within 0.2 arcsec of it. Blue: each image was
    fitted again before it was searched; grey: it was searched about the fit without the clump;
    dotted: wherever the highest peak lies. Bars are standard errors from the scatter of lenses.
    """
    figure, axes = plt.subplots(figsize=(0.62 * WIDTH, 2.7), layout="constrained")
    style = {"capsize": 2, "ms": 5, "lw": 1.2}
    axes.errorbar(
        10 ** linear["log_mass"],
        linear["share"],
        linear["error"],
        **{"fmt": "s--", "color": "0.55", "mfc": "white", "label": "without a refit"} | style,
    )
    axes.errorbar(
        10 ** refitted["log_mass"],
        refitted["share"],
        refitted["error"],
        **{"fmt": "o-", "color": BLUE, "label": "refitted"} | style,
    )
    for table, colour in ((linear, "0.55"), (refitted, BLUE)):
        axes.plot(10 ** table["log_mass"], table["anywhere"], ":", color=colour, lw=1)
    axes.plot([], [], ":", color="0.3", lw=1, label="with a peak anywhere")
    axes.set(xscale="log", ylabel="completeness")
    axes.set_ylim(bottom=-0.01)
    axes.set_xlabel(r"mass of the injected clump ($M_\odot$)")
    axes.legend()
    return figure


# ---------------------------------------------------------------------------------------- panels


def _colours(axes: plt.Axes, shown: plt.Artist, label: str) -> None:
    place = axes.inset_axes((0.04, -0.1, 0.92, 0.04))
    bar = axes.figure.colorbar(shown, cax=place, orientation="horizontal")
    bar.set_label(label, fontsize=7, labelpad=1)
    place.tick_params(labelsize=6.5)


def _map(
    axes: plt.Axes,
    fit: Maps,
    found: slacs_search.Maps,
    image: NDArray,
    norm: Normalize,
    colours: str,
) -> plt.Artist:
    """Draw a map of a search over the outline of the arcs."""
    step = float(found.x[1] - found.x[0]) / 2
    extent = [found.x[0] - step, found.x[-1] + step, found.y[0] - step, found.y[-1] + step]
    cmap = plt.get_cmap(colours).with_extremes(bad="0.88")
    shown = axes.imshow(image.astype(float), norm=norm, cmap=cmap, extent=extent)
    edges, half = view_of(fit)
    level = 3.0  # noise
    if fit.arcs.max() > level:
        arcs = fit.arcs.astype(float)
        axes.contour(arcs, [level], colors="0.25", linewidths=0.6, extent=edges, origin="lower")
    axes.set(xlim=(-half, half), ylim=(-half, half))
    bare(axes)
    return shown


def _peaks(axes: plt.Axes, name: str, peaks: pd.DataFrame) -> None:
    """Number the peaks of a search outside of the ring, and mark what was published."""
    edge = [withStroke(linewidth=2, foreground="white")]
    half, last = 0.92 * axes.get_xlim()[1], -np.inf
    angle = np.arctan2(peaks["y"], peaks["x"])
    numbered = peaks.assign(number=range(1, len(peaks) + 1), angle=angle)
    for peak in numbered.sort_values("angle").itertuples():
        axes.plot(peak.x, peak.y, "o", mfc="none", mec="black", ms=8, mew=0.9, path_effects=edge)
        last = max(peak.angle, last + TURN)
        axes.annotate(
            str(peak.number),
            (peak.x, peak.y),
            (half * np.cos(last), half * np.sin(last)),
            fontsize=7.5,
            **{"ha": "center", "va": "center", "path_effects": edge},
            arrowprops={"arrowstyle": "-", "lw": 0.6, "shrinkA": 1, "shrinkB": 4},
        )
    if name in PUBLISHED:
        axes.plot(*PUBLISHED[name], "x", color="black", ms=6, mew=1.4, path_effects=edge)


def _twins(axes: plt.Axes, found: slacs_search.Maps, row: pd.Series) -> None:
    twins = found.twins.astype(float)
    counts, _, _ = axes.hist(twins, 20, color=BLUE, alpha=0.75, label="not refitted")
    if len(found.refitted):
        heights = np.full(len(found.refitted), -0.04)
        transform = axes.get_xaxis_transform()
        axes.plot(
            *(found.refitted, heights, "|"),
            **{"color": GREEN, "ms": 7, "mew": 1.2, "transform": transform, "clip_on": False},
            label="refitted",
        )
    axes.axvline(row["score"], color=VERMILION, lw=1.5, label="the lens")
    highest = max(row["score"], twins.max(), *found.refitted)
    axes.set(
        ylabel="twins", ylim=(0, 1.5 * counts.max()), xlim=(None, 1.06 * highest), box_aspect=1
    )
    axes.set_xlabel("score", labelpad=5)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6.5, handlelength=1.2, loc="upper left")
