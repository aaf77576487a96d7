"""Lenses as the Hubble Space Telescope sees them: mass, sources with structure, PSF, noise."""

import math
from dataclasses import replace

import numpy as np
import pytest
from oracle import with_lenstronomy
from scipy import integrate, optimize, special, stats
from test_simulate import load, table

from vitdm import simulation
from vitdm.config import LensFit
from vitdm.data.simulated import observed
from vitdm.errors import InputError
from vitdm.lens import fit, settings_for
from vitdm.simulation.drawing import MULTIPOLES
from vitdm.simulation.light import add_sersic, total_flux
from vitdm.simulation.noise import drizzle_covariance, drizzled
from vitdm.simulation.population import Drizzle
from vitdm.simulation.priors import Prior
from vitdm.simulation.psf import block_mean, convolved, kernel
from vitdm.simulation.structure import TRUTH as STRUCTURE_NAMES
from vitdm.simulation.structure import Structure, draw_structure

HUBBLE = load("hubble")
PLAIN = load("hubble", source={"structure": "none"})
ROUND = {"amp": 2.0, "R_sersic": 0.3, "n_sersic": 1.0, "e1": 0.0, "e2": 0.0}
ROUND |= {"center_x": 0.1, "center_y": -0.2}
FLAT = ROUND | {"e1": 0.2, "e2": -0.1, "n_sersic": 1.5}


def structured(light, seed=0, **parts):
    return draw_structure(Structure.model_validate(parts), light, np.random.default_rng(seed))


CLUMPS = {"number": 8, "fraction": 0.3, "radius": {"uniform": [0.03, 0.08]}}
ARMS = {"number": 2, "pitch": 20, "strength": 0.8}
TEXTURE = {"strength": 0.5, "slope": -3, "scales": [0.1, 0.6]}


# ------------------------------------------------------------------------------ all together


def test_old_draws_stay_the_same():
    """Slope, multipoles and structure have random numbers that nothing else uses."""
    plain = load("hubble", halo={"slope": "none", "multipoles": "none"}, source={"structure": None})
    for kind in ("no_sub", "cdm"):
        new, old = (simulation.draw(3, kind, 5, p) for p in (HUBBLE, plain))
        assert new.slope and new.multipoles and new.structure
        assert old.slope is old.multipoles is old.structure is None
        assert new.source == old.source and new.lens_light == old.lens_light
        for name in ("theta_E", "e1", "e2", "gamma1", "gamma2", "center", "exposure_time"):
            assert getattr(new, name) == getattr(old, name)
        more = {"slope", *MULTIPOLES, *STRUCTURE_NAMES}
        assert new.truth.keys() - old.truth.keys() == more


@pytest.mark.parametrize("name", ["marginal", "realistic", "model_i_sizes"])
def test_other_populations_are_as_before(name):
    """Ids, which hash the settings, have no new keys, and random numbers are those of before."""
    other = load(name)
    written = other.model_dump()
    assert not {"psf", "supersampling", "drizzle"} & written["instrument"].keys()
    assert not {"slope", "multipoles"} & written["halo"].keys()
    assert "structure" not in written["source"]
    macro, _, noise = np.random.SeedSequence(3, spawn_key=(7,)).spawn(3)
    system = simulation.draw(7, "no_sub", 3, other)
    assert system.theta_E == other.halo.theta_E.draw(np.random.default_rng(macro))
    image = simulation.render(system, other)
    expected = simulation.add_noise(image, system, np.random.default_rng(noise), other)
    unquantised = other.model_copy(update={"eight_bit": None})
    found = simulation.simulate_one(7, "no_sub", 3, unquantised)[0]
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_same_seed_same_bytes():
    for kind in ("no_sub", "cdm"):
        first, second = (simulation.simulate_one(2, kind, 7, HUBBLE)[0] for _ in range(2))
        assert first.tobytes() == second.tobytes()
        assert first.tobytes() != simulation.simulate_one(2, kind, 8, HUBBLE)[0].tobytes()


def test_priors_of_the_mass():
    drawn, _ = table(PLAIN, "no_sub", 600)
    mean, sd, low, high = 2.08, 0.16, 1.7, 2.5
    cut = stats.truncnorm((low - mean) / sd, (high - mean) / sd, mean, sd)
    assert stats.kstest(drawn["slope"], cut.cdf).pvalue > 0.01
    for m in (1, 3, 4):
        x, y = drawn[f"a{m}_x"], drawn[f"a{m}_y"]
        # half of a normal amplitude of rms 0.01
        assert stats.kstest(np.hypot(x, y), stats.halfnorm(0, 0.01).cdf).pvalue > 0.01
        assert stats.kstest(np.arctan2(y, x), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 0.01


# ------------------------------------------------------------------------------ mass


@pytest.mark.parametrize("supersampling", [1, 3])
@pytest.mark.parametrize("slope", [1.8, None, 2.3])
def test_images_are_those_of_lenstronomy(slope, supersampling):
    multipoles = {"a1": 0.02, "a3": 0.03, "a4": 0.02}
    halo = {"multipoles": multipoles, "slope": slope or "none"}
    instrument = {"supersampling": supersampling, "psf_fwhm": 0.15}
    population = load("realistic", halo=halo, instrument=instrument)
    for index, kind in ((0, "no_sub"), (1, "cdm")):
        system = simulation.draw(index, kind, 4, population)
        assert np.hypot(*system.multipoles[:2]) == pytest.approx(0.02)
        expected = with_lenstronomy(system, population)
        image = simulation.render(system, population)
        np.testing.assert_allclose(image, expected, rtol=0, atol=2e-6 * expected.max())


@pytest.mark.parametrize("slope", [None, 1.8, 2.0, 2.4])
def test_mass_of_a_power_law(slope):
    system = replace(simulation.draw(0, "no_sub", 0, PLAIN), theta_E=1.3, slope=slope)

    def mass(theta_E, radius):  # the integral of 2 r kappa(r) of a round power law
        t = (slope or 2) - 1
        return integrate.quad(lambda r: (2 - t) * (theta_E / r) ** t * r, 0, radius)[0]

    assert mass(system.without(0.2), 1.3) == pytest.approx(1.3**2 - 0.2)
    assert system.mean_radius(2.0) ** 2 == pytest.approx(mass(1.3, 2.0))


def test_substructure_is_taken_out_of_a_power_law():
    population = load("hubble", source={"structure": "none"}, subhalos={"f_sub": 0.03})
    isothermal = load("hubble", source={"structure": "none"}, subhalos={"f_sub": 0.03})
    isothermal = isothermal.model_copy(
        update={"halo": isothermal.halo.model_copy(update={"slope": None})}
    )
    for index in range(5):
        steep, known = (simulation.draw(index, "cdm", 0, p) for p in (population, isothermal))
        taken = 1 - known.theta_E_halo / known.theta_E  # of all mass there
        more = (known.theta_E / 2) ** (steep.slope - 2)  # less mass in 2", and in its subhalos
        kept = (steep.theta_E_halo / steep.theta_E) ** (steep.slope - 1)
        assert 1 - kept == pytest.approx(taken * more)


# ------------------------------------------------------------------------------ sources


PARTS = [{"clumps": CLUMPS}, {"arms": ARMS}, {"texture": TEXTURE}]
PARTS.append({"clumps": CLUMPS, "arms": ARMS, "texture": TEXTURE})


@pytest.mark.parametrize("parts", PARTS, ids=["clumps", "arms", "texture", "all"])
@pytest.mark.parametrize("light", [ROUND, FLAT], ids=["round", "flat"])
def test_structure_conserves_flux(parts, light):
    axis = (np.arange(801) - 400) * 0.01
    x, y = np.meshgrid(axis, axis)
    smooth = np.zeros_like(x)
    add_sersic(smooth, x, y, light)
    structure, _ = structured(light, **parts)
    image = structure.brightness(light, x, y)
    assert image.sum() * 0.01**2 == pytest.approx(2 * total_flux(light), rel=0.01)
    assert np.abs(image - smooth).sum() > 0.1 * smooth.sum()  # it does something


def test_clumps():
    structure, truth = structured(FLAT, clumps=CLUMPS)
    assert truth["source_n_clumps"] == 8
    assert truth["source_clump_fraction"] == pytest.approx(0.3)
    bare, _ = structured(FLAT, clumps=CLUMPS | {"number": 0})
    axis = (np.arange(1001) - 500) * 0.004
    x, y = np.meshgrid(axis, axis)
    clumps = structure.brightness(FLAT, x, y) - 0.7 * bare.brightness(FLAT, x, y)
    assert clumps.min() > -1e-9
    assert clumps.sum() * 0.004**2 == pytest.approx(0.3 * 2 * total_flux(FLAT), rel=1e-3)
    # luminosities: a power law from 0.03 to 1, but for a factor
    many, _ = structured(ROUND, clumps=CLUMPS | {"number": 4000})
    luminosity = np.sort(many.shares / many.shares.max())
    expected = stats.kstest(luminosity, lambda v: (v**-0.7 - 0.03**-0.7) / (1 - 0.03**-0.7))
    assert expected.statistic < 0.05
    # half-light radii; the disc: its median radius is that which holds half of its light
    radii = many.clumps[2] * math.sqrt(2 * math.log(2))
    assert stats.kstest(radii, stats.uniform(0.03, 0.05).cdf).pvalue > 0.01
    assert np.median(np.hypot(*many.clumps[:2])) == pytest.approx(0.3, rel=0.05)


def test_arms_are_logarithmic_spirals():
    structure, truth = structured(ROUND, arms=ARMS | {"number": 3})
    pitch = math.radians(truth["source_pitch"])
    assert abs(truth["source_pitch"]) == 20 and truth["source_n_arms"] == 3
    phi = np.linspace(0, 2 * np.pi, 3600, endpoint=False)
    crests = []
    for r in (0.4, 0.5):
        x, y = 0.1 + r * np.cos(phi)[None], -0.2 + r * np.sin(phi)[None]
        ring = structure.brightness(ROUND, x, y)[0]
        np.testing.assert_allclose(ring, np.roll(ring, 1200), rtol=1e-6)  # three arms
        crests.append(phi[:1200][ring[:1200].argmax()])
    turn = math.log(0.5 / 0.4) / math.tan(pitch)
    difference = (crests[1] - crests[0] - turn + np.pi / 3) % (2 * np.pi / 3) - np.pi / 3
    assert abs(difference) < 0.004


def test_texture_has_the_strength_and_the_scales_asked_for():
    axis = np.arange(128) * 0.025
    x, y = np.meshgrid(axis, axis)
    wide = ROUND | {"R_sersic": 50.0}
    power, strengths = 0, []
    for seed in range(30):
        structure, _ = structured(wide, seed, texture=TEXTURE)
        smooth = np.zeros_like(x)
        add_sersic(smooth, x, y, wide)
        field = np.log(structure.brightness(wide, x, y) / smooth)
        strengths.append(field.std())
        power = power + np.abs(np.fft.fft2(field * np.outer(np.hanning(128), np.hanning(128)))) ** 2
    assert np.mean(strengths) == pytest.approx(0.5, rel=0.1)
    k = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(128, 0.025)]))
    within = (k > 1 / 0.6 - 0.7) & (k < 1 / 0.1 + 0.7)
    within[0, 0] = True  # the mean, of which norm is a part
    low = (k < 0.7) | within
    assert power[~low].sum() < 0.01 * power[within & (k > 0.7)].sum()
    bins = [(2, 3), (6, 8)]
    steep = [power[(k > a) & (k < b)].mean() for a, b in bins]
    middle = [np.mean(k[(k > a) & (k < b)] ** -3.0) for a, b in bins]
    assert steep[0] / steep[1] == pytest.approx(middle[0] / middle[1], rel=0.35)


# ------------------------------------------------------------------------------ PSF


def transfer(psf, f):
    """Optical transfer function at f [1/arcsec]: annular aperture, and the Moffat profile."""
    aperture = psf.diameter / (psf.wavelength * 1e-6) / np.degrees(3600)  # cut-off, 1/arcsec

    def overlap(r1, r2, d):  # of two discs
        if d >= r1 + r2:
            return 0.0
        if d <= abs(r1 - r2):
            return math.pi * min(r1, r2) ** 2
        a = r1**2 * math.acos((d**2 + r1**2 - r2**2) / (2 * d * r1))
        b = r2**2 * math.acos((d**2 + r2**2 - r1**2) / (2 * d * r2))
        c = (-d + r1 + r2) * (d + r1 - r2) * (d - r1 + r2) * (d + r1 + r2)
        return a + b - math.sqrt(c) / 2

    e, d = psf.obscuration, 2 * f / aperture  # radii 1 and e
    annulus = overlap(1, 1, d) - 2 * overlap(1, e, d) + overlap(e, e, d)
    a = psf.blur / 2 / math.sqrt(2 ** (1 / psf.blur_exponent) - 1)
    order, u = psf.blur_exponent - 1, max(2 * math.pi * f * a, 1e-9)
    moffat = 2 * (u / 2) ** order * special.kv(order, u) / special.gamma(order)
    return annulus / (math.pi * (1 - e**2)) * moffat


@pytest.mark.parametrize("obscuration", [0.0, 0.37])
def test_encircled_energy(obscuration):
    """By the transfer function: EE(r) = 2 pi r * integral of OTF(f) J1(2 pi f r) df."""
    psf = HUBBLE.instrument.psf.model_copy(update={"obscuration": obscuration, "size": 41})
    fine = kernel(psf, 0.05, 9)
    radius = np.hypot(*np.meshgrid(*2 * [np.arange(369) - 184])) * 0.05 / 9
    f = np.linspace(0, 15, 3000)
    values = np.array([transfer(psf, v) for v in f])

    def encircled(r):
        return integrate.simpson(values * 2 * math.pi * r * special.j1(2 * math.pi * f * r), x=f)

    inside = encircled(1.0)  # of the circle in the kernel, whose sum is 1
    total = fine[radius <= 1.0].sum()
    for r in (0.075, 0.1, 0.15, 0.2, 0.3, 0.5):
        assert fine[radius <= r].sum() / total == pytest.approx(encircled(r) / inside, abs=0.005)


def test_kernel():
    psf = HUBBLE.instrument.psf
    coarse, fine = kernel(psf, 0.05), kernel(psf, 0.05, 3)
    assert coarse.shape == (15, 15) and fine.shape == (45, 45)
    assert coarse.sum() == pytest.approx(1)
    np.testing.assert_allclose(block_mean(fine, 3) * 9, coarse, atol=1e-4)
    np.testing.assert_allclose(coarse, coarse.T)
    np.testing.assert_allclose(coarse, coarse[::-1, ::-1])
    # the Gaussian that fits assume where they cannot have the kernel is the nearest one
    r2 = (np.indices((15, 15)) - 7.0) ** 2 * 0.05**2

    def distance(fwhm):
        gauss = np.exp(-r2.sum(0) * 4 * math.log(2) / fwhm**2)
        return ((gauss / gauss.sum() - coarse) ** 2).sum()

    best = optimize.minimize_scalar(distance, bounds=(0.05, 0.2), method="bounded").x
    assert HUBBLE.instrument.psf_fwhm == pytest.approx(best, abs=0.001)


def test_point_through_the_psf():
    image = np.zeros((41, 41))
    image[20, 12] = 3.0
    seen = convolved(image, kernel(HUBBLE.instrument.psf, 0.05))
    assert seen.shape == image.shape
    np.testing.assert_allclose(
        seen[13:28, 5:20], 3 * kernel(HUBBLE.instrument.psf, 0.05), atol=1e-12
    )
    np.testing.assert_allclose(
        convolved(np.full((9, 12), 2.0), kernel(HUBBLE.instrument.psf, 0.05)), 2
    )


# ------------------------------------------------------------------------------ noise


def test_drizzle_covariance_is_that_of_drizzled_images():
    """White noise on a chip of 0.6 pixels, dropped on pixels, in one dimension."""
    np.testing.assert_allclose(
        drizzle_covariance(Drizzle(pixfrac=1, native_scale=0.05), 0.05), [2 / 3, 1 / 6], atol=1e-12
    )
    native, pixfrac = 0.6, 0.8
    p = pixfrac * native
    assert drizzle_covariance(Drizzle(pixfrac=0.8, native_scale=0.03), 0.05)[0] == pytest.approx(
        1 - p / 3
    )
    n, phases = 60, np.linspace(0, 1, 400, endpoint=False)
    total = np.zeros(3)
    for phase in phases:  # of the chip
        centres = np.arange(0, n / native) * native + phase * native
        edges = np.arange(n)[:, None]
        overlap = np.clip(
            np.minimum(edges + 1, centres + p / 2) - np.maximum(edges, centres - p / 2), 0, None
        )
        row = overlap[20:40]
        total += [np.mean(np.sum(row[: 20 - k] * row[k:], axis=1)) for k in range(3)]
    total /= total[0] + 2 * total[1:].sum()
    expected = drizzle_covariance(Drizzle(pixfrac=0.8, native_scale=0.03), 0.05)
    np.testing.assert_allclose(total[: len(expected)], expected, atol=2e-3)


def test_noise_has_the_variance_and_the_correlation_asked_for():
    system = simulation.draw(0, "no_sub", 0, HUBBLE)
    image = np.full((600, 600), 0.2)
    counts = simulation.add_noise(image, system, np.random.default_rng(3), HUBBLE)
    noise = counts / system.exposure_time - image
    asked = simulation.variance(image, system, HUBBLE)[0, 0]
    sky = 0.009 * np.sqrt(2080 / system.exposure_time)
    assert asked == pytest.approx(sky**2 + 0.2 / system.exposure_time)
    for (dy, dx), expected in {(0, 0): 4 / 9, (0, 1): 1 / 9, (1, 0): 1 / 9, (1, 1): 1 / 36}.items():
        moved = np.roll(noise, (dy, dx), (0, 1))
        assert np.mean(noise * moved) == pytest.approx(expected * asked, abs=0.01 * asked)
    assert abs(np.mean(noise * np.roll(noise, 2, 1))) < 0.01 * asked
    # what the map says is the noise of means over many pixels
    means = noise.reshape(30, 20, 30, 20).mean((1, 3)).std() * 20
    assert means**2 == pytest.approx(asked, rel=0.12)


def test_drizzled_noise_of_one_pixel():
    spike = np.zeros((9, 9))
    spike[4, 4] = 1.0
    spread = drizzled(spike, Drizzle(pixfrac=1, native_scale=0.05), 0.05)
    assert spread.sum() == pytest.approx(1) and (spread**2).sum() == pytest.approx(4 / 9)


# ------------------------------------------------------------------------------ observations


def test_observe():
    known = simulation.observe(1, "cdm", 2, HUBBLE)
    image, truth = simulation.simulate_one(1, "cdm", 2, HUBBLE)
    np.testing.assert_array_equal(known["image"], image)
    assert known["truth"] == truth and known["unit"] == "counts/s" and known["pixel_scale"] == 0.05
    system = simulation.draw(1, "cdm", 2, HUBBLE)
    pulls = (image - simulation.render(system, HUBBLE)) / known["noise"]
    assert pulls.std() == pytest.approx(2 / 3, rel=0.03) and abs(pulls.mean()) < 0.03
    np.testing.assert_array_equal(known["psf"], kernel(HUBBLE.instrument.psf, 0.05))
    in_counts = simulation.observe(1, "cdm", 2, load("realistic"))
    pulls = in_counts["image"] - 5400 * simulation.render(
        simulation.draw(1, "cdm", 2, load("realistic")), load("realistic")
    )
    assert (pulls / in_counts["noise"]).std() == pytest.approx(1, rel=0.03)
    assert in_counts["psf"] == 0.08 and in_counts["unit"] == "counts"
    assert simulation.observe(0, "cdm", 2, load("model_ii"))["noise"] is None
    assert simulation.observe(0, "cdm", 2, load("lenses"))["unit"] is None


def test_a_smooth_fit_finds_the_einstein_radius():
    settings = settings_for(HUBBLE, LensFit())
    assert (settings.noise_lag, settings.lens_light, settings.gain) == (2, True, None)
    bright = load("hubble", source={"magnitude": 22.0}, instrument={"exposure_time": 2080})
    lenses = [observed(index, "no_sub", 1, bright) for index in (2, 3)]
    assert lenses[0].unknown == () and lenses[0].psf.shape == (15, 15)
    fits = fit(lenses, settings)
    for index, values in zip((2, 3), fits.values, strict=True):
        true = simulation.draw(index, "no_sub", 1, bright).theta_E
        assert values[fits.names.index("theta_E")] == pytest.approx(true, rel=0.05)


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"halo": {"slope": 3.2}}, r"halo.slope: .*expected 1.05 to 2.95"),
        ({"halo": {"slope": {"truncated_normal": [2, 0, 1.8, 2.2]}}}, "sd > 0 and low < high"),
        ({"halo": {"multipoles": {"a2": 0.1}}}, r"halo.multipoles.a2"),
        ({"instrument": {"noise": "double_poisson"}}, "expected single with drizzle"),
        ({"instrument": {"supersampling": 0}}, "instrument.supersampling"),
        (
            {"instrument": {"pixel_scale": 5.0}},
            "psf: takes .* steps on a side; expected",
        ),
        ({"instrument": {"drizzle": {"pixfrac": 2, "native_scale": 0.05}}}, "drizzle.pixfrac"),
    ],
)
def test_wrong_keys_are_named(sections, message):
    with pytest.raises(InputError, match=message):
        load("hubble", **sections)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("texture", TEXTURE | {"scales": [0.5, 0.1]}, "expected 0.001 <= shortest <= longest"),
        ("clumps", CLUMPS | {"number": 1e9}, "number: expected at most"),
        ("arms", ARMS | {"pitch": 0}, "expected 1 to 89 degrees"),
        ("arms", ARMS | {"strength": -1}, "strength: .*expected 0 to 5"),
    ],
)
def test_wrong_structure_is_named(part, value, message):
    with pytest.raises(InputError, match=message):
        load("hubble", source={"structure": {part: value}})


def test_an_even_kernel():
    psf = HUBBLE.instrument.psf.model_dump() | {"size": 14}
    with pytest.raises(InputError, match="expected an odd number, found 14"):
        load("hubble", instrument={"psf": psf})


def test_truncated_normal():
    prior = Prior.model_validate({"truncated_normal": [2.0, 0.5, 1.8, 3.5]})
    drawn = prior.draw(np.random.default_rng(0), 3000)
    assert stats.kstest(drawn, stats.truncnorm(-0.4, 3.0, 2.0, 0.5).cdf).pvalue > 0.01
    assert prior.bounds == (1.8, 3.5) and "from 1.8 to 3.5" in prior.text
    assert Prior.model_validate(prior.model_dump()) == prior
