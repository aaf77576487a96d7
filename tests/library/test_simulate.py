"""Simulated lenses: what is drawn, against its distribution; noise; the data set on disk."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from lenstronomy.Util import image_util
from scipy import integrate, stats

from vitdm import simulation
from vitdm.config.reading import read_yaml
from vitdm.data.dataset import Dataset, merge_shards
from vitdm.data.simulated import class_of_each, ids_of, simulate_dataset
from vitdm.errors import InputError
from vitdm.simulation import population_file, population_of
from vitdm.simulation.cosmology import tidal_radius
from vitdm.simulation.drawing import TRUTH

ROOT = Path(__file__).parents[2]


def load(name, **sections):
    """A population of the project, some keys of its sections changed."""
    content = read_yaml(population_file(name))
    for section, change in sections.items():
        if isinstance(change, dict):
            change = (content.get(section) or {}) | change
            change = {key: value for key, value in change.items() if value != "none"}
        content[section] = change
    return population_of(content)


MODEL_I, MARGINAL, REALISTIC = load("model_i"), load("marginal"), load("realistic")
THETA = 1.6645e-6  # arcsec: the Einstein radius of the sun between z = 0.5 and z = 1


def table(population, kind, n, seed=0):
    """The truth of n lenses, and the lenses."""
    systems = [simulation.draw(index, kind, seed, population) for index in range(n)]
    return pd.DataFrame([system.truth for system in systems]), systems


def uniform(values, low, high):
    """Whether values come from a uniform distribution, by a Kolmogorov-Smirnov test."""
    return stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 0.01


# ------------------------------------------------------------------------------ the smooth lens


def test_the_smooth_lens_is_the_same_whatever_the_class():
    for population in (MODEL_I, MARGINAL):
        smooth, cdm, axion = (
            simulation.draw(7, kind, 3, population) for kind in ("no_sub", "cdm", "axion")
        )
        for other in (cdm, axion):
            assert len(other.masses) and other.kind != "no_sub"
            for name in ("theta_E", "e1", "e2", "gamma1", "gamma2", "source", "exposure_time"):
                assert getattr(other, name) == getattr(smooth, name)
            bare = simulation.smooth(other)
            assert bare.theta_E_halo == smooth.theta_E_halo == smooth.theta_E
            np.testing.assert_array_equal(
                simulation.render(bare, population), simulation.render(smooth, population)
            )


def test_priors_of_the_smooth_lens():
    drawn, _ = table(MARGINAL, "no_sub", 1500)
    assert uniform(drawn["theta_E"], 0.9, 1.5)
    for first, second, largest in (
        ("e1", "e2", 0.3),
        ("gamma1", "gamma2", 0.1),
        ("source_e1", "source_e2", 0.4),
    ):
        assert uniform(np.hypot(drawn[first], drawn[second]), 0, largest)
        assert uniform(np.arctan2(drawn[second], drawn[first]), -np.pi, np.pi)
    assert uniform(drawn["source_x"], -0.35, 0.35) and uniform(drawn["source_y"], -0.35, 0.35)
    assert uniform(np.log(drawn["source_R_sersic"]), np.log(0.15), np.log(0.4))
    assert uniform(np.log(drawn["source_amp"]), np.log(10), np.log(40))
    assert uniform(drawn["source_n_sersic"], 0.7, 2.5)
    assert uniform(np.log10(drawn["exposure_time"]), 3, 3.5)
    names = ["theta_E", "e1", "gamma1", "source_x", "source_y", "source_e1", "source_n_sersic"]
    names += ["source_amp", "source_R_sersic", "exposure_time"]
    correlation = drawn[names].corr().to_numpy() - np.eye(len(names))
    assert np.abs(correlation).max() < 4 / np.sqrt(1500)


def test_model_i_has_one_halo():
    drawn, _ = table(MODEL_I, "no_sub", 20)
    assert drawn["theta_E"].to_numpy() == pytest.approx(1.2815, abs=5e-5)
    fixed = {"e1": 0.1, "e2": 0, "gamma1": 0.05, "gamma2": 0, "source_amp": 20}
    fixed |= {"source_R_sersic": 0.25, "source_n_sersic": 1, "source_e1": -0.1, "source_e2": 0.1}
    for name, value in fixed.items():
        assert (drawn[name] == value).all(), name


def test_light_of_the_lens_galaxy():
    drawn, systems = table(REALISTIC, "no_sub", 10)
    system = systems[0]
    without = simulation.render(replace(system, lens_light=None), REALISTIC)
    light = simulation.render(system, REALISTIC) - without
    assert np.unravel_index(light.argmax(), light.shape)[0] in (49, 50)
    counts = light.sum()  # the field of 8" holds most of it, and a pixel's centre its cusp
    magnitude = 25.96 - 2.5 * np.log10(counts)
    assert 17.5 - 0.2 < magnitude < 19.5 + 0.4
    assert (drawn["lens_light_n_sersic"] == 4).all()
    assert drawn["lens_light_R_sersic"].between(0.5, 1.5).all()


# ------------------------------------------------------------------------------ subhalos


@pytest.mark.parametrize("slope", [-0.9, -1.0, -1.9, -2.0])
def test_subhalo_masses_follow_their_power_law(slope):
    section = load("model_i", subhalos={"mass_slope": slope}).subhalos
    masses = section.draw_masses(np.random.default_rng(1), 5000)
    assert masses.min() >= 1e6 and masses.max() <= 1e10

    def integral(power, m):  # of m^power from 1e6
        if power == -1:
            return np.log(m / 1e6)
        return (m ** (power + 1) - 1e6 ** (power + 1)) / (power + 1)

    number = integral(slope, 1e10)
    assert stats.kstest(masses, lambda m: integral(slope, m) / number).pvalue > 0.01
    mean = integral(slope + 1, 1e10) / number
    assert section.mean_mass == pytest.approx(mean)
    # masses of the matter rather than of the subhalos: one power more
    matter = section.draw_masses(np.random.default_rng(1), 5000, weighted_by_mass=True)
    total = integral(slope + 1, 1e10)
    assert stats.kstest(matter, lambda m: integral(slope + 1, m) / total).pvalue > 0.01


def test_subhalos_lie_in_their_ring():
    truth, systems = table(load("model_i", subhalos={"number": 4000}), "cdm", 1)
    system, truth = systems[0], truth.iloc[0]
    assert uniform(np.hypot(system.x, system.y), 0.25, 2.0)
    assert uniform(np.arctan2(system.y, system.x), -np.pi, np.pi)
    largest = system.masses.argmax()
    assert truth["n_subhalos"] == 4000 and truth["substructure_mass"] == system.masses.sum()
    assert truth["max_subhalo_mass"] == system.masses[largest]
    assert (truth["max_subhalo_x"], truth["max_subhalo_y"]) == (
        system.x[largest],
        system.y[largest],
    )
    disc = load("model_i", subhalos={"number": 4000, "position": {"disc": 2.0}})
    (system,) = table(disc, "cdm", 1)[1]
    assert uniform((system.x**2 + system.y**2), 0, 4)


def test_number_of_subhalos():
    assert (table(MODEL_I, "cdm", 50)[0]["n_subhalos"] == 25).all()
    numbers = table(MARGINAL, "cdm", 1000)[0]["n_subhalos"]
    assert numbers.mean() == pytest.approx(25, abs=0.6)  # standard error 0.16
    assert numbers.var() == pytest.approx(25, abs=4.5)  # standard error 1.1
    none = table(load("marginal", subhalos={"number": 0}), "cdm", 3)[0]
    assert (none[["n_subhalos", "substructure_mass"]] == 0).all(axis=None)


def test_mass_in_subhalos_is_the_fraction_drawn():
    drawn, systems = table(REALISTIC, "cdm", 800)
    assert uniform(np.log10(drawn["f_sub"]), -3, -1.5)
    # mass within 2" of an isothermal halo, pi Sigma_crit theta_E 2", from the sun's theta_E
    held = drawn["theta_E"] * 2 / THETA**2
    ratios = drawn["substructure_mass"] / (drawn["f_sub"] * held)
    assert ratios.mean() == pytest.approx(1, abs=4 * ratios.std() / np.sqrt(800))
    assert np.hypot(systems[0].x, systems[0].y).max() <= 2
    richest = drawn["f_sub"] > 0.02  # given f_sub and theta_E, the number is Poisson distributed
    expected = (drawn["f_sub"] * held / REALISTIC.subhalos.mean_mass)[richest]
    pulls = (drawn["n_subhalos"][richest] - expected) / np.sqrt(expected)
    assert abs(pulls.mean()) < 4 / np.sqrt(len(pulls)) and pulls.std() == pytest.approx(1, abs=0.2)


def test_masses_scaled_to_a_given_total():
    population = load("model_i", subhalos={"mass_fraction": 0.01})
    for system in table(population, "cdm", 3)[1]:
        assert system.masses.sum() == pytest.approx(1e10) and len(system.masses) == 25


# ------------------------------------------------------------------------------ the vortex


@pytest.mark.parametrize(("axion_mass", "length"), [(1e-24, 6.0), (1e-23, 0.6), (1e-22, 0.06)])
def test_vortex_is_a_straight_even_string(axion_mass, length):
    population = load("model_i", vortex={"axion_mass": axion_mass})
    truth, (system,) = table(population, "axion", 1)
    x, y, masses = system.x, system.y, system.masses
    assert np.hypot(x[-1] - x[0], y[-1] - y[0]) == pytest.approx(length)
    np.testing.assert_allclose(np.hypot(np.diff(x), np.diff(y)), length / 99)
    np.testing.assert_allclose(x * y[0] - y * x[0], 0, atol=1e-12)  # through the centre
    assert x.sum() == pytest.approx(0, abs=1e-9) and y.sum() == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(masses, 3e8)
    assert len(masses) == 100 and truth["substructure_mass"][0] == pytest.approx(3e10)
    assert truth["vortex_length"][0] == pytest.approx(length)
    assert truth["axion_mass"][0] == axion_mass


def test_vortices_of_model_i():
    drawn, _ = table(MODEL_I, "axion", 800)
    assert uniform(np.log10(drawn["axion_mass"]), -24, -22)
    assert uniform(drawn["vortex_angle"], 0, np.pi)
    assert (drawn[["vortex_x", "vortex_y", "n_subhalos"]] == 0).all(axis=None)


def test_vortices_of_marginal():
    drawn, systems = table(MARGINAL, "axion", 1000)
    assert uniform(drawn["vortex_length"], 0.5, 2.0)
    assert uniform(drawn["vortex_x"] ** 2 + drawn["vortex_y"] ** 2, 0, 4)
    assert uniform(drawn["substructure_mass"] / (drawn["theta_E"] / THETA) ** 2, 0.03, 0.055)
    assert "axion_mass" not in drawn
    for system, (_, truth) in zip(systems[:20], drawn.iterrows(), strict=False):
        x, y = system.x - truth["vortex_x"], system.y - truth["vortex_y"]
        angle = truth["vortex_angle"]
        np.testing.assert_allclose(x * np.sin(angle) - y * np.cos(angle), 0, atol=1e-12)
        assert np.hypot(x[-1] - x[0], y[-1] - y[0]) == pytest.approx(truth["vortex_length"])
        assert len(x) == 100


# ------------------------------------------------------------------------------ compensation


def mass_within(system, population):
    """All mass within theta_E, in units of angle squared."""
    theta = THETA * np.sqrt(system.masses)
    r = np.hypot(system.x, system.y)
    halo = system.theta_E_halo * system.theta_E
    if population.subhalos.profile == "point" or system.kind == "axion":
        return halo + (theta**2)[r < system.theta_E].sum()
    a = tidal_radius(theta, system.theta_E)  # spread each over the circles of its mass quantiles
    share = (np.arange(20) + 0.5) / 20
    spread = a[:, None] * (1 - (1 - share) ** 2) / (2 * (1 - share))
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x = system.x[:, None, None] + spread[..., None] * np.cos(turns)
    y = system.y[:, None, None] + spread[..., None] * np.sin(turns)
    inside = (np.hypot(x, y) < system.theta_E).mean(axis=(1, 2))
    return halo + (theta**2 * inside).sum()


@pytest.mark.parametrize(
    ("population", "kind", "n"),
    [(MARGINAL, "cdm", 1500), (MARGINAL, "axion", 1500), (REALISTIC, "cdm", 500)],
    ids=["marginal cdm", "marginal axion", "realistic cdm"],
)
def test_mass_within_theta_E_is_on_average_that_of_a_smooth_lens(population, kind, n):
    _, systems = table(population, kind, n)
    excess = np.array([mass_within(s, population) / s.theta_E**2 - 1 for s in systems])
    taken = np.mean([1 - s.theta_E_halo / s.theta_E for s in systems])
    error = excess.std() / np.sqrt(n)
    assert abs(excess.mean()) < 4 * error and taken > 5 * error, (excess.mean(), error, taken)
    radii = np.array([s.theta_E for s in systems])
    slope = np.polyfit(radii, excess, 1)[0] * np.ptp(radii)
    assert abs(slope) < 14 * error  # 4 standard errors: theta_E has nothing to do with it


def test_without_compensation_substructure_adds_its_mass():
    for kind in ("cdm", "axion"):
        for system in table(MODEL_I, kind, 3)[1]:
            assert system.theta_E_halo == system.theta_E


def test_more_substructure_than_halo():
    population = load("marginal", subhalos={"number": 100_000})
    with pytest.raises(InputError, match="substructure of .* expected less than all mass there"):
        simulation.draw(0, "cdm", 0, population)


@pytest.mark.parametrize("kind", ["sub", "cdm"])
def test_a_class_that_cannot_be_simulated(kind):
    population = MARGINAL.model_copy(update={"subhalos": None})
    with pytest.raises(InputError, match=f"class '{kind}'"):
        simulation.simulate_one(0, kind, 0, population)


# ------------------------------------------------------------------------------ detectability


def signal_to_noise(population, kind, n):
    """Of the matched filter that knows the smooth lens exactly."""
    ratios = []
    for system in table(population, kind, n, seed=11)[1]:
        smooth = simulation.render(simulation.smooth(system), population)
        change = simulation.render(system, population) - smooth
        ratios.append(np.sqrt((change**2 / simulation.variance(smooth, system, population)).sum()))
    return np.array(ratios)


def test_detectability_of_model_i():
    """With the coded masses and distances, and the noise of one exposure."""
    single = load("model_i", instrument={"noise": "single"})
    cdm = signal_to_noise(single, "cdm", 250)
    assert np.median(cdm) == pytest.approx(43, abs=4)
    assert 15 < np.quantile(cdm, 0.05) < 30 and 62 < np.quantile(cdm, 0.95) < 85
    axion = signal_to_noise(single, "axion", 150)
    assert 24 < np.quantile(axion, 0.05) < 32 and 60 < np.quantile(axion, 0.95) < 75
    steep = load("model_i", instrument={"noise": "single"}, subhalos={"mass_slope": -1.9})
    assert np.median(signal_to_noise(steep, "cdm", 250)) == pytest.approx(0.19, abs=0.04)


# ------------------------------------------------------------------------------ noise


def exposed(population, brightness, exposure_time, seed=6, shape=(400, 400)):
    """Counts of an even image, and the variance that they should have in (counts/s)^2."""
    system = replace(simulation.draw(0, "no_sub", 0, population), exposure_time=exposure_time)
    image = np.full(shape, brightness)
    rng = np.random.default_rng(seed)
    counts = simulation.add_noise(image, system, rng, population)
    return counts, simulation.variance(image, system, population)


SINGLE = load("model_i", instrument={"noise": "single"})
DEEPER = load("model_i", instrument={"noise": "single", "background_time": 1000.0})
QUIET = load("model_ii")
HST = load("model_iii", instrument={"noise": "single", "double_image": False})


@pytest.mark.parametrize("exposure_time", [1000.0, 4000.0])
@pytest.mark.parametrize(
    ("population", "brightness", "expected"),
    [  # variance in (counts/s)^2 for t = 1000 s and 4000 s: light / t and the sky
        (SINGLE, 0.5, (5e-4 + 1e-4, 1.25e-4 + 1e-4)),
        (SINGLE, 0.0, (1e-4, 1e-4)),
        (DEEPER, 0.5, (5e-4 + 1e-4, 1.25e-4 + 0.25e-4)),
        (MODEL_I, 0.5, (10e-4 + 1e-4, 2.5e-4 + 1e-4)),
        (QUIET, 0.5, (0, 0)),
        (HST, 0.5, (5e-4 + 0.00592**2, 1.25e-4 + 0.00592**2)),
    ],
)
def test_variance_of_the_noise(population, brightness, expected, exposure_time):
    counts, variance = exposed(population, brightness, exposure_time)
    expected = expected[exposure_time == 4000]
    assert counts.mean() / exposure_time == pytest.approx(brightness, abs=3e-4)
    assert counts.var() / exposure_time**2 == pytest.approx(expected, rel=0.02)
    np.testing.assert_allclose(variance, expected, rtol=1e-3)


def test_noise_of_a_single_exposure_is_of_poisson_counts():
    dark = load("model_i", instrument={"noise": "single", "background_rms": 0.0})
    counts, _ = exposed(dark, 0.003, 1000)
    values, found = np.unique(counts, return_counts=True)
    assert (values == values.round()).all()
    expected = stats.poisson(3).pmf(np.arange(9)) * counts.size
    chi2 = ((found[:9] - expected) ** 2 / expected).sum()
    assert chi2 < stats.chi2(9).ppf(0.999)


def test_double_poisson_is_clipped_whole_numbers():
    counts, _ = exposed(MODEL_I, 0.0, 2000)
    assert (counts >= 0).all() and (counts == counts.round()).all()
    # half is clipped; of the rest, e^-x of the pixels with x counts draw a zero
    x = stats.norm(0, 20)
    zeros = 0.5 + integrate.quad(lambda v: x.pdf(v) * np.exp(-v), 0, 200)[0]
    assert (counts == 0).mean() == pytest.approx(zeros, abs=0.005)


@pytest.mark.parametrize("brightness", [0.0, 0.002, 0.02, 0.2])
def test_double_poisson_is_the_noise_as_coded(brightness):
    """lenstronomy's two noises added, the sum clipped at 0 and drawn again."""
    counts, _ = exposed(MODEL_I, brightness, 1500)
    image, t = np.full((400, 400), brightness), 1500
    np.random.seed(8)  # noqa: NPY002 (lenstronomy draws from the global generator)
    noisy = image + image_util.add_poisson(image, exp_time=t)
    noisy = noisy + image_util.add_background(image, sigma_bkd=0.01)
    as_coded = np.random.default_rng(9).poisson((t * noisy).clip(min=0))
    assert stats.ks_2samp(counts.ravel(), as_coded.ravel()).pvalue > 0.01


def test_images_of_model_i_have_many_zeros():
    image, _ = simulation.simulate_one(0, "no_sub", 0, MODEL_I)
    assert image.dtype == np.float32 and image.shape == (150, 150)
    assert (image == 0).mean() >= 0.35


def test_the_image_twice_where_the_noise_belongs():
    system = simulation.draw(0, "cdm", 0, QUIET)
    image, _ = simulation.simulate_one(0, "cdm", 0, QUIET)
    clean = simulation.render(system, QUIET)
    np.testing.assert_allclose(image, 2 * clean, rtol=1e-6)
    forgotten = load("model_ii", instrument={"noise": "single", "double_image": False})
    noisy, _ = simulation.simulate_one(0, "cdm", 0, forgotten)
    pulls = (noisy - clean) / np.sqrt(simulation.variance(clean, system, forgotten))
    assert abs(pulls.mean()) < 0.1 and pulls.std() == pytest.approx(1, abs=0.05)


def test_eight_bit_images():
    image, _ = simulation.simulate_one(0, "cdm", 0, SINGLE)
    grey, _ = simulation.simulate_one(
        0, "cdm", 0, load("model_i", eight_bit={}, instrument={"noise": "single"})
    )
    assert grey.dtype == np.float32 and set(np.unique(grey)) <= set(range(256))
    assert grey.min() == 0 and grey.max() == 255
    scaled = (image - image.min()) / np.ptp(image) * 255
    assert np.abs(grey - scaled).max() <= 0.5001
    settings = {"scaling": [0.0, 100.0], "jpeg_quality": 90}
    population = load("model_i", eight_bit=settings, instrument={"noise": "single"})
    jpeg, _ = simulation.simulate_one(0, "cdm", 0, population)
    expected = np.rint(np.clip(image * 2.55, 0, 255)).astype(np.uint8)
    assert np.corrcoef(jpeg.ravel(), expected.ravel())[0, 1] > 0.99 and (jpeg != expected).any()
    code = cv2.imencode(".jpg", expected, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    np.testing.assert_array_equal(jpeg, cv2.imdecode(code, cv2.IMREAD_GRAYSCALE))


# ------------------------------------------------------------------------------ data sets


def test_shards_merge_to_the_same_bytes(tmp_path, population, settings, lenses):
    shards = [tmp_path / str(k) for k in range(3)]
    for k, shard in enumerate(shards):
        simulate_dataset(population, settings.n_images, 7, shard, (k, 3), progress=False)
    assert [len(Dataset.open(shard).images) for shard in shards] == [16, 16, 16]
    merge_shards(shards[::-1], tmp_path / "merged")
    for name in ("images.npy", "catalog.csv"):
        assert (tmp_path / "merged" / name).read_bytes() == (lenses / name).read_bytes()


def test_a_test_is_set_anew_while_all_else_stays(tmp_path, population, settings, lenses):
    """The classes of the test stay, too: they are drawn for the whole data set."""
    simulate_dataset(
        population, settings.n_images, 7, tmp_path / "anew", progress=False, test_seed=8
    )
    before, after = Dataset.open(lenses), Dataset.open(tmp_path / "anew")
    same = ["class", "split", "source"]
    pd.testing.assert_frame_equal(before.catalog[same], after.catalog[same])
    test = (after.catalog["split"] == "test").to_numpy()
    assert 0 < test.sum() < len(test)
    assert (after.catalog["seed"] == np.where(test, 8, 7)).all()
    np.testing.assert_array_equal(before.images[~test], after.images[~test])
    changed = (before.images[test] != after.images[test]).reshape(test.sum(), -1).mean(axis=1)
    assert changed.min() > 0.3
    assert not set(before.catalog["id"]) & set(after.catalog["id"])
    row = after.catalog[test].iloc[0]
    again, _ = simulation.simulate_one(int(row["id"][-6:]), row["class"], 8, population)
    np.testing.assert_array_equal(after.images[np.flatnonzero(test)[0]], again)


def test_seed_and_number_give_the_image():
    first, truth = simulation.simulate_one(3, "cdm", 7, MARGINAL)
    again, _ = simulation.simulate_one(3, "cdm", 7, MARGINAL)
    np.testing.assert_array_equal(first, again)
    for index, seed in ((4, 7), (3, 8)):
        other, different = simulation.simulate_one(index, "cdm", seed, MARGINAL)
        assert (other != first).mean() > 0.3 and different["source_x"] != truth["source_x"]


@pytest.mark.parametrize("n", [48, 1400, 14000])
def test_classes_are_exact_fractions_in_random_order(n):
    kinds = class_of_each(n, 0, MODEL_I)
    counts = {name: kinds.count(name) for name in ("no_sub", "cdm", "axion")}
    assert counts == {"no_sub": n // 2, "cdm": n // 4, "axion": n // 4}
    assert 0.2 < np.mean([kind == "no_sub" for kind in kinds[: n // 2]]) < 0.8
    assert class_of_each(n, 1, MODEL_I) != kinds


def test_catalog_tells_the_truth(tmp_path):
    population = load("marginal", num_pix=96)
    simulate_dataset(population, {"train": 24}, 7, tmp_path / "lenses", progress=False)
    data = Dataset.open(tmp_path / "lenses")
    catalog = data.catalog
    assert list(catalog)[4:] == list(TRUTH)
    assert catalog["id"].tolist() == ids_of(24, 7, population)
    assert re.fullmatch("marginal_[0-9a-f]{8}_000023", catalog["id"][23])
    assert not set(catalog["id"]) & {*ids_of(24, 8, population), *ids_of(48, 7, population)}
    assert (catalog["seed"] == 7).all() and catalog["n_subhalos"].dtype == int
    groups = dict(list(catalog.groupby("class")))
    assert (groups["no_sub"][["n_subhalos", "substructure_mass"]] == 0).all(axis=None)
    assert (groups["no_sub"]["theta_E_halo"] == groups["no_sub"]["theta_E"]).all()
    of_subhalos = ["max_subhalo_mass", "max_subhalo_x", "max_subhalo_y"]
    of_vortices = ["vortex_length", "vortex_x", "vortex_y", "vortex_angle"]
    empty = {"no_sub": of_subhalos + of_vortices, "cdm": of_vortices, "axion": of_subhalos}
    for kind, columns in empty.items():
        columns = [*columns, "f_sub", "axion_mass", "lens_light_amp"]
        full = list(set(TRUTH[:13]) | set(of_subhalos + of_vortices) - set(columns))
        assert groups[kind][columns].isna().all(axis=None)
        assert groups[kind][full].notna().all(axis=None)
    # a row gives back the lens with all its subhalos, and its image but for the noise
    row = groups["cdm"].iloc[0]
    system = simulation.draw(int(row["id"][-6:]), row["class"], row["seed"], population)
    assert system.masses.sum() == pytest.approx(row["substructure_mass"])
    clean = simulation.render(system, population)
    pulls = data.images[row.name] / system.exposure_time - clean
    pulls /= np.sqrt(simulation.variance(clean, system, population))
    assert abs(pulls.mean()) < 4 / 96 and pulls.std() == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("shard", [(2, 2), (-1, 3), (0, 0)])
def test_a_shard_that_does_not_exist(tmp_path, population, settings, shard):
    with pytest.raises(InputError, match=f"shard {shard[0]}/{shard[1]}: expected k/n with 0 <= k"):
        simulate_dataset(population, settings.n_images, 7, tmp_path / "out", shard)
    assert list(tmp_path.iterdir()) == []


def test_killed_in_the_middle_and_run_again(tmp_path):
    """kill -9 while images are written: the same bytes the next time, and nothing left behind."""
    command = [sys.executable, "-m", "vitdm", "simulate", "--seed", "7", "--out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    few = ["--population", "model_i", "--n"]

    def started(out, n):
        everything = [*command, str(out), *few, str(n)]
        return subprocess.Popen(everything, env=environment, stderr=subprocess.DEVNULL)

    out = tmp_path / "killed" / "lenses"
    process = started(out, 20_000)
    deadline = time.time() + 60
    while not list(out.parent.glob(".lenses*/images.npy")) and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not out.exists()
    assert list(out.parent.iterdir())  # what it was writing
    assert started(out, 40).wait() == 0
    assert [path.name for path in out.parent.iterdir()] == ["lenses"]
    assert started(tmp_path / "whole", 40).wait() == 0
    for name in ("images.npy", "catalog.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
