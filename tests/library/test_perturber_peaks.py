"""Peaks fitted without linearisation: derivatives, an injected clump, no clump, a spot of light."""

import math
from functools import cache

import numpy as np
import pytest
from scipy.signal import fftconvolve

from vitdm import Observation
from vitdm.config import FreeForm, Perturbers
from vitdm.lens import fit, search
from vitdm.lens.free_form import mass
from vitdm.lens.free_form.start import MassPrior
from vitdm.lens.perturbers.models import WithMultipole, WithPerturber
from vitdm.lens.perturbers.peaks import COLUMNS, first_fit, refit
from vitdm.lens.perturbers.profiles import Profile, profiles_of, solar_masses
from vitdm.threads import one_thread

SCALE, SIDE, PARTS = 0.08, 44, 4
TRUTH = np.array([1.0, 0.08, -0.05, 0.01, 0.0, 0.03, -0.02, 2.05, *[0.0] * 6])
CLUMP = 0.85, 0.6, 0.012  # x, y ["] and mass [arcsec^2]
FAST = FreeForm(
    lens_light=False,
    neighbours=False,
    cosmic_rays=False,
    splines=14,
    most_splines=14,
    supersampling=2,
    theta_E=(0.9, 1.1),
    light_left=False,
)
SETTINGS = Perturbers(profiles=("isothermal",), z_lens=0.3, z_source=1.0, peaks=3, twins=50)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@cache
def observed(kind):
    """A smooth lens, one with a clump, or one with a spot of light, by none of the code tested."""
    n, pad = SIDE * PARTS, 4
    axis = (np.arange(n) - (n - 1) / 2) * SCALE / PARTS
    x, y = (grid.ravel() for grid in np.meshgrid(axis, axis))
    alpha = mass.deflection(TRUTH, x, y)
    if kind == "clump":
        way = np.array([x - CLUMP[0], y - CLUMP[1]])
        r = np.hypot(*way)
        a = SETTINGS.truncation
        alpha += CLUMP[2] * (1 + r / a - np.sqrt(1 + (r / a) ** 2)) / r**2 * way
    u, v = x - alpha[0], y - alpha[1]
    light = 80.0 * np.exp(-((u - 0.06) ** 2 + (v - 0.05) ** 2) / (2 * 0.08**2))
    light += 30.0 * np.exp(-((u + 0.1) ** 2 + (v - 0.1) ** 2) / (2 * 0.05**2))
    if kind == "light":
        light += 40.0 * np.exp(-((x - CLUMP[0]) ** 2 + (y - CLUMP[1]) ** 2) / (2 * 0.08**2))
    pixels = light.reshape(SIDE, PARTS, SIDE, PARTS).mean((1, 3)) * SCALE**2
    row = np.exp(-0.5 * (np.arange(-pad, pad + 1) / 0.7) ** 2)
    psf = np.outer(row, row) / row.sum() ** 2
    image = fftconvolve(pixels, psf, mode="same")
    noise = np.sqrt(0.005**2 + 2e-4 * np.clip(image, 0, None))
    image = image + noise * np.random.default_rng(3).standard_normal(image.shape)
    return Observation(image, noise, psf, pixel_scale=SCALE, name=kind)


@cache
def searched(kind):
    return search(fit(observed(kind), FAST), SETTINGS)


MODELS = {
    "isothermal": WithPerturber(Profile("isothermal", 0.2), (0.8, 0.5)),
    "cut": WithPerturber(Profile("isothermal", 0.3), (0.8, 0.5), cut_free=True),
    "nfw": WithPerturber(profiles_of("nfw_30", SETTINGS)[0], (0.8, 0.5)),
    "multipole": WithMultipole(),
}
EXTRA = {
    "isothermal": [0.8, 0.5, -4.0],
    "cut": [0.8, 0.5, -4.0, math.log(0.25)],
    "nfw": [0.8, 0.5, -4.0],
    "multipole": [0.013, -0.008],
}


@pytest.mark.parametrize("name", MODELS)
def test_derivatives_of_the_deflection(name):
    model, values = MODELS[name], np.append(TRUTH, EXTRA[name])
    assert len(model.names) == len(model.largest_step) == len(values)
    x, y = np.random.default_rng(0).uniform(-1.5, 1.5, (2, 300))
    alpha, by = model.deflection_and_derivatives(values, x, y)
    np.testing.assert_allclose(alpha, model.deflection(values, x, y), rtol=1e-13)
    for k, step in enumerate(1e-5 * np.eye(len(values))):
        found = model.deflection(values + step, x, y) - model.deflection(values - step, x, y)
        np.testing.assert_allclose(by[k], found / 2e-5, atol=2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_deflection_is_that_of_the_profile(name):
    model, values = MODELS[name], np.append(TRUTH, EXTRA[name])
    x, y = np.random.default_rng(0).uniform(-1.5, 1.5, (2, 300))
    more = model.deflection(values, x, y) - mass.deflection(TRUTH, x, y)
    if name == "multipole":
        from lenstronomy.LensModel.lens_model import LensModel

        amplitude, m = complex(*EXTRA[name]), 5
        phase = {"a_m": abs(amplitude) * TRUTH[0], "phi_m": np.angle(amplitude) / m, "m": m}
        phase |= {"center_x": TRUTH[3], "center_y": TRUTH[4]}
        expected = np.array(LensModel(["MULTIPOLE"]).alpha(x, y, [phase]))
    else:
        profile = model.profile_of(values)
        expected = math.exp(-4.0) * profile.deflection(x - 0.8, y - 0.5)
    np.testing.assert_allclose(more, expected, atol=2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_gradient_of_the_probability(name):
    smooth = searched("clump").model.problem
    model = MODELS[name]
    mean = np.append(smooth.values, EXTRA[name])
    prior = MassPrior(mean, np.append(smooth.prior.sd, np.full(len(EXTRA[name]), 0.5)))
    problem = smooth.of_mass(model, prior, mean)
    posterior, point = problem.posterior, problem.point
    gradient, curvature = posterior.derivatives(point)
    assert np.linalg.eigvalsh(curvature).min() > 0
    for k in range(14, len(mean)):
        step = np.zeros(len(mean))
        step[k] = 1e-5
        ends = (
            posterior.at(mean + s * step, point.solution.inversion.mesh, problem.source_prior)
            for s in (1, -1)
        )
        up, down = (end.log_probability for end in ends)
        assert gradient[k] == pytest.approx((up - down) / 2e-5, rel=2e-3, abs=0.05)


def test_a_clump_is_found():
    """The highest peak, refitted, lies at the clump, and gains more than a multipole."""
    found = searched("clump")
    assert found.peaks.columns[5:].tolist() == list(COLUMNS)
    peak = found.peaks.iloc[0]
    assert math.hypot(peak["fit_x"] - CLUMP[0], peak["fit_y"] - CLUMP[1]) < 0.15
    assert peak["fit_x_error"] < 0.05 and peak["converged"]
    assert peak["delta_evidence"] > 20
    assert peak["delta_evidence"] > 10 + peak["delta_multipoles"]
    assert peak["delta_evidence"] > 10 + found.peaks["delta_evidence"][1:].max()
    assert peak["solar_mass"] == pytest.approx(peak["fit_mass"] * solar_masses(SETTINGS))
    assert 0.4 < peak["solar_mass_1kpc"] / peak["solar_mass"] < 1.0
    before, after = found.maps["isothermal"].snr, found.after.snr
    assert np.nanmax(after) < 0.8 * np.nanmax(before)
    assert len(found.perturbed.values) in (17, 18)


@cache
def refitted():
    """The smooth lens, and the clump refitted from a place of the grid beside it."""
    smooth, _ = searched("clump").model.problem.refitted()
    return smooth, refit(first_fit(smooth, (0.9, 0.5), 0.01, SETTINGS, area=5.0), SETTINGS, 5.0)


def test_a_clump_comes_back_from_a_place_beside_it():
    smooth, clump = refitted()
    values = *clump.problem.values[14:16], clump.mass
    for value, truth, error in zip(values, CLUMP, clump.errors(), strict=True):
        assert abs(value - truth) < 3 * error
    assert clump.mass > 4 * clump.errors()[2] and clump.profile.name == "isothermal"
    peaks = searched("clump").peaks
    gain = clump.evidence - smooth.log_evidence()
    assert gain > 30 and clump.converged
    assert gain > 10 + max(peaks["delta_multipoles"][0], peaks["delta_luminous"][0])


def test_a_smooth_lens_gains_nothing():
    found = searched("smooth")
    assert not (found.peaks["delta_evidence"] > 0).any()  # too faint to be fitted, or no gain
    smooth, _ = found.model.problem.refitted()
    first = first_fit(smooth, CLUMP[:2], CLUMP[2], SETTINGS, area=5.0)
    perturbed = refit(first, SETTINGS, area=5.0)
    assert perturbed.evidence - smooth.log_evidence() < 0
    assert perturbed.mass < 0.3 * CLUMP[2]


def test_light_is_told_from_mass():
    peaks = searched("light").peaks
    peak = peaks.loc[peaks["delta_luminous"].idxmax()]
    assert peak["delta_luminous"] > 20
    assert peak["delta_luminous"] > 10 + peak["delta_evidence"]
    assert math.hypot(peak["luminous_x"] - CLUMP[0], peak["luminous_y"] - CLUMP[1]) < 0.05
    assert peak["luminous_flux"] == pytest.approx(40 * 2 * math.pi * 0.08**2, rel=0.3)
