"""The population ``lenses`` against the images that it imitates."""

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

from studies import config as workflow
from vitdm.config.sections import checked
from vitdm.errors import InputError
from vitdm.simulation import draw, render
from vitdm.simulation.noise import eight_bit
from vitdm.simulation.population import EightBit, Light, load_population
from vitdm.simulation.priors import Shear

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("VITDM_REAL_DATA", ROOT.parent / "shared" / "data")) / "deeplense_binary"
LIGHT = {"amp": 1.0, "R_sersic": 0.5, "n_sersic": 1.0}

#: mean and standard deviation between 14 images of DeepLense's binary set
MEASURED = {
    "mean": (5.76, 1.94),
    "p75": (2.36, 0.50),
    "p95": (29.2, 16.5),
    "p99": (75.4, 25.4),
    "peak": (254.9, 0.53),
    "levels": (159.6, 16.8),
    "sky": (1.08, 0.24),
    "sky_rms": (0.19, 0.19),
    "noise": (0.587, 0.100),
    "blocks": (1.88, 0.37),
    "arc_to_core": (0.569, 0.114),
    "core_fwhm": (6.55, 0.28),
    "ring_radius": (28.9, 4.3),
    "ring_e1": (0.35, 0.42),
    "ring_e2": (-0.117, 0.26),
}


@pytest.fixture(scope="module")
def match():
    spec = importlib.util.spec_from_file_location("match", ROOT / "benchmarks/lenses_match.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def population():
    return load_population("lenses")


@pytest.fixture(scope="module")
def simulated(match):
    images, kinds = match.simulated_images(100)
    return images, kinds, match.statistics(images)


def test_images_have_the_statistics_of_the_real_ones(match, simulated):
    """Means agree within 3 standard errors of 14 images and 5 %, spreads within a factor 2.5."""
    table = simulated[2]
    assert set(table) == set(MEASURED) == set(match.STATISTICS)
    for name, (mean, sd) in MEASURED.items():
        allowed = 3 * sd / np.sqrt(14) + 0.05 * abs(mean)
        assert table[name].mean() == pytest.approx(mean, abs=allowed), name
        assert sd / 2.5 < table[name].std() < 2.5 * sd, name


def test_real_images_have_the_stored_statistics_and_those_of_the_simulation(match, simulated):
    if not REAL.is_dir():
        pytest.skip(f"real images are not here: {REAL}")
    images, _ = match.real_images(REAL)
    real = match.statistics(images)
    for name, (mean, sd) in MEASURED.items():
        assert real[name].mean() == pytest.approx(mean, rel=0.02), name
        assert real[name].std() == pytest.approx(sd, rel=0.05), name
    assert match.summary(real, simulated[2]).difference.abs().max() < 4


def test_substructure_widens_the_ring_from_20_to_21_and_a_half_pixels(population):
    """A ring of a point-like source: theta^2 = theta_E theta + f theta_E^2, f = 0.083."""
    radii = {"no_sub": [], "cdm": []}
    y, x = np.indices((150, 150)) - 74.5
    for index in range(8):
        for kind, found in radii.items():
            system = draw(index, kind, 0, population)
            source = system.source | {"center_x": 0.0, "center_y": 0.0, "R_sersic": 0.05}
            system = replace(system, source=source, lens_light=None, gamma1=0.0, gamma2=0.0)
            found.append(np.average(np.hypot(x, y), weights=render(system, population) ** 2))
    assert np.mean(radii["no_sub"]) == pytest.approx(20.0, abs=0.2)
    theta = (1 + np.sqrt(1 + 4 * 0.0825)) / 2
    ratio = np.mean(radii["cdm"]) / np.mean(radii["no_sub"])
    assert ratio == pytest.approx(theta, abs=0.01)


def test_axes_lie_along_the_rows_of_the_image(simulated):
    """Shear and lens light: within 6.3 degrees; the arcs also follow the place of the source."""
    _, _, table = simulated
    assert table.ring_e1.mean() > 0.15
    assert abs(table.ring_e2.mean()) < 0.1


def test_an_angle_turns_an_ellipse_and_a_shear():
    rng = np.random.default_rng(0)
    light = Light(**LIGHT, axis_ratio=0.5, angle=30)
    e1, e2 = light.draw_ellipticity(rng)
    assert np.hypot(e1, e2) == pytest.approx(1 / 3)
    assert np.rad2deg(np.arctan2(e2, e1) / 2) == pytest.approx(30)
    angles = [np.arctan2(*Shear(gamma=0.1).draw(rng)[::-1]) / 2 for _ in range(400)]
    assert np.ptp(np.rad2deg(angles)) > 170
    with pytest.raises(InputError, match="angle: expected none beside e1 and e2"):
        checked(Light, LIGHT | {"e1": 0.1, "e2": 0.0, "angle": 10}, "file")


def test_rectified_noise_leaves_a_sky_of_0_8_sigma():
    """The mean of |x| of a normal x is sqrt(2 / pi) sigma; 0 stays black, the peak white."""
    image = np.random.default_rng(0).normal(0, 5, (150, 150))
    image[75, 75] = 255
    grey = eight_bit(image, EightBit(rectified=True))
    assert grey.max() == 255
    assert np.mean(grey) == pytest.approx(5 * np.sqrt(2 / np.pi), rel=0.02)
    assert np.mean(eight_bit(image, EightBit(scaling=(0, 255)))) < 2.2


def test_configuration_is_valid_and_binary(population):
    settings = workflow.load(ROOT / "config/lenses.yaml")
    assert settings.task == "binary"
    assert load_population(settings.population) == population


def test_figure_shows_both_samples(match, simulated):
    images, kinds, table = simulated
    residuals = [match.residuals(image) for image in images]
    real, other = (
        match.lenses.Sample(name, images, kinds, table, residuals) for name in ("real", "simulated")
    )
    figure = match.lenses.lenses_match(real, other, pixel_scale=0.06)
    drawn = [axes for axes in figure.get_axes() if axes.images]
    assert len(drawn) == 16
    assert {axes.images[0].get_clim() for axes in drawn} == {(0, 255)}
    plt.close(figure)
