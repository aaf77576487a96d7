"""Models of simulated lenses on real ones (notebook 05)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from studies.plots.selection import GROUPS
from studies.plots.style import WIDTH, classes_in, colour_of, label_of
from studies.real_sky import ALL, Answers

MODELS = {"network": ("o", "network"), "boosting": ("D", "gradient boosting")}
# inches: the row of a real image; above the rows a title and a histogram, below them an axis
ROW, TITLE, SCORES, GAP, AXIS = 0.15, 0.28, 0.55, 0.14, 0.48
LEFT, STRIP, RIGHT = 0.95, 1.75, 3.35  # inches: names, scores, features
LEGEND = 0.25


def real_sky(sets: Mapping[str, Answers], fdr: float) -> plt.Figure:
    """Draw what models of simulated lenses say of real ones, and how unlike the two are.

    One block a set (``real_sky.Answers.of``, by its title). Left, above: probability of
    substructure by the network, simulated images that were held out, as the share of each class in
    a bin. Left, below: the real images, mean over the trainings and the range of them; filled: the
    network, open: gradient boosting; the colour is that of the class, black if it is unknown.
    Right: where each feature (column) of the same images (rows) stands among the simulated ones,
    from below all (dark orange) to above all (dark violet); a dot: beyond all of them; grey: the
    image lacks it. Triangles mark features whose distributions differ (q at most ``fdr``). Where
    simulated and real lenses are alike, the colours are those of noise.
    """
    rows = [len(_order(answers.images)) for answers in sets.values()]
    height = LEGEND + sum(TITLE + SCORES + GAP + ROW * n + AXIS for n in rows)
    figure = plt.figure(figsize=(WIDTH, height))
    top = height - LEGEND

    def panel(left: float, bottom: float, width: float, tall: float) -> plt.Axes:
        place = left / WIDTH, bottom / height, width / WIDTH, tall / height
        return figure.add_axes(place)

    for n, letter, (title, answers) in zip(rows, "abc", sets.items(), strict=False):
        above = top - TITLE - SCORES
        below = above - GAP - ROW * n
        order, beside = _order(answers.images), LEFT + STRIP + GAP
        histogram = panel(LEFT, above, STRIP, SCORES)
        _histogram(histogram, answers.scores[answers.scores["model"] == "network"])
        histogram.set_title(f"({letter}) {title}", loc="left")
        _strip(panel(LEFT, below, STRIP, ROW * n), answers.images, order)
        image = _ranks(panel(beside, below, RIGHT, ROW * n), answers, order, fdr)
        _verdict(panel(beside, above, RIGHT, SCORES), answers.shift, fdr)
        top = below - AXIS
    place = panel(beside + 0.55 * RIGHT, above + 0.2, 0.45 * RIGHT, 0.1)
    bar = figure.colorbar(image, cax=place, orientation="horizontal", ticks=[0, 0.5, 1])
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
    place.set_title("rank among simulated lenses", fontsize=7)
    _legend(figure, sets)
    return figure


def _order(images: pd.DataFrame) -> list[str]:
    """Return the ids of real images: by class, then by the network's probability."""
    of_network = images[images["model"] == "network"]
    return list(of_network.sort_values(["class", "probability"], kind="stable")["id"])


def _histogram(axes: plt.Axes, scores: pd.DataFrame) -> None:
    for kind, table in scores.groupby("class", sort=False):
        edges = np.append(table["low"], table["high"].iloc[-1])
        axes.stairs(table["n"] / table["n"].sum(), edges, color=colour_of(kind), lw=1.2)
    axes.set(xlim=(-0.02, 1.02), ylim=(0, None), xticklabels=[], ylabel="share")
    axes.tick_params(labelsize=7)


def _strip(axes: plt.Axes, images: pd.DataFrame, order: list[str]) -> None:
    axes.axvline(0.5, color="0.7", lw=0.8, ls=":", zorder=0)
    for shift, (model, (marker, _)) in zip((-0.15, 0.2), MODELS.items(), strict=True):
        table = images[images["model"] == model].set_index("id").loc[order]
        for row, entry in enumerate(table.itertuples()):
            colour = colour_of(entry[table.columns.get_loc("class") + 1])
            y = row + shift
            axes.plot([entry.low, entry.high], [y, y], color=colour, lw=1, zorder=1)
            face = colour if model == "network" else "white"
            style = {"ms": 4 if model == "network" else 3.2, "mec": colour, "mfc": face}
            axes.plot(entry.probability, y, marker, mew=0.9, zorder=2, **style)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(order) - 0.5, -0.5))
    axes.set_xlabel("probability of substructure", fontsize=8)
    axes.set_yticks(range(len(order)), order, fontsize=6.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)


def _ranks(axes: plt.Axes, answers: Answers, order: list[str], fdr: float) -> plt.Artist:
    shift = answers.shift[answers.shift["feature"] != ALL].reset_index(drop=True)
    table = answers.ranks.pivot(index="id", columns="feature", values="rank")
    table = table.reindex(index=order, columns=shift["feature"])
    colours = plt.get_cmap("PuOr").copy()
    colours.set_bad("0.85")
    image = axes.imshow(table, cmap=colours, vmin=0, vmax=1, aspect="auto", origin="upper")
    out = answers.ranks[answers.ranks["beyond"] == 1]
    x = out["feature"].map({name: k for k, name in enumerate(shift["feature"])})
    y = out["id"].map({name: k for k, name in enumerate(order)})
    axes.plot(x, y, "o", color="white", ms=2, mew=0)
    differ = np.flatnonzero(shift["q"] <= fdr)
    axes.plot(differ, np.full(len(differ), -0.85), "v", color="black", ms=2.4, clip_on=False)
    axes.set_ylim(len(order) - 0.5, -0.5)
    middles, names = [], []
    for group, rows in shift.groupby("group", sort=False).indices.items():
        middles.append((rows[0] + rows[-1]) / 2)
        names.append(GROUPS[group][1])
        if rows[0]:
            axes.axvline(rows[0] - 0.5, color="black", lw=0.8)
    axes.set_xticks(middles, names, fontsize=7)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("features", fontsize=8)
    return image


def _verdict(axes: plt.Axes, shift: pd.DataFrame, fdr: float) -> None:
    of_each, joint = shift[shift["feature"] != ALL], shift[shift["feature"] == ALL].iloc[0]
    n = int((of_each["q"] <= fdr).sum())
    axes.axis("off")
    text = f"{n} of {len(of_each)} features differ\nall together: p = {joint['p']:.2g}"
    axes.text(0, 1.0, text, transform=axes.transAxes, va="top", fontsize=8, linespacing=1.4)


def _legend(figure: plt.Figure, sets: Mapping[str, Answers]) -> None:
    seen = {kind for a in sets.values() for t in (a.scores, a.images) for kind in t["class"]}
    handles = [
        plt.Line2D([], [], color=colour_of(kind), lw=2, label=label_of(kind))
        for kind in classes_in(seen)
    ]
    handles += [
        plt.Line2D([], [], marker=m, ls="", ms=4, mec="k", mfc="k" if k == "network" else "w")
        for k, (m, _) in MODELS.items()
    ]
    for handle, (_, label) in zip(handles[-2:], MODELS.values(), strict=True):
        handle.set_label(label)
    figure.legend(
        handles=handles, loc="upper center", ncols=len(handles), columnspacing=1, handlelength=1.5
    )
