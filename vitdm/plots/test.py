"""The final test (notebook 05)."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from vitdm.plots.style import COLOURS, NAMES, WIDTH


def _draw_roc(axes: plt.Axes, band: pd.DataFrame, logarithmic: bool = False) -> None:
    rows = band[band["fpr"] > 0] if logarithmic else band
    axes.fill_between(
        rows["fpr"],
        rows["tpr_low"],
        rows["tpr_high"],
        step="post",
        color=COLOURS["no_sub"],
        alpha=0.3,
        linewidth=0,
        label="range of the seeds",
    )
    label = "mean of the seeds"
    axes.step(rows["fpr"], rows["tpr"], where="post", color=COLOURS["no_sub"], lw=1.3, label=label)
    axes.plot(rows["fpr"], rows["fpr"], color="0.6", lw=0.8, ls="--", label="guessing")
    axes.set(xlabel="false-positive rate", ylim=(-0.02, 1.02))


def roc_curve(band: pd.DataFrame, n_negative: int) -> plt.Figure:
    """Draw the ROC curve of the test split, mean and range over the seeds, on two axes.

    ``band`` has the columns fpr, tpr, tpr_low, tpr_high (``evaluate.roc_band``). How to read it:
    each threshold on the score is one point, the fraction of lenses with substructure that are
    found against the fraction of smooth lenses that are flagged; the nearer to the upper left
    corner, the better. The right panel spreads the low rates, where surveys work, over a
    logarithmic axis that begins at one of the ``n_negative`` smooth test images.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9), sharey=True, layout="tight")
    _draw_roc(left, band)
    left.set(ylabel="true-positive rate", xlim=(-0.02, 1.02))
    left.legend(loc="lower right")
    _draw_roc(right, band, logarithmic=True)
    right.set(xscale="log", xlim=(min(1 / n_negative, 0.1), 1))
    right.xaxis.set_minor_formatter("")
    right.axvline(0.01, color="0.6", lw=0.8, ls=":")
    for axes, letter in ((left, "a"), (right, "b")):
        axes.set_title(f"({letter})", loc="left")
    return figure


def confusion_matrix(counts: pd.DataFrame) -> plt.Figure:
    """Draw the confusion matrix: a row is a true class, a column the most probable class.

    The colour and the percentage are fractions of the row, so that classes of different size
    compare; the number of images stands below. A perfect classifier fills the diagonal.
    """
    fractions = counts.div(counts.sum(axis=1).clip(lower=1), axis=0).to_numpy()
    names = [NAMES.get(name, name).replace(" ", "\n") for name in counts.columns]
    side = 1.0 + 0.85 * len(names)
    figure, axes = plt.subplots(figsize=(side + 0.7, side), layout="tight")
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, origin="upper")
    for (i, j), fraction in np.ndenumerate(fractions):
        text = f"{100 * fraction:.1f} %\n({counts.iat[i, j]})"
        colour = "white" if fraction > 0.55 else "black"
        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0)
    sns.despine(ax=axes, left=True, bottom=True)
    figure.colorbar(image, ax=axes, shrink=0.85, label="fraction of the true class")
    return figure


def sensitivity(panels: list[tuple[str, str, pd.DataFrame]], fpr: float) -> plt.Figure:
    """Draw the fraction of substructure found against its size, one panel a population.

    A panel is (class, axis label with unit, table of ``evaluate.completeness``). Points are bins
    with equal numbers of test images, horizontal bars their range, vertical bars 95 % binomial
    intervals. The threshold lets the fraction ``fpr`` of smooth lenses pass (dotted line): a point
    on it is no better than guessing.
    """
    figure, grid = plt.subplots(
        1,
        len(panels),
        figsize=(WIDTH if len(panels) > 1 else WIDTH / 1.7, 2.7),
        sharey=True,
        squeeze=False,
        layout="tight",
    )
    for axes, (name, label, table) in zip(grid[0], panels, strict=True):
        middle, rate = table["median"], table["rate"]
        axes.errorbar(
            middle,
            rate,
            xerr=[middle - table["low"], table["high"] - middle],
            yerr=np.abs([rate - table["rate_low"], table["rate_high"] - rate]),
            fmt="o",
            ms=4,
            lw=1,
            color=COLOURS[name],
        )
        axes.axhline(fpr, color="0.5", lw=0.8, ls=":")
        axes.set(xscale="log", xlabel=label, ylim=(-0.02, 1.04), title=NAMES[name])
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    grid[0][0].set_ylabel(f"fraction found at\n{100 * fpr:g} % false positives")
    return figure


def _draw_lens(axes: plt.Axes, image: np.ndarray) -> None:
    low, high = np.nanquantile(image, [0.5, 0.999])
    norm = matplotlib.colors.AsinhNorm(max(high - low, 1e-12) / 10, vmin=low, vmax=high)
    axes.imshow(image, norm=norm)
    axes.set(xticks=[], yticks=[])
    sns.despine(ax=axes, left=True, bottom=True)


def failures(images: np.ndarray, table: pd.DataFrame, columns: int = 5) -> plt.Figure:
    """Draw the worst misses (above) and the worst false alarms (below), the worst at the left.

    ``images`` (n, H, W) belong to the rows of ``table`` (class, kind, p_true). Each carries its
    true class and the model's probability of substructure, which is close to 0 for the misses and
    close to 1 for the false alarms.
    """
    kinds = [("miss", "missed"), ("false_alarm", "false alarms")]
    kinds = [(kind, text) for kind, text in kinds if (table["kind"] == kind).any()]
    figure, grid = plt.subplots(
        max(len(kinds), 1),
        columns,
        figsize=(WIDTH, 1.62 * max(len(kinds), 1)),
        squeeze=False,
        gridspec_kw={"wspace": 0.06, "hspace": 0.22},
    )
    for axes in grid.flat:
        axes.axis("off")
    for row, (kind, text) in zip(grid, kinds, strict=False):
        chosen = np.flatnonzero(table["kind"] == kind)[:columns]
        for axes, k in zip(row, chosen, strict=False):
            entry = table.iloc[k]
            score = entry["p_true"] if kind == "miss" else 1 - entry["p_true"]
            axes.axis("on")
            _draw_lens(axes, images[k])
            name = NAMES.get(entry["class"], entry["class"])
            axes.set_title(f"{name}\n$P$(sub.) = {score:.3f}", fontsize=7.5, pad=3)
        row[0].set_ylabel(text)
    if not kinds:
        grid[0][0].text(0, 0.5, "No image of the test split is classified wrongly.")
    return figure


def headline(images: np.ndarray, classes: list[str], band: pd.DataFrame, auc: str) -> plt.Figure:
    """Draw one lens of each class beside the ROC curve: the project in one picture.

    ``images`` (K, H, W) belong to ``classes``; ``band`` as in ``roc_curve``; ``auc`` is the text
    in the curve. The eye hardly tells the lenses apart; the curve shows that the model does.
    """
    widths = [1.0] * len(classes) + [0.38, 1.15]
    margins = {"left": 0.01, "right": 0.99, "bottom": 0.22, "top": 0.88, "wspace": 0.06}
    side = 0.98 * WIDTH / (sum(widths) + 0.06 * len(widths))
    figure, grid = plt.subplots(
        1,
        len(widths),
        figsize=(WIDTH, side / 0.66),
        gridspec_kw={"width_ratios": widths, **margins},
    )
    for axes, image, name in zip(grid, images, classes, strict=False):
        _draw_lens(axes, image)
        axes.set_title(NAMES.get(name, name), color=COLOURS.get(name, "black"), pad=4)
    grid[-2].axis("off")
    _draw_roc(grid[-1], band)
    grid[-1].set(
        ylabel="true-positive rate", xlim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1]
    )
    grid[-1].text(0.95, 0.12, auc, ha="right", transform=grid[-1].transAxes, fontsize=8.5)
    return figure
