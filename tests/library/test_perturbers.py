"""The search for perturbers against lenstronomy, finite differences, dense algebra, drawn data."""

import math

import numpy as np
import pytest
from astropy import constants, cosmology, units
from pydantic import ValidationError
from scipy.interpolate import BSpline

from vitdm.config import FreeForm, Perturbers
from vitdm.data.observation import Observation
from vitdm.data.simulated import observed
from vitdm.errors import InputError
from vitdm.lens import fit, search
from vitdm.lens.free_form import mass
from vitdm.lens.free_form.inversion import Prior
from vitdm.lens.free_form.problem import Problem
from vitdm.lens.free_form.source import Mesh
from vitdm.lens.free_form.start import MassPrior
from vitdm.lens.free_form.view import Scene
from vitdm.lens.perturbers import maps
from vitdm.lens.perturbers.maps import (
    BESIDE,
    KEPT,
    Marginal,
    _brightest,
    _widened,
    information,
)
from vitdm.lens.perturbers.profiles import INFALL, SOFTENING, Profile, profiles_of, solar_masses
from vitdm.lens.perturbers.search import BEYOND, Grid, Searched
from vitdm.lens.perturbers.twins import Noise, linear_data, noise_lags, p_value
from vitdm.simulation import load_population
from vitdm.simulation.cosmology import Cosmology, virial_radius
from vitdm.threads import one_thread

SCALE, SHAPE = 0.09, (46, 44)
PSF_SD = 0.05
CUSP = BESIDE[1]
TRUTH = np.array([1.1, 0.1, 0.05, 0.01, -0.02, 0.03, -0.02, 2.05, *[0.0] * 6])
SD = np.array([np.inf, 0.1, 0.1, 0.03, 0.03, 0.05, 0.05, 0.1, *[0.01] * 6])
ROUND = Profile("point", SOFTENING), Profile("isothermal", 0.2), Profile("nfw_30", 0.5, 1.5)
CLUMP = ROUND[1]
PLACES = np.array([1.05, -0.4, -0.9]), np.array([0.35, 1.05, -0.7])


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def problem():
    """A lens of two blobs, of known mass; neither fitted nor with anything else than its noise."""
    height, width = SHAPE
    y, x = (np.indices(SHAPE) - np.array([height - 1, width - 1]).reshape(2, 1, 1) / 2) * SCALE
    alpha = mass.deflection(TRUTH, x.ravel(), y.ravel()).reshape(2, *SHAPE)
    u, v = x - alpha[0], y - alpha[1]
    arcs = 4 * np.exp(-((u - 0.08) ** 2 + (v - 0.04) ** 2) / 0.02)
    arcs += np.exp(-((u + 0.12) ** 2 + (v - 0.1) ** 2) / 0.01)
    q, p = np.indices((5, 5)) - 2
    kernel = np.exp(-((p - 0.2) ** 2 + q**2 + 0.3 * q * p) / 1.5)
    rng = np.random.default_rng(1)
    noise = rng.uniform(0.08, 0.12, SHAPE)
    r = np.hypot(x, y)
    scene = Scene(
        data=arcs + noise * rng.standard_normal(SHAPE),
        noise=noise,
        good=np.ones(SHAPE, bool),
        kernel=kernel / kernel.sum(),
        pixel_scale=SCALE,
        galaxy=None,
        galaxy_light=np.zeros(SHAPE),
        light=np.full((1, *SHAPE), 0.1),
        center=(0.0, 0.0),
        center_sd=0.03,
    )
    mesh, prior = Mesh((0.02, 0.05), 0.7, 9), Prior(1e-4, 4.0)
    fitted, samples = (r > 0.4) & (r < 1.9), np.where(abs(r - 1.1) < 0.3, 2, 1)
    # not quite the true mass, so that the prior's mean is not 0 steps away
    values = TRUTH + 0.1 * np.where(np.isinf(SD), 0.01, SD)
    return Problem(
        scene, fitted, noise, samples, MassPrior(TRUTH, SD), values, mesh, source_prior=prior
    )


@pytest.fixture(scope="module")
def marginal(problem):
    return Marginal(problem, PSF_SD)


@pytest.fixture(scope="module")
def grid(marginal, problem):
    return Grid.of(marginal, problem, 0.15)


@pytest.fixture(scope="module")
def searched(marginal, grid):
    return Searched(marginal, [CLUMP], grid)


# --------------------------------------------------------------------------------------- profiles


def offsets(near=0.02, far=6.0, n=200):
    rng = np.random.default_rng(0)
    r, angle = np.geomspace(near, far, n), rng.uniform(0, 2 * math.pi, n)
    return r * np.cos(angle), r * np.sin(angle)


def test_a_point_is_that_of_lenstronomy():
    from lenstronomy.LensModel.Profiles.point_mass import PointMass

    x, y = offsets(near=0.3)
    np.testing.assert_allclose(
        0.02 * ROUND[0].deflection(x, y),
        PointMass().derivatives(x, y, theta_E=math.sqrt(0.02)),
        rtol=3e-3,
    )


def test_an_isothermal_sphere_is_that_of_lenstronomy():
    from lenstronomy.LensModel.Profiles.pseudo_jaffe import PseudoJaffe

    (x, y), core = offsets(), 1e-6
    # the total mass, in these units, is 2 sigma0 core a
    expected = PseudoJaffe().derivatives(x, y, sigma0=1 / (2 * core * 0.2), Ra=core, Rs=0.2)
    np.testing.assert_allclose(CLUMP.deflection(x, y), expected, rtol=2e-3, atol=1e-5)


def test_a_cut_nfw_halo_is_that_of_lenstronomy():
    from lenstronomy.LensModel.Profiles.tnfw import TNFW

    (x, y), halo = offsets(), ROUND[2]
    known = {"Rs": halo.scale, "alpha_Rs": 1.0, "r_trunc": halo.tau * halo.scale}
    far = 1e5
    total = far * TNFW().derivatives(np.array([far]), np.zeros(1), **known)[0][0]
    expected = np.array(TNFW().derivatives(x, y, **known)) / total
    np.testing.assert_allclose(halo.deflection(x, y), expected, rtol=4e-3, atol=1e-5)


@pytest.mark.parametrize("profile", ROUND, ids=lambda profile: profile.name)
def test_deflection_is_the_mass_within_and_the_whole_mass_is_one(profile):
    x, y = offsets()
    r = np.hypot(x, y)
    within = profile.mass_within(r)
    assert (np.diff(within) > 0).all()
    assert profile.mass_within(1e4) == pytest.approx(1, abs=1e-3)
    alpha = profile.deflection(x, y)
    np.testing.assert_allclose(np.hypot(*alpha) * r, within, rtol=4e-3, atol=2e-4)
    np.testing.assert_allclose(alpha[0] * y, alpha[1] * x, atol=1e-12)  # radial


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_a_string_is_a_row_of_points(angle):
    string, n = Profile("string", 1.2, angle=angle), 4000
    x, y = offsets(near=0.1)
    along = 1.2 * ((np.arange(n) + 0.5) / n - 0.5)
    dx, dy = x - along[:, None] * math.cos(angle), y - along[:, None] * math.sin(angle)
    apart = (abs(dx) + abs(dy)).min(0) > 0.05
    expected = np.array([dx, dy]) / (dx**2 + dy**2)
    found = string.deflection(x, y)
    np.testing.assert_allclose(found[:, apart], expected.mean(1)[:, apart], atol=0.01)
    assert apart.sum() > 150


def test_settings_tell_the_scales_of_profiles():
    known = Perturbers(truncation=0.3, length=1.7, z_lens=0.3, z_source=0.9)
    (clump,), (halo,), strings = (
        profiles_of(name, known) for name in ("isothermal", "nfw_30", "string")
    )
    assert clump.scale == 0.3
    radius = virial_radius(INFALL, Cosmology(z_lens=0.3, z_source=0.9))
    assert halo.scale == pytest.approx(radius / 30)
    assert {string.scale for string in strings} == {1.7}
    assert np.ptp([string.angle for string in strings]) < math.pi


def test_solar_masses_of_a_squared_einstein_radius():
    universe = cosmology.FlatLambdaCDM(H0=70, Om0=0.3)
    d_l, d_s = universe.angular_diameter_distance([0.3, 0.9])
    d_ls = universe.angular_diameter_distance(0.3, 0.9)
    square = units.arcsec.to(units.rad) ** 2
    expected = square * d_l * d_s / d_ls * constants.c**2 / (4 * constants.G)
    found = solar_masses(Perturbers(z_lens=0.3, z_source=0.9))
    assert found == pytest.approx(expected.to_value(units.M_sun), rel=1e-4)
    assert math.isnan(solar_masses(Perturbers()))


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"profiles": ("point",)}, "detect"),
        ({"z_lens": 0.3}, "z_lens"),
        ({"z_source": 0.3}, "z_lens"),
        ({"z_lens": 0.5, "z_source": 0.4}, "z_source"),
        ({"profiles": ()}, "profiles"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong, key):
    with pytest.raises(ValidationError, match=key):
        Perturbers(**wrong)


# ----------------------------------------------------------------------------------- linear model


def rendered(problem, alpha=0.0, values=None, shift=(0.0, 0.0), growth=0.0, kernel=None):
    """Return the arcs in units of the noise when deflection, mass, source or PSF change."""
    o, point = problem.view.optics, problem.point
    mesh = point.solution.inversion.mesh
    values = point.values if values is None else values
    beta = np.array([o.x, o.y]) - mass.deflection(values, o.x, o.y) - alpha
    middle = np.array(mesh.center)[:, None]
    beta = middle + (beta - middle) * (1 + growth) + np.array(shift)[:, None]
    brightness = mesh.brightness(point.solution.source, *beta)
    return o.seen(brightness, kernel) * problem.posterior.weight


def slope(image, step):
    return (image(step) - image(-step)) / (2 * step)


@pytest.mark.parametrize(
    "profile", [*ROUND, Profile("string", 0.8, angle=0.4)], ids=lambda profile: profile.name
)
def test_templates_are_derivatives_of_the_image(problem, marginal, profile):
    found = marginal.templates(profile, *PLACES)
    o = problem.view.optics
    for k, (x, y) in enumerate(zip(*PLACES, strict=True)):
        unit = profile.deflection(o.x - x, o.y - y)
        expected = slope(lambda m, unit=unit: rendered(problem, m * unit), 1e-6)
        scale = abs(expected).max()
        off = found[:, k] - expected[marginal.rows]
        assert abs(off).max() < 0.1 * scale
        assert (off**2).sum() < 0.04**2 * (expected**2).sum()
        rest = np.delete(expected, marginal.rows)
        assert (rest**2).sum() < 3 * (1 - KEPT) * (expected**2).sum()


def test_columns_of_the_smooth_model_are_derivatives_of_the_image(problem, marginal):
    n_source, n_light = 81, 1
    steps = marginal.matrix[:, n_source + n_light :].T
    free, values = problem.posterior.free, problem.point.values

    def moved(k):
        unit = np.eye(len(values))[k]
        return lambda step: rendered(problem, values=values + step * unit)

    images = [moved(k) for k in free]
    images += [lambda step: rendered(problem, shift=(step, 0))]
    images += [lambda step: rendered(problem, shift=(0, step))]
    images += [lambda step: rendered(problem, growth=step)]
    assert len(steps) == len(images) + 1 + sum(added(problem))  # the PSF, and splines
    for column, image in zip(steps, images, strict=False):
        expected = slope(image, 1e-5)
        np.testing.assert_allclose(column, expected, atol=2e-3 * abs(expected).max())
    kernel = problem.scene.kernel
    expected = rendered(problem, kernel=_widened(kernel))
    np.testing.assert_allclose(steps[len(images)], expected, atol=1e-9)


@pytest.mark.parametrize("beside", BESIDE, ids=["clumps", "cusp"])
def test_splines_beside_the_mesh_lie_where_the_source_is_brightest(problem, marginal, beside):
    point, o = problem.point, problem.view.optics
    mesh, modes = point.solution.inversion.mesh, point.solution.source
    (x, y), spacing, height = _brightest(mesh, modes, beside)
    cell = mesh.half_width * 3 / math.sinh(3) * 2 / (mesh.n + 2)
    assert spacing == pytest.approx(beside.spacing * cell)
    np.testing.assert_allclose(height, mesh.brightness(modes, x, y))
    everywhere = mesh.center[0] + np.linspace(-0.5, 0.5, 201), mesh.center[1] * np.ones(201)
    brightest = mesh.brightness(modes, *everywhere).max()
    assert 0.9 * brightest < height.max() and beside.faintest * height.max() < height.min()
    apart = np.hypot(x[0] + spacing - x, y[0] - y).min()  # a regular grid
    assert apart == pytest.approx(0, abs=1e-9) or apart >= 0.99 * spacing
    unit = BSpline.basis_element(np.arange(-1.5, 2), extrapolate=False)
    first = -sum(added(problem)) + (added(problem)[0] if beside is CUSP else 0)
    for k in (0, 40, len(height) - 1):
        along = (unit((at - middle) / spacing) for at, middle in ((point.x, x[k]), (point.y, y[k])))
        expected = o.seen(math.prod(map(np.nan_to_num, along))) * problem.posterior.weight
        np.testing.assert_allclose(marginal.matrix[:, first + k], expected, atol=1e-9)
        assert marginal.precision[first + k] == pytest.approx((beside.sd * height[k]) ** -2)


def added(problem):
    """Return how many splines each of ``BESIDE`` adds."""
    solution = problem.point.solution
    return [len(_brightest(solution.inversion.mesh, solution.source, one)[2]) for one in BESIDE]


@pytest.mark.parametrize(("brightness", "cells"), [(1.0, 0.5), (0.2, 1.5)], ids=["cusp", "clump"])
def test_a_cusp_or_clump_of_the_source_is_no_perturber(problem, monkeypatch, brightness, cells):
    """Light sharper than the mesh is marginalised: where the source is brightest, and fainter."""
    point, o = problem.point, problem.view.optics
    mesh, modes = point.solution.inversion.mesh, point.solution.source
    axis = np.linspace(-0.5, 0.5, 101)
    x, y = (grid.ravel() for grid in np.meshgrid(mesh.center[0] + axis, mesh.center[1] + axis))
    found = mesh.brightness(modes, x, y)
    k = abs(found / found.max() - brightness).argmin()
    off = np.hypot(point.x - x[k], point.y - y[k])
    light = 0.3 * found[k] * np.exp(-off / (cells * mesh.finest_cell))
    seen = o.seen(light) * problem.posterior.weight
    left = [(Marginal(problem, PSF_SD).residual(seen) ** 2).sum()]
    monkeypatch.setattr(maps, "BESIDE", ())
    left.append((Marginal(problem, PSF_SD).residual(seen) ** 2).sum())
    assert left[0] < 0.3 * left[1]


def test_psf_by_its_width_is_that_of_a_gaussian():
    y, x = np.indices((21, 21)) - 10
    for sigma in (1.4, 2.0):
        kernel = np.exp(-(x**2 + y**2) / (2 * sigma**2)) / (2 * math.pi * sigma**2)
        expected = kernel * ((x**2 + y**2) / sigma**2 - 2)
        found = _widened(kernel)
        np.testing.assert_allclose(found, expected, atol=0.03 * abs(expected).max())
        assert found.sum() == pytest.approx(0, abs=1e-6)


def test_mean_and_precision_of_the_smooth_model(problem, marginal):
    posterior = problem.posterior
    free = posterior.free
    known = slice(82, 82 + len(free))
    np.testing.assert_allclose(marginal.mean[known], (TRUTH - problem.values)[free])
    sd = np.minimum(SD[free], 1e3)
    np.testing.assert_allclose(marginal.precision[known], sd**-2.0)
    assert marginal.precision[-1 - sum(added(problem))] == pytest.approx(PSF_SD**-2)
    source = problem.source_prior.precision(problem.point.solution.inversion.mesh)
    np.testing.assert_allclose(marginal.precision[:81], source)


def test_maps_are_those_of_dense_algebra(problem, marginal):
    """N = T' C^-1 (d - G mu), D = T' C^-1 T with C = 1 + G Q^-1 G'."""
    G, Q = marginal.matrix, marginal.precision
    C = np.eye(len(G)) + G / Q @ G.T
    data = problem.posterior.data
    expected = np.linalg.solve(C, data - G @ marginal.mean)
    np.testing.assert_allclose(marginal.residual(data), expected, atol=5e-3)
    many = np.stack([data, 2 * data], 1)
    np.testing.assert_allclose(marginal.residual(many)[:, 0], expected, atol=5e-3)
    T = marginal.templates(CLUMP, *PLACES)
    whole = np.zeros((len(G), 3))
    whole[marginal.rows] = T
    D = np.einsum("ij,ij->j", whole, np.linalg.solve(C, whole))
    found = information(T, marginal.whitened(T))
    np.testing.assert_allclose(found, D, rtol=2e-3)
    assert (found < 0.9 * (T**2).sum(0)).all()  # something is imitated


def test_what_the_smooth_model_can_do_is_no_perturber(problem, marginal):
    T = marginal.templates(CLUMP, *PLACES)[:, :1]
    imitated = marginal.compact[:, [82]]  # a step of the Einstein radius
    left = [float(information(t, marginal.whitened(t))[0]) / (t**2).sum() for t in (imitated, T)]
    assert left[0] < 0.02 < 0.05 < left[1]


# ------------------------------------------------------------------------------- places and peaks


def test_places_cover_the_ring(problem, grid):
    angle = np.linspace(0, 2 * math.pi, 60)
    for x, y in zip(1.1 * np.cos(angle), 1.1 * np.sin(angle), strict=True):
        assert np.hypot(grid.x - x, grid.y - y).min() < 0.15
    np.testing.assert_allclose(np.diff(grid.axis_x), 0.15)
    assert 0 in grid.axis_x.round(9) and 0 in grid.axis_y.round(9)


def test_no_place_is_far_from_what_it_changes(marginal, grid):
    height, width = SHAPE
    tall, wide = marginal.optics.kernel.shape
    y = (marginal.row - tall - (height - 1) / 2) * SCALE
    x = (marginal.column - wide - (width - 1) / 2) * SCALE
    apart = np.hypot(grid.x[:, None] - x, grid.y[:, None] - y).min(1)
    assert apart.max() < BEYOND + SCALE + 0.075 * math.sqrt(2)
    assert apart.max() > BEYOND - SCALE


def test_cleaned_takes_out_peaks_and_nothing_else(marginal, searched):
    rng = np.random.default_rng(2)
    some = np.flatnonzero(0.2 * searched.D.max() < searched.D)
    at = some[[len(some) // 5, 4 * len(some) // 5]]
    quiet = searched.significance(marginal.residual(rng.standard_normal((len(marginal.matrix), 1))))
    peaks = searched.overlap[:, at] @ np.array([9.0, 7.0])
    clean = searched.cleaned(np.stack([quiet[:, 0], quiet[:, 0] + peaks], 1))
    assert abs(clean).max() < 4
    # a map of nothing but its peaks is left empty
    assert abs(searched.cleaned(peaks[:, None])).max() < 0.1


def test_overlap_is_the_correlation_of_the_map(marginal, searched):
    rng = np.random.default_rng(3)
    drawn = data_of(marginal, 800, rng)
    snr = searched.significance(marginal.residual(drawn))
    some = np.flatnonzero(0.05 * searched.D.max() < searched.D)[::17]
    found = np.corrcoef(snr[some])
    np.testing.assert_allclose(found, searched.overlap[np.ix_(some, some)], atol=0.16)


# --------------------------------------------------------------------------------- noise and twins


def data_of(marginal, n, rng):
    """Draw data of the linear model with white noise."""
    draws = rng.standard_normal((len(marginal.precision), n)) / np.sqrt(marginal.precision)[:, None]
    noise = rng.standard_normal((len(marginal.matrix), n))
    return marginal.matrix @ (draws + marginal.mean[:, None]) + noise


def test_data_of_the_model_have_significances_of_width_one(problem, marginal, searched):
    rng = np.random.default_rng(4)
    white = np.zeros((5, 5))
    white[2, 2] = 1
    drawn = linear_data(marginal, problem, Noise(SHAPE, white), 400, rng)
    for data in (drawn + (marginal.matrix @ marginal.mean)[:, None], data_of(marginal, 400, rng)):
        snr = searched.significance(marginal.residual(data))[searched.D > 0]
        assert snr.std() == pytest.approx(1, abs=0.04)
        assert abs(snr.mean()) < 0.04
        assert abs(snr.mean(1)).max() < 0.25


def test_a_perturber_comes_back_with_its_mass(marginal, searched):
    rng = np.random.default_rng(5)
    k = int(searched.D.argmax())
    mass = 8 / math.sqrt(searched.D[k])
    data = data_of(marginal, 300, rng)
    data[marginal.rows] += mass * searched.templates[:, [k]]
    snr = searched.significance(marginal.residual(data))
    assert snr[k].mean() == pytest.approx(8, abs=0.25)
    assert snr[k].std() == pytest.approx(1, abs=0.15)


def correlated(rng, shape=(120, 130)):
    """Noise of variance 0.4 that pixels beside each other share, and its covariance."""
    row = np.array([0.25, 0.5, 0.25])
    white = rng.standard_normal((shape[0] + 2, shape[1] + 2))
    noise = sum(
        row[a] * row[b] * white[a : a + shape[0], b : b + shape[1]]
        for a in range(3)
        for b in range(3)
    )
    share = np.convolve(row, row)
    scale = 0.4 / share[2] ** 2
    return math.sqrt(scale) * noise, scale * np.outer(share, share)


def sky(shape, noise=1.0):
    """A problem of which nothing but its noise is asked for."""
    zero, ones = np.zeros(shape), np.full(shape, noise)
    scene = Scene(zero, ones, zero == 0, np.ones((1, 1)), 0.05, None, zero, zero[None], (0, 0), 0.1)
    return Problem(scene, zero == 0, ones, ones, None, TRUTH, None, None)


def test_correlation_of_the_noise_is_measured_where_there_is_sky():
    rng = np.random.default_rng(6)
    noise, lags = correlated(rng)
    arcs = np.zeros(noise.shape)
    arcs[40:70, 40:70] = 5.0
    noise[50, 50] = 400.0  # in the arcs: not looked at
    found = noise_lags(sky(noise.shape), noise, arcs)
    np.testing.assert_allclose(found, lags, atol=0.05)
    white = noise_lags(sky(noise.shape), rng.standard_normal(noise.shape), 0 * arcs)
    assert white[2, 2] == pytest.approx(1, abs=0.05)
    assert np.count_nonzero(white) <= 3  # but for accidents, others are none at all


def test_too_little_sky_tells_no_correlation():
    noise = np.random.default_rng(7).standard_normal((30, 30))
    arcs = np.full(noise.shape, 5.0)
    assert np.count_nonzero(noise_lags(sky(noise.shape), noise, arcs)) == 1


def test_noise_is_drawn_with_its_correlation():
    rng = np.random.default_rng(8)
    _, lags = correlated(rng)
    drawn = np.array([Noise((50, 41), lags).draw(rng) for _ in range(60)])
    assert drawn.shape == (60, 50, 41)
    for a in range(4):
        for b in range(4):
            found = (drawn[:, a:, b:] * drawn[:, : 50 - a, : 41 - b]).mean()
            expected = lags[2 + a, 2 + b] if max(a, b) < 3 else 0.0
            assert found == pytest.approx(expected, abs=0.02)
    # opposite edges share nothing
    assert (drawn[:, 0] * drawn[:, -1]).mean() == pytest.approx(0, abs=0.05)


def test_p_value_counts_the_lens_itself():
    scores = np.array([1.0, 2.0, 3.0, 4.0])
    assert p_value(5.0, scores) == pytest.approx(1 / 5)
    assert p_value(3.0, scores) == pytest.approx(3 / 5)
    assert p_value(0.0, scores) == 1
    assert math.isnan(p_value(3.0, np.array([])))


# --------------------------------------------------------------------------------------- the whole

SETTINGS = Perturbers(
    profiles=("point", "isothermal", "string"), peaks=0, twins=60, spacing=0.15, seed=3
)


@pytest.fixture(scope="module")
def model():
    population = load_population("marginal").model_copy(update={"num_pix": 60})
    settings = FreeForm(
        lens_light=False,
        neighbours=False,
        cosmic_rays=False,
        splines=12,
        most_splines=12,
        supersampling=1,
        theta_E=(0.9, 1.5),
    )
    return fit(observed(3, "no_sub", 77, population), settings)


@pytest.fixture(scope="module")
def found(model):
    return search(model, SETTINGS)


def test_a_smooth_lens_scores_as_its_twins_do(found):
    snr = found.maps["isothermal"].snr
    assert 0.6 < np.sqrt(np.nanmean(snr**2)) < 1.6
    assert found.p_value == p_value(found.score, found.twin_scores)
    assert len(found.twin_scores) == 60
    assert found.p_value > 0.02
    largest = np.nanmax(snr)
    assert found.score == pytest.approx(largest / max(1, found.misfit), rel=1e-6)
    assert 0.5 < found.misfit < 1.5


def test_the_same_search_twice(model, found):
    again = search(model, SETTINGS)
    for name, first in found.maps.items():
        for values in ("amplitude", "error"):
            np.testing.assert_array_equal(getattr(again.maps[name], values), getattr(first, values))
    np.testing.assert_array_equal(again.twin_scores, found.twin_scores)
    assert again.score == found.score
    other = search(model, SETTINGS.model_copy(update={"seed": 4}))
    assert not np.array_equal(other.twin_scores, found.twin_scores)


def test_maps_lie_on_their_grid(found):
    image = found.image(found.maps["isothermal"].snr)
    assert image.shape == (len(found.axis_y), len(found.axis_x))
    row, column = np.argwhere(np.isfinite(image))[5]
    at = np.hypot(found.x - found.axis_x[column], found.y - found.axis_y[row]).argmin()
    assert image[row, column] == found.maps["isothermal"].snr[at]
    strings = found.maps["string"]
    told = np.isfinite(strings.snr)
    assert 0.15 < told.mean() < 0.35  # every other place
    assert np.nanmean(strings.snr) > 0.5  # the best of some directions
    assert set(strings.angle[told].round(9)) <= {round(k * math.pi / 6, 9) for k in range(6)}


def test_sensitivity_is_the_mass_of_some_significance(model, found):
    error = found.maps["point"].error
    np.testing.assert_allclose(found.sensitivity("point", 3.0), 3 * error)
    redshifts = {"z_lens": 0.5, "z_source": 1.0, "profiles": ("isothermal",)}
    known = search(model, SETTINGS.model_copy(update=redshifts))
    np.testing.assert_allclose(
        known.sensitivity("isothermal"),
        5 * known.maps["isothermal"].error * solar_masses(known.settings),
    )


def test_without_twins_there_is_no_p_value(model):
    found = search(model, SETTINGS.model_copy(update={"twins": 0, "profiles": ("isothermal",)}))
    assert math.isnan(found.p_value) and not len(found.twin_scores)
    assert found.score > 0


def test_a_blank_image_has_no_arcs():
    blank = Observation(np.zeros((40, 40)), noise=1.0, psf=0.1, pixel_scale=0.08, name="blank")
    fast = FreeForm(splines=8, most_splines=8, supersampling=1, theta_E=(0.8, 0.9))
    with pytest.raises(InputError, match="blank: found no arcs .* expected a lensed source"):
        search(fit(blank, fast), Perturbers(profiles=("point",), detect="point", peaks=0, twins=0))
