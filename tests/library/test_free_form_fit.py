"""Whole fits of lenses by lenstronomy: what is recovered, of images in all states."""

import math
import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from scipy.signal import fftconvolve
from threadpoolctl import threadpool_info, threadpool_limits

from vitdm import Observation
from vitdm.config import FreeForm
from vitdm.errors import InputError
from vitdm.lens import fit
from vitdm.lens.free_form import mass
from vitdm.lens.free_form.fit import _crowded, arcs_of
from vitdm.lens.free_form.model import FLAGS
from vitdm.lens.free_form.optics import Optics
from vitdm.lens.free_form.scene import noise_map, scene_of
from vitdm.lens.free_form.source import Mesh
from vitdm.lens.free_form.start import LARGEST_STEP, Box, MassPrior, magnified_share, rays, score
from vitdm.lens.free_form.view import View
from vitdm.threads import one_thread

FIT = sys.modules["vitdm.lens.free_form.fit"]  # its name in the package is the function
STAGE = FIT._Stage
SCALE = 0.08
TRUTH = {"theta_E": 1.0, "e1": 0.08, "e2": -0.05, "center_x": 0.02, "center_y": -0.01}
TRUTH |= {"gamma1": 0.03, "gamma2": -0.02, "slope": 2.05}
SOURCE = {"amp": 60.0, "R_sersic": 0.12, "n_sersic": 1.0, "e1": 0.1, "e2": 0.05}
SOURCE |= {"center_x": 0.06, "center_y": 0.05}
GALAXY = {"amp": 25.0, "R_sersic": 0.5, "n_sersic": 3.0, "e1": 0.08, "e2": -0.04}
GALAXY |= {"center_x": 0.02, "center_y": -0.01}
SHIFTED = 4.0  # largest mean square of 8 pulls: the source is not drawn from its prior
#: fewer splines, starts and parts of pixels: a fit takes a second
FAST = FreeForm(splines=12, most_splines=12, supersampling=2, theta_E=(0.8, 1.2))
SMOOTH = FAST.model_copy(update={"m1_sd": 0.0, "m3_sd": 0.0, "m4_sd": 0.0})


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Small matrices: threads only wait for each other."""
    with one_thread():
        yield


def gaussian(side=9, fwhm=1.6):
    """A kernel of this side and FWHM [px]."""
    row = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) * 2.3548 / fwhm) ** 2)
    return np.outer(row, row) / row.sum() ** 2


@cache
def simulated(shape=(56, 56), center=(0.0, 0.0), light=True, spot=None, seed=0, n=5, clumps=()):
    """Image, noise, arcs and galaxy without noise.

    ``spot``: x, y, flux of a neighbour; ``clumps``: x, y ["] of small bright parts of the source.
    """
    pad, sersic = 9, LightModel(["SERSIC_ELLIPSE"])
    sides = [k + 2 * pad for k in shape]
    axes = [(np.arange(k * n) - (k * n - 1) / 2) * SCALE / n for k in sides[::-1]]
    x, y = (grid.ravel() for grid in np.meshgrid(*axes))
    x, y = x - center[0], y - center[1]
    halo = {k: v for k, v in TRUTH.items() if k not in ("gamma1", "gamma2", "slope")}
    shear = {"gamma1": 0.03, "gamma2": -0.02, "ra_0": 0.02, "dec_0": -0.01}
    lens = LensModel(["EPL", "SHEAR"])
    beta = lens.ray_shooting(x, y, [halo | {"gamma": TRUTH["slope"]}, shear])
    arcs = sersic.surface_brightness(*beta, [SOURCE])
    for place in clumps:
        r2 = (beta[0] - place[0]) ** 2 + (beta[1] - place[1]) ** 2
        arcs = arcs + 3 * arcs.max() * np.exp(-r2 / (2 * 0.02**2))
    galaxy = sersic.surface_brightness(x, y, [GALAXY]) * light
    if spot:
        r2 = (x - spot[0]) ** 2 + (y - spot[1]) ** 2
        galaxy = galaxy + spot[2] / (2 * np.pi * 0.1**2) * np.exp(-r2 / (2 * 0.1**2))

    def seen(brightness):
        pixels = brightness.reshape(sides[0], n, sides[1], n).mean((1, 3)) * SCALE**2
        return fftconvolve(pixels, gaussian(), mode="same")[pad:-pad, pad:-pad]

    arcs, galaxy = seen(arcs), seen(galaxy)
    noise = np.sqrt(0.012**2 + 5e-4 * np.clip(arcs + galaxy, 0, None))
    data = arcs + galaxy + noise * np.random.default_rng(seed).standard_normal(shape)
    return SimpleNamespace(data=data, noise=noise, arcs=arcs, galaxy=galaxy)


def start_at_truth():
    """A Sérsic fit that has found the true mass."""
    found = {name: [true] for name, true in TRUTH.items()}
    return SimpleNamespace(chi2=[1.0], converged=[True], column=found.__getitem__)


def observed(lens, **changes):
    known = {"noise": lens.noise, "psf": gaussian(), "pixel_scale": SCALE, "name": "lens.fits"}
    data = changes.pop("data", lens.data)
    return Observation(data, **(known | changes))


def check(model, center=(0.0, 0.0)):
    """The mass is found within its errors, which are small, and what is left is noise."""
    off = model.values[:8] - list(TRUTH.values())
    off[3:5] -= center
    assert (np.abs(off) < [0.004, 0.03, 0.03, 0.03, 0.03, 0.015, 0.015, 0.2]).all(), off
    squares = off @ np.linalg.solve(model.covariance[:8, :8], off)
    assert squares < 8 * SHIFTED, squares
    assert model.chi2 == pytest.approx(1, abs=0.12) and 0.75 < model.chi2_arcs < 1.15
    assert model.converged and not set(model.flags) & {"poor", "no_arcs", "single", "ambiguous"}


# ---------------------------------------------------------------------------------- one lens


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def model(told):
    lens = observed(simulated())
    return fit(lens, FAST, progress=lambda stage, chi2: told.append((stage, chi2)))


def test_a_lens_is_recovered(model):
    check(model)
    assert set(model.flags) <= FLAGS.keys() and model.neighbours.empty
    assert np.isfinite(model.evidence)
    e1, e2 = model.galaxy.ellipticity
    assert (e1, e2) == pytest.approx((0.08, -0.04), abs=0.03)
    assert model.galaxy.center == pytest.approx((0.02, -0.01), abs=0.01)


def test_images_of_the_model_are_those_of_the_lens(model):
    lens = simulated()
    noise = lens.noise[model.fitted]
    arcs = (model.arcs - lens.arcs)[model.fitted] / noise
    assert np.sqrt((arcs**2).mean()) < 0.6 and np.abs(arcs).max() < 4
    both = (model.arcs + model.lens_light - lens.arcs - lens.galaxy)[model.fitted] / noise
    assert np.sqrt((both**2).mean()) < 0.4
    x = np.linspace(-0.1, 0.1, 11)
    u, v = np.meshgrid(SOURCE["center_x"] + x, SOURCE["center_y"] + x)
    true = LightModel(["SERSIC_ELLIPSE"]).surface_brightness(u.ravel(), v.ravel(), [SOURCE])
    found = model.source.brightness(u, v).ravel()
    assert found.sum() == pytest.approx(true.sum(), rel=0.1)
    assert np.corrcoef(found, true)[0, 1] > 0.95


def test_numbers_of_the_model_agree(model):
    """Residual, chi2, pixels and errors are made of each other."""
    observation, residual = model.observation, model.residual
    expected = (observation.data - model.lens_light - model.arcs) / simulated().noise
    np.testing.assert_allclose(residual, expected, atol=1e-5)
    assert model.n_pixels == model.fitted.sum() > 1000
    assert model.chi2 == pytest.approx((residual[model.fitted] ** 2).mean())
    bright = model.fitted & (model.arcs > model.noise)
    assert model.chi2_arcs == pytest.approx((residual[bright] ** 2).mean())
    np.testing.assert_allclose(model.errors, np.sqrt(np.diag(model.covariance)))
    assert np.linalg.eigvalsh(model.covariance).min() > 0
    table = model.table()
    assert list(table["name"]) == list(mass.NAMES)
    np.testing.assert_array_equal(table["value"], model.values)
    assert (table["unit"][:1] == "arcsec").all() and table["meaning"].str.len().min() > 5
    light = model.galaxy.image()
    np.testing.assert_allclose(light, model.lens_light, atol=1e-3 * light.max())
    assert np.abs(light - model.lens_light).max() < 0.02 * simulated().noise.min()
    assert model.settings == FAST and model.observation.name == "lens.fits"


def test_source_and_its_errors_are_those_of_the_splines(model):
    source = model.source
    x, y = np.meshgrid(
        source.center[0] + np.linspace(-0.2, 0.2, 4), source.center[1] + np.array([0, 0.1])
    )
    basis = source.mesh.basis(x.ravel(), y.ravel())
    inverse = np.linalg.inv(source.root @ source.root.T)[: source.mesh.size, : source.mesh.size]
    expected = np.sqrt(np.einsum("ki,ij,kj->k", basis, inverse, basis))
    found = source.errors(x, y)
    assert found.shape == (2, 4)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-6)
    assert source.errors(source.center[0] + 2 * source.half_width, 0.0) == 0
    image, axis = source.image(21)
    assert image.shape == (21, 21) and axis[[0, -1]] == pytest.approx(
        [-source.half_width, source.half_width]
    )
    assert image[3, 7] == source.brightness(source.center[0] + axis[7], source.center[1] + axis[3])


def test_progress_tells_the_stages(model, told):
    names = list(dict.fromkeys(stage for stage, _ in told))
    assert names[:2] == ["light of the lens galaxy", "start"] and len(names) > 3
    assert all("source of" in name for name in names[2:])
    assert np.isfinite([chi2 for _, chi2 in told]).all()
    assert told[-1][1] < 1.2


def test_the_same_again_on_any_number_of_threads(model):
    """Byte for byte: linear algebra in two threads sums in another order."""
    with threadpool_limits(2, user_api="blas"):
        again = fit(observed(simulated()), FAST)
        assert {row["num_threads"] for row in threadpool_info() if row["user_api"] == "blas"} == {2}
    for name in ("values", "covariance", "arcs", "lens_light", "residual", "fitted"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name), err_msg=name)
    assert again.evidence == model.evidence
    with one_thread():
        rows = [row for row in threadpool_info() if row["user_api"] == "blas"]
    assert rows and {row["num_threads"] for row in rows} == {1}


# -------------------------------------------------------------------- images in other states


def test_lenses_of_all_shapes_with_pixels_missing():
    """Not square, of odd sides, off the middle."""
    center = 0.24, -0.16
    data = simulated((53, 62), center).data.copy()
    data[20:23, 40:46] = np.nan
    data[::17, ::13] = np.nan
    data[:, :2] = np.nan
    missing = np.isnan(data)
    one = fit(observed(simulated((53, 62), center)).replace(data=data), SMOOTH)
    check(one, center)
    assert not one.fitted[missing].any() and not one.residual[missing].any()
    assert np.isfinite(one.arcs).all() and np.isfinite(one.lens_light).all()
    assert one.arcs.shape == (53, 62)


def test_a_lens_without_light_and_multipoles():
    settings = SMOOTH.model_copy(update={"lens_light": False, "light_left": False})
    model = fit(observed(simulated(light=False, seed=1)), settings)
    check(model)
    assert model.galaxy is None and model.lens_light.std() < 1e-9
    fixed = [name[:1] == "a" for name in mass.NAMES]
    assert np.isnan(model.errors[fixed]).all() and not model.values[fixed].any()
    assert not model.covariance[fixed].any() and not model.covariance[:, fixed].any()
    assert np.isfinite(model.errors[:8]).all()


def test_light_that_a_subtracted_galaxy_leaves_is_allowed_for():
    """Rounder and smoother than any source: an image with it is fitted as well as without."""
    lens = simulated(light=False, seed=1)
    row, column = np.indices(lens.data.shape) - 27.5
    left = 12 * lens.noise.min() * np.exp(-(row**2 + column**2) / (2 * 5**2))
    told = {}
    for allowed in (True, False):
        settings = SMOOTH.model_copy(update={"lens_light": False, "light_left": allowed})
        told[allowed] = fit(observed(lens, data=lens.data + left), settings)
    check(told[True])
    assert told[True].chi2 < 1.1 < 1.3 < told[False].chi2
    light = told[True].lens_light
    assert light[28, 28] - light[0, 0] == pytest.approx(left.max(), rel=0.2)


def test_errors_of_the_model_grow_with_the_arcs():
    exact = SMOOTH.model_copy(update={"lens_light": False, "light_left": False})
    rough = exact.model_copy(update={"source_error": 0.15})
    exact = exact.model_copy(update={"source_error": 0.0})
    observation = observed(simulated(light=False, seed=1))
    plain, wide = (fit(observation, settings) for settings in (exact, rough))
    bright, faint = plain.arcs > 5 * plain.noise, plain.arcs < 0.1 * plain.noise
    plain, wide = plain.problem, wide.problem
    faint &= plain.fitted
    np.testing.assert_allclose(plain.error[plain.fitted], plain.scene.noise[plain.fitted])
    assert (wide.error[bright] > 1.1 * plain.error[bright]).all()
    assert np.median(wide.error[faint] / plain.error[faint]) < 1.05


def test_an_arc_is_not_taken_for_the_galaxy():
    """A lens that does not shine, with the light of a galaxy to be fitted."""
    model = fit(observed(simulated(light=False)), SMOOTH)
    check(model)
    assert model.galaxy is None


def test_a_fit_goes_on_from_another(model):
    """From the mass of a Sersic fit, as good as from nothing; not if that has failed."""
    told = []
    start = start_at_truth()
    again = fit(
        observed(simulated()), FAST, start=start, progress=lambda stage, chi2: told.append(stage)
    )
    check(again)
    off = np.abs(again.values - model.values) / model.errors
    assert off.max() < 1.5 and again.evidence > model.evidence - 200
    assert not [stage for stage in told if "16 x 16" in stage]
    with pytest.raises(InputError, match="start: found 1 fits and 2 images"):
        fit([observed(simulated())] * 2, FAST, start=start)


def test_what_is_not_known_is_measured():
    """Noise from the image, the PSF as a number."""
    lens = simulated()
    model = fit(observed(lens, noise=None, psf=1.6 * SCALE), FAST)
    sky = lens.noise < 0.013
    assert np.median(model.noise[sky]) == pytest.approx(0.012, rel=0.05)
    assert (model.noise / lens.noise)[~sky].mean() == pytest.approx(1.0, abs=0.25)
    assert model.values[0] == pytest.approx(1.0, abs=0.005) and model.converged


def test_a_mesh_becomes_finer_where_arcs_are_left():
    clumpy = observed(simulated(light=False, clumps=((0.25, 0.1), (-0.2, 0.2), (0.0, -0.25))))
    models = []
    for most in (12, 24):
        told, settings = [], SMOOTH.model_copy(update={"lens_light": False, "most_splines": most})
        models += fit(
            [clumpy],
            settings,
            start=start_at_truth(),
            progress=lambda stage, chi2, told=told: told.append(stage),
        )
        assert ("source of 24 x 24" in told) == (most == 24)
    coarse, finer = models
    assert (coarse.source.mesh.n, finer.source.mesh.n) == (12, 24)
    assert finer.evidence > coarse.evidence + 20 and finer.chi2_arcs < coarse.chi2_arcs - 0.1


def test_a_finer_mesh_that_is_less_probable_leaves_no_trace(monkeypatch):
    lens, settings = (
        observed(simulated(light=False)),
        SMOOTH.model_copy(update={"lens_light": False}),
    )
    (plain,) = fit([lens], settings, start=start_at_truth())
    fine = STAGE.fine

    def improbable(stage, fitted, n, *args, **options):
        done = fine(stage, fitted, n, *args, **options)
        if n == 24:
            stage.point = replace(stage.point, log_probability=-math.inf)
        return done

    monkeypatch.setattr(STAGE, "fine", improbable)
    monkeypatch.setattr(FIT, "LEFT", 0.0)  # never explained
    told = []
    options = {"start": start_at_truth(), "progress": lambda stage, chi2: told.append(stage)}
    (again,) = fit([lens], settings.model_copy(update={"most_splines": 24}), **options)
    assert "source of 24 x 24" in told
    for name in ("values", "errors", "covariance"):
        np.testing.assert_array_equal(getattr(again, name), getattr(plain, name))
    np.testing.assert_array_equal(again.problem.error, plain.problem.error)
    assert again.source.mesh == plain.source.mesh and again.evidence == plain.evidence


def test_a_neighbour_is_masked_and_listed():
    x, y = -1.55, 1.35
    model = fit(observed(simulated((60, 60), spot=(x, y, 2.0))), SMOOTH)
    check(model)
    (row,) = model.neighbours.to_dict("records")
    assert (row["x"], row["y"]) == pytest.approx((x, y), abs=0.05)
    assert row["flux"] == pytest.approx(2.0, rel=0.25) and row["kind"] == "neighbour"
    assert row["masked"]
    column, line = round(x / SCALE + 29.5), round(y / SCALE + 29.5)
    assert not model.fitted[line - 1 : line + 2, column - 1 : column + 2].any()


def test_images_that_cannot_be_fitted_are_named():
    lens = simulated()
    masked = np.ones((56, 56), bool)
    masked[:3] = False
    for wrong, message in (
        (observed(lens, pixel_scale=None), r"lens.fits: found no pixel_scale; expected arcsec"),
        (Observation(lens.data[:20], pixel_scale=SCALE), r"20 x 56 pixels; expected at least 24"),
        (observed(lens, mask=masked), r"lens.fits: found \d+ pixels that are not missing"),
        (observed(lens, mask=np.ones_like(masked)), r"lens.fits: found no pixel"),
        (Observation(np.ones((40, 40)), pixel_scale=SCALE), "found no noise in the image"),
        (lens.data[0], r"images: found \(56,\)"),
        (lens.data[None, None], r"image 0: found data of shape \(1, 56, 56\)"),
        ([], "found none"),
    ):
        with pytest.raises(InputError, match=message):
            fit(wrong, FAST)


def test_images_of_different_sizes_are_a_list(monkeypatch):
    """An image, an array of images, a list of both."""
    module = sys.modules["vitdm.lens.free_form.fit"]
    monkeypatch.setattr(module, "_fit", lambda observation, *rest: observation)
    a, b = simulated().data, simulated((53, 62), (0.24, -0.16)).data
    assert fit(a, FAST, pixel_scale=0.1).shape == (56, 56)
    assert fit(np.ma.array(a), FAST, pixel_scale=0.1).pixel_scale == 0.1
    assert [one.shape for one in fit([observed(simulated()), b], FAST)] == [(56, 56), (53, 62)]
    assert [one.shape for one in fit([a], FAST)] == [(56, 56)]
    assert [one.shape for one in fit(np.array([a, a]), FAST)] == [(56, 56)] * 2


def test_an_image_of_nothing_is_flagged():
    rng = np.random.default_rng(0)
    for image, noise in ((rng.standard_normal((40, 40)), 1.0), (np.ones((40, 40)), 1.0)):
        model = fit(Observation(image, noise, pixel_scale=SCALE), FAST)
        assert model.galaxy is None and "no_arcs" in model.flags
        assert np.isfinite(model.values).all()


# ------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("sides", [(9, 9), (4, 4), (5, 8)])
def test_arcs_are_those_of_the_rays(sides):
    """Of all pixels, also at the edge, for odd and even kernels."""
    rng = np.random.default_rng(0)
    kernel = rng.random(sides)
    scene = scene_of(observed(simulated((30, 41)), psf=kernel / kernel.sum()), SMOOTH)
    mesh, values = Mesh((0.05, 0.02), 0.8, 9), np.array([*TRUTH.values(), *[0.0] * 6])
    modes = mesh.draw(4.0, 1.0, rng)
    solution = SimpleNamespace(inversion=SimpleNamespace(mesh=mesh), source=modes)
    found = arcs_of(scene, SimpleNamespace(values=values, solution=solution), 2)
    everywhere = np.ones((30, 41), bool)
    optics = Optics(everywhere, scene.kernel, SCALE, np.full((30, 41), 2))
    x, y = np.array([optics.x, optics.y]) - mass.deflection(values, optics.x, optics.y)
    expected = optics.seen(mesh.brightness(modes, x, y)).reshape(30, 41)
    np.testing.assert_allclose(found, expected, atol=1e-10 * np.abs(expected).max())


def test_prior_of_the_mass():
    scene = scene_of(observed(simulated()), FAST)
    settings = FAST.model_copy(update={"shear_sd": 0.0, "slope": 2.0, "m3_sd": 0.02})
    prior = dict(zip(mass.NAMES, MassPrior.of(scene, settings).sd.tolist(), strict=True))
    assert prior["theta_E"] == np.inf and prior["gamma1"] == prior["gamma2"] == 0
    assert prior["e2"] == settings.ellipticity_sd and prior["slope"] == settings.slope_sd
    assert prior["center_x"] == settings.light_offset and prior["a3_y"] == 0.02
    unknown = observed(simulated(), psf=None)
    fwhm = FAST.model_copy(update={"psf_fwhm": 3 * SCALE})
    assert scene_of(unknown, fwhm).kernel.max() == pytest.approx(0.88 / 9, rel=0.05)
    mean = MassPrior.of(scene, settings).mean
    assert mean[7] == 2.0 and tuple(mean[3:5]) == scene.galaxy.center
    tight = MassPrior.of(scene, FAST).tight(scene)
    assert (tight.sd[1:7] < 0.11).all() and (tight.sd[7:] == 0).all() and tight.mean[1] > 0.03
    held = MassPrior.of(scene, settings).only("slope", "a")
    np.testing.assert_array_equal(held.sd[7:], 0)
    assert (held.sd[:5] > 0).all()
    dark = scene_of(observed(simulated()), FAST.model_copy(update={"lens_light": False}))
    assert MassPrior.of(dark, FAST).sd[3] == FAST.center_offset and len(LARGEST_STEP) == 14


def test_a_start_whose_arcs_are_not_magnified_counts_less():
    """A source in the middle, with four images, and one far out, with one."""
    values = np.array([*TRUTH.values(), *[0.0] * 6])
    scores, shares = [], []
    for x in (0.0, 3.0):
        mesh = Mesh((x, 0.0), 0.2, 8)
        modes = mesh.to_modes(np.ones((1, 64)))[0]
        modes *= np.sign(mesh.brightness(modes, x, 0.0))
        solution = SimpleNamespace(source=modes, inversion=SimpleNamespace(mesh=mesh))
        point = SimpleNamespace(log_probability=-7.0, values=values, solution=solution)
        shares.append(magnified_share(values, mesh, modes))
        scores.append(score(point))
    assert shares[0] > 0.95 and shares[1] < 0.05
    assert scores[0] > -30 and scores[1] < -300


def test_the_box_holds_the_source():
    lens = simulated(light=False, seed=1)
    scene = scene_of(observed(lens), FAST.model_copy(update={"lens_light": False}))
    view = View(scene, np.ones((56, 56), bool), scene.noise)
    values = np.array([*TRUTH.values(), *[0.0] * 6])
    x, y = rays(view, values)
    mesh = Box(view).mesh(x, y, 12, margin=2.0)
    assert mesh.center == pytest.approx((SOURCE["center_x"], SOURCE["center_y"]), abs=0.05)
    assert 0.3 < mesh.half_width < 0.5 and mesh.n == 12
    assert Box(view).mesh(x, y, 12, margin=3.0).half_width == pytest.approx(1.5 * mesh.half_width)
    dark = replace(scene, data=np.zeros((56, 56)), galaxy_light=np.zeros((56, 56)))
    nothing = Box(View(dark, np.ones((56, 56), bool), scene.noise))
    assert nothing.mesh(x, y, 12).half_width == nothing.largest


@pytest.mark.parametrize("given", ["map", "sky and gain", "sky", "nothing"])
def test_noise_map(given):
    lens = simulated()
    known = {
        "map": {},
        "sky and gain": {"noise": 0.012, "gain": 5e-4},
        "sky": {"noise": 0.012},
        "nothing": {"noise": None},
    }[given]
    mask = np.zeros((56, 56), bool)
    mask[:4] = True
    noise = noise_map(observed(lens, mask=mask, **known), FAST)
    assert np.isinf(noise[:4]).all()
    ratio, bright = (noise / lens.noise)[4:], lens.noise[4:] > 0.02
    tolerance = {"map": 1e-6, "sky and gain": 0.1}.get(given, 0.3)
    assert ratio[bright].mean() == pytest.approx(1, abs=tolerance)
    assert np.median(ratio[~bright]) == pytest.approx(1, abs=0.05)


def test_empty_table_of_neighbours(model):
    assert isinstance(model.neighbours, pd.DataFrame)
    assert list(model.neighbours) == ["x", "y", "flux", "radius", "kind", "masked"]


@pytest.mark.parametrize(
    ("x", "flux", "kind", "crowded"),
    [
        (3.0, 5.0, "neighbour", True),  # 2 arcsec from the lens, which lies at x = 1 arcsec
        (3.0, 3.0, "neighbour", False),  # fainter than the arcs
        (3.0, 5.0, "cosmic_ray", False),
        (-1.5, 5.0, "neighbour", False),  # near the middle of the image, not the lens
    ],
)
def test_bright_neighbours_are_counted_from_the_lens(x, flux, kind, crowded):
    table = pd.DataFrame({"x": [x], "y": [0.0], "flux": [flux], "kind": [kind]})
    values = np.array([1.1, 0.0, 0.0, 1.0, 0.0, *[0.0] * 9])
    model = SimpleNamespace(neighbours=table, values=values, arcs=np.ones((2, 2)))
    assert _crowded(model, np.ones((2, 2), bool)) == crowded
    assert not _crowded(SimpleNamespace(**vars(model) | {"neighbours": table[:0]}), model.arcs > 0)
