"""The search for perturbers in one lens (notebook 06)."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from studies.plots.slacs import CURVE, RESIDUAL
from studies.plots.style import BLUE, VERMILION, WIDTH
from vitdm.lens import Search
from vitdm.lens.free_form import mass

ZOOM = 1.75  # half width of the panels, in Einstein radii
LEAST = 5.0  # S/N: the end of its scale, at least
SURE = 5.0  # S/N of the masses of the sensitivity map
WORST = 30.0  # end of their scale, over the best


def searched_lens(search: Search, truth: tuple[float, float] | None = None) -> plt.Figure:
    """Draw where a perturber of the lens would be, how massive it could hide, and smooth twins.

    ``truth`` ["] is where one is, if that is known (plus). (a) The residual of the smooth lens, in
    units of the noise; pale: not fitted. (b) S/N of a perturber at each place, with source, light,
    smooth mass and PSF marginalised, the critical curve, and the highest peak (ring). (c) The mass
    that would have S/N 5. (d) The score of this lens and those of its smooth twins.
    """
    figure, grid = plt.subplots(2, 2, figsize=(WIDTH, 5.6), layout="constrained")
    (a, b), (c, d) = grid
    detected = search.maps[search.settings.detect]
    _residual(a, search)
    _snr(b, search, detected.snr)
    _masses(c, search)
    for axes in (a, b, c):
        _marks(axes, search, detected.snr, truth)
    _scores(d, search)
    titles = ("residual", "S/N of a perturber", f"mass with S/N {SURE:g}", "smooth twins")
    for axes, letter, title in zip(grid.flat, "abcd", titles, strict=True):
        axes.set_title(f"({letter}) {title}", loc="left", fontsize=8)
    return figure


# ---------------------------------------------------------------------------------------- panels


def _show(
    axes: plt.Axes, search: Search, image: NDArray, norm: Normalize, colours: str, label: str
) -> None:
    """Show a map, or an image of the whole lens, with its scale."""
    half = [search.settings.spacing * n / 2 for n in image.shape]
    if image.shape == search.model.noise.shape:
        half = [search.model.observation.pixel_scale * n / 2 for n in image.shape]
    extent = [-half[1], half[1], -half[0], half[0]]
    colours = plt.get_cmap(colours).with_extremes(bad="0.88")
    shown = axes.imshow(image, norm=norm, cmap=colours, extent=extent)
    reach = ZOOM * float(search.model.values[0])
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), facecolor="0.88")
    axes.tick_params(labelsize=7)
    bar = axes.figure.colorbar(shown, ax=axes, shrink=0.85, pad=0.02)
    if isinstance(norm, LogNorm):
        bar.set_ticks(LogLocator(subs=(1, 3)))
        bar.minorticks_off()
    bar.set_label(label, fontsize=7.5)
    bar.ax.tick_params(labelsize=7)


def _residual(axes: plt.Axes, search: Search) -> None:
    model = search.model
    residual = np.where(model.observation.mask, np.nan, model.residual)
    _show(axes, search, residual, Normalize(-RESIDUAL, RESIDUAL), "RdBu_r", r"$\sigma$")
    pale = np.ma.masked_array(np.ones(model.fitted.shape), model.fitted)
    axes.imshow(pale, cmap="Greys", vmin=0, vmax=4, alpha=0.75, extent=axes.images[0].get_extent())
    axes.set_ylabel("arcsec", fontsize=8)


def _snr(axes: plt.Axes, search: Search, snr: NDArray) -> None:
    end = max(LEAST, float(np.nanmax(np.abs(snr))))
    _show(axes, search, search.image(snr), Normalize(-end, end), "RdBu_r", "S/N")


def _masses(axes: plt.Axes, search: Search) -> None:
    masses = search.sensitivity(search.settings.detect, SURE)
    lowest = float(np.nanmin(masses))
    known = math.isfinite(search.solar_masses)
    label = r"$M_\odot$" if known else "arcsec²"
    norm = LogNorm(lowest, WORST * lowest)
    _show(axes, search, search.image(masses), norm, "viridis_r", label)
    axes.set(xlabel="arcsec", ylabel="arcsec")


def _marks(axes: plt.Axes, search: Search, snr: NDArray, truth: tuple[float, float] | None) -> None:
    """Draw the critical curve, the highest peak, and where the perturber is."""
    for curve in mass.critical_curves(search.model.values, 3 * search.model.values[0]):
        axes.plot(*curve.T, color=CURVE, lw=0.8)
    k = int(np.nanargmax(snr))
    axes.plot(search.x[k], search.y[k], "o", mfc="none", mec="black", ms=9, mew=1)
    if truth:
        axes.plot(*truth, "+", color="black", ms=9, mew=1)


def _scores(axes: plt.Axes, search: Search) -> None:
    """Draw the scores of the twins, and that of the lens."""
    last = 1.1 * max([search.score, *search.twin_scores])
    axes.hist(search.twin_scores, np.linspace(0, last, 30), color=BLUE, alpha=0.6)
    axes.axvline(search.score, color=VERMILION, lw=1.5)
    axes.set(xlabel="score", ylabel="twins", xlim=(0, last), box_aspect=1)
    words = f"this lens: {search.score:.1f}\np = {search.p_value:.2g}"
    left = search.score > 0.6 * last
    style = {"ha": "right" if left else "left", "va": "top", "fontsize": 8, "color": VERMILION}
    axes.annotate(
        words,
        (search.score, 0.97),
        (-4 if left else 4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        **style,
    )
