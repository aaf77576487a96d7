"""The precursor's procedure has the faults that it is known for, on images drawn by hand."""

import math

import cv2
import numpy as np
import pytest

from studies import precursor

SIDE = 150
Y, X = np.mgrid[:SIDE, :SIDE].astype(float)


def spot(x0, y0, sigma=4.0):
    return np.exp(-0.5 * ((X - x0) ** 2 + (Y - y0) ** 2) / sigma**2)


def ellipse(angle, along=16.0, across=6.0):
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = X - 74.5, Y - 74.5
    return np.exp(-0.5 * (((x * c + y * s) / along) ** 2 + ((y * c - x * s) / across) ** 2))


def rectangle(x, y, width, height):
    """The contour of a rectangle, its first corner at (x, y)."""
    corners = [(x, y), (x, y + height), (x + width, y + height), (x + width, y)]
    return np.array(corners, np.int32)[:, None]


def test_rows_are_rewrapped():
    image = ellipse(30)
    cropped, seen = precursor.crop(image), precursor.process(image)
    assert cropped.shape == (64, 88) and seen.shape == (88, 64)
    np.testing.assert_array_equal(seen[0], cropped[0, :64])
    np.testing.assert_array_equal(seen[1, :24], cropped[0, 64:])
    assert np.abs(seen - cropped.T).max() > 0.1


def test_the_cut_is_upright_and_its_canvas_clips():
    box = precursor.box_of(rectangle(10, 20, 30, 8))
    assert box == ((25.0, 24.0), (30, 8), (8, 30), 90.0)
    assert precursor.cut(np.zeros((60, 60), np.float32), box).shape == (30, 8)
    y, x = (index.ravel() for index in np.mgrid[20:29, 10:41])
    # laid upright, 30 by 8 pixels have a canvas 8 pixels high
    assert precursor.inside(x, y, box).mean() == pytest.approx(8 * 8 / (31 * 9), abs=0.05)
    upright = precursor.box_of(rectangle(20, 10, 8, 30))
    assert upright.sides == box.sides and upright.angle == box.angle
    assert precursor.inside(y, x, upright).mean() == pytest.approx(8 * 8 / (31 * 9), abs=0.05)


def test_what_is_inside_is_what_the_cut_shows():
    rng = np.random.default_rng(0)
    for angle in (10, 35, 60, 80):
        corners = cv2.boxPoints(((70.0, 80.0), (50.0, 30.0), float(angle)))
        box = precursor.box_of(np.rint(corners).astype(np.int32)[:, None])
        for x, y in rng.integers((45, 55), (95, 105), (30, 2)):
            seen = precursor.cut(spot(x, y, 1.0).astype(np.float32), box).max() > 0.5
            near = precursor.inside(
                x + np.array([0, -2, 2, 0, 0]), y + np.array([0, 0, 0, 2, -2]), box
            )
            assert seen == near[0] or near.any() != near.all()  # at the border either is right


def test_a_rotated_image_does_not_become_alike():
    reference = precursor.process(ellipse(20)).ravel()
    correlations = {
        angle: np.corrcoef(precursor.process(ellipse(20 + angle)).ravel(), reference)[0, 1]
        for angle in range(0, 360, 15)
    }
    assert correlations[0] == pytest.approx(1)
    assert min(correlations.values()) < 0.5


def test_the_angle_is_that_of_opencv_4_whatever_version_runs(monkeypatch):
    contour = np.rint(cv2.boxPoints(((70, 70), (40, 20), 25.0))).astype(np.int32)[:, None]
    box = precursor.box_of(contour)
    assert 0 < box.angle <= 90
    (x, y), (width, height), angle = cv2.minAreaRect(contour)
    for other in (((x, y), (height, width), angle + 90), ((x, y), (width, height), angle + 180)):
        monkeypatch.setattr(cv2, "minAreaRect", lambda _, other=other: other)
        assert precursor.box_of(contour)[:3] == box[:3]
        assert precursor.box_of(contour).angle == pytest.approx(box.angle, abs=1e-3)


def test_the_lowest_contour_is_taken_not_the_largest():
    image = np.zeros((SIDE, SIDE))
    image[20:80, 20:80] = 1
    image[120:130, 100:110] = 1
    small, large = (
        precursor.published_features(image)["area"],
        precursor.published_features(image[::-1])["area"],
    )
    assert small < 0.03 < 0.16 < large


def test_a_ring_is_two_objects_at_distance_0():
    values = precursor.published_features(np.exp(-0.5 * ((np.hypot(X - 75, Y - 75) - 28) / 3) ** 2))
    for level in precursor.LEVELS:
        assert values[f"number_{level}"] == pytest.approx((2 - 3) / 3)
        assert values[f"dmax_{level}"] == values[f"dmin_{level}"] == 0


def test_the_number_at_the_very_low_level_is_that_of_the_low_one():
    image = spot(40, 40) + 0.2 * spot(100, 40) + 0.2 * spot(70, 110)
    values = precursor.published_features(image)
    assert values["number_very_low"] == values["number_low"] == pytest.approx((1 - 3) / 3)
    assert values["dmax_very_low"] == int(math.hypot(30, 70)) / math.hypot(64, 88)
    assert values["dmin_very_low"] == 60 / math.hypot(64, 88)


def test_no_distance_is_a_number_close_to_0():
    values = precursor.published_features(spot(70, 70))
    assert values["dmax_low"] == values["dmin_low"] == pytest.approx(-0.0092, abs=1e-4)


def test_the_centre_of_a_pixel_is_the_corner_of_the_image():
    image = np.clip(2 * spot(100, 90, 6), 0, 1)
    image[40, 30] = 1  # after the smoothing, one pixel above the very low level
    values = precursor.published_features(image)
    assert values["dmax_very_low"] * math.hypot(64, 88) == pytest.approx(math.hypot(100, 90), abs=1)


@pytest.mark.parametrize("factor", [0.01, 7.0, 1e4])
def test_images_are_scaled_to_what_the_thresholds_assume(factor):
    image = ellipse(40) + 0.01 * np.random.default_rng(1).normal(size=(SIDE, SIDE))
    square, values = precursor.process_and_measure(image)
    other, others = precursor.process_and_measure(factor * image - 3)
    np.testing.assert_allclose(other, square, atol=1.5 / 255)
    assert others == pytest.approx(values)
    assert len(values) == 13


@pytest.mark.parametrize("value", [0.0, 5.0, np.nan])
def test_an_image_without_light_is_resized_whole(value):
    image = np.full((50, 60), value)
    assert precursor.process(image).shape == (88, 64) and not precursor.process(image).any()
    assert precursor.published_features(image)["area"] == 0


def test_pixels_without_a_number_are_dark():
    image = ellipse(40)
    image[:10] = np.nan
    image[0, 0] = np.inf
    np.testing.assert_array_equal(
        precursor.process(image), precursor.process(np.nan_to_num(image, posinf=0))
    )


# ------------------------------------------------------------------------------- faults fixed


def fixed(image, *names):
    return precursor.process_and_measure(image, precursor.PUBLISHED.fixed(names))


def test_fixed_arrays_are_transposed():
    image = ellipse(30)
    np.testing.assert_array_equal(fixed(image, "rewrapped")[0], precursor.crop(image).T)


@pytest.mark.parametrize("angle", [0, 25, 60, 90, 120, 155])
def test_a_fixed_cut_undoes_the_rotation(angle):
    reference = fixed(ellipse(10), "upright_cut", "rewrapped")[0]
    seen = fixed(ellipse(10 + angle), "upright_cut", "rewrapped")[0]
    assert np.corrcoef(seen.ravel(), reference.ravel())[0, 1] > 0.97
    assert seen.shape == (88, 64)
    across, along = (seen > 0.5).any(axis=1), (seen > 0.5).any(axis=0)
    assert 20 < across.sum() < 60 and along.sum() > 15  # nothing is clipped, the long side is


def test_the_fixed_contour_is_the_largest():
    image = np.zeros((SIDE, SIDE))
    image[20:80, 20:80] = 1
    image[120:130, 100:110] = 1
    assert fixed(image, "first_contour")[1]["area"] > 0.16
    assert fixed(image[::-1], "first_contour")[1]["area"] > 0.16


def test_a_fixed_ring_is_one_object_and_what_is_in_it_another():
    ring = np.exp(-0.5 * ((np.hypot(X - 75, Y - 75) - 28) / 3) ** 2)
    assert fixed(ring, "holes_counted")[1]["number_low"] == pytest.approx((1 - 3) / 3)
    values = fixed(ring + spot(75, 75), "holes_counted")[1]
    assert values["number_low"] == pytest.approx((2 - 3) / 3)


def test_the_fixed_very_low_level_has_its_own_number():
    image = spot(40, 40) + 0.2 * spot(100, 40) + 0.2 * spot(70, 110)
    values = fixed(image, "low_level_twice")[1]
    assert values["number_very_low"] == 0 and values["number_low"] == pytest.approx((1 - 3) / 3)


def test_fixed_gaps_are_gaps_and_a_pixel_has_its_place():
    assert math.isnan(fixed(spot(70, 70), "placeholders")[1]["dmax_low"])
    image = np.clip(2 * spot(100, 90, 6), 0, 1)
    image[40, 30] = 1
    distance = fixed(image, "placeholders")[1]["dmax_very_low"] * math.hypot(64, 88)
    assert distance == pytest.approx(math.hypot(70, 50), abs=1)
