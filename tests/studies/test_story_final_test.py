"""What notebook 05 assembles: the final test, baselines, errors, remedies, the audit."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from studies.story import (
    baselines,
    failures,
    faults,
    final_test,
    headline,
    real_images,
    remedies,
    sensitivity,
    shortcut,
)

RESAMPLED = 50, 0  # resamplings and seed


def predictions(scores, classes=("no_sub", "cdm"), split="test"):
    """Return predictions of half smooth lenses, half with substructure: scores (n,) are theirs."""
    scores = np.asarray(scores, float)
    labels = (np.arange(len(scores)) >= len(scores) // 2).astype(int)
    table = pd.DataFrame({"id": [f"i{k}" for k in range(len(scores))], "label": labels})
    table["class"], table["split"] = np.array(classes)[labels], split
    return table.assign(p_no_sub=1 - scores, p_cdm=scores)


RIGHT = predictions([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
ONE_WRONG = predictions([0.1, 0.2, 0.3, 0.55, 0.5, 0.6, 0.7, 0.8])


# --------------------------------------------------------------------------------- final test


@pytest.fixture
def tested():
    values = {"classes": ["no_sub", "cdm"], "n_test": 8, "n_missed": 1, "test_auc_seeds": [1.0]}
    for k, key in enumerate(final_test.RESULTS):
        values |= {key: k / 10, f"{key}_low": 0.0, f"{key}_high": 1.0}
    values |= {f"test_auc_cdm{end}": 0.5 for end in final_test.ENDS}
    del values["test_ece_floor_low"], values["test_ece_floor_high"]
    return values


def test_results_in_words(tested):
    table = final_test.results_table(tested).set_index("quantity")
    assert len(table) == len(final_test.RESULTS) - len(final_test.MULTICLASS)
    assert table.loc["the same, interval by DeLong", "value"] == tested["test_auc"]
    assert np.isnan(table.loc["the same, of a perfect model", "low"])
    more = final_test.results_table(tested | {"classes": ["no_sub", "cdm", "axion"]})
    assert "accuracy among all classes" in set(more["quantity"])


def test_classes_without_images_have_no_row(tested):
    table = final_test.per_class_table(tested, RIGHT)
    assert table.to_dict("records") == [
        {"class": "cdm", "images": 4, "roc_auc": 0.5, "low": 0.5, "high": 0.5}
    ]


def test_numbers_of_the_test_are_no_lists(tested):
    numbers = final_test.score_numbers(tested)
    assert numbers["n_missed"] == 1 and numbers["test_accuracy"] == tested["test_accuracy"]
    assert not {"classes", "n_test", "test_auc_seeds"} & set(numbers)


def test_a_temperature_of_one_changes_nothing():
    curves = final_test.reliability_curves([RIGHT, ONE_WRONG], [1.0, 1.0])
    pd.testing.assert_frame_equal(curves["raw"], curves["tempered"])
    assert curves["raw"]["n"].sum() >= len(RIGHT)
    colder = final_test.reliability_curves([RIGHT, ONE_WRONG], [0.5, 0.5])
    assert colder["tempered"]["score"].max() > curves["raw"]["score"].max()


def test_rows_are_found_by_id(tmp_path):
    catalog = pd.DataFrame({"id": ["a", "b", "c"], "class": ["no_sub", "cdm", "cdm"]})
    data = SimpleNamespace(catalog=catalog)
    assert list(final_test.rows_of(data, ["c", "a"])) == [2, 0]
    assert list(final_test.truth_of(data, ["c", "a"])["class"]) == ["cdm", "no_sub"]


# ---------------------------------------------------------------------------------- baselines


def test_baselines_beside_networks():
    chi2 = 1 - RIGHT["p_no_sub"].to_numpy()
    others = {baselines.BASELINE: [ONE_WRONG] * 2, baselines.UNTRAINED: []}
    others |= baselines.known_lens(RIGHT, chi2, 2)
    table = baselines.beside_networks([RIGHT, RIGHT], others, *RESAMPLED)
    assert list(table.index) == [baselines.BASELINE, baselines.KNOWN_LENS]
    assert list(table["roc_auc"]) == [15 / 16, 1.0]
    np.testing.assert_allclose(table["gain"], [-1 / 16, 0])
    numbers = baselines.baseline_numbers(table)
    assert numbers["boosting_test_auc"] == 15 / 16 and numbers["known_lens_p"] == 1
    assert len(numbers) == 2 * 7


def test_baselines_are_of_one_split():
    both = {"boosting": [pd.concat([predictions([0.1, 0.9], split="valid"), RIGHT])]}
    assert len(baselines.on_split(both, test=True)["boosting"][0]) == len(RIGHT)
    assert list(baselines.on_split(both, test=False)["boosting"][0].index) == [0, 1]


def test_nothing_is_known_of_lenses_that_were_not_simulated(tmp_path):
    assert baselines.chi2_of_known_lens(tmp_path, RIGHT["id"]) is None
    assert baselines.known_lens(RIGHT, None, 2) == {}
    assert baselines.macro_numbers([RIGHT], [RIGHT], *RESAMPLED) == {}  # two classes


# ------------------------------------------------------------------------- errors and remedies


def test_missed_lenses_that_the_known_lens_bound_finds():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    scores = np.array([0.1, 0.1, 0.1, 0.9, 0.2, 0.2, 0.9, 0.9])  # one false alarm of four
    chi2 = np.array([1, 2, 3, 9, 4, 2, 9, 9])  # at the same rate, one missed lens is above
    assert failures.missed_but_visible(labels, scores, 0.5, chi2) == 0.5
    assert failures.missed_but_visible(labels, scores, 0.5, None) is None
    assert failures.missed_but_visible(labels, scores, 0.1, chi2) is None  # nothing is missed


def test_numbers_of_odds():
    row = {"class": "cdm", "property": "theta_E", "odds": 2.0, "low": 1.0, "high": 4.0}
    numbers = failures.odds_numbers(pd.DataFrame([row]), {"cdm": 0.7})
    assert numbers == {
        "errors_foreseen_cdm": 0.7,
        "odds_cdm_theta_E": 2.0,
        "odds_cdm_theta_E_low": 1.0,
        "odds_cdm_theta_E_high": 4.0,
    }


def test_remedies_and_what_they_bring(tmp_path):
    tried = {"valid": remedies.averages([ONE_WRONG, RIGHT], []), "opt": {}}
    assert list(tried["valid"]) == [remedies.SEEDS]
    tried["test"] = remedies.averages([ONE_WRONG], [RIGHT])
    table = remedies.remedies_table(tried, *RESAMPLED)
    assert list(table["split"]) == ["valid", "test", "test", "test"]
    assert table["gain"][0] == pytest.approx(1 - (1 + 15 / 16) / 2)  # their mean is right
    assert table["errors after"][0] == 0
    assert set(remedies.remedy_numbers(table)) == {f"remedy_seeds{end}" for end in final_test.ENDS}
    assert remedies.showing_more(tmp_path, ["no_sub", "cdm"]) == {}


# ------------------------------------------------------------------------- sensitivity and size


def test_other_populations_are_means_over_the_seeds_of_the_first_model(tmp_path):
    bins = {"quantity": "f_sub", "median": 2.0, "low": 1.0, "high": 3.0, "n": 9}
    rows = [
        {"population": name, "scored_on": on, "model": model, "n_train": n, "rate": rate} | bins
        for name, on, model, n, rate in (
            ("model_i", "model_i", "boosting", 100, 0.9),
            ("model_i", "model_i", "spt_lsa_lensfit", 10, 0.1),
            ("model_i", "model_i", "spt_lsa_lensfit", 100, 0.2),
            ("model_i", "model_i", "spt_lsa_lensfit", 100, 0.4),
            ("model_i", "realistic", "spt_lsa_lensfit", 100, 0.7),
            ("realistic", "realistic", "spt_lsa", 100, 0.7),
            ("marginal", "marginal", "boosting", 100, 0.8),
        )
    ]
    file = tmp_path / "efficiency" / "all" / "sensitivity.csv"
    file.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(file, index=False)
    config = SimpleNamespace(publish=False)
    (table,) = sensitivity._others(config, tmp_path, "marginal")
    assert len(table) == 1 and table["rate"][0] == pytest.approx(0.3)
    table = table.assign(auc=0.8)
    numbers = sensitivity.sensitivity_numbers(table, {"model_i": 1e9})
    assert numbers["sensitivity_model_i_n_train"] == 100
    assert numbers["f_sub_model_i_least_rate"] == pytest.approx(0.3)
    assert numbers["collapse_model_i"] == 1e9


def test_images_from_files_have_no_sensitivity(tmp_path):
    config = SimpleNamespace(data="images.zip")
    bins = sensitivity.sensitivity_bins(config, tmp_path, RIGHT, RIGHT, RIGHT)
    assert bins.empty and sensitivity.sensitivity_numbers(bins, {}) == {}


def test_best_measure_of_size_is_chosen_on_development_images():
    features = pd.DataFrame(
        {
            "ring_radius": [1.0, 4, 3, 2, 1, 2, 3, np.nan],
            "max_separation_50": range(8),
            "gini": 1.0,
        },
        index=RIGHT["id"],
    )
    sizes = shortcut.size_scores(features, RIGHT, RIGHT)
    assert list(sizes) == ["ring_radius", "max_separation_50"]
    table = shortcut.shortcut_table(features, sizes, RIGHT, *RESAMPLED)
    assert table["feature"].to_dict() == {
        "ring_radius": "ring_radius",
        "size_feature": "max_separation_50",
    }
    assert list(table["measured"]) == [7 / 8, 1.0]
    numbers = shortcut.shortcut_numbers(table)
    assert numbers["size_feature"] == "max_separation_50" and numbers["size_feature_test_auc"] == 1
    assert shortcut.shortcut_numbers(shortcut.shortcut_table(features, {}, RIGHT, *RESAMPLED)) == {
        "size_feature": None
    }


# ----------------------------------------------------------- the audit, real images, the headline


def test_rows_of_the_audit_that_are_quoted():
    rows = pd.DataFrame(
        [
            ("as it was", "as it was", "", 0.5, np.nan, np.nan, np.nan),
            ("a", "alone", "grey", 0.6, 0.1, 0.05, 0.2),
            ("b", "alone", "post_norm", 0.4, -0.1, -0.2, 0.1),
            ("c", "alone", "hard_labels", 0.9, 0.4, 0.3, 0.5),
            ("a", "cumulative", "grey", 0.6, 0.1, 0.05, 0.2),
            ("b", "cumulative", "grey post_norm", 0.7, 0.2, 0.1, 0.3),
            ("ours", "ours", np.nan, 0.8, 0.3, 0.2, 0.4),
        ],
        columns=["row", "kind", "mended", "roc_auc", "gain", "gain_low", "gain_high"],
    ).assign(seeds=2, cpu_seconds=10.0)
    quoted = {name: row["roc_auc"] for name, row in faults.key_rows(rows).items()}
    assert quoted == {
        "published": 0.5, "mended": 0.7, "largest": 0.6, "smallest": 0.4, "before15": 0.6,
        "ours0": 0.8,
    }  # fmt: skip
    numbers = faults.audit_numbers(rows)
    assert numbers["audit_n_alone"] == 2 and numbers["audit_n_clear"] == 1
    assert numbers["audit_seconds"] == 140
    assert "audit_published_gain" not in numbers  # it is the one compared with


def test_committed_answers_on_real_images(tmp_path):
    answers = real_images.read_answers(SimpleNamespace(publish=True), tmp_path)
    assert len(real_images.by_label(answers)) == answers.table["set"].nunique()
    numbers = real_images.real_numbers(answers)
    name = answers.table["set"].iloc[0]
    assert numbers[f"sky_{name}_lowest"] <= numbers[f"sky_{name}_highest"]
    assert real_images.read_answers(SimpleNamespace(publish=False), tmp_path) is None


def test_lenses_of_the_headline_are_alike():
    truth = pd.DataFrame(
        {
            "id": list("abcd"),
            "class": ["no_sub", "no_sub", "cdm", "cdm"],
            "source_x": [0.5, headline.SOURCE[0], headline.SOURCE[0], headline.SOURCE[0]],
            "source_y": headline.SOURCE[1],
            "theta_E": [1.0, 1.0, 1.0, 1.0],
            "source_amp": 1.0,
            "source_R_sersic": 0.2,
        }
    )
    distance = headline.typical(truth)
    np.testing.assert_allclose(distance, [0.36, 0, 0, 0])
    distance += headline.FAR * ~pd.Series([True, True, False, True])
    assert list(headline.one_of_each(truth, distance, ["no_sub", "cdm"])) == ["b", "d"]
    assert (headline.typical(truth[["id", "class"]]) == 0).all()


def test_residuals_worth_a_picture(tmp_path):
    (tmp_path / "lensfit").mkdir()
    fits = {"id": list("abcde"), "fit_fourth_power": [1, 2, 3, 4, 5.0]}
    fits = pd.DataFrame(fits | {"fit_converged": [1, 0, 1, 1, 1]})
    fits.to_csv(tmp_path / "lensfit" / "fits.csv", index=False)
    truth = pd.DataFrame({"id": list("abcde"), "class": ["no_sub"] * 2 + ["cdm"] * 3})
    assert list(headline.visible(tmp_path, truth)) == [True, False, False, True, True]
