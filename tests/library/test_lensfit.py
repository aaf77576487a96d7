"""Fits of smooth lenses: to what lenstronomy's conventions say, scipy finds, and noise leaves."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from oracle import with_lenstronomy, with_values
from scipy import optimize
from sklearn.metrics import roc_auc_score

from studies.__main__ import main as studies_main
from studies.ideal_observer import true_values
from vitdm import config, simulation
from vitdm.__main__ import main
from vitdm.config import LensFit
from vitdm.data import dataset
from vitdm.errors import InputError
from vitdm.features import LENSFIT, definitions
from vitdm.lens import (
    Camera,
    Fits,
    estimate_gain,
    features,
    fit,
    matched,
    noise,
    residuals,
    settings_for,
)
from vitdm.lens.fit import FLAGS, POOR
from vitdm.lens.parameters import parameters
from vitdm.simulation import load_population
from vitdm.simulation.rendering import pixel_axis

ROOT = Path(__file__).parents[2]
MARGINAL = load_population("marginal")
MODEL_I = load_population("model_i")
SCALE = MARGINAL.instrument.pixel_scale
KNOWN = LensFit(gain=1.0)
TRUTH = ("theta_E", "e1", "e2", "gamma1", "gamma2", "source_x", "source_y")
TRUTH += ("source_e1", "source_e2", "source_R_sersic", "source_n_sersic")


def drawn(n, kind, population=MARGINAL, seed=11):
    """Images of a class, and their truth."""
    pairs = [simulation.simulate_one(i, kind, seed, population) for i in range(n)]
    images, truth = zip(*pairs, strict=True)
    return np.array(images), pd.DataFrame(truth)


def logarithms(values, exposure_time):
    """Fitted values (13,) as the model has them, the source in counts/s."""
    names = [row.name for row in parameters()]
    values = values / np.where(np.array(names) == "source_amp", exposure_time, 1)
    pairs = zip(parameters(), values, strict=True)
    return np.array([np.log(value) if row.logarithmic else value for row, value in pairs])


@pytest.fixture(scope="module")
def smooth():
    images, truth = drawn(120, "no_sub")
    return images, truth, fit(images, KNOWN, pixel_scale=SCALE)


# -------------------------------------------------------------------------------------- correctness


def test_smooth_lenses_are_found(smooth):
    """Nearly all converge to chi^2 of noise; pulls are those of a normal distribution."""
    images, truth, fits = smooth
    good = fits.converged & (fits.chi2 < 1.3)
    assert good.mean() >= 0.99
    assert abs(fits.chi2[good].mean() - 1) < 0.02
    pulls = (fits.values[good, :11] - truth[list(TRUTH)].to_numpy()[good]) / fits.errors[good, :11]
    assert fits.names[:11] == TRUTH
    assert (np.abs(pulls.mean(axis=0)) < 4 / np.sqrt(len(pulls))).all()
    assert (pulls.std(axis=0) > 0.75).all() and (pulls.std(axis=0) < 1.25).all()
    amp = fits.values[good, 11] / truth["exposure_time"][good] / truth["source_amp"][good]
    assert abs(amp.mean() - 1) < 0.05


def test_other_minima_are_left():
    """Smooth lenses whose fit once ended elsewhere, with chi^2 from 1.4 to 4.3: false alarms."""
    numbers = (1005, 1801, 1954, 2033, 2156, 3896, 4686, 4851)
    images = [simulation.simulate_one(i, "no_sub", 2027, MARGINAL)[0] for i in numbers]
    assert (fit(np.array(images), KNOWN, pixel_scale=SCALE).chi2 < POOR).sum() >= 7


def test_the_residual_is_what_the_simulator_leaves(smooth):
    """Image minus the simulator's image of the fitted lens, over its noise."""
    images, truth, fits = smooth
    for i in range(3):
        system = simulation.draw(i, "no_sub", 11, MARGINAL)
        values = logarithms(fits.values[i], system.exposure_time)
        model = simulation.render(with_values(system, values), MARGINAL)
        model = system.exposure_time * model + values[12] * SCALE**2
        sky = 0.01 * system.exposure_time
        left = (images[i] - model) / np.sqrt(sky**2 + model.clip(0))
        # the noise of the sky is measured to a per cent or two
        fitted = fits.residual[i] != 0  # all but the singular centre of the mass
        assert 96**2 - fitted.sum() < 20
        difference = (fits.residual[i] - left[27:123, 27:123])[fitted]
        assert np.abs(difference).max() < 0.35 and np.std(difference) < 0.05


def test_scipy_finds_the_same_minimum(smooth):
    images, _, fits = smooth
    system = simulation.draw(5, "no_sub", 11, MARGINAL)
    cut = images[5][27:123, 27:123]
    t = system.exposure_time
    fitted = fits.residual[5] != 0
    sigma = np.sqrt((0.01 * t) ** 2 + t * simulation.render(system, MARGINAL)[27:123, 27:123])

    def left(values):
        model = t * simulation.render(with_values(system, values), MARGINAL)[27:123, 27:123]
        return ((cut - model - values[12] * SCALE**2) / sigma)[fitted]

    # of mass and source position, source, sky, centre
    scale = [0.01] * 7 + [0.1] * 5 + [100] + [0.01] * 2
    found = optimize.least_squares(left, true_values(system), x_scale=scale)
    values = logarithms(fits.values[5], t)
    errors = fits.errors[5].copy()
    errors[9:12] /= fits.values[5, 9:12]
    np.testing.assert_array_less(np.abs(values - found.x) / errors, 0.3)
    covariance = np.linalg.inv(found.jac.T @ found.jac)
    np.testing.assert_allclose(errors, np.sqrt(np.diag(covariance)), rtol=0.1)


def test_a_subhalo_is_found_where_it_is():
    images, _ = drawn(12, "no_sub")
    distances, powers = [], []
    for i in range(12):
        system = simulation.draw(i, "no_sub", 11, MARGINAL)
        image = simulation.render(system, MARGINAL)
        row, column = np.unravel_index(image.argmax(), image.shape)
        axis = pixel_axis(MARGINAL)
        at = {"x": axis[[column]], "y": axis[[row]] + 0.1, "masses": np.array([3e9])}
        perturbed = replace(system, kind="cdm", **at)
        noise = np.random.default_rng(i)
        image = simulation.add_noise(
            simulation.render(perturbed, MARGINAL), system, noise, MARGINAL
        )
        images[i] = image
        powers.append(at)
    table = features(fit(images, KNOWN, pixel_scale=SCALE))
    x = table["fit_peak_x"] - [at["x"][0] for at in powers]
    y = table["fit_peak_y"] - [at["y"][0] for at in powers]
    distances = np.hypot(x, y)
    assert np.mean(distances < 0.25) >= 0.75
    assert (table["fit_fourth_power"] > 10).mean() > 0.9


def test_one_number_tells_substructure(smooth):
    perturbed, _ = drawn(60, "cdm")
    left = features(fit(perturbed, KNOWN, pixel_scale=SCALE))["fit_fourth_power"]
    none = features(smooth[2])["fit_fourth_power"]
    assert abs(none.mean() - 2.8) < 0.3 and none.max() < 6
    labels = np.repeat([0, 1], [len(none), len(left)])
    assert roc_auc_score(labels, np.concatenate([none, left])) > 0.97


def test_published_classes_differ_in_their_radius():
    """Model I adds the substructure's mass to a halo that is the same in every image."""
    values = {}
    for kind in ("no_sub", "axion"):
        fits = fit(drawn(16, kind, MODEL_I)[0], LensFit(gain=2.0), pixel_scale=SCALE)
        assert fits.converged.all() and (fits.chi2 < 1.3).all()
        values[kind] = fits.values[:, 0]
    assert np.median(values["no_sub"]) == pytest.approx(1.2815, abs=0.003)
    assert values["no_sub"].max() < values["axion"].min()


def test_light_of_the_lens_galaxy():
    images, _ = drawn(6, "no_sub")
    light = {"amp": 8.0, "R_sersic": 0.6, "n_sersic": 3.0, "e1": 0.1, "e2": -0.05}
    for i in range(6):
        system = simulation.draw(i, "no_sub", 11, MARGINAL)
        system = replace(system, lens_light=light | {"center_x": 0.0, "center_y": 0.0})
        noise = np.random.default_rng(i)
        images[i] = simulation.add_noise(
            simulation.render(system, MARGINAL), system, noise, MARGINAL
        )
    fits = fit(images, LensFit(gain=1.0, lens_light=True), pixel_scale=SCALE)
    assert fits.converged.all() and (np.abs(fits.chi2 - 1) < 0.1).all()
    column = {name: fits.values[:, k] for k, name in enumerate(fits.names)}
    error = {name: fits.errors[:, k] for k, name in enumerate(fits.names)}
    for name in ("R_sersic", "n_sersic", "e1", "e2"):
        pull = (column[f"lens_light_{name}"] - light[name]) / error[f"lens_light_{name}"]
        assert (np.abs(pull) < 4).all()
    pull = (column["theta_E"] - drawn(6, "no_sub")[1]["theta_E"]) / error["theta_E"]
    assert (np.abs(pull) < 4).all()


def test_the_peak_of_a_bright_galaxy_does_not_choose_the_start():
    """Lenses that ended far from the truth when the start looked at the galaxy's peak."""
    realistic = load_population("realistic")
    chosen = (50, 178, 226, 421, 606, 701, 899, 984)
    images, truth = zip(
        *(simulation.simulate_one(i, "no_sub", 7, realistic) for i in chosen), strict=True
    )
    settings = settings_for(realistic, LensFit())
    fits = fit(np.array(images), settings, pixel_scale=realistic.instrument.pixel_scale)
    assert fits.converged.all() and (fits.chi2 < 1.15).all()
    for k, name in enumerate(("theta_E", "e1", "e2", "gamma1", "gamma2")):
        pull = (fits.values[:, k] - [row[name] for row in truth]) / fits.errors[:, k]
        assert (np.abs(pull) < 4).all()


def drizzled(n=6):
    """Lenses in front of which a halo and a core shine, with noise that neighbouring pixels share.

    White noise, averaged over 2 x 2 pixels: pixels 2 apart share none.
    """
    core = {"amp": 150.0, "R_sersic": 0.15, "n_sersic": 1.5, "e1": 0.2, "e2": -0.1}
    halo = {"amp": 15.0, "R_sersic": 1.2, "n_sersic": 1.0, "e1": -0.25, "e2": 0.1}
    images = []
    for i in range(n):
        system = simulation.draw(i, "no_sub", 11, MARGINAL)
        bare = replace(system, source=system.source | {"amp": 0.0})
        centre = {"center_x": 0.0, "center_y": 0.0}
        parts = [system, *(replace(bare, lens_light=light | centre) for light in (core, halo))]
        image = system.exposure_time * sum(with_lenstronomy(part, MARGINAL) for part in parts)
        noise = np.random.default_rng(i).normal(0, 0.04 * system.exposure_time, image.shape)
        shared = (
            noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) + np.roll(noise, 1, (0, 1))
        ) / 4
        images.append(image + shared)
    return np.array(images), drawn(n, "no_sub")[1]["theta_E"]


DRIZZLED = {"lens_light": True, "gain": 0.0}


def test_two_profiles_of_light_and_shared_noise():
    """The fit that expects both finds the radius and noise alone; others are poor."""
    images, theta_E = drizzled()
    fits = fit(images, LensFit(**DRIZZLED, light_profiles=2, noise_lag=2), pixel_scale=SCALE)
    good = np.abs(fits.chi2 - 1) < 0.1
    assert good.sum() >= 5  # a minimum may be a local one
    np.testing.assert_allclose(fits.values[:, 0], theta_E, atol=0.02)
    halo, core = (fits.names.index(f"{name}_R_sersic") for name in ("lens_light", "lens_light2"))
    assert np.median(fits.values[good, halo]) == pytest.approx(1.2, rel=0.1)
    assert np.median(fits.values[good, core]) == pytest.approx(0.15, rel=0.1)
    single = fit(images, LensFit(**DRIZZLED, noise_lag=2), pixel_scale=SCALE)
    assert (single.chi2[good] > fits.chi2[good] + 0.1).all()
    white = fit(images, LensFit(**DRIZZLED, light_profiles=2), pixel_scale=SCALE)
    assert (white.chi2 > 5).all() and all("poor" in flags for flags in white.flags)


def test_bad_images_are_flagged_with_two_profiles(smooth):
    bad = bad_images(smooth[0])
    found = fit(
        np.array(list(bad.values())),
        LensFit(**DRIZZLED, light_profiles=2, size=48),
        pixel_scale=SCALE,
    )
    for name, flags in zip(bad, found.flags, strict=True):
        assert flags and set(flags.split()) <= set(FLAGS), name
        assert ("blank" in name) == ("blank" in flags), name
    assert np.isfinite(found.residual).all()


@pytest.mark.parametrize("key", [{"light_profiles": 3}, {"noise_lag": 0}])
def test_settings_out_of_range(key):
    with pytest.raises(ValueError, match=next(iter(key))):
        LensFit(**key)


# -------------------------------------------------------------------------------------------- noise


def test_photon_noise_is_estimated(smooth):
    estimated = estimate_gain(smooth[0][:48], LensFit(), pixel_scale=SCALE)
    assert estimated == pytest.approx(1, abs=0.2)
    # in other units: half the counts, half the variance per count
    assert estimate_gain(smooth[0][:48] / 2, LensFit(), pixel_scale=SCALE) == pytest.approx(
        estimated / 2, rel=0.02
    )
    assert estimate_gain(np.zeros((2, 96, 96)), LensFit(), pixel_scale=SCALE) == 0


def test_light_everywhere_is_no_noise():
    y, x = np.indices((96, 96)) - 47.5
    galaxy = 500 / (1 + np.hypot(x, y) / 10)
    image = galaxy + np.random.default_rng(2).normal(0, 2, (96, 96))
    assert noise.noise_of_the_faint(image.astype(np.float32)) == pytest.approx(2, rel=0.06)


def test_shared_noise_is_measured_between_pixels_that_do_not_share_it():
    white = np.random.default_rng(4).normal(0, 2, (400, 400)).astype(np.float32)
    shared = (white + np.roll(white, 1, 0) + np.roll(white, 1, 1) + np.roll(white, 1, (0, 1))) / 2
    measured = [noise.noise_of_the_faint(shared, lag) for lag in (1, 2)]
    assert measured[0] < 1.2 and measured[1] == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_photon_noise_between_pixels_of_any_distance(lag):
    rng = np.random.default_rng(5)
    brightness = 10 ** rng.uniform(0, 3, (1, 300, 300))  # each pixel another
    left = rng.normal(0, np.sqrt(1 + 0.3 * brightness))
    tensors = (torch.tensor(array, dtype=torch.float32) for array in (left, brightness))
    assert noise.photon_noise(*tensors, lag).item() == pytest.approx(0.3, rel=0.05)


def test_clipped_noise():
    rng = np.random.default_rng(0)
    mean, sigma = np.array([-1.0, 0.0, 0.5, 4.0]), np.array([1.0, 2.0, 1.0, 1.5])
    cut = np.clip(mean + sigma * rng.standard_normal((200_000, 4)), 0, None)
    arguments = torch.tensor(mean), torch.tensor(sigma)
    found, above, by_sigma = noise.clipped_normal(*arguments)
    np.testing.assert_allclose(found, cut.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(above, (cut > 0).mean(axis=0), atol=0.01)
    np.testing.assert_allclose(noise.clipped_variance(*arguments), cut.var(axis=0), rtol=0.02)
    step = torch.tensor(1e-5)
    for k, slope in enumerate((above, by_sigma)):
        moved = [argument + step * (i == k) for i, argument in enumerate(arguments)]
        difference = (noise.clipped_normal(*moved).mean - found) / step
        np.testing.assert_allclose(slope, difference, atol=1e-4)


def test_units_and_sky_do_not_matter(smooth):
    images, _, fits = smooth
    scaled = fit(0.01 * images[:8] + 5, LensFit(gain=0.01), pixel_scale=SCALE)
    names = [fits.names.index(name) for name in TRUTH]
    shift = (scaled.values - fits.values[:8]) / fits.errors[:8]
    assert (np.abs(shift[:, names]) < 0.2).all()
    np.testing.assert_allclose(scaled.chi2, fits.chi2[:8], rtol=1e-3)
    np.testing.assert_allclose(scaled.values[:, 11], 0.01 * fits.values[:8, 11], rtol=0.01)


# ---------------------------------------------------------------------------------------- bad input


def spiral(x, y):
    r = np.hypot(x, y)
    return (np.sin(r / 3 + np.arctan2(y, x)) > 0.8) & (r < 35)


def bad_images(images):
    """What can go wrong, by the flag that it gets."""
    y, x = np.indices((150, 150)) - 74.5
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 10, (150, 150))
    holes = images[0].copy()
    holes[60:64, 60:70] = np.nan
    two = images[1] + np.roll(images[2], (17, 21), (0, 1))
    return {
        "blank": noise,
        "blank zero": np.zeros((150, 150)),
        "not_finite blank": np.full((150, 150), np.nan),
        "not_finite": holes,
        "poor": two,
        "edge": np.roll(images[3], 35, 1),
        "no_ring": noise + 3000 * np.exp(-0.5 * (x**2 + y**2) / 2**2),
        "no_ring offset": noise + 300 * np.exp(-0.5 * ((x - 20) ** 2 + y**2) / 3**2),
        "poor spiral": noise + 900 * spiral(x, y),
        "huge": images[4] * 1e30,
    }


def test_bad_images_are_flagged(smooth):
    images, _, fits = smooth
    bad = bad_images(images)
    mixed = np.concatenate([np.array(list(bad.values()), np.float32), images[:4]])
    found = fit(mixed, KNOWN, pixel_scale=SCALE)
    for name, flags in zip(bad, found.flags, strict=False):
        assert set(flags.split()) <= set(FLAGS)
        for word in set(name.split()) & set(FLAGS):
            assert word in flags.split(), (name, flags)
    for i, name in enumerate(bad):
        if "blank" in name:
            assert np.isnan(found.values[i]).all() and not found.converged[i]
            assert (found.residual[i] == 0).all() and not found.lensed[i].any()
    assert np.isfinite(found.residual).all()
    # what else is in the batch makes no difference
    np.testing.assert_allclose(found.values[-4:, :5], fits.values[:4, :5], atol=2e-3)
    assert found.flags[-4:] == fits.flags[:4]
    table = features(found)
    assert table.loc[0].isna().all() and table.loc[3].notna().all()


def test_a_hole_in_the_image_is_left_out(smooth):
    images, _, fits = smooth
    holes = images[:4].copy()
    holes[:, 70:80, 100:110] = np.nan
    found = fit(holes, KNOWN, pixel_scale=SCALE)
    assert (found.residual[:, 43:53, 73:83] == 0).all()
    assert all(flags.startswith("not_finite") for flags in found.flags)
    assert (np.abs(found.values - fits.values[:4]) < 4 * found.errors).all()
    assert (np.abs(found.chi2 - 1) < 0.1).all()


def test_no_steps_are_no_error(smooth, monkeypatch):
    monkeypatch.setattr(sys.modules["vitdm.lens.fit"], "MAX_STEPS", 0)
    found = fit(smooth[0][:3], KNOWN, pixel_scale=SCALE)
    assert not found.converged.any()
    assert all("not_converged" in flags for flags in found.flags)


@pytest.mark.parametrize("shape", [(60, 60), (61, 150), (97, 97)])
def test_images_of_any_size(smooth, shape):
    """Smaller than the square or not, even or odd: what there is not is not fitted."""
    height, width = shape
    rows, columns = (150 - height) // 2, (150 - width) // 2
    images = smooth[0][:2, rows : rows + height, columns : columns + width]
    found = fit(images, KNOWN, pixel_scale=SCALE)
    assert found.residual.shape == (2, 96, 96) and np.isfinite(found.residual).all()
    missing = min(height, 96) * min(width, 96) - np.count_nonzero(found.residual[0])
    assert 0 <= missing < 20  # the singular centre of the mass


@pytest.mark.parametrize(
    "images, scale, message",
    [
        (np.zeros((9, 9)), 0.05, r"found \(9, 9\); expected \(n, H, W\)"),
        (np.zeros((0, 9, 9)), 0.05, "images: found none; expected at least one"),
        (np.array([[["a"]]]), 0.05, "expected real numbers"),
        (np.zeros((1, 96, 96)), 0.0, "pixel_scale: found 0.0"),
        (np.zeros((1, 96, 96)), math.nan, "pixel_scale: found nan"),
    ],
)
def test_what_is_no_stack_of_images(images, scale, message):
    with pytest.raises(InputError, match=message):
        fit(images, KNOWN, pixel_scale=scale)


# ----------------------------------------------------------------------------------------- features


def made(residual, lensed):
    n, names = len(residual), tuple(row.name for row in parameters())
    nothing = np.full((n, len(names)), math.nan)
    nothing[:, -2:] = 0  # the centre, from which places are measured
    return Fits(
        names=names,
        values=nothing,
        errors=nothing,
        chi2=np.ones(n),
        converged=np.ones(n, bool),
        flags=[""] * n,
        perturbers=np.full((n, len(matched.NAMES)), math.nan),
        maps=np.empty((n, 0, 48, 48)),
        residual=residual.astype(np.float32),
        lensed=lensed,
        cameras=[Camera(96, 0.1)] * n,
        gain=np.ones(n),
        unknown=[""] * n,
    )


def ring(n=1):
    y, x = np.indices((96, 96)) - 47.5
    return np.repeat((np.abs(np.hypot(x, y) - 25) < 6)[None], n, 0), np.arctan2(y, x)


def test_statistics_are_measured_from_the_centre_of_the_lens():
    """A residual that moves with its lens has the same peak and the same azimuthal power."""
    residual = np.random.default_rng(2).standard_normal((1, 96, 96))
    here = made(residual, ring()[0])
    there = made(*(np.roll(part, (-2, 3), (1, 2)) for part in (residual, ring()[0])))
    there.values[:, -2:] = 0.3, -0.2  # 0.1 arcsec a pixel
    for name, value in features(here).loc[0].dropna().items():
        if name.startswith(("fit_azimuth", "fit_peak")):
            assert features(there).loc[0, name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_white_noise_leaves_what_the_definitions_say():
    rng = np.random.default_rng(1)
    table = features(made(rng.standard_normal((300, 96, 96)), ring(300)[0])).mean()
    assert table["fit_fourth_power"] == pytest.approx(3, rel=0.03)
    assert table["fit_third_power"] == pytest.approx(0, abs=0.03)
    assert table["fit_chi2_arcs"] == pytest.approx(1, rel=0.02)
    for name in LENSFIT:
        if name.startswith(("fit_power", "fit_azimuth")):
            assert table[name] == pytest.approx(1, rel=0.1), name


def test_features_of_a_single_bright_pixel():
    residual = np.zeros((1, 96, 96))
    residual[0, 40, 72] = -9.0  # 3 in each of nine pixels
    lensed = ring()[0]
    assert lensed[0, 39:42, 71:74].all()
    row = features(made(residual, lensed)).loc[0]
    n = lensed.sum()
    assert row["fit_peak"] == pytest.approx(3) and row["fit_peak_signed"] == pytest.approx(-3)
    assert row["fit_fourth_power"] == pytest.approx(9 * 81 / n, rel=1e-4)
    assert row["fit_third_power"] == pytest.approx(-9 * 27 / n, rel=1e-4)
    assert row["fit_chi2_arcs"] == pytest.approx(81 / n, rel=1e-4)
    assert abs(row["fit_peak_x"] - 2.45) < 0.11 and abs(row["fit_peak_y"] + 0.75) < 0.11


@pytest.mark.parametrize("order, name", [(2, "1_2"), (3, "3_4"), (7, "5_8"), (12, "9_16")])
def test_azimuthal_orders(order, name):
    lensed, phi = ring()
    row = features(made(np.cos(order * phi)[None] * lensed, lensed)).loc[0]
    powers = {n: row[f"fit_azimuth_{n}"] for n in ("1_2", "3_4", "5_8", "9_16")}
    assert powers.pop(name) > 20 * max(powers.values())
    # the square of the cosine has twice the order, but for the mean
    twice = {1: "1_2", 2: "3_4", 3: "5_8", 7: "9_16"}.get(order)
    if twice:
        powers = {n: row[f"fit_azimuth_abs_{n}"] for n in ("1_2", "3_4", "5_8", "9_16")}
        assert powers.pop(twice) > 20 * max(powers.values())


def test_scales():
    y, x = np.indices((96, 96)) - 47.5
    lensed = ring()[0]
    best = []
    for sigma in (0.8, 1.6, 3.2):
        waves = np.sin(x / sigma)[None]
        row = features(made(waves, lensed)).loc[0]
        best.append(max((1, 2, 4), key=lambda s: row[f"fit_power_{s}px"]))
    assert best == sorted(best) and best[0] < best[-1]


def test_features_are_defined():
    table = definitions.table(config.Features(groups=["morphology", "lensfit"]))
    table = table[table["group"] == "lensfit"]
    assert list(table["name"]) == list(LENSFIT) == list(residuals.COLUMNS)
    assert table["name"].is_unique and table["name"].str.startswith("fit_").all()
    assert (table[["definition", "reference", "expects"]] != "").all(axis=None)


# ------------------------------------------------------------------------------------- command line


@pytest.fixture
def files(lenses, tmp_path):
    """The tiny lenses, and settings of small batches for them."""
    settings = {"lensfit": {"size": 48, "psf_fwhm": 0.17, "gain": 2.0, "batch": 9}}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return lenses, path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def run_study(*arguments):
    return studies_main([str(argument) for argument in arguments])


def test_shards_are_the_whole(files, tmp_path, capsys):
    folder, settings = files
    command = ("fit", folder, "--config", settings, "--out")
    assert run(*command, tmp_path / "whole") == 0
    shards = [tmp_path / f"shard{k}" for k in range(8)]  # more than batches: some are empty
    for k, shard in enumerate(shards):
        assert run(*command, shard, "--shard", f"{k}/8") == 0
    assert run_study("merge-fits", *shards[::-1], "--out", tmp_path / "merged") == 0
    for name in ("fits.csv", "residuals.npy"):
        one, other = ((tmp_path / f / name).read_bytes() for f in ("whole", "merged"))
        assert one == other
    table = pd.read_csv(tmp_path / "merged" / "fits.csv", dtype={"id": str})
    catalog = dataset.Dataset.open(folder).catalog
    assert table["id"].tolist() == catalog["id"].tolist()
    assert set(LENSFIT) <= set(table) and "fit_theta_E_error" in table
    residuals = np.load(tmp_path / "merged" / "residuals.npy")
    assert residuals.shape == (len(catalog), 48, 48) and residuals.dtype == np.float32
    told = json.loads((tmp_path / "whole" / "provenance.json").read_text())
    assert told["rule"] == "lensfit" and told["n"] == len(catalog)
    assert told["camera"]["lensfit"]["gain"] == 2.0

    assert run_study("merge-fits", shards[0], *shards[2:], "--out", tmp_path / "less") == 2
    assert "found rows from 9 on; expected row 0 next" in capsys.readouterr().err
    assert run_study("merge-fits", *shards[:-1], "--out", tmp_path / "less") == 2
    assert "rows in all shards; expected 48" in capsys.readouterr().err
    assert run_study("merge-fits", *shards, shards[1], "--out", tmp_path / "less") == 2
    with pytest.raises(SystemExit):
        run(*command, tmp_path / "less", "--shard", "8/8")
    assert not (tmp_path / "less").exists()
    assert run(*command, folder) == 2  # would replace the images
    assert "is read, and would be replaced; expected another place" in capsys.readouterr().err


def test_a_pixel_scale_is_needed(files, tmp_path, capsys):
    import shutil

    folder, settings = files
    shutil.copytree(folder, tmp_path / "images")
    told = json.loads((tmp_path / "images" / "dataset.json").read_text())
    del told["pixel_scale"]
    (tmp_path / "images" / "dataset.json").write_text(json.dumps(told))
    assert run("fit", tmp_path / "images", "--config", settings, "--out", tmp_path / "o") == 2
    assert "found no pixel_scale; expected arcsec per pixel" in capsys.readouterr().err


def test_shards_of_different_fits_are_not_joined(files, tmp_path, capsys):
    folder, settings = files
    command = ("fit", folder, "--config", settings, "--out")
    assert run(*command, tmp_path / "a", "--shard", "0/8") == 0
    assert run(*command, tmp_path / "b", "--shard", "1/8") == 0
    told = json.loads((tmp_path / "b" / "provenance.json").read_text())
    (tmp_path / "b" / "provenance.json").write_text(json.dumps(told | {"camera": {}}))
    assert run_study("merge-fits", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c") == 2
    assert "camera differs from that of" in capsys.readouterr().err
    (tmp_path / "b" / "provenance.json").unlink()
    assert run_study("merge-fits", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c") == 2
    assert "provenance.json missing" in capsys.readouterr().err
