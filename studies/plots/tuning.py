"""The search of the hyperparameters (notebook 04)."""

from __future__ import annotations

from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from studies.plots.style import BLUE, GREEN, VERMILION, WIDTH
from studies.plots.words import setting_name

COLLAPSED = 0.6  # a trial whose ROC-AUC stays below has learnt next to nothing


def _auc_ticks(low: float, high: float) -> list[float]:
    """Return round values of the ROC-AUC that stand apart on an axis of log10(1 - AUC)."""
    gap, ticks = np.log10((1 - low) / (1 - high)) / 9, []
    for auc in [0.999, 0.998, 0.995, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5]:
        apart = not ticks or np.log10((1 - auc) / (1 - ticks[-1])) >= gap
        if low <= auc <= high and apart:
            ticks.append(auc)
    if len(ticks) < 3:
        ticks = matplotlib.ticker.MaxNLocator(4).tick_values(low, high)
        ticks = [round(float(auc), 6) for auc in ticks if low <= auc <= high]
    return ticks


def _auc_axis(axes: plt.Axes, values: np.ndarray) -> None:
    """Scale the y axis as log10(1 - AUC), upwards the better, with ticks in ROC-AUC."""
    known = np.asarray(values)[np.isfinite(values)]
    error = np.log10(1 - np.clip(known if known.size else [0.5, 0.9], 0, 1 - 1e-6))
    margin = 0.07 * max(np.ptp(error), 0.02)
    low, high = 1 - 10 ** (error.max() + margin), 1 - 10 ** (error.min() - margin)

    def there(auc: np.ndarray) -> np.ndarray:
        """Place values on the axis; perfect ones, whose logarithm is infinite, as those clipped."""
        return -np.log10(np.where(auc >= 1, 1e-6, np.maximum(1 - auc, 1e-9)))

    axes.set_yscale("function", functions=(there, lambda y: 1 - 10.0**-y))
    axes.set_ylim(low, high)
    ticks = _auc_ticks(low, high)
    axes.set_yticks(ticks, [f"{auc:g}" for auc in ticks])
    axes.set_yticks([], minor=True)


def _place(values: Any, entry: Any) -> np.ndarray:
    """Return where values of a dimension of the search lie on its axis: choices at 0, 1, 2 …"""
    if entry.type != "categorical":
        return np.asarray(values, float)
    ranks = {str(choice): rank for rank, choice in enumerate(entry.choices)}
    return np.array([ranks[str(value)] for value in values], float)


def _dimension_axis(axis: Any, entry: Any) -> None:
    """Give an axis the range, the scale and the ticks of a dimension of the search."""
    axes, which = axis.axes, axis.axis_name
    if entry.type == "categorical":
        limits = (-0.5, len(entry.choices) - 0.5)
        axis.set_ticks(range(len(entry.choices)), [str(choice) for choice in entry.choices])
    elif entry.type == "integer":
        limits = (entry.low - 0.5, entry.high + 0.5)
        axis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    elif entry.log:
        limits = (entry.low / 1.25, entry.high * 1.25)
        getattr(axes, f"set_{which}scale")("log")
    else:
        margin = 0.05 * (entry.high - entry.low)
        limits = (entry.low - margin, entry.high + margin)
    getattr(axes, f"set_{which}lim")(*limits)


def _triangle(space: dict[str, Any]) -> tuple[plt.Figure, np.ndarray]:
    """Return a lower triangle of panels, one row and one column a dimension of the search."""
    size = len(space)
    figure, grid = plt.subplots(
        size,
        size,
        figsize=(WIDTH, 0.95 * WIDTH),
        squeeze=False,
        gridspec_kw={"wspace": 0.12, "hspace": 0.12},
    )
    names = list(space)
    for (i, j), axes in np.ndenumerate(grid):
        if j > i:
            axes.axis("off")
            continue
        _dimension_axis(axes.xaxis, space[names[j]])
        axes.tick_params(labelsize=7, labelbottom=i == size - 1, labelleft=j == 0 and i > 0)
        axes.tick_params(axis="x", labelrotation=45 * (space[names[j]].type == "categorical"))
        if i == size - 1:
            axes.set_xlabel(setting_name(names[j]), fontsize=8)
        if i != j:
            _dimension_axis(axes.yaxis, space[names[i]])
            if j == 0:
                axes.set_ylabel(setting_name(names[i]), fontsize=8)
    figure.align_labels()
    return figure, grid


def _jitter(values: np.ndarray, entry: Any) -> np.ndarray:
    """Spread points that share a choice or a whole number a little, always in the same way."""
    if entry.type == "real":
        return values
    return values + 0.16 * np.sin(2.4 * np.arange(len(values)))


def _corner_bar(figure: plt.Figure, shown: Any, label: str) -> Any:
    """Draw a colour bar into the empty upper right corner of a triangle."""
    panel = figure.axes[1].get_position()  # the first one that is left empty
    left = panel.x0 + 0.12
    corner = figure.add_axes((left, panel.y1 - 0.04, 0.89 - left, 0.018))
    corner.tick_params(labelsize=7)
    return figure.colorbar(shown, cax=corner, orientation="horizontal", label=label)


STAGES = {"start": "start", "x0": "given", "design": "design", "process": "Gaussian process"}


def stage_name(stage: str) -> str:
    """Return in words who chose a trial."""
    return STAGES.get(stage, stage)


def tune_convergence(trials: pd.DataFrame, noise: float | None) -> plt.Figure:
    """Draw the score of each trial and the best so far, in the order of the calls.

    ``trials`` as in ``trials.csv``, without those trained anew. Squares are the start, with several
    seeds; open circles the design, filled ones were chosen by the Gaussian process; small ones
    ended early as hopeless, crosses failed. The bar is the noise of a trial (``noise``, the s.d. of
    log10(1 - AUC)), two standard deviations long. The axis is log10(1 - AUC), upside down.
    """
    figure, axes = plt.subplots(figsize=(WIDTH * 0.85, 2.8), layout="tight")
    call, auc = trials["call"].to_numpy() + 1, trials["score"].to_numpy()
    axes.step(call, np.maximum.accumulate(auc), where="post", color="0.35", lw=1.2, label="best")
    blue = BLUE
    looks = {
        "start": {"marker": "s", "color": VERMILION},
        "x0": {"marker": "D", "color": GREEN},
        "design": {"marker": "o", "facecolor": "white", "edgecolor": blue},
        "process": {"marker": "o", "color": blue},
    }
    for stage, look in looks.items():
        for status, size in (("ok", 30), ("stopped", 9)):
            chosen = ((trials["stage"] == stage) & (trials["status"] == status)).to_numpy()
            if chosen.any():
                label = STAGES[stage] + (", ended early" if status == "stopped" else "")
                axes.scatter(call[chosen], auc[chosen], s=size, zorder=3, label=label, **look)
    failed = (trials["status"] == "failed").to_numpy()
    if failed.any():
        axes.scatter(call[failed], auc[failed], marker="x", color="black", s=26, label="failed")
    _auc_axis(axes, auc)
    if noise:
        middle = np.log10(1 - auc[call == 1][0])
        ends = [[1 - 10 ** (middle + sign * noise)] for sign in (1, -1)]
        axes.plot([0.3, 0.3], np.ravel(ends), color=VERMILION, lw=2, clip_on=False)
        axes.plot([], [], color=VERMILION, lw=2, label="noise (±1 s.d.)")
    axes.set(xlabel="call", ylabel="ROC-AUC on opt", xlim=(0, len(call) + 0.6))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), handletextpad=0.3)
    return figure


def tune_evaluations(trials: pd.DataFrame, space: dict[str, Any]) -> plt.Figure:
    """Draw where the search looked: histograms on the diagonal, pairs of settings below.

    ``trials`` as in ``trials.csv``; ``space`` is ``tune.space`` of the configuration. Dark points
    are early, light ones late, the star is the best. Points that share a whole number or a choice
    are spread a little. A search that has learnt something crowds its late points together.
    """
    figure, grid = _triangle(space)
    best = int(trials["score"].argmax())
    places = {name: _place(trials[name], entry) for name, entry in space.items()}
    spread = {name: _jitter(values, space[name]) for name, values in places.items()}
    shown = None
    for i, (name, entry) in enumerate(space.items()):
        if entry.type == "real":
            spaced = np.geomspace if entry.log else np.linspace
            bins = spaced(entry.low, entry.high, 9)
        else:
            low, high = sorted(grid[i][i].get_xlim())
            bins = np.arange(low, high + 0.5) if high - low < 20 else 10
        grid[i][i].hist(places[name], bins=bins, color="0.75", edgecolor="white", lw=0.5)
        grid[i][i].yaxis.tick_right()
        grid[i][i].yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3, integer=True))
        grid[i][i].tick_params(labelright=True, labelsize=7)
        sns.despine(ax=grid[i][i], left=True, right=False)
        for j, other in enumerate(list(space)[:i]):
            shown = grid[i][j].scatter(
                spread[other], spread[name], c=trials["call"] + 1, cmap="viridis", s=13, lw=0
            )
            star = {"marker": "*", "s": 75, "color": VERMILION, "lw": 0.4, "ec": "white"}
            grid[i][j].scatter(spread[other][best], spread[name][best], **star)
    grid[0][0].set_ylabel("trials", fontsize=8)
    if shown is not None:
        bar = _corner_bar(figure, shown, "call")
        bar.locator = matplotlib.ticker.MaxNLocator(5, integer=True)
    return figure


def tune_objective(
    dependence: dict[tuple[str, ...], np.ndarray],
    grids: dict[str, list[Any]],
    trials: pd.DataFrame,
    space: dict[str, Any],
) -> plt.Figure:
    """Draw what the Gaussian process believes: the mean ROC-AUC against one and two settings.

    ``dependence`` maps one or two names to the partial dependence (``tune.partial_dependence``) of
    log10(1 - AUC) on ``grids``, (n,) or (n, m). The diagonal shows one setting, all others averaged
    out, all on one scale; below, two at a time, with the trials as dots and the best as a star. A
    flat curve says that the setting hardly matters, or that the few trials do not show it.
    """
    figure, grid = _triangle(space)
    names, best = list(space), int(trials["score"].argmax())
    low = min(values.min() for values in dependence.values())
    high = max(values.max() for values in dependence.values())
    curves = np.concatenate([1 - 10 ** dependence[(name,)] for name in names])
    places = {name: _place(grids[name], entry) for name, entry in space.items()}
    tried = {name: _jitter(_place(trials[name], space[name]), space[name]) for name in names}
    shown = None
    for i, name in enumerate(names):
        axes = grid[i][i]
        mark = "-" if space[name].type == "real" else "o-"
        curve = 1 - 10 ** dependence[(name,)]
        axes.plot(places[name], curve, mark, ms=3, lw=1.1, color=BLUE)
        _auc_axis(axes, curves)
        axes.axvline(_place(trials[name], space[name])[best], color=VERMILION, lw=0.8, ls="--")
        axes.yaxis.tick_right()
        axes.tick_params(labelright=True, labelsize=7)
        sns.despine(ax=axes, left=True, right=False)
        for j, other in enumerate(names[:i]):
            axes, values = grid[i][j], dependence[(other, name)].T
            limits = {"vmin": low, "vmax": high, "cmap": "viridis_r", "shading": "nearest"}
            shown = axes.pcolormesh(places[other], places[name], values, rasterized=True, **limits)
            axes.scatter(tried[other], tried[name], s=7, color="black", lw=0.3, ec="white")
            star = {"marker": "*", "s": 75, "color": VERMILION, "lw": 0.4, "ec": "white"}
            axes.scatter(tried[other][best], tried[name][best], **star)
    if shown is not None:
        bar = _corner_bar(figure, shown, "predicted ROC-AUC")
        ticks = _auc_ticks(1 - 10**high, 1 - 10**low)
        bar.set_ticks(np.log10(1 - np.array(ticks)), labels=[f"{auc:g}" for auc in ticks])
        bar.ax.invert_xaxis()
    return figure


def tune_learning_rate(trials: pd.DataFrame, name: str, entry: Any) -> plt.Figure:
    """Draw the score of all trials against their learning rate, coloured by another setting.

    ``trials`` as in ``trials.csv``; ``name`` and ``entry`` are the colour's key and dimension.
    Crosses are trials that failed or collapsed (ROC-AUC below ``COLLAPSED``, dotted line), small
    points ended early as hopeless. Too low a rate has not learnt enough when the epochs are over,
    too high a one never learns.
    """
    figure, axes = plt.subplots(figsize=(WIDTH * 0.8, 2.8), layout="tight")
    rate, auc = trials["learning_rate"].to_numpy(), trials["score"].to_numpy()
    bad = (trials["status"] == "failed").to_numpy() | (auc < COLLAPSED)
    early = (trials["status"] == "stopped").to_numpy() & ~bad
    place = _place(trials[name], entry)
    values = np.unique(place)
    if entry.type == "real":
        values = np.linspace(values[0], values[-1], 4)
    texts = [f"{value:.2g}" for value in values]
    if entry.type == "categorical":
        texts = [str(entry.choices[int(rank)]) for rank in values]
    colours = sns.color_palette("viridis", len(values))
    nearest = np.abs(place[:, None] - values).argmin(axis=1)
    kinds = [(~bad & ~early, {"s": 30}), (early, {"s": 9}), (bad, {"s": 30, "marker": "x"})]
    for k, text in enumerate(texts):
        for there, look in kinds:
            chosen = (nearest == k) & there
            axes.scatter(rate[chosen], auc[chosen], color=colours[k], **look)
        axes.scatter([], [], s=30, color=colours[k], label=text)
    if early.any():
        axes.scatter([], [], s=9, color="0.3", label="ended early")
    if bad.any():
        axes.scatter([], [], s=30, marker="x", color="0.3", label="collapsed")
        axes.axhline(COLLAPSED, color="0.6", lw=0.8, ls=":")
    _auc_axis(axes, auc)
    axes.set(xscale="log", xlabel="learning rate", ylabel="ROC-AUC on opt")
    axes.legend(title=setting_name(name), loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def tune_again(candidates: list[dict[str, Any]], chosen: dict[str, Any]) -> plt.Figure:
    """Draw the best trials and the start: the score each was found with, and fresh ones.

    ``candidates`` and ``chosen`` (the parameters) as in ``best.json``. Dots are trainings with
    fresh seeds, the bar their mean with its error, the triangle the score in the search, which is
    too good for all but the start; the arrow is the choice, by the mean minus its error.
    """
    figure, axes = plt.subplots(figsize=(WIDTH * 0.7, 2.5), layout="tight")
    labels = []
    for k, entry in enumerate(candidates):
        scores = np.array(entry["scores"])
        shift = np.linspace(-0.08, 0.08, len(scores))
        axes.scatter(k + 0.15 + shift, scores, s=9, color="0.55", zorder=2)
        look = {"fmt": "_", "ms": 14, "color": BLUE, "capsize": 3, "zorder": 3}
        axes.errorbar(k + 0.15, entry["mean"], entry["error"], **look)
        marker = {"marker": "v", "color": VERMILION, "s": 28, "zorder": 3}
        axes.scatter(k - 0.15, entry["found"], **marker)
        labels.append("start" if k == 0 else f"trial {k}")
    axes.errorbar([], [], [], fmt="_", color=BLUE, capsize=3, label="mean, its error")
    axes.scatter([], [], s=9, color="0.55", label="fresh seed")
    axes.scatter([], [], marker="v", color=VERMILION, s=28, label="in the search")
    values = [v for entry in candidates for v in (*entry["scores"], entry["found"])]
    low, high = min(values), max(values)
    margin = 0.08 * max(high - low, 1e-4)
    axes.set(ylim=(low - margin, high + 3 * margin), xlim=(-0.6, len(candidates) - 0.4))
    winner = next(k for k, entry in enumerate(candidates) if entry["params"] == chosen)
    axes.annotate(
        "chosen", (winner, high + 2.7 * margin), ha="center", va="top", fontsize=8, weight="bold"
    )
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylabel("ROC-AUC on opt")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def tune_searches(best: pd.DataFrame, labels: dict[str, str]) -> plt.Figure:
    """Draw the best score so far against the calls, for kinds of search on equal terms.

    ``best`` has arm, number, call, best_so_far. Lines are means over the searches of a kind in
    log10(1 - AUC), bands their standard error; ``labels`` names the kinds.
    """
    figure, axes = plt.subplots(figsize=(WIDTH * 0.8, 2.8), layout="tight")
    colours = dict(zip(labels, sns.color_palette("colorblind", len(labels)), strict=True))
    dashes = dict(zip(labels, ["-", "--", "-.", ":"] * len(labels), strict=False))
    drawn = []
    for arm, label in labels.items():
        table = best[best["arm"] == arm].pivot(index="call", columns="number", values="best_so_far")
        error = np.log10(1 - np.minimum(table, 1 - 1e-6))
        mean, sem = (
            error.mean(axis=1),
            error.std(axis=1, ddof=1).fillna(0) / len(table.columns) ** 0.5,
        )
        call = table.index.to_numpy() + 1
        axes.plot(call, 1 - 10**mean, color=colours[arm], ls=dashes[arm], lw=1.5, label=label)
        band = [1 - 10 ** (mean + sem), 1 - 10 ** (mean - sem)]
        axes.fill_between(call, *band, color=colours[arm], alpha=0.15, lw=0)
        drawn += band
    _auc_axis(axes, np.concatenate(drawn))
    axes.set(xlabel="call", ylabel="best ROC-AUC so far", xlim=(1, call.max()))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def tune_rates(trials: pd.DataFrame, labels: dict[str, str]) -> plt.Figure:
    """Draw the score against the learning rate for several recipes of training.

    ``trials`` has recipe, learning_rate, seed, score, status; ``labels`` names the recipes, the
    first of which is drawn in all panels. Dots are trainings, lines their medians, crosses failed;
    the dotted line is ``COLLAPSED``.
    """
    first, *others = labels
    columns = 2 if len(others) in (2, 4) else min(3, max(1, len(others)))
    rows = -(-max(1, len(others)) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH, 0.4 + 1.6 * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="tight",
    )
    looks = {first: ("0.45", "s")}
    for axes, name in zip(grid.flat, others or [first], strict=False):
        for recipe in dict.fromkeys([first, name]):
            colour, marker = looks.get(recipe, (VERMILION, "o"))
            table = trials[trials["recipe"] == recipe]
            middle = table.groupby("learning_rate")["score"].median()
            style = {"color": colour, "lw": 1.2, "zorder": 2}
            axes.plot(middle.index, middle, **style, label=labels[recipe])
            ok = table["status"] != "failed"
            axes.scatter(
                table["learning_rate"][ok], table["score"][ok], s=8, c=colour, marker=marker
            )
            axes.scatter(
                table["learning_rate"][~ok], table["score"][~ok], s=16, c=colour, marker="x"
            )
        axes.axhline(COLLAPSED, color="0.6", lw=0.8, ls=":")
        axes.set(xscale="log", ylim=(min(0.46, trials["score"].min() - 0.02), 1.01))
        axes.set_title(labels[name], fontsize=8, color=looks.get(name, (VERMILION,))[0])
    for axes in grid[-1]:
        axes.set_xlabel("learning rate")
    for axes in grid[:, 0]:
        axes.set_ylabel("ROC-AUC on opt")
    for axes in grid.flat[max(1, len(others)) :]:
        axes.axis("off")
    grid[0][0].plot([], [], color="0.45", lw=1.2)
    return figure
