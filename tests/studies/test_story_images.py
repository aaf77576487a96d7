"""What notebook 01 assembles: invariance, real lenses, populations, fits."""

import json

import numpy as np
import pandas as pd
import pytest

from studies.story import fits, folders, images, populations
from vitdm import preprocess
from vitdm.config import Preprocess


def summary(rotation, flux):
    """The summary of a population, as ``studies.invariance`` writes it, of one procedure."""
    every = {"all": {"median": 0.8, "smallest": 0.7}}
    of = {"rotation": {"oriented": {"median": rotation, "p5": rotation - 0.1}}}
    of |= {kind: every for kind in ("mirror", "shift", "noise", "brightness")}
    of |= {"flux_kept": {"median": flux, "p1": flux - 0.2}}
    return {"n": 8, "oriented": 0.5, "procedures": {"plain": of}}


@pytest.fixture
def tolerated():
    return images.invariance_table({"here": summary(0.9, 1.0), "there": summary(0.6, 0.7)})


def test_invariance_table_has_a_row_for_each_population_and_procedure(tolerated):
    assert list(tolerated["population"]) == ["here", "there"]
    here = tolerated.iloc[0]
    assert here["procedure"] == "plain" and here["oriented"] == 0.5
    assert (here["rotation"], here["rotation_p05"]) == (0.9, 0.8)
    assert (here["mirror"], here["brightness_min"]) == (0.8, 0.7)
    assert (here["flux_median"], here["flux_p1"]) == (1.0, 0.8)


def test_invariance_numbers_are_of_one_population_and_the_smallest_of_all(tolerated):
    numbers = images.invariance_numbers(tolerated, "here")
    assert numbers["rotation_corr_plain"] == 0.9 and numbers["noise_corr_plain"] == 0.8
    assert numbers["rotation_corr_worst_plain"] == 0.6
    assert numbers["flux_median_worst_plain"] == 0.7
    alone = images.invariance_table({folders.UNKNOWN: summary(0.5, 0.5)})
    assert images.invariance_numbers(alone, "here")["rotation_corr_plain"] == 0.5


def test_invariance_tests_are_joined_and_named(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name / "invariance").mkdir(parents=True)
        file = tmp_path / name / "invariance" / "invariance"
        file.with_suffix(".csv").write_text("id,correlation\n007,0.5\n")
        file.with_suffix(".json").write_text(json.dumps({"n": len(name)}))
    table, summaries = images.invariance_tests({n: tmp_path / n for n in ("here", "there")})
    assert list(table["population"]) == ["here", "there"] and set(table["id"]) == {"007"}
    assert summaries["there"] == {"n": 5}


def test_flux_inside_the_cut():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.01, (64, 64))
    image[28:36, 28:36] += 1.0  # inside a square of 16 pixels about the centre
    settings = Preprocess(size=16)
    kept = images.flux_kept([preprocess.detect(image, settings)], settings)
    assert kept == [pytest.approx(1.0, abs=0.02)]
    dark = preprocess.detect(rng.normal(0, 0.01, (64, 64)), settings)
    assert images.flux_kept([dark], settings) == []


def test_real_lenses_beside_the_central_range_of_simulated_ones(tmp_path):
    n = 101
    table = pd.DataFrame({"id": [f"a_{k}" for k in range(n)], "gini": np.arange(n) / 100})
    table.to_csv(tmp_path / "features.csv", index=False)
    real = pd.DataFrame({"gini": [0.123], "m20": [1.0]}, index=["J1"])
    beside = images.real_beside_simulated(real, {"marginal": tmp_path}, ["gini"])
    assert beside.to_dict("list") == {
        "lens": ["marginal", "J1"],
        "gini": ["0.05 to 0.95", "0.12"],
    }


def test_rows_at_ranks_within_their_class():
    table = pd.DataFrame(
        {"class": ["a", "b", "a", "b", "a", "b"], "power": [3.0, 30.0, 1.0, 10.0, 2.0, 20.0]},
        index=[4, 5, 6, 7, 8, 9],
    )
    assert fits.ranked_rows(table, "power", {"b": (0.33, 1.0), "a": (0.66,)}) == [7, 5, 8]


def test_separation_of_classes_by_a_single_column():
    table = pd.DataFrame({"class": ["no_sub"] * 20 + ["cdm"] * 20})
    table["same"], table["apart"] = 1.0, np.repeat([0.0, 1.0], 20)
    found = fits.separations({"marginal": table}, ["same", "apart"], seed=1)
    assert list(found["value"]) == [0.5, 1.0]
    numbers = fits.separation_numbers(found)
    # no interval has zero width: Wilson's of 20 images that are all on the right side
    assert numbers["apart_auc_marginal"] == numbers["apart_auc_marginal_high"] == 1.0
    assert numbers["apart_auc_marginal_low"] == pytest.approx(20 / (20 + 1.96**2), abs=1e-3)
    assert set(numbers) == {
        f"{name}_auc_marginal{end}" for name in ("same", "apart") for end in ("", "_low", "_high")
    }
    assert fits.separations({}, ["same"], seed=1).empty


def test_smooth_lenses_explained_by_the_fit():
    table = pd.DataFrame(
        {
            "class": ["no_sub", "no_sub", "no_sub", "cdm"],
            "fit_converged": [1, 0, 1, 1],
            "fit_chi2": [1.0, 1.0, 2.0, 1.0],
        }
    )
    assert fits.smooth_explained(table) == pytest.approx(1 / 3)
    assert list(fits.converged(table).index) == [0, 2, 3]


def test_numbers_of_subhalos_are_of_all_masses():
    table = pd.DataFrame(
        {
            "mass": [1e9, 1e10, 1e10],
            "distance": [0.1, 0.3, 0.5],
            "found": [True, False, False],
            "chance": [0.2, 0.2, 0.2],
        }
    )
    numbers = fits.subhalo_numbers({"marginal": table, "empty": table[:0]})
    assert numbers["fit_peak_n_marginal"] == 3
    assert numbers["fit_peak_rate_marginal"] == pytest.approx(1 / 3)
    assert numbers["fit_peak_distance_marginal"] == 0.3
    assert not any("empty" in key for key in numbers)


def test_population_numbers_leave_out_what_is_missing():
    table = pd.DataFrame(
        {"population": ["a", "b"], "class": ["cdm", "cdm"], "auc_size_value": [0.5, np.nan]}
    )
    assert populations.population_numbers(table) == {"auc_size_value_a_cdm": 0.5}
    assert populations.population_numbers(pd.DataFrame()) == {}


def test_noise_maps_and_psfs_of_fitted_lenses_are_no_images_to_look_at(tmp_path):
    for name in ("sky/one.fits", "slacs/J1/image.fits", "slacs/J1/psf.fits", "sky/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = images.real_files(str(tmp_path), without=str(tmp_path / "slacs"))
    assert found == [tmp_path / "sky/one.fits"]
    assert len(images.real_files(str(tmp_path))) == 3
    (tmp_path / "linked").symlink_to(tmp_path / "slacs", target_is_directory=True)
    linked = images.real_files(str(tmp_path), without=str(tmp_path / "slacs"))
    assert len(linked) > len(found)  # a folder that lies elsewhere
    assert images.real_files(None) == images.real_files(str(tmp_path / "gone")) == []
