"""Simulated lenses against analytic lens equations, distributions and noise."""

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, ndimage, stats

from vitdm import simulate
from vitdm.config import InputError, Population
from vitdm.dataset import Dataset, merge

MODEL_I = Population(name="model_i", description="")
ANGULAR = MODEL_I.model_copy(update={"distances": "angular_diameter"})
SINGLE = MODEL_I.model_copy(update={"noise": "single"})
NONE = (np.empty(0), np.empty(0), np.empty(0))


def changed(**values):
    return MODEL_I.model_copy(update=values)


# ------------------------------------------------------------------------------ physics


def test_einstein_radius_of_the_halo():
    assert simulate.theta_E_point(1e12, ANGULAR) == pytest.approx(1.6645, abs=5e-4)
    assert simulate.theta_E_point(1e12, MODEL_I) == pytest.approx(1.2815, abs=5e-4)
    assert simulate.theta_E_point(1e8, ANGULAR) == pytest.approx(1.6645e-2, rel=3e-4)


@pytest.mark.parametrize(("z_lens", "z_source"), [(0.5, 1.0), (0.2, 2.5)])
def test_einstein_radius_from_distances_by_quadrature(z_lens, z_source):
    """sqrt(4 G M / c² · D_LS / (D_L D_S)) with the flat cosmology's integral done here."""

    def comoving(z):  # in Mpc; radiation (below 1e-4 of the total) left out
        speed = 299792.458 / 70
        return speed * integrate.quad(lambda x: (0.3 * (1 + x) ** 3 + 0.7) ** -0.5, 0, z)[0]

    schwarzschild = 4 * 4.7857e-20  # G Msun / c² = 1.47663 km, in Mpc
    near, far = comoving(z_lens), comoving(z_source)
    update = {"z_lens": z_lens, "z_source": z_source}
    right = schwarzschild * 1e12 * (far - near) / (near * far) * (1 + z_lens)
    arcsec = 180 / np.pi * 3600
    population = ANGULAR.model_copy(update=update)
    assert simulate.theta_E_point(1e12, population) == pytest.approx(
        np.sqrt(right) * arcsec, rel=1e-3
    )
    near, far = near * (1 + z_lens), far * (1 + z_source)
    coded = np.sqrt(schwarzschild * 1e12 * (far - near) / (near * far)) * arcsec
    assert simulate.theta_E_point(1e12, changed(**update)) == pytest.approx(coded, rel=1e-3)
    if z_lens == 0.5:
        assert coded / (np.sqrt(right) * arcsec) == pytest.approx(0.770, abs=5e-4)


@pytest.mark.parametrize("slope", [-0.9, -1.0, -1.9])
def test_subhalo_masses_follow_their_power_law(slope):
    population = changed(subhalo_mass_slope=slope)
    masses = simulate.draw_subhalo_masses(np.random.default_rng(1), 5000, population)
    assert masses.min() >= 1e6 and masses.max() <= 1e10

    def cumulative(m):  # integral of m^slope from 1e6, normalised
        if slope == -1:
            return np.log(m / 1e6) / np.log(1e4)
        power = slope + 1
        return (m**power - 1e6**power) / (1e10**power - 1e6**power)

    assert stats.kstest(masses, cumulative).pvalue > 0.01


def test_subhalos_lie_in_their_ring():
    population = changed(n_subhalos=4000)
    x, y, masses, truth = simulate.draw_substructure("cdm", np.random.default_rng(2), population)
    assert stats.kstest(np.hypot(x, y), stats.uniform(0.25, 1.75).cdf).pvalue > 0.01
    assert stats.kstest(np.arctan2(y, x), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 0.01
    assert truth == {
        "n_subhalos": 4000,
        "max_subhalo_mass": masses.max(),
        "substructure_mass": masses.sum(),
    }


def test_number_of_subhalos():
    def numbers(population):
        rng = np.random.default_rng(3)
        draws = (simulate.draw_substructure("cdm", rng, population) for _ in range(800))
        return np.array([len(masses) for _, _, masses, _ in draws])

    assert (numbers(MODEL_I) == 25).all()
    poisson = numbers(changed(n_subhalos_distribution="poisson"))
    assert poisson.mean() == pytest.approx(25, abs=0.7)  # standard error 0.18
    assert poisson.var() == pytest.approx(25, abs=5)  # standard error 1.3


@pytest.mark.parametrize(("log_mass", "length"), [(-24, 6.0), (-23, 0.6), (-22, 0.06)])
def test_vortex_is_a_straight_even_string(log_mass, length):
    population = changed(log10_axion_mass=(log_mass, log_mass))
    x, y, masses, truth = simulate.draw_substructure("axion", np.random.default_rng(4), population)
    assert np.hypot(x[-1] - x[0], y[-1] - y[0]) == pytest.approx(length)
    steps = np.hypot(np.diff(x), np.diff(y))
    np.testing.assert_allclose(steps, length / 99)
    np.testing.assert_allclose(x * y[0] - y * x[0], 0, atol=1e-12)  # through the centre
    assert x.sum() == pytest.approx(0, abs=1e-9) and y.sum() == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(masses, 3e8)
    assert masses.sum() == pytest.approx(3e10)
    assert truth["vortex_length"] == pytest.approx(length)
    assert truth["axion_mass"] == pytest.approx(10.0**log_mass)


def test_vortex_mass_and_direction_are_drawn_evenly():
    rng = np.random.default_rng(5)
    draws = [simulate.draw_substructure("axion", rng, MODEL_I) for _ in range(800)]
    logs = [np.log10(truth["axion_mass"]) for *_, truth in draws]
    assert stats.kstest(logs, stats.uniform(-24, 2).cdf).pvalue > 0.01
    angles = [np.arctan2(y[-1], x[-1]) for x, y, *_ in draws]
    assert stats.kstest(angles, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 0.01


def test_source_and_exposure_are_drawn_from_their_ranges(monkeypatch):
    monkeypatch.setattr(simulate, "render", lambda *_: np.zeros((2, 2)))
    truths = [simulate.simulate_one(i, "no_sub", 0, MODEL_I)[1] for i in range(800)]
    table = pd.DataFrame(truths)
    for name in ("source_x", "source_y"):
        assert table[name].between(-0.35, 0.35).all()
        assert stats.kstest(table[name], stats.uniform(-0.35, 0.7).cdf).pvalue > 0.01
    assert abs(table["source_x"].corr(table["source_y"])) < 0.11  # 3 standard errors
    exposure = np.log10(table["exposure_time"])
    assert stats.kstest(exposure, stats.uniform(3, 0.5).cdf).pvalue > 0.01


def test_a_class_that_cannot_be_simulated():
    with pytest.raises(InputError, match="class 'sub'.*expected no_sub, cdm or axion"):
        simulate.draw_substructure("sub", np.random.default_rng(0), MODEL_I)


# ------------------------------------------------------------------------------ images

ROUND = {"e1": 0.0, "e2": 0.0, "gamma1": 0.0, "gamma2": 0.0, "source_e1": 0.0, "source_e2": 0.0}
SHARP = changed(**ROUND, psf_fwhm=1e-3, num_pix=81, source_R_sersic=0.4)


def analytic(population, source, theta_halo=0.0, shear=(0.0, 0.0), points=()):
    """Image of a round exponential disk: the lens equation, written out pixel by pixel."""
    n, scale = population.num_pix, population.pixel_scale
    y, x = (np.indices((n, n)) - (n - 1) / 2) * scale
    r = np.hypot(x, y).clip(1e-9)
    beta_x = x * (1 - theta_halo / r) - shear[0] * x - shear[1] * y
    beta_y = y * (1 - theta_halo / r) - shear[1] * x + shear[0] * y
    for px, py, theta in points:
        squared = ((x - px) ** 2 + (y - py) ** 2).clip(1e-12)
        beta_x, beta_y = (
            beta_x - theta**2 * (x - px) / squared,
            beta_y - theta**2 * (y - py) / squared,
        )
    radius = np.hypot(beta_x - source[0], beta_y - source[1]) / population.source_R_sersic
    # n = 1: half of the light within the effective radius, b = 1.678 (lenstronomy: 1.6721)
    return population.source_amp * np.exp(-1.672 * (radius - 1)) * scale**2


def away_from(image, *centres, scale=0.05, radius=0.2):
    """True where the image is not within ``radius`` of a point, at which deflections diverge."""
    y, x = (np.indices(image.shape) - (len(image) - 1) / 2) * scale
    return np.all([np.hypot(x - a, y - b) > radius for a, b in ((0, 0), *centres)], axis=0)


def test_isothermal_sphere_with_shear_is_the_lens_equation():
    population = SHARP.model_copy(update={"gamma1": 0.05, "gamma2": -0.1})
    image = simulate.render(population, 0.2, -0.1, *NONE)
    theta = simulate.theta_E_point(1e12, population)
    expected = analytic(population, (0.2, -0.1), theta, (0.05, -0.1))
    np.testing.assert_allclose(image, expected, rtol=2e-3, atol=1e-5)


def test_point_masses_add_to_the_deflection():
    x, y, masses = np.array([0.8, -1.1]), np.array([0.9, 0.3]), np.array([1e10, 4e9])
    image = simulate.render(SHARP, -0.1, 0.3, x, y, masses)
    theta = 1.2815e-6 * np.sqrt(masses)
    points = list(zip(x, y, theta, strict=True))
    expected = analytic(SHARP, (-0.1, 0.3), simulate.theta_E_point(1e12, SHARP), points=points)
    far = away_from(image, *zip(x, y, strict=True))
    np.testing.assert_allclose(image[far], expected[far], rtol=3e-3, atol=1e-5)
    smooth = simulate.render(SHARP, -0.1, 0.3, *NONE)
    assert np.abs(image - smooth)[far].max() > 0.05 * smooth.max()  # the masses do something


def test_source_behind_a_point_mass_is_a_ring_at_theta_E():
    update = {"halo_mass": 1e-6, "source_R_sersic": 0.05, "num_pix": 80}
    image = simulate.render(
        SHARP.model_copy(update=update), 0, 0, np.zeros(1), np.zeros(1), np.array([1e12])
    )
    y, x = (np.indices(image.shape) - 39.5) * 0.05
    ring = np.hypot(x, y)[image > 0.6 * image.max()]
    assert np.abs(ring - 1.2815).max() < 0.05  # a pixel
    angles = np.arctan2(y, x)[image > 0.6 * image.max()]
    assert np.diff(np.sort(angles)).max() < 0.3  # all around


def test_psf_is_a_gaussian_that_keeps_the_flux():
    sharp = simulate.render(SHARP.model_copy(update={"source_R_sersic": 0.1}), 0.1, 0, *NONE)
    update = {"source_R_sersic": 0.1, "psf_fwhm": 0.15, "psf_truncation": 6}
    blurred = simulate.render(SHARP.model_copy(update=update), 0.1, 0, *NONE)
    assert blurred.sum() == pytest.approx(sharp.sum(), rel=2e-3)
    sigma = 0.15 / np.sqrt(8 * np.log(2)) / 0.05
    expected = ndimage.gaussian_filter(sharp, sigma, truncate=6, mode="constant")
    np.testing.assert_allclose(blurred, expected, atol=1e-4 * sharp.max())
    assert blurred.max() < 0.9 * sharp.max()


# ------------------------------------------------------------------------------ noise


@pytest.mark.parametrize(("population", "poissons"), [(SINGLE, 1), (MODEL_I, 2)])
def test_noise_of_a_bright_pixel(population, poissons):
    counts = simulate.add_noise(
        np.full((400, 400), 0.5), 2000, np.random.default_rng(6), population
    )
    assert counts.mean() == pytest.approx(1000, rel=1e-3)
    assert counts.var() == pytest.approx(poissons * 1000 + (0.01 * 2000) ** 2, rel=0.02)


def test_double_poisson_is_clipped_whole_numbers():
    counts = simulate.add_noise(np.zeros((400, 400)), 2000, np.random.default_rng(7), MODEL_I)
    assert (counts >= 0).all() and (counts == counts.round()).all()
    # half is clipped; of the rest, e^-x of the pixels with x counts draw a zero
    x = stats.norm(0, 20)
    zeros = 0.5 + integrate.quad(lambda v: x.pdf(v) * np.exp(-v), 0, 200)[0]
    assert (counts == 0).mean() == pytest.approx(zeros, abs=0.005)
    single = simulate.add_noise(np.zeros((400, 400)), 2000, np.random.default_rng(7), SINGLE)
    assert single.std() == pytest.approx(20, rel=0.01) and (single < 0).mean() > 0.49


def test_images_of_model_i_have_many_zeros():
    image, _ = simulate.simulate_one(0, "no_sub", 0, MODEL_I)
    assert image.dtype == np.float32 and image.shape == (150, 150)
    assert (image == 0).mean() >= 0.35


# ------------------------------------------------------------------------------ data sets


def test_shards_merge_to_the_same_bytes(tmp_path, population, settings, lenses):
    shards = [tmp_path / str(k) for k in range(3)]
    for k, shard in enumerate(shards):
        simulate.simulate(population, settings.n_images, 7, shard, (k, 3), progress=False)
    assert [len(Dataset.open(shard).images) for shard in shards] == [16, 16, 16]
    merge(shards[::-1], tmp_path / "merged")
    for name in ("images.npy", "catalog.csv"):
        assert (tmp_path / "merged" / name).read_bytes() == (lenses / name).read_bytes()


def test_seed_and_number_give_the_image(population):
    first, truth = simulate.simulate_one(3, "cdm", 7, population)
    again, _ = simulate.simulate_one(3, "cdm", 7, population)
    np.testing.assert_array_equal(first, again)
    for index, seed in ((4, 7), (3, 8)):
        other, different = simulate.simulate_one(index, "cdm", seed, population)
        assert (other != first).mean() > 0.3 and different["source_x"] != truth["source_x"]


@pytest.mark.parametrize("n", [48, 1400, 14000])
def test_classes_are_exact_fractions_in_random_order(n):
    kinds = simulate.class_of_each(n, 0, MODEL_I)
    counts = {name: kinds.count(name) for name in ("no_sub", "cdm", "axion")}
    assert counts == {"no_sub": n // 2, "cdm": n // 4, "axion": n // 4}
    assert 0.2 < np.mean([kind == "no_sub" for kind in kinds[: n // 2]]) < 0.8
    assert simulate.class_of_each(n, 1, MODEL_I) != kinds


def test_catalog_tells_the_truth(lenses, settings, population):
    data = Dataset.open(lenses)
    table = data.catalog
    assert table["split"].value_counts().to_dict() == dict(settings.n_images)
    assert table["id"].tolist() == [f"tiny_{i:06d}" for i in range(48)]
    assert table["theta_E"].to_numpy() == pytest.approx(1.2815, abs=5e-4)
    groups = dict(list(table.groupby("class")))
    assert (groups["no_sub"][["n_subhalos", "substructure_mass"]] == 0).all(axis=None)
    assert groups["no_sub"][["axion_mass", "max_subhalo_mass"]].isna().all(axis=None)
    assert (groups["cdm"]["n_subhalos"] == 25).all()
    assert groups["cdm"]["substructure_mass"].gt(groups["cdm"]["max_subhalo_mass"]).all()
    axion = groups["axion"]
    assert axion["substructure_mass"].to_numpy() == pytest.approx(3e10)
    expected = 0.06 * 1e-22 / axion["axion_mass"]
    np.testing.assert_allclose(axion["vortex_length"], expected)
    # an image is what its row says: rendered anew, it differs by noise only
    row = groups["no_sub"].iloc[0]
    clean = simulate.render(population, row["source_x"], row["source_y"], *NONE)
    pulls = data.images[row.name] - clean * row["exposure_time"]
    bright = clean * row["exposure_time"] > 100
    pulls = pulls[bright] / np.sqrt(2 * clean[bright] * row["exposure_time"])
    assert abs(pulls.mean()) < 5 / np.sqrt(bright.sum()) and 0.8 < pulls.std() < 1.2


@pytest.mark.parametrize("shard", [(2, 2), (-1, 3), (0, 0)])
def test_a_shard_that_does_not_exist(tmp_path, population, settings, shard):
    with pytest.raises(InputError, match=f"shard {shard[0]}/{shard[1]}: expected k/n with 0 <= k"):
        simulate.simulate(population, settings.n_images, 7, tmp_path / "out", shard)
    assert list(tmp_path.iterdir()) == []
