"""Panels of the pages that show a lens: images, their scales and curves, a column of text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitdm.lens.free_form import mass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

    from vitdm.lens.free_form.model import LensModel

PAGE = (11.7, 6.5)  # inches: as wide as A4
MARGIN = 1.15  # of the largest radius that is fitted, to the edge of the panels
RESIDUAL = 5.0  # noise: the end of the scale of residuals
LINEAR = 3.0  # noise: up to there the scale of brightness is linear
CURVE = "#56B4E9"  # Okabe and Ito's sky blue: seen on black and on orange
WIDTH, LINES = 58, 46  # characters and lines of the text column
LONGEST_NAME = 34


def page() -> tuple[Figure, NDArray, SubFigure]:
    """Return a page, its 2 x 3 panels, and the column for text to the right of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=PAGE, dpi=150)
    FigureCanvasAgg(figure)  # no window, whatever the backend of the caller
    left, right = figure.subfigures(1, 2, width_ratios=(1.0, 0.45))
    panels = left.subplots(2, 3)
    left.subplots_adjust(0.01, 0.06, 0.98, 0.95, wspace=0.08, hspace=0.2)
    return figure, panels, right


class Views:
    """Panels of the image plane, all of one size and place."""

    def __init__(self, model: LensModel, size: float | None = None) -> None:
        self.model, self.size = model, _half_width(model) if size is None else size
        height, width = model.observation.shape
        half = width / 2, height / 2
        scale = model.observation.pixel_scale
        self.extent = [s * h * scale for h in half for s in (-1, 1)]
        self.sigma = float(np.median(model.noise[model.fitted]))

    def brightness(self, axes: Axes, image: NDArray, title: str, model: NDArray) -> None:
        """Show an image on a scale that is linear near 0 and logarithmic where it is bright."""
        from matplotlib.colors import AsinhNorm

        sigma = self.sigma
        brightest = max(float(model[self.model.fitted].max()), 5 * sigma)
        norm = AsinhNorm(LINEAR * sigma, -LINEAR * sigma, brightest)
        self.show(axes, image, title, norm, "inferno")

    def residual(self, axes: Axes, title: str) -> None:
        """Show the residual in units of the noise, hatched where it was not fitted."""
        from matplotlib.colors import Normalize

        image = np.where(self.model.observation.mask, np.nan, self.model.residual)
        self.show(axes, image, title, Normalize(-RESIDUAL, RESIDUAL), "RdBu_r")
        outside = np.where(self.model.fitted, 0.0, 1.0)
        style = {"levels": [0.5, 1.5], "extent": self.extent}
        hatched = axes.contourf(outside, colors="none", hatches=["////"], **style)
        hatched.set(hatch_linewidth=0.5, edgecolor="0.3", linewidth=0.5)

    def critical_curves(self, axes: Axes) -> None:
        """Draw where the magnification diverges, with a legend."""
        curves = mass.critical_curves(self.model.values, 1.5 * self.size)
        draw_curves(axes, curves, "critical curve")

    def show(
        self,
        axes: Axes,
        image: NDArray,
        title: str,
        norm: Normalize,
        colours: str,
        extent: Sequence[float] | None = None,
        missing: str = "0.6",
    ) -> None:
        """Show an image (of the whole sky of the lens, or of ``extent``) with bar and scale."""
        extent = self.extent if extent is None else extent
        shown = draw_image(axes, image, title, norm, colours, extent, missing)
        axes.set(xlim=(-self.size, self.size), ylim=(-self.size, self.size))
        inks = ("white", "black") if colours == "inferno" else ("black", "white")
        scale_bar(axes, 1.0 if self.size > 1.2 else 0.5, *inks)
        colour_bar(axes, shown)


def draw_image(
    axes: Axes,
    image: NDArray,
    title: str,
    norm: Normalize,
    colours: str,
    extent: Sequence[float],
    missing: str = "0.6",
) -> AxesImage:
    """Show an image (h, w) between its edges (left, right, bottom, top), without ticks."""
    from matplotlib import colormaps

    shown = axes.imshow(
        image,
        norm=norm,
        cmap=colormaps[colours].with_extremes(bad=missing),
        origin="lower",
        extent=extent,
        interpolation="none",
    )
    axes.set(xticks=[], yticks=[], facecolor=missing)
    axes.set_title(title, fontsize=9)
    return shown


def _half_width(model: LensModel) -> float:
    """Return half of the width ["] of a square about the middle with all fitted pixels."""
    height, width = model.observation.shape
    rows, columns = np.nonzero(model.fitted)
    reach = max(np.abs(rows - (height - 1) / 2).max(), np.abs(columns - (width - 1) / 2).max())
    most = max(height, width) / 2
    return min(MARGIN * reach, most) * model.observation.pixel_scale


def colour_bar(axes: Axes, shown: Any) -> None:
    """Draw the scale of what is shown below a panel."""
    from matplotlib.colors import AsinhNorm

    bar = axes.inset_axes((0.0, -0.045, 1.0, 0.03))
    axes.figure.colorbar(shown, cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=7, length=2, pad=1)
    if isinstance(shown.norm, AsinhNorm):
        ticks = _ticks(shown.norm)
        bar.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        bar.minorticks_off()


def _ticks(norm: Any) -> list[float]:
    """Return 0 and 1 or 3 times powers of ten that do not touch each other on a scale."""
    high = math.ceil(math.log10(norm.vmax))
    ticks = [0.0]
    for tick in (k * 10.0**power for power in range(high - 8, high + 1) for k in (1, 3)):
        if tick < norm.vmax and float(norm(tick)) - float(norm(ticks[-1])) > 0.13:
            ticks.append(tick)
    return ticks


def scale_bar(axes: Axes, length: float, ink: str = "white", paper: str = "black") -> None:
    """Draw a bar of a length ["] in the lower left corner."""
    from matplotlib.patheffects import withStroke

    low, high = axes.get_xlim()
    bottom, side = axes.get_ylim()[0], high - low
    start, height = low + 0.06 * side, bottom + 0.06 * side
    edge = [withStroke(linewidth=3, foreground=paper)]
    axes.plot([start, start + length], [height] * 2, color=ink, lw=1.6, path_effects=edge)
    label = f'{length:g}"'
    place = start + length / 2, height + 0.02 * side
    axes.text(*place, label, color=ink, ha="center", va="bottom", fontsize=8, path_effects=edge)


def draw_curves(axes: Axes, curves: Sequence[NDArray], label: str) -> None:
    """Draw curves (n, 2) ["] of one kind, and a legend."""
    for k, curve in enumerate(curves):
        axes.plot(*curve.T, color=CURVE, lw=1.0, label=None if k else label)
    if curves:
        legend(axes)


def legend(axes: Axes) -> None:
    axes.legend(*(axes.get_legend_handles_labels()), loc="upper right", fontsize=7, framealpha=0.8)


def write_column(column: SubFigure, title: str, lines: Sequence[str]) -> None:
    """Write the column of text beside the panels, smaller if there are many lines."""
    column.text(0.0, 0.95, title, fontsize=11, weight="bold")
    size = 7.2 * min(1.0, LINES / len(lines))
    style = {"family": "monospace", "fontsize": size, "va": "top", "linespacing": 1.3}
    column.text(0.0, 0.935, "\n".join(lines), **style)


def wrapped(text: str, hanging: bool = False) -> list[str]:
    """Return a text in lines as wide as the column, those after the first indented if wished."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="  " if hanging else "")
