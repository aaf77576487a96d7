"""The final test (notebook 05)."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from studies.plots.style import BLUE, VERMILION, WIDTH, classes_in, colour_of, label_of, nothing
from studies.sensitivity import binning
from vitdm.lens.fits import middle
from vitdm.simulation.classes import CLASSES, NO_SUB


def _draw_roc(axes: plt.Axes, band: pd.DataFrame, logarithmic: bool = False) -> None:
    rows = band[band["fpr"] > 0] if logarithmic else band
    axes.fill_between(
        rows["fpr"],
        rows["tpr_low"],
        rows["tpr_high"],
        step="post",
        color=BLUE,
        alpha=0.3,
        linewidth=0,
        label="range of the seeds",
    )
    label = "mean of the seeds"
    axes.step(rows["fpr"], rows["tpr"], where="post", color=BLUE, lw=1.3, label=label)
    axes.plot(rows["fpr"], rows["fpr"], color="0.6", lw=0.8, ls="--", label="guessing")
    axes.set(xlabel="false-positive rate", ylim=(-0.02, 1.02))


def roc_curve(
    band: pd.DataFrame, n_negative: int, reliability: dict[str, pd.DataFrame]
) -> plt.Figure:
    """Draw the ROC curve of the test split on two axes, and how far scores are probabilities.

    ``band`` has the columns fpr, tpr, tpr_low, tpr_high (``metrics.roc_band``). How to read it:
    each threshold on the score is one point, the fraction of lenses with substructure that are
    found against the fraction of smooth lenses that are flagged; the nearer to the upper left
    corner, the better. Panel (b) spreads the low rates, where surveys work, over a logarithmic axis
    that begins at one of the ``n_negative`` smooth test images. Panel (c) draws tables of
    ``calibration.reliability``, by name: on the diagonal, scores are probabilities; bars are 95 %
    intervals.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(WIDTH, 2.6), layout="tight")
    _draw_roc(left, band)
    left.set(ylabel="true-positive rate", xlim=(-0.02, 1.02))
    left.legend(loc="lower right", fontsize=7)
    _draw_roc(middle, band, logarithmic=True)
    middle.set(xscale="log", xlim=(min(1 / max(n_negative, 1), 0.1), 1), yticklabels=[])
    middle.xaxis.set_minor_formatter("")
    for fpr in (0.001, 0.01):
        middle.axvline(fpr, color="0.6", lw=0.8, ls=":")
    right.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--")
    for (name, table), marker, colour in zip(
        reliability.items(), "so", (VERMILION, BLUE), strict=True
    ):
        errors = np.abs([table["rate"] - table["rate_low"], table["rate_high"] - table["rate"]])
        right.errorbar(
            table["score"],
            table["rate"],
            errors,
            fmt=marker,
            ms=3,
            lw=0.8,
            color=colour,
            label=name,
        )
    right.set(
        xlabel="score", ylabel="fraction with substr.", ylim=(-0.02, 1.02), xlim=(-0.02, 1.02)
    )
    above = {"loc": "lower right", "bbox_to_anchor": (1.05, 1), "ncols": 2, "borderpad": 0}
    right.legend(fontsize=7, handletextpad=0.1, columnspacing=0.6, **above)
    for axes, letter in ((left, "a"), (middle, "b"), (right, "c")):
        axes.set_title(f"({letter})", loc="left")
    return figure


def confusion_matrix(counts: pd.DataFrame) -> plt.Figure:
    """Draw the confusion matrix: a row is a true class, a column the most probable class.

    The colour and the percentage are fractions of the row, so that classes of different size
    compare; the number of images stands below. A perfect classifier fills the diagonal.
    """
    fractions = counts.div(counts.sum(axis=1).clip(lower=1), axis=0).to_numpy()
    names = [label_of(name).replace(" ", "\n") for name in counts.columns]
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


POPULATIONS = {"marginal": "#0072B2", "model_i": "#D55E00", "realistic": "#009E73"}


def sensitivity(table: pd.DataFrame, collapse: dict[str, float], fpr: float) -> plt.Figure:
    """Draw what it takes to be found, one panel a quantity, one colour a population.

    ``table`` has the columns of ``sensitivity.binned`` and population. Filled points: completeness,
    the fraction of lenses with substructure found at the threshold that lets ``fpr`` of the smooth
    ones pass. Open points: ROC-AUC of those in the bin. Bars: 95 % intervals; horizontal ones are
    bins, with equal numbers of images. The dotted line is guessing at the ROC-AUC, 1/2. Vertical
    lines, by population: ``collapse`` (solar masses), below which published sensitivity collapses.
    """
    known = binning()
    shown = [name for name in known if (table["quantity"] == name).any()]
    if not shown:
        return nothing("no image whose substructure is known")
    rows, columns = -(-len(shown) // 3), min(3, len(shown))
    figure, grid = plt.subplots(
        rows, columns, figsize=(WIDTH, 0.4 + 2.05 * rows), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes in grid.flat[len(shown) :]:
        axes.axis("off")
    spare = iter(("#CC79A7", "#56B4E9", "#F0E442"))
    populations = dict.fromkeys(table["population"])
    colours = {name: POPULATIONS.get(name) or next(spare) for name in populations}
    for k, (axes, quantity) in enumerate(zip(grid.flat, shown, strict=False)):
        of_axis = known[quantity]
        unit, scale = of_axis.unit, "log" if of_axis.log else "linear"
        for name, bins in table[table["quantity"] == quantity].groupby("population", sort=False):
            for what, filled in (("rate", True), ("auc", False)):
                (low, middle, high), value = (
                    bins[["low", "median", "high"]].T.to_numpy() / unit,
                    bins[what],
                )
                axes.errorbar(
                    middle, value,
                    xerr=[middle - low, high - middle] if filled else None,
                    yerr=np.abs([value - bins[f"{what}_low"], bins[f"{what}_high"] - value]),
                    fmt="o" if filled else "D", ms=3.5, lw=0.8, color=colours[name],
                    mfc=colours[name] if filled else "white",
                )  # fmt: skip
            if quantity == "substructure_mass" and name in collapse:
                axes.axvline(collapse[name] / unit, color=colours[name], lw=0.9, ls="--")
        axes.axhline(0.5, color="0.6", lw=0.8, ls=":")
        axes.set(xscale=scale, ylim=(-0.03, 1.05))
        axes.set_xlabel(of_axis.label, fontsize=8)
        if scale == "log":
            low, high = axes.get_xlim()
            subs = (1, 2, 5) if high / low < 200 else (1,)  # labels must not run into each other
            axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=subs, numticks=9))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        axes.set_title(f"({'abcdef'[k]})", loc="left")
    for row in grid:
        row[0].set_ylabel("completeness, ROC-AUC")
    handles = [plt.Line2D([], [], color=c, lw=3, label=name) for name, c in colours.items()]
    black = {"color": "0.3", "ls": ""}
    handles += [plt.Line2D([], [], marker="o", label=f"found at {100 * fpr:g} % FPR", **black)]
    handles += [plt.Line2D([], [], marker="D", mfc="white", label="ROC-AUC", **black)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=7.5)
    return figure


def neighbours(table: pd.DataFrame, pair: np.ndarray, near: float) -> plt.Figure:
    """Draw how far each image is from the most similar one of another split, and the closest pair.

    ``table`` is that of ``neighbours.nearest``, ``pair`` (2, H, W) the two images that are closest.
    The distance is in units of what lies between two exposures of one lens: what is left of
    ``near`` (dashed line) is a near-duplicate.
    """
    figure, (axes, *lenses) = plt.subplots(
        1, 3, figsize=(WIDTH, 1.9), gridspec_kw={"width_ratios": (2.2, 1, 1)}, layout="tight"
    )
    distance = np.clip(table["distance"].dropna(), 0.1, None)
    if distance.empty:
        return nothing("no image with a known distance to those of other splits")
    edges = np.geomspace(min(distance.min(), 0.9), distance.max(), 40)
    axes.hist(distance, bins=edges, color=BLUE)
    axes.axvline(near, color="0.2", ls="--", lw=1)
    axes.set(xscale="log", xlabel="distance (two exposures of one lens = 1)", ylabel="images")
    subs = (1, 2, 5) if edges[-1] / edges[0] < 200 else (1,)  # labels must not run together
    axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=subs, numticks=5))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    closest = table.loc[table["distance"].idxmin()]
    for panel, image, split in zip(
        lenses, pair, (closest["split"], closest["nearest_split"]), strict=True
    ):
        _draw_lens(panel, image)
        panel.set_title(f"closest: {split}", fontsize=8)
    return figure


def _draw_lens(axes: plt.Axes, image: np.ndarray) -> None:
    low, high = np.nanquantile(image, [0.5, 0.999]) if np.isfinite(image).any() else (0, 1)
    norm = matplotlib.colors.AsinhNorm(max(high - low, 1e-12) / 10, vmin=low, vmax=high)
    axes.imshow(image, norm=norm)
    axes.set(xticks=[], yticks=[])
    sns.despine(ax=axes, left=True, bottom=True)


def failures(
    images: np.ndarray,
    table: pd.DataFrame,
    attention: np.ndarray | None = None,
    pixel_scale: float | None = None,
    columns: int = 5,
) -> plt.Figure:
    """Draw the worst mistakes of each class, a row a class, the worst at the left.

    ``images`` (n, H, W) and ``attention`` (n, rows, columns) are of the rows of ``table`` (class,
    kind, p_true, and of simulated lenses the truth). Each carries the model's probability of
    substructure, close to 0 for misses and to 1 for false alarms. A veil lies over what the network
    attends to least, none over what it attends to most; with ``pixel_scale`` ["], where the truth
    is known, a cross marks the heaviest subhalo and a line the vortex, and their total mass (solar
    masses) or length is told.
    """
    classes = classes_in(table["class"])
    figure, grid = plt.subplots(
        max(len(classes), 1), columns, figsize=(WIDTH, 0.1 + 1.5 * max(len(classes), 1)),
        squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.28},
    )  # fmt: skip
    for axes in grid.flat:
        axes.axis("off")
    for row, name in zip(grid, classes, strict=False):
        chosen = np.flatnonzero(table["class"] == name)[:columns]
        for axes, k in zip(row, chosen, strict=False):
            entry = table.iloc[k]
            score = entry["p_true"] if entry["kind"] == "miss" else 1 - entry["p_true"]
            axes.axis("on")
            _draw_lens(axes, images[k])
            axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
            if attention is not None:
                _veil(axes.images[0], attention[k])
            told = _mark_truth(axes, entry, images.shape[1:], pixel_scale) if pixel_scale else ""
            axes.set_title(f"$P$ = {score:.3f}{told}", fontsize=7.5, pad=3)
        kind = "false alarms" if name == NO_SUB else "missed"
        text = label_of(name).replace(" ", "\n") + f",\n{kind}"
        row[0].set_ylabel(text, fontsize=8, color=colour_of(name))
    if not classes:
        grid[0][0].text(0, 0.5, "No image of the test split is classified wrongly.")
    return figure


def _veil(shown: matplotlib.image.AxesImage, attention: np.ndarray) -> None:
    """Darken a picture where there is little attention (rows, columns), in opaque colours.

    Not every reader of PDF draws pictures that let others shine through.
    """
    least, most = attention.min(), attention.max()
    veil = 0.6 * (most - attention) / max(most - least, 1e-12)
    colours = shown.to_rgba(shown.get_array())
    rows, columns = (
        np.arange(side) * of // side for side, of in zip(colours.shape[:2], veil.shape, strict=True)
    )
    colours[..., :3] *= 1 - veil[np.ix_(rows, columns)][..., None]
    shown.set_data(colours)


def _mark_truth(
    axes: plt.Axes, entry: pd.Series, shape: tuple[int, int], pixel_scale: float
) -> str:
    """Mark the substructure of one lens, and return what is to be said of it."""
    middle = np.array([shape[1] - 1, shape[0] - 1]) / 2
    style = {"color": "#56B4E9", "lw": 1.2, "mew": 1.2, "ms": 6}
    # places are measured from the centre of the lens
    center = entry.reindex(["center_x", "center_y"]).fillna(0.0).to_numpy(float)
    middle = middle + center / pixel_scale
    known = CLASSES[entry["class"]]
    if known.middle is None or not np.isfinite(entry.get(known.middle[0], np.nan)):
        return ""
    place = entry[list(known.middle)].to_numpy(float)
    if known.line is None:
        axes.plot(*(place / pixel_scale + middle), "+", **style)
        return f", $10^{{{np.log10(entry['substructure_mass']):.1f}}}$"
    length, angle = entry[list(known.line)].to_numpy(float)
    along = np.outer([-length / 2, length / 2], [np.cos(angle), np.sin(angle)])
    axes.plot(*((place + along) / pixel_scale + middle).T, "-", **style)
    return f", {length:.1f}″"


def headline(
    images: np.ndarray,
    classes: list[str],
    band: pd.DataFrame,
    auc: str,
    residuals: np.ndarray | None = None,
) -> plt.Figure:
    """Draw a lens of each class, what a smooth lens leaves of it, and the ROC curve.

    ``images`` (K, H, H) belong to ``classes``; ``residuals`` (K, s, s) are in units of the noise
    (blue -5, red 5), without them there is no second row. ``band`` as in
    ``roc_curve``; ``auc`` is the text in the curve. The eye hardly tells the lenses apart; what the
    fit leaves shows the substructure, and the curve how well the model does.
    """
    rows = [images] if residuals is None else [images, residuals]
    size = min(row.shape[-1] for row in rows)
    rows = [middle(row, size) for row in rows]
    widths = [1.0] * len(classes) + [0.42, 0.85 * (1 + 0.5 * (len(rows) - 1))]
    side = 0.94 * WIDTH / (sum(widths) + 0.05 * len(widths))
    height = len(rows) * 1.05 * side + 0.3
    margins = {"left": 0.05, "right": 0.99, "wspace": 0.05, "hspace": 0.05}
    figure, grid = plt.subplots(
        len(rows),
        len(widths),
        figsize=(WIDTH, height),
        squeeze=False,
        gridspec_kw={"width_ratios": widths, "bottom": 0.02, "top": 1 - 0.27 / height, **margins},
    )
    for column, name in zip(grid.T, classes, strict=False):
        column[0].set_title(label_of(name), color=colour_of(name), pad=4)
    for axes, image in zip(grid[0], rows[0], strict=False):
        _draw_lens(axes, image)
    for axes, residual in zip(grid[-1], rows[1] if len(rows) > 1 else (), strict=False):
        axes.imshow(residual, cmap="RdBu_r", vmin=-5, vmax=5)
        axes.set(xticks=[], yticks=[])
        sns.despine(ax=axes, left=True, bottom=True)
    for row, text in zip(grid, ("image", "minus a smooth lens"), strict=False):
        row[0].set_ylabel(text, fontsize=8.5)
    for axes in grid[:, -2:].flat:
        axes.axis("off")
    box = grid[0, -1].get_position()
    low = 0.5 / height
    curve = figure.add_axes((box.x0, low, box.width, box.y1 - low))
    _draw_roc(curve, band)
    curve.set(
        ylabel="true-positive rate", xlim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1]
    )
    curve.text(0.95, 0.12, auc, ha="right", transform=curve.transAxes, fontsize=9)
    return figure
