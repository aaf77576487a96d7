"""The study of networks on maps of perturbers, on toys whose answer is known."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import SETTINGS
from sklearn.metrics import roc_auc_score
from test_efficiency import sample

from studies import compare, maps
from studies import config as workflow
from studies.plots import maps as map_plots
from studies.story.maps import maps_numbers, maps_table
from vitdm.config import CHANNELS
from vitdm.data.dataset import Dataset
from vitdm.errors import InputError
from vitdm.evaluation.metrics import delong_interval
from vitdm.provenance import write_json

SEEN = ["snr_point", "residual"]
TINY = {"maps": SEEN, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
TINY |= {"features": False}
ROWS = {
    "vit": {
        "label": "ViT",
        "model": TINY | {"average": True},
        "train": {"epochs": 4, "turns": True},
        "curve": True,
        "against": ["trees", "evidence"],
    },
    "trees": {"label": "trees", "kind": "trees", "against": ["evidence"]},
    "evidence": {"label": "evidence", "kind": "score", "score": "fit_fourth_power"},
}
CHOSEN = {
    "populations": ["marginal"],
    "sizes": [20, 40],
    "n_valid": 20,
    "n_scored": 60,
    "rates": [1e-3, 3e-3],
    "boosting_rates": [0.05, 0.1],
    "widen": 1,
    "seeds": 2,
    "min_steps": 20,
    "rows": ROWS,
}
CONTENT = SETTINGS | {
    "features": {"groups": ["proposal", "morphology", "lensfit"]},
    "maps": CHOSEN,
}


def settings_of(**changes):
    return workflow.build(CONTENT | {"maps": CHOSEN | changes})


def mapped_sample(folder):
    """The toy lenses of the efficiency's test, with maps in which a blob tells."""
    sample(folder, shortcut=False, seed=0)
    catalog = Dataset.open(folder / "processed").catalog
    rng = np.random.default_rng(1)
    values = rng.normal(size=(120, len(CHANNELS), 16, 16)).astype(np.float16)
    values[:, 3:6] = 4.0
    for i in np.flatnonzero(catalog["class"] != "no_sub"):
        y, x = rng.integers(0, 12, 2)
        values[i, 0, y : y + 4, x : x + 4] += 3
    np.save(folder / "lensfit/maps.npy", values)
    catalog[["id"]].to_csv(folder / "lensfit/fits.csv", index=False)
    told = {"rule": "lensfit", "channels": list(CHANNELS)}
    write_json(folder / "lensfit/provenance.json", told)
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    place = tmp_path_factory.mktemp("maps")
    (place / "marginal").mkdir()
    folder = mapped_sample(place / "marginal")
    parts = [folder / "rows" / name for name in ROWS]
    for part in parts:
        maps.train_row(folder, settings_of(), part.name, part)
    bound = place / "populations/marginal/ideal_observer/ideal_observer.json"
    bound.parent.mkdir(parents=True)
    auc = {"value": 0.97, "low": 0.96, "high": 0.98}
    write_json(bound, {"no_sub": {"n": 3}, "sub": {"auc_ideal_free": auc}})
    maps.merge(parts[::-1], settings_of(), place / "all", [bound])
    return place


def test_scores_are_those_of_the_lenses_that_score(measured):
    rows = pd.read_csv(measured / "all/maps.csv").set_index(["row", "n_train"])
    expected = [("vit", 20), ("vit", 40), ("trees", 40), ("evidence", 0), ("bound", 0)]
    assert list(rows.index) == expected
    for (name, n), row in rows.query("row != 'bound'").iterrows():
        files = sorted((measured / f"marginal/rows/{name}").glob(f"predictions_n{n}_seed*.csv"))
        tables = [pd.read_csv(file) for file in files]
        labels, scores = tables[0]["label"] > 0, [1 - table["p_no_sub"] for table in tables]
        assert len(tables) == row["seeds"] == (1 if name == "evidence" else 2)
        assert len(labels) == 60
        mean = np.mean([roc_auc_score(labels, score) for score in scores])
        interval = delong_interval(labels.to_numpy(int), [score.to_numpy() for score in scores])
        assert row["roc_auc"] == pytest.approx(mean)
        assert (row["low"], row["high"]) == pytest.approx(interval[1:])
    assert rows.loc[("trees", 40), "roc_auc"] > 0.8  # the blob, and a feature that tells
    assert rows.loc[("bound", 0), "roc_auc"] == 0.97


def test_gains_are_paired_with_a_number_that_has_no_seeds(measured):
    rows = pd.read_csv(measured / "all/maps.csv").set_index(["row", "n_train"])["roc_auc"]
    gains = pd.read_csv(measured / "all/maps_gains.csv").set_index(["row", "against"])
    assert set(gains.index) == {("vit", "trees"), ("vit", "evidence"), ("trees", "evidence")}
    largest = {"vit": 40, "trees": 40, "evidence": 0}
    for (name, other), gain in gains.iterrows():
        expected = rows[name, largest[name]] - rows[other, largest[other]]
        assert gain["gain"] == pytest.approx(expected)
        assert gain["low"] < gain["gain"] < gain["high"] and 0 <= gain["p"] <= 1


def test_few_lenses_are_seen_as_often_as_many(measured):
    table = pd.read_csv(measured / "all/maps_trials.csv").query("row == 'vit'")
    assert set(table["n_train"]) == {20, 40}
    epochs = table.query("kind == 'final'").groupby("n_train")["epochs"].first()
    assert epochs.to_dict() == {20: 7, 40: 4}  # at least 20 steps of 8 lenses


def test_a_best_rate_at_the_end_is_not_the_best():
    """A toy whose score rises with the rate up to 0.1: the grid is continued until it falls."""
    labels = np.arange(40) % 2
    scores = np.where(labels, 0.6, 0.4)
    tried = []

    def learn(rate, seed, share):
        tried.append(rate)
        wrong = abs(np.log10(rate) + 1)  # decades from 0.1
        answer = scores + wrong * np.random.default_rng(0).normal(size=40)
        history = pd.DataFrame({"epoch": [1], "valid_macro_roc_auc": [np.nan]})
        return compare.Trained(lambda rows: np.c_[1 - answer, answer][rows], history, 1.0, 0)

    catalog = pd.DataFrame({"id": range(40), "class": np.where(labels, "cdm", "no_sub")})
    data = type("Toy", (), {"catalog": catalog})()
    rows = np.arange(40)
    bench = compare.Bench(data, labels, ["no_sub", "cdm"], rows, rows, rows)
    chosen = settings_of().maps
    few, many = (
        compare.tune_and_train(bench, learn, [1e-3, 1e-2], chosen, 0, "toy", widen=widen).lines
        for widen in (1, 5)
    )
    assert tried[:3] == [1e-3, 1e-2, 0.1]
    assert few[-1]["at_end"] and few[-1]["learning_rate"] == 0.1  # as far as it was allowed
    trials = [line["learning_rate"] for line in many if line["kind"] == "trial"]
    assert trials == [1e-3, 1e-2, 0.1, 1.0]
    assert not many[-1]["at_end"] and many[-1]["learning_rate"] == 0.1


def test_trees_see_features_and_maps(measured):
    row = workflow.MapRow(label="x", kind="trees")
    folder = compare.Sample(measured / "marginal")
    data = Dataset.open(folder.processed)
    both, features, summarised = (
        maps.values_of(row.model_copy(update={"table": kind}), folder, data)
        for kind in ("both", "features", "maps")
    )
    np.testing.assert_array_equal(both, np.hstack([features, summarised]))
    assert summarised.shape[0] == 120 and summarised.shape[1] > 50


def test_what_does_not_fit_is_refused(measured, tmp_path):
    place = measured / "marginal"
    with pytest.raises(InputError, match="--row mine: no such row of maps.rows; .* vit, trees"):
        maps.train_row(place, settings_of(), "mine", tmp_path / "x")
    with pytest.raises(InputError, match="found no row vit of marginal; expected all rows"):
        maps.merge([place / "rows/trees"], settings_of(), tmp_path / "x")
    rows = {"gone": {"label": "x", "kind": "score", "score": "gone"}}
    with pytest.raises(InputError, match=r"rows\.gone\.score: found 'gone'; expected one of"):
        maps.train_row(place, settings_of(rows=rows), "gone", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": {}}, r"maps\.rows: found none; expected at least one"),
        ({"rows": {"a": ROWS["vit"] | {"against": ["b"]}}}, r"rows\.a\.against: found 'b'"),
        (
            {"rows": {"a": ROWS["vit"] | {"train": {"learning_rate": 1.0}}}},
            r"rows\.a\.train: learning_rate has no effect: maps\.rates are tried",
        ),
        (
            {"rows": {"a": {"label": "x", "model": TINY | {"patch_size": 5}}}},
            r"rows\.a: patch_size = 5 does not divide the side of maps",
        ),
        ({"sizes": [40, 20]}, r"maps\.sizes: expected rising numbers"),
    ],
)
def test_a_wrong_study_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        settings_of(**changes)


def test_figure_table_and_numbers(measured):
    rows = pd.read_csv(measured / "all/maps.csv")
    gains = pd.read_csv(measured / "all/maps_gains.csv")
    left, right = map_plots.maps(rows).axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["ViT", "trees", "evidence"]
    assert len(right.containers) == 1  # the curve of the transformer
    table = maps_table(rows, gains)
    assert len(table) == 5 and table["against"].tolist()[:3] == ["trees", "evidence", "evidence"]
    numbers = maps_numbers(rows, gains)
    assert numbers["maps_marginal_vit_over_trees"] == gains["gain"][0]
    assert (
        numbers["maps_marginal_vit_auc"]
        == rows.set_index(["row", "n_train"]).loc[("vit", 40), "roc_auc"]
    )
    told = json.loads((measured / "all/maps.json").read_text())
    assert told["rule"] == "merge_maps"
