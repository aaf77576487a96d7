"""One page that shows a free-form fit: data, model, residual, source, and the numbers."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitdm.errors import cut
from vitdm.lens.free_form import mass
from vitdm.lens.free_form.model import FLAGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vitdm.lens.free_form.galaxy import Galaxy
    from vitdm.lens.free_form.model import LensModel

PAGE = (11.7, 6.5)  # inches: as wide as A4
MARGIN = 1.15  # of the largest radius that is fitted, to the edge of the panels
RESIDUAL = 5.0  # noise: the end of the scale of residuals
LINEAR = 3.0  # noise: up to there the scale of brightness is linear
CURVE = "#56B4E9"  # Okabe and Ito's sky blue: seen on black and on orange
WIDTH, LINES = 58, 46  # characters and lines of the text column
LONGEST_NAME = 34
WORDS = {
    "theta_E": "Einstein radius",
    "e1": "mass ellipticity",
    "center_x": "mass centre",
    "gamma1": "external shear",
    "slope": "density slope",
    "a1_x": "multipole m = 1",
    "a3_x": "multipole m = 3",
    "a4_x": "multipole m = 4",
}
UNITS = {"arcsec": '"'}


def picture(model: LensModel, zoom: float | None = None) -> Figure:
    """Return a page with the data, the model and what it leaves, the source, and the numbers.

    ``zoom`` ["] is the half width of the panels; by default all fitted pixels are seen. Grey pixels
    are missing, hatched ones were not fitted. The curves are where the magnification diverges, on
    the model, and the caustics, on the source.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=PAGE, dpi=150)
    FigureCanvasAgg(figure)  # no window, whatever the backend of the caller
    left, right = figure.subfigures(1, 2, width_ratios=(1.0, 0.45))
    panels = left.subplots(2, 3)
    left.subplots_adjust(0.01, 0.06, 0.98, 0.95, wspace=0.08, hspace=0.2)
    size = _half_width(model) if zoom is None else zoom
    unit = model.observation.unit or "unit of the image"
    sky = float(model.galaxy.sky) if model.galaxy else 0.0
    data = model.observation.data - sky
    galaxy = model.lens_light - sky
    sigma = float(np.median(model.noise[model.fitted]))
    views = _Views(model, size)
    views.brightness(panels[0, 0], data, f"Data [{unit}]", sigma, galaxy + model.arcs)
    views.brightness(panels[0, 1], data - galaxy, "Data − lens light", sigma, model.arcs)
    views.brightness(panels[0, 2], model.arcs, "Model of the arcs", sigma, model.arcs)
    views.brightness(panels[1, 0], galaxy, "Model of the lens light", sigma, galaxy)
    views.residual(panels[1, 1], "Residual [noise]")
    _critical_curves(panels[0, 2], model, size)
    _source(panels[1, 2], model)
    _text(right, model)
    return figure


# ---------------------------------------------------------------------------------------- panels


class _Views:
    """Panels of the image plane, all of one size and place."""

    def __init__(self, model: LensModel, size: float) -> None:
        self.model, self.size = model, size
        height, width = model.observation.shape
        half = width / 2, height / 2
        scale = model.observation.pixel_scale
        self.extent = [s * h * scale for h in half for s in (-1, 1)]

    def brightness(
        self, axes: Axes, image: NDArray, title: str, sigma: float, model: NDArray
    ) -> None:
        """Show an image on a scale that is linear near 0 and logarithmic where it is bright."""
        from matplotlib.colors import AsinhNorm

        brightest = max(float(model[self.model.fitted].max()), 5 * sigma)
        norm = AsinhNorm(LINEAR * sigma, -LINEAR * sigma, brightest)
        self._show(axes, image, title, norm, "inferno")

    def residual(self, axes: Axes, title: str) -> None:
        from matplotlib.colors import Normalize

        image = np.where(self.model.observation.mask, np.nan, self.model.residual)
        self._show(axes, image, title, Normalize(-RESIDUAL, RESIDUAL), "RdBu_r")
        outside = np.where(self.model.fitted, 0.0, 1.0)
        style = {"levels": [0.5, 1.5], "extent": self.extent}
        hatched = axes.contourf(outside, colors="none", hatches=["////"], **style)
        hatched.set(hatch_linewidth=0.5, edgecolor="0.3", linewidth=0.5)

    def _show(self, axes: Axes, image: NDArray, title: str, norm: Any, colours: str) -> None:
        from matplotlib import colormaps

        shown = axes.imshow(
            image,
            norm=norm,
            cmap=colormaps[colours].with_extremes(bad="0.6"),
            origin="lower",
            extent=self.extent,
            interpolation="none",
        )
        axes.set(xlim=(-self.size, self.size), ylim=(-self.size, self.size), xticks=[], yticks=[])
        axes.set_title(title, fontsize=9)
        colours = ("black", "white") if colours == "RdBu_r" else ("white", "black")
        _scale_bar(axes, 1.0 if self.size > 1.2 else 0.5, *colours)
        _colour_bar(axes, shown)


def _half_width(model: LensModel) -> float:
    """Return half of the width ["] of a square about the middle with all fitted pixels."""
    height, width = model.observation.shape
    rows, columns = np.nonzero(model.fitted)
    reach = max(np.abs(rows - (height - 1) / 2).max(), np.abs(columns - (width - 1) / 2).max())
    most = max(height, width) / 2
    return min(MARGIN * reach, most) * model.observation.pixel_scale


def _colour_bar(axes: Axes, shown: Any) -> None:
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


def _scale_bar(axes: Axes, length: float, ink: str = "white", paper: str = "black") -> None:
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


def _critical_curves(axes: Axes, model: LensModel, size: float) -> None:
    curves = mass.critical_curves(model.values, 1.5 * size)
    for k, curve in enumerate(curves):
        axes.plot(*curve.T, color=CURVE, lw=1.0, label=None if k else "critical curve")
    if curves:
        _legend(axes)


def _source(axes: Axes, model: LensModel) -> None:
    """Show the source plane, the caustics on it."""
    from matplotlib.colors import Normalize

    image, offset = model.source.image()
    center_x, center_y = model.source.center
    step = (offset[1] - offset[0]) / 2
    edges = offset[0] - step, offset[-1] + step
    extent = [center_x + edge for edge in edges] + [center_y + edge for edge in edges]
    norm = Normalize(min(0.0, float(image.min())), max(float(image.max()), 1e-30))
    shown = axes.imshow(
        image, norm=norm, cmap="inferno", origin="lower", extent=extent, interpolation="none"
    )
    curves = mass.caustics(model.values, 4 * float(model.values[0]))
    for k, curve in enumerate(curves):
        axes.plot(*curve.T, color=CURVE, lw=1.0, label=None if k else "caustic")
    axes.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])
    unit = model.observation.unit or "unit of the image"
    axes.set_title(f"Source [{unit} / arcsec²]", fontsize=9)
    _scale_bar(axes, _round_length(2 * model.source.half_width))
    _colour_bar(axes, shown)
    if curves:
        _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(*(axes.get_legend_handles_labels()), loc="upper right", fontsize=7, framealpha=0.8)


def _round_length(side: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten below a third of a length."""
    power = 10.0 ** math.floor(math.log10(side / 3))
    return power * max(k for k in (1, 2, 5) if k * power <= side / 3)


# ------------------------------------------------------------------------------------------ text


NOTE = (
    "Lengths in arcsec from the middle of the image, x to the right, y upwards, angles from x "
    "towards y. Where north is, is not known here. Grey: missing. Hatched: not fitted."
)


def _text(figure: Any, model: LensModel) -> None:
    name = cut(Path(model.observation.name).name, LONGEST_NAME)
    figure.text(0.0, 0.95, name, fontsize=11, weight="bold")
    lines = _lines(model)
    size = 7.2 * min(1.0, LINES / len(lines))
    style = {"family": "monospace", "fontsize": size, "va": "top", "linespacing": 1.3}
    figure.text(0.0, 0.935, "\n".join(lines), **style)


def _lines(model: LensModel) -> list[str]:
    """Return what was fitted, the parameters with errors, chi^2, flags and neighbours."""
    lines = [line for sentence in _fitted(model) for line in _wrapped(sentence)]
    lines += ["", *_parameters(model), ""]
    lines += [
        f"chi2 per pixel: {model.chi2:.3f} ({model.n_pixels} pixels)",
        f"chi2 per pixel of the arcs: {model.chi2_arcs:.3f}",
        "",
        *_flags(model),
    ]
    if model.observation.unknown:
        names = ", ".join(name.replace("_", " ") for name in model.observation.unknown)
        lines += _wrapped(f"Estimated or assumed: {names}.")
    note = ["", *_wrapped(NOTE)]
    return [*lines, "", *_neighbours(model, LINES - len(lines) - len(note) - 1), *note]


def _fitted(model: LensModel) -> list[str]:
    free = dict(zip(model.names, np.isfinite(model.errors), strict=True))
    orders = [str(m) for m in (1, 3, 4) if free.get(f"a{m}_x")]
    multipoles = f", multipoles of order {', '.join(orders)}" if orders else ""
    return [
        f"Mass: elliptical power law, external shear{multipoles}.",
        "Source: free form, regularised; its smoothness follows from the data.",
        f"Lens light: {_lens_light(model.galaxy)}.",
    ]


def _lens_light(galaxy: Galaxy | None) -> str:
    if galaxy is None:
        return "none was fitted"
    return (
        "sum of elliptical Gaussians, and a constant sky; half-light radius "
        f'{galaxy.half_light_radius:.2f}", axis ratio {galaxy.axis_ratio:.2f}, major axis at '
        f"{galaxy.position_angle:.0f}°"
    )


def _parameters(model: LensModel) -> list[str]:
    """Return a line for each parameter: its words, once for its components, value and error."""
    lines = []
    for row in model.table().itertuples():
        free = np.isfinite(row.error)
        if not free and row.name[0] == "a":
            continue  # multipoles that are 0
        value, error = _rounded(row.value, row.error)
        unit = UNITS.get(row.unit, row.unit)
        number = f"{value} ± {error} {unit}" if free else f"{value} {unit} (fixed)"
        lines.append(f"{WORDS.get(row.name, ''):22}{row.name:9}{number}".rstrip())
        if row.name == "e2":
            lines.append(f"{'':22}{_axes(*_of(model, 'e1', 'e2'))}")
        if row.name == "gamma2":
            strength, angle = _polar(*_of(model, "gamma1", "gamma2"))
            lines.append(f"{'':22}strength {strength:.3f} at {angle:.0f}°")
    return lines


def _of(model: LensModel, *names: str) -> list[float]:
    return [float(model.values[model.names.index(name)]) for name in names]


def _polar(first: float, second: float) -> tuple[float, float]:
    """Return the length of an ellipticity or shear, and its direction in degrees from x."""
    return math.hypot(first, second), math.degrees(math.atan2(second, first) / 2)


def _axes(e1: float, e2: float) -> str:
    e, angle = _polar(e1, e2)
    return f"axis ratio {(1 - e) / (1 + e):.2f}, major axis at {angle:.0f}°"


def _rounded(value: float, error: float) -> tuple[str, str]:
    """Return both with the digits that leave two to the error, six decimals at most."""
    good = np.isfinite(error) and error > 0
    digits = min(max(1 - math.floor(math.log10(error)), 0), 6) if good else 4
    return f"{value:+.{digits}f}", f"{error:.{digits}f}"


def _flags(model: LensModel) -> list[str]:
    if not model.flags:
        return ["No flags."]
    lines = ["Flags:"]
    for flag in model.flags:
        lines += _wrapped(f"{flag}: {FLAGS[flag]}", hanging=True)
    return lines


def _neighbours(model: LensModel, room: int) -> list[str]:
    """Return a line for each neighbour and cosmic ray, the brightest first, ``room`` at most."""
    table = model.neighbours.sort_values("flux", ascending=False)
    if not len(table):
        return ["No neighbours were found."]
    lines = [f"{'Neighbours':16}{'x':>8}{'y':>8}{'flux':>10}"]
    for row in table.itertuples():
        masked = "  masked" if row.masked else ""
        kind = row.kind.replace("_", " ")
        lines.append(f"{kind:16}{row.x:+8.2f}{row.y:+8.2f}{row.flux:10.3g}{masked}")
    if len(lines) <= room:
        return lines
    listed = max(room - 2, 0)
    return [*lines[: 1 + listed], f"and {len(table) - listed} more (lens.json)"]


def _wrapped(text: str, hanging: bool = False) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  " if hanging else "")
