"""Contact sheets: images of a data set with what is known of them; lenses as they were drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from vitdm.data.dataset import COLUMNS, Dataset
from vitdm.errors import cut
from vitdm.lens.free_form.panels import LINEAR, RESIDUAL, draw_image, scale_bar
from vitdm.plots.pages import Page
from vitdm.preprocess import estimate_background
from vitdm.simulation import NO_SUB, Population, draw, render, simulate_one, smooth, variance
from vitdm.simulation.classes import CLASSES
from vitdm.simulation.system import System

ACROSS, DOWN = 6, 4  # images of a page
SIDE, TEXT = 1.85, 0.52  # inches: of an image, and of the lines below it
LONGEST = 26  # characters of a line below an image
MARK, OTHER = "#56B4E9", "0.3"
LARGEST = 260.0  # square points: the circle of the heaviest subhalo
#: what of the truth is told of a lens, and how, as far as it is known
TOLD = {
    "theta_E": '$\\theta_E$ {:.2f}"',
    "n_subhalos": "{:.0f} subhalos",
    "substructure_mass": "{:.1e} $M_\\odot$",
    "vortex_length": '{:.2f}" long',
    "axion_mass": "{:.1e} eV",
}


def contact_sheet(data: Dataset, rows: ArrayLike) -> Iterator[Page]:
    """Yield pages of ``ACROSS`` x ``DOWN`` images of a data set, rows of its catalog.

    Below each are its class and split, its id and, of simulated lenses, the truth; a cross marks
    the heaviest subhalo, a line the vortex. Brightness is linear near the sky and logarithmic
    where it is bright; processed images are shown as the network sees them.
    """
    rows, each = np.asarray(rows), ACROSS * DOWN
    for start in range(0, len(rows), each):
        some = rows[start : start + each]
        figure, grid = _page(-(-len(some) // ACROSS))
        for axes, row in zip(grid.flat, some, strict=False):
            _known_image(axes, data, int(row))
        first, last = start + 1, start + len(some)
        words = f"images {first} to {last} of {len(rows)}"
        yield Page(figure, f"{data.folder.name}, {words}", words)


def _page(down: int, lines: float = TEXT) -> tuple[Figure, NDArray]:
    """Return a page and its panels, all empty."""
    width, height = ACROSS * SIDE + 0.2, down * (SIDE + lines) + 0.2
    figure = Figure(figsize=(width, height))  # with no window, whatever the backend
    grid = figure.subplots(down, ACROSS, squeeze=False)
    gaps = {"wspace": 0.06, "hspace": lines / SIDE + 0.02}
    figure.subplots_adjust(0.01, lines / height, 0.99, 1 - 0.1 / height, **gaps)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, grid


def _known_image(axes: Axes, data: Dataset, row: int) -> None:
    """Show an image of a data set, with what its catalog tells."""
    known = data.catalog.iloc[row].to_dict()
    image = np.asarray(data.images[row], np.float32)
    processed, scale = "roi_found" in known, data.pixel_scale
    _show(axes, image, scale, processed)
    if scale and not processed:
        _mark(axes, known)
    text = [known["split"], cut(known["id"], LONGEST), *_truth(known)]
    _caption(axes, known["class"], text)


def _show(axes: Axes, image: NDArray, scale: float | None, stretched: bool = False) -> None:
    """Show an image, in arcsec about its middle if the scale is known."""
    axes.set_axis_on()
    height, width = image.shape
    edges = [s * side / 2 * (scale or 1.0) for side in (width, height) for s in (-1, 1)]
    sky, noise = estimate_background(image)
    if stretched or not noise:
        low, high = (float(np.nanmin(image)), float(np.nanmax(image)))
        norm = Normalize(low, max(high, low + 1e-6))
    else:
        image = image - sky
        brightest = max(float(np.nanmax(image)), 3 * LINEAR * noise)
        norm = AsinhNorm(LINEAR * noise, -LINEAR * noise, brightest)
    draw_image(axes, image, "", norm, "inferno", edges)
    if scale:
        scale_bar(axes, 1.0 if edges[1] > 1.2 else 0.1)


def _mark(axes: Axes, known: dict[str, Any]) -> None:
    """Mark the heaviest subhalo, or the vortex, of a lens whose truth is known."""
    kind = CLASSES.get(known["class"])
    places = [*kind.middle, *(kind.line or ())] if kind and kind.middle else []
    if not places or not all(np.isfinite(known.get(name, np.nan)) for name in places):
        return
    center = [known.get(f"center_{axis}", 0.0) for axis in "xy"]
    x, y = (known[name] + at for name, at in zip(kind.middle, center, strict=True))
    edge = [withStroke(linewidth=2.2, foreground="black")]
    if kind.line:
        half, angle = known[kind.line[0]] / 2, known[kind.line[1]]
        ends = half * np.cos(angle), half * np.sin(angle)
        style = {"color": MARK, "lw": 1.2, "path_effects": edge}
        axes.plot([x - ends[0], x + ends[0]], [y - ends[1], y + ends[1]], **style)
    else:
        axes.plot(x, y, "x", color=MARK, ms=6, mew=1.4, path_effects=edge)


def _truth(known: dict[str, Any]) -> list[str]:
    """Return lines of what is known of a lens: the truth, or the first columns of its own."""
    told = [
        form.format(known[name])
        for name, form in TOLD.items()
        if np.isfinite(known.get(name, np.nan)) and (known[name] or name == "theta_E")
    ]
    if not told:
        own = [name for name in known if name not in COLUMNS and not name.startswith("roi_")]
        told = [cut(f"{name} {_number(known[name])}", LONGEST) for name in own[:2]]
    return [" · ".join(told[:2]), " · ".join(told[2:])]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _caption(axes: Axes, kind: str, lines: Sequence[str]) -> None:
    """Write the class in its colour, and lines of text, below an image."""
    known = CLASSES.get(kind)
    label, colour = (known.label, known.colour) if known else (str(kind), OTHER)
    style = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top"}
    axes.annotate(label, (0, 0), (0, -3), color=colour, fontsize=7.5, weight="bold", **style)
    split = {"ha": "right", "fontsize": 7, "color": OTHER}
    axes.annotate(lines[0], (1, 0), (0, -3), **split, **style)
    text = "\n".join(filter(None, lines[1:]))
    axes.annotate(text, (0, 0), (0, -12), fontsize=6.2, linespacing=1.15, **style)


# ------------------------------------------------------------------------------ simulated lenses


def simulated(
    population: Population, indices: Sequence[int], kinds: Sequence[str], seed: int
) -> Iterator[Page]:
    """Yield pages of lenses of a population as they were drawn: image, and what substructure does.

    ``indices`` and ``kinds`` (their classes) are those of ``vitdm.simulation.draw``. Below each
    image is its difference to the same lens without substructure, in units of the noise (of the
    peak, in a population without noise), with the subhalos (circles, their area proportional to
    mass) or the string that they make.
    """
    scale = population.instrument.pixel_scale
    systems = [draw(i, kind, seed, population) for i, kind in zip(indices, kinds, strict=True)]
    for group in _groups(systems):
        lines = sum(1 + any(len(systems[k].masses) for k in row) for row in group)
        figure, grid = _page(lines, 0.42)
        line = iter(grid)
        for row in group:
            for axes, k in zip(next(line), row, strict=False):
                image, truth = simulate_one(indices[k], kinds[k], seed, population)
                _show(axes, image, scale)
                first, second = _truth(truth)
                _caption(axes, kinds[k], ["", f"lens {indices[k]} · {first}", second])
            if any(len(systems[k].masses) for k in row):
                for axes, k in zip(next(line), row, strict=False):
                    _difference(axes, systems[k], population)
        words = f"lenses of {population.name}: images, and what the substructure changes"
        yield Page(figure, f"{population.name}, seed {seed}", words)


def _groups(systems: Sequence[System]) -> list[list[list[int]]]:
    """Return the rows of each page: places of lenses of one class, ``ACROSS`` in a row."""
    rows: list[list[int]] = []
    for k, system in enumerate(systems):
        if not rows or len(rows[-1]) == ACROSS or systems[rows[-1][0]].kind != system.kind:
            rows.append([])
        rows[-1].append(k)
    return [rows[start : start + 3] for start in range(0, len(rows), 3)]


def _difference(axes: Axes, system: System, population: Population) -> None:
    """Show what substructure changes in the image of a lens, and where its masses are."""
    if not len(system.masses):
        return
    axes.set_axis_on()
    without = smooth(system)
    image = render(without, population)
    change, unit = render(system, population) - image, "peak"
    norm = Normalize(-0.2, 0.2)
    if population.instrument.noise != "none":
        change, unit = change / np.sqrt(variance(image, without, population)), "noise"
        norm = Normalize(-RESIDUAL, RESIDUAL)
    else:
        change = change / image.max()
    half = population.num_pix / 2 * population.instrument.pixel_scale
    draw_image(axes, change, "", norm, "RdBu_r", (-half, half, -half, half))
    x, y = system.x + system.center[0], system.y + system.center[1]
    area = LARGEST * system.masses / system.masses.max()
    string = CLASSES[system.kind].line is not None
    if string:
        axes.plot(x, y, color="black", lw=1.0)
    else:
        axes.scatter(x, y, area, facecolor="none", edgecolor="black", linewidth=0.7)
    axes.set(xlim=(-half, half), ylim=(-half, half))
    text = f"change by the substructure, ±{norm.vmax:g} {unit}"
    style = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top"}
    axes.annotate(text, (0, 0), (0, -3), fontsize=6.2, color=OTHER, **style)


def first_of_each(kinds: Sequence[str], n: int) -> list[int]:
    """Return the places of the first n of each class, smooth lenses first."""
    names = sorted(dict.fromkeys(kinds), key=lambda name: (name != NO_SUB, [*CLASSES].index(name)))
    return [k for name in names for k in [i for i, kind in enumerate(kinds) if kind == name][:n]]
