"""Sky, region of interest, cut and stretch, against shapes whose answer is known."""

import math
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from vitdm.config import Features, Preprocess
from vitdm.data import dataset, readers
from vitdm.errors import InputError
from vitdm.features import measure
from vitdm.preprocess import detect, find_roi, process, process_dataset
from vitdm.preprocess.background import estimate_background

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
RAW = Preprocess(size=64, stretch="linear")


def grid(side=150):
    y, x = np.mgrid[:side, :side].astype(float)
    return x, y


def noise(seed=0, side=150, sigma=1.0):
    return np.random.default_rng(seed).normal(0, sigma, (side, side))


def ellipse(angle, ratio, side=150, sigma=8.0, x0=75.0, y0=75.0):
    """An elliptical Gaussian, its major axis at ``angle`` degrees from +x to +y."""
    x, y = grid(side)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    along, across = (x - x0) * c + (y - y0) * s, (y - y0) * c - (x - x0) * s
    return np.exp(-0.5 * ((along / (sigma * ratio)) ** 2 + (across / sigma) ** 2))


def arc(angle, side=150):
    """An arc on a circle of 26 px about the centre, brighter towards one of its ends."""
    x, y = grid(side)
    x, y = x - (side - 1) / 2, y - (side - 1) / 2
    azimuth = (np.degrees(np.arctan2(y, x)) - angle + 180) % 360 - 180
    along = np.where(azimuth > 0, np.exp(-0.5 * (azimuth / 60) ** 2), 0)
    along += np.where(azimuth <= 0, np.exp(-0.5 * (azimuth / 15) ** 2), 0)
    return 40 * along * np.exp(-0.5 * ((np.hypot(x, y) - 26) / 3) ** 2)


def correlation(first, second):
    return np.corrcoef(first.ravel(), second.ravel())[0, 1]


# ------------------------------------------------------------------------------- background


def test_background_of_gaussian_noise_under_a_bright_source():
    image = 7 + noise(sigma=0.5) + 100 * ellipse(20, 2)
    sky, sigma = estimate_background(image)
    assert sky == pytest.approx(7, abs=0.15)
    assert sigma == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("offset", [0.0, 0.15, 0.3])
def test_background_of_noise_clipped_at_zero_is_that_before_clipping(offset):
    image = np.clip(noise(1, sigma=0.02) + offset * 0.02, 0, None)
    assert 0.3 < (image == 0).mean() < 0.52
    sky, sigma = estimate_background(image)
    assert sky == pytest.approx(offset * 0.02, abs=0.001)
    assert sigma == pytest.approx(0.02, rel=0.05)


def test_background_of_eight_bit_values_is_that_of_the_noise_and_the_rounding():
    image = np.clip(np.round(30 + noise(2, sigma=2)), 0, 255).astype(np.uint8)
    sky, sigma = estimate_background(image)
    assert sky == 30
    assert sigma == pytest.approx(math.sqrt(4 + 1 / 12), rel=0.03)


def test_background_ignores_what_is_no_number():
    image = 3 + noise(3)
    broken = image.copy()
    broken[::3] = np.nan
    broken[1, :5], broken[1, 5:9] = np.inf, -np.inf
    assert estimate_background(broken) == pytest.approx(
        estimate_background(np.delete(image, np.s_[::3], axis=0)), rel=0.02
    )
    assert estimate_background(np.full((9, 9), np.nan)) == (0.0, 0.0)


def test_background_without_light_equals_plain_sigma_clipping():
    image = (5 + noise(4)).astype(np.float32)
    values = image[::2, ::2].ravel().astype(float)  # every other pixel is looked at
    for _ in range(10):
        median = np.median(values)
        sigma = np.sqrt(np.mean((values - median) ** 2))
        values = values[np.abs(values - median) <= 3 * sigma]
    assert estimate_background(image) == pytest.approx((median, sigma), rel=2e-3)


def test_background_of_clipped_noise_is_not_raised_by_the_faint_wings_of_an_arc():
    x, y = grid()
    ring = 0.2 * np.exp(-0.5 * ((np.hypot(x - 75, y - 75) - 26) / 6) ** 2)
    sky, sigma = estimate_background(np.clip(ring + noise(8, sigma=0.02), 0, None))
    assert sky == pytest.approx(0, abs=0.001)
    assert sigma == pytest.approx(0.02, rel=0.07)


def test_background_of_an_image_full_of_light_is_still_a_number():
    sky, sigma = estimate_background(ellipse(0, 1, side=40, sigma=30, x0=20, y0=20) * 1000)
    assert 500 < sky < 1000 and 0 < sigma < 500


def test_background_under_a_galaxy_that_fills_the_image_is_that_of_the_pixels():
    x, y = grid()
    galaxy = 100 * np.exp(-np.hypot(x - 75, (y - 75) / 0.8) / 25)
    image = galaxy + noise(5, sigma=0.1)
    sky, sigma = estimate_background(image)
    assert sigma == pytest.approx(0.1, rel=0.15)
    assert 0 < sky < 6  # the darkest corner: 3.4
    light = detect(image, RAW)
    assert light.noise_smooth == pytest.approx(0.1 / (2 * math.sqrt(math.pi)), rel=0.15)


def test_noise_that_neighbours_share_is_no_galaxy():
    shared = ndimage.uniform_filter(noise(6, side=200), 2)
    assert estimate_background(shared)[1] == pytest.approx(shared.std(), rel=0.05)


def test_rounded_pixels_have_the_noise_of_rounding():
    image = np.round(40 * ellipse(30, 2) + 7).astype(np.uint8)
    for scaled in (image, image / 255, image * 0.37 + 5):
        light = detect(scaled, RAW)
        step = np.diff(np.unique(scaled)).min()
        assert light.sigma == pytest.approx(0, abs=0.1 * step)
        assert light.noise == pytest.approx(step / math.sqrt(12), rel=1e-3)
        # smoothing does not reduce it: one grey level is no light
        assert light.mask[75, 75] == 1 and light.mask.mean() < 0.15


# ------------------------------------------------------------------------ region of interest


def test_a_disk_has_its_centre_and_area():
    x, y = grid()
    image = noise() + 100.0 * (np.hypot(x - 60, y - 85) <= 20)
    roi = find_roi(image, RAW)
    assert roi.found and not roi.oriented and roi.angle == 0
    assert (roi.x, roi.y) == pytest.approx((60, 85), abs=0.1)
    assert roi.area == pytest.approx(math.pi * 22**2, rel=0.05)  # smoothing adds 2 px to the edge
    assert roi.mask.sum() == roi.area


def test_the_larger_of_two_blobs_is_taken_wherever_it_is():
    small, large = ellipse(0, 1, sigma=3, x0=110, y0=30), ellipse(0, 1, sigma=8, x0=40, y0=100)
    for image in (500 * small + 100 * large, (500 * small + 100 * large)[::-1, ::-1]):
        roi = find_roi(image + noise(), RAW)
        expected = (40, 100) if image[100, 40] > 50 else (109, 49)
        assert (roi.x, roi.y) == pytest.approx(expected, abs=0.5)


def crescent(angle, radius, span, x0=75.0, y0=75.0):
    """An arc of a Gaussian profile 3 px wide, ``span`` deg of azimuth about ``angle``."""
    x, y = grid()
    azimuth = (np.degrees(np.arctan2(y - y0, x - x0)) - angle + 180) % 360 - 180
    along = np.exp(-0.5 * (azimuth / span) ** 4)
    return along * np.exp(-0.5 * ((np.hypot(x - x0, y - y0) - radius) / 3) ** 2)


def test_an_arc_takes_its_counter_image_along():
    image = noise() + 60 * crescent(20, 28, 60) + 50 * crescent(200, 20, 20)
    roi = find_roi(image, RAW)
    assert len(roi.contours) == 2
    assert len(roi.contours[0]) > len(roi.contours[1])
    assert math.hypot(roi.x - 75, roi.y - 75) < 16
    alone = find_roi(noise() + 60 * crescent(20, 28, 60), RAW)
    assert len(alone.contours) == 1 and math.hypot(alone.x - 75, alone.y - 75) > 18


@pytest.mark.parametrize("place", [(75, 128), (30, 30), (130, 80)])
def test_a_neighbour_is_not_taken_for_the_lens(place):
    star = 1000 * ellipse(0, 1, sigma=3, x0=place[0], y0=place[1])
    galaxy = 60 * ellipse(30, 1.5, sigma=3, x0=77, y0=73)
    roi = find_roi(noise() + star + galaxy, RAW)
    assert (roi.x, roi.y) == pytest.approx((77, 73), abs=1)
    arc_and_star = find_roi(noise() + star + 60 * crescent(20, 28, 100), RAW)
    assert math.hypot(arc_and_star.x - 75, arc_and_star.y - 75) < 22
    assert len(arc_and_star.contours) == 1


def test_the_sky_may_be_a_plane():
    x, y = grid()
    image = noise() + 0.15 * x - 0.05 * y + 60 * ellipse(30, 1.5, sigma=4, x0=77, y0=73)
    light = detect(image, RAW)
    assert light.sigma == pytest.approx(1, rel=0.1)
    roi = find_roi(image, RAW)
    assert (roi.x, roi.y) == pytest.approx((77, 73), abs=0.5) and roi.area < 1500


def test_what_the_edge_cuts_off_is_not_the_lens():
    x, y = grid()
    star = 600 * np.exp(-np.hypot(x - 12, y - 140) / 14)
    roi = find_roi(noise() + star + 60 * ellipse(30, 1.5, sigma=4, x0=77, y0=73), RAW)
    assert (roi.x, roi.y) == pytest.approx((77, 73), abs=2)


def test_a_galaxy_that_fills_the_image_ends_at_the_isophote_of_half_of_it():
    x, y = grid()
    roi = find_roi(100 * np.exp(-np.hypot(x - 80, y - 70) / 25) + noise(5, sigma=0.1), RAW)
    assert (roi.x, roi.y) == pytest.approx((80, 70), abs=1.5)
    assert roi.area == pytest.approx(0.5 * 150**2, rel=0.1)


def test_a_ring_is_filled():
    x, y = grid()
    roi = find_roi(noise() + 50 * np.exp(-0.5 * ((np.hypot(x - 75, y - 75) - 25) / 2) ** 2), RAW)
    assert roi.mask[75, 75] == 1
    assert roi.area > math.pi * 25**2


@pytest.mark.parametrize("angle", [-80, -45, -20, 0, 20, 45, 70, 90, 135])
def test_an_ellipse_has_its_angle_and_axis_ratio(angle):
    roi = find_roi(noise() * 0.2 + 100 * ellipse(angle, 2), RAW)
    assert roi.oriented
    assert (roi.angle - angle + 90) % 180 - 90 == pytest.approx(0, abs=1)
    assert roi.elongation == pytest.approx(2, rel=0.05)


def test_the_angle_points_to_the_longer_tail():
    x, y = grid()
    for sign in (1, -1):
        along = sign * (x - 75)
        image = np.where(along > 0, np.exp(-along / 15), np.exp(along / 4))
        roi = find_roi(100 * image * np.exp(-0.5 * ((y - 75) / 3) ** 2) + 0.2 * noise(), RAW)
        assert math.cos(math.radians(roi.angle)) == pytest.approx(sign, abs=0.01)


def test_the_threshold_follows_the_noise_left_after_smoothing():
    light = detect(noise(side=300), RAW)
    expected = ndimage.gaussian_filter(noise(5, side=300), 1.0).std()
    assert light.noise_smooth == pytest.approx(expected, rel=0.03)
    assert not light.mask.any()


# ---------------------------------------------------------------------------------- process


def test_without_rotation_the_cut_is_a_slice_of_the_image():
    image = (noise() + 100 * ellipse(30, 2)).astype(np.float32)
    cut, _ = process(image, RAW)
    sky, sigma = estimate_background(image)
    assert cut.dtype == np.float32
    np.testing.assert_allclose(cut, (image[43:107, 43:107] - sky) / sigma, atol=2e-5)
    roi = find_roi(image, RAW)
    cut, _ = process(image, RAW.model_copy(update={"crop": "roi"}))
    left, top = round(roi.x - 31.5), round(roi.y - 31.5)
    expected = (image[top : top + 64, left : left + 64] - sky) / sigma
    np.testing.assert_allclose(cut, expected, atol=2e-5)


def test_the_stretch_is_arcsinh():
    image = noise() + 100 * ellipse(30, 2)
    linear, _ = process(image, RAW)
    stretched, _ = process(image, Preprocess(size=64, softening=3.0))
    np.testing.assert_allclose(3 * np.sinh(stretched.astype(float)), linear, rtol=1e-4, atol=1e-4)


def test_what_lies_beyond_the_image_is_sky():
    image = 5 + noise(side=20)
    cut, _ = process(image, RAW)
    assert cut.shape == (64, 64)
    sky, sigma = estimate_background(image)
    np.testing.assert_allclose(cut[22:42, 22:42], (image - sky) / sigma, atol=1e-5)
    cut[22:42, 22:42] = 0
    assert not cut.any()


def test_derotation_undoes_a_mirror():
    settings = RAW.model_copy(update={"derotate": True, "crop": "roi", "size": 96})
    image = arc(30) + 60 * ellipse(0, 1, sigma=3, x0=90, y0=60) + 0.5 * noise(6)
    reference, roi = process(image, settings)
    for changed in (image[:, ::-1], image[::-1], image.T):
        cut, other = process(changed, settings)
        assert other.mirrored != roi.mirrored
        assert correlation(cut, reference) > 0.97
    columns, rows = np.meshgrid(np.arange(96) - 47.5, np.arange(96) - 47.5)
    light = np.where(reference > 5, reference, 0)
    assert (light * columns**3).sum() > 0 and (light * rows**3).sum() > 0


@pytest.mark.parametrize("side", [60, 150, 400])
def test_a_resized_region_fills_the_cut_whatever_its_size(side):
    settings = RAW.model_copy(update={"resize": True, "crop": "roi", "size": 64})
    x, y = grid(side)
    radius = 0.2 * side
    disk = np.hypot(x - 0.45 * side, y - 0.5 * side) <= radius
    cut, roi = process(100.0 * disk + noise(side=side), settings)
    assert roi.radius == pytest.approx(radius, abs=3)
    area = np.count_nonzero(cut > 50)
    assert math.sqrt(area / math.pi) == pytest.approx(32 / 1.1 * radius / roi.radius, rel=0.03)


def test_a_resized_image_keeps_its_light():
    settings = RAW.model_copy(update={"resize": True, "size": 50})
    image = 100 * ellipse(30, 2) + 0.1 * noise()
    cut, roi = process(image, settings)
    flux = cut.sum() * 9 * estimate_background(image)[1]  # pixels are 3 x 3 of the image's
    assert flux == pytest.approx(100 * 2 * math.pi * 8 * 16, rel=0.02)


@pytest.mark.parametrize("crop", ["centre", "roi"])
def test_derotation_undoes_every_rotation(crop):
    settings = RAW.model_copy(update={"derotate": True, "crop": crop, "size": 96})
    reference, _ = process(arc(0) + 0.5 * noise(6), settings)
    for angle in range(10, 360, 20):
        cut, roi = process(arc(angle) + 0.5 * noise(angle), settings)
        assert roi.oriented
        assert correlation(cut, reference) > 0.95, angle


def test_derotation_lays_the_major_axis_along_x_without_loss():
    settings = RAW.model_copy(update={"derotate": True, "crop": "roi"})
    image = 100 * ellipse(55, 3, sigma=4, x0=70, y0=80) + 0.2 * noise()
    cut, _ = process(image, settings)
    again = find_roi(cut, RAW)
    assert (again.angle + 90) % 180 - 90 == pytest.approx(0, abs=1)
    assert (again.x, again.y) == pytest.approx((31.5, 31.5), abs=0.2)
    flux = cut.sum() * estimate_background(image)[1]
    assert flux == pytest.approx(100 * 2 * math.pi * 4 * 12, rel=0.02)


def test_a_round_source_is_not_turned():
    settings = RAW.model_copy(update={"derotate": True})
    image = noise() + 100 * ellipse(0, 1, x0=74, y0=74)
    np.testing.assert_array_equal(process(image, settings)[0], process(image, RAW)[0])


def test_pixels_without_a_number_become_sky():
    image = 5 + noise() + 100 * ellipse(30, 2)
    image[70:75, 70:75] = np.nan
    image[60, 60] = np.inf
    cut, roi = process(image, RAW)
    assert roi.found and np.isfinite(cut).all()
    assert not cut[27:32, 27:32].any() and cut[17, 17] == 0


@pytest.mark.parametrize(
    "image",
    [np.zeros((50, 50)), np.full((50, 50), 1e6), np.full((50, 50), np.nan), noise(), noise(side=8)],
    ids=["zero", "constant", "nan", "noise", "tiny"],
)
def test_images_without_light_fall_back_to_the_centre(image):
    for derotate in (False, True):
        settings = Preprocess(size=32, derotate=derotate, crop="roi")
        cut, roi = process(image, settings)
        assert not roi.found
        assert (roi.x, roi.y) == ((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2)
        assert cut.shape == (32, 32) and np.isfinite(cut).all()


def test_an_image_without_noise_is_processed():
    image = np.zeros((40, 40))
    image[15:20, 10:20] = 1
    cut, roi = process(image, RAW)
    assert roi.found and np.isfinite(cut).all()
    assert roi.sigma == 0
    assert cut.max() == pytest.approx(255 * math.sqrt(12), rel=1e-5)  # 8-bit rounding is the unit


PHASES = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # shrinking arrays takes minutes
SHAPES = strategies.tuples(strategies.integers(1, 24), strategies.integers(1, 24))
DTYPES = [np.uint8, np.int16, np.dtype(">f4"), np.float32, np.dtype(">i2"), np.float64, np.bool_]
SWITCHES = strategies.fixed_dictionaries(
    {
        "derotate": strategies.booleans(),
        "resize": strategies.booleans(),
        "crop": strategies.sampled_from(["centre", "roi"]),
        "stretch": strategies.sampled_from(["arcsinh", "linear"]),
        "threshold": strategies.floats(0.1, 10),
    }
)


@hypothesis.settings(
    max_examples=2000, deadline=None, derandomize=True, database=None, phases=PHASES
)
@hypothesis.given(
    image=strategies.sampled_from(DTYPES).flatmap(lambda kind: arrays.arrays(kind, SHAPES)),
    switches=SWITCHES,
)
def test_any_image_is_processed_and_measured(image, switches):
    """Empty, constant, saturated, NaN, infinite: a finite square of the set size, flagged."""
    settings = Preprocess(size=16, **switches)
    square, roi = process(image, settings)
    assert square.shape == (16, 16) and square.dtype == np.float32
    assert np.isfinite(square).all()
    assert math.isfinite(roi.x) and math.isfinite(roi.y) and math.isfinite(roi.sigma)
    assert roi.found or not (roi.oriented or roi.mirrored)
    values = measure(image, settings, Features())
    assert not any(math.isinf(value) for value in values.values())
    assert values["n_bright_20"] >= (1 if roi.found else 0)


@pytest.mark.parametrize(
    "image",
    [
        np.full((64, 64), 255, np.uint8),
        np.where(ellipse(0, 1) > 0.01, 65535, 0).astype(np.uint16),
        np.full((8, 8), np.inf),
        np.full((64, 64), 3e38),
    ],
    ids=["saturated", "saturated lens", "infinite", "largest"],
)
def test_saturated_images_are_processed(image):
    square, roi = process(image, Preprocess(size=32, derotate=True, crop="roi"))
    assert np.isfinite(square).all()
    assert roi.found == (image.shape == (150, 150))


def test_a_huge_image_is_processed():
    image = np.random.default_rng(0).normal(0, 1, (4096, 4096)).astype(np.float32)
    image[2000:2060, 2010:2100] += 50
    image[100:400, 100:400] += 500  # larger, far away
    square, roi = process(image, Preprocess(size=96, derotate=True, crop="roi"))
    assert (roi.x, roi.y) == pytest.approx((2054.5, 2029.5), abs=0.5)
    assert square.shape == (96, 96)
    assert measure(image, Preprocess(), Features())["n_bright_20"] >= 1


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((0, 5)), r"\(0, 5\)"),
        (np.zeros((3, 5, 5)), r"\(3, 5, 5\)"),
        (np.zeros(5), r"\(5,\)"),
        (np.zeros((5, 5), complex), "complex128"),
        (np.array([["a", "b"]]), "<U1"),
    ],
)
def test_what_is_no_image_is_refused(image, found):
    with pytest.raises(InputError, match=found):
        process(image, RAW)


# -------------------------------------------------------------------------- datasets and files


def test_a_dataset_is_processed_image_by_image(tmp_path):
    images = np.stack([arc(40 * k) + 0.5 * noise(k) for k in range(6)] + [noise(9)])
    catalog = pd.DataFrame(
        {
            "id": [f"{k:03d}" for k in range(7)],
            "class": ["no_sub", "cdm"] * 3 + ["no_sub"],
            "split": "train",
            "source": "arcs",
        }
    )
    dataset.write(tmp_path / "raw", images.astype(np.float32), catalog)
    settings = Preprocess(size=48, derotate=True)
    process_dataset(tmp_path / "raw", tmp_path / "processed", settings, progress=False)
    result = dataset.Dataset.open(tmp_path / "processed")
    assert result.images.shape == (7, 48, 48)
    for k, image in enumerate(images):
        cut, roi = process(image.astype(np.float32), settings)
        np.testing.assert_array_equal(result.images[k], cut)
        assert result.catalog["roi_x"][k] == pytest.approx(roi.x)
    assert list(result.catalog["id"]) == list(catalog["id"])
    assert list(result.catalog["roi_found"]) == [1] * 6 + [0]
    assert result.catalog["roi_angle"].isna().tolist() == [False] * 6 + [True]


#: where the lens is, in the cutouts with neighbours; the image's centre in the others
LENSES = {"HST12368_6212_i": (62, 63), "HAHJ2045-2438_i": (59, 61), "J2305_3714_i": (64, 56)}


@pytest.mark.parametrize(("folder", "number"), [("hst_slacs", 5), ("panstarrs_i", 8)])
def test_real_lenses_are_found_and_centred(folder, number):
    if not (REAL / folder).is_dir():
        pytest.skip(f"real images are not here: {REAL / folder}")
    files = sorted((REAL / folder).iterdir())
    assert len(files) == number
    for path in files:
        image = readers.read_image(path)
        roi = find_roi(image, RAW)
        middle = ((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2)
        expected = LENSES.get(path.stem, middle)
        assert roi.found and (roi.x, roi.y) == pytest.approx(expected, abs=7), path.name
        # the same bytes in the other order, in other units, with a hole: the same lens
        hole = image.astype(">f8") * 1e-3
        hole[:3, :7] = np.nan
        again = find_roi(hole, RAW)
        assert (again.x, again.y) == pytest.approx((roi.x, roi.y), abs=0.5), path.name


@pytest.mark.parametrize(
    ("folder", "number"),
    [("deeplense_binary", 14), ("deeplense_threeclass", 18), ("hst_slacs", 5), ("panstarrs_i", 8)],
)
def test_real_images_have_a_region_of_interest(folder, number):
    if not (REAL / folder).is_dir():
        pytest.skip(f"real images are not here: {REAL / folder}")
    files = sorted(path for path in (REAL / folder).rglob("*.*") if path.is_file())
    assert len(files) == number
    settings = Preprocess(derotate=True, crop="roi")
    for path in files:
        cut, roi = process(readers.read_image(path), settings)
        assert roi.found, path.name
        assert 10 < roi.area < 0.5 * 150**2, path.name
        assert np.isfinite(cut).all() and 2 < cut.max() < 10, path.name
