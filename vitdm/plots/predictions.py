"""What a model saw of each image, and what it answered: a page an image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, Normalize
from numpy.typing import NDArray

from vitdm import lens
from vitdm.errors import cut
from vitdm.lens.fit import FLAGS
from vitdm.lens.free_form.panels import (
    LINEAR,
    LONGEST_NAME,
    RESIDUAL,
    colour_bar,
    draw_image,
    page,
    scale_bar,
    wrapped,
    write_column,
)
from vitdm.lens.squares import Window
from vitdm.plots.pages import Page
from vitdm.preprocess.pipeline import window
from vitdm.simulation.classes import CLASSES, NO_SUB

if TYPE_CHECKING:
    from vitdm.predict import Answers, Seen

LEAST = 6.0  # S/N: the end of the scale of a map, at least
CUT, NOWHERE, OTHER = "#56B4E9", "0.88", "0.5"  # colours: the cut, no S/N, a class without one
BRIGHT = 3.0  # noise: what brightness is drawn up to, at least


def predictions(answers: Answers) -> Iterator[Page]:
    """Yield a page for each image of ``vitdm.predict.answer`` or ``ViTClassifier.answer``.

    The image as it was given, what the network saw, the fitted smooth lens, its residual and the
    S/N of a point mass by place, the probabilities, and in words flags, warnings and what was
    assumed. Panels of the fit are empty if the model needs none, or nothing was fitted.
    """
    table = answers.table.dropna(subset="class")
    for k, (_, row) in enumerate(table.iterrows()):
        yield _page(answers.seen, k, row)


def _page(seen: Seen, k: int, row: Any) -> Page:
    figure, panels, right = page()
    view = _View(seen, k)
    view.given(panels[0, 0])
    view.crop(panels[0, 1])
    _bars(panels[1, 2], row)
    of_fit = [panels[0, 2], panels[1, 0], panels[1, 1]]
    if seen.fits is None or not np.isfinite(seen.fits.values[k]).all():
        for axes in of_fit:
            axes.set_axis_off()
        why = "This model needs no fit." if seen.fits is None else "Nothing was fitted."
        of_fit[-1].text(0.5, 0.5, why, ha="center", transform=of_fit[-1].transAxes)
    else:
        view.fitted(*of_fit)
    name = seen.observations[k].name
    lines = _lines(seen, k, row)
    write_column(right, cut(Path(name).name, LONGEST_NAME), lines)
    return Page(figure, name, " ".join([_answer(row), row["warning"]]).strip())


class _View:
    """The panels of one image, all but the first of the square that was cut or fitted."""

    def __init__(self, seen: Seen, k: int) -> None:
        self.seen, self.k, self.image = seen, k, seen.observations[k]
        self.scale = self.image.pixel_scale or seen.settings.pixel_scale
        self.unit = self.image.unit or "unit of the image"
        region = seen.regions[k]
        self.sky, self.noise = region.sky, region.sigma
        if not self.noise:  # an image of one value
            self.noise = float(np.nanstd(self.image.data)) or 1.0

    def given(self, axes: Axes) -> None:
        """Show the image as it was given, and what of it the network saw."""
        height, width = self.image.shape
        extent = self._edges(width, height)
        self._show(axes, self.image.data - self.sky, f"Image as given [{self.unit}]", extent)
        cut = window(self.image.shape, self.seen.regions[self.k], self.seen.settings.preprocess)
        half, turn = cut.side / 2, math.radians(cut.angle)
        corners = half * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)])
        cos, sin = math.cos(turn), math.sin(turn)
        x, y = (corners @ np.array([[cos, sin], [-sin, cos]])).T
        x, y = x + cut.x - (width - 1) / 2, y + cut.y - (height - 1) / 2
        unit = self.scale or 1.0
        axes.plot(unit * x, unit * y, color=CUT, lw=1.0, ls="--")
        reach = max(np.abs(extent).max(), unit * max(np.abs(x).max(), np.abs(y).max()))
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        self._scale_bar(axes, 2 * reach)

    def crop(self, axes: Axes) -> None:
        """Show the processed image."""
        crop, stretch = self.seen.crops[self.k], self.seen.settings.preprocess.stretch
        side = len(crop)
        norm = Normalize(float(crop.min()), max(float(crop.max()), float(crop.min()) + 1.0))
        title = f"What the network saw [{stretch}]"
        colour_bar(axes, draw_image(axes, crop, title, norm, "inferno", (0, side, 0, side)))

    def fitted(self, model: Axes, residual: Axes, snr: Axes) -> None:
        """Show the fitted lens, its residual, and the S/N of a point mass."""
        seen, k = self.seen, self.k
        fits, settings = seen.fits.row(k), seen.settings.lensfit
        left = fits.residual[0]
        missing = Window(self.image.shape, len(left)).cut(np.isnan(self.image.data), True)
        edges = [edge * fits.cameras[0].pixel_scale for edge in self._half(*left.shape)]
        whole = lens.modelled(fits)[0][0]
        self._show(model, whole - np.nanmedian(whole), f"Smooth lens [{self.unit}]", edges)
        norm = Normalize(-RESIDUAL, RESIDUAL)
        left = np.where(missing, np.nan, left)
        shown = draw_image(residual, left, "Residual of the fit [noise]", norm, "RdBu_r", edges)
        colour_bar(residual, shown)
        (found,) = lens.point_snr([self.image], fits, settings)
        end = max(LEAST, float(np.nanmax(np.abs(found), initial=0.0)))
        norm, title = Normalize(-end, end), "S/N of a point mass"
        colour_bar(snr, draw_image(snr, found, title, norm, "RdBu_r", edges, NOWHERE))
        for axes in (residual, snr):
            self._scale_bar(axes, edges[1] - edges[0], "black", "white")

    def _show(self, axes: Axes, image: NDArray, title: str, edges: Any) -> None:
        """Show brightness above the sky on the scale of the image as it was given."""
        data = self.image.data - self.sky
        brightest = max(float(np.nanmax(data, initial=0.0)), BRIGHT * LINEAR * self.noise)
        norm = AsinhNorm(LINEAR * self.noise, -LINEAR * self.noise, brightest)
        colour_bar(axes, draw_image(axes, image, title, norm, "inferno", edges))

    def _half(self, height: int, width: int) -> list[float]:
        return [sign * side / 2 for side in (width, height) for sign in (-1, 1)]

    def _edges(self, width: int, height: int) -> list[float]:
        """Return the edges of an image about its middle, in arcsec if the scale is known."""
        return [edge * (self.scale or 1.0) for edge in self._half(height, width)]

    def _scale_bar(self, axes: Axes, side: float, *inks: str) -> None:
        if self.scale:
            scale_bar(axes, 1.0 if side > 2.4 else 0.1, *inks)


def _bars(axes: Axes, row: Any) -> None:
    """Show the probability of each class."""
    names = _classes(row)
    values = [row[f"p_{name}"] for name in names]
    colours = [CLASSES[name].colour if name in CLASSES else OTHER for name in names]
    axes.barh(range(len(names)), values, color=colours, height=0.6)
    for k, value in enumerate(values):
        inside = value > 0.7
        place, align, ink = (
            (value - 0.02, "right", "white") if inside else (value + 0.02, "left", "black")
        )
        axes.text(place, k, f"{value:.3f}", va="center", ha=align, fontsize=9, color=ink)
    labels = [_label(name) for name in names]
    axes.set_yticks([])
    for k, label in enumerate(labels):
        axes.text(0.0, k - 0.38, label, fontsize=8, va="bottom")
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.7), box_aspect=1)
    axes.set_title("Probability of each class", fontsize=9)
    axes.tick_params(labelsize=7, length=2, pad=1)
    axes.spines[["top", "right"]].set_visible(False)


def _classes(row: Any) -> list[str]:
    return [name[2:] for name in row.index if name.startswith("p_")]


def _label(name: Any) -> str:
    return CLASSES[name].label if name in CLASSES else str(name)


PARAMETERS = {"theta_E": "Einstein radius", "center_x": "centre, x", "center_y": "centre, y"}
NOTE = (
    "How to read this page: the dashed square is what the network saw. A good fit leaves noise; "
    "red and blue pairs along the arcs are light that something has moved. S/N: mass of a point "
    "over its error at each place, smooth parameters being free; red asks for mass there, and as "
    "deep blue is as wrong as high red is sure. Probabilities mean something only for images like "
    "those of the training."
)


def _answer(row: Any) -> str:
    names = _classes(row)
    answer = f"{_label(row['class'])}, p = {row['p_' + str(row['class'])]:.3f}."
    if NO_SUB in names and len(names) > 2:
        answer += f" Any substructure: {1 - row['p_' + NO_SUB]:.3f}."
    return answer


def _lines(seen: Seen, k: int, row: Any) -> list[str]:
    """Return the answer, warnings, the fit with its flags, what was assumed, how to read it."""
    lines = [*wrapped(_answer(row)), ""]
    warnings = [text for text in row["warning"].split("; ") if text]
    lines += ["Warnings:"] if warnings else ["No warnings."]
    lines += [line for text in warnings for line in wrapped(f"! {text}", hanging=True)]
    if np.isfinite(p := row["ood_pvalue"]):
        words = f"Of held-out images like those of the training, {p:.2%} are as unlike them."
        lines += wrapped(words)
    lines.append("")
    if seen.fits is not None:
        lines += [*_fit(seen, k), ""]
    if row["unknown"]:
        names = ", ".join(name.replace("_", " ") for name in row["unknown"].split())
        lines += [*wrapped(f"Estimated or assumed: {names}."), ""]
    return [*lines, *wrapped(NOTE)]


def _fit(seen: Seen, k: int) -> list[str]:
    """Return what the smooth fit has found."""
    fits = seen.fits.row(k)
    if not np.isfinite(fits.values).all():
        lines = ["Smooth fit: nothing was fitted."]
    else:
        lines = [f"Smooth fit: chi2 per degree of freedom {fits.chi2[0]:.3f}"]
        for name, words in PARAMETERS.items():
            value, error = (part[0, fits.names.index(name)] for part in (fits.values, fits.errors))
            known = f"± {error:.3f}" if np.isfinite(error) else "± ?"
            lines.append(f'  {words:16} {value:+.3f} {known}"')
    for flag in fits.flags[0].split():
        lines += wrapped(f"{flag}: {FLAGS[flag]}", hanging=True)
    return lines
