"""Evidence, posterior and its steps, against numerical integrals, SciPy and drawn sources."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from vitdm.lens.free_form import mass
from vitdm.lens.free_form.inversion import Inversion, Prior
from vitdm.lens.free_form.optics import Optics
from vitdm.lens.free_form.posterior import TRUSTED, Frame, Posterior, _bounded, climb
from vitdm.lens.free_form.source import Mesh
from vitdm.threads import one_thread

SCALE = 0.09


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Small matrices: threads only wait for each other."""
    with one_thread():
        yield


class Given:
    """A prior of given inverse variances, as ``Inversion`` asks for it."""

    def __init__(self, precision):
        self.values = np.array(precision)

    def precision(self, mesh):
        return self.values


def linear_problem(seed, n_data, n_source, n_light):
    """Data, matrix and noise (not yet weighted), prior means and inverse variances of the light."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((n_data, n_source + n_light))
    noise = rng.uniform(0.5, 2.0, n_data)
    mean, precision = rng.standard_normal(n_light), rng.uniform(0.5, 3.0, n_light)
    return 2 * rng.standard_normal(n_data), matrix, noise, mean, precision


def inversion_of(problem, mesh):
    data, matrix, noise, mean, precision = problem
    log_weight = -2 * np.log(noise).sum()
    return Inversion(matrix / noise[:, None], data / noise, mesh, mean, precision, log_weight)


# ----------------------------------------------------------------------------------- evidence


@pytest.mark.parametrize(("n_source", "n_light"), [(2, 0), (2, 1), (3, 0)])
def test_evidence_is_the_integral_over_source_and_light(n_source, n_light):
    problem = linear_problem(3, 5, n_source, n_light)
    data, matrix, noise, light_mean, light_precision = problem
    source_precision = np.array([0.7, 1.5, 2.5])[:n_source]
    precision = np.append(source_precision, light_precision)
    mean = np.append(np.zeros(n_source), light_mean)
    axes = [
        m + np.linspace(-9, 9, 121) / math.sqrt(p) for m, p in zip(mean, precision, strict=True)
    ]
    s = np.stack([grid.ravel() for grid in np.meshgrid(*axes, indexing="ij")], 1)
    likelihood = stats.norm.logpdf(data, s @ matrix.T, noise).sum(1)
    prior = stats.norm.logpdf(s, mean, precision**-0.5).sum(1)
    cell = math.prod(axis[1] - axis[0] for axis in axes)
    integral = np.exp(likelihood + prior).sum() * cell
    inversion = inversion_of(problem, SimpleNamespace(size=n_source))
    solution = inversion.solve(Given(source_precision))
    assert solution.evidence == pytest.approx(math.log(integral), abs=1e-6)
    weights = np.exp(likelihood + prior) * cell / integral
    first = weights @ s
    np.testing.assert_allclose(np.append(solution.source, solution.light), first, atol=1e-6)
    second = (s - first).T * weights @ (s - first)
    np.testing.assert_allclose(solution.covariance(), second, atol=1e-6)


@pytest.mark.parametrize("n_light", [0, 3])
@pytest.mark.parametrize("n_data", [12, 60])
def test_evidence_is_the_density_of_the_data(n_data, n_light):
    """N(M m, W^-1 + M Q^-1 M^T); with fewer data than unknowns, too."""
    mesh, prior = Mesh((0.0, 0.0), 1.0, 4), Prior(0.3, 4.0, 1.5)
    problem = linear_problem(1, n_data, mesh.size, n_light)
    data, matrix, noise, mean, precision = problem
    Q = np.append(0.3 * mesh.precision(4.0, 1.5), precision)
    total = np.diag(noise**2) + matrix / Q @ matrix.T
    center = matrix[:, mesh.size :] @ mean
    solution = inversion_of(problem, mesh).solve(prior)
    expected = stats.multivariate_normal.logpdf(data, center, total)
    assert solution.evidence == pytest.approx(expected, rel=1e-10)
    W = noise**-2.0
    inverse = np.linalg.inv(matrix.T * W @ matrix + np.diag(Q))
    np.testing.assert_allclose(solution.covariance(), inverse, atol=1e-12)
    best = inverse @ (matrix.T @ (W * data) + Q * np.append(np.zeros(mesh.size), mean))
    np.testing.assert_allclose(np.append(solution.source, solution.light), best, atol=1e-10)
    assert len(solution.light) == n_light
    residual = (data - matrix @ best) / noise
    np.testing.assert_allclose(solution.residual, residual, atol=1e-10)
    assert solution.chi2 == pytest.approx(float(residual @ residual))


def test_slopes_of_the_evidence_by_the_prior():
    mesh = Mesh((0.0, 0.0), 1.0, 4)
    inversion = inversion_of(linear_problem(1, 40, mesh.size, 2), mesh)

    def evidence(strength, kappa):
        return inversion.solve(Prior(0.3 * math.exp(strength), 4 * math.exp(kappa), 1.5)).evidence

    step = 1e-5
    slopes = [
        (evidence(step, 0) - evidence(-step, 0)) / (2 * step),
        (evidence(0, step) - evidence(0, -step)) / (2 * step),
    ]
    found = inversion.solve(Prior(0.3, 4.0, 1.5)).prior_gradient()
    np.testing.assert_allclose(found, slopes, rtol=1e-6)


def test_too_weak_a_prior_is_still_one():
    """Modes that the data say nothing of, and a prior below the digits of the matrix."""
    mesh, problem = Mesh((0.0, 0.0), 1.0, 6), linear_problem(1, 8, 36, 1)
    solution = inversion_of(problem, mesh).solve(Prior(1e-30, 4.0))
    assert np.isfinite(solution.evidence) and np.isfinite(solution.source).all()
    assert solution.evidence < inversion_of(problem, mesh).solve(Prior(1.0, 4.0)).evidence


def test_curvature_leaves_out_what_the_source_can_imitate():
    mesh = Mesh((0.0, 0.0), 1.0, 4)
    problem = linear_problem(1, 40, mesh.size, 2)
    matrix, noise = problem[1], problem[2]
    solution = inversion_of(problem, mesh).solve(Prior(0.3, 4.0))
    J = np.random.default_rng(0).standard_normal((40, 3))
    M = matrix / noise[:, None]
    expected = J.T @ J - J.T @ M @ solution.covariance() @ M.T @ J
    np.testing.assert_allclose(solution.projected_curvature(J), expected, atol=1e-9)


# ---------------------------------------------------------------------------------- posterior

TRUTH = np.array([1.1, 0.1, 0.05, 0.01, -0.02, 0.03, -0.02, 2.05])
TRUTH = np.append(TRUTH, [0.006, -0.01, 0.01, 0.004, 0.005, 0.01])
SD = np.array([np.inf, 0.1, 0.1, 0.03, 0.03, 0.05, 0.05, 0.1, *[0.01] * 6])
LARGEST = np.array([0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.1, *[0.02] * 6])
PRIOR = Prior(1e-3, 6.0)


def optics(shape=(48, 48), inner=0.5, outer=1.9):
    """The pixels of a ring, through a narrow lopsided PSF."""
    height, width = shape
    y, x = (np.indices(shape) - np.array([height - 1, width - 1]).reshape(2, 1, 1) / 2) * SCALE
    r = np.hypot(x, y)
    v, u = np.indices((5, 5)) - 2
    kernel = np.exp(-((u - 0.2) ** 2 + v**2 + 0.3 * u * v) / 1.5)
    samples = np.where(r > 1.1, 2, 1)
    return Optics((r < outer) & (r > inner), kernel / kernel.sum(), SCALE, samples)


OPTICS = optics()


def lensed(rng, values, mesh, n_light=2, snr=12.0):
    """A source and light drawn from their priors, and the pixels with noise.

    Returns the data, their noise, the light (N, k), and the drawn modes and light.
    """
    source = mesh.draw(PRIOR.kappa, PRIOR.nu, rng) / math.sqrt(PRIOR.strength)
    x, y = np.array([OPTICS.x, OPTICS.y]) - mass.deflection(values, OPTICS.x, OPTICS.y)
    arcs = OPTICS.seen(mesh.brightness(source, x, y))
    noise = arcs.std() / snr * rng.uniform(0.8, 1.2, len(arcs))
    light = np.abs(rng.standard_normal((len(arcs), n_light))) * 5 * arcs.std()
    drawn = 0.2 + 0.3 * rng.standard_normal(n_light)
    data = arcs + light @ drawn + noise * rng.standard_normal(len(arcs))
    return data, noise, light, source, drawn


def posterior_of(lens, mean=TRUTH, sd=SD):
    data, noise, light = lens[:3]
    n = light.shape[1]
    return Posterior(OPTICS, data, noise, light, np.full(n, 0.2), np.full(n, 0.3), mean, sd)


@pytest.fixture(scope="module")
def case():
    """A mesh, a lens, and a mass that is not the true one."""
    mesh, rng = Mesh((0.05, 0.02), 0.8, 10), np.random.default_rng(5)
    lens = lensed(rng, TRUTH, mesh)
    values = TRUTH + 0.3 * np.where(np.isinf(SD), 0.02, SD) * rng.standard_normal(14)
    return mesh, lens, values


def test_probability_is_evidence_times_prior(case):
    mesh, lens, values = case
    posterior = posterior_of(lens)
    point = posterior.at(values, mesh, PRIOR)
    finite = np.isfinite(SD)
    penalty = 0.5 * (((values - TRUTH) / SD)[finite] ** 2).sum()
    assert point.log_probability == pytest.approx(point.solution.evidence - penalty, rel=1e-12)
    assert point.chi2 == pytest.approx((point.solution.residual**2).mean())
    # the evidence is that of the pixels as they are seen
    data, noise, light = lens[:3]
    x, y = point.x, point.y
    matrix = np.hstack([OPTICS.matrix(mesh, x, y, np.ones(len(data))), light])
    Q = np.append(PRIOR.strength * mesh.precision(PRIOR.kappa, PRIOR.nu), [0.3**-2] * 2)
    total = np.diag(noise**2) + matrix / Q @ matrix.T
    off = data - 0.2 * light.sum(1)
    _, log_det = np.linalg.slogdet(2 * math.pi * total)
    expected = -0.5 * (off @ np.linalg.solve(total, off) + log_det)
    assert point.solution.evidence == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("follows", [False, True], ids=["fixed box", "box that follows"])
@pytest.mark.parametrize("k", range(14), ids=mass.NAMES)
def test_gradient_is_that_of_finite_differences(case, k, follows):
    """With the determinant's part: without it the slope is another."""
    mesh, lens, values = case
    posterior = posterior_of(lens)
    if follows:
        posterior.frame = frame(mesh, TRUTH)
    step = 1e-5 * (np.arange(14) == k)
    ahead, behind = (posterior.at(values + s * step, mesh, PRIOR) for s in (1, -1))
    slope = (ahead.log_probability - behind.log_probability) / 2e-5
    gradient, curvature = posterior.derivatives(posterior.at(values, mesh, PRIOR))
    assert gradient[k] == pytest.approx(slope, rel=1e-4, abs=1e-4 * math.sqrt(curvature[k, k]))


def frame(mesh, values):
    """The frame of a box for a mass, with weights that differ from ray to ray."""
    x, y = np.array([OPTICS.x, OPTICS.y]) - mass.deflection(values, OPTICS.x, OPTICS.y)
    return Frame(mesh, np.random.default_rng(0).random(len(x)) ** 4, x, y)


def test_the_box_follows_magnification_and_place(case):
    """Rays that are moved and stretched see the same box, moved and stretched."""
    mesh, _, values = case
    box = frame(mesh, values)
    x, y = np.array([OPTICS.x, OPTICS.y]) - mass.deflection(values, OPTICS.x, OPTICS.y)
    same, other = box.mesh(mesh, x, y), box.mesh(mesh, 0.3 + 2 * x, -0.1 + 2 * y)
    assert same.center == pytest.approx(mesh.center) and same.half_width == pytest.approx(0.8)
    assert other.half_width == pytest.approx(1.6) and other.n == mesh.n
    modes = np.random.default_rng(0).standard_normal(mesh.size)
    mean = np.array([x, y]) @ box.weight
    moved = other.center - (np.array([0.3, -0.1]) + 2 * mean)
    np.testing.assert_allclose(moved, mesh.center - mean, atol=1e-12)
    assert other.brightness(modes, *(other.center + np.array([0.2, 0.4]))) == pytest.approx(
        mesh.brightness(modes, *(mesh.center + np.array([0.1, 0.2])))
    )


def test_curvature_is_near_that_of_finite_differences(case):
    """At a good fit, where the second derivatives of the model hardly matter."""
    mesh, lens, _ = case
    posterior = posterior_of(lens)
    gradient, curvature = posterior.derivatives(posterior.at(TRUTH, mesh, PRIOR))
    assert np.linalg.eigvalsh(curvature).min() > 0
    for k in (0, 1, 5, 7, 10):
        step = 1e-4 * (np.arange(14) == k)
        slopes = [
            posterior.derivatives(posterior.at(TRUTH + s * step, mesh, PRIOR))[0] for s in (1, -1)
        ]
        second = -(slopes[0] - slopes[1])[k] / 2e-4
        assert curvature[k, k] == pytest.approx(second, rel=0.3)


def test_what_is_fixed_stays_and_the_rest_climbs(case):
    mesh, lens, values = case
    fixed = np.arange(14) >= 7
    posterior = posterior_of(lens, sd=np.where(fixed, 0.0, SD))
    start = posterior.at(values, mesh, PRIOR)
    gradient, curvature = posterior.derivatives(start)
    assert gradient.shape == (7,) and curvature.shape == (7, 7)
    full = posterior_of(lens).derivatives(start)
    finite = np.isfinite(SD) & ~fixed
    np.testing.assert_allclose(gradient, full[0][:7], rtol=1e-9)
    np.testing.assert_allclose(curvature, full[1][:7, :7], rtol=1e-9)
    assert finite.any()
    seen = []
    point, reached = climb(posterior, start, LARGEST, 20, 0.01, seen.append)
    np.testing.assert_array_equal(point.values[7:], values[7:])
    assert reached and point is seen[-1]
    gains = np.diff([start.log_probability] + [p.log_probability for p in seen])
    assert (gains > 0).all()
    # what is left of the slope would gain less than the tolerance
    gradient, curvature = posterior.derivatives(point)
    assert gradient @ np.linalg.solve(curvature, gradient) / 2 < 0.05


def test_a_step_that_loses_is_not_taken(case):
    """From so far away that whole steps overshoot."""
    mesh, lens, _ = case
    posterior, seen, tried = posterior_of(lens), [], []
    far = TRUTH + 3 * np.where(np.isinf(SD), 0.03, SD) * np.tile([1, -1], 7)
    start = posterior.at(far, mesh, PRIOR)
    at = posterior.at
    posterior.at = lambda *given: tried.append(at(*given)) or tried[-1]
    climb(posterior, start, 10 * LARGEST, 15, 0.01, seen.append)
    path = [start.log_probability] + [point.log_probability for point in seen]
    assert len(tried) > len(seen) > 2 and (np.diff(path) > 0).all()


def test_steps_are_no_longer_than_the_largest(case):
    mesh, lens, values = case
    posterior, seen = posterior_of(lens), []
    start = posterior.at(values, mesh, PRIOR)
    climb(posterior, start, LARGEST / 50, 3, 0.01, seen.append)
    path = np.array([start.values] + [point.values for point in seen])
    ratio = np.abs(np.diff(path, axis=0) / (LARGEST / 50)).max(1)
    assert len(ratio) == 3 and (ratio < 1 + 1e-9).all() and ratio[0] == pytest.approx(1)
    assert not climb(posterior, start, LARGEST / 50, 3, 0.01)[1]


def test_a_step_to_no_lens_is_not_taken(case):
    """The prior of the mass pulls to an ellipticity, slope or radius that there is not."""
    mesh, lens, values = case
    for k, (start, wrong) in {1: (0.8, 1.5), 7: (2.85, 3.3), 0: (0.02, -1.0)}.items():
        mean, sd, here = values.copy(), np.zeros(14), values.copy()
        mean[k], here[k], sd[k] = wrong, start, 1e-4
        posterior = posterior_of(lens, mean, sd)
        point, _ = climb(posterior, posterior.at(here, mesh, PRIOR), np.full(14, 0.5), 9, 1e-3)
        assert abs(point.values[k] - wrong) > 0.1 and np.isfinite(point.log_probability)


def test_the_top_of_a_parabola_is_found_in_one_step(case):
    """The prior of the mass alone, so narrow that the image says nothing."""
    mesh, lens, values = case
    sd = np.full(14, 1e-7)
    posterior = posterior_of(lens, mean=values + 5e-7, sd=sd)
    point, reached = climb(posterior, posterior.at(values, mesh, PRIOR), LARGEST, 5, 1e-3)
    assert reached
    np.testing.assert_allclose(point.values, values + 5e-7, atol=1e-8)


@pytest.mark.parametrize("first", [(1e-5, 4.0), (1.0, 15.0), (1e-3, 1.0)])
def test_best_prior_has_the_most_evidence(case, first):
    mesh, lens, _ = case
    posterior = posterior_of(lens)
    start = posterior.at(TRUTH, mesh, Prior(*first))
    best = posterior.best_prior(start)
    found = best.solution.prior
    grid = [
        posterior.at(TRUTH, mesh, Prior(found.strength * a, found.kappa * b)).log_probability
        for a in (0.4, 1.0, 2.5)
        for b in (0.7, 1.0, 1.4)
    ]
    assert best.log_probability > max(grid) - 0.5 and best.log_probability > start.log_probability
    np.testing.assert_array_equal(best.values, TRUTH)
    assert 0.3 < found.kappa / PRIOR.kappa < 3 and 0.1 < found.strength / PRIOR.strength < 10


# ----------------------------------------------------------------------------------- recovery

N = 24


@pytest.fixture(scope="module")
def drawn():
    """Masses, sources and light drawn from their priors, and what is found of each.

    Rows: chi2 + penalty at the true mass less N, over its s.d.; squares of the pulls of source and
    light, their number; difference of the mass and its covariance; chi2 at the end.
    """
    rng, rows = np.random.default_rng(11), []
    mesh = Mesh((0.0, 0.0), 0.8, 10)
    # theta_E has no prior: its truth is the same in all
    for _ in range(N):
        values = TRUTH + np.where(np.isinf(SD), 0.0, SD) * rng.standard_normal(14)
        lens = lensed(rng, values, mesh, n_light=1)
        posterior = posterior_of(lens)
        truth = posterior.at(values, mesh, PRIOR)
        Q = np.append(PRIOR.precision(mesh), posterior.light_precision)
        s, true = np.append(truth.solution.source, truth.solution.light), np.append(*lens[3:])
        penalty = Q @ (s - np.append(np.zeros(mesh.size), [0.2])) ** 2
        n = len(lens[0])
        whitened = np.linalg.cholesky(np.linalg.inv(truth.solution.covariance())).T @ (s - true)
        start = values + 0.1 * np.where(np.isinf(SD), 0.05, SD) * rng.standard_normal(14)
        point, reached = climb(posterior, posterior.at(start, mesh, PRIOR), LARGEST, 25, 0.02)
        covariance = np.linalg.inv(posterior.derivatives(point)[1])
        rows.append(
            {
                "chi2": (truth.solution.chi2 + penalty - n) / math.sqrt(2 * n),
                "whitened": whitened,
                "reached": reached,
                "off": point.values - values,
                "covariance": covariance,
                "gain": point.log_probability - truth.log_probability,
                "left": point.chi2,
            }
        )
    return rows


def test_chi2_of_the_true_mass_is_right(drawn):
    """chi2 + penalty is d^T C^-1 d, of the mean N and the variance 2 N."""
    chi2 = np.array([row["chi2"] for row in drawn])
    assert abs(chi2.mean()) < 4 / math.sqrt(N) and 0.6 < chi2.std() < 1.5


def test_pulls_of_the_source_are_normal(drawn):
    pulls = np.concatenate([row["whitened"] for row in drawn])
    n = len(pulls)
    assert abs(pulls.mean()) < 4 / math.sqrt(n)
    assert abs(pulls.std() - 1) < 4 / math.sqrt(2 * n)
    assert stats.kstest(pulls, "norm").pvalue > 0.01


def test_pulls_of_the_mass_are_normal(drawn):
    assert all(row["reached"] for row in drawn)
    pulls = np.array([row["off"] / np.sqrt(np.diag(row["covariance"])) for row in drawn])
    assert (np.abs(pulls.mean(0)) < 4 / math.sqrt(N)).all()
    assert abs(pulls.std() - 1) < 0.2  # 14 correlated parameters of 24 lenses
    squares = [row["off"] @ np.linalg.solve(row["covariance"], row["off"]) for row in drawn]
    assert stats.kstest(squares, stats.chi2(14).cdf).pvalue > 0.01
    # the maximum is above the truth by half the square of a pull, on average 7
    gains = np.array([row["gain"] for row in drawn])
    assert (gains > -0.1).all() and abs(gains.mean() - 7) < 4 * math.sqrt(7 / N)
    left = np.array([row["left"] for row in drawn])
    assert (left < 1.1).all() and (left > 0.7).all()


def test_a_learned_curvature_stays_near_that_of_variable_projection():
    curvature = np.diag([4.0, 1.0, 9.0])
    learned = np.diag([-4.0, 2.0, 900.0])  # no maximum, believable, far too sharp
    expected = [4 * TRUSTED[0], 2.0, 9 * TRUSTED[1]]
    np.testing.assert_allclose(_bounded(learned, curvature), np.diag(expected), atol=1e-12)
