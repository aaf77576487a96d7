"""Observations: what is missing in them, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest

from vitdm.data.observation import Observation, as_observations, empty_areas
from vitdm.data.readers import fill_missing, read_image, suffix_of
from vitdm.errors import InputError
from vitdm.simulation import load_population, simulate_one
from vitdm.simulation.population import shipped

REAL = Path(os.environ.get("VITDM_REAL_DATA", Path(__file__).resolve().parents[3] / "shared/data"))
Y, X = np.indices((80, 80))
RADIUS = np.hypot(Y - 40, X - 40)
LIGHT = 100 * np.exp(-RADIUS / 6)
NOISY = (LIGHT + np.random.default_rng(2).normal(0, 1, RADIUS.shape)).astype("f4")
AREAS = {
    "border": (X < 8) | (Y > 74),
    "circle": RADIUS > 34,
    "gap": (Y >= 20) & (Y < 26),
    "star": np.hypot(Y - 15, X - 60) < 7,
    "core": RADIUS < 6,
    "corner": X + Y < 30,
    "segment": LIGHT < 1,
}


@pytest.mark.parametrize("name", AREAS)
@pytest.mark.parametrize("value", [0.0, -999.0, 1.5])
@pytest.mark.parametrize("sky", [0.0, 1.4, 300.0])
def test_filled_areas_are_missing(name, value, sky):
    area = AREAS[name]
    image = np.where(area, np.float32(value), NOISY + np.float32(sky))
    np.testing.assert_array_equal(empty_areas(image), area)
    observation = Observation(image)
    np.testing.assert_array_equal(observation.mask, area)
    np.testing.assert_array_equal(np.isnan(observation.data), area)
    np.testing.assert_array_equal(observation.replace(gain=1.0).mask, area)


def test_filled_areas_of_integers_and_of_correlated_noise():
    counts = np.round(NOISY * 8 + 200)
    smooth = NOISY[1:, 1:] + NOISY[:-1, 1:] + NOISY[1:, :-1] + NOISY[:-1, :-1]
    for image in (counts, np.pad(smooth, ((0, 1), (0, 1)), "reflect")):
        for area in AREAS.values():
            filled = np.where(area, 0, image).astype("f4")
            np.testing.assert_array_equal(empty_areas(filled), area)


def test_single_pixels_of_a_value_within_the_noise():
    area = (X % 9 == 0) & (Y % 9 == 0)
    np.testing.assert_array_equal(empty_areas(np.where(area, np.float32(0), NOISY)), area)
    counts = np.round(NOISY * 20)
    assert np.sum(counts == 1) > 25 and not empty_areas(counts).any()  # as often as others


def test_an_area_beside_single_pixels_of_its_value():
    dead = (X % 9 == 0) & (Y % 9 == 0) & ~AREAS["border"]
    image = np.where(AREAS["border"] | dead, np.float32(-999), NOISY)
    np.testing.assert_array_equal(empty_areas(image), AREAS["border"])


SCENES = {
    "noise": NOISY,
    "no noise": LIGHT,
    "a sky of one value": np.where(RADIUS > 20, 0, LIGHT),
    "noise clipped at the sky": np.clip(NOISY, 0, None),
    "noise clipped below it": np.clip(NOISY, 0.9, None),
    "few photons": np.random.default_rng(3).poisson(0.3 + LIGHT),
    "8 bits": np.clip(np.round(LIGHT * 3), 0, 255),
    "8 bits, with noise": np.clip(np.round(NOISY * 2), 0, 255),
    "a saturated core": np.minimum(NOISY, 60),
    "a saturated core without noise": np.minimum(LIGHT, 60),
    "a saturated star of one value": np.where(AREAS["star"], 65535, NOISY),
    "clipped, with a border": np.where(AREAS["border"], 0, np.clip(NOISY, 0, None)),
    "clipped at some pixels": np.clip(NOISY, -2, None),
    "clipped, with a star cut out": np.where(AREAS["star"], -9, np.clip(NOISY, 0, None)),
    "constant": np.ones((80, 80)),
}


@pytest.mark.parametrize("name", SCENES)
def test_what_was_seen_is_not_missing(name):
    image = SCENES[name].astype("f4")
    assert not empty_areas(image).any() and not Observation(image).mask.any()


@pytest.mark.parametrize("name", shipped())
def test_no_simulated_image_has_an_empty_area(name):
    population = load_population(name)
    kinds = list(population.class_fractions)
    for i in range(12):
        image, _ = simulate_one(i, kinds[i % len(kinds)], 5, population)
        assert not empty_areas(np.asarray(image, np.float32)).any(), (name, i)


def test_empty_areas_of_real_images():
    if not REAL.is_dir():
        pytest.skip(f"real images absent: {REAL}")
    files = [file for file in REAL.rglob("*") if suffix_of(file.name)]
    files = [file for file in files if file.name not in ("noise.fits", "psf.fits")]
    assert len(files) > 40
    for file in files:
        image = fill_missing(read_image(file), file)
        empty = empty_areas(image)
        if empty.any():  # cosmic rays of SLACS: the noise map says so too
            assert (image[empty] == 0).all() and (image == 0).sum() == empty.sum()
            assert (read_image(file.with_name("noise.fits"))[empty] == 1e8).all()
        filled = np.where(np.indices(image.shape)[0] < 9, 0, image)  # 8-bit skies are 0 themselves
        if file.suffix != ".png":
            empty = empty_areas(filled)
            assert empty[:9].all() and (filled[empty] == 0).all(), file


# ----------------------------------------------------------------------------- what is missing


def test_masked_and_missing_pixels_are_one():
    data = np.ma.masked_less(NOISY, -2.5)
    noise = np.ones((80, 80))
    noise[0, :4] = 0, -1, np.nan, 1e8
    mask = np.zeros((80, 80), bool)
    mask[5, 5] = True
    observation = Observation(data, noise=noise, mask=mask)
    expected = data.mask | mask
    expected[0, :4] = True
    np.testing.assert_array_equal(observation.mask, expected)
    np.testing.assert_array_equal(np.isnan(observation.data), expected)
    assert not observation.data.flags.writeable and NOISY[5, 5] == data[5, 5]
    noise[:, :60] = 1e8  # most pixels: the median is that of the mark
    assert Observation(NOISY, noise=noise).mask[:, :60].all()
    assert not Observation(NOISY, noise=noise).mask[1:, 60:].any()
    nothing = Observation(NOISY, mask=np.ones((80, 80), bool))  # a fit flags it
    assert nothing.mask.all() and np.isnan(nothing.data).all()


@pytest.mark.parametrize("scale", [1.4e-5, 0.05 / 3600, 10, 50.0, 1e-3, 0, -0.05, np.nan, "0.05"])
def test_pixel_scales_that_are_none(scale):
    hint = "degrees are 0.05" if scale in (1.4e-5, 0.05 / 3600) else "expected arcsec, above"
    with pytest.raises(InputError, match=rf"a: pixel_scale: found .*{hint}"):
        Observation(NOISY, pixel_scale=scale, name="a")
    assert Observation(NOISY, pixel_scale=np.float32(0.25)).pixel_scale == 0.25


def test_what_is_not_known():
    bare = Observation(NOISY)
    assert bare.unknown == ("noise", "psf", "pixel_scale", "gain")
    full = Observation(NOISY, noise=np.ones((80, 80)), psf=np.ones((4, 5)), pixel_scale=0.05)
    assert full.unknown == () and full.psf.sum() == pytest.approx(1)
    assert Observation(NOISY, noise=1.0, psf=0.1, pixel_scale=0.05).unknown == ("gain",)
    first, second = as_observations([bare, full], pixel_scale=0.2)
    assert (first.pixel_scale, second.pixel_scale) == (0.2, 0.05)
    for wrong in (NOISY, [], np.zeros((0, 3, 3))):
        with pytest.raises(InputError, match="images: found"):
            as_observations(wrong)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"data": NOISY[0]}, r"data of shape \(80,\)"),
        ({"data": NOISY * 1j}, "real numbers"),
        ({"noise": NOISY[1:]}, r"a map of shape \(79, 80\)"),
        ({"noise": -1.0}, "found -1.0; expected a positive number"),
        ({"psf": np.zeros((3, 3))}, "sum 0"),
        ({"mask": NOISY}, "mask: found float32"),
        ({"gain": -2.0}, "gain: found -2.0"),
    ],
)
def test_wrong_observations_are_refused(wrong, reason):
    with pytest.raises(InputError, match=f"J1: .*{reason}"):
        Observation(**({"data": NOISY} | wrong), name="J1")
