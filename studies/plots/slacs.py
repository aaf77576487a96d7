"""Real lenses fitted with a source of free form (notebooks 01 and 06)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from studies.plots.style import BLUE, VERMILION, WIDTH
from studies.slacs import AGREES, Maps
from vitdm.lens.free_form import mass

CURVE = "#56B4E9"  # Okabe and Ito's sky blue: seen on black and on orange
NAMED = 1.4  # factor between fitted and published radius, above which a lens is named
TICKS = 0.3, 0.5, 1, 1.5, 2, 3, 4  # arcsec
LINEAR = 3.0  # noise: up to there the scale of brightness is linear
RESIDUAL = 4.0  # noise: the end of the scale of residuals
ZOOM = 1.9  # half width of the panels, in Einstein radii
NAME = 0.62  # inches: what stands beside a row
COLUMNS = ("image", "without lens galaxy", "model of the arcs", "residual", "source")


def one_lens(maps: Maps) -> plt.Figure:
    """Draw one lens and its model, step by step.

    (a) The image without the sky; (b) the model of the lens galaxy; (c) their difference, which
    shows the arcs; (d) the model of the arcs, with the critical curve; (e) the residual of the
    whole model in units of the noise; pale: not fitted; (f) the source that the arcs are images of,
    with the caustic. Brightness is on a scale that is linear up to three times the noise and
    logarithmic above; that of (c) and (d) is the same.
    """
    figure, grid = plt.subplots(2, 3, figsize=(WIDTH, 4.6), layout="constrained")
    titles = ("image", "model of the lens galaxy", *COLUMNS[1:])
    (a, b, c), (d, e, f) = grid
    show_brightness(a, maps, maps.image, maps.light + maps.arcs)
    show_brightness(b, maps, maps.light, maps.light + maps.arcs)
    show_brightness(c, maps, maps.image - maps.light, maps.arcs)
    show_brightness(d, maps, maps.arcs, maps.arcs)
    _curves(d, mass.critical_curves(maps.mass, 3 * maps.mass[0]))
    shown = show_residual(e, maps)
    _source(f, maps)
    for axes, letter, title in zip(grid.flat, "abcdef", titles, strict=True):
        axes.set_title(f"({letter}) {title}", loc="left", fontsize=8)
    bar = figure.colorbar(shown, ax=grid[1], location="bottom", aspect=50, shrink=0.5, pad=0.02)
    bar.set_label(r"residual ($\sigma$)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def fitted_lenses(lenses: Mapping[str, Maps], table: pd.DataFrame) -> plt.Figure:
    """Draw real lenses, the model of each without its galaxy, the residual and the source.

    A row a lens, by its name; ``table`` is that of ``studies.slacs``. Columns: the image without
    the sky; the image without the model of the lens galaxy; the model of the arcs, on the same
    scale, with the critical curve; the residual of the whole model (pale: not fitted); the source,
    with the caustic. The bars are 1 arcsec long, or as written. A lens that is described to the
    noise leaves noise alone.
    """
    rows, panel = len(lenses), (WIDTH - NAME) / len(COLUMNS)
    size = WIDTH, rows * panel + 0.75
    figure, grid = plt.subplots(rows, 5, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    known = table.set_index("name")
    for line, (name, maps) in zip(grid, lenses.items(), strict=True):
        show_brightness(line[0], maps, maps.image, maps.light + maps.arcs)
        show_brightness(line[1], maps, maps.image - maps.light, maps.arcs)
        show_brightness(line[2], maps, maps.arcs, maps.arcs)
        _curves(line[2], mass.critical_curves(maps.mass, 3 * maps.mass[0]))
        shown = show_residual(line[3], maps)
        _source(line[4], maps)
        words = f"{name}\n$\\theta_\\mathrm{{E}}$ = {known['theta_E'][name]:.3f}″\n"
        words += rf"$\chi^2$ = {known['chi2'][name]:.2f}"
        line[0].set_ylabel(words, fontsize=7)
    for axes, title in zip(grid[0], COLUMNS, strict=True):
        axes.set_title(title, fontsize=7.5, pad=3)
    bar = figure.colorbar(shown, ax=grid, location="bottom", aspect=60, shrink=0.6, pad=0.01)
    bar.set_label(r"residual ($\sigma$)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def fitted_radii(table: pd.DataFrame) -> plt.Figure:
    """Draw fitted Einstein radii against published ones.

    ``table`` is that of ``studies.slacs``. Left, against the SIE radii of Bolton et al. (2008);
    right, against those of Cao et al. (2025). Filled: no flag; open: a flag; crosses: not
    converged. Vertical bars are errors of the fit, given the model. The band is where the two
    differ by at most 5 %; names stand where they differ by a factor above 1.4.
    """
    figure, grid = plt.subplots(1, 2, figsize=(WIDTH, 3.1), sharey=True, layout="constrained")
    sources = {"bolton": "Bolton et al. (2008)", "cao": "Cao et al. (2025)"}
    for axes, (source, words) in zip(grid, sources.items(), strict=True):
        _radii(axes, table, table[f"theta_E_{source}"].astype(float))
        axes.set_xlabel(rf"$\theta_\mathrm{{E}}$ of {words} (arcsec)")
    grid[0].set_ylabel(r"fitted $\theta_\mathrm{E}$ (arcsec)")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


# ---------------------------------------------------------------------------------------- panels


def view_of(maps: Maps) -> tuple[list[float], float]:
    """Return the edges ["] of the maps about the middle of the image, and a panel's half width."""
    half = maps.image.shape[0] / 2 * float(maps.pixel_scale)
    return [-half, half, -half, half], min(half, ZOOM * float(maps.mass[0]))


def _show(axes: plt.Axes, maps: Maps, image: NDArray, norm: Normalize, colours: str) -> plt.Artist:
    extent, half = view_of(maps)
    colours = plt.get_cmap(colours).with_extremes(bad="0.8")
    shown = axes.imshow(image.astype(float), norm=norm, cmap=colours, extent=extent)
    axes.set(xlim=(-half, half), ylim=(-half, half))
    bare(axes)
    return shown


def bare(axes: plt.Axes) -> None:
    """Take ticks and frame away."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def show_brightness(axes: plt.Axes, maps: Maps, image: NDArray, model: NDArray) -> None:
    """Show an image on a scale that ends at the brightest pixel of a model, with a bar of 1"."""
    highest = max(float(model[maps.fitted].max()), 2 * LINEAR)
    _show(axes, maps, image, AsinhNorm(LINEAR, -LINEAR, highest), "inferno")
    _bar(axes, 1.0)


def show_residual(axes: plt.Axes, maps: Maps) -> plt.Artist:
    """Show the residual in units of the noise: pale where it was not fitted."""
    residual = np.where(np.isnan(maps.image), np.nan, maps.residual)
    shown = _show(axes, maps, residual, Normalize(-RESIDUAL, RESIDUAL), "RdBu_r")
    pale = np.ma.masked_array(np.ones(maps.fitted.shape), maps.fitted)
    axes.imshow(pale, cmap="Greys", vmin=0, vmax=4, alpha=0.75, extent=view_of(maps)[0])
    return shown


def _source(axes: plt.Axes, maps: Maps) -> None:
    x, y = maps.source_center
    half, image = float(maps.source_half_width), maps.source.astype(float)
    edge = half * len(image) / (len(image) - 1)  # of the outer points' pixels
    norm = AsinhNorm(LINEAR, 0, max(float(image.max()), 2 * LINEAR))
    axes.imshow(image, norm=norm, extent=[x - edge, x + edge, y - edge, y + edge])
    _curves(axes, mass.caustics(maps.mass, 3 * maps.mass[0]))
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half))
    bare(axes)
    _bar(axes, 0.5 if half > 0.8 else 0.2)


def _curves(axes: plt.Axes, curves: list[NDArray]) -> None:
    for curve in curves:
        axes.plot(*curve.T, color=CURVE, lw=0.8)


def _bar(axes: plt.Axes, length: float) -> None:
    """Draw a bar of a length ["] in the lower left corner; all but one of 1" have it written."""
    (low, high), bottom = axes.get_xlim(), axes.get_ylim()[0]
    start, height = low + 0.06 * (high - low), bottom + 0.07 * (high - low)
    edge = [withStroke(linewidth=2.5, foreground="black")]
    axes.plot([start, start + length], [height] * 2, color="white", lw=1.3, path_effects=edge)
    label = "" if length == 1 else f"{length:g}″"
    place = start, height + 0.03 * (high - low)
    axes.text(*place, label, color="white", fontsize=6.5, va="bottom", path_effects=edge)


def _radii(axes: plt.Axes, table: pd.DataFrame, published: pd.Series) -> None:
    flagged, converged = table["flags"].fillna("") != "", table["converged"] == 1
    known = pd.concat([published, table["theta_E"]]).dropna()
    ends = np.array([0.9 * known.min(), 1.05 * known.max()])
    axes.fill_between(ends, (1 - AGREES) * ends, (1 + AGREES) * ends, color="0.88", label="5 %")
    axes.plot(ends, ends, color="0.6", lw=0.8)
    kinds = {
        "no flag": (converged & ~flagged, {"fmt": "o", "color": BLUE}),
        "flag": (converged & flagged, {"fmt": "o", "color": BLUE, "mfc": "white"}),
        "not converged": (~converged, {"fmt": "x", "color": VERMILION}),
    }
    for label, (rows, style) in kinds.items():
        values, errors = table["theta_E"][rows], table["theta_E_error"][rows]
        axes.errorbar(published[rows], values, errors, ms=4, lw=0.8, label=label, **style)
    far = table[np.abs(np.log(table["theta_E"] / published)) > np.log(NAMED)]
    for row in far.itertuples():
        place = published[row.Index], row.theta_E
        left = place[0] > ends[1] / 2  # names stay inside the panel
        axes.annotate(
            *(row.name, place, (-4 if left else 4, 2)),
            **{"textcoords": "offset points", "ha": "right" if left else "left", "fontsize": 6},
        )
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
    ticks = [tick for tick in TICKS if ends[0] < tick < ends[1]]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
