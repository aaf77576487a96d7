"""Scores against the number of training images, on toys whose answer is known."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import SETTINGS
from sklearn.metrics import roc_auc_score

from studies import config as workflow
from studies import efficiency
from studies.plots import efficiency as efficiency_plots
from vitdm.config import Train
from vitdm.data import dataset
from vitdm.errors import InputError

RUNS = {
    "spt_lsa": {"label": "ViT", "model": {"features": False}},
    "spt_lsa_lensfit": {"label": "ViT + lens fit", "model": {"feature_set": "lensfit"}},
}
CURVE = {"population": "marginal", "sizes": [40]}
CONTENT = SETTINGS | {
    "features": {"groups": ["proposal", "morphology", "lensfit"]},
    "runs": RUNS,
    "efficiency": {"curves": [CURVE], "runs": list(RUNS), "min_steps": 120},
}


def sample(folder, shortcut, seed):
    """60 images to learn from, 60 that score; features of which one tells, and one may."""
    rng = np.random.default_rng(seed)
    kinds = np.array(["no_sub", "cdm", "axion"])[np.arange(120) % 3]
    catalog = pd.DataFrame({"id": [f"{i:03d}" for i in range(120)], "class": kinds})
    catalog = catalog.assign(split=np.repeat(["train", "opt"], 60), source="toy")
    images = rng.normal(size=(120, 32, 32)).astype(np.float32)
    dataset.write(folder / "processed", images, catalog, rule="toy")
    some = kinds != "no_sub"
    names = config_names()
    table = pd.DataFrame(rng.normal(size=(120, len(names))), columns=names)
    table["fit_fourth_power"] += 2 * some
    table["fit_theta_E"] += 9 * some * shortcut
    table.loc[3, "fit_theta_E"] = np.nan
    table.insert(0, "id", catalog["id"])
    table.to_csv(folder / "features.csv", index=False)
    (folder / "lensfit").mkdir()
    np.save(folder / "lensfit/residuals.npy", images)
    return folder


def config_names():
    from vitdm.features.definitions import definitions

    return list(definitions(settings_of().features))


def settings_of(**changes):
    return workflow.build(CONTENT | changes)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    place = tmp_path_factory.mktemp("efficiency")
    for k, name in enumerate(("model_i", "model_i_sizes")):
        (place / name).mkdir()
        sample(place / name, shortcut=k == 0, seed=k)
    first, other = place / "model_i", place / "model_i_sizes"
    efficiency.train_and_score(first, settings_of(), 40, 0, place / "part0", [other])
    efficiency.train_and_score(other, settings_of(), 40, 0, place / "part1")
    efficiency.merge_scores([place / "part0", place / "part1"], place / "all")
    return place


def test_few_images_get_more_epochs():
    recipe = Train(epochs=12, batch_size=64)
    assert [efficiency.epochs_for(n, recipe, 300) for n in (64, 100, 640, 9000)] == [
        300,
        150,
        30,
        12,
    ]


def test_each_model_is_scored_on_each_sample(measured):
    table = pd.read_csv(measured / "all/efficiency.csv")
    models = [*RUNS, "boosting", *efficiency.UNTRAINED]
    pairs = [("model_i", "model_i"), ("model_i", "model_i_sizes")] + [("model_i_sizes",) * 2]
    found = table.set_index(["model", "population", "scored_on"]).index
    assert set(found) == {(model, *pair) for model in models for pair in pairs}
    assert found.is_unique and (table["n_scored"] == 60).all()
    trained = table[table["model"].isin([*RUNS, "boosting"])]
    assert (trained["n_train"] == 40).all() and trained["macro_roc_auc"].notna().all()
    parts = trained[[f"roc_auc_{name}" for name in ("no_sub", "cdm", "axion")]]
    np.testing.assert_allclose(trained["macro_roc_auc"], parts.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(trained["roc_auc_no_sub"], trained["roc_auc"], atol=1e-12)
    told = json.loads((measured / "all/efficiency.json").read_text())
    assert told["cpu_seconds"] > 0 and len(told["inputs"]) == 2


def test_a_single_number_is_its_own_score(measured):
    table = pd.read_csv(measured / "all/efficiency.csv")
    values = pd.read_csv(measured / "model_i/features.csv")["fit_fourth_power"][60:]
    auc = roc_auc_score(np.arange(60, 120) % 3 > 0, values)
    row = table[(table["model"] == "fit_fourth_power") & (table["scored_on"] == "model_i")]
    assert row["roc_auc"].item() == pytest.approx(auc) and row["n_train"].item() == 0


def test_a_shortcut_is_lost_where_it_tells_nothing(measured):
    table = pd.read_csv(measured / "all/efficiency.csv")
    loss = efficiency_plots.shortcut_table(table, "model_i", "model_i_sizes").set_index("model")
    for name in ("boosting", "fit_theta_E", "spt_lsa_lensfit"):
        assert loss.loc[name, "roc_auc_here"] > 0.7
        assert loss.loc[name, "roc_auc_there"] < loss.loc[name, "roc_auc_here"] - 0.03
    assert abs(loss.loc["spt_lsa", "roc_auc_here"] - 0.5) < 0.2  # images are noise
    assert loss.loc["boosting", "n_train"] == 40


def test_networks_on_images_need_nothing_else(measured, tmp_path):
    """The same scores as beside all the others, from a sample that has images only."""
    shutil.copytree(measured / "model_i/processed", tmp_path / "model_i/processed")
    settings = settings_of()
    found = efficiency.train_and_score(
        tmp_path / "model_i", settings, 40, 0, tmp_path / "out", runs=["spt_lsa"]
    )
    table = pd.read_csv(measured / "part0/efficiency.csv")
    expected = table[(table["model"] == "spt_lsa") & (table["scored_on"] == "model_i")]
    assert list(found["model"]) == ["spt_lsa"]
    for score in ("roc_auc", "macro_roc_auc"):
        assert found[score].iloc[0] == pytest.approx(expected[score].iloc[0], abs=1e-12)


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([CURVE, CURVE], "found marginal twice; expected one"),
        ([CURVE | {"runs": ["mine"]}], "runs: found 'mine'; expected some of: spt_lsa"),
        ([CURVE | {"runs": ["spt_lsa_lensfit"]}], "needs lens fits; expected images alone"),
    ],
)
def test_wrong_curves_are_refused(curves, message):
    with pytest.raises(InputError, match=message):
        settings_of(efficiency=CONTENT["efficiency"] | {"curves": curves})


def test_published_results_are_stars(measured):
    table = pd.read_csv(measured / "all/efficiency.csv")
    table = table[table["population"] == "model_i"]
    labels = dict(zip(table["model"], table["label"], strict=True))
    published = pd.DataFrame(
        {
            "population": ["model_i", "model_i", "marginal"],
            "model": ["one", "two", "three"],
            "pretrained": ["yes", "no", "no"],
            "n_train": 90_000,
            "macro_roc_auc": [0.99, np.nan, 0.5],
        }
    )
    above, below = efficiency_plots.data_efficiency(table, labels, published=published).axes
    assert not above.texts and [text.get_text() for text in below.texts] == ["one"]
    elsewhere = efficiency_plots.data_efficiency(table, labels, published=published[2:])
    assert not any(axes.texts for axes in elsewhere.axes)
    star = next(line for line in below.lines if line.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (90_000, pytest.approx(0.01))


def test_the_figures_draw_what_the_table_holds(measured):
    table = pd.read_csv(measured / "all/efficiency.csv")
    labels = dict(zip(table["model"], table["label"], strict=True))
    figure = efficiency_plots.data_efficiency(
        table[table["population"] == "model_i"], labels, table
    )
    axes = figure.axes[0]
    row = table[(table["model"] == "boosting") & (table["scored_on"] == "model_i")]
    heights = [
        line.get_ydata()[0] for line in axes.lines if line.get_label() == row["label"].iloc[0]
    ]
    assert heights == pytest.approx([1 - row["roc_auc"].iloc[0]])
    perfect = efficiency_plots.data_efficiency(table.assign(roc_auc=1.0), labels).axes[0]
    assert all(np.allclose(line.get_ydata(), 1e-4) for line in perfect.lines)  # not beyond the axis
    assert perfect.get_ylim() == pytest.approx((0.62, 0.7e-4))
    assert [text.get_text() for text in axes.get_yticklabels()][:2] == ["0.5", "0.8"]
    loss = efficiency_plots.shortcut_table(table, "model_i", "model_i_sizes")
    figure = efficiency_plots.shortcut_loss(loss, labels)
    assert len(figure.axes[0].get_yticklabels()) == len(labels)


def test_the_legend_stands_where_a_population_has_no_mean_of_classes(measured):
    table = pd.read_csv(measured / "all/efficiency.csv")
    table = table[table["population"].isin(["model_i", "model_i_sizes"])]
    names = list(table["population"].unique())
    table.loc[table["population"] == names[1], "macro_roc_auc"] = np.nan
    labels = dict(zip(table["model"], table["label"], strict=True))
    grid = np.reshape(efficiency_plots.data_efficiency(table, labels, table).axes, (2, 2))
    assert grid[1, 0].axison and not grid[1, 1].axison
    told = [text.get_text() for text in grid[1, 1].get_legend().get_texts()]
    assert sorted(told) == sorted(labels.values())
    assert grid[0, 1].get_xlabel() == grid[1, 0].get_xlabel() == "training images"


def test_what_is_refused(measured, tmp_path):
    with pytest.raises(InputError, match="found 60 images in split train; expected at least 90"):
        efficiency.train_and_score(measured / "model_i", settings_of(), 90, 0, tmp_path / "out")
    with pytest.raises(InputError, match=r"nothing: no scores .* efficiency.csv, sensitivity"):
        efficiency.merge_scores([measured / "part0", tmp_path / "nothing"], tmp_path / "out")
    other = tmp_path / "other"
    shutil.copytree(measured / "part1", other)
    told = json.loads((other / "efficiency.json").read_text())
    for changed in ({"config_sha256": "another"}, {"runs": {"spt_lsa": {"label": "another"}}}):
        (other / "efficiency.json").write_text(json.dumps(told | changed))
        with pytest.raises(InputError, match="other: made with other settings than .*part0"):
            efficiency.merge_scores([measured / "part0", other], tmp_path / "out")
    with pytest.raises(InputError, match="nothing to merge"):
        efficiency.merge_scores([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_needs_no_training_is_merged_once(measured, tmp_path):
    again = tmp_path / "again"  # as another seed would repeat it
    shutil.copytree(measured / "part0", again)
    table = pd.read_csv(again / "efficiency.csv")
    table.loc[table["n_train"] > 0, "seed"] = 1
    table.to_csv(again / "efficiency.csv", index=False)
    efficiency.merge_scores([measured / "part0", again], tmp_path / "out")
    merged = pd.read_csv(tmp_path / "out/efficiency.csv")
    untrained = table["n_train"] == 0
    assert (merged["n_train"] == 0).sum() == untrained.sum() == 2 * len(efficiency.UNTRAINED)
    assert (merged["n_train"] > 0).sum() == 2 * (~untrained).sum()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runs": ["spt"]}, "efficiency.runs: found 'spt'; expected some of: spt_lsa, spt_lsa_len"),
        (
            {"curves": [CURVE | {"also": ["x.yaml"]}]},
            "also: found x.yaml; expected one with a curve",
        ),
        ({"curves": [CURVE | {"sizes": []}]}, "sizes"),
    ],
)
def test_wrong_settings_are_named(changes, words):
    with pytest.raises(InputError, match=words):
        settings_of(efficiency=CONTENT["efficiency"] | changes)
    selected = RUNS | {"chosen": {"label": "x", "model": {"features": True}}}
    with pytest.raises(InputError, match="chosen: found feature_set 'selected'"):
        settings_of(runs=selected, efficiency={"runs": ["chosen"]})
