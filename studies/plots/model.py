"""Attention, positions and trainings (notebook 03)."""

from __future__ import annotations

from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from scipy import ndimage

from studies.plots.style import WIDTH, label_of


def attention(
    images: np.ndarray, names: list[str], maps: dict[str, np.ndarray], heads: int = 4
) -> plt.Figure:
    """Draw where the last block looks: a row a class, a column a head, a group a model.

    ``images`` (K, H, W) of the classes ``names``; ``maps`` holds, under the label of each model,
    its attention weights (K, h, n, n) on the n x n patches, of which at most ``heads`` are drawn.
    Colours are in units of even attention (1 / number of patches): dark patches are ignored, light
    ones attended to; the contour is the lensed light of the image.
    """
    drawn = {label: weights[:, :heads] for label, weights in maps.items()}
    widths = [1.0]
    for weights in drawn.values():
        widths += [0.12] + [1.0] * weights.shape[1]
    unit = min((WIDTH - 0.7) / (sum(widths) + 0.6), 1.3)
    figure, grid = plt.subplots(
        len(names),
        len(widths),
        figsize=(unit * (sum(widths) + 0.6), unit * len(names) + 0.45),
        squeeze=False,
        gridspec_kw={"width_ratios": widths, "wspace": 0.05, "hspace": 0.05},
    )
    even = {label: weights * weights.shape[-1] ** 2 for label, weights in drawn.items()}
    every = np.concatenate([weights.ravel() for weights in even.values()])
    limits = dict(zip(("vmin", "vmax"), np.quantile(every, [0.005, 0.995]), strict=True))
    side = images.shape[-1]
    extent = (-0.5, side - 0.5, -0.5, side - 0.5)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        sns.despine(ax=axes, left=True, bottom=True)
    for row, image, name in zip(grid, images, names, strict=True):
        row[0].imshow(image)
        text = label_of(name).replace(" ", "\n")
        row[0].set_ylabel(text, fontsize=8, rotation=0, ha="right", va="center")
    column = 1
    for label, weights in even.items():
        for h in range(weights.shape[1]):
            for row, image, one in zip(grid, images, weights[:, h], strict=True):
                axes = row[column + 1 + h]
                shown = axes.imshow(one, extent=extent, cmap="viridis", **limits)
                light = ndimage.gaussian_filter(image, 1.5)
                level = light.min() + 0.45 * np.ptp(light)
                axes.contour(light, [level], colors="white", linewidths=0.5)
            grid[0][column + 1 + h].set_title(f"head {h + 1}", fontsize=7, pad=2)
        first = grid[0][column + 1].get_position()
        last = grid[0][column + weights.shape[1]].get_position()
        height = first.y1 + 0.26 / figure.get_figheight()
        figure.text((first.x0 + last.x1) / 2, height, label, ha="center", va="center", fontsize=8.5)
        column += 1 + weights.shape[1]
    for spacer in [k for k, width in enumerate(widths) if width < 1]:
        for row in grid:
            row[spacer].axis("off")
    bar = figure.colorbar(shown, ax=grid, fraction=0.03, pad=0.015, aspect=25)
    bar.set_label("attention / even attention")
    return figure


def position_similarity(maps: dict[str, np.ndarray]) -> plt.Figure:
    """Draw how alike the learnt positions of patches are: a panel a model, a small map a patch.

    ``maps`` holds, under the label of each model, the cosine similarity (n, n, n, n) of the
    position vector of the patch at (row, column) to those of all patches. The small maps lie where
    their patch does; the patch itself, whose similarity is 1, is grey (Dosovitskiy et al. 2021,
    arXiv:2010.11929, fig. 7).
    """
    figure, grid = plt.subplots(
        1,
        len(maps),
        figsize=(min(WIDTH, 3.1 * len(maps) + 0.6), 3.0),
        squeeze=False,
        layout="constrained",
    )
    others = {}
    for label, similarity in maps.items():
        n = len(similarity)
        itself = np.eye(n * n, dtype=bool).reshape(similarity.shape)
        others[label] = np.where(itself, np.nan, similarity)
    colours = matplotlib.colormaps["PuOr"].with_extremes(bad="0.45")
    limit = max(np.nanmax(np.abs(values)) for values in others.values())
    for axes, (label, values) in zip(grid[0], others.items(), strict=True):
        n, step = len(values), 1.15  # a small map and the gap to the next
        for row, column in np.ndindex(n, n):
            extent = (column * step, column * step + 1, row * step, row * step + 1)
            shown = axes.imshow(
                values[row, column], extent=extent, cmap=colours, vmin=-limit, vmax=limit
            )
            frame = plt.Rectangle(extent[::2], 1, 1, fill=False, ec="0.6", lw=0.4)
            axes.add_patch(frame)
        end = n * step - 0.15
        middles = np.arange(n) * step + 0.5
        axes.set(xlim=(-0.05, end + 0.05), ylim=(-0.05, end + 0.05), title=label)
        axes.set_xticks(middles, range(1, n + 1))
        axes.set_yticks(middles, range(1, n + 1))
        axes.set(xlabel="column of the patch", ylabel="row of the patch")
        axes.tick_params(length=0)
        sns.despine(ax=axes, left=True, bottom=True)
    bar = figure.colorbar(shown, ax=grid, fraction=0.04, pad=0.02, aspect=25)
    bar.set_label("cosine similarity of positions")
    return figure


def _run_colours(labels: list[str]) -> dict[str, Any]:
    palette = "colorblind" if len(labels) <= 10 else "husl"
    return dict(zip(labels, sns.color_palette(palette, len(labels)), strict=True))


def training_history(history: pd.DataFrame) -> plt.Figure:
    """Draw the loss in training and the ROC-AUC in validation of each run, epoch by epoch.

    ``history`` has the columns label, seed, epoch, train_loss, valid_roc_auc. One colour is one
    run, one thin line one seed; the dot marks the epoch whose weights were kept. The loss includes
    label smoothing, so it cannot reach 0.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.6), layout="constrained")
    colours = _run_colours(list(history["label"].unique()))
    named = set()
    for (label, _), run in history.groupby(["label", "seed"], sort=False):
        line = {"color": colours[label], "lw": 0.9, "marker": ".", "ms": 2.5}
        left.plot(run["epoch"], run["train_loss"], **line)
        right.plot(run["epoch"], run["valid_roc_auc"], **line)
        kept = run.loc[run["valid_roc_auc"].fillna(-1).idxmax()]  # unknown of one class alone
        text = None if label in named else label
        right.plot(
            kept["epoch"], kept["valid_roc_auc"], "o", ms=5, mew=0, color=colours[label], label=text
        )
        named.add(label)
    left.set(xlabel="epoch", ylabel="loss on train")
    right.set(xlabel="epoch", ylabel="ROC-AUC on valid")
    for axes, letter in ((left, "a"), (right, "b")):
        axes.set_title(f"({letter})", loc="left")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
    columns = min(3, len(colours))
    figure.legend(loc="outside lower center", ncols=columns, handletextpad=0.2)
    return figure


def runs(scores: pd.DataFrame) -> plt.Figure:
    """Draw the ROC-AUC of the compared models on ``opt``: a point a seed, a bar their mean.

    ``scores`` has the columns label, seed, roc_auc, in the order of the rows to draw. The spread of
    the points of a row is what the random seed does; rows that differ by less tell nothing.
    """
    labels = list(scores["label"].unique())
    colours = _run_colours(labels)
    figure, axes = plt.subplots(figsize=(WIDTH * 0.85, 0.75 + 0.3 * len(labels)), layout="tight")
    for row, label in enumerate(labels):
        values = scores.loc[scores["label"] == label, "roc_auc"]
        colour = colours[label]
        axes.plot(values, [row] * len(values), "o", ms=5, mew=0, alpha=0.75, color=colour)
        axes.plot([values.mean()] * 2, [row - 0.3, row + 0.3], color=colour, lw=2.2)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(ylim=(len(labels) - 0.5, -0.5), xlabel="ROC-AUC on opt, substructure or not")
    axes.margins(x=0.08)
    axes.grid(axis="x", color="0.9", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    return figure
