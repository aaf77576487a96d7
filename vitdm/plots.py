"""One function per figure; each draws what it is given and returns the figure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import seaborn as sns  # noqa: E402

from vitdm.provenance import sidecar  # noqa: E402

COLOURS = {"no_sub": "#0072B2", "cdm": "#D55E00", "axion": "#009E73", "sub": "#CC79A7"}
NAMES = {"no_sub": "no substructure", "cdm": "CDM subhalos", "axion": "axion vortex"}
NAMES |= {"sub": "substructure"}
WIDTH = 6.3  # inches: the text width of the article


def style() -> None:
    """Set fonts, sizes and colours that stay readable in print and to the colour-blind."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind")
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 200,
            "font.size": 9,
            "axes.labelsize": 9,
            "axes.titlesize": 9,
            "legend.fontsize": 8,
            "legend.frameon": False,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "image.cmap": "inferno",
            "image.origin": "lower",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "pdf.fonttype": 42,
            "svg.hashsalt": "vitdm",
        }
    )


def save(figure: plt.Figure, path: str | Path, **provenance: Any) -> None:
    """Write ``path`` as .png and .pdf, the same bytes for the same figure, and the sidecar .json."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        temporary = path.with_name(f".{path.name}{suffix}")
        figure.savefig(temporary, bbox_inches="tight", metadata=metadata, format=suffix[1:])
        temporary.replace(path.with_suffix(suffix))
    sidecar(path.with_suffix(".json"), **{"rule": path.name, **provenance})


# ------------------------------------------------------------------ data, processing and features


def lens_gallery(lenses: dict[str, np.ndarray], pixel_scale: float | None = None) -> plt.Figure:
    """Draw lenses as the network sees them: a row a class, (n, size, size) images each.

    All images share one scale, the stretched value above the sky. ``pixel_scale`` (arcsec) adds a
    bar of one arcsecond. How to read it: the classes look alike; what differs between images of a
    class, the position of the source, is far larger than what differs between classes.
    """
    columns = max(len(images) for images in lenses.values())
    figure, grid = plt.subplots(
        len(lenses),
        columns,
        figsize=(WIDTH, (WIDTH - 0.3) / columns * len(lenses)),
        squeeze=False,
        gridspec_kw={"wspace": 0.04, "hspace": 0.04},
    )
    high = max(np.quantile(images, 0.9995) for images in lenses.values())
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        sns.despine(ax=axes, left=True, bottom=True)
    for row, (name, images) in zip(grid, lenses.items(), strict=True):
        row[0].set_ylabel(NAMES.get(name, name), color=COLOURS.get(name, "black"))
        for axes, image in zip(row, images, strict=False):
            axes.imshow(image, vmin=0, vmax=high)
    if pixel_scale:
        axes, side = grid[-1][0], grid[-1][0].get_xlim()[1]
        axes.plot([0.06 * side, 0.06 * side + 1 / pixel_scale], [0.07 * side] * 2, "w", lw=2)
        axes.text(0.06 * side, 0.1 * side, '1"', color="w", va="bottom")
    return figure


def perturbations(smooth: np.ndarray, perturbed: dict[str, tuple]) -> plt.Figure:
    """Draw what substructure does to one lens: without noise, with the same source.

    ``smooth`` (H, W) has no substructure; ``perturbed`` maps a class to its image (H, W) and the
    positions x, y (px) and sizes (points²) of its masses. Above: the images. Below: the difference
    to the smooth lens in percent of its peak, red brighter, blue fainter, with the masses (dots).
    """
    figure, grid = plt.subplots(
        2,
        1 + len(perturbed),
        figsize=(WIDTH, 2 * WIDTH / (1.25 + len(perturbed))),
        layout="constrained",
    )
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        sns.despine(ax=axes, left=True, bottom=True)
    peak = float(smooth.max())
    differences = [100 * (image - smooth) / peak for image, *_ in perturbed.values()]
    limit = max(np.abs(difference).max() for difference in differences)
    grid[0][0].imshow(smooth, vmin=0, vmax=peak)
    grid[0][0].set_title(NAMES["no_sub"], color=COLOURS["no_sub"])
    grid[1][0].set_visible(False)
    for k, (name, (image, x, y, sizes)) in enumerate(perturbed.items(), 1):
        grid[0][k].imshow(image, vmin=0, vmax=peak)
        grid[0][k].set_title(NAMES[name], color=COLOURS[name])
        shown = grid[1][k].imshow(differences[k - 1], cmap="RdBu_r", vmin=-limit, vmax=limit)
        grid[1][k].scatter(x, y, s=sizes, c="k", lw=0, alpha=0.6)
        grid[1][k].set(xlim=grid[0][k].get_xlim(), ylim=grid[0][k].get_ylim())
    figure.colorbar(shown, ax=grid[1], shrink=0.9, label="difference / peak (%)")
    return figure


def noise_histogram(pixels: np.ndarray, sigma: float) -> plt.Figure:
    """Draw the distribution of sky pixels and the Gaussian of the measured noise.

    ``pixels`` (n,) are sky-subtracted, in units of the measured rms ``sigma`` (image units, in the
    legend). A spike at the left edge is noise that was clipped at zero: the Gaussian describes what
    is right of the sky, and continues to the left where the clipped half would be.
    """
    figure, axes = plt.subplots(figsize=(WIDTH / 1.6, 2.4), layout="tight")
    bins = np.arange(-4, 4.01, 0.2)
    axes.hist(pixels, bins, density=True, color="0.75", label="pixels outside the lensed area")
    x = np.linspace(-4, 4, 200)
    label = f"Gaussian, $\\sigma$ = {sigma:.3g}"
    axes.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=COLOURS["cdm"], label=label)
    axes.set(xlabel=r"(pixel - sky) / $\sigma$", ylabel="density")
    axes.legend(loc="upper right", fontsize=7)
    return figure


def processing_steps(image: np.ndarray, light: Any, roi: Any, square: np.ndarray) -> plt.Figure:
    """Draw the way from a raw image to what the network sees, in four steps.

    ``image`` (H, W) raw, ``light`` and ``roi`` what ``preprocess`` finds in it, ``square``
    (size, size) the result. (a) raw pixels; (b) smoothed, in units of the noise, with the contour
    of the threshold; (c) the region of interest, its centre and major axis, the arrow towards the
    longer tail; (d) cut and stretched.
    """
    figure, grid = plt.subplots(1, 4, figsize=(WIDTH, 1.95), layout="constrained")
    for axes, letter, title in zip(
        grid, "abcd", ("raw", "smoothed / noise", "region of interest", "stretched"), strict=True
    ):
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"({letter}) {title}", loc="left", fontsize=8)
        sns.despine(ax=axes, left=True, bottom=True)
    residual = light.residual / light.noise
    steps = [residual, light.smooth / light.noise_smooth, residual, square]
    for axes, step in zip(grid, steps, strict=True):
        high = np.quantile(step, 0.9995)
        shown = axes.imshow(step, vmin=min(0, np.quantile(step, 0.01)), vmax=high)
        figure.colorbar(shown, ax=axes, location="bottom", shrink=0.9, aspect=14, pad=0.02)
    grid[1].contour(light.mask, [0.5], colors="w", linewidths=0.7)
    if roi.found:
        grid[2].contour(roi.mask, [0.5], colors="w", linewidths=0.7)
        grid[2].plot(roi.x, roi.y, "+", color="c", ms=7)
    if roi.oriented:
        length = 0.3 * len(image)
        dx, dy = (length * f(np.radians(roi.angle)) for f in (np.cos, np.sin))
        arrow = {"arrowstyle": "->", "color": "c", "lw": 1.2}
        start, end = (roi.x - dx, roi.y - dy), (roi.x + dx, roi.y + dy)
        grid[2].annotate("", end, start, arrowprops=arrow)
    return figure


def rotation_test(table: pd.DataFrame) -> plt.Figure:
    """Draw how alike an image and its rotated copy are after processing, against the angle.

    ``table`` has the columns angle (deg), derotate (bool), correlation. Lines are medians over the
    images, bands hold the central 90 %. If the de-rotation works, its line stays at one.
    """
    figure, axes = plt.subplots(figsize=(WIDTH / 1.4, 2.7), layout="tight")
    styles = {True: ("de-rotated", COLOURS["no_sub"]), False: ("as it is", COLOURS["cdm"])}
    for derotate, (label, colour) in styles.items():
        groups = table[table["derotate"] == derotate].groupby("angle")["correlation"]
        low, middle, high = (groups.quantile(q) for q in (0.05, 0.5, 0.95))
        axes.fill_between(middle.index, low, high, color=colour, alpha=0.2, lw=0)
        axes.plot(middle.index, middle, "o-", color=colour, ms=3.5, label=label)
    axes.axhline(0, color="0.6", lw=0.8, ls=":")
    axes.set(xlabel="rotation of the raw image (deg)", ylabel="correlation with the unrotated")
    axes.set(xticks=range(0, 361, 60), xlim=(-5, 365), ylim=(min(-0.1, axes.get_ylim()[0]), 1.03))
    axes.legend(loc="center right")
    return figure


def feature_distributions(values: pd.DataFrame, units: dict[str, str]) -> plt.Figure:
    """Draw the distribution of each feature, one line a class.

    ``values`` has a column class and one a feature; ``units`` names the features to draw, with
    their units. Each histogram has unit area over the images in which the feature exists; the axis
    spans the central 99 %. Lines that lie on one another: the feature says nothing by itself.
    """
    columns, rows = 4, -(-len(units) // 4)
    figure, grid = plt.subplots(
        rows, columns, figsize=(WIDTH, 1.28 * rows), squeeze=False, layout="constrained"
    )
    classes = [name for name in COLOURS if name in set(values["class"])]
    for axes in grid.flat[len(units) :]:
        axes.axis("off")
    for axes, (feature, unit) in zip(grid.flat, units.items(), strict=False):
        known = values[feature].dropna()
        low, high = known.quantile([0.005, 0.995]) if len(known) else (0.0, 1.0)
        bins = np.linspace(low, high if high > low else low + 1, 31)
        if feature.startswith("n_"):
            bins = np.arange(np.floor(low) - 0.5, high + 1)
        for name in classes:
            chosen = known[values.loc[known.index, "class"] == name]
            weights = np.full(len(chosen), 1 / max(len(chosen), 1))
            axes.hist(
                chosen, bins, weights=weights, histtype="step", lw=1.1, color=COLOURS[name]
            )
        axes.set(yticks=[])
        axes.tick_params(labelsize=7, pad=1.5, length=2.5)
        axes.set_title(feature + (f" ({unit})" if unit else ""), fontsize=7, pad=2)
        sns.despine(ax=axes, left=True)
    handles = [plt.Line2D([], [], color=COLOURS[name]) for name in classes]
    names = [NAMES[name] for name in classes]
    figure.legend(handles, names, loc="outside lower center", ncols=len(classes))
    return figure


def feature_auc(ranking: pd.DataFrame, together: tuple[float, float, float]) -> plt.Figure:
    """Draw the ROC-AUC of each feature alone, and of all together, with 95 % intervals.

    ``ranking`` has the columns name, roc_auc, low, high, sign (the best first); ``together`` is the
    value, low and high of a classifier on all features (star, band). One half is chance. The colour
    tells whether substructure makes the feature larger or smaller.
    """
    size = (WIDTH / 1.25, 1 + 0.185 * len(ranking))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    rows = np.arange(len(ranking), 0, -1)
    signs = [(1, COLOURS["cdm"], "larger"), (-1, COLOURS["no_sub"], "smaller")]
    for sign, colour, label in signs:
        chosen = (ranking["sign"] == sign).to_numpy()
        if chosen.any():
            part = ranking[chosen]
            error = [part["roc_auc"] - part["low"], part["high"] - part["roc_auc"]]
            label = f"{label} with substructure"
            style = {"fmt": "o", "ms": 4, "lw": 1.2, "color": colour, "label": label}
            axes.errorbar(part["roc_auc"], rows[chosen], xerr=error, **style)
    value, low, high = together
    axes.axvspan(low, high, color=COLOURS["axion"], alpha=0.25, lw=0)
    axes.plot(value, 0, "*", ms=9, color=COLOURS["axion"])
    axes.axvline(0.5, color="0.6", lw=0.8, ls=":")
    axes.set_yticks([*rows, 0], [*ranking["name"], "all features together"], fontsize=7.5)
    axes.set(xlabel="ROC-AUC, substructure against none", ylim=(-0.7, len(ranking) + 0.7))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def feature_correlation(matrix: pd.DataFrame) -> plt.Figure:
    """Draw the rank correlations of the features with one another and with the target.

    ``matrix`` is square and symmetric, of Spearman coefficients. Red: they grow together; blue: one
    falls as the other grows. Blocks of strong colour are features that say the same thing.
    """
    side = 1.6 + 0.225 * len(matrix)
    figure, axes = plt.subplots(figsize=(min(side + 0.5, WIDTH), min(side, WIDTH - 0.5)))
    sns.heatmap(
        matrix,
        cmap="RdBu_r",
        vmin=-1,
        vmax=1,
        square=True,
        ax=axes,
        linewidths=0.3,
        cbar_kws={"label": "Spearman's rank correlation", "shrink": 0.8},
    )
    axes.tick_params(labelsize=7, length=0)
    return figure


# ------------------------------------------------------------------ model and training


# ------------------------------------------------------------------ optimisation


# ------------------------------------------------------------------ final test


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
