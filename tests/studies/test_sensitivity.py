"""Completeness and ROC-AUC by what there is to be seen: closed forms and hand-made tables."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics

from studies import sensitivity


def made(n, seed=0):
    """Scores of n smooth and n CDM lenses, two Gaussians as far apart as log10 of the mass."""
    rng = np.random.default_rng(seed)
    mass = 10 ** rng.uniform(0, 3, n)
    score = np.concatenate([rng.normal(size=n), rng.normal(size=n) + np.log10(mass)])
    table = pd.DataFrame({"class": np.repeat(["no_sub", "cdm"], n), "label": np.repeat([0, 1], n)})
    table["p_no_sub"], table["p_cdm"] = 1 - stats.norm.cdf(score), stats.norm.cdf(score)
    values = pd.DataFrame({"substructure_mass": np.concatenate([np.full(n, np.nan), mass])})
    return table, values, score


def test_of_gaussians_whose_distance_grows_with_mass():
    table, values, score = made(30000)
    found = sensitivity.binned(table, values, bins=30)
    distance = np.log10(found["median"])
    assert list(found["n"]) == [1000] * 30 and set(found["quantity"]) == {"substructure_mass"}
    np.testing.assert_allclose(found["auc"], stats.norm.cdf(distance / math.sqrt(2)), atol=0.02)
    cut = stats.norm.ppf(1 - sensitivity.FPR)
    np.testing.assert_allclose(found["rate"], stats.norm.sf(cut - distance), atol=0.05)
    inside = (found["auc_low"] < found["auc"]) & (found["auc"] < found["auc_high"])
    assert inside.all() and (found["rate_low"] < found["rate"]).all()


def test_wilson_and_bins_by_hand():
    table, values, score = made(60, seed=1)
    found = sensitivity.binned(table, values, bins=3)
    mass = np.sort(values["substructure_mass"].dropna())
    np.testing.assert_allclose(found["low"], mass[[0, 20, 40]])
    np.testing.assert_allclose(found["high"], mass[[19, 39, 59]])
    first = values["substructure_mass"].to_numpy() <= mass[19]
    cut = np.sort(score[:60])[-1]  # 1 % of 60 smooth lenses: none may pass
    hits = int((score[first] > cut).sum())
    z2, p = stats.norm.ppf(0.975) ** 2, hits / 20
    half = math.sqrt(z2 * (p * (1 - p) / 20 + z2 / 4 / 20**2)) / (1 + z2 / 20)
    middle = (p + z2 / 2 / 20) / (1 + z2 / 20)
    assert found["rate"][0] == p
    assert found["rate_low"][0] == pytest.approx(max(0, middle - half), abs=1e-9)
    assert found["rate_high"][0] == pytest.approx(middle + half)
    chosen = first | (np.arange(120) < 60)
    expected = metrics.roc_auc_score(table["label"][chosen], score[chosen])
    assert found["auc"][0] == pytest.approx(expected)


def test_what_all_lenses_have_is_compared_within_the_bin():
    """The score is the signal-to-noise itself: it tells nothing within a bin, and much without."""
    rng = np.random.default_rng(0)
    snr = rng.uniform(1, 2, 4000)
    table = pd.DataFrame({"class": np.where(rng.random(4000) < snr - 1, "cdm", "no_sub")})
    table["p_no_sub"] = 1 - snr / 3
    found = sensitivity.binned(table, pd.DataFrame({"total_flux_snr": snr}), bins=10)
    assert len(found) == 10 and found["n"].is_monotonic_increasing
    assert abs(found["auc"] - 0.5).max() < 0.15
    assert metrics.roc_auc_score(table["class"] == "cdm", snr) > 0.8


def test_quantities_of_a_catalog():
    catalog = pd.DataFrame({"theta_E": [1.0, 1.2], "max_subhalo_x": [0.6, np.nan]})
    catalog["max_subhalo_y"], catalog["vortex_length"] = [0.8, np.nan], [np.nan, 1.5]
    catalog.index = [7, 3]
    features = pd.DataFrame({"total_flux_snr": [50.0, 60.0], "other": [1, 2]})
    found = sensitivity.quantities(catalog, features)
    assert set(found) == {"ring_distance", "vortex_length", "total_flux_snr"}
    np.testing.assert_allclose(found["ring_distance"], [0.0, np.nan], atol=1e-12)
    assert list(found["total_flux_snr"]) == [50, 60]


def test_without_truth_there_is_nothing():
    table, _, _ = made(50)
    assert len(sensitivity.binned(table, pd.DataFrame(index=range(100)))) == 0
    same = pd.DataFrame({"substructure_mass": np.full(100, 3e10)})
    assert len(sensitivity.binned(table, same)) == 0
