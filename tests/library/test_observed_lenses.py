"""Fits of what people bring: lenses off the centre, of odd size, with PSF, noise map and mask."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage, signal

from vitdm import Observation, simulation
from vitdm.config import Features, LensFit, Preprocess
from vitdm.data.dataset import Dataset, write
from vitdm.errors import InputError
from vitdm.features import measure
from vitdm.lens import estimate_gain, features, fit, modelled
from vitdm.preprocess import process
from vitdm.simulation import load_population, population_of

MARGINAL = load_population("marginal")
SCALE, N = 0.05, 10
KNOWN = LensFit(gain=1.0)


def drawn(center=(0.0, 0.0), num_pix=150, n=N, kind="no_sub"):
    """Images of lenses about ``center`` [px], each with the same noise wherever its lens is."""
    population = population_of(MARGINAL.model_dump() | {"num_pix": num_pix})
    x, y = (SCALE * c for c in center)
    images, systems = [], []
    for i in range(n):
        system = replace(simulation.draw(i, kind, 11, population), center=(x, y))
        noise = np.random.default_rng(i)
        images.append(
            simulation.add_noise(simulation.render(system, population), system, noise, population)
        )
        systems.append(system)
    return np.array(images), systems


@pytest.fixture(scope="module")
def centred():
    images, systems = drawn()
    return images, systems, fit(images, KNOWN, pixel_scale=SCALE)


@pytest.mark.parametrize("center", [(0.5, 0), (-0.7, 0.3), (3.0, -2.0), (8.0, 6.0)])
def test_a_lens_off_the_centre_is_found_there(centred, center):
    """All but the centre is as it was, and what is left is noise."""
    images, systems = drawn(center)
    fits = fit(images, KNOWN, pixel_scale=SCALE)
    assert (fits.chi2 < 1.1).all()
    for axis, true in zip("xy", center, strict=True):
        k = fits.names.index(f"center_{axis}")
        pull = (fits.values[:, k] - SCALE * true) / fits.errors[:, k]
        assert np.abs(pull).max() < 4 and fits.errors[:, k].max() < 0.2 * SCALE
    for name in ("theta_E", "e1", "gamma2", "source_x", "source_y"):
        k = fits.names.index(name)
        pull = (fits.values[:, k] - centred[2].values[:, k]) / fits.errors[:, k]
        assert np.abs(pull).max() < 4, name
    strong = (features(fits)["fit_point_snr"] - features(centred[2])["fit_point_snr"]).abs()
    assert strong.max() < 2.5  # of noise both: the highest of some thousand places


@pytest.mark.parametrize("num_pix", [149, 101, 100, 97])
def test_images_of_odd_size(num_pix):
    images, systems = drawn(num_pix=num_pix)
    fits = fit(images, KNOWN, pixel_scale=SCALE)
    assert fits.converged.all() and (fits.chi2 < 1.1).all()
    assert np.abs(fits.column("center_x")).max() < 0.02  # from the middle of the image
    pull = (fits.column("theta_E") - [s.theta_E for s in systems]) / fits.errors[:, 0]
    assert np.abs(pull).max() < 4


def test_rectangular_images(centred):
    images, _, fits = centred
    found = fit(images[:4, 10:, 3:-12], KNOWN, pixel_scale=SCALE)  # the middle moves
    assert (found.chi2 < 1.1).all()
    k = fits.names.index("center_x")
    np.testing.assert_allclose(found.values[:, k] - fits.values[:4, k], 4.5 * SCALE, atol=0.01)
    np.testing.assert_allclose(
        found.values[:, k + 1] - fits.values[:4, k + 1], -5 * SCALE, atol=0.01
    )


def test_the_light_of_a_galaxy_holds_the_mass():
    """Both are found where they are; the prior ties them only as much as it says."""
    light = {"amp": 8.0, "R_sersic": 0.6, "n_sersic": 3.0, "e1": 0.1, "e2": -0.05}
    images, offset = [], (0.04, -0.03)
    for i in range(4):
        system = simulation.draw(i, "no_sub", 11, MARGINAL)
        system = replace(
            system,
            center=(0.15, 0.1),
            lens_light=light | {"center_x": offset[0], "center_y": offset[1]},
        )
        image = simulation.render(system, MARGINAL)
        images.append(simulation.add_noise(image, system, np.random.default_rng(i), MARGINAL))
    loose, tight = (
        fit(images, LensFit(gain=1.0, lens_light=True, light_offset=s), pixel_scale=SCALE)
        for s in (0.05, 0.002)
    )
    assert (loose.chi2 < 1.1).all()
    for name, true in zip(
        ("center_x", "center_y", "lens_light_x", "lens_light_y"), (0.15, 0.1, *offset), strict=True
    ):
        k = loose.names.index(name)
        assert np.abs((loose.values[:, k] - true) / loose.errors[:, k]).max() < 4, name
    assert np.abs(tight.column("lens_light_x")).max() < 0.02


def test_a_numpy_mask_is_left_out(centred):
    """A star over the arcs once moved theta_E from 1.05 to 2.40, for its mask was dropped."""
    images, _, fits = centred
    y, x = np.indices((150, 150))
    star = np.hypot(x - 95, y - 75) < 9
    bright = images[:4] + 5e5 * star
    masked = fit(
        np.ma.array(bright, mask=np.broadcast_to(star, bright.shape)), KNOWN, pixel_scale=SCALE
    )
    holes = fit(np.where(star, np.nan, images[:4]), KNOWN, pixel_scale=SCALE)
    observed = fit([Observation(b, mask=star) for b in bright], KNOWN, pixel_scale=SCALE)
    for found in (masked, holes, observed):
        assert (np.abs(found.column("theta_E") - fits.column("theta_E")[:4]) < 0.02).all()
        assert (found.chi2 < 1.1).all() and (found.residual[:, star[27:123, 27:123]] == 0).all()
    np.testing.assert_array_equal(masked.values, holes.values)


def test_a_border_of_zeros_is_no_sky(centred):
    images, _, fits = centred
    padded = np.pad(images[:3, 25:-25, 25:-25], ((0, 0), (25, 25), (25, 25)))
    found = fit(padded, KNOWN, pixel_scale=SCALE)
    assert (np.abs(found.chi2 - 1) < 0.1).all() and all("not_finite" in f for f in found.flags)
    np.testing.assert_allclose(found.column("theta_E"), fits.column("theta_E")[:3], atol=0.01)


def test_a_noise_map_is_used_as_it_is(centred):
    """Errors and chi^2 scale with it; a pixel whose noise is a mark for masked is left out."""
    images, systems, fits = centred
    maps = []
    for system in systems[:3]:
        t = system.exposure_time
        maps.append(np.sqrt((0.01 * t) ** 2 + t * simulation.render(system, MARGINAL)))
    same = fit(
        [Observation(i, noise=m) for i, m in zip(images[:3], maps, strict=True)],
        LensFit(),
        pixel_scale=SCALE,
    )
    np.testing.assert_allclose(same.values[:, :7], fits.values[:3, :7], atol=5e-3)
    np.testing.assert_allclose(same.chi2, 1, atol=0.05)
    assert same.unknown == ["psf"] * 3 and fits.unknown[0] == "noise psf gain"
    double = fit(
        [Observation(i, noise=2 * m) for i, m in zip(images[:3], maps, strict=True)],
        LensFit(),
        pixel_scale=SCALE,
    )
    np.testing.assert_allclose(double.chi2, same.chi2 / 4, rtol=1e-3)
    np.testing.assert_allclose(double.errors[:, 0], 2 * same.errors[:, 0], rtol=0.05)
    maps[0][60:80, 90:110] = 1e9
    marked = fit([Observation(images[0], noise=maps[0])], LensFit(), pixel_scale=SCALE)
    assert (marked.residual[0, 33:53, 63:83] == 0).all()


def test_a_kernel_of_any_kind_is_the_psf(centred):
    """An asymmetrical one: odd, unnormalised, or even; the wrong PSF leaves more than noise."""
    kernel = np.zeros((9, 9))
    kernel[4, 4], kernel[4, 6], kernel[6, 4] = 1.0, 0.5, 0.25
    kernel = ndimage.gaussian_filter(kernel, 0.8)
    sharp = population_of(
        MARGINAL.model_dump()
        | {"instrument": MARGINAL.instrument.model_dump() | {"psf_fwhm": 1e-6}}
    )
    images = []
    for i in range(4):
        system = simulation.draw(i, "no_sub", 11, sharp)
        image = signal.convolve(
            simulation.render(system, sharp), kernel / kernel.sum(), mode="same"
        )
        images.append(simulation.add_noise(image, system, np.random.default_rng(i), sharp))
    truth = [simulation.draw(i, "no_sub", 11, sharp).theta_E for i in range(4)]
    odd = fit([Observation(i, psf=7 * kernel) for i in images], KNOWN, pixel_scale=SCALE)
    assert (np.abs(odd.chi2 - 1) < 0.05).all() and "psf" not in odd.unknown[0]
    assert (np.abs(odd.column("theta_E") - truth) < 4 * odd.errors[:, 0]).all()
    assert np.abs(odd.column("center_x")).max() < 0.03
    even = fit(
        [Observation(i, psf=np.pad(kernel, ((0, 1), (0, 1)))) for i in images],
        KNOWN,
        pixel_scale=SCALE,
    )
    np.testing.assert_allclose(even.chi2, odd.chi2, atol=0.01)
    # the middle of an even kernel lies between its pixels
    moved = even.column("center_x") - odd.column("center_x")
    np.testing.assert_allclose(moved, SCALE / 2, atol=0.005)
    assert (fit(images, KNOWN, pixel_scale=SCALE).chi2 > odd.chi2).all()
    whole, _ = modelled(odd)
    left = images[0][27:123, 27:123] - whole[0]
    assert np.corrcoef(left.ravel(), odd.residual[0].ravel())[0, 1] > 0.8


def test_images_of_several_cameras_keep_their_order(centred):
    images, _, fits = centred
    mixed = [
        Observation(images[0], pixel_scale=SCALE),
        images[1][10:-10, 10:-10],
        Observation(images[2], pixel_scale=2 * SCALE),
        images[3],
    ]
    found = fit(mixed, KNOWN, pixel_scale=SCALE)
    expected = fits.column("theta_E")[:4] * [1, 1, 2, 1]
    np.testing.assert_allclose(found.column("theta_E"), expected, rtol=0.01)
    assert [camera.pixel_scale for camera in found.cameras] == [0.05, 0.05, 0.1, 0.05]


def test_a_scale_is_needed_and_a_gain_is_estimated(centred):
    images, _, _ = centred
    with pytest.raises(InputError, match="lens.fits: found no pixel_scale"):
        fit([Observation(images[0], name="lens.fits")], KNOWN)
    rate = images / 1000
    own = estimate_gain(rate, LensFit(), pixel_scale=SCALE)
    assert own == pytest.approx(1e-3, rel=0.4)
    assert fit(rate[:2], LensFit(), pixel_scale=SCALE, gain=own).gain.tolist() == [own, own]
    told = fit([Observation(rate[0], gain=2e-3)], LensFit(), pixel_scale=SCALE)
    assert told.gain.tolist() == [2e-3] and "gain" not in told.unknown[0]


def test_the_number_of_threads_does_not_matter(centred):
    """Products of matrices in two threads sum in another order."""
    images, _, fits = centred
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        again = fit(images, KNOWN, pixel_scale=SCALE)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(again.values, fits.values)
    np.testing.assert_array_equal(again.residual, fits.residual)


def test_processing_and_features_take_the_same_images(centred, tmp_path):
    """An observation and a masked array are the image with NaN there, in all that measures."""
    image = centred[0][0]
    star = np.hypot(*(np.indices(image.shape) - 75)) < 6
    holes = np.where(star, np.nan, image).astype(np.float32)
    forms = (Observation(image, mask=star), np.ma.array(image, mask=star))
    expected = process(holes, Preprocess())[0], measure(holes, Preprocess(), Features())
    for form in forms:
        np.testing.assert_array_equal(process(form, Preprocess())[0], expected[0])
        assert measure(form, Preprocess(), Features()) == pytest.approx(expected[1], nan_ok=True)
    catalog = pd.DataFrame({"id": ["a"], "class": "no_sub", "split": "train", "source": "x"})
    write(tmp_path / "d", forms[1][None], catalog)
    np.testing.assert_array_equal(np.isnan(Dataset.open(tmp_path / "d").images[0]), star)
