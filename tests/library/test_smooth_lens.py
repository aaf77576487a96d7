"""The smooth lens against lenstronomy, caustics, analytic lenses and finite differences."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import with_lenstronomy
from scipy import signal

from studies.ideal_observer import true_values
from vitdm import simulation
from vitdm.lens.model import ROUND, Camera, SmoothLens
from vitdm.lens.parameters import CENTER, LENS_LIGHT, SECOND_LIGHT, parameters
from vitdm.simulation import load_population, population_of

ROOT = Path(__file__).parents[2]
MARGINAL = load_population("marginal")
LIGHT = {"amp": 8.0, "R_sersic": 0.6, "n_sersic": 3.0, "e1": 0.1, "e2": -0.05}


def of(num_pix, fwhm, truncation=3.0):
    """The population of 7.2 arcsec squares of some pixels, and the camera that sees them."""
    scale = 7.2 / num_pix
    instrument = {"pixel_scale": scale, "psf_fwhm": fwhm, "psf_truncation": truncation}
    content = MARGINAL.model_dump() | {"num_pix": num_pix}
    content["instrument"] |= instrument
    population = population_of(content)
    return population, Camera.of(num_pix, scale, fwhm, truncation)


def drawn(indices, population, light=None):
    """Smooth lenses, and their parameters (n, p)."""
    systems = [simulation.smooth(simulation.draw(i, "no_sub", 1, population)) for i in indices]
    rows = []
    for k, system in enumerate(systems):
        row = [*true_values(system)]
        if light:
            light = light | {"center_x": 0.03, "center_y": -0.02}
            object.__setattr__(system, "lens_light", light)
            logs = [math.log(light[name]) for name in ("R_sersic", "n_sersic", "amp")]
            # lenstronomy's halo stays in the middle
            row += [0.03, -0.02, light["e1"], light["e2"], *logs]
        rows.append(row)
        systems[k] = system
    return systems, torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("fwhm", [1e-6, 0.2], ids=["sharp", "psf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
def test_images_are_those_of_lenstronomy(fwhm, dtype):
    population, camera = of(72, fwhm)
    systems, values = drawn(range(50), population)
    images = SmoothLens(camera, dtype=dtype).image(values).numpy()
    for system, image in zip(systems, images, strict=True):
        expected = with_lenstronomy(system, population)
        # at the edge, lenstronomy has to guess what light comes from beyond it
        np.testing.assert_allclose(
            image[3:-3, 3:-3], expected[3:-3, 3:-3], atol=1e-3 * expected.max(), rtol=0
        )


def test_light_of_the_lens_galaxy():
    population, camera = of(72, 0.2)
    systems, values = drawn(range(4), population, LIGHT)
    model = SmoothLens(camera, lens_light=True, dtype=torch.float64)
    values[:, model.names.index("sky")] = 0.3
    without = values[:, : len(parameters())]
    moved = model.image(values) - model.arcs(values)
    for system, light in zip(systems, moved, strict=True):
        bare = replace(system, source=system.source | {"amp": 0.0})
        expected = with_lenstronomy(bare, population) + 0.3 * camera.pixel_scale**2
        inner = np.s_[3:-3, 3:-3]
        np.testing.assert_allclose(light[inner], expected[inner], atol=1e-5 * expected.max())
    still = values.clone()
    still[:, model.columns(CENTER)] = 0
    sky = 0.3 * camera.pixel_scale**2
    plain = SmoothLens(camera, dtype=torch.float64).image(without) - sky
    np.testing.assert_allclose(model.arcs(still), plain, atol=1e-9)


def test_two_profiles_of_light_are_the_sum_of_lenstronomys():
    population, camera = of(72, 0.2)
    halo = {"amp": 3.0, "R_sersic": 1.4, "n_sersic": 1.0, "e1": -0.1, "e2": 0.2}
    systems, values = drawn(range(3), population, LIGHT)
    logs = [math.log(halo[name]) for name in ("R_sersic", "n_sersic", "amp")]
    second = torch.tensor([halo["e1"], halo["e2"], *logs], dtype=torch.float64)
    model = SmoothLens(camera, lens_light=2, dtype=torch.float64)
    assert model.parameters[-10:] == (*LENS_LIGHT, *SECOND_LIGHT)
    values = torch.cat([values, second.expand(len(values), -1)], 1)
    for system, found in zip(systems, model.image(values) - model.arcs(values), strict=True):
        bare = replace(system, source=system.source | {"amp": 0.0})
        centre = {"center_x": 0.03, "center_y": -0.02}
        wide = replace(bare, lens_light=halo | centre)
        expected = sum(with_lenstronomy(part, population) for part in (bare, wide))
        inner = np.s_[3:-3, 3:-3]
        np.testing.assert_allclose(found[inner], expected[inner], atol=1e-5 * expected.max())


def test_the_centre_moves_the_lens_with_its_light():
    """A lens at another place, all of whose parts are seen from it, is the same image there."""
    camera = Camera(72, 0.1)
    model = SmoothLens(camera, lens_light=True, dtype=torch.float64)
    _, values = drawn([3], of(72, 0.2)[0], LIGHT)
    column = {name: k for k, name in enumerate(model.names)}
    assert values[:, [column["gamma1"], column["gamma2"]]].abs().min() > 0
    moved = values.clone()
    for name, step in (("x", 0.3), ("y", -0.2)):
        moved[:, column[f"center_{name}"]] += step
    here, there = (model.image(v)[0].numpy() for v in (values, moved))
    np.testing.assert_allclose(there[:-2, 3:], here[2:, :-3], atol=1e-9 * here.max())


@pytest.mark.parametrize(("core", "lights"), [(1e-4, 1), (0.03, 1), (0.03, 2)])
def test_derivatives_are_those_of_finite_differences(core, lights):
    population, camera = of(48, 0.3)
    model = SmoothLens(camera, lens_light=lights, core=core, dtype=torch.float64)
    _, values = drawn(range(6), population, LIGHT)
    if lights == 2:
        second = torch.tensor([-0.1, 0.2, math.log(1.4), 0.0, math.log(3.0)], dtype=torch.float64)
        values = torch.cat([values, second.expand(len(values), -1)], 1)
    image, derivatives = model.derivatives(values)
    np.testing.assert_array_equal(image, model.image(values))
    assert derivatives.shape == (6, len(model.names), 48, 48)
    for k, name in enumerate(model.names):
        step = torch.zeros(len(model.names), dtype=torch.float64)
        step[k] = 1e-6
        expected = (model.image(values + step) - model.image(values - step)) / 2e-6
        scale = expected.abs().amax((1, 2), keepdim=True)
        worst = ((derivatives[:, k] - expected) / scale).abs().max().item()
        assert worst < 1e-5, name


def test_single_precision_is_enough():
    population, camera = of(96, 0.1)
    _, values = drawn(range(8), population)
    values[0, 1:3] = 0  # an axis ratio of 1, where the formula has no direction
    single = SmoothLens(camera).derivatives(values)
    values[0, 1] = ROUND[torch.float32]  # the lens that single precision takes it for
    exact = SmoothLens(camera, dtype=torch.float64).derivatives(values)
    for a, b in zip(exact, single, strict=True):
        scale = a.abs().amax((-1, -2), keepdim=True)
        assert ((a - b) / scale).abs().max() < 3e-3
        assert torch.isfinite(b).all()


def test_a_round_lens_makes_a_ring_of_its_radius():
    camera = Camera(101, 0.05)  # a pixel in the very middle
    model = SmoothLens(camera, dtype=torch.float64)
    values = torch.zeros(1, len(model.names), dtype=torch.float64)
    values[0, 0], values[0, 9] = 1.2, math.log(0.05)
    image = model.image(values)[0]
    assert torch.isfinite(image).all()
    row = image[50]
    assert {row[:50].argmax().item(), 51 + row[51:].argmax().item()} == {50 - 24, 50 + 24}


def test_caustics_agrees():
    lens = pytest.importorskip("caustics.lenses.func")
    light = pytest.importorskip("caustics.light.func")
    population, camera = of(48, 0.2)
    camera = Camera(camera.size, camera.pixel_scale)
    _, values = drawn(range(5), population)
    axis = (torch.arange(48, dtype=torch.float64) - 23.5) * camera.pixel_scale
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    images = SmoothLens(camera, dtype=torch.float64).image(values)
    zero = torch.zeros((), dtype=torch.float64)
    for row, image in zip(values, images, strict=True):
        theta_E, e1, e2, gamma1, gamma2, sx, sy, se1, se2, log_R, log_n, log_amp = row[:12]
        q, phi = axis_ratio(e1, e2)
        a = lens.reduced_deflection_angle_sie(zero, zero, q, phi, theta_E, x, y)
        b = lens.reduced_deflection_angle_external_shear(zero, zero, gamma1, gamma2, x, y)
        q, phi = axis_ratio(se1, se2)
        n = torch.exp(log_n)
        k = light.k_lenstronomy(n)
        at = (x - a[0] - b[0], y - a[1] - b[1])
        amp = torch.exp(log_amp)
        R = torch.exp(log_R) / torch.sqrt(q)  # along the major axis
        found = light.brightness_sersic(sx, sy, q, phi, n, R, amp, *at, k)
        expected = found * camera.pixel_scale**2
        np.testing.assert_allclose(image, expected, atol=1e-3 * float(expected.max()), rtol=0)


def axis_ratio(e1, e2):
    modulus = torch.hypot(e1, e2)
    return (1 - modulus) / (1 + modulus), torch.atan2(e2, e1) / 2


def test_the_psf_keeps_the_light_and_has_its_width():
    camera = Camera.of(41, 0.05, 0.2, 5.0)
    assert math.fsum(camera.weights) == pytest.approx(1)
    steps = np.arange(-camera.psf_radius, camera.psf_radius + 1)
    variance = np.sum(np.array(camera.weights) * steps**2)
    fwhm = math.sqrt(8 * math.log(2) * variance) * camera.pixel_scale
    assert fwhm == pytest.approx(0.2, rel=0.02)
    assert Camera(41, 0.05).weights == [1.0]


def test_binned_pixels_see_nearly_the_mean():
    population, camera = of(96, 0.1)
    _, values = drawn(range(10), population)
    values[:, 10] = math.log(0.8)  # cusps are not seen alike
    fine = SmoothLens(camera, dtype=torch.float64).image(values)
    mean = torch.nn.functional.avg_pool2d(fine[:, None], 2)[:, 0]
    errors = []
    for coarse in (camera.binned(2), Camera.of(48, 0.15, 0.1, 3.0)):
        seen = SmoothLens(coarse, dtype=torch.float64).image(values) / 4
        errors.append((seen - mean).abs().amax((1, 2)) / mean.amax((1, 2)))
    assert errors[0].max() < 0.2 and (errors[0] < 0.8 * errors[1]).all()
    assert camera.binned(1) is camera


@pytest.mark.parametrize("shape", [(7, 7), (6, 6), (5, 8)])
def test_a_kernel_is_convolved_as_scipy_does(shape):
    """Odd sides: at the centres of the pixels; even ones: of an image of their corners."""
    kernel = np.random.default_rng(0).uniform(size=shape)
    kernel /= kernel.sum()
    _, values = drawn([3], of(48, 0.2)[0])
    sharp = Camera(48 + 20, 0.15)
    camera = Camera.with_kernel(48, 0.15, kernel)
    even = tuple(0.5 * (side % 2 == 0) for side in shape[::-1])
    sharp = replace(sharp, offset=even)  # half a pixel beside
    expected = signal.convolve(
        SmoothLens(sharp, dtype=torch.float64).image(values)[0].numpy(), kernel, mode="same"
    )
    found = SmoothLens(camera, dtype=torch.float64).image(values)[0].numpy()
    np.testing.assert_allclose(found, expected[10:58, 10:58], atol=1e-9 * expected.max())


def test_a_gaussian_kernel_is_the_gaussian():
    population, camera = of(72, 0.3)
    weights = np.array(camera.weights)
    _, values = drawn(range(3), population)
    kernel = Camera.with_kernel(72, camera.pixel_scale, np.outer(weights, weights))
    one, other = (SmoothLens(c, dtype=torch.float64).derivatives(values) for c in (camera, kernel))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9 * float(a.abs().max()))
    assert kernel.psf_sigma == pytest.approx(camera.psf_sigma, rel=0.05)
