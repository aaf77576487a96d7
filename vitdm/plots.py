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
from scipy import ndimage

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
        figsize=(WIDTH, (WIDTH - 0.4) / columns * len(lenses)),
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    high = max(np.quantile(images, 0.9995) for images in lenses.values())
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        sns.despine(ax=axes, left=True, bottom=True)
    for row, (name, images) in zip(grid, lenses.items(), strict=True):
        row[0].set_ylabel(NAMES[name].replace(" ", "\n"), color=COLOURS[name], fontsize=9)
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
    to the smooth lens in percent of its peak, red brighter, blue fainter; circles are the masses.
    """
    figure, grid = plt.subplots(
        2,
        1 + len(perturbed),
        figsize=(WIDTH, 2.1 * WIDTH / (1 + len(perturbed))),
        layout="constrained",
    )
    peak = float(smooth.max())
    rows, columns = np.nonzero(smooth > 0.01 * peak)
    middle = [(columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2]
    half = 0.6 * max(np.ptp(columns), np.ptp(rows))
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        sns.despine(ax=axes, left=True, bottom=True)
    differences = [100 * (image - smooth) / peak for image, *_ in perturbed.values()]
    limit = max(np.abs(difference).max() for difference in differences)
    grid[0][0].imshow(smooth, vmin=0, vmax=peak)
    grid[0][0].set_title(NAMES["no_sub"], color=COLOURS["no_sub"])
    for k, (name, (image, x, y, sizes)) in enumerate(perturbed.items(), 1):
        grid[0][k].imshow(image, vmin=0, vmax=peak)
        grid[0][k].set_title(NAMES[name], color=COLOURS[name])
        shown = grid[1][k].imshow(differences[k - 1], cmap="RdBu_r", vmin=-limit, vmax=limit)
        grid[1][k].scatter(x, y, s=sizes, ec="k", fc="none", lw=0.6)
    xlim, ylim = ((centre - half, centre + half) for centre in middle)
    for axes in grid.flat:
        axes.set(xlim=xlim, ylim=ylim)
    scale = grid[1][0].inset_axes([0.1, 0.55, 0.8, 0.06])
    figure.colorbar(shown, cax=scale, orientation="horizontal", label="difference / peak (%)")
    return figure


def noise_histogram(pixels: np.ndarray, sigma: float) -> plt.Figure:
    """Draw the distribution of sky pixels and the Gaussian of the measured noise.

    ``pixels`` (n,) are sky-subtracted, in units of the measured rms ``sigma`` (image units, in the
    legend). A spike at the left edge is noise that was clipped at zero: the Gaussian describes what
    is right of the sky, and continues to the left where the clipped half would be.
    """
    figure, axes = plt.subplots(figsize=(WIDTH / 1.6, 2.4), layout="tight")
    bins = np.arange(-4.1, 4.2, 0.2)
    axes.hist(pixels, bins, density=True, color="0.75", label="pixels outside the lensed area")
    x = np.linspace(-4, 4, 200)
    label = f"Gaussian, $\\sigma$ = {sigma:.3g}"
    axes.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=COLOURS["cdm"], label=label)
    axes.set(xlabel=r"(pixel $-$ sky) / $\sigma$", ylabel="density", yscale="log", ylim=(1e-3, 40))
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
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def feature_distributions(values: pd.DataFrame, units: dict[str, str]) -> plt.Figure:
    """Draw the distribution of each feature, one line a class.

    ``values`` has a column class and one a feature; ``units`` names the features to draw, with
    their units. Each histogram has unit area over the images in which the feature exists; the axis
    leaves out the lowest 5 % (a long tail of merged regions) and the highest 0.5 %. Lines that lie on
    one another: the feature says nothing by itself.
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
        low, high = known.quantile([0.05, 0.995]) if len(known) else (0.0, 1.0)
        bins = np.linspace(low, high if high > low else low + 1, 31)
        if feature.startswith("n_"):
            bins = np.arange(np.floor(low) - 0.5, high + 1)
        for name in classes:
            chosen = known[values.loc[known.index, "class"] == name]
            weights = np.full(len(chosen), 1 / max(len(chosen), 1))
            axes.hist(chosen, bins, weights=weights, histtype="step", lw=1.1, color=COLOURS[name])
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


def shifted_patches(stack: np.ndarray, patch_size: int, patch: tuple[int, int]) -> plt.Figure:
    """Draw an image, its four half-patch shifts, and what one token sees of each.

    ``stack`` (5, H, W) are the channels of ``model.shift_patches``; ``patch`` is the (row, column)
    of the token. Above: the five channels with the grid of patches; the box is the token's patch,
    the dashed box all pixels of the original that it sees. Below: the box of each channel, cut out.
    """
    half = patch_size // 2
    y, x = patch[0] * patch_size, patch[1] * patch_size
    moves = [(-half, -half), (half, -half), (-half, half), (half, half)]
    titles = ["image", *(f"moved by\n({dx:+d}, {dy:+d}) px".replace("-", "−") for dx, dy in moves)]
    figure, grid = plt.subplots(
        2,
        5,
        figsize=(WIDTH, 2.75),
        layout="constrained",
        gridspec_kw={"height_ratios": [1, 0.72]},
    )
    limits = {"vmin": float(stack.min()), "vmax": float(stack.max())}
    for k, (channel, title) in enumerate(zip(stack, titles, strict=True)):
        above, below = grid[:, k]
        above.imshow(channel, **limits)
        for edge in range(patch_size, max(channel.shape), patch_size):
            above.axhline(edge - 0.5, color="white", lw=0.3, alpha=0.5)
            above.axvline(edge - 0.5, color="white", lw=0.3, alpha=0.5)
        boxes = [(0, patch_size, "-")] + ([(-half, 2 * patch_size, "--")] if k == 0 else [])
        for offset, side, dash in boxes:
            corner = (x + offset - 0.5, y + offset - 0.5)
            box = plt.Rectangle(corner, side, side, fill=False, ec="cyan", lw=1.1, ls=dash)
            above.add_patch(box)
        above.set_title(title, fontsize=8)
        below.imshow(channel[y : y + patch_size, x : x + patch_size], **limits)
        for axes in (above, below):
            axes.set(xticks=[], yticks=[])
            sns.despine(ax=axes, left=True, bottom=True)
    grid[0][0].set_ylabel("channels")
    grid[1][0].set_ylabel("one token's\nvalues")
    return figure


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
        text = NAMES.get(name, name).replace(" ", "\n")
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
        kept = run.loc[run["valid_roc_auc"].idxmax()]
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


# ------------------------------------------------------------------ optimisation

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
    corner = figure.add_axes((0.54, 0.84, 0.36, 0.018))
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
        bar = _corner_bar(figure, shown, "call (the star is the best)")
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
        bar = _corner_bar(figure, shown, "predicted ROC-AUC (the star is the best trial)")
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
