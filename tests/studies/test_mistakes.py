"""The model of the errors finds what they were made of, and nothing where there is nothing."""

import numpy as np
import pandas as pd
import pytest

from studies import mistakes


def test_odds_are_those_that_the_errors_were_drawn_with():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20000, 3)) * [1.0, 5.0, 0.1] + [0, 3, 0]
    logit = -1.5 - 0.9 * x[:, 0] + 0.1 * (x[:, 1] - 3)  # per s.d.: -0.9, 0.5, 0
    wrong = rng.random(20000) < 1 / (1 + np.exp(-logit))
    known = pd.DataFrame(x, columns=["mass", "offset", "nothing"])
    known.loc[::100, "nothing"] = np.nan
    table, auc = mistakes.explain(wrong, known, n_bootstrap=60)
    np.testing.assert_allclose(np.log(table["odds"]), [-0.9, 0.5, 0.0], atol=0.06)
    assert (table["low"] < table["odds"]).all() and (table["odds"] < table["high"]).all()
    assert table["high"][0] < 1 < table["low"][1] and table["low"][2] < 1 < table["high"][2]
    assert table["n"][0] == 19800 and 0.7 < auc < 0.8
    # the width is the one that the curvature of the likelihood gives
    p = 1 / (1 + np.exp(-logit))
    standard = (x - x.mean(0)) / x.std(0)
    design = np.column_stack([np.ones(20000), standard])
    errors = np.sqrt(np.diag(np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design)))[1:]
    widths = np.log(table["high"] / table["low"]) / 2 / 1.96
    np.testing.assert_allclose(widths, errors, rtol=0.35)


def test_of_few_errors_nothing_is_told():
    known = pd.DataFrame({"mass": np.arange(100.0)})
    table, auc = mistakes.explain(np.arange(100) < 9, known)
    assert len(table) == 0 and np.isnan(auc)


def test_chance_is_not_explained():
    rng = np.random.default_rng(1)
    known = pd.DataFrame(rng.normal(size=(2000, 4)), columns=list("abcd"))
    _, auc = mistakes.explain(rng.random(2000) < 0.2, known, n_bootstrap=5)
    assert auc == pytest.approx(0.5, abs=0.06)  # folds: not the fitted images


def test_properties_of_a_class():
    catalog = pd.DataFrame({"class": ["cdm", "cdm", "axion", "no_sub"], "theta_E": 1.0})
    catalog["substructure_mass"] = [1e9, 1e10, 1e10, 0.0]
    catalog["max_subhalo_x"], catalog["max_subhalo_y"] = [0.6, 3, np.nan, np.nan], [0.8, 4, 0, 0]
    catalog["vortex_x"], catalog["vortex_y"] = [np.nan, np.nan, 0.0, np.nan], 0.5
    catalog["source_x"], catalog["source_y"] = [0.3, 0, 0, 0], [0.4, 0, 0.1, 0]
    features = pd.DataFrame({"total_flux_snr": [10.0, 100.0, 5.0, 7.0]})
    found = mistakes.properties(catalog, features, "cdm")
    expected = {"substructure_mass": [9, 10], "ring_distance": [0, 4], "total_flux_snr": [1, 2]}
    expected["source_offset"] = [0.5, 0]
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], [*values, np.nan, np.nan], atol=1e-12)
