"""The search of the hyperparameters (notebook 04)."""

from __future__ import annotations

from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from vitdm.plots.style import COLOURS, WIDTH

SETTINGS = {
    "learning_rate": "learning rate",
    "embed_dim": "token width",
    "depth": "blocks",
    "num_heads": "heads per block",
    "patch_size": "patch side [px]",
    "mlp_ratio": "MLP width / token width",
    "batch_size": "images per batch",
    "weight_decay": "weight decay",
    "label_smoothing": "label smoothing",
    "spt": "shifted patches",
    "lsa": "locality attention",
}
COLLAPSED = 0.6  # a trial whose ROC-AUC stays below has learnt next to nothing


def setting_name(key: str) -> str:
    """Return a key of the model or train section in words."""
    return SETTINGS.get(key, key.replace("_", " "))


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
    error = np.log10(1 - np.clip(values, 0, 1 - 1e-6))
    margin = 0.07 * max(np.ptp(error), 0.02)
    low, high = 1 - 10 ** (error.max() + margin), 1 - 10 ** (error.min() - margin)
    there, back = lambda auc: -np.log10(np.maximum(1 - auc, 1e-9)), lambda y: 1 - 10.0**-y
    axes.set_yscale("function", functions=(there, back))
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


def tune_convergence(trials: pd.DataFrame, n_initial: int) -> plt.Figure:
    """Draw the ROC-AUC of each trial and the best so far, in the order of the calls.

    ``trials`` as in ``trials.csv``. The square is the configuration that the search started from,
    open circles are ``n_initial`` random points, filled ones were chosen by the Gaussian process,
    crosses failed. The axis is the quantity that is minimised, log10(1 - AUC), upside down.
    """
    figure, axes = plt.subplots(figsize=(WIDTH * 0.85, 2.8), layout="tight")
    call, auc = trials["call"].to_numpy() + 1, trials["roc_auc"].to_numpy()
    failed = (trials["status"] != "ok").to_numpy()
    axes.step(call, np.maximum.accumulate(auc), where="post", color="0.35", lw=1.2, label="best")
    blue, kind = COLOURS["no_sub"], np.digitize(call, [2, 2 + n_initial])
    styles = [
        {"marker": "s", "color": COLOURS["cdm"], "s": 36, "label": "start"},
        {"marker": "o", "facecolor": "white", "edgecolor": blue, "s": 26, "label": "random"},
        {"marker": "o", "color": blue, "s": 26, "label": "Gaussian process"},
    ]
    for k, look in enumerate(styles):
        chosen = (kind == k) & ~failed
        if chosen.any():
            axes.scatter(call[chosen], auc[chosen], zorder=3, **look)
    if failed.any():
        axes.scatter(call[failed], auc[failed], marker="x", color="black", s=26, label="failed")
    _auc_axis(axes, auc)
    axes.set(xlabel="call", ylabel="ROC-AUC on opt", xlim=(0.4, len(call) + 0.6))
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
    best = int(trials["roc_auc"].argmax())
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
            star = {"marker": "*", "s": 75, "color": COLOURS["cdm"], "lw": 0.4, "ec": "white"}
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
    names, best = list(space), int(trials["roc_auc"].argmax())
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
        axes.plot(places[name], curve, mark, ms=3, lw=1.1, color=COLOURS["no_sub"])
        _auc_axis(axes, curves)
        axes.axvline(_place(trials[name], space[name])[best], color=COLOURS["cdm"], lw=0.8, ls="--")
        axes.yaxis.tick_right()
        axes.tick_params(labelright=True, labelsize=7)
        sns.despine(ax=axes, left=True, right=False)
        for j, other in enumerate(names[:i]):
            axes, values = grid[i][j], dependence[(other, name)].T
            limits = {"vmin": low, "vmax": high, "cmap": "viridis_r", "shading": "nearest"}
            shown = axes.pcolormesh(places[other], places[name], values, rasterized=True, **limits)
            axes.scatter(tried[other], tried[name], s=7, color="black", lw=0.3, ec="white")
            star = {"marker": "*", "s": 75, "color": COLOURS["cdm"], "lw": 0.4, "ec": "white"}
            axes.scatter(tried[other][best], tried[name][best], **star)
    if shown is not None:
        bar = _corner_bar(figure, shown, "predicted ROC-AUC")
        ticks = _auc_ticks(1 - 10**high, 1 - 10**low)
        bar.set_ticks(np.log10(1 - np.array(ticks)), labels=[f"{auc:g}" for auc in ticks])
        bar.ax.invert_xaxis()
    return figure


def tune_learning_rate(trials: pd.DataFrame, name: str, entry: Any) -> plt.Figure:
    """Draw the ROC-AUC of all trials against their learning rate, coloured by another setting.

    ``trials`` as in ``trials.csv``; ``name`` and ``entry`` are the colour's key and dimension.
    Crosses are trials that failed or collapsed (ROC-AUC below ``COLLAPSED``, dotted line). Too low
    a rate has not learnt enough when the epochs are over, too high a one never learns.
    """
    figure, axes = plt.subplots(figsize=(WIDTH * 0.8, 2.8), layout="tight")
    rate, auc = trials["learning_rate"].to_numpy(), trials["roc_auc"].to_numpy()
    bad = (trials["status"] != "ok").to_numpy() | (auc < COLLAPSED)
    place = _place(trials[name], entry)
    values = np.unique(place)
    if entry.type == "real":
        values = np.linspace(values[0], values[-1], 4)
    texts = [f"{value:.2g}" for value in values]
    if entry.type == "categorical":
        texts = [str(entry.choices[int(rank)]) for rank in values]
    colours = sns.color_palette("viridis", len(values))
    nearest = np.abs(place[:, None] - values).argmin(axis=1)
    for k, text in enumerate(texts):
        chosen = nearest == k
        axes.scatter(rate[chosen & ~bad], auc[chosen & ~bad], s=30, color=colours[k])
        axes.scatter(rate[chosen & bad], auc[chosen & bad], s=30, marker="x", color=colours[k])
        axes.scatter([], [], s=30, color=colours[k], label=text)
    if bad.any():
        axes.scatter([], [], s=30, marker="x", color="0.3", label="collapsed")
        axes.axhline(COLLAPSED, color="0.6", lw=0.8, ls=":")
    _auc_axis(axes, auc)
    axes.set(xscale="log", xlabel="learning rate", ylabel="ROC-AUC on opt")
    axes.legend(title=setting_name(name), loc="upper left", bbox_to_anchor=(1, 1))
    return figure
