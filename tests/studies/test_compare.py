"""The fair comparison, on toys whose answer is known."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import SETTINGS
from sklearn.metrics import roc_auc_score
from test_efficiency import sample

from studies import compare
from studies import config as workflow
from studies.plots import comparison as comparison_plots
from vitdm.errors import InputError
from vitdm.evaluation.metrics import paired_difference

CURVE = {"population": "model_i", "sizes": [60]}
ROWS = {
    "image": {"label": "ViT", "model": {"features": False}, "train": {"epochs": 2}},
    "lensfit": {
        "label": "ViT + lens fit",
        "model": {"feature_set": "lensfit"},
        "train": {"epochs": 6},
        "against": "image",
    },
    "boosting": {"label": "boosting", "boosting": True, "against": "lensfit"},
}
CHOSEN = {
    "population": CURVE["population"],
    "n_train": 40,
    "n_valid": 20,
    "rates": [1e-4, 1e-2],
    "boosting_rates": [1e-4, 0.1],
    "seeds": 2,
    "rows": ROWS,
}
CONTENT = SETTINGS | {
    "features": {"groups": ["proposal", "morphology", "lensfit"]},
    "efficiency": {"curves": [CURVE]},
    "compare": CHOSEN,
}


def settings_of(**changes):
    return workflow.build(CONTENT | {"compare": CHOSEN | changes})


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    place = tmp_path_factory.mktemp("compare")
    (place / "model_i").mkdir()
    sample(place / "model_i", shortcut=True, seed=0)
    shutil.copytree(place / "model_i/processed", place / "model_i/dataset")
    for name in ROWS:
        compare.train_row(place / "model_i", settings_of(), name, place / name)
    compare.merge_rows([place / name for name in reversed(ROWS)], settings_of(), place / "all")
    return place


def test_every_row_has_the_same_tuning_and_seeds(measured):
    table = pd.read_csv(measured / "all/comparison.csv")
    assert list(dict.fromkeys(table["row"])) == list(ROWS)
    for name, part in table.groupby("row"):
        trials, final = part[part["kind"] == "trial"], part[part["kind"] == "final"]
        rates = CHOSEN["boosting_rates" if name == "boosting" else "rates"]
        assert list(trials["learning_rate"]) == rates and (trials["seed"] == 0).all()
        best = trials.loc[trials["valid"].idxmax(), "learning_rate"]
        assert list(final["seed"]) == [0, 1] and (final["learning_rate"] == best).all()
        assert (final["cpu_seconds"] > 0).all()
    epochs = table.set_index(["row", "kind"])["epochs"]
    assert (epochs["lensfit", "trial"] == 3).all() and (epochs["lensfit", "final"] == 6).all()
    history = pd.read_csv(measured / "all/comparison_history.csv")
    ends = history.groupby(["row", "seed"])["cpu_seconds"].max()
    costs = table[table["kind"] == "final"].set_index(["row", "seed"])["cpu_seconds"]
    pd.testing.assert_series_equal(ends.sort_index(), costs.sort_index())


def test_scores_are_those_of_the_images_that_score(measured):
    catalog = pd.read_csv(measured / "model_i/processed/catalog.csv", dtype={"id": str})
    table = pd.read_csv(measured / "all/comparison.csv").query("kind == 'final'")
    for row in table.itertuples():
        file = measured / row.row / f"predictions_seed{row.seed}.csv"
        found = pd.read_csv(file, dtype={"id": str})
        assert list(found["id"]) == list(catalog.loc[catalog["split"] == "opt", "id"])
        assert row.roc_auc == pytest.approx(
            roc_auc_score(found["class"] != "no_sub", 1 - found["p_no_sub"])
        )
        rest = [
            roc_auc_score(found["class"] == name, found[f"p_{name}"])
            for name in ("no_sub", "cdm", "axion")
        ]
        assert row.macro_roc_auc == pytest.approx(np.mean(rest))
    means = table.groupby("row")["roc_auc"].mean()
    assert means["boosting"] > 0.8 and means["image"] < 0.75  # the images are noise


def test_images_that_choose_are_not_learnt_from(measured):
    bench = compare.Bench.of(measured / "model_i/processed", "multiclass", 40, 20, seed=7)
    parts = [set(rows) for rows in (bench.train, bench.valid, bench.scored)]
    assert [len(part) for part in parts] == [40, 20, 60]
    assert len(set.union(*parts)) == 120


def test_gains_are_paired(measured):
    gains = pd.read_csv(measured / "all/comparison_gains.csv").set_index(["row", "score"])
    assert set(gains.index) == {
        (name, score) for name in ("lensfit", "boosting") for score in ("roc_auc", "macro_roc_auc")
    }
    scores = pd.read_csv(measured / "all/comparison.csv").query("kind == 'final'")
    for score in ("roc_auc", "macro_roc_auc"):
        means = scores.groupby("row")[score].mean()
        row = gains.loc["lensfit", score]
        assert row["gain"] == pytest.approx(means["lensfit"] - means["image"])
        assert row["low"] < row["gain"] < row["high"] and row["against"] == "image"


def test_a_macro_gain_is_the_mean_of_three(measured):
    tables = [
        [pd.read_csv(measured / name / "predictions_seed0.csv", dtype={"id": str})]
        for name in ("image", "boosting")
    ]
    whole = paired_difference(*tables, 50, 0, macro=True)
    parts = []
    for k, name in enumerate(("no_sub", "cdm", "axion")):
        binary = [
            [
                table[["id"]].assign(
                    label=(table["label"] == k).astype(int), p_no_sub=1 - table[f"p_{name}"]
                )
            ]
            for (table,) in tables
        ]
        parts.append(paired_difference(*binary, 50, 0).value)
    assert whole.value == pytest.approx(np.mean(parts))


def test_processing_of_its_own(measured, tmp_path):
    rows = {"small": ROWS["image"] | {"preprocess": {"size": 16}, "train": {"epochs": 1}}}
    settings = settings_of(rows=rows, seeds=1)
    compare.train_row(measured / "model_i", settings, "small", tmp_path / "small")
    assert (tmp_path / "small/trials.csv").is_file()
    found = json.loads((tmp_path / "small/compare.json").read_text())
    assert found["rule"] == "compare"


def test_a_rate_that_diverges_is_told_and_not_taken(measured, tmp_path):
    settings = settings_of(rates=[1e30, 1e-3], seeds=1)
    table = compare.train_row(measured / "model_i", settings, "image", tmp_path / "image")
    trials = table[table["kind"] == "trial"]
    assert trials["valid"].isna().tolist() == [True, False]
    assert "at learning rate" in trials["error"].iloc[0]
    assert table.loc[table["kind"] == "final", "learning_rate"].tolist() == [1e-3]
    with pytest.raises(InputError, match=r"rows\.image: found no learning rate of \[1e\+30\]"):
        compare.train_row(
            measured / "model_i", settings_of(rates=[1e30]), "image", tmp_path / "other"
        )
    assert not (tmp_path / "other").exists()


def test_what_does_not_fit_is_refused(measured, tmp_path):
    place = measured / "model_i"
    with pytest.raises(InputError, match="--row mine: no such row .* image, lensfit, boosting"):
        compare.train_row(place, settings_of(), "mine", tmp_path / "x")
    more = workflow.build(
        CONTENT
        | {"efficiency": {"curves": [CURVE | {"sizes": [90]}]}, "compare": CHOSEN | {"n_valid": 30}}
    )
    with pytest.raises(InputError, match="found 60 images in split train; expected at least .* 70"):
        compare.train_row(place, more, "image", tmp_path / "x")
    with pytest.raises(InputError, match="found rows image; expected image, lensfit, boosting"):
        compare.merge_rows([measured / "image"], settings_of(), tmp_path / "x")
    shutil.copytree(measured / "image", tmp_path / "lensfit")
    (tmp_path / "lensfit/trials.csv").unlink()
    parts = [measured / "image", tmp_path / "lensfit", measured / "boosting"]
    with pytest.raises(InputError, match=r"lensfit: no row of a comparison: trials\.csv missing"):
        compare.merge_rows(parts, settings_of(), tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"population": None}, r"compare\.population: found None; expected one with a curve"),
        ({"n_valid": 30}, r"n_train \+ n_valid: found 70; expected up to 60"),
        ({"rows": {"a": ROWS["image"] | {"against": "b"}}}, r"rows\.a\.against: found 'b'"),
        (
            {"rows": {"a": ROWS["image"] | {"train": {"learning_rate": 1.0}}}},
            r"rows\.a\.train: learning_rate has no effect: compare\.rates are tried",
        ),
        ({"rows": {"a": {"label": "x", "model": {"dept": 3}}}}, r"rows\.a\.model\.dept: unknown"),
        (
            {"rows": {"a": ROWS["image"] | {"preprocess": {"sise": 3}}}},
            r"rows\.a\.preprocess\.sise: unknown key",
        ),
        (
            {"rows": {"a": ROWS["image"] | {"preprocess": {"size": 17}}}},
            r"rows\.a: patch_size = .* does not divide",
        ),
        (
            {"rows": {"a": {"label": "x", "model": {"features": True}}}},
            r"rows\.a: found feature_set 'selected'; expected another",
        ),
    ],
)
def test_a_wrong_comparison_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        settings_of(**changes)


def test_the_figure_has_a_row_a_model_and_a_curve_a_network(measured):
    trials = pd.read_csv(measured / "all/comparison.csv")
    history = pd.read_csv(measured / "all/comparison_history.csv")
    left, right = comparison_plots.comparison(trials, history).axes
    assert [text.get_text() for text in left.get_yticklabels()] == [
        row["label"] for row in ROWS.values()
    ]
    curves = [line for line in right.lines if len(line.get_xdata()) > 1]
    assert len(curves) == 2 and len(right.lines) == 3
