"""What notebook 02 assembles: rankings side by side, and numbers."""

import numpy as np
import pandas as pd
import pytest

from studies.story import features
from studies.story.folders import UNKNOWN, main_population, population_folders


@pytest.fixture
def ranking():
    auc = np.array([0.9, 0.6])
    ends = {"roc_auc": auc, "roc_auc_low": auc - 0.1, "roc_auc_high": auc + 0.05}
    table = pd.DataFrame({"name": ["gini", "area"], "group": ["morphology", "proposal"], **ends})
    table = table.assign(spearman=0.5, point_biserial=0.4, mutual_information=0.3, q=1e-9)
    return table.assign(sign=[1, -1], significant=[True, False], cluster=[1, 1])


def test_rankings_side_by_side_keep_the_order_of_the_first(ranking):
    other = ranking.iloc[::-1].reset_index(drop=True).assign(roc_auc=[0.7, 0.8])
    table = features.side_by_side({"here": ranking, "there": other})
    assert list(table["name"]) == ["gini", "area"]
    assert list(table["auc_here"]) == [0.9, 0.6] and list(table["auc_there"]) == [0.8, 0.7]
    assert list(table["direction_here"]) == ["+", "−"]
    assert list(table["significant_there"]) == ["yes", "no"]


def test_rankings_are_read_once_a_population(ranking, settings, tmp_path):
    assert main_population(settings) == "marginal"
    files = ["marginal", "model_i"]
    shown = settings.populations.model_copy(update={"files": files})
    config = settings.model_copy(update={"populations": shown})
    for folder in (tmp_path, tmp_path / "populations" / "model_i"):
        (folder / "selection").mkdir(parents=True)
        ranking.to_csv(folder / "selection" / "ranking.csv", index=False)
    assert list(features.rankings_by_population(config, tmp_path)) == ["marginal", "model_i"]
    assert population_folders(config, tmp_path)["model_i"] == tmp_path / "populations/model_i"


def test_images_from_files_have_no_populations(settings, tmp_path):
    config = settings.model_copy(update={"data": "images.zip"})
    assert main_population(config) == UNKNOWN
    assert population_folders(config, tmp_path) == {UNKNOWN: tmp_path}


def test_numbers_of_features(ranking):
    numbers = features.best_feature_numbers(ranking)
    assert numbers["best_feature"] == "gini" and numbers["best_feature_auc"] == 0.9
    assert numbers["best_feature_auc_high"] == pytest.approx(0.95)
    choice = {"n_significant": 1, "features": ["gini"]}
    assert list(features.selection_numbers(ranking, choice).values()) == [2, 1, 1, 1]
    others = features.population_numbers({"here": ranking, "there": ranking.iloc[:1]})
    assert others == {
        "best_feature_there": "gini",
        "best_feature_auc_there": 0.9,
        "n_features_significant_there": 1,
    }


def test_numbers_of_classifiers_on_features_alone():
    rows = [(model, kind) for model in ("gradient boosting", "logistic regression")
            for kind in ("all", "selected")]  # fmt: skip
    scores = pd.DataFrame(rows, columns=["model", "features"])
    scores = scores.assign(roc_auc=[1, 2, 3, 4], roc_auc_low=0.0, roc_auc_high=9.0)
    numbers = features.classifier_numbers(scores)
    keys = ("features_only_auc", "features_selected_auc", "features_logistic_auc")
    assert [numbers[key] for key in keys] == [1, 2, 3]
    assert numbers["features_selected_auc_high"] == 9.0
