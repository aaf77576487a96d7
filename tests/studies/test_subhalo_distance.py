"""Distances of residual peaks to subhalos, and the fractions found by mass."""

import numpy as np
import pandas as pd
import pytest

from studies import subhalo_distance


def peaks(x, y, converged=1):
    return {"fit_peak_x": x, "fit_peak_y": y, "fit_converged": converged}


def test_distances_are_those_of_massive_subhalos_near_the_ring():
    truth = {"class": "cdm", "theta_E": 1.0, "max_subhalo_mass": 2e9}
    at = [(1.0, 0.0), (0.0, -1.1), (-0.9, 0.0), (0.0, 1.5), (1.0, 0.0), (1.0, 0.0)]
    catalog = pd.DataFrame([truth | {"max_subhalo_x": x, "max_subhalo_y": y} for x, y in at])
    catalog.loc[5, "class"] = "axion"
    found = [peaks(1.1, 0.0), peaks(0.0, -1.0), peaks(1.0, 0.1), peaks(0.0, 1.5)]
    fits = pd.DataFrame([*found, peaks(1.0, 0.0, converged=0), peaks(1.0, 0.0)])
    # left out: far from the ring, not converged, a vortex
    table = subhalo_distance.distance_to_subhalo(catalog, fits)
    assert table["distance"].tolist() == pytest.approx([0.1, 0.1, np.hypot(1.9, 0.1)])
    assert table["found"].tolist() == [True, True, False]
    assert table["chance"].tolist() == [0.5, 0, 0]  # the third peak is near the first subhalo


def test_fractions_by_mass_have_intervals():
    mass = [2e8] * 10 + [5e9] * 4
    each = pd.DataFrame({"mass": mass, "distance": 0.1, "found": [0] * 10 + [1] * 4, "chance": 0.1})
    table = subhalo_distance.found_by_mass(each, (7, 8, 9, 10))
    assert table["n"].tolist() == [10, 4] and table["low"].tolist() == [8, 9]  # none below 1e8
    assert table["rate"].tolist() == [0, 1]
    assert table["rate_high"][0] == pytest.approx(1.96**2 / (10 + 1.96**2), rel=1e-3)  # Wilson's
    assert table["rate_low"][1] == pytest.approx(4 / (4 + 1.96**2), rel=1e-3)
    assert subhalo_distance.found_by_mass(each[:0], (7, 8)).empty
