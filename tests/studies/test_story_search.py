"""What notebook 04 assembles: the search, learning rates by recipe, kinds of search."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from studies.story import extended, rates, search, searches
from vitdm.config.search import Categorical, Real

SPACE = {
    "learning_rate": Real(type="real", low=1e-4, high=1e-2, log=True),
    "patch_size": Categorical(type="categorical", choices=[8, 12]),
}


@pytest.fixture
def best():
    start, other = (
        {"learning_rate": 1e-3, "patch_size": 8},
        {"learning_rate": 2e-3, "patch_size": 12},
    )
    entries = [(start, 0.90, 0.90), (other, 0.95, 0.93), (start | {"patch_size": 12}, 0.94, 0.90)]
    rows = [
        {"params": params, "found": found, "mean": mean, "error": 0.01, "scores": [mean]}
        for params, found, mean in entries
    ]
    counts = {"calls": 5, "failed": 1, "stopped": 2, "noise_sd": 0.1, "best_of_trials": 0.95}
    times = {"seconds": 9.0, "cpu_seconds": 30.0, "cpu_seconds_saved": 10.0}
    return {"start": start, "params": other, "candidates": rows} | counts | times


def test_space_in_words():
    assert search.bounds(SPACE["learning_rate"]) == "0.0001 to 0.01, logarithmic"
    assert search.bounds(SPACE["patch_size"]) == "one of 8, 12"


def test_start_and_choice_are_set_side_by_side(best):
    table = search.settings_table(best, SPACE)
    assert list(table["searched"]) == ["0.0001 to 0.01", "8, 12"]
    assert list(table["start"]) == ["0.001", "8"] and list(table["best"]) == ["0.002", "12"]


def test_candidates_and_how_much_too_good_they_were(best):
    table = search.candidates(best)
    assert list(table["setting"]) == ["start", "trial 1", "trial 2"]
    assert list(table["chosen"]) == [False, True, False]
    assert search.found_too_good(table) == pytest.approx(0.03)  # the start was not selected
    assert np.isnan(search.found_too_good(table[:1]))


def test_numbers_of_the_search(best):
    trials = pd.DataFrame({"score": [0.5, 0.9, 0.8]})
    numbers = search.search_numbers(best, trials, search.candidates(best))
    assert numbers["tune_best_auc"] == 0.93 and numbers["tune_start_auc"] == 0.9
    assert numbers["tune_cpu_saved"] == 0.25 and numbers["tune_median_auc"] == 0.8
    assert numbers["best_patch_size"] == 12 and not numbers["tune_start_kept"]
    assert search.gain_numbers(None) == {}
    gain = {"gain": 1.0, "low": 0.5, "high": 1.5, "n_images": 7, "auc": 0.9}
    assert search.gain_numbers(gain)["tune_gain_n"] == 7


def test_spreads_rank_the_settings():
    curves = {("a",): np.array([0.0, 0.1]), ("b",): np.array([0.3, -0.2]), ("a", "b"): np.eye(2)}
    assert search.spreads(curves).to_dict() == pytest.approx({"b": 0.5, "a": 0.1})


@pytest.mark.parametrize(
    ("names", "colour"),
    [
        (["learning_rate", "embed_dim", "patch_size"], "patch_size"),
        (["depth", "learning_rate"], "depth"),
        (["learning_rate"], "learning_rate"),
    ],
)
def test_setting_beside_the_learning_rate(names, colour):
    assert search.beside_rate(names) == colour


def test_trials_that_learnt_nothing_are_counted():
    trials = pd.DataFrame({"status": ["ok", "failed", "stopped"], "score": [0.9, 0.5, 0.55]})
    assert search.collapsed(trials) == 1


def test_committed_results_are_shown_by_the_article_alone(tmp_path):
    article, other = (SimpleNamespace(publish=publish) for publish in (True, False))
    assert rates.rate_trials(other, tmp_path) is None
    assert extended.committed(other, "rates.csv") == []
    assert len(rates.rate_trials(article, tmp_path)) > 0
    own = tmp_path / "rates" / "rates.csv"
    own.parent.mkdir()
    own.write_text("recipe,label,learning_rate,score\nours,ours,0.1,0.9\n")
    assert len(rates.rate_trials(article, tmp_path)) == 1


def test_highest_rate_that_trains():
    rows = [("ours", 0.01, 0.9), ("ours", 0.1, 0.7), ("bare", 0.01, 0.55), ("bare", 0.1, 0.5)]
    trials = pd.DataFrame(rows, columns=["recipe", "learning_rate", "score"])
    trials = pd.concat([trials, trials.assign(score=trials["score"] + 0.02)])
    trials["label"] = trials["recipe"].str.upper()
    numbers = rates.rates_numbers(trials)
    assert numbers.pop("rates_best_ours") == pytest.approx(0.91)
    assert numbers.pop("rates_best_bare") == pytest.approx(0.56)
    assert numbers == {"rates_limit_ours": 0.1, "rates_highest": 0.1}
    table = rates.rates_table(trials)
    assert table.loc["OURS", "highest_rate"] == 0.1 and np.isnan(table.loc["BARE", "highest_rate"])


@pytest.fixture
def compared():
    rows = []
    for arm, number, shift in (
        ("process", 0, 0.02),
        ("process", 1, 0.04),
        ("random", 0, 0),
        ("random", 1, 0),
    ):
        calls = [("start", 0.1, 0.8), ("design", 0.2, 0.9), ("asked", 0.3, 0.85)]
        again = [
            ("again", 0.2, 0.82),
            ("again", 0.2, 0.88),
            ("again", 0.3, 0.84),
            ("again", 0.3, 0.84),
        ]
        for stage, rate, score in calls + again:
            row = {"arm": arm, "number": number, "label": arm.upper(), "stage": stage}
            row |= {"learning_rate": rate, "score": score + shift, "cpu_seconds": 20.0, "seed": 0}
            rows.append(row | {"epochs": 2, "curve": "0.6 0.7"})
    return pd.DataFrame(rows)


def test_choice_of_a_search_has_the_best_mean_minus_its_error(compared):
    choice = searches.choices(compared, ["learning_rate"])
    assert list(choice) == ["process", "random"]
    # 0.85 +- 0.03 and 0.84 +- 0
    np.testing.assert_allclose(choice, [[0.86, 0.84], [0.88, 0.84]])
    table = searches.searches_table(compared, choice)
    np.testing.assert_allclose(table["best of trials"], [0.93, 0.9])
    np.testing.assert_allclose(table["minus random"], [0.03, 0])
    np.testing.assert_allclose(table["error of that"], [0.01, 0])
    np.testing.assert_allclose(table["minutes of a core"], 1)


def test_calls_have_the_best_so_far(compared):
    calls = searches.calls_of(compared)
    one = calls[(calls["arm"] == "random") & (calls["number"] == 1)]
    assert list(one["best_so_far"]) == [0.8, 0.9, 0.9]


def test_numbers_of_the_searches(compared):
    rule = searches.replayed(compared, ["learning_rate"], patience=1)
    assert rule == {"saved": 0, "lost": 0, "n": 4}  # three points are too few for the rule
    choice = searches.choices(compared, ["learning_rate"])
    table = searches.searches_table(compared, choice)
    numbers = searches.searches_numbers(table, choice, rule)
    assert numbers["search_process_ahead"] == pytest.approx(0.03)
    assert numbers["search_seeds"] == 2 and numbers["replay_n"] == 4
