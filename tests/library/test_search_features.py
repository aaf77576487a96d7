"""The features of a search: defined, measured for a dataset, and for images alone."""

import numpy as np
import pandas as pd
import pytest

from vitdm import lens
from vitdm.config import Features, LensFit, Preprocess, Settings
from vitdm.data.observation import Observation
from vitdm.data.simulated import observed, simulate_dataset
from vitdm.errors import InputError
from vitdm.features import SEARCH, measure_dataset
from vitdm.lens import perturbers
from vitdm.simulation import load_population

SEARCHED = LensFit(size=64, search=True, gain=0.0)
GROUPS = Features(groups=["morphology", "search"])


@pytest.fixture(scope="module")
def population():
    return load_population("marginal").model_copy(update={"num_pix": 70})


@pytest.fixture(scope="module")
def folder(population, tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    simulate_dataset(population, {"train": 2}, 5, folder / "dataset", progress=False)
    lens.fit_dataset(folder / "dataset", folder / "fits", SEARCHED, progress=False)
    return folder


def test_each_number_of_a_search_is_defined():
    assert tuple(SEARCH) == perturbers.COLUMNS


def test_features_of_a_dataset_are_those_of_its_images_alone(folder):
    out = folder / "features.csv"
    measure_dataset(folder / "dataset", out, Preprocess(size=64), GROUPS, folder / "fits", False)
    table = pd.read_csv(out)
    images = np.load(folder / "dataset" / "images.npy")
    known = {"pixel_scale": 0.05, "gain": 0.0}
    fits = lens.fit(images, SEARCHED, **known)
    alone = perturbers.measure(list(map(Observation, images)), fits, SEARCHED, **known)
    assert table["search_score"].notna().all()
    np.testing.assert_allclose(table[list(SEARCH)], alone[list(SEARCH)], rtol=1e-4, atol=1e-5)


def test_a_clump_is_seen_in_the_numbers(population):
    smooth, clumpy = (observed(3, kind, 77, population) for kind in ("no_sub", "cdm"))
    fits = lens.fit([smooth, clumpy], SEARCHED)
    table = perturbers.measure([smooth, clumpy], fits, SEARCHED)
    assert table["search_snr"][1] > 8 > 4.5 > table["search_snr"][0]
    assert table["search_evidence"][1] > 20 > table["search_evidence"][0]


def test_a_fit_that_failed_has_no_numbers(population):
    observation = observed(3, "no_sub", 77, population)
    fits = lens.fit([observation], SEARCHED)
    fits.converged[0] = False
    assert perturbers.measure([observation], fits, SEARCHED).isna().all(axis=None)


def test_fits_without_a_search_are_refused(folder):
    plain = folder / "plain"
    settings = SEARCHED.model_copy(update={"search": False})
    lens.fit_dataset(folder / "dataset", plain, settings, progress=False)
    with pytest.raises(InputError, match="lensfit.search: true"):
        measure_dataset(folder / "dataset", folder / "x.csv", Preprocess(size=64), GROUPS, plain)
    with pytest.raises(InputError, match="found search; expected the folder of the fits"):
        measure_dataset(folder / "dataset", folder / "x.csv", Preprocess(size=64), GROUPS)
    assert Settings(features={"groups": ["morphology", "search"]}).features.groups[1] == "search"
