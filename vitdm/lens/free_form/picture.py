"""One page that shows a free-form fit: data, model, residual, source, and the numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitdm.errors import cut
from vitdm.lens.free_form import mass
from vitdm.lens.free_form.model import FLAGS
from vitdm.lens.free_form.panels import (
    LINES,
    LONGEST_NAME,
    Views,
    colour_bar,
    draw_curves,
    page,
    scale_bar,
    wrapped,
    write_column,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vitdm.lens.free_form.galaxy import Galaxy
    from vitdm.lens.free_form.model import LensModel

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
    figure, panels, right = page()
    unit = model.observation.unit or "unit of the image"
    sky = float(model.galaxy.sky) if model.galaxy else 0.0
    data = model.observation.data - sky
    galaxy = model.lens_light - sky
    views = Views(model, zoom)
    views.brightness(panels[0, 0], data, f"Data [{unit}]", galaxy + model.arcs)
    views.brightness(panels[0, 1], data - galaxy, "Data − lens light", model.arcs)
    views.brightness(panels[0, 2], model.arcs, "Model of the arcs", model.arcs)
    views.brightness(panels[1, 0], galaxy, "Model of the lens light", galaxy)
    views.residual(panels[1, 1], "Residual [noise]")
    views.critical_curves(panels[0, 2])
    _source(panels[1, 2], model)
    _text(right, model)
    return figure


# ---------------------------------------------------------------------------------------- panels


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
    axes.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])
    unit = model.observation.unit or "unit of the image"
    axes.set_title(f"Source [{unit} / arcsec²]", fontsize=9)
    scale_bar(axes, _round_length(2 * model.source.half_width))
    colour_bar(axes, shown)
    draw_curves(axes, curves, "caustic")


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
    write_column(figure, name, _lines(model))


def _lines(model: LensModel) -> list[str]:
    """Return what was fitted, the parameters with errors, chi^2, flags and neighbours."""
    lines = [line for sentence in _fitted(model) for line in wrapped(sentence)]
    lines += ["", *_parameters(model), ""]
    lines += [
        f"chi2 per pixel: {model.chi2:.3f} ({model.n_pixels} pixels)",
        f"chi2 per pixel of the arcs: {model.chi2_arcs:.3f}",
        "",
        *_flags(model),
    ]
    if model.observation.unknown:
        names = ", ".join(name.replace("_", " ") for name in model.observation.unknown)
        lines += wrapped(f"Estimated or assumed: {names}.")
    note = ["", *wrapped(NOTE)]
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
        lines += wrapped(f"{flag}: {FLAGS[flag]}", hanging=True)
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
