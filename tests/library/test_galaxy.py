"""The light of the lens galaxy and its neighbours, on images by lenstronomy and of real lenses."""

import time
from functools import cache

import numpy as np
import pytest
from astropy.io import fits
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from project import ROOT
from scipy.signal import fftconvolve

from vitdm import Observation
from vitdm.errors import InputError
from vitdm.lens.free_form import galaxy as module
from vitdm.lens.free_form.galaxy import fit_galaxy
from vitdm.lens.free_form.neighbours import find_neighbours, looks_like_arcs

SCALE = 0.05
REAL = ROOT / "data/real/slacs_hst"


def moffat(side=15, fwhm=2.0, beta=3.0):
    """A kernel with wings, elongated, off its middle by a tenth of a pixel."""
    y, x = np.indices((side, side)) - (side - 1) / 2
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    kernel = (1 + ((x - 0.1) ** 2 * 1.1 + y**2 + 0.1 * x * y) / alpha**2) ** -beta
    return kernel / kernel.sum()


def axes(shape, supersampling=1):
    sides = (
        (np.arange(n * supersampling) - (n * supersampling - 1) / 2) * SCALE / supersampling
        for n in shape[::-1]
    )
    return np.meshgrid(*sides)


def seen(shape, brightness, kernel, supersampling=5):
    """Pixels (H, W) of what shines with ``brightness(x, y)`` per pixel, through the PSF."""
    pad = max(kernel.shape)
    larger = tuple(n + 2 * pad for n in shape)
    light = brightness(*axes(larger, supersampling))
    height, width = larger
    light = light.reshape(height, supersampling, width, supersampling).mean((1, 3))
    return fftconvolve(light, kernel, mode="same")[pad:-pad, pad:-pad]


@cache
def simulated(shape=(121, 121), center=(0.0, 0.0), fwhm=None, disc=0.0):
    """A Sersic galaxy, and the ring of a source behind it, without noise."""
    kernel = moffat() if fwhm is None else gaussian(fwhm)
    light, lens = LightModel(["SERSIC_ELLIPSE"]), LensModel(["SIE", "SHEAR"])
    here = {"center_x": center[0], "center_y": center[1]}
    galaxy = dict(amp=1.5, R_sersic=0.9, n_sersic=4.0, e1=0.12, e2=-0.08, **here)
    mass = [dict(theta_E=1.1, e1=0.1, e2=-0.05, **here), dict(gamma1=0.03, gamma2=0.02)]
    source = dict(amp=0.6, R_sersic=0.15, n_sersic=1.0, e1=0.2, e2=0.1)
    source |= dict(center_x=center[0] + 0.08, center_y=center[1] - 0.05)

    def arcs(x, y):
        return light.surface_brightness(*lens.ray_shooting(x, y, mass), [source]).reshape(x.shape)

    return (
        seen(shape, lambda x, y: light.surface_brightness(x, y, [galaxy]), kernel),
        seen(shape, arcs, kernel),
        kernel,
    )


def gaussian(fwhm, side=15):
    y, x = np.indices((side, side)) - (side - 1) / 2
    kernel = np.exp(-4 * np.log(2) * (x**2 + y**2) / (fwhm / SCALE) ** 2)
    return kernel / kernel.sum()


def observed(image, kernel, seed=0, sigma=0.02, **known):
    """Observation and noise map of an image with photon noise."""
    noise = np.sqrt(sigma**2 + np.clip(image, 0, None) * 1e-3)
    data = image + noise * np.random.default_rng(seed).normal(size=image.shape)
    return Observation(data, psf=kernel, pixel_scale=SCALE, **known), noise


def distance(shape, center=(0.0, 0.0)):
    x, y = axes(shape)
    return np.hypot(x - center[0], y - center[1])


@pytest.mark.parametrize(
    "shape, center",
    [((121, 121), (0, 0)), ((120, 131), (0.03, -0.02)), ((121, 121), (0.3, -0.4))],
)
def test_galaxy_and_ring_are_told_apart(shape, center):
    truth, ring, kernel = simulated(shape, center)
    sky = 0.05
    observation, noise = observed(truth + ring + sky, kernel)
    galaxy = fit_galaxy(observation, noise)
    assert np.allclose(galaxy.center, center, atol=0.003)
    assert (galaxy.amplitudes >= 0).all()
    assert galaxy.chi2 == pytest.approx(1, abs=0.06)
    near = distance(shape, center) < 2
    assert np.abs(galaxy.image() - truth - sky)[near].sum() < 0.015 * truth[near].sum()
    # the flux of the arcs, in the pixels where they shine
    bright = ring > 0.1 * ring.max()
    measured = (np.array(observation.data) - galaxy.image())[bright].sum()
    assert measured == pytest.approx(ring[bright].sum(), rel=0.04)
    assert galaxy.arcs[ring > 0.2 * ring.max()].mean() > 0.97
    outside = distance(shape, center) > 2.2
    assert galaxy.arcs[outside].mean() < 0.01
    e1, e2 = galaxy.ellipticity
    assert e1 == pytest.approx(0.12, abs=0.02)
    assert e2 == pytest.approx(-0.08, abs=0.02)
    assert galaxy.axis_ratio == pytest.approx((1 - 0.1442) / (1 + 0.1442), abs=0.03)
    assert galaxy.position_angle == pytest.approx(np.degrees(np.arctan2(-0.08, 0.12)) / 2, abs=3)


def test_known_arcs_need_not_be_found():
    truth, ring, kernel = simulated()
    observation, noise = observed(truth + ring, kernel)
    exclude = ring > 0.003 * ring.max()
    galaxy = fit_galaxy(observation, noise, exclude)
    bright = ring > 0.1 * ring.max()
    measured = (np.array(observation.data) - galaxy.image())[bright].sum()
    assert measured == pytest.approx(ring[bright].sum(), rel=0.03)
    near = distance(truth.shape) < 0.9
    assert np.abs(galaxy.image() - truth)[near].sum() < 0.01 * truth[near].sum()
    assert not galaxy.arcs[exclude].any()


def test_without_arcs_the_flux_and_radius_are_those_of_the_galaxy():
    """Sersic n = 1: almost all of the light lies in the image."""
    kernel, profile = moffat(), LightModel(["SERSIC_ELLIPSE"])
    sersic = dict(amp=2, R_sersic=0.5, n_sersic=1, e1=0.3, e2=0.2, center_x=0, center_y=0)
    truth = seen((121, 121), lambda x, y: profile.surface_brightness(x, y, [sersic]), kernel)
    galaxy = fit_galaxy(*observed(truth, kernel))
    assert galaxy.flux == pytest.approx(truth.sum(), rel=0.02)
    assert galaxy.half_light_radius == pytest.approx(0.5, rel=0.02)
    assert galaxy.arcs.mean() < 0.02
    assert galaxy.image().shape == truth.shape
    part = galaxy.image((61, 41))
    assert np.allclose(part, galaxy.image()[30:91, 40:81], atol=1e-4 * truth.max())
    lit = galaxy.amplitudes > 0
    light = np.tensordot(galaxy.amplitudes[lit], galaxy.components(lit), 1)
    assert np.allclose(light + galaxy.sky, galaxy.image())


@pytest.mark.parametrize("psf", ["kernel", "even", "fwhm", "wide", None])
def test_components_are_gaussians_seen_through_the_psf(psf):
    """Against Gaussians by lenstronomy, supersampled and convolved."""
    fwhm, shape = 0.12, (75, 80)
    kernels = {
        "kernel": moffat(), "even": moffat(14), "wide": moffat(51, beta=1.8),
        "fwhm": gaussian(fwhm),
        None: gaussian(2 * SCALE),
    }  # fmt: skip
    kernel = kernels[psf]
    known = {"fwhm": fwhm, None: None}.get(psf, kernel)
    sigmas, family = module._widths(shape, 2)
    galaxy = module.Galaxy(
        center=(0.11, -0.23), ellipticities=np.array([[0.3, -0.1], [-0.05, 0.2]]),
        sigmas=sigmas * SCALE, family=family, amplitudes=np.ones(sigmas.size), sky=0.0, chi2=1.0,
        arcs=np.zeros(shape, bool), pixel_scale=SCALE,
        psf=module.kernel_of(Observation(np.ones(shape), psf=known, pixel_scale=SCALE)),
    )  # fmt: skip
    profile = LightModel(["GAUSSIAN_ELLIPSE"])
    for which in (0, 2, 4, 6, 10, 13):
        e1, e2 = galaxy.ellipticities[family[which]]
        one = dict(amp=SCALE**2, sigma=sigmas[which] * SCALE, e1=e1, e2=e2)
        one |= dict(center_x=0.11, center_y=-0.23)
        expected = blurred(
            shape, lambda x, y, one=one: profile.surface_brightness(x, y, [one]), kernel
        )
        found = galaxy.components(np.array([which]))[0]
        assert np.allclose(found, expected, atol=3e-3 * expected.max()), which


def blurred(shape, brightness, kernel):
    """As ``seen``; the middle of a kernel of even sides is a corner of pixels: half a pixel off."""
    if kernel.shape[0] % 2:
        return seen(shape, brightness, kernel, 10)
    half = SCALE / 2
    pad = kernel.shape[0]
    larger = tuple(n + 2 * pad for n in shape)
    x, y = axes(larger, 10)
    light = brightness(x + half, y + half).reshape(larger[0], 10, larger[1], 10).mean((1, 3))
    # convolution "full" puts the kernel's first pixel at 0: its middle is at (side - 1) / 2
    start = pad + (pad - 2) // 2
    full = fftconvolve(light, kernel)
    return full[start : start + shape[0], start : start + shape[1]]


def test_slopes_are_derivatives():
    """Against central differences."""
    shape, blur = (60, 61), module._Blur(moffat())
    sigmas, family = module._widths(shape, 3)
    start = np.array([31.3, 28.8, 0.3, -0.2, -0.1, 0.25, 0.6, 0.3])
    pixels = module._Pixels.every(shape, (31.0, 30.0), blur)
    amplitudes = np.random.default_rng(1).uniform(0, 1, sigmas.size) * sigmas
    slopes = module._Gaussians(start, sigmas, family).slopes(pixels, blur, amplitudes)
    for k in range(start.size):
        step = np.eye(start.size)[k] * 1e-4
        ahead, behind = (
            module._Gaussians(start + sign * step, sigmas, family).seen(pixels, blur) @ amplitudes
            for sign in (1, -1)
        )
        expected = (ahead - behind) / 2e-4
        assert np.allclose(slopes[:, k], expected, atol=1e-6 * np.abs(expected).max()), k


def test_masked_centre_and_scattered_pixels():
    truth, ring, kernel = simulated()
    mask = distance(truth.shape) < 0.12
    mask |= np.random.default_rng(2).random(truth.shape) < 0.1
    image = np.where(mask, 1e6, truth + ring)
    observation, noise = observed(image, kernel, mask=mask)
    galaxy = fit_galaxy(observation, noise)
    assert np.allclose(galaxy.center, 0, atol=0.01)
    assert galaxy.chi2 == pytest.approx(1, abs=0.06)
    usable = ~mask & (distance(truth.shape) < 1)
    assert np.abs(galaxy.image() - truth)[usable].sum() < 0.02 * truth[usable].sum()


def test_fwhm_and_one_number_for_the_noise():
    truth, ring, kernel = simulated(fwhm=0.12)
    noise = 0.03
    data = truth + ring + noise * np.random.default_rng(3).normal(size=truth.shape)
    observation = Observation(data, psf=0.12, pixel_scale=SCALE)
    galaxy = fit_galaxy(observation, noise)
    assert galaxy.chi2 == pytest.approx(1, abs=0.06)
    near = distance(truth.shape) < 1
    assert np.abs(galaxy.image() - truth)[near].sum() < 0.02 * truth[near].sum()


def test_thin_disc_belongs_to_the_galaxy():
    """A bulge, a halo, and a disc seen edge-on: three ellipticities."""
    kernel, profile = moffat(), LightModel(["SERSIC_ELLIPSE"] * 3)
    here = dict(center_x=0, center_y=0)
    parts = [
        dict(amp=6.0, R_sersic=0.25, n_sersic=2, e1=0.0, e2=0, **here),
        dict(amp=0.6, R_sersic=1.5, n_sersic=1, e1=0.4, e2=0, **here),
        dict(amp=1.0, R_sersic=1.2, n_sersic=1, e1=0.75, e2=0, **here),
    ]
    _, ring, _ = simulated()
    truth = seen((121, 121), lambda x, y: profile.surface_brightness(x, y, parts), kernel)
    galaxy = fit_galaxy(*observed(truth + ring, kernel))
    assert len(galaxy.ellipticities) == 3
    assert galaxy.axis_ratio < 0.6
    assert np.abs(galaxy.image() - truth).sum() < 0.03 * truth.sum()


def test_bright_companion_does_not_bias_the_galaxy():
    truth, ring, kernel = simulated()
    profile = LightModel(["SERSIC_ELLIPSE"])
    companion = dict(amp=3, R_sersic=0.3, n_sersic=1, e1=0.6, e2=0, center_x=1.9, center_y=1.5)
    extra = seen(truth.shape, lambda x, y: profile.surface_brightness(x, y, [companion]), kernel)
    galaxy = fit_galaxy(*observed(truth + ring + extra, kernel))
    near = distance(truth.shape) < 1.5
    assert np.abs(galaxy.image() - truth)[near].sum() < 0.02 * truth[near].sum()
    assert galaxy.arcs[extra > 0.1].mean() > 0.97


def test_same_fit_again():
    truth, ring, kernel = simulated()
    observation, noise = observed(truth + ring, kernel)
    first, second = fit_galaxy(observation, noise), fit_galaxy(observation, noise)
    assert np.array_equal(first.image(), second.image())


def test_errors_name_what_is_wrong():
    data = np.random.default_rng(0).normal(size=(20, 21))
    known = Observation(data, pixel_scale=SCALE, name="lens")
    with pytest.raises(InputError, match="lens: found no pixel_scale"):
        fit_galaxy(Observation(data, name="lens"), np.ones(data.shape))
    with pytest.raises(InputError, match=r"noise: found a map of shape \(3, 4\)"):
        fit_galaxy(known, np.ones((3, 4)))
    with pytest.raises(InputError, match="exclude: found a mask of shape"):
        fit_galaxy(known, 1.0, np.ones((3, 4), bool))
    with pytest.raises(InputError, match="found no pixel"):
        fit_galaxy(known, 1.0, np.ones(data.shape, bool))
    with pytest.raises(InputError, match=r"keep: found an array of shape \(2, 2\)"):
        find_neighbours(data, np.ones(data.shape), 0.1, SCALE, np.ones((2, 2), bool))


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 40), (10, 7)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_small_and_empty_images(shape, value):
    data = value * np.random.default_rng(0).normal(size=shape)
    galaxy = fit_galaxy(Observation(data, pixel_scale=SCALE), 1.0)
    assert np.isfinite(galaxy.image()).all()
    table, labels = find_neighbours(data, np.ones(shape), 0.1, SCALE)
    assert labels.shape == shape


def test_unit_of_the_image_does_not_matter():
    truth, ring, kernel = simulated()
    observation, noise = observed(truth + ring, kernel)
    expected = fit_galaxy(observation, noise)
    for unit in (1e-20, 1e20):
        scaled = Observation(observation.data * unit, psf=kernel, pixel_scale=SCALE)
        galaxy = fit_galaxy(scaled, noise * unit)
        assert galaxy.flux == pytest.approx(expected.flux * unit, rel=0.01)
        assert galaxy.chi2 == pytest.approx(expected.chi2, rel=0.01)


def test_blank_image_has_no_galaxy():
    """Noise alone: whatever is fitted, it is no brighter than the noise."""
    data = np.random.default_rng(0).normal(size=(40, 41))
    galaxy = fit_galaxy(Observation(data, pixel_scale=SCALE), 1.0)
    assert np.isfinite(galaxy.image()).all()
    assert np.median(np.abs(galaxy.image())) < 0.5


# ---- neighbours


def field(seed=0):
    """Noise with a neighbour, a star, two cosmic rays and an arc; the kernel."""
    shape, kernel = (121, 131), gaussian(0.1)
    profile = LightModel(["SERSIC_ELLIPSE", "GAUSSIAN"])
    parts = [
        dict(amp=1.0, R_sersic=0.2, n_sersic=1, e1=0.2, e2=0, center_x=1.5, center_y=-2),
        dict(amp=0.05, sigma=0.005, center_x=-2.4, center_y=-1.2),
    ]
    image = seen(shape, lambda x, y: profile.surface_brightness(x, y, parts), kernel, 9)
    x, y = axes(shape)
    ring = np.exp(-0.5 * ((np.hypot(x, y) - 1.1) / 0.08) ** 2)
    image += ring * (np.abs(np.arctan2(y, x) - 1.5) < 0.8)
    noise = np.full(shape, 0.03)
    data = image + noise * np.random.default_rng(seed).normal(size=shape)
    data[30, 20] += 1.0  # hot pixel
    data[range(90, 100), range(100, 110)] += 1.0  # track
    return data, noise


def test_neighbours_and_cosmic_rays_are_listed():
    data, noise = field()
    table, labels = find_neighbours(data, noise, 0.1, SCALE)
    assert list(table["label"]) == sorted(set(labels[labels > 0]))
    objects = table[(table["kind"] == "neighbour")]
    for x, y in ((1.5, -2.0), (-2.4, -1.2)):
        offset = np.hypot(objects["x"] - x, objects["y"] - y)
        assert offset.min() < 0.03
    galaxy = objects.iloc[np.argmin(np.hypot(objects["x"] - 1.5, objects["y"] + 2))]
    x, y = axes(data.shape)
    inside = np.hypot(x - 1.5, y + 2) < 0.7
    assert galaxy["flux"] == pytest.approx(data[inside].sum(), rel=0.15)
    assert 0.1 < galaxy["radius"] < 0.8
    rays = table[table["kind"] == "cosmic_ray"]
    assert len(rays) == 2
    middle = (np.array([20, 104.5]) - 65) * SCALE, (np.array([30, 94.5]) - 60) * SCALE
    for x, y in zip(*middle, strict=True):
        assert np.hypot(rays["x"] - x, rays["y"] - y).min() < 0.06
    arcs = looks_like_arcs(table, labels, SCALE)
    assert arcs.sum() == 1
    assert len(objects) <= 4


def test_what_is_kept_or_missing_is_not_listed():
    data, noise = field()
    table, labels = find_neighbours(data, noise, 0.1, SCALE)
    arc = labels == table["label"][looks_like_arcs(table, labels, SCALE)].iloc[0]
    without, _ = find_neighbours(data, noise, 0.1, SCALE, keep=arc)
    assert len(without) == len(table) - 1
    assert not looks_like_arcs(without, labels, SCALE).any()
    missing, _ = find_neighbours(np.where(labels > 0, np.nan, data), noise, 0.1, SCALE)
    assert missing["flux"].sum() < 0.1 * table["flux"].sum()


def test_noise_has_no_neighbours():
    data = np.random.default_rng(5).normal(size=(200, 201))
    table, labels = find_neighbours(data + 3, np.ones(data.shape), 0.1, SCALE)
    assert len(table) <= 1 and (labels > 0).mean() < 0.01
    assert not find_neighbours(np.full((9, 9), np.nan), np.ones((9, 9)), 0.1, SCALE)[1].any()


@pytest.mark.parametrize("fwhm", [1.6, 2.0, 3.0])
def test_stars_are_no_cosmic_rays(fwhm):
    rng, shape, kernel = np.random.default_rng(6), (200, 200), gaussian(fwhm * SCALE)
    image = np.zeros(shape)
    image[tuple(rng.integers(10, 190, (2, 40)))] = 10 ** rng.uniform(0, 3, 40)
    image = fftconvolve(image, kernel, mode="same")
    noise = np.sqrt(0.02**2 + image.clip(0) * 0.001)
    table, _ = find_neighbours(image + noise * rng.normal(size=shape), noise, fwhm * SCALE, SCALE)
    assert not (table["kind"] == "cosmic_ray").any()


@pytest.mark.skipif(not REAL.is_dir(), reason="no lenses in data/real/slacs_hst (docs/data.md)")
@pytest.mark.parametrize("name", ["J0946+1006", "J1430+4105", "J1627-0053"])
def test_rings_of_real_lenses_are_found(name):
    """Rings of 1.4, 1.5 and 1.2 arcsec: masked, with nothing left outside them."""
    image, noise, psf = (fits.getdata(REAL / name / f"{k}.fits") for k in ("image", "noise", "psf"))
    observation = Observation(image, noise=noise, psf=psf, pixel_scale=SCALE)
    started = time.process_time()
    galaxy = fit_galaxy(observation, np.array(noise, float))
    assert time.process_time() - started < 5
    assert 0.3 < galaxy.chi2 < 0.7  # drizzled noise
    radius = distance(image.shape, galaxy.center)
    assert galaxy.arcs[(radius > 1.0) & (radius < 1.5)].mean() > 0.5
    assert galaxy.arcs[radius < 0.4].mean() < 0.2
