"""The shape of light, against formulas, other fits and statmorph."""

import math

import numpy as np
import pytest
import statmorph
from scipy import optimize

from vitdm.features import morphology
from vitdm.preprocess.circle import fit_circle

SIDE = 151
Y, X = np.mgrid[:SIDE, :SIDE].astype(float)
C = (SIDE - 1) / 2
R = np.hypot(X - C, Y - C)
PHI = np.arctan2(Y - C, X - C)


def ring(radius=30.0, width=2.5, brightness=1.0):
    return (brightness * np.exp(-0.5 * ((R - radius) / width) ** 2)).astype(np.float32)


def unrolled(image, radius=30.0, width=8.0, noise=1.0):
    return morphology.unroll(np.asarray(image, np.float32), C, C, radius, width, noise)


# ------------------------------------------------------------------------------ light in pixels


def test_gini_of_equal_pixels_and_of_one_bright_pixel():
    assert morphology.gini(np.ones(50)) == pytest.approx(0)
    assert morphology.gini(np.eye(1, 50)[0]) == pytest.approx(1)
    assert morphology.gini(np.arange(1.0, 1001)) == pytest.approx(1 / 3, abs=1e-3)
    assert math.isnan(morphology.gini(np.ones(1)))
    assert math.isnan(morphology.gini(np.zeros(5)))


def test_concentration_of_a_uniform_disk_and_of_a_gaussian():
    inside = R <= 40
    disk = morphology.concentration(np.ones(inside.sum()), R[inside])
    assert disk == pytest.approx(5 * math.log10(2), abs=0.02)  # r = R sqrt(share)
    gaussian = morphology.concentration(np.exp(-0.5 * (R / 9) ** 2).ravel(), R.ravel())
    expected = 2.5 * math.log10(math.log(1 / 0.2) / math.log(1 / 0.8))
    assert gaussian == pytest.approx(expected, abs=0.05)


def test_m20_of_two_bright_pixels_among_faint_ones():
    flux = np.array([10.0, 10.0, *np.full(100, 1.0)])
    x = np.array([3.0, -3.0, *np.linspace(-5, 5, 100)])
    moment = 2 * 10 * 9 + (np.linspace(-5, 5, 100) ** 2).sum()
    # 20 % of 120 are 24: both bright pixels and three faint ones, the first in their order
    bright = np.argsort(flux)[::-1][:5]
    expected = math.log10((flux[bright] * x[bright] ** 2).sum() / moment)
    assert morphology.m20(flux, x, np.zeros(102)) == pytest.approx(expected)
    assert math.isnan(morphology.m20(np.ones(1), np.zeros(1), np.zeros(1)))


def test_asymmetry_of_what_is_symmetric_and_of_what_is_not():
    ellipse = np.exp(-0.5 * (((X - C) / 12) ** 2 + ((Y - C) / 6) ** 2))
    assert morphology.asymmetry(ellipse, ellipse > 0.05, C, C, 0.0) == pytest.approx(0, abs=1e-9)
    half = ellipse * (X > C)  # nothing opposite: |I - 0| counted from both ends
    assert morphology.asymmetry(half, half > 0.05, C, C, 0.0) == pytest.approx(2)
    spots = np.zeros((5, 5))
    spots[2, 0], spots[2, 4] = 3, 1
    assert morphology.asymmetry(spots, spots > 0, 2, 2, 0.0) == pytest.approx(2 * 2 / 4)


def test_asymmetry_is_not_raised_by_noise():
    ellipse = 20 * np.exp(-0.5 * (((X - C) / 12) ** 2 + ((Y - C) / 6) ** 2))
    noise = np.random.default_rng(0).normal(0, 1, ellipse.shape)
    measured = morphology.asymmetry(ellipse + noise, ellipse > 1, C, C, 1.0)
    assert measured == pytest.approx(0, abs=0.02)
    assert morphology.asymmetry(ellipse + noise, ellipse > 1, C, C, 0.0) > 0.1


def test_galaxies_agree_with_statmorph():
    image = 100 * np.exp(-np.hypot((X - C) / 9, (Y - C) / 6))
    image += 25 * np.exp(-0.5 * ((X - C - 14) ** 2 + (Y - C - 6) ** 2) / 9)
    image += np.random.default_rng(1).normal(0, 0.2, image.shape)
    mask = image > 2
    theirs = statmorph.source_morphology(image, mask.astype(int), gain=1e3)[0]
    segment = theirs._segmap_gini.astype(bool)
    rows, columns = np.nonzero(segment)
    flux = image[rows, columns]
    assert morphology.gini(flux) == pytest.approx(theirs.gini, rel=1e-3)
    assert morphology.m20(flux, columns, rows) == pytest.approx(theirs.m20, abs=0.02)
    x, y = theirs._asymmetry_center
    aperture = np.hypot(X - x, Y - y) <= 1.5 * theirs.rpetro_circ
    ours = morphology.asymmetry(image, aperture, x, y, 0.2)
    assert ours == pytest.approx(theirs.asymmetry, abs=0.02)
    radii = np.hypot(X - x, Y - y)[aperture]
    ours = morphology.concentration(image[aperture], radii)
    assert ours == pytest.approx(theirs.concentration, abs=0.05)


# --------------------------------------------------------------------------------- light in rings


@pytest.mark.parametrize("span", [0.8, 2.0, 2 * math.pi])
def test_points_on_an_arc_give_its_circle(span):
    azimuth = np.linspace(0.3, 0.3 + span, 40)
    x, y = 12 + 25 * np.cos(azimuth), -7 + 25 * np.sin(azimuth)
    weight = np.linspace(1, 3, 40)
    assert fit_circle(x, y, weight) == pytest.approx((12, -7, 25), abs=1e-6)


def test_a_noisy_arc_gives_the_circle_of_the_geometric_fit():
    random = np.random.default_rng(2)
    azimuth = random.uniform(0, 2.5, 300)
    radius = 25 + random.normal(0, 0.4, 300)
    x, y = radius * np.cos(azimuth), radius * np.sin(azimuth)
    distance = lambda p: np.hypot(x - p[0], y - p[1]) - p[2]  # noqa: E731
    expected = optimize.least_squares(distance, (1.0, 1.0, 20.0)).x
    assert fit_circle(x, y, np.ones(300)) == pytest.approx(expected, abs=0.02)


def test_points_on_a_line_or_too_few_have_no_circle():
    for x, y in (([0.0, 1, 2, 3], [0.0, 2, 4, 6]), ([0.0, 1], [1.0, 0]), ([5.0] * 4, [5.0] * 4)):
        fit = fit_circle(np.array(x), np.array(y), np.ones(len(x)))
        assert all(math.isnan(value) for value in fit)


def test_the_gap_between_galaxy_and_ring_is_found():
    galaxy = 50 * np.exp(-R / 3)
    with_ring = galaxy + ring(30, 2.5, 10)
    gap = morphology.hole_radius(R.ravel(), with_ring.ravel())
    profile = 50 * np.exp(-np.arange(60) / 3) + 10 * np.exp(
        -0.5 * ((np.arange(60) - 30) / 2.5) ** 2
    )
    assert gap == pytest.approx(np.argmin(profile[:30]), abs=1)
    assert math.isnan(morphology.hole_radius(R.ravel(), galaxy.ravel()))


@pytest.mark.parametrize("order", [1, 2, 3, 5, 8, 12])
def test_the_fourier_amplitude_of_a_modulated_ring_is_half_the_modulation(order):
    ring_light = unrolled(ring() * (1 + 0.6 * np.cos(order * PHI + 0.4)))
    amplitudes = morphology.fourier_amplitudes(ring_light)
    assert amplitudes[order] == pytest.approx(0.3, rel=0.03)
    others = np.delete(amplitudes[1:], order - 1)
    assert others.max() < 0.01


@pytest.mark.parametrize("order", [2, 7])
def test_only_orders_above_those_of_a_smooth_lens_are_left(order):
    ring_light = unrolled(50 * ring() * (1 + 0.6 * np.cos(order * PHI)))
    expected = 30 if order > morphology.SMOOTH_ORDERS else 0
    assert np.abs(ring_light.rest).max() == pytest.approx(expected, rel=0.05, abs=1)


def test_an_elliptical_ring_has_its_ellipticity():
    for q in (0.8, 0.9, 1.0):
        r = np.hypot((X - C) * math.sqrt(q), (Y - C) / math.sqrt(q))
        shape = morphology.ridge_shape(unrolled(np.exp(-0.5 * ((r - 30) / 2) ** 2), width=12))
        assert shape[0] == pytest.approx((1 - q) / (1 + q), abs=0.004)


def test_a_wavy_ring_has_its_wiggle():
    wavy = np.exp(-0.5 * ((R - 30 - 1.5 * np.cos(6 * PHI)) / 2) ** 2)
    smooth, waves = (morphology.ridge_shape(unrolled(image))[1] for image in (ring(30, 2), wavy))
    assert smooth < 0.05
    assert waves == pytest.approx(1.5 / math.sqrt(2), rel=0.1)


@pytest.mark.parametrize("radius", [15.0, 30.0, 50.0])
def test_noise_has_power_one_at_every_order(radius):
    random = np.random.default_rng(3)
    images = [random.normal(0, 3, R.shape) for _ in range(60)]
    power = np.mean([unrolled(image, radius, noise=3.0).power for image in images], axis=0)
    assert power[5:].mean() == pytest.approx(1, abs=0.3)  # pixels are shared on small rings
    np.testing.assert_allclose(power[5:], 1, atol=0.6)


def test_a_ring_beyond_the_image_is_cut_off_without_harm():
    ring_light = morphology.unroll(ring().astype(np.float32), 3.0, 3.0, 60.0, 10.0, 1.0)
    assert np.isfinite(ring_light.flux).all() and np.isfinite(ring_light.rest).all()


def test_the_slope_of_a_power_law():
    power = np.r_[1.0, 7 * np.arange(1.0, 25) ** -2.5]
    assert morphology.power_slope(power, 5) == pytest.approx(-2.5)
    assert math.isnan(morphology.power_slope(np.zeros(25), 5))
