"""The physics features, against images whose answer is known."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vitdm.config import Features, Preprocess
from vitdm.data import dataset, readers
from vitdm.errors import InputError
from vitdm.features import feature, measure, measure_dataset, registry
from vitdm.features.definitions import definitions, feature_names, table

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
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


@pytest.mark.parametrize("shift", [(0, 0), (-11, 15)])
def test_a_ring_has_its_radius_and_width_wherever_it_is(shift):
    values = measured(0.1 * noise() + 100 * np.roll(ring(26, 2.5), shift, (0, 1)))
    # flux per unit radius is r exp(...), and a circle fits the mean of r²: R² + 3 s², weights that
    # vanish at the threshold make s smaller
    assert values["ring_radius"] == pytest.approx(math.sqrt(26**2 + 3 * 2.5**2), abs=0.1)
    assert values["ring_width"] == pytest.approx(2.5, rel=0.1)
    assert values["arc_angle"] == 360
    assert values["ring_ellipticity"] < 0.002 and values["ring_wiggle"] < 0.05
    for order in (1, 2, 3, 4, "5_8", "9_16"):
        assert values[f"fourier_{order}"] < 0.01
    assert values["asymmetry"] == pytest.approx(0, abs=0.05)


def test_an_arc_has_its_opening_angle_and_the_circle_it_lies_on():
    azimuth = np.degrees(np.arctan2(Y - 74.5, X - 74.5))
    arc = ring(26, 2.5) * np.exp(-0.5 * (azimuth / 30) ** 2)
    values = measured(0.1 * noise() + 100 * arc)
    assert values["arc_angle"] == pytest.approx(30 * math.sqrt(8 * math.log(2)), rel=0.1)
    assert values["ring_radius"] == pytest.approx(26, rel=0.03)
    assert values["asymmetry"] > 0.5
    # the transform of a Gaussian in azimuth of 30 deg
    expected = [math.exp(-0.5 * (order * math.radians(30)) ** 2) for order in (1, 2, 3)]
    assert [values[f"fourier_{k}"] for k in (1, 2, 3)] == pytest.approx(expected, abs=0.06)


def test_an_elliptical_ring_has_its_ellipticity():
    q, x, y = 0.85, X - 74.5, Y - 74.5
    radius = np.hypot(x * math.sqrt(q), y / math.sqrt(q))
    values = measured(0.1 * noise() + 100 * np.exp(-0.5 * ((radius - 26) / 2) ** 2))
    assert values["ring_ellipticity"] == pytest.approx((1 - q) / (1 + q), abs=0.01)


def test_a_kink_in_an_arc_shows_in_the_fine_orders():
    azimuth = np.arctan2(Y - 74.5, X - 74.5)
    smooth = 60 * ring(26, 2.5) * (1 + 0.5 * np.cos(azimuth))
    x, y = 74.5 + 26 * np.cos(0.4), 74.5 + 26 * np.sin(0.4)
    plain, kinked = (measured(noise() + image) for image in (smooth, smooth + 40 * spot(x, y, 2)))
    for name in ("residual_power", "residual_peak", "fourier_9_16"):
        assert kinked[name] > 2 * plain[name]
    assert plain["residual_power"] == pytest.approx(1, abs=0.3)  # of what noise has


def test_the_ring_about_a_galaxy_is_measured_without_it():
    galaxy = 200 * np.exp(-np.hypot(X - 74.5, Y - 74.5) / 3)
    values = measured(0.5 * noise() + galaxy + 60 * ring(28, 2.5))
    assert values["ring_radius"] == pytest.approx(28, abs=0.6)
    lonely = measured(0.5 * noise() + galaxy)
    assert math.isnan(lonely["ring_radius"]) and math.isnan(lonely["residual_power"])


def test_what_must_not_matter_does_not():
    azimuth = np.arctan2(Y - 74.5, X - 74.5)
    image = 60 * ring(26, 3) * (1 + 0.8 * np.sin(2 * azimuth) + 0.3 * np.cos(azimuth)) + noise(3)
    expected = measured(image)
    same = {
        "turned": np.rot90(image),
        "mirrored": image[:, ::-1],
        "brighter": 7 * image + 3,
        "shifted": np.roll(image, (15, -15), (0, 1)),
    }
    for how, changed in same.items():
        values = measured(changed)
        for name, value in values.items():
            close = pytest.approx(expected[name], rel=0.06, abs=0.01, nan_ok=True)
            assert value == close, (how, name)


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
    for name in ("ring_radius", "ring_width", "gini", "m20", "asymmetry", "max_separation_20"):
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
    assert "n_bright_05" in feature_names(Features(levels=[0.05, 0.125]))
    assert "n_bright_12p5" in feature_names(Features(levels=[0.05, 0.125]))
    rows = table()
    assert list(rows.columns) == ["name", "group", "unit", "definition", "reference", "expects"]
    assert list(rows["name"]) == feature_names(Features())
    assert rows.drop(columns="unit").map(len).to_numpy().min() > 0
    assert set(rows["group"]) == set(Features().groups)


def test_each_feature_has_its_unit():
    """Lengths on the image in px, those of the fitted lens in arcsec; the rest are numbers."""
    rows = table(Features(groups=["proposal", "morphology", "lensfit"])).set_index("name")["unit"]
    expected = {"lensed_area": "px²", "arc_angle": "deg"}
    for pattern, unit in (
        (r"(max|min)_separation_\d+|ring_(radius|width|wiggle)", "px"),
        (r"fit_.*(theta_E|_x|_y|R_sersic)", "arcsec"),
    ):
        expected |= {name: unit for name in rows.index if re.fullmatch(pattern, name)}
    assert rows[rows != ""].to_dict() == expected
    assert {"fit_theta_E", "fit_source_x", "fit_source_R_sersic", "fit_peak_y"} < set(expected)


def test_levels_can_share_a_row():
    rows = table(Features(levels=[0.2, 0.5]), merged=True).set_index("name")
    assert "n_bright_L" in rows.index and not rows.index.str.contains("_20|_50").any()
    assert "brighter than L % of" in rows.loc["n_bright_L", "definition"]
    assert len(rows) == len(table(Features(levels=[0.2])))
    rows = table(Features(groups=["morphology", "lensfit"]), merged=True).set_index("name")
    assert {"fit_power_Spx", "fit_azimuth_A_B", "fit_azimuth_abs_A_B"} < set(rows.index)
    assert "m = A … B" in rows.loc["fit_azimuth_abs_A_B", "definition"]
    assert "(S px)" in rows.loc["fit_power_Spx", "definition"]


@pytest.mark.parametrize("group", registry.OF_THE_IMAGE)
def test_a_group_is_measured_alone_as_among_others(group):
    image = noise() + 50 * ring(26, 3)
    alone = measure(image, Preprocess(), Features(), (group,))
    everything = measured(image, Features())
    assert list(alone) == list(definitions(Features(), (group,)))
    assert alone == {name: pytest.approx(everything[name], nan_ok=True) for name in alone}


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
    assert list(result.columns) == ["id", *feature_names(Features())]
    assert list(result["id"]) == list(catalog["id"])
    for k, image in enumerate(images):
        expected = measured(image.astype(np.float32), Features())
        assert dict(result.iloc[k, 1:]) == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert np.all(np.diff(result["ring_radius"][:4]) > 1.8)


@pytest.fixture
def other_features(monkeypatch):
    """A copy of the registry: what a test adds is gone after it."""
    monkeypatch.setattr(registry, "IMAGE_FEATURES", dict(registry.IMAGE_FEATURES))


def test_a_feature_is_one_decorated_function(other_features, tmp_path):
    about = {"reference": "a test", "expects": "nothing"}

    @feature("morphology", unit="px", definition="columns that are lit", needs="region", **about)
    def lit_columns(lens):
        return float(np.unique(lens.region.x).size)

    @feature("proposal", definition="whether {level} of the peak is lit", levels=True, **about)
    def lit(lens, level):
        return float(lens.bright(level).count > 0)

    names = feature_names(LEVELS)
    assert names[-1] == "lit_columns" and "lit_20" in names and "lit_50" in names
    shown = table(LEVELS, merged=True).set_index("name")  # what notebook 01 shows
    assert shown.loc["lit_columns", "definition"] == "columns that are lit"
    assert shown.loc["lit_columns", "unit"] == "px"
    assert shown.loc["lit_L", "definition"] == "whether L % of the peak is lit"
    assert table(LEVELS).set_index("name").loc["lit_50", "definition"].startswith("whether 50 %")

    images = np.stack([noise() + 100.0 * (np.abs(X - 60) < 10) * (np.abs(Y - 70) < 20), 0 * X])
    catalog = pd.DataFrame({"id": ["a", "b"], "class": "cdm", "split": "train", "source": "bars"})
    dataset.write(tmp_path / "raw", images.astype(np.float32), catalog)
    out = tmp_path / "features.csv"
    measure_dataset(tmp_path / "raw", out, Preprocess(), LEVELS, progress=False)
    result = dataset.read_catalog(out)
    assert list(result.columns) == ["id", *names]
    assert result["lit_columns"][0] == pytest.approx(19 + 4, abs=2)  # smoothing makes it wider
    assert math.isnan(result["lit_columns"][1])  # there is no region
    assert list(result["lit_50"]) == [1, 0]

    del registry.IMAGE_FEATURES["lit_columns"], registry.IMAGE_FEATURES["lit"]
    assert set(names) - set(feature_names(LEVELS)) == {"lit_columns", "lit_20", "lit_50"}


def test_what_is_no_feature_is_refused(other_features):
    about = {"definition": "x", "reference": "x", "expects": "x"}
    with pytest.raises(ValueError, match="found 'lensfit'; expected one of proposal, morphology"):
        feature("lensfit", **about)
    with pytest.raises(ValueError, match="found 'gini' twice"):

        @feature("proposal", **about)
        def gini(lens):
            return 0.0


@pytest.mark.parametrize(
    "folder", ["deeplense_binary", "deeplense_threeclass", "hst_slacs", "panstarrs_i"]
)
def test_real_images_have_features(folder):
    if not (REAL / folder).is_dir():
        pytest.skip(f"real images are not here: {REAL / folder}")
    for path in sorted(path for path in (REAL / folder).rglob("*.*") if path.is_file()):
        values = measured(readers.read_image(path))
        assert values["lensed_area"] > 0 and values["n_bright_20"] >= 1, path.name
        assert not values["ring_radius"] > 75, path.name  # may have none
        assert values["peak_snr"] > 5, path.name
