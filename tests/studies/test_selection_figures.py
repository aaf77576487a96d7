"""What the figures of the features say is what their tables hold."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from studies.plots import selection as selection_plots
from vitdm.evaluation.metrics import Difference

NAMES = ["gini", "peak_snr", "area", "gone"]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def ranking():
    auc = np.array([0.9, 0.7, 0.52, np.nan])
    return pd.DataFrame(
        {
            "name": NAMES,
            "group": ["proposal", "morphology", "lensfit", "mine"],
            "cluster": [1, 1, 2, 3],
            "kept": [True, False, False, False],
            "roc_auc": auc,
            "roc_auc_low": auc - 0.05,
            "roc_auc_high": auc + 0.05,
            "sign": [1, -1, 1, 1],
            "significant": [True, True, False, False],
        }
    )


@pytest.fixture
def scores():
    models = ["gradient boosting", "logistic regression"]
    table = {"model": np.repeat(models, 2), "features": ["proposal", "all"] * 2}
    return pd.DataFrame(table).assign(roc_auc=0.8, roc_auc_low=0.7, roc_auc_high=0.9)


def test_markers_tell_direction_and_significance(ranking, scores):
    axes = selection_plots.feature_auc(ranking, scores).axes[0]
    marks = [line for line in axes.lines if line.get_marker() in ("<", ">")]
    assert [mark.get_marker() for mark in marks] == [">", "<", ">"]  # what never varies is left out
    assert [mark.get_mfc() == "white" for mark in marks] == [False, False, True]
    assert len({mark.get_mec() for mark in marks}) == 3  # a colour a group
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [*NAMES[:3], "all, gradient boosting", "all, logistic regression"]


def test_boxes_are_clusters_of_several_and_bold_is_kept(ranking):
    matrix = pd.DataFrame(np.eye(4), index=NAMES, columns=NAMES)
    axes = selection_plots.feature_correlation(matrix, ranking).axes[0]
    (box,) = axes.patches
    assert box.get_xy() == (-0.5, -0.5) and box.get_width() == box.get_height() == 2
    weights = [label.get_weight() for label in axes.get_yticklabels()]
    assert weights == ["bold", "normal", "normal", "normal"]


def test_importance_is_sorted_and_what_is_beyond_chance_is_full():
    rows = [(m, k, n, v, 0.01) for m in ("a", "b") for k, n, v in ((1, "x y z", 0.01), (2, "w", 1))]
    table = pd.DataFrame(rows, columns=["model", "cluster", "features", "importance", "sd"])
    left, right = selection_plots.feature_importance(table, 2.0).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["w", "x and 2 more"]
    for axes in (left, right):
        full, empty, _ = axes.lines
        assert list(full.get_xdata()) == [1] and list(empty.get_xdata()) == [0.01]
        assert empty.get_mfc() == "white"


def test_populations_side_by_side(ranking):
    other = ranking.iloc[::-1].assign(roc_auc=[0.6, 0.6, 0.6, 0.6], significant=False)
    axes = selection_plots.feature_populations({"here": ranking, "there": other}).axes[0]
    texts = {tuple(map(int, text.get_position())): text for text in axes.texts}
    assert len(texts) == 7 and (0, 3) not in texts  # column, row: never measured here
    assert texts[0, 0].get_text() == "+0.90" and texts[0, 1].get_text() == "−0.70"
    assert texts[0, 2].get_text() == "0.52" and texts[1, 0].get_text() == "0.60"
    assert texts[0, 0].get_weight() == "bold" and texts[1, 0].get_weight() == "normal"


def test_a_gain_beyond_its_error_is_full():
    sure = Difference(0.1, 0.05, 0.15, 0.02, [0.09, 0.11])
    gains = {"a": sure, "b": Difference(0.1, -0.1, 0.3, 0.1, [0.1])}
    axes = selection_plots.feature_gain(gains).axes[0]
    marks = [line.get_mfc() == "white" for line in axes.lines if line.get_marker() == "o"]
    assert marks == [False, True]
    assert [len(line.get_xdata()) for line in axes.lines if line.get_marker() == "|"] == [2, 1]
