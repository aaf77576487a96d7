"""ROC-AUC against the number of training images, and on other lenses (notebook 03)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from sklearn.isotonic import isotonic_regression

from studies.plots.style import WIDTH

#: colour, marker and dash of each model, in the order in which they are drawn
LINES = {
    "spt_lsa": ("#777777", "o", "-"),
    "spt_lsa_stem": ("#56B4E9", "o", "-"),
    "resnet": ("#56B4E9", "x", ":"),
    "spt_lsa_proposal": ("#E69F00", "v", "-"),
    "spt_lsa_residual": ("#009E73", "s", "-"),
    "spt_lsa_lensfit": ("#0072B2", "^", "-"),
    "spt_lsa_all": ("#CC79A7", "D", "-"),
    "boosting": ("#D55E00", "P", "--"),
    "fit_point_evidence": ("black", "", "--"),
    "fit_fourth_power": ("black", "", ":"),
    "fit_theta_E": ("#777777", "", ":"),
}
_TICKS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)
_SMALLEST = 1e-4  # 1 - AUC: what is less is drawn there
_SCORES = {"roc_auc": "ROC-AUC, any substructure", "macro_roc_auc": "ROC-AUC, mean of 3 classes"}


def data_efficiency(
    table: pd.DataFrame,
    labels: Mapping[str, str],
    other: pd.DataFrame | None = None,
    published: pd.DataFrame | None = None,
) -> plt.Figure:
    """Draw the ROC-AUC against the number of training images: a column a population.

    ``table`` as from ``efficiency.train_and_score``; ``labels`` names the models drawn. Above, any
    substructure against none; below, the mean over the classes. Points are means over the seeds,
    bands reach from the lowest seed to the highest; dotted lines need no training. The axis is
    logarithmic in 1 - AUC, the pairs that are put in the wrong order, and ends at 0.9999. ``other``
    are results of another run, drawn as open marks. ``published`` has the columns population,
    model, pretrained (yes or no), n_train and some of the scores: stars, open if from scratch.
    """
    own = table[table["scored_on"] == table["population"]]
    populations = own["population"].unique()
    scores = [score for score in _SCORES if score in own]
    figure, grid = plt.subplots(
        len(scores), len(populations), figsize=(WIDTH, 2.45 * len(scores) + 0.7), squeeze=False,
        sharex=True, sharey="row", layout="constrained",
    )  # fmt: skip
    for row, score in zip(grid, scores, strict=True):
        for axes, population in zip(row, populations, strict=True):
            part = own[own["population"] == population]
            for name in (name for name in LINES if name in labels):
                _curve(axes, part[part["model"] == name], score, name, labels[name])
                if other is not None:
                    same = (other["population"] == population) & (other["model"] == name)
                    same &= other["scored_on"] == population
                    same &= other["n_train"] > 0
                    mean = other[same].groupby("n_train")[score].mean().dropna()
                    colour, marker, _ = LINES[name]
                    if len(mean):
                        axes.plot(mean.index, _wrong(mean), marker, mfc="white", mec=colour, ms=5)
            if published is not None and score in published:
                _stars(axes, published[published["population"] == population], score)
        _auc_axis(row, _wrong(own[score]).min())
        row[0].set_ylabel(_SCORES[score])
    for axes, population in zip(grid[0], populations, strict=True):
        axes.set_title(population)
    blank = [axes for axes in grid.flat if not axes.has_data()]  # two classes have no mean of three
    lowest = [next(axes for axes in column[::-1] if axes not in blank) for column in grid.T]
    for axes in blank:
        axes.set_axis_off()
    for axes in lowest:
        axes.tick_params(labelbottom=True)
        axes.set(xscale="log", xlabel="training images")
        low, high = own["n_train"][own["n_train"] > 0].agg(["min", "max"])
        sizes = (30, 100, 1000, 10_000) if high > 30 * low else (30, 100, 300, 1000, 3000)
        sizes = [n for n in sizes if low <= n <= high * 1.2]
        axes.set_xticks(sizes or [low], [f"{n:,}".replace(",", "\u202f") for n in sizes])
        axes.minorticks_off()
    handles = {}
    for axes in grid.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if blank:
        blank[0].legend(handles.values(), handles, loc="center", fontsize=7, frameon=False)
    else:
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=2, fontsize=7.5)
    return figure


def _stars(axes: Axes, published: pd.DataFrame, score: str) -> None:
    """Draw published results, with the names of the models beside them."""
    rows = published.dropna(subset=score).sort_values(score)
    if rows.empty:
        return
    apart = 0.19 * np.arange(len(rows))  # names that are closer on the logarithmic axis touch
    places = isotonic_regression(np.log10(_wrong(rows[score])) + apart, increasing=False) - apart
    for row, place in zip(rows.to_dict("records"), 10**places, strict=True):
        at, scratch = (row["n_train"], _wrong(row[score])), row["pretrained"] == "no"
        axes.plot(*at, "*", ms=7, mec="black", mfc="white" if scratch else "black", mew=0.7)
        beside = {"xytext": (6, place), "textcoords": ("offset points", "data")}
        axes.annotate(row["model"], at, **beside, ha="left", va="center", fontsize=6)


def _curve(axes: Axes, part: pd.DataFrame, score: str, name: str, label: str) -> None:
    """Draw one model: a curve with its band, or a line if it needs no training."""
    colour, marker, dash = LINES[name]
    known = part.dropna(subset=score)
    if known.empty:
        return
    if (known["n_train"] == 0).all():
        axes.axhline(_wrong(known[score].mean()), color=colour, ls=dash, lw=1.2, label=label)
        return
    by_size = known.groupby("n_train")[score]
    mean = by_size.mean()
    axes.plot(
        mean.index, _wrong(mean), color=colour, ls=dash, marker=marker, ms=4, lw=1.2, label=label
    )
    edges = _wrong(by_size.max()), _wrong(by_size.min())
    axes.fill_between(mean.index, *edges, color=colour, alpha=0.2, lw=0)


def _wrong(auc: float | pd.Series) -> float | pd.Series:
    """Return 1 - AUC, at least what the axis shows."""
    return np.maximum(1 - auc, _SMALLEST)


def _auc_axis(row: Sequence[Axes], smallest: float) -> None:
    """Make the vertical axes logarithmic in 1 - AUC, with ticks that tell the AUC."""
    ticks = [tick for tick in _TICKS if 1 - tick > 0.7 * smallest]
    for axes in row:
        axes.set_yscale("log")
        axes.set_yticks([1 - tick for tick in ticks], [f"{tick:g}" for tick in ticks])
        axes.set_ylim(0.62, 0.7 * smallest)
        axes.minorticks_off()
        axes.grid(axis="y", lw=0.4, color="0.9")
        axes.set_axisbelow(True)


def shortcut_loss(table: pd.DataFrame, labels: Mapping[str, str]) -> plt.Figure:
    """Draw what each model loses when the size of the ring tells nothing: a row a model.

    ``table`` has one row a model with the columns model and, of each score (roc_auc and
    macro_roc_auc), ``<score>_here``, ``<score>_there`` (the same model on the other population) and
    ``<score>_learnt`` (trained on the other population), each a mean over seeds with ``_sd``. A
    long way from the filled to the open mark: the model knew the class from the size.
    """
    names = [name for name in LINES if name in set(table["model"])]
    figure, grid = plt.subplots(
        1, 2, figsize=(WIDTH, 0.3 * len(names) + 1.1), sharey=True, layout="constrained"
    )
    marks = {
        "here": ("o", "black", "with the shortcut"),
        "there": ("o", "white", "the same models, size made uninformative"),
        "learnt": ("x", "black", "trained where the size is uninformative"),
    }
    rows = table.set_index("model")
    for axes, (score, title) in zip(grid, _SCORES.items(), strict=True):
        for place, name in enumerate(names):
            values = [rows.loc[name, f"{score}_{kind}"] for kind in ("here", "there")]
            axes.plot(values, [place, place], color="0.7", lw=1.2, zorder=1)
            for kind, (marker, fill, label) in marks.items():
                mean, sd = rows.loc[name, [f"{score}_{kind}", f"{score}_{kind}_sd"]]
                text = label if place == 0 else None
                axes.errorbar(
                    mean, place, xerr=sd, fmt=marker, mfc=fill, mec="black", ecolor="black", ms=5,
                    elinewidth=0.8, label=text,
                )  # fmt: skip
        axes.axvline(0.5, color="0.6", ls=":", lw=1)
        axes.set(xlabel=title, xlim=(0.42, 1.02))
        axes.set_yticks(range(len(names)), [labels[name] for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
    sns.despine(figure)
    figure.legend(
        *grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=7.5
    )
    return figure


def shortcut_table(table: pd.DataFrame, population: str, other: str) -> pd.DataFrame:
    """Return the table of ``shortcut_loss``: models that learnt from ``population``, or ``other``.

    Of trained ones, those of the largest number of images that there is of both. Scores of single
    numbers, which learn nothing, have no ``_learnt`` of their own: theirs is that on ``other``.
    """
    rows = []
    sizes = [set(table["n_train"][table["population"] == name]) for name in (population, other)]
    most = max(set.intersection(*sizes))
    for name in dict.fromkeys(table["model"]):
        part = table[table["model"] == name]
        row = {"model": name, "n_train": 0}
        for kind, (learnt, scored) in {
            "here": (population, population),
            "there": (population, other),
            "learnt": (other, other),
        }.items():
            curve = part[(part["population"] == learnt) & (part["scored_on"] == scored)]
            if (part["n_train"] > 0).any():
                curve = curve[curve["n_train"] == most]
                row["n_train"] = most
            for score in _SCORES:
                row[f"{score}_{kind}"] = curve[score].mean()
                row[f"{score}_{kind}_sd"] = np.nan_to_num(curve[score].std())
        rows.append(row)
    return pd.DataFrame(rows)
