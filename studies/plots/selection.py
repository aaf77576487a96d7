"""How good the features are, which repeat one another, what they add (notebook 02)."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import MaxNLocator

from studies.plots.style import WIDTH, nothing
from vitdm.evaluation.metrics import Difference

#: where a feature is from; a group that is not named here is drawn in the last colour
GROUPS = {
    "proposal": ("#0072B2", "proposal"),
    "morphology": ("#D55E00", "morphology"),
    "lensfit": ("#009E73", "fitted lens"),
    "search": ("#E69F00", "search"),
    "other": ("#CC79A7", "other"),
}
MODELS = {"gradient boosting": ("#333333", "s"), "logistic regression": ("#999999", "D")}


def _height(rows: int) -> float:
    """Return the height of so many labelled rows, inches: with them the figure fits a page."""
    return rows * min(0.165, 6.6 / max(rows, 1))


def _colours(groups: Sequence[str]) -> list[str]:
    return [GROUPS.get(group, GROUPS["other"])[0] for group in groups]


def _group_handles(groups: Sequence[str], marker: str = "o") -> list[plt.Line2D]:
    """Return what the legend shows of the groups that occur, in the order of ``GROUPS``."""
    return [
        plt.Line2D([], [], marker=marker, ls="", ms=5, color=colour, label=label)
        for group, (colour, label) in GROUPS.items()
        if group in set(groups)
    ]


def feature_auc(ranking: pd.DataFrame, scores: pd.DataFrame) -> plt.Figure:
    """Draw the ROC-AUC of each feature alone, and of classifiers on all, with 95 % intervals.

    ``ranking`` and ``scores`` are the tables of ``selection.select``. Colour: the group of the
    feature. Filled: significant after Benjamini-Hochberg. The marker points to the right if
    substructure makes the feature larger, to the left if smaller. One half (dotted) is chance; the
    intervals of a value that was chosen to be above it may reach below. Filled, with an interval
    across one half: that the feature exists is what tells. Under the line: both baselines with all
    features, on ``opt``.
    """
    shown = ranking.dropna(subset="roc_auc")
    whole = scores[scores["features"] == "all"]
    n = len(shown)
    figure, axes = plt.subplots(figsize=(WIDTH, 1.2 + _height(n + 2)), layout="constrained")
    error = {"lw": 1.1, "zorder": 1}
    for row, (entry, colour) in enumerate(
        zip(shown.itertuples(), _colours(shown["group"]), strict=True)
    ):
        axes.plot([entry.roc_auc_low, entry.roc_auc_high], [row, row], color=colour, **error)
        marker = ">" if entry.sign > 0 else "<"
        fill = colour if entry.significant else "white"
        axes.plot(entry.roc_auc, row, marker, ms=4.8, mfc=fill, mec=colour, mew=1)
    for row, entry in enumerate(whole.itertuples(), start=n + 1):
        colour, marker = MODELS.get(entry.model, ("black", "s"))
        axes.plot([entry.roc_auc_low, entry.roc_auc_high], [row, row], color=colour, **error)
        axes.plot(entry.roc_auc, row, marker, ms=4.8, color=colour)
    axes.axhline(n, color="0.8", lw=0.8)
    axes.axvline(0.5, color="0.5", lw=0.8, ls=":", zorder=0)
    labels = [*shown["name"], *(f"all, {name}" for name in whole["model"])]
    places = [*range(n), *range(n + 1, n + 1 + len(whole))]
    axes.set_yticks(places, labels, fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="ROC-AUC, substructure against none", ylim=(n + len(whole) + 0.7, -0.8))
    axes.grid(axis="x", color="0.92", lw=0.6)
    axes.set_axisbelow(True)
    plain = {"ls": "", "ms": 5, "color": "0.3"}
    handles = _group_handles(shown["group"])
    for marker, fill, label in (
        (">", "0.3", "larger with substructure"),
        ("<", "0.3", "smaller"),
        ("o", "white", "not significant"),
    ):
        handles.append(plt.Line2D([], [], marker=marker, mfc=fill, label=label, **plain))
    style = {"fontsize": 7.5, "handletextpad": 0.1, "columnspacing": 1.2}
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), **style)
    return figure


def feature_correlation(matrix: pd.DataFrame, ranking: pd.DataFrame) -> plt.Figure:
    """Draw the rank correlations of the features with one another, clusters in boxes.

    ``matrix`` is square, its rows in the order of the clustering; ``ranking`` has the columns name,
    group, cluster, kept. Red: they grow together; blue: one falls as the other grows; grey: hardly
    any image has both. The names have the colour of their group, and are bold if kept.
    """
    n = len(matrix)
    if n == 0:
        return nothing("no features")
    side = min(1.9 + 0.17 * n, WIDTH)
    figure, axes = plt.subplots(figsize=(min(side + 0.7, WIDTH), side), layout="constrained")
    axes.set_facecolor("0.85")
    shown = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, origin="upper")
    facts = ranking.set_index("name").loc[matrix.index]
    starts = np.flatnonzero(np.diff(facts["cluster"], prepend=-1))
    for start, end in zip(starts, [*starts[1:], n], strict=True):
        if end - start > 1:
            corner, length = (start - 0.5, start - 0.5), end - start
            axes.add_patch(plt.Rectangle(corner, length, length, fill=False, ec="black", lw=1.1))
    size = 7 if n <= 32 else 5.8
    axes.set_xticks(range(n), matrix.index, rotation=90, fontsize=size)
    axes.set_yticks(range(n), matrix.index, fontsize=size)
    axes.tick_params(length=0)
    sns.despine(ax=axes, left=True, bottom=True)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, colour, kept in zip(
            labels, _colours(facts["group"]), facts["kept"], strict=True
        ):
            label.set(color=colour, weight="bold" if kept else "normal")
    bar = figure.colorbar(shown, ax=axes, shrink=0.7, pad=0.02, aspect=25)
    bar.set_label("Spearman's rank correlation")
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 4}
    axes.legend(handles=_group_handles(facts["group"], "s"), **above)
    return figure


def feature_importance(importance: pd.DataFrame, limit: float) -> plt.Figure:
    """Draw by how much the ROC-AUC on ``valid`` falls when a cluster of features is shuffled.

    ``importance`` has the columns model, cluster, features (names, joined by spaces), importance,
    sd. One panel a baseline, most important for the first above. The grey bar spans ± ``limit``
    s.d. about 0: a point right of it is more than a shuffling does by chance.
    """
    models = list(dict.fromkeys(importance["model"]))
    if not models:
        return nothing("no features")
    first = importance[importance["model"] == models[0]]
    order = first.sort_values("importance", ascending=False)["cluster"].tolist()
    names = first.set_index("cluster")["features"].loc[order].map(_cluster_name)
    figure, grid = plt.subplots(
        1,
        len(models),
        figsize=(WIDTH, 0.8 + _height(len(order))),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, letter, model in zip(grid[0], "abcd", models, strict=False):
        part = importance[importance["model"] == model].set_index("cluster").loc[order]
        rows, reach = np.arange(len(part)), limit * part["sd"].to_numpy()
        beyond = (part["importance"] > reach).to_numpy()
        axes.barh(rows, 2 * reach, left=-reach, height=0.75, color="0.88", lw=0)
        for chosen, fill in ((beyond, "#0072B2"), (~beyond, "white")):
            axes.plot(
                part["importance"][chosen], rows[chosen], "o", ms=4, mfc=fill, mec="#0072B2", mew=1
            )
        axes.axvline(0, color="0.5", lw=0.8, ls=":")
        ends = np.concatenate([[0], -reach, reach, part["importance"]])
        ends = ends[np.isfinite(ends)]
        margin = max(0.05 * np.ptp(ends), 5e-4)
        axes.set(xlim=(ends.min() - margin, ends.max() + margin), xlabel="fall of the ROC-AUC")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_title(f"({letter}) {model}", loc="left")
    grid[0][0].set_yticks(range(len(order)), names, fontsize=7)
    grid[0][0].set_ylim(len(order) - 0.3, -0.7)
    for axes in grid[0]:
        axes.tick_params(axis="y", length=0)
    return figure


def _cluster_name(names: str) -> str:
    first, *others = names.split()
    return f"{first} and {len(others)} more" if others else first


def feature_populations(rankings: dict[str, pd.DataFrame]) -> plt.Figure:
    """Draw the ROC-AUC of each feature (row) in each population (column), as a coloured table.

    ``rankings`` holds the tables of ``selection.rank`` by the names of the populations; the rows
    are sorted by the first. Pale is chance; numbers that are significant after Benjamini-Hochberg
    are bold, and carry a + if substructure makes the feature larger, a - if smaller.
    """
    order = next(iter(rankings.values()))["name"]
    tables = {name: table.set_index("name").reindex(order) for name, table in rankings.items()}
    values = np.column_stack([table["roc_auc"].to_numpy(float) for table in tables.values()])
    figure, axes = plt.subplots(
        figsize=(min(2.2 + 0.72 * len(tables), WIDTH), 0.9 + _height(len(order))),
        layout="constrained",
    )
    axes.set_facecolor("0.85")
    shown = axes.imshow(values, cmap="YlGnBu", vmin=0.5, vmax=1, aspect="auto", origin="upper")
    for column, table in enumerate(tables.values()):
        for row, entry in enumerate(table.itertuples()):
            if np.isnan(entry.roc_auc):
                continue
            sign = {1: "+", -1: "−"}[int(entry.sign)] if entry.significant else ""
            style = {"weight": "bold" if entry.significant else "normal", "fontsize": 6.2}
            colour = "white" if entry.roc_auc > 0.8 else "black"
            text = f"{sign}{entry.roc_auc:.2f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, **style)
    axes.set_xticks(range(len(tables)), list(tables), fontsize=7.5, rotation=30, ha="left")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(order)), order, fontsize=7)
    axes.tick_params(length=0)
    sns.despine(ax=axes, left=True, bottom=True)
    figure.colorbar(shown, ax=axes, shrink=0.5, pad=0.03, aspect=25, label="ROC-AUC")
    return figure


def feature_gain(gains: dict[str, Difference]) -> plt.Figure:
    """Draw what features add to the image: mean gain in ROC-AUC, 95 % interval, each seed.

    ``gains`` by what is compared. Filled if beyond twice the standard error. Zero (dotted) is no
    gain.
    """
    figure, axes = plt.subplots(
        figsize=(WIDTH * 0.9, 0.75 + 0.36 * len(gains)), layout="constrained"
    )
    for row, gain in enumerate(gains.values()):
        fill = "#0072B2" if gain.beyond_error else "white"
        axes.plot([gain.low, gain.high], [row, row], color="#0072B2", lw=1.3)
        axes.plot(gain.value, row, "o", ms=6, mfc=fill, mec="#0072B2", mew=1.2)
        axes.plot(gain.seeds, [row + 0.25] * len(gain.seeds), "|", ms=6, color="0.5")
    axes.axvline(0, color="0.5", lw=0.8, ls=":")
    axes.set_yticks(range(len(gains)), list(gains))
    axes.set(ylim=(len(gains) - 0.4, -0.6), xlabel="gain in ROC-AUC on opt (ticks: single seeds)")
    axes.margins(x=0.08)
    low, high = axes.get_xlim()  # of models that agree the rounding of floats is all there is
    axes.set_xlim(min(low, (low + high) / 2 - 1e-3), max(high, (low + high) / 2 + 1e-3))
    axes.tick_params(axis="y", length=0)
    return figure
