"""Each figure stands any data set: nothing to draw, one image, features that exist nowhere."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from studies.plots import data, model, populations, processing, selection, style, test, tuning
from vitdm.evaluation.metrics import Difference

NAN = float("nan")


def ranking(n):
    """The ranking of n features that no image has."""
    columns = {"name": [f"f{k}" for k in range(n)], "group": "morphology", "sign": 1}
    columns |= {name: NAN for name in ("roc_auc", "roc_auc_low", "roc_auc_high")}
    return pd.DataFrame(columns | {"significant": False, "cluster": range(n), "kept": False})


def importance(n):
    rows = {"model": ["trees"] * n, "cluster": range(n), "features": "f", "importance": NAN}
    return pd.DataFrame(rows | {"sd": NAN})


SCORES = pd.DataFrame(columns=["model", "features", "roc_auc", "roc_auc_low", "roc_auc_high"])
DISTANCES = pd.DataFrame({"split": ["test"], "nearest_split": "train", "distance": 0.0})
BAND = pd.DataFrame({"fpr": [0.0, 1.0], "tpr": [0.0, 1.0], "tpr_low": NAN, "tpr_high": NAN})
CURVE = pd.DataFrame({name: [NAN] for name in ("score", "rate", "rate_low", "rate_high")})
ROTATED = pd.DataFrame(columns=["population", "perturbation", "procedure", "amount", "id"])
HISTORY = pd.DataFrame({"label": "a", "seed": 0, "epoch": [1, 2], "train_loss": NAN})
TRIALS = pd.DataFrame({"call": [0], "stage": "start", "status": "ok", "score": 1.0})
FLAT, BLANK = np.zeros((9, 9)), np.full((9, 9), NAN)
GAIN = Difference(NAN, NAN, NAN, NAN, seeds=[NAN])
ERRORS = pd.DataFrame(columns=["class", "kind", "p_true"])


def features(n):
    return pd.DataFrame({"class": ["no_sub"] * n, "f": NAN, "n_bright": [1.0] * n})


@pytest.mark.parametrize(
    "draw",
    [
        lambda: data.noise_histogram(np.empty(0), NAN),
        lambda: data.noise_histogram(np.zeros(5), 0.0),
        lambda: data.feature_distributions(features(0), {"f": "px", "n_bright": ""}),
        lambda: data.feature_distributions(features(1), {"f": "px", "n_bright": ""}),
        lambda: processing.invariance(ROTATED),
        lambda: processing.unrolled_rings({}, 5),
        lambda: processing.real_lenses([]),
        lambda: populations.population_gallery([]),
        lambda: populations.population_gallery([populations.Example(FLAT, "sub")]),
        lambda: populations.population_gallery([populations.Example(BLANK, "sub")]),
        lambda: selection.feature_auc(ranking(0), SCORES),
        lambda: selection.feature_auc(ranking(3), SCORES),
        lambda: selection.feature_correlation(pd.DataFrame(), ranking(0)),
        lambda: selection.feature_correlation(pd.DataFrame([[NAN]], ["f0"], ["f0"]), ranking(1)),
        lambda: selection.feature_importance(importance(0), 2.0),
        lambda: selection.feature_importance(importance(1), 2.0),
        lambda: selection.feature_gain({}),
        lambda: selection.feature_gain({"features": GAIN}),
        lambda: selection.feature_populations({"these": ranking(0)}),
        lambda: selection.feature_populations({"these": ranking(2)}),
        lambda: model.training_history(HISTORY.assign(valid_roc_auc=NAN)),
        lambda: model.runs(pd.DataFrame({"label": ["a"], "seed": 0, "roc_auc": NAN})),
        lambda: tuning.tune_convergence(TRIALS, None),
        lambda: tuning.tune_convergence(TRIALS.assign(score=NAN, status="failed"), NAN),
        lambda: test.roc_curve(BAND, 1, {"raw": CURVE, "tempered": CURVE}),
        lambda: test.roc_curve(BAND, 0, {"raw": CURVE[:0], "tempered": CURVE[:0]}),
        lambda: test.confusion_matrix(pd.DataFrame(0, ["no_sub", "sub"], ["no_sub", "sub"])),
        lambda: test.sensitivity(pd.DataFrame(columns=["quantity", "population"]), {}, 0.01),
        lambda: test.neighbours(DISTANCES, np.array([FLAT, FLAT]), 1.25),
        lambda: test.neighbours(DISTANCES.assign(distance=NAN), np.array([BLANK, FLAT]), 1.25),
        lambda: test.failures(np.empty((0, 9, 9)), ERRORS),
        lambda: test.headline(np.array([FLAT, BLANK]), ["no_sub", "sub"], BAND, "n/a"),
    ],
)
def test_it_is_drawn(draw, tmp_path):
    style.save(draw(), tmp_path / "figure")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    plt.close("all")
