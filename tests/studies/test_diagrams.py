"""The diagrams of the work and of the model: real pictures at their place, nothing cut off."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from studies.plots import diagrams, style
from vitdm import config, preprocess
from vitdm.model import vit as model

SPLITS = {"train": 4500, "valid": 2250, "opt": 2250, "test": 5000}
SEARCHED = ["learning rate", "width", "depth", "number of heads", "patch side", "something more"]
LINES = ["physics features", "31 of the image", "50 of the fit", "12 joined"]
KINDS = {"no_sub": 0.25, "cdm": 0.5, "axion": 0.25}


@pytest.fixture(scope="module")
def image():
    y, x = np.mgrid[:150, :150]
    ring = 50 * np.exp(-0.5 * ((np.hypot(x - 75, y - 75) - 20) / 2) ** 2) * (1 + (x > 75))
    return (ring + np.random.default_rng(0).normal(0, 1, ring.shape)).astype(np.float32)


@pytest.fixture(autouse=True)
def styled():
    style.style()
    yield
    plt.close("all")


def lens(image, scores=None, fitted=True, **processing):
    settings = config.Preprocess(**processing)
    square, roi = preprocess.process(image, settings)
    frame = preprocess.window(image.shape, roi, settings)
    left = [np.full((96, 96), 7.0), np.ones((96, 96))] if fitted else [None, None]
    return diagrams.Lens(image, roi, frame, square, *left, scores or KINDS)


def pipeline(lens, **settings):
    return diagrams.pipeline(lens, LINES, config.Model(**settings), SEARCHED, SPLITS)


def texts(figure):
    """Yield all texts of a figure but the labels of ticks beyond the ends of their axis."""
    figure.canvas.draw()
    for axes in figure.axes:
        yield from axes.texts
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            for place, label in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True):
                if low <= place <= high:
                    yield label
            yield axis.label


def check_texts(figure):
    """Every text can be read in print, is on the page, on no other text, and within its box."""
    page, boxes = figure.bbox.padded(1), {}
    for text in texts(figure):
        box = text.get_window_extent()
        assert text.get_fontsize() >= 7, text
        assert page.contains(*box.min) and page.contains(*box.max), text
        boxes[text] = box.shrunk(0.9, 0.9)
        for patch in figure.axes[0].patches:
            around = patch.get_window_extent()
            if around.contains(*box.get_points().mean(axis=0)):
                assert around.x0 <= box.x0 and box.x1 <= around.x1, text
    for (one, a), (two, b) in itertools.combinations(boxes.items(), 2):
        if one.get_text() and two.get_text():
            assert not a.overlaps(b), (one, two)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ({}, {}),
        ({"fitted": False}, {"features": False, "spt": False, "lsa": False, "pool": "mean"}),
        ({"scores": {"no_sub": 0.1, "sub": 0.9}}, {"join": "token", "residual": True}),
        ({"derotate": True, "crop": "roi", "resize": True}, {"patch_size": 16, "depth": 12}),
    ],
)
def test_texts_of_the_pipeline(image, kind, settings):
    check_texts(pipeline(lens(image, **kind), **{"features": True, **settings}))


def test_pipeline_shows_one_lens_and_its_scores(image):
    shown = lens(image)
    figure = pipeline(shown, features=True)
    raw, square, smooth, residual = (array.get_array() for array in figure.axes[0].images)
    low, high = np.quantile(image, [0.01, 0.999])
    np.testing.assert_array_equal(raw, np.clip(image, low, high))
    np.testing.assert_array_equal(square, shown.square)
    assert (smooth == 7).all() and (residual == 1).all()
    assert figure.axes[0].images[0].get_extent()[1] <= diagrams.PAGE
    # bars as long as the probabilities
    bars = {
        kind: patch.get_width()
        for patch in figure.axes[0].patches
        for kind in KINDS
        if plt.matplotlib.colors.to_hex(patch.get_facecolor()) == style.colour_of(kind).lower()
    }
    assert bars["cdm"] == pytest.approx(2 * bars["axion"]) == pytest.approx(2 * bars["no_sub"])
    said = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "4\u202f500" in said and "50 of the fit" in said


def test_only_the_final_test_sees_the_test_split():
    used = {split: dict(zip(diagrams.STAGES, uses, strict=True)) for split, uses in
            diagrams.SPLITS.items()}  # fmt: skip
    assert [stage for stage, use in used["test"].items() if use] == ["final\ntest"]
    assert not any(uses["final\ntest"] for split, uses in used.items() if split != "test")
    learnt = {stage: [s for s in used if used[s][stage] == "learn"] for stage in diagrams.STAGES}
    assert learnt["final\nmodels"] == ["train", "opt"]  # as vitdm train --tuned
    assert learnt["compare\nmodels"] == learnt["Bayesian\nsearch"] == ["train"]


@pytest.fixture(scope="module")
def parts(image):
    """What the figure of SPT and LSA gets, for patches of 24 pixels."""
    p, patch = 24, (1, 2)
    square = torch.from_numpy(image[27:123, 27:123])
    stack = model.shift_patches(square[None, None], p)[0].numpy()
    rng = np.random.default_rng(1)
    likeness = rng.normal(0, 1, (17, 17))
    weights = np.exp(likeness) / np.exp(likeness).sum(axis=1, keepdims=True)
    local = np.where(np.eye(17), 0, weights)
    head = diagrams.Head(likeness, weights, local / local.sum(axis=1, keepdims=True), 1.25)
    tokens = rng.normal(0, 1, (17, 32))
    return stack, patch, rng.normal(0, 1, 5 * p**2), tokens, head, rng.uniform(0.5, 2, (3, 4))


def test_texts_of_spt_lsa(parts):
    check_texts(diagrams.spt_lsa(*parts, has_class=True))
    *others, temperatures = parts
    check_texts(diagrams.spt_lsa(*others, 30 * temperatures**4, has_class=True))


def test_the_five_patches_are_pieces_of_the_image_half_a_patch_away(parts):
    stack, (row, column), values, tokens, head, _ = parts
    figure = diagrams.spt_lsa(*parts, has_class=True)
    arrays = [np.ma.filled(drawn.get_array(), np.nan) for drawn in figure.axes[0].images]
    image, pieces = arrays[0], arrays[6:11]
    np.testing.assert_array_equal(image, stack[0])
    y, x = row * 24, column * 24
    for piece, (down, right) in zip(
        pieces, [(0, 0), (12, 12), (12, -12), (-12, 12), (-12, -12)], strict=True
    ):
        seen = image[y + down : y + down + 24, x + right : x + right + 24]
        np.testing.assert_array_equal(piece, seen)
    vector, token, every, likeness, masked, plain, local = arrays[11:]
    np.testing.assert_array_equal(vector[::-1, 0], values)  # from the top down
    np.testing.assert_array_equal(token[::-1, 0], tokens[1 + 4 * row + column])
    np.testing.assert_array_equal(every[::-1], tokens)
    np.testing.assert_array_equal(likeness[::-1], head.similarity)
    assert np.isnan(masked[::-1].diagonal()).all() and np.isnan(masked).sum() == 17
    np.testing.assert_allclose(plain[::-1].sum(axis=1), 17)  # in units of even attention
    assert (local[::-1].diagonal() == 0).all() and local.sum(axis=1) == pytest.approx(17)


def test_a_shift_stands_on_the_side_to_which_it_is_moved(parts):
    figure = diagrams.spt_lsa(*parts, has_class=True)
    middle, *shifts = (drawn.get_extent() for drawn in figure.axes[0].images[1:6])
    for extent, (down, right) in zip(shifts, model.diagonal_shifts(24), strict=True):
        assert np.sign(extent[0] - middle[0]) == np.sign(right)
        assert np.sign(extent[2] - middle[2]) == np.sign(down)  # rows are drawn upwards
