"""The physics features, against images whose answer is known."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vitdm import dataset, features, readers
from vitdm.config import Features, InputError, Preprocess
from vitdm.features import FEATURES, feature_names, measure, measure_dataset, table

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
LEVELS = Features(levels=[0.2, 0.5])
SIDE = 150
Y, X = np.mgrid[:SIDE, :SIDE].astype(float)


def noise(seed=0, shape=(SIDE, SIDE)):
    return np.random.default_rng(seed).normal(0, 1, shape)


def spot(x0, y0, sigma=4.0):
    return np.exp(-0.5 * ((X - x0) ** 2 + (Y - y0) ** 2) / sigma**2)


def ring(radius, width):
    distance = np.hypot(X - (SIDE - 1) / 2, Y - (SIDE - 1) / 2)
    return np.exp(-0.5 * ((distance - radius) / width) ** 2)


def measured(image, levels=LEVELS):
    return measure(image, Preprocess(), levels)


def test_a_disk_has_its_area():
    image = noise() + 100.0 * (np.hypot(X - 60, Y - 80) <= 20)
    values = measured(image)
    assert values["lensed_area"] == pytest.approx(math.pi * 22**2, rel=0.05)  # 2 px of smoothing
    assert values["n_bright_20"] == values["n_bright_50"] == 1
    assert values["roi_elongation"] == pytest.approx(1, abs=0.02)


def test_a_ring_counts_once_and_so_does_what_it_surrounds():
    values = measured(noise() + 100 * ring(26, 2.5))
    assert values["n_bright_20"] == values["n_bright_50"] == 1
    assert math.isnan(values["max_separation_20"]) and math.isnan(values["min_separation_20"])
    values = measured(noise() + 100 * ring(26, 2.5) + 100 * spot(74.5, 74.5, 3))
    assert values["n_bright_20"] == values["n_bright_50"] == 2
    assert values["max_separation_20"] == pytest.approx(0, abs=0.2)


def test_a_ring_has_its_radius_and_width():
    values = measured(0.1 * noise() + 100 * ring(26, 2.5))
    # flux per unit radius is r exp(...): its mean is R + s²/R, its variance s² - s⁴/R²
    assert values["ring_radius"] == pytest.approx(26 + 2.5**2 / 26, abs=0.02)
    assert values["ring_width"] == pytest.approx(2.5, rel=0.02)


def test_two_spots_have_their_separation():
    values = measured(0.5 * noise() + 100 * spot(45.3, 60.6) + 80 * spot(105.7, 90.2))
    separation = math.hypot(60.4, 29.6)
    for level in ("20", "50"):
        assert values[f"n_bright_{level}"] == 2
        assert values[f"max_separation_{level}"] == pytest.approx(separation, abs=0.1)
        assert values[f"min_separation_{level}"] == values[f"max_separation_{level}"]


def test_separations_of_three_spots_at_two_levels():
    image = 100 * (spot(30, 40) + spot(70, 40)) + 35 * spot(70, 110) + 0.5 * noise()
    values = measured(image)
    assert values["n_bright_20"] == 3
    assert values["max_separation_20"] == pytest.approx(math.hypot(40, 70), abs=0.3)
    assert values["min_separation_20"] == pytest.approx(40, abs=0.3)
    assert values["n_bright_50"] == 2
    assert values["max_separation_50"] == pytest.approx(40, abs=0.3)


def test_levels_below_the_noise_count_nothing_but_light():
    values = measured(noise() + 20 * spot(75, 75), Features(levels=[0.01, 0.02]))
    assert values["n_bright_01"] == values["n_bright_02"] == 1


def test_total_flux_and_peak_are_in_units_of_the_noise():
    values = measured(2 * noise() + 200 * spot(75, 75, 6))
    threshold = 5 * 2 / (2 * math.sqrt(math.pi))  # of smoothed white noise
    kept = 1 - threshold / (200 * 36 / 37)  # light of a Gaussian above an isophote
    assert values["total_flux_snr"] == pytest.approx(200 / 2 * 2 * math.pi * 36 * kept, rel=0.03)
    assert values["peak_snr"] == pytest.approx(200 * 36 / 37 / (threshold / 5), rel=0.1)


def test_gini_of_equal_pixels_and_of_one_bright_pixel():
    assert features._gini(np.ones(50)) == pytest.approx(0)
    assert features._gini(np.eye(1, 50)[0]) == pytest.approx(1)
    assert features._gini(np.arange(1.0, 1001)) == pytest.approx(1 / 3, abs=1e-3)


def test_brightness_and_sky_do_not_matter():
    image = noise() + 60 * ring(26, 3) * (1 + 0.8 * np.sin(2 * np.arctan2(Y - 74, X - 74)))
    expected = measured(image)
    assert expected["n_bright_50"] == 2
    for scale, offset in ((1e-3, 0.0), (20.0, 0.0), (1.0, 300.0)):
        values = measured(scale * image + offset)
        assert values == pytest.approx(expected, rel=2e-3, nan_ok=True)


@pytest.mark.parametrize(
    "image",
    [np.zeros((50, 50)), np.full((50, 50), 7.0), np.full((50, 50), np.nan), noise(1, (8, 8))],
    ids=["zero", "constant", "nan", "tiny"],
)
def test_without_light_nothing_is_counted(image):
    values = measured(image)
    assert values["lensed_area"] == values["total_flux_snr"] == values["n_bright_20"] == 0
    for name in ("ring_radius", "ring_width", "gini", "roi_elongation", "max_separation_20"):
        assert math.isnan(values[name])
    assert math.isfinite(values["peak_snr"])


def test_holes_without_numbers_do_not_spread():
    image = 0.5 * noise() + 100 * spot(45, 60) + 80 * spot(105, 90)
    image[10:20, 100:110] = np.nan
    image[130, 10] = np.inf
    values = measured(image)
    assert values["n_bright_20"] == 2
    assert values["max_separation_20"] == pytest.approx(math.hypot(60, 30), abs=0.2)


def test_what_is_no_image_is_refused():
    with pytest.raises(InputError, match="expected"):
        measured(np.zeros((2, 10, 10)))


def test_every_feature_measured_is_defined_and_the_reverse():
    for settings in (Features(), LEVELS, Features(levels=[0.05, 0.125])):
        assert list(measured(noise() + 50 * ring(26, 3), settings)) == feature_names(settings)
    assert list(FEATURES) == feature_names(Features())
    assert "n_bright_05" in feature_names(Features(levels=[0.05, 0.125]))
    assert "n_bright_12p5" in feature_names(Features(levels=[0.05, 0.125]))
    rows = table()
    assert list(rows.columns) == ["name", "unit", "definition", "reference", "expects"]
    assert list(rows["name"]) == list(FEATURES)
    assert rows.drop(columns="unit").map(len).to_numpy().min() > 0


def test_a_dataset_is_measured_row_by_row(tmp_path):
    images = np.stack([noise(k) + 60 * ring(20 + 2 * k, 3) for k in range(4)] + [noise(9)])
    catalog = pd.DataFrame(
        {
            "id": ["007", "NA", "x,1", "d", "e"],
            "class": ["no_sub", "cdm", "no_sub", "cdm", "no_sub"],
            "split": "train",
            "source": "rings",
        }
    )
    dataset.write(tmp_path / "raw", images.astype(np.float32), catalog)
    out = tmp_path / "features.csv"
    measure_dataset(tmp_path / "raw", out, Preprocess(), Features(), progress=False)
    assert (tmp_path / "features.json").is_file()
    result = dataset.read_catalog(out)
    assert list(result.columns) == ["id", *FEATURES]
    assert list(result["id"]) == list(catalog["id"])
    for k, image in enumerate(images):
        expected = measured(image.astype(np.float32), Features())
        assert dict(result.iloc[k, 1:]) == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert np.all(np.diff(result["ring_radius"][:4]) > 1.8)


@pytest.mark.parametrize(
    "folder", ["deeplense_binary", "deeplense_threeclass", "hst_slacs", "panstarrs_i"]
)
def test_real_images_have_features(folder):
    if not (REAL / folder).is_dir():
        pytest.skip(f"real images are not here: {REAL / folder}")
    for path in sorted(path for path in (REAL / folder).rglob("*.*") if path.is_file()):
        values = measured(readers.read_image(path))
        assert values["lensed_area"] > 0 and values["n_bright_20"] >= 1, path.name
        assert 0 < values["ring_radius"] < 75, path.name
        assert values["peak_snr"] > 5, path.name
