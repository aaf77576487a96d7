"""The forward model against lenstronomy and against analytic lenses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.SimulationAPI.ObservationConfig.HST import HST
from lenstronomy.SimulationAPI.sim_api import SimAPI
from oracle import with_lenstronomy
from scipy import integrate, ndimage

from vitdm.simulation import System, draw, render, smooth
from vitdm.simulation.cosmology import theta_E_point, tidal_radius
from vitdm.simulation.light import total_flux
from vitdm.simulation.population import load_population

ROOT = Path(__file__).parents[2]


def load(name):
    return load_population(name)


MODEL_I = load("model_i")
POPULATIONS = {name: load(name) for name in ("model_i", "marginal", "realistic")}
DRAWN = [(name, kind) for name, p in POPULATIONS.items() for kind in p.class_fractions]


def camera(pixel_scale, num_pix, psf_fwhm=1e-3):
    """Model I on other pixels; by default with a PSF far smaller than them."""
    update = {"pixel_scale": pixel_scale, "psf_fwhm": psf_fwhm}
    instrument = MODEL_I.instrument.model_copy(update=update)
    cosmology = MODEL_I.cosmology.model_copy(update={"distances": "angular_diameter"})
    update = {"instrument": instrument, "num_pix": num_pix, "cosmology": cosmology}
    return MODEL_I.model_copy(update=update)


def lens(theta_E=0.0, source=(0.0, 0.0), R_sersic=0.05, n_sersic=0.5, **values):
    """A round source behind a round halo, or behind none."""
    light = {"amp": 1.0, "R_sersic": R_sersic, "n_sersic": n_sersic, "e1": 0.0, "e2": 0.0}
    light |= {"center_x": source[0], "center_y": source[1]}
    shape = dict.fromkeys(("e1", "e2", "gamma1", "gamma2"), 0.0)
    return System(theta_E=theta_E, theta_E_halo=theta_E, source=light, **(shape | values))


def point(theta_E):
    """A point mass of this Einstein radius at the centre."""
    mass = (theta_E / theta_E_point(1.0, camera(0.1, 16).cosmology)) ** 2
    return {"x": np.zeros(1), "y": np.zeros(1), "masses": np.array([mass])}


def grid(population):
    n, scale = population.num_pix, population.instrument.pixel_scale
    y, x = (np.indices((n, n)) - (n - 1) / 2) * scale
    return x, y


# ------------------------------------------------------------------------------ lenstronomy


@pytest.mark.parametrize(("name", "kind"), DRAWN)
def test_images_are_those_of_lenstronomy(name, kind):
    population = POPULATIONS[name]
    for index in range(3):
        system = draw(index, kind, 5, population)
        expected = with_lenstronomy(system, population)
        image = render(system, population)
        np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6 * expected.max())
        if kind != "no_sub":
            change = np.abs(image - render(smooth(system), population)).max()
            assert change > 3e-4 * expected.max()  # the substructure does something


def test_a_round_halo_and_an_odd_number_of_pixels():
    """At the centre of the halo deflections have no direction, at q = 1 the SIE no formula."""
    population = camera(0.05, 51)
    system = lens(1.0, (0.2, 0.1), R_sersic=0.3, n_sersic=1.0)
    image = render(system, population)
    assert np.isfinite(image).all()
    expected = with_lenstronomy(system, population)
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6 * expected.max())


@pytest.mark.parametrize("name", ["model_ii", "model_iii"])
@pytest.mark.parametrize("kind", ["no_sub", "cdm", "axion"])
@pytest.mark.filterwarnings("ignore:Cosmology is provided")
def test_models_ii_and_iii_are_those_of_the_simulation_api(name, kind):
    """SimAPI with deflections for z = 2.5, a source at z = 1 and the cosmology of pyHalo."""
    vis = {"exposure_time": 565.0, "num_exposures": 4, "sky_brightness": 22.35, "seeing": 0.16}
    vis |= {"magnitude_zero_point": 24.0, "read_noise": 4.2, "pixel_scale": 0.101, "ccd_gain": 3.1}
    wfc3 = HST(band="WFC3_F160W", psf_type="GAUSSIAN").kwargs_single_band()
    population = load(name)
    system = draw(1, kind, 3, population)
    as_coded = population.cosmology.model_copy(update={"z_source_convention": None})
    assert theta_E_point(1e12, as_coded) == pytest.approx(1.2815, abs=5e-4)
    lenses = [{"theta_E": theta_E_point(1e12, as_coded), "e1": 0.1, "e2": 0.0}]
    lenses += [{"gamma1": 0.05, "gamma2": 0.0}]
    theta = theta_E_point(system.masses, as_coded)
    for t, x, y in zip(theta, system.x, system.y, strict=True):
        lenses.append({"theta_E": t, "center_x": x, "center_y": y})
    names = ["SIE", "SHEAR"] + ["POINT_MASS"] * len(theta)
    model = {
        "lens_model_list": names,
        "lens_redshift_list": [0.5] * len(names),
        "source_light_model_list": ["SERSIC_ELLIPSE"],
        "source_redshift_list": [1.0],
        "cosmo": FlatLambdaCDM(H0=69.7, Om0=0.2814, Ob0=0.0464),
        "z_source_convention": 2.5,
        "z_source": 1.0,
    }
    band = vis if name == "model_ii" else wfc3
    api = SimAPI(num_pix=64, kwargs_single_band=band, kwargs_model=model)
    place = {key: system.source[key] for key in ("center_x", "center_y")}
    source = {"magnitude": 20, "R_sersic": 0.25, "n_sersic": 1, "e1": -0.1, "e2": 0.1, **place}
    _, (source,), _ = api.magnitude2amplitude(None, [source])
    expected = api.image_model_class({"point_source_supersampling_factor": 1}).image(
        lenses, [source], None
    )
    image = render(system, population)
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6 * expected.max())
    assert population.instrument.background_rms == pytest.approx(api.background_noise)
    assert population.instrument.exposure_time.values == (api.exposure_time,)


def test_total_flux():
    light = {"R_sersic": 0.3, "e1": 0.2, "e2": -0.1, "center_x": 0.0, "center_y": 0.0}
    for n in (0.5, 1.0, 2.5, 4.0):
        values = [light | {"amp": 1.0, "n_sersic": n}]
        expected = LightModel(["SERSIC_ELLIPSE"]).total_flux(values, norm=True)[0]
        assert total_flux(light | {"n_sersic": n}) == pytest.approx(expected)
    light |= {"amp": 2.0, "n_sersic": 1.0}  # an exponential: the image holds all of it
    image = render(replace(lens(), source=light), camera(0.02, 250))
    assert image.sum() == pytest.approx(2 * total_flux(light), rel=2e-3)


# ------------------------------------------------------------------------------ mass and angle


def test_einstein_radius_of_a_point_mass():
    right = POPULATIONS["marginal"].cosmology
    assert theta_E_point(1e12, right) == pytest.approx(1.6645, abs=5e-5)
    assert theta_E_point(1e12, MODEL_I.cosmology) == pytest.approx(1.2815, abs=5e-5)
    np.testing.assert_allclose(
        theta_E_point(np.array([1e8, 1e10]), right), [0.016645, 0.16645], rtol=1e-4
    )


@pytest.mark.parametrize(("z_lens", "z_source"), [(0.5, 1.0), (0.2, 2.5)])
def test_einstein_radius_from_distances_by_quadrature(z_lens, z_source):
    """sqrt(4 G M / c² · D_LS / (D_L D_S)) with the flat cosmology's integral done here."""

    def comoving(z):  # in Mpc; radiation (below 1e-4 of the total) left out
        speed = 299792.458 / 70
        return speed * integrate.quad(lambda x: (0.3 * (1 + x) ** 3 + 0.7) ** -0.5, 0, z)[0]

    def changed(**update):
        update |= {"z_lens": z_lens, "z_source": z_source}
        return MODEL_I.cosmology.model_copy(update=update)

    schwarzschild = 4 * 4.7857e-20  # G Msun / c² = 1.47663 km, in Mpc
    near, far = comoving(z_lens), comoving(z_source)
    right = schwarzschild * 1e12 * (far - near) / (near * far) * (1 + z_lens)
    right = np.sqrt(right) * 180 / np.pi * 3600
    angular = changed(distances="angular_diameter")
    assert theta_E_point(1e12, angular) == pytest.approx(right, rel=1e-3)
    # a source at z = 3 bends light by 1 - near / far of the way; all deflections follow
    third = comoving(3.0)
    scale = (1 - near / far) / (1 - near / third)
    moved = changed(distances="angular_diameter", z_source_convention=3.0)
    assert theta_E_point(1e12, moved) == pytest.approx(right * np.sqrt(scale), rel=1e-3)
    near, far = near * (1 + z_lens), far * (1 + z_source)
    coded = np.sqrt(schwarzschild * 1e12 * (far - near) / (near * far)) * 180 / np.pi * 3600
    assert theta_E_point(1e12, changed()) == pytest.approx(coded, rel=1e-3)
    if z_lens == 0.5:
        assert coded / right == pytest.approx(0.770, abs=5e-4)


def test_tidal_radius():
    """b = theta^2 / a before the cut, a = sqrt(b theta_E)."""
    theta = np.array([0.01, 0.1])
    a = tidal_radius(theta, 1.2)
    np.testing.assert_allclose(a, np.sqrt(theta**2 / a * 1.2))


# ------------------------------------------------------------------------------ analytic lenses


@pytest.mark.parametrize("kind", ["isothermal", "point"])
def test_a_source_on_the_axis_is_a_ring_at_theta_E(kind):
    population = camera(0.02, 200)
    system = lens(1.2) if kind == "isothermal" else lens(**point(1.2))
    image = render(system, population)
    x, y = grid(population)
    radius = np.average(np.hypot(x, y), weights=image)
    assert radius == pytest.approx(1.2, abs=0.003)
    sectors = np.digitize(np.arctan2(y, x), np.linspace(-np.pi, np.pi, 13))
    light = ndimage.sum_labels(image, sectors, range(1, 13))
    np.testing.assert_allclose(light, light.mean(), rtol=0.02)  # all around


@pytest.mark.parametrize("beta", [0.3, 0.6])
@pytest.mark.parametrize("kind", ["isothermal", "point"])
def test_two_images_of_a_source_off_the_axis(kind, beta):
    """Positions and magnifications (Narayan & Bartelmann 1996, sections 3.1 and 3.2)."""
    theta, population = 0.8, camera(0.005, 640)
    tiny = {"source": (beta, 0.0), "R_sersic": 0.01}
    if kind == "isothermal":
        image = render(lens(theta, **tiny), population)
        places = beta + theta, beta - theta
        magnifications = 1 + theta / beta, theta / beta - 1
        assert places[0] - places[1] == pytest.approx(2 * theta)
    else:
        image = render(lens(**tiny, **point(theta)), population)
        root, u = np.hypot(beta, 2 * theta), beta / theta
        places = (beta + root) / 2, (beta - root) / 2
        mean = (u**2 + 2) / (2 * u * np.sqrt(u**2 + 4))
        magnifications = mean + 0.5, mean - 0.5
    unlensed = render(lens(**tiny), population).sum()
    x, _ = grid(population)
    for side, place, magnification in zip((x > 0, x < 0), places, magnifications, strict=True):
        flux = image[side].sum()
        assert np.average(x[side], weights=image[side]) == pytest.approx(place, abs=0.004)
        assert flux / unlensed == pytest.approx(magnification, rel=0.02)


def test_an_ellipsoid_becomes_a_sphere():
    """The difference from an isothermal sphere, written out pixel by pixel, goes as e."""
    population = camera(0.05, 80)
    x, y = grid(population)
    r = np.hypot(x, y)
    source = np.hypot(x - x / r - 0.2, y - y / r + 0.1)
    expected = np.exp(-(1.9992 - 0.3271) * (source / 0.4 - 1)) * 0.05**2
    system = lens(1.0, (0.2, -0.1), R_sersic=0.4, n_sersic=1.0)
    differences = []
    for e in (0.0, 1e-4, 1e-3, 1e-2):
        image = render(replace(system, e1=e * np.cos(1.0), e2=e * np.sin(1.0)), population)
        differences.append(np.abs(image - expected).max() / expected.max())
    assert differences[0] < 1e-7
    np.testing.assert_allclose(
        np.array(differences[1:]) / differences[3], [1e-2, 0.1, 1], rtol=0.05
    )


def test_shear_alone_stretches_the_source_into_an_ellipse():
    population = camera(0.05, 80)
    gamma1, gamma2 = 0.06, -0.08
    image = render(lens(R_sersic=0.2, n_sersic=1.0, gamma1=gamma1, gamma2=gamma2), population)
    x, y = grid(population)
    beta = np.hypot((1 - gamma1) * x - gamma2 * y, (1 + gamma1) * y - gamma2 * x)
    expected = np.exp(-(1.9992 - 0.3271) * (beta / 0.2 - 1)) * 0.05**2
    np.testing.assert_allclose(image, expected, rtol=1e-9)
    # its moments: axes 1 / (1 -+ gamma) of the source's, |gamma| = 0.1
    moments = [np.average(a * b, weights=image) for a, b in ((x, x), (x, y), (y, y))]
    small, large = np.linalg.eigvalsh([moments[:2], moments[1:]])
    assert np.sqrt(large / small) == pytest.approx(1.1 / 0.9, rel=5e-3)


def test_shear_turns_the_ring_into_an_ellipse():
    """On the axes of the shear the images of the centre are at theta_E / (1 -+ gamma1)."""
    population = camera(0.01, 401)
    image = render(lens(1.0, gamma1=0.1), population)
    axis = (np.arange(401) - 200) * 0.01
    along, across = image[200, 201:], image[201:, 200]
    assert np.average(axis[201:], weights=along) == pytest.approx(1 / 0.9, abs=0.004)
    assert np.average(axis[201:], weights=across) == pytest.approx(1 / 1.1, abs=0.004)


def test_a_point_mass_bends_the_light_near_it():
    """Halo and clumps, written out pixel by pixel."""
    population = camera(0.05, 80)
    system = lens(1.0, (-0.1, 0.3), R_sersic=0.4, n_sersic=1.0)
    places = {"x": np.array([0.8, -1.1]), "y": np.array([0.9, 0.3])}
    system = replace(system, masses=np.array([1e10, 4e9]), **places)
    x, y = grid(population)
    r = np.hypot(x, y)
    beta_x, beta_y = x - x / r, y - y / r
    for px, py, mass in zip(system.x, system.y, system.masses, strict=True):
        squared = 1.6645e-6**2 * mass / np.hypot(x - px, y - py) ** 2
        beta_x, beta_y = beta_x - squared * (x - px), beta_y - squared * (y - py)
    source = np.hypot(beta_x + 0.1, beta_y - 0.3)
    expected = np.exp(-(1.9992 - 0.3271) * (source / 0.4 - 1)) * 0.05**2
    image = render(system, population)
    np.testing.assert_allclose(image, expected, rtol=0, atol=3e-4 * expected.max())


def test_a_truncated_subhalo_keeps_its_mass():
    """Far away it pulls like the point mass, inside the cut like an isothermal sphere."""
    population = camera(0.001, 101, psf_fwhm=1e-5)
    mass = 1e9
    theta = theta_E_point(mass, population.cosmology)
    a = tidal_radius(theta, 1.0)

    def source_of(place, truncation):
        """Where the ray at the centre of the image comes from, by a source with a known slope."""
        system = lens(R_sersic=1.0, n_sersic=1.0, source=(5.0, 0.0), theta_E=1.0)
        system = replace(system, theta_E_halo=0.0, masses=np.array([mass]))
        system = replace(system, truncation=truncation, x=np.array([-place]), y=np.zeros(1))
        centre = render(system, population)[50, 50] / 0.001**2
        return 5 - (1 - np.log(centre) / (1.9992 - 0.3271))

    for r in (40 * a, 0.02 * a):
        expected = -(theta**2) / a * (a + r - np.hypot(a, r)) / r
        assert source_of(r, np.array([a])) == pytest.approx(expected, rel=2e-3)
    assert source_of(40 * a, None) == pytest.approx(-(theta**2) / (40 * a), rel=2e-3)
    assert source_of(40 * a, np.array([a])) == pytest.approx(source_of(40 * a, None), rel=0.02)


def test_psf_is_a_gaussian_that_keeps_the_flux():
    system = lens(1.2, (0.1, 0.0), R_sersic=0.1, n_sersic=1.0)
    sharp = render(system, camera(0.05, 81))
    population = camera(0.05, 81, psf_fwhm=0.15)
    instrument = population.instrument.model_copy(update={"psf_truncation": 6.0})
    blurred = render(system, population.model_copy(update={"instrument": instrument}))
    assert blurred.sum() == pytest.approx(sharp.sum(), rel=1e-4)
    sigma = 0.15 / np.sqrt(8 * np.log(2))
    x, y = grid(camera(0.05, 31))
    kernel = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    expected = ndimage.convolve(sharp, kernel / kernel.sum(), mode="constant")
    np.testing.assert_allclose(blurred, expected, atol=1e-4 * sharp.max())
    assert blurred.max() < 0.9 * sharp.max()


def test_loops_compile_without_a_place_for_the_cache():
    """Code without a file, as anything in a folder that cannot be written, has no cache."""
    from vitdm.compiled import compiled

    names = {}
    exec("def double(x):\n    return 2 * x", names)
    assert compiled(names["double"])(3) == 6
