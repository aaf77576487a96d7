"""What lenses of a population look like, and what substructure does to them (notebook 01)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from studies.plots.style import WIDTH, classes_in, colour_of, label_of, nothing
from vitdm import simulation
from vitdm.data.simulated import index_of
from vitdm.simulation import Population
from vitdm.simulation.classes import CLASSES, NO_SUB


@dataclass(frozen=True)
class Example:
    """A lens to be drawn; what is not known of it is left out.

    ``image`` (H, W) in any unit, ``kind`` its class, ``truth`` columns of the catalog;
    ``difference`` (H, W) what substructure changed, in ``unit``; ``x, y`` (n,) [px] and ``masses``
    (n,) of the substructure.
    """

    image: np.ndarray
    kind: str
    truth: Mapping[str, float] = field(default_factory=dict)
    difference: np.ndarray | None = None
    x: np.ndarray = field(default_factory=lambda: np.empty(0))
    y: np.ndarray = field(default_factory=lambda: np.empty(0))
    masses: np.ndarray = field(default_factory=lambda: np.empty(0))
    unit: str = "noise"


def simulated(
    catalog: pd.DataFrame, population: Population, images: Sequence[np.ndarray] | None = None
) -> list[Example]:
    """Return the lenses of a simulated catalog with their truth and substructure, drawn again.

    ``images`` (n, H, W) are those of the catalog's rows; without them, the noiseless ones are
    rendered. The difference that substructure makes is in units of the noise of the smooth lens, or
    of its peak if the population has no noise.
    """
    examples = []
    for k, row in enumerate(catalog.to_dict("records")):
        system = simulation.draw(index_of(row["id"]), row["class"], row["seed"], population)
        image = simulation.render(system, population)
        smooth = simulation.smooth(system)
        without = simulation.render(smooth, population)
        noise = np.sqrt(simulation.variance(without, smooth, population))
        noisy = population.instrument.noise != "none"
        difference = (image - without) / (noise if noisy else without.max())
        middle, scale = (population.num_pix - 1) / 2, population.instrument.pixel_scale
        examples.append(
            Example(
                image=image if images is None else np.asarray(images[k]),
                kind=row["class"],
                truth=system.truth,
                difference=None if row["class"] == NO_SUB else difference,
                x=middle + (system.center[0] + system.x) / scale,
                y=middle + (system.center[1] + system.y) / scale,
                masses=system.masses,
                unit="noise" if noisy else "peak",
            )
        )
    return examples


def population_gallery(
    examples: Sequence[Example],
    pixel_scale: float | None = None,
    half_width: float = 3.4,
) -> plt.Figure:
    r"""Draw lenses with their truth, a row a class, and what substructure does to each.

    With a ``pixel_scale`` (arcsec) there is a bar of one arcsecond, and only what lies within
    ``half_width`` (arcsec) of the centre is shown. Each image runs from its own sky to its own
    peak; of lenses with light of their own, the square root is shown, up to
    the rim of their bright core. Where the difference to the
    same lens without substructure is known, it stands below the image, with the subhalos (circles,
    area proportional to mass) or the vortex (line). N is the number of subhalos, M the mass of the
    substructure, L the length of the vortex. How to read it: red beside blue is a piece of arc that
    moved; a pale panel is a lens that looks smooth even to one who knows it.
    """
    if not examples:
        return nothing("no images")
    kinds = classes_in(e.kind for e in examples)
    rows = {name: [e for e in examples if e.kind == name] for name in kinds}
    changed = [e for e in examples if e.difference is not None]
    paired = {name: any(e.difference is not None for e in row) for name, row in rows.items()}
    text = [max(caption(e).count("\n") + bool(caption(e)) for e in row) for row in rows.values()]
    columns, lines = max(map(len, rows.values())), len(rows) + sum(paired.values())
    height = lines * (WIDTH - 0.3) / columns + 0.11 * sum(text) + 0.5 * bool(changed)
    figure, grid = plt.subplots(
        lines, columns, figsize=(WIDTH, height), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    for axes in grid.flat:
        _bare(axes)
    # the same in every population, so that their colours can be compared
    limit = 5.0 if all(e.unit == "noise" for e in changed) else 0.2
    half = half_width / pixel_scale if pixel_scale else np.inf
    line = iter(grid)
    for name, row in rows.items():
        above, below = next(line), next(line) if paired[name] else [None] * columns
        above[0].set_ylabel(label_of(name).replace(" ", "\n"), color=colour_of(name), fontsize=9)
        for image_axes, difference_axes, example in zip(above, below, row, strict=False):
            draw_image(image_axes, example)
            image_axes.set_title(caption(example), fontsize=6, pad=2, linespacing=1.1)
            zoom(image_axes, example.image.shape, half)
            if example.difference is not None:
                shown = draw_difference(difference_axes, example, limit)
                zoom(difference_axes, example.image.shape, half)
    if pixel_scale:
        scale_bar(grid[0][0], pixel_scale)
    if changed:
        how = {"location": "bottom", "shrink": 0.5, "aspect": 40, "pad": 0.01, "extend": "both"}
        figure.colorbar(
            shown, ax=grid, label=f"difference / {changed[0].unit}", ticks=MaxNLocator(5), **how
        )
    return figure


def perturbations(examples: Sequence[Example]) -> plt.Figure:
    """Draw what substructure does to one lens: the same halo, shear and source in all panels.

    Above: the images, the smooth lens first. Below: the difference to it, red
    brighter, blue fainter, with the subhalos (circles, area proportional to mass) or the vortex
    (line).
    """
    size = (WIDTH, 2.1 * WIDTH / len(examples))
    figure, grid = plt.subplots(2, len(examples), figsize=size, layout="constrained")
    smooth = examples[0].image
    rows, columns = np.nonzero(smooth > 0.01 * smooth.max())
    middle = np.subtract(smooth.shape, 1) / 2
    half = 1.1 * max(np.abs(rows - middle[0]).max(), np.abs(columns - middle[1]).max())
    changed = [e for e in examples if e.difference is not None]
    limit = max(float(np.abs(e.difference).max()) for e in changed)
    for (above, below), example in zip(grid.T, examples, strict=True):
        _bare(above)
        _bare(below)
        draw_image(above, example)
        above.set_title(label_of(example.kind), color=colour_of(example.kind))
        zoom(above, smooth.shape, half)
        if example.difference is not None:
            shown = draw_difference(below, example, limit)
            zoom(below, smooth.shape, half)
    scale = grid[1][0].inset_axes([0.1, 0.55, 0.8, 0.06])
    figure.colorbar(
        shown, cax=scale, orientation="horizontal", label=f"difference / {changed[0].unit}"
    )
    return figure


def populations_compared(table: pd.DataFrame) -> plt.Figure:
    """Draw how far size alone gets in each population, and what the best classifier could do.

    ``table`` has a row for each population and class of substructure, with the ROC-AUC against
    smooth lenses and its 95 % interval in ``auc_<score>_value, _low, _high``. A population whose
    images have no noise has no such bound. How to read it: size beyond 1/2 is a shortcut; residual
    scores beyond 1/2 are substructure that can be seen by one who knows the smooth lens.
    """
    scores = {
        "size": ("ring radius in the image", "s", "0.35"),
        "chi2_known": (r"residual $\chi^2$, smooth lens known", "o", "#0072B2"),
        "fourth_free": ("residual 4th power, smooth lens fitted", "D", "#D55E00"),
    }
    kinds = classes_in(table["class"])
    names = list(dict.fromkeys(table["population"]))
    figure, grid = plt.subplots(
        1,
        len(kinds),
        figsize=(WIDTH, 1.2 + 0.34 * len(names)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, kind in zip(grid[0], kinds, strict=True):
        part = table[table["class"] == kind].set_index("population").reindex(names)
        for k, (score, (label, marker, colour)) in enumerate(scores.items()):
            columns = [f"auc_{score}_{end}" for end in ("value", "low", "high")]
            if columns[0] not in part:
                continue
            value, low, high = part[columns].to_numpy(float).T
            y = np.arange(len(names)) + 0.2 * (k - 1)
            axes.plot(value, y, marker, color=colour, ms=4, label=label)
            axes.hlines(y, low, high, color=colour, lw=1)
        axes.axvline(0.5, color="0.7", lw=0.8, ls=":")
        axes.set(xlim=(0.3, 1.02), xlabel="ROC-AUC")
        axes.set_title(label_of(kind), color=colour_of(kind))
    grid[0][0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


# ---------------------------------------------------------------------------------------- panels


def _bare(axes: plt.Axes) -> None:
    axes.set(xticks=[], yticks=[])
    sns.despine(ax=axes, left=True, bottom=True)


def draw_image(axes: plt.Axes, example: Example) -> None:
    """Draw the image of an example from its sky, the median, to its peak; see the gallery."""
    light = np.isfinite(example.truth.get("lens_light_amp", np.nan))
    sky, peak = np.quantile(example.image, (0.5, 0.996 if light else 0.9995))
    norm = PowerNorm(0.5 if light else 1.0, vmin=sky, vmax=peak, clip=True)
    axes.imshow(example.image, norm=norm)


def draw_difference(axes: plt.Axes, example: Example, limit: float) -> Any:
    """Draw the difference of an example and its substructure; return the coloured image."""
    shown = axes.imshow(example.difference, cmap="RdBu_r", vmin=-limit, vmax=limit)
    if CLASSES[example.kind].line:
        axes.plot(example.x[[0, -1]], example.y[[0, -1]], "k-", lw=1.2)
    elif len(example.masses):
        sizes = 60 * example.masses / example.masses.max()
        axes.scatter(example.x, example.y, s=sizes, ec="k", fc="none", lw=0.6)
    return shown


def zoom(axes: plt.Axes, shape: tuple[int, int], half: float) -> None:
    """Show only the pixels within ``half`` of the centre, if there are more."""
    middle = (shape[0] - 1) / 2
    half = min(half, middle + 0.5)
    axes.set(xlim=(middle - half, middle + half), ylim=(middle - half, middle + half))


def scale_bar(axes: plt.Axes, pixel_scale: float) -> None:
    """Draw a bar of one arcsecond into the corner of an image."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    x, y = left + 0.06 * (right - left), low + 0.07 * (high - low)
    axes.plot([x, x + 1 / pixel_scale], [y, y], "w", lw=2)
    axes.text(x, y + 0.03 * (high - low), '1"', color="w", va="bottom")


def caption(example: Example) -> str:
    """Return the truth that matters for the class of an example, in up to three lines."""
    known = {name: value for name, value in example.truth.items() if np.isfinite(value)}
    texts = {
        "theta_E": (0, lambda value: rf"$\theta_E$ {value:.2f}″"),
        "n_subhalos": (0, lambda value: f"N {value:.0f}"),
        "vortex_length": (0, lambda value: f"L {value:.2g}″"),
        "substructure_mass": (1, lambda value: rf"M {_power_of_ten(value)} M$_\odot$"),
        "f_sub": (2, lambda value: rf"$f_\mathrm{{sub}}$ {100 * value:.2g} %"),
        "axion_mass": (2, lambda value: f"$m_a$ {_power_of_ten(value)} eV"),
    }
    of_class = {"theta_E", *CLASSES[example.kind].truth}
    lines: list[list[str]] = [[], [], []]
    for name, (line, text) in texts.items():
        if name in known and name in of_class:
            lines[line].append(text(known[name]))
    return "\n".join("  ".join(line) for line in lines if line)


def _power_of_ten(value: float) -> str:
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return rf"${mantissa}\cdot10^{{{int(exponent)}}}$"
