"""The search for perturbers, against the simulator, dense algebra and what noise must leave."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate

from studies.ideal_observer import true_values
from vitdm import config, simulation
from vitdm.lens import fit, matched
from vitdm.lens.model import Camera, SmoothLens
from vitdm.simulation import load_population
from vitdm.simulation.cosmology import theta_E_point

ROOT = Path(__file__).parents[2]
MARGINAL = load_population("marginal")
SCALE, N_PIX = MARGINAL.instrument.pixel_scale, 96
CUT = np.s_[27:123, 27:123]
CAMERA = Camera.of(N_PIX, SCALE, 0.087, 3.0)
SEARCH = matched.search_of(CAMERA)
SOURCE = (6, 7)
DENSITY = theta_E_point(1.0, MARGINAL.cosmology) ** 2  # arcsec² per solar mass


def about_the_middle(searched):
    """The places about the middle of the image."""
    return searched.inside(torch.zeros(1), torch.zeros(1))


def lens_of(i, masses=(), at=()):
    """The lens ``i``, with point masses [arcsec²] at places of the search."""
    system = simulation.draw(i, "no_sub", 5, MARGINAL)
    if len(masses):
        x, y = SEARCH.x[list(at)].numpy(), SEARCH.y[list(at)].numpy()
        masses = np.array(masses) / DENSITY
        system = replace(system, kind="cdm", x=x.astype(float), y=y.astype(float), masses=masses)
    return system


def rows_of(i, masses=(), at=()):
    """Residual of the true smooth lens and derivatives (1 + p, size, size) in sigma, no noise."""
    system, t = lens_of(i), simulation.draw(i, "no_sub", 5, MARGINAL).exposure_time
    values = true_values(system)[None]
    values[0, 11] += math.log(t)
    image, J = SmoothLens(CAMERA, dtype=torch.float64).derivatives(torch.tensor(values))
    sigma = torch.sqrt((0.01 * t) ** 2 + image)
    left = t * (
        simulation.render(lens_of(i, masses, at), MARGINAL) - simulation.render(system, MARGINAL)
    )
    rows = torch.cat([torch.from_numpy(left[CUT])[None], J[0]]) / sigma
    return rows.float()


def on_ring(i, n=1):
    """Places of the search within 0.2 arcsec of the Einstein radius."""
    distance = torch.hypot(SEARCH.x, SEARCH.y)
    ring = torch.nonzero((distance - lens_of(i).theta_E).abs() < 0.2)[:, 0]
    return ring[torch.randperm(len(ring), generator=torch.Generator().manual_seed(i))[:n]].tolist()


def beyond(rows, derivatives):
    """What no smooth parameters imitate."""
    J = derivatives.flatten(1).double().T
    rows = rows.flatten(1).double().T
    return (rows - J @ torch.linalg.lstsq(J, rows).solution).T


@pytest.fixture
def exact():
    """The search without binning: its sums are those over pixels."""
    return matched.Search(CAMERA, N_PIX)


def template(rows, x, y, soft2):
    """T (1, size, size) of a unit mass, written down pixel by pixel."""
    axis = (torch.arange(N_PIX) - (N_PIX - 1) / 2) * SCALE
    dx, dy = axis - x, axis[:, None] - y
    r2 = dx**2 + dy**2 + soft2
    return (rows[SOURCE[0]] * dx / r2 + rows[SOURCE[1]] * dy / r2)[None]


def test_the_template_is_what_the_simulator_changes():
    """A little mass: measured, and how significant, from the rendered difference alone."""
    mass, ratios, kept = 1e-4, [], []
    for i in range(20):
        (at,) = on_ring(i)
        rows = rows_of(i, [mass], [at])
        N, D = (part.flatten()[at].item() for part in SEARCH.maps(rows[None], SOURCE))
        ratios.append(N / D / mass)
        kept.append(N / D**0.5 / beyond(rows[:1], rows[1:]).norm().item())
    assert np.median(ratios) == pytest.approx(1, abs=0.15)
    assert np.median(kept) > 0.88 and max(kept) < 1.001  # by the inequality of Schwarz


def test_maps_are_sums_over_pixels(exact):
    rows = rows_of(1)
    rows[0] = torch.from_numpy(np.random.default_rng(1).standard_normal((N_PIX, N_PIX)))
    N, D = (part.flatten() for part in exact.maps(rows[None], SOURCE))
    for at in (2000, 4444, 7000):
        T = beyond(template(rows, exact.x[at], exact.y[at], exact.soft2), rows[1:])
        assert (T**2).sum().item() == pytest.approx(D[at].item(), rel=0.01)
        product = (T @ rows[0].flatten().double()).item()
        assert abs(product - N[at].item()) < 0.01 * D[at].item() ** 0.5


def test_places_are_looked_at_about_the_centre_of_the_lens():
    moved = SEARCH.inside(torch.tensor([0.3]), torch.tensor([-0.2]))[0]
    distance = torch.hypot(SEARCH.x - 0.3, SEARCH.y + 0.2)
    assert distance[moved].max() <= SEARCH.reach < distance[~moved].min()
    rows, theta_E = rows_of(2)[None], torch.tensor([1.2])
    middle, far = (
        SEARCH(rows, SOURCE, theta_E, torch.tensor([x]), torch.zeros(1)) for x in (0.0, 9.0)
    )
    assert middle.isfinite().all() and far.isnan().all()  # no place is left


def test_what_smooth_parameters_do_is_no_mass():
    rows = rows_of(2)
    rows[0] = (
        torch.randn(len(rows) - 1, generator=torch.Generator().manual_seed(0)) @ rows[1:].flatten(1)
    ).view(N_PIX, N_PIX)
    N, D = SEARCH.maps(rows[None], SOURCE)
    known = about_the_middle(SEARCH).view_as(D[0]) & (D[0] > 0)
    assert rows[0].norm() > 100  # it is strong
    assert (N[0] / D[0].sqrt())[known].abs().max() < 0.02


def noise(i, n, seed=3):
    rows = rows_of(i)[None].repeat(n, 1, 1, 1)
    generator = torch.Generator().manual_seed(seed)
    rows[:, 0] = torch.randn(n, N_PIX, N_PIX, generator=generator)
    return rows


def test_noise_has_unit_significance_and_mean_likelihood_ratio_one():
    places, pulls, evidence = on_ring(3, 20), [], []
    for rows in noise(3, 600).split(20):
        N, D = (part.flatten(1)[:, places] for part in SEARCH.maps(rows, SOURCE))
        pulls.append(N / D.sqrt())
        # a mass that is hardly seen: of others, the mean is that of a few rare images
        faint = D[0].mean().item() ** -0.5
        evidence.append(matched._best(N, D, torch.ones(len(N)), faint)[2])
    pulls, ratio = torch.cat(pulls), torch.cat(evidence).exp()
    assert pulls.mean(0).abs().max() < 4 / 600**0.5
    np.testing.assert_allclose(pulls.std(0), 1, atol=0.15)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / 600**0.5 and ratio.std() > 0.1


def test_evidence_is_the_integral_over_masses():
    N, D, tau, theta_E = 7.0, 11.0, 0.2, 1.3

    def integrand(m):
        return math.exp(m * N - m**2 * D / 2 - m**2 / 2 / (tau * theta_E**2) ** 2)

    expected = integrate.quad(integrand, 0, 10)[0] * math.sqrt(2 / math.pi) / tau / theta_E**2
    maps = torch.tensor([[N, 5.0]]), torch.tensor([[D, 0.0]])  # of the second nothing is known
    snr, mass, evidence = matched._best(*maps, torch.tensor([theta_E]), tau)
    assert evidence.item() == pytest.approx(math.log(expected), rel=1e-4)
    assert mass.item() == pytest.approx(N / D / theta_E**2)
    assert snr.item() == pytest.approx(N / D**0.5)


def test_a_string_is_the_sum_of_its_points(exact):
    rows = rows_of(4)
    rows[0] = torch.from_numpy(np.random.default_rng(4).standard_normal((N_PIX, N_PIX)))
    lit, pairs = exact._lit(rows[None], SOURCE)
    seen, _ = exact._seen(lit, pairs, exact.point)
    N, D = (
        part.view(12, 48, 48) for part in exact._string_maps(seen, pairs, about_the_middle(exact))
    )
    reach = exact.strings.shape[-1] // 2
    for k, row, column in ((1, 18, 24), (8, 28, 22)):
        weights = exact.strings[k, 0]
        assert weights.sum().item() == pytest.approx(1)
        window = [slice(2 * (a - reach), 2 * (a + reach) + 1, 2) for a in (row, column)]
        x, y = (grid.view(N_PIX, N_PIX)[tuple(window)] for grid in (exact.x, exact.y))
        T = sum(
            w * template(rows, a, b, exact.soft2)
            for w, a, b in zip(weights.ravel(), x.ravel(), y.ravel(), strict=True)
        )
        T = beyond(T, rows[1:])
        assert D[k, row, column].item() == pytest.approx((T**2).sum().item(), rel=0.01)
        product = (T @ rows[0].flatten().double()).item()
        assert abs(product - N[k, row, column].item()) < 0.01 * D[k, row, column].item() ** 0.5
        # 0.7 arcsec long at 30 degrees, 1.5 at 60
        at = weights.ravel() @ x.ravel(), weights.ravel() @ y.ravel()
        dx, dy = (weights.sqrt() * (part - mean) for part, mean in zip((x, y), at, strict=True))
        length = (12 * ((dx**2).sum() + (dy**2).sum())).sqrt().item()
        angle = math.degrees(math.atan2((dx * dy).sum() * 2, (dx**2 - dy**2).sum())) / 2
        assert length == pytest.approx({1: 0.7, 8: 1.5}[k], abs=0.08)
        assert angle == pytest.approx({1: 30, 8: 60}[k], abs=4)


def test_points_are_taken_out_one_after_the_other(exact):
    """What the best of them explains, together, against least squares of their templates."""
    places, masses = (4444, 2000, 6980), (3.0, 2.0, 1.0)
    rows = rows_of(5)
    at = [(exact.x[p], exact.y[p], exact.soft2) for p in places]
    T = beyond(torch.cat([template(rows, *place) for place in at]), rows[1:])
    T = T / T.norm(dim=1, keepdim=True)
    made = 20 * (torch.tensor(masses).double() @ T)
    rows[0] = made.view(N_PIX, N_PIX)
    lit, pairs = exact._lit(rows[None], SOURCE)
    seen, D = exact._seen(lit, pairs, exact.point)
    gains = exact._pursue(seen, pairs, torch.where(about_the_middle(exact), D, 0.0))
    whole = (made**2).sum().item()
    assert gains[0] < gains[1] < gains[2]
    assert gains[0].item() == pytest.approx((T @ made).max().item() ** 2, rel=0.02)
    assert 0.95 < gains[2].item() / whole < 1.005


def test_injected_masses_are_measured_by_the_fit():
    """A fit finds a mass of 5e9 suns near the ring, on noise, and none without it."""
    mass, images, smooth, known = 5e9 * DENSITY, [], [], []
    for i in range(12):
        system = lens_of(i, [mass], on_ring(i))
        for lens, out in ((system, images), (lens_of(i), smooth)):
            image = simulation.render(lens, MARGINAL)
            out.append(simulation.add_noise(image, lens, np.random.default_rng(i), MARGINAL))
        known.append(mass / system.theta_E**2)
    fits = fit(np.array(images + smooth), config.LensFit(gain=1.0), pixel_scale=SCALE)
    told = dict(zip(matched.NAMES, fits.perturbers.T, strict=True))
    assert np.median(told["point_mass"][:12] / known) == pytest.approx(1, abs=0.3)
    assert (told["point_evidence"][:12] > 5).mean() >= 0.75
    assert (told["point_evidence"][12:] < 3).all() and (told["string_evidence"][12:] < 3).all()
    assert (told["point_snr"][12:] < 5.5).all()


def test_of_a_blank_image_nothing_is_told():
    images = np.random.default_rng(0).normal(0, 1, (2, 96, 96))
    fits = fit(images, config.LensFit(gain=1.0), pixel_scale=SCALE)
    assert np.isnan(fits.perturbers).all()


@pytest.mark.parametrize("size, places", [(48, 48), (64, 64), (80, 40), (96, 48), (150, 50)])
def test_the_grid_divides_the_square(size, places):
    assert matched.Search(Camera.of(size, 0.1, 0.17, 3.0)).n == places
