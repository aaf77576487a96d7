"""What a search brought, and recipes at several learning rates."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import SETTINGS
from sklearn.metrics import roc_auc_score
from test_train import MODEL, toy, train

from studies import config as workflow
from studies import rates, tuned_against_start
from vitdm.data import dataset
from vitdm.data.dataset import Dataset
from vitdm.errors import InputError
from vitdm.model.runs import load_run


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("toy") / "blobs", signal=0.5)


@pytest.fixture(scope="module")
def runs(blobs, settings, tmp_path_factory):
    """Two seeds of a network that has learnt and of one that hardly has."""
    out = tmp_path_factory.mktemp("runs")
    for name, rate in (("good", 3e-3), ("poor", 1e-6)):
        for seed in (0, 1):
            options = {"epochs": 20, "learning_rate": rate, "seed": seed}
            train(blobs, out / f"{name}{seed}", **options)
    return {name: [out / f"{name}{seed}" for seed in (0, 1)] for name in ("good", "poor")}


def measure(blobs, runs, out, first="good", second="poor"):
    options = {"task": "multiclass", "n_bootstrap": 200, "seed": 0}
    return tuned_against_start.compare_runs(blobs, None, runs[first], runs[second], out, **options)


def test_the_gain_is_the_difference_of_the_mean_scores(blobs, runs, tmp_path):
    found = measure(blobs, runs, tmp_path / "gain.json")
    data = Dataset.open(blobs)
    rows = data.rows("opt")
    labels = data.labels("multiclass")[0][rows] > 0
    aucs = {
        name: np.mean(
            [
                roc_auc_score(labels, 1 - load_run(folder).predict(data.images[rows])[:, 0])
                for folder in folders
            ]
        )
        for name, folders in runs.items()
    }
    assert found["auc"] == pytest.approx(aucs["good"])
    assert found["against_auc"] == pytest.approx(aucs["poor"])
    assert found["gain"] == pytest.approx(aucs["good"] - aucs["poor"]) and found["low"] > 0
    assert found["n_images"] == len(rows) and found["n_runs"] == 2
    written = json.loads((tmp_path / "gain.json").read_text())
    assert written["rule"] == "gain" and written["result"] == found


def test_a_run_gains_nothing_over_itself(blobs, runs, tmp_path):
    found = measure(blobs, runs, tmp_path / "gain.json", "good", "good")
    assert found["gain"] == found["low"] == found["high"] == 0


def test_runs_of_other_classes_are_refused(blobs, runs, tmp_path):
    others, data = tmp_path / "others", dataset.Dataset.open(blobs)
    catalog = data.catalog.assign(**{"class": data.catalog["class"].replace("sub", "axion")})
    dataset.write(others, np.array(data.images), catalog)
    with pytest.raises(InputError, match=r"poor0: found a model of classes .*expected .*axion"):
        measure(others, runs, tmp_path / "gain.json")
    assert not (tmp_path / "gain.json").exists()


RATES = {
    "values": [1e-3, 1e-2],
    "seeds": 2,
    "n_train": 40,
    "epochs": 1,
    "model": MODEL.model_dump(include={"patch_size", "embed_dim"}) | {"features": False},
    "recipes": {
        "ours": {"label": "as it is"},
        "post_norm": {"label": "post-norm", "model": {"norm": "post"}},
    },
}
STUDY = {"arms": {"random": {"label": "random points", "random": True}}}


def test_a_recipe_is_trained_at_each_rate(blobs, tmp_path):
    settings = workflow.build(SETTINGS | {"rates": RATES, "study": STUDY})
    for recipe in RATES["recipes"]:
        table = rates.train_recipe(blobs, None, settings, recipe, tmp_path / recipe, progress=False)
        assert table["learning_rate"].tolist() == [1e-3, 1e-3, 1e-2, 1e-2]
        assert (table["status"] == "ok").all() and table["seed"].tolist() == [7, 8, 7, 8]
    joined = rates.join_trials(
        [tmp_path / "ours", tmp_path / "post_norm"], settings, tmp_path / "rates.csv"
    )
    assert list(joined)[:2] == ["recipe", "label"] and len(joined) == 8
    assert joined["label"].unique().tolist() == ["as it is", "post-norm"]
    scores = joined.pivot_table(index="seed", columns="recipe", values="score", aggfunc="first")
    assert (scores["ours"] != scores["post_norm"]).any()
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "rates.csv")[["recipe", "score"]], joined[["recipe", "score"]]
    )
    (tmp_path / "ours").rename(tmp_path / "random_2")
    joined = rates.join_trials([tmp_path / "random_2"], settings, tmp_path / "searches.csv")
    assert joined["arm"].unique().tolist() == ["random"] and set(joined["number"]) == {"2"}


def test_what_is_no_recipe_is_refused(blobs, tmp_path):
    settings = workflow.build(SETTINGS | {"rates": RATES})
    with pytest.raises(InputError, match="--recipe theirs: no such recipe; expected one of: ours"):
        rates.train_recipe(blobs, None, settings, "theirs", tmp_path / "out")
    with pytest.raises(InputError, match="theirs: found neither an arm nor a recipe"):
        rates.join_trials([tmp_path / "theirs"], settings, tmp_path / "all.csv")
    assert list(tmp_path.iterdir()) == []


def test_searches_that_are_compared_have_seeds_of_their_own():
    settings = workflow.build(SETTINGS | {"study": STUDY})
    assert [settings.arm("random", k).tune.seed for k in (0, 2)] == [7, 9]
    zero = workflow.build(SETTINGS | {"study": STUDY, "tune": SETTINGS["tune"] | {"seed": 0}})
    assert zero.arm("random", 1).tune.seed == 1
