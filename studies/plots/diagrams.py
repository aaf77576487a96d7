"""How the work and the model are put together, with pictures of one lens in them (notebook 03)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from studies.plots.style import BLUE, GREEN, VERMILION, colour_of, label_of

PAGE = 7.0  # inches: the text width of a page with two columns
SMALL, LARGE = 7.5, 8.5  # pt
PIXELS, PHYSICS, SEARCH = BLUE, VERMILION, GREEN
#: what the stages of the workflow do with the images of each split; darker: more depends on them
SPLITS = {
    "train": ("learn", "learn", "learn", "learn", ""),
    "valid": ("choose", "stop early", "stop early", "calibrate", ""),
    "opt": ("", "compare", "score", "learn", ""),
    "test": ("", "", "", "", "score, once"),
}
STAGES = ("choose\nfeatures", "compare\nmodels", "Bayesian\nsearch", "final\nmodels", "final\ntest")
SHADES = {"learn": "#0b4f7d", "": "white"}  # all other uses are of one shade between


class _Sheet:
    """A page on which pictures, boxes and arrows are placed, in inches from its lower left."""

    def __init__(self, height: float) -> None:
        self.figure = plt.figure(figsize=(PAGE, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, PAGE), ylim=(0, height))
        self.axes.axis("off")
        self.axes.autoscale(False)

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        style = {
            "ha": "center",
            "va": "center_baseline",
            "fontsize": SMALL,
            "linespacing": 1.15,
        } | style
        raised = 0.02 if style["va"] == "center_baseline" else 0  # which is below the middle
        self.axes.text(x, y + raised, text, **style)

    def picture(
        self, values: np.ndarray, x: float, y: float, width: float, height: float, **style: Any
    ) -> Any:
        """Draw values in a frame with its lower left corner at (x, y)."""
        style = {"zorder": 2} | style
        extent = (x, x + width, y, y + height)
        drawn = self.axes.imshow(values, extent=extent, aspect="auto", **style)
        self.frame(x, y, width, height, fc="none", ec="0.25", lw=0.6, zorder=style["zorder"] + 0.1)
        return drawn

    def frame(self, x: float, y: float, width: float, height: float, **style: Any) -> None:
        self.axes.add_patch(plt.Rectangle((x, y), width, height, **({"zorder": 1} | style)))

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        text: str,
        colour: str = "0.3",
        **style: Any,
    ) -> None:
        self.frame(x, y, width, height, fc="white", ec=colour, lw=1.1, zorder=2)
        self.text(x + width / 2, y + height / 2, text, **({"zorder": 3} | style))

    def arrow(self, *points: tuple[float, float], colour: str = "0.3", dashes: str = "-") -> None:
        """Draw an arrow through the points, from the first to the last."""
        line = {"color": colour, "lw": 1.3, "ls": dashes, "shrinkA": 0, "shrinkB": 0}
        x, y = zip(*points[:-1], strict=True)
        self.axes.plot(x, y, color=colour, lw=1.3, ls=dashes, solid_capstyle="butt", zorder=1)
        head = {"arrowstyle": "-|>,head_width=0.22,head_length=0.4", **line}
        self.axes.annotate("", points[-1], points[-2], arrowprops=head, zorder=1)

    def panel(self, x: float, y: float, width: float, height: float) -> plt.Axes:
        """Return axes of their own."""
        across, up = self.figure.get_size_inches()
        return self.figure.add_axes((x / across, y / up, width / across, height / up))


class Lens(NamedTuple):
    """A lens on its way to the network.

    ``image`` (H, W) raw; ``roi`` and ``window``, what ``vitdm.preprocess.process`` finds in it and
    cuts; ``square`` (size, size), the input; ``smooth`` and ``residual`` (s, s), the fitted smooth
    lens and what it leaves in units of the noise, None without a fit; ``scores``, the probability
    of each class.
    """

    image: np.ndarray
    roi: Any
    window: Any
    square: np.ndarray
    smooth: np.ndarray | None
    residual: np.ndarray | None
    scores: Mapping[str, float]


def pipeline(
    lens: Lens,
    features: Sequence[str],
    model: Any,
    searched: Sequence[str],
    n_images: Mapping[str, int],
) -> plt.Figure:
    """Draw the whole work: the way of one lens to its score, and which stage sees which split.

    Above, blue is the way of the pixels and orange that of the physics features; dashed green is
    the search of settings. White: the region of interest, dashed: the cut. ``features`` are lines
    that tell of them, ``model`` is the section of the configuration, ``searched`` names what the
    search varies. Below, what each stage (columns, in the order of their doing) does with the
    images of each split (rows; ``n_images`` in each); empty: it does not see them.
    """
    sheet = _Sheet(4.82)
    side, top, low = 0.92, 3.02, 1.72
    left, second, third = 0.05, 1.32, 2.6
    row, line, between = top + side / 2, low + side / 2, (top + low + side) / 2
    wide, wide_features = 2.3, 1.14
    right = third + wide
    join = right + 0.27
    scores = join + 0.6

    # the pixels
    _image(sheet, lens, left, top, side)
    _input(sheet, lens.square, model.patch_size, second, top, side)
    sheet.arrow((left + side, row), (second, row), colour=PIXELS)
    sheet.arrow((second + side, row), (third, row), colour=PIXELS)
    _network(sheet, model, len(lens.square), third, top, wide, side)

    # the physics
    shown = third if lens.smooth is not None else second
    if lens.smooth is not None:
        sheet.picture(_clipped(lens.smooth), left, low, side, side)
        sheet.text(left + side / 2, low - 0.11, "smooth lens")
        limits = {"cmap": "RdBu_r", "vmin": -5, "vmax": 5}
        sheet.picture(lens.residual, second, low, side, side, **limits)
        sheet.text(second + side / 2, low - 0.11, "residual, ±5σ")
        sheet.arrow((left + side / 2, top), (left + side / 2, low + side), colour=PHYSICS)
        sheet.text(left + side / 2 + 0.07, between, "fit", ha="left")
        sheet.arrow((left + side, line), (second, line), colour=PHYSICS)
        sheet.arrow((second + side, line), (shown, line), colour=PHYSICS)
        if model.residual:
            middle = second + side / 2
            sheet.arrow((middle, low + side), (middle, top), colour=PHYSICS)
    turn, over = left + side + 0.17, shown + wide_features / 2
    way = [(left + side, row - 0.25), (turn, row - 0.25), (turn, between), (over, between)]
    sheet.arrow(*way, (over, low + side - 0.06), colour=PHYSICS)
    sheet.box(shown, low + 0.06, wide_features, side - 0.12, "\n".join(features), PHYSICS)
    if model.features:
        hidden = shown + wide_features + 0.3
        sheet.arrow((hidden - 0.3, line), (hidden, line), colour=PHYSICS)
        sheet.box(hidden, low + 0.21, 0.86, side - 0.42, "quantiles,\nhidden layer", PHYSICS)
        if model.join == "head":
            way = [(hidden + 0.86, line), (join, line), (join, row - 0.12)]
        else:
            way = [(hidden + 0.43, low + side - 0.21), (hidden + 0.43, top)]
        sheet.arrow(*way, colour=PHYSICS)

    # the score
    if model.features and model.join == "head":
        sheet.arrow((right, row), (join - 0.12, row), colour=PIXELS)
        sheet.axes.add_patch(plt.Circle((join, row), 0.12, fc="white", ec="0.3", lw=1.1, zorder=3))
        sheet.text(join, row - 0.01, "+", fontsize=11, zorder=4)
        sheet.arrow((join + 0.12, row), (scores, row))
    else:
        sheet.arrow((right, row), (scores, row), colour=PIXELS)
    sheet.text((join + 0.12 + scores) / 2, row + 0.1, "linear")
    _probabilities(sheet, lens.scores, scores, top, PAGE - 0.04 - scores, side)

    # the search
    above, high = 4.31, 0.47
    named = "Bayesian search: " + ", ".join(searched)
    named = textwrap.fill(named, 38, max_lines=3, placeholder=" …")
    sheet.box(third, above, wide, high, named, SEARCH)
    end = (scores + PAGE) / 2
    way = [(end, top + side), (end, above + high / 2), (right, above + high / 2)]
    sheet.arrow(*way, colour=SEARCH, dashes="--")
    sheet.text((right + end) / 2, above + high / 2 + 0.1, "ROC-AUC on opt")
    sheet.arrow((right - 0.2, above), (right - 0.2, top + side), colour=SEARCH, dashes="--")
    sheet.text(right - 0.27, (above + top + side) / 2, "settings", ha="right")

    _splits(sheet, n_images, 0.05, 0.05, PAGE - 0.1)
    return sheet.figure


def _clipped(values: np.ndarray) -> np.ndarray:
    """Return an image without its few darkest and brightest pixels, which would make all dark."""
    return np.clip(values, *np.nanquantile(values, [0.01, 0.999]))


def _image(sheet: _Sheet, lens: Lens, x: float, y: float, side: float) -> None:
    """Draw the raw image, the region of interest and the square that is cut (inches)."""
    height, width = lens.image.shape
    unit = side / max(height, width)
    origin = np.array([x, y]) + unit / 2
    sheet.picture(_clipped(lens.image), x, y, width * unit, height * unit)
    for contour in lens.roi.contours:
        closed = np.reshape([*contour, contour[0]], (-1, 2)) * unit + origin
        sheet.axes.plot(*closed.T, color="w", lw=0.8, zorder=3)
    cos, sin = (f(np.radians(lens.window.angle)) for f in (np.cos, np.sin))
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * lens.window.side / 2
    corners = corners @ [[cos, sin], [-sin, cos]] + (lens.window.x, lens.window.y)
    (cut,) = sheet.axes.plot(*(corners * unit + origin).T, color="c", lw=1.0, ls="--", zorder=3)
    cut.set_clip_path(plt.Rectangle((x, y), side, side, transform=sheet.axes.transData))
    sheet.text(x + side / 2, y + side + 0.2, f"image\n{width} × {height} pixels")


def _input(
    sheet: _Sheet, square: np.ndarray, patch_size: int, x: float, y: float, side: float
) -> None:
    """Draw what the network sees, and the grid of its patches (inches)."""
    sheet.picture(square, x, y, side, side)
    _grid(sheet, len(square), patch_size, x, y, side)
    sheet.text(
        x + side / 2, y + side + 0.2, f"cut, stretched\n{len(square)} × {len(square)} pixels"
    )


def _grid(sheet: _Sheet, size: int, patch_size: int, x: float, y: float, side: float) -> None:
    """Draw the borders of patches [px] on a picture (inches) of ``size`` pixels."""
    line = {"color": "w", "lw": 0.5, "alpha": 0.7, "zorder": 3}
    for edge in np.arange(patch_size, size, patch_size) / size * side:
        sheet.axes.plot([x + edge] * 2, [y, y + side], **line)
        sheet.axes.plot([x, x + side], [y + edge] * 2, **line)


def _network(
    sheet: _Sheet, model: Any, size: int, x: float, y: float, width: float, height: float
) -> None:
    """Draw the Vision Transformer: patches, a few tokens, blocks (inches)."""
    patch, classifies = model.patch_size, model.pool == "cls"
    sheet.frame(x, y, width, height, fc="0.95", ec=PIXELS, lw=1.2)
    sheet.text(x, y + height + 0.11, "Vision Transformer", ha="left", fontsize=LARGE)
    inner, row = 0.62, y + height / 2
    base, first, last = row - inner / 2, x + 0.1, x + width - 0.1
    name = "SPT" if model.spt else "patches"
    sheet.box(first, base, 0.62, inner, f"{name}:\n{patch} px\nto {model.embed_dim}")
    shown = 7
    for k in range(shown):
        is_class = classifies and k == shown - 1  # the dark one
        place = (first + 0.81, base + inner * k / shown + 0.015, 0.09, inner / shown - 0.03)
        sheet.frame(*place, fc="0.3" if is_class else "0.8", ec="0.3", lw=0.5)
    tokens = (size // patch) ** 2 + classifies
    sheet.text(first + 0.855, base - 0.075, f"{tokens} tokens")
    name = "LSA" if model.lsa else "attention"
    blocks = f"{model.depth} × ({name}\n+ MLP)\n{model.num_heads} heads"
    sheet.box(last - 0.84, base, 0.84, inner, blocks)
    sheet.arrow((first + 0.62, row), (first + 0.78, row))
    sheet.arrow((first + 0.93, row), (last - 0.84, row))


def _probabilities(
    sheet: _Sheet, scores: Mapping[str, float], x: float, y: float, width: float, height: float
) -> None:
    """Draw a bar for each class, as long as its probability, in a frame (inches)."""
    sheet.frame(x, y, width, height, fc="white", ec="0.3", lw=1.1)
    step = height / len(scores)
    for k, (name, value) in enumerate(scores.items()):
        base = y + height - (k + 1) * step
        bar = {"fc": colour_of(name, "0.5"), "ec": "none", "zorder": 2}
        sheet.frame(x + 0.05, base + 0.05, (width - 0.1) * value, 0.09, **bar)
        sheet.frame(x + 0.05, base + 0.05, width - 0.1, 0.09, fc="none", ec="0.6", lw=0.4, zorder=3)
        text = label_of(name)
        sheet.text(x + 0.05, base + 0.22, f"{text}", ha="left")


def _splits(sheet: _Sheet, n_images: Mapping[str, int], x: float, y: float, width: float) -> None:
    """Draw the table of stages and splits; lower left corner at (x, y), inches."""
    step, label = 0.27, 1.15
    column = (width - label) / len(STAGES)
    for k, stage in enumerate(STAGES):
        middle = x + label + (k + 0.5) * column
        sheet.text(middle, y + 4 * step + 0.07, stage, va="baseline", linespacing=1)
    for row, (split, uses) in enumerate(SPLITS.items()):
        base = y + (3 - row) * step
        number = f"{n_images[split]:,}".replace(",", "\u202f")
        sheet.text(x, base + step / 2, f"{split}, {number}", ha="left")
        for k, use in enumerate(uses):
            cell = (x + label + k * column + 0.02, base + 0.02, column - 0.04, step - 0.04)
            shade = SHADES.get(use, "#bcd9ea")
            sheet.frame(*cell, fc=shade, ec="0.75" if use else "0.9", lw=0.6)
            colour = "white" if use == "learn" else "black"
            sheet.text(cell[0] + cell[2] / 2, base + step / 2, use, color=colour, zorder=3)


class Head(NamedTuple):
    """One head of attention on one image; matrices (N, N), a row for each token that asks.

    ``similarity`` Q K^T; ``plain`` its softmax at the temperature sqrt(d), ``local`` that of LSA;
    ``temperature`` the learnt one in units of sqrt(d).
    """

    similarity: np.ndarray
    plain: np.ndarray
    local: np.ndarray
    temperature: float


def spt_lsa(
    stack: np.ndarray,
    patch: tuple[int, int],
    values: np.ndarray,
    tokens: np.ndarray,
    head: Head,
    temperatures: np.ndarray,
    has_class: bool,
) -> plt.Figure:
    """Draw how an image becomes tokens (SPT) and how these attend to one another (LSA).

    (a) ``stack`` (5, H, W), the image in the middle and its four diagonal shifts by half a patch;
    in each the grid and one patch (row, column), dashed all pixels that its token sees. The five
    patches, one above the other, their ``values`` (5 p^2,) after the layer normalisation, and the
    token made of them. (b) ``tokens`` (N, D) before a block, and one ``head`` of it: similarity,
    and attention in units of even attention, 1 / N, without and with mask and learnt temperature.
    Right: the temperatures (blocks, heads) of the model, in units of sqrt(d). With ``has_class``
    the first token is that of the class. After Lee, Lee & Song 2021 (arXiv:2112.13492).
    """
    sheet = _Sheet(4.75)
    limits = {"vmin": float(stack.min()), "vmax": float(stack.max())}
    size, p = stack.shape[-1], round((len(values) / 5) ** 0.5)
    corner = np.array(patch[::-1]) * p  # of the patch, px
    _shifts(sheet, stack, corner, p, limits)
    _one_token(sheet, stack, corner, p, limits, values)
    which = int(has_class) + patch[0] * (size // p) + patch[1]
    _all_tokens(sheet, tokens, which)
    _attention(sheet, head)
    _temperatures(sheet, temperatures)
    return sheet.figure


MIDDLE, LABELS = 3.58, 2.41  # height of the pictures of (a), and of what is written below them
FIRST, SECOND = 1.12, 0.1  # heights of standard attention and of LSA in (b)
MATRIX = 0.86  # side


def _shifts(
    sheet: _Sheet, stack: np.ndarray, corner: np.ndarray, p: int, limits: dict[str, float]
) -> None:
    """Draw the image with a patch and what its token sees; then image and shifts, a cross."""
    sheet.text(0.02, 4.65, "(a) Shifted Patch Tokenization", ha="left", fontsize=LARGE)
    size, left, side = stack.shape[-1], 0.05, 1.3
    base = MIDDLE - side / 2
    sheet.picture(stack[0], left, base, side, side, **limits)
    _grid(sheet, size, p, left, base, side)
    for low, width, dash in ((corner, p, "-"), (corner - p // 2, 2 * p, "--")):
        ends = np.clip([low, low + width], 0, size) * side / size + (left, base)
        sheet.frame(*ends[0], *(ends[1] - ends[0]), fc="none", ec="w", lw=1.2, ls=dash, zorder=4)
    sheet.text(left + side / 2, LABELS, "image, a patch,\nand what its token sees", va="baseline")
    cross, side, step = 1.8, 0.56, 0.6
    sheet.arrow((left + 1.3, MIDDLE), (cross - 0.06, MIDDLE))
    moves = [(0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)]  # down and right, as model.diagonal_shifts
    for channel, (up, right) in zip(stack, moves, strict=True):
        x, y = cross + (1 + right) * step, MIDDLE - side / 2 + up * step
        sheet.picture(channel, x, y, side, side, **limits)
        place, width = np.array([x, y]) + corner * side / size, p * side / size
        sheet.frame(*place, width, width, fc="none", ec="w", lw=1.0, zorder=4)
    text = f"joined by four copies,\nmoved by half a patch, {p // 2} px"
    sheet.text(cross + step + side / 2, LABELS, text, va="baseline")


def _one_token(
    sheet: _Sheet,
    stack: np.ndarray,
    corner: np.ndarray,
    p: int,
    limits: dict[str, float],
    values: np.ndarray,
) -> None:
    """Draw the five patches of a token, and the vector of their normalised values."""
    x, side, step = 4.0, 0.3, 0.335
    sheet.arrow((3.62, MIDDLE), (x - 0.06, MIDDLE))
    (left, low), right, high = corner, *(corner + p)
    for k, channel in enumerate(stack):
        y = MIDDLE + (2 - k) * step - side / 2
        sheet.picture(channel[low:high, left:right], x, y, side, side, **limits)
    sheet.text(x + side / 2, LABELS, "its five\npatches", va="baseline")
    sheet.arrow((x + side + 0.05, MIDDLE), (4.72, MIDDLE))
    bounds = dict(zip(("vmin", "vmax"), np.quantile(values, [0.01, 0.99]), strict=True))
    column = values[::-1, None]  # drawn from the top
    sheet.picture(column, 4.78, MIDDLE - 0.8, 0.14, 1.6, cmap="cividis", **bounds)
    number = f"{len(values):,}".replace(",", "\u202f")
    sheet.text(4.85, LABELS, f"{number} values,\nnormalised", va="baseline")


def _all_tokens(sheet: _Sheet, tokens: np.ndarray, which: int) -> None:
    """Draw one of the tokens (N, D), and all of them."""
    n, width = tokens.shape
    most = np.quantile(np.abs(tokens), 0.99)
    style = {"vmin": -most, "vmax": most, "cmap": "cividis"}
    sheet.arrow((4.97, MIDDLE), (5.46, MIDDLE))
    sheet.text(5.2, MIDDLE + 0.1, "linear")
    sheet.picture(tokens[which][::-1, None], 5.52, MIDDLE - 0.45, 0.14, 0.9, **style)
    sheet.text(5.6, LABELS, f"token,\n{width} values", va="baseline")
    sheet.arrow((5.71, MIDDLE), (5.98, MIDDLE))
    sheet.picture(tokens[::-1], 6.04, MIDDLE - 0.45, 0.91, 0.9, **style)
    sheet.text(6.5, LABELS, f"all {n} tokens,\nplaces added", va="baseline")


def _attention(sheet: _Sheet, head: Head) -> None:
    """Draw similarity, mask, and attention without and with LSA."""
    sheet.text(0.02, 2.16, "(b) Locality Self-Attention", ha="left", fontsize=LARGE)
    n, half = len(head.similarity), MATRIX / 2
    first, masked, last = 0.3, 1.9, 3.78
    middle = (FIRST + SECOND) / 2 + half
    strength = np.quantile(np.abs(head.similarity), 0.99)
    style = {"vmin": -strength, "vmax": strength, "cmap": "cividis"}
    sheet.picture(head.similarity[::-1], first, middle - half, MATRIX, MATRIX, **style)
    sheet.text(first + half, middle + half + 0.11, r"similarity $QK^\mathsf{T}$")
    sheet.text(first + half, middle - half - 0.11, "token that is asked")
    sheet.text(first - 0.13, middle, "token that asks", rotation=90, va="center")
    hidden = np.where(np.eye(n, dtype=bool), np.nan, head.similarity)
    sheet.picture(hidden[::-1], masked, SECOND, MATRIX, MATRIX, **style)
    out, turn = first + MATRIX, first + MATRIX + 0.2
    for end, y, colour in ((last, FIRST, "0.5"), (masked, SECOND, PIXELS)):
        start = middle + (0.2 if y == FIRST else -0.2)
        sheet.arrow((out, start), (turn, start), (turn, y + half), (end, y + half), colour=colour)
    sheet.arrow((masked + MATRIX, SECOND + half), (last, SECOND + half), colour=PIXELS)
    between = (masked + MATRIX + last) / 2
    sheet.text((turn + masked) / 2, SECOND + half + 0.1, "mask")
    sheet.text(between, FIRST + half + 0.14, r"softmax$(QK^\mathsf{T}/\sqrt{d}\,)$")
    sheet.text(between, SECOND + half + 0.14, r"softmax$(\,\cdot\,/\,\tau)$")
    warm = rf"$\tau = {head.temperature:.2f}\,\sqrt{{d}}$"
    sheet.text(between, SECOND + half - 0.14, warm)
    most = max(2, *(n * np.quantile(matrix, 0.995) for matrix in (head.plain, head.local)))
    style = {"vmin": 0, "vmax": most, "cmap": "cividis"}
    for name, matrix, y in (("standard", head.plain, FIRST), ("LSA", head.local, SECOND)):
        drawn = sheet.picture(n * matrix[::-1], last, y, MATRIX, MATRIX, **style)
        sheet.text(last - 0.07, y + MATRIX - 0.08, name, ha="right")
    bar = sheet.panel(last + MATRIX + 0.08, SECOND, 0.1, FIRST + MATRIX - SECOND)
    sheet.figure.colorbar(drawn, cax=bar)
    bar.tick_params(labelsize=SMALL, length=2)
    bar.set_ylabel("attention / even attention", fontsize=SMALL)


def _temperatures(sheet: _Sheet, temperatures: np.ndarray) -> None:
    """Draw the learnt temperatures (blocks, heads): a point a head."""
    axes = sheet.panel(6.08, SECOND + 0.3, PAGE - 0.05 - 6.08, FIRST + MATRIX - SECOND - 0.3)
    for block, each in enumerate(temperatures, start=1):
        axes.plot(np.full(len(each), block), each, "o", ms=3.5, mew=0, color=PIXELS, alpha=0.8)
    axes.axhline(1, color="0.5", lw=0.8, ls="--")
    axes.set(xlim=(0.5, len(temperatures) + 0.5), xticks=range(1, len(temperatures) + 1))
    if temperatures.max() > 5 * temperatures.min():
        axes.set(yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.tick_params(labelsize=SMALL, length=2)
    axes.set_xlabel("block", fontsize=SMALL)
    axes.set_ylabel(r"learnt $\tau\,/\sqrt{d}$ of each head", fontsize=SMALL)
