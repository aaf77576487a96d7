"""CDM against vortex, also at equal mass (notebook 05)."""

import numpy as np
import pandas as pd
import pytest

from studies.story.kinds import kind_numbers, kind_table, pairs_of_equal_mass


def test_pairs_have_one_of_either_kind_and_equal_mass():
    rng = np.random.default_rng(0)
    kind, mass = rng.random(400) < 0.6, 10 ** rng.normal(9, 0.5, 400)
    mass[kind] *= 3
    first, second = pairs_of_equal_mass(kind, mass)
    assert kind[first].all() and not kind[second].any()
    assert np.abs(np.log10(mass[first] / mass[second])).max() < 0.05
    assert len(set(first) | set(second)) == 2 * len(first) and len(first) > 60
    # nothing that could be paired is left over: no two free rows of both kinds are close
    free = np.setdiff1d(np.arange(400), [*first, *second])
    ours, theirs = free[kind[free]], free[~kind[free]]
    if len(ours) and len(theirs):
        apart = np.abs(np.log10(mass[ours][:, None] / mass[theirs]))
        assert (apart < 0.05).mean() < 0.01


def test_mass_that_gives_the_kind_away_does_so_no_longer_in_pairs():
    """A network that saw the mass alone, and one that saw the form as well."""
    rng = np.random.default_rng(1)
    n = 3000
    kind = rng.permutation(np.repeat(["no_sub", "cdm", "axion"], n // 3))
    mass = np.where(kind == "cdm", 10 ** rng.normal(10.3, 0.3, n), 10 ** rng.normal(10.0, 0.3, n))
    truth = pd.DataFrame({"class": kind, "substructure_mass": np.where(kind == "no_sub", 0, mass)})
    form = np.where(kind == "cdm", 1.0, -1.0) + rng.normal(0, 1, n)

    def network(logit):
        p = 1 / (1 + np.exp(-logit))
        return pd.DataFrame({"p_no_sub": 0.5, "p_cdm": p / 2, "p_axion": (1 - p) / 2})

    blind = kind_table([network(np.log10(mass) - 10.15)] * 2, truth, 200, 0)
    seen = kind_table([network(form)], truth, 200, 0)
    of_mass = kind_numbers(blind)
    assert of_mass["kinds_all_networks_auc"] == pytest.approx(0.76, abs=0.02)
    assert of_mass["kinds_all_networks_auc"] == pytest.approx(of_mass["kinds_all_mass_auc"])
    assert of_mass["kinds_all_networks_n"] == 2000
    assert of_mass["kinds_matched_networks_auc"] == pytest.approx(0.5, abs=0.03)
    assert of_mass["kinds_matched_networks_low"] < 0.5 < of_mass["kinds_matched_networks_high"]
    of_form = kind_numbers(seen)
    for lenses in ("all", "matched"):  # two normal distributions, two s.d. apart
        low, auc, high = (
            of_form[f"kinds_{lenses}_networks_{key}"] for key in ("low", "auc", "high")
        )
        assert low < auc < high and auc == pytest.approx(0.921, abs=0.02)


def test_where_masses_are_not_known_all_lenses_are_scored():
    truth = pd.DataFrame({"class": ["cdm", "axion"] * 20})
    p = np.where(truth["class"] == "cdm", 0.6, 0.2)
    predictions = pd.DataFrame({"p_no_sub": 0.2, "p_cdm": p, "p_axion": 0.8 - p})
    table = kind_table([predictions], truth, 10, 0)
    assert table[["lenses", "score", "images", "roc_auc"]].to_numpy().tolist() == [
        ["all", "networks", 40, 1.0]
    ]


def test_probabilities_of_zero_and_lenses_without_mass_are_scored():
    """Networks in single precision give 0 and 1; a lens of a class may have drawn no subhalo."""
    truth = pd.DataFrame({"class": ["cdm", "axion"] * 20, "substructure_mass": [1e9, 1.05e9] * 20})
    truth.loc[[0, 1], "substructure_mass"] = 0.0
    kind = truth["class"] == "cdm"
    sure = pd.DataFrame({"p_cdm": kind.astype(float), "p_axion": 1.0 - kind})
    torn = pd.DataFrame({"p_cdm": 0.0, "p_axion": 0.0}, index=range(40))
    for predictions, expected in ((sure, 1.0), (torn, 0.5)):
        numbers = kind_numbers(kind_table([predictions], truth, 10, 0))
        assert numbers["kinds_all_networks_auc"] == expected
        assert numbers["kinds_matched_networks_auc"] == expected
        assert numbers["kinds_all_networks_n"] == 40 and numbers["kinds_matched_networks_n"] == 38


@pytest.mark.parametrize("classes", [["no_sub", "cdm"], ["no_sub", "sub"]])
def test_without_both_kinds_there_is_nothing_to_compare(classes):
    truth = pd.DataFrame({"class": classes * 5, "substructure_mass": 1.0})
    predictions = pd.DataFrame({f"p_{name}": 0.5 for name in classes}, index=range(10))
    table = kind_table([predictions], truth, 10, 0)
    assert table.empty and kind_numbers(table) == {}
