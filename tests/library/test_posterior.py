"""Mixture densities in a box against scipy's truncated normals; a toy with a known posterior."""

import numpy as np
import pytest
import torch
from scipy import stats

from vitdm.config import Model, Train
from vitdm.evaluation import posteriors
from vitdm.model.posterior import (
    Mixture,
    learn_posterior,
    log_interval,
    n_outputs,
    posterior,
)

BOX = ((-3.0, 7.0), (-1.0, 10.0))
WEIGHTS, SDS, SLOPE = (
    np.array([0.3, 0.7]),
    np.array([[0.5, 0.3], [2.0, 0.8]]),
    np.array([0.4, -0.5]),
)
MEANS = np.array([[-0.8, 0.5], [1.5, -0.2]])  # one of them outside


def mixture():
    """One lens, two components, in single numbers that the tests compare with."""
    factors = np.zeros((1, 2, 2, 2))
    factors[0, :, [0, 1], [0, 1]] = SDS.T
    factors[0, :, 1, 0] = SLOPE
    given = np.log(WEIGHTS)[None], MEANS[None], factors
    return Mixture(*map(torch.from_numpy, given), BOX)


def cut(mean, sd):
    return stats.truncnorm((-1 - mean) / sd, (1 - mean) / sd, mean, sd)


def test_density_is_that_of_normals_cut_one_after_the_other():
    x, y = np.linspace(-2.9, -1.1, 7), np.linspace(7.2, 9.9, 7)
    u, v = x + 2, (y - 8.5) / 1.5  # the box from -1 to 1
    expected, marginal = 0, 0
    for weight, mean, sd, slope in zip(WEIGHTS, MEANS, SDS, SLOPE, strict=True):
        first = cut(mean[0], sd[0])
        second = cut(mean[1] + slope * (u - mean[0]) / sd[0], sd[1])
        expected = expected + weight * first.pdf(u) * second.pdf(v) / 1.5
        marginal = marginal + weight * first.pdf(u)
    both = torch.from_numpy(np.c_[x, y])[None]
    np.testing.assert_allclose(mixture().log_density(both)[0].exp(), expected, rtol=1e-9)
    np.testing.assert_allclose(mixture().log_density(both[..., :1])[0].exp(), marginal, rtol=1e-9)


def test_draws_follow_the_density():
    draws = mixture().sample(4000, torch.Generator().manual_seed(0))[0].numpy()
    assert (draws >= BOX[0]).all() and (draws <= BOX[1]).all()

    def cdf(x):
        parts = [cut(m[0], s[0]).cdf(x + 2) for m, s in zip(MEANS, SDS, strict=True)]
        return WEIGHTS @ np.array(parts)

    assert stats.kstest(draws[:, 0], cdf).pvalue > 0.01
    # in cells of both properties: as many as the density says
    edges = np.linspace(-3, -1, 5), np.linspace(7, 10, 5)
    counts = np.histogram2d(*draws.T, bins=edges)[0]
    fine = [posteriors.cells(low, high, 120) for low, high in zip(*BOX, strict=True)]
    points = torch.from_numpy(
        np.stack(np.meshgrid(*fine, indexing="ij"), axis=-1).reshape(1, -1, 2)
    )
    p = mixture().log_density(points).exp().numpy().reshape(4, 30, 4, 30).sum(axis=(1, 3))
    assert stats.chisquare(counts.ravel(), 4000 * p.ravel() / p.sum()).pvalue > 0.01
    assert p.sum() * (2 / 120) * (3 / 120) == pytest.approx(1, abs=1e-3)


def test_a_component_far_outside_lies_at_its_bound():
    far = Mixture(*(torch.tensor(v) for v in ([[0.0]], [[[-40.0]]], [[[[0.5]]]])), ((0.0,), (1.0,)))
    draws = far.sample(5, torch.Generator().manual_seed(0))
    assert (draws == 0).all() and far.log_density(torch.tensor([[[0.01]]])).isfinite().all()


def test_probability_of_an_interval_in_both_tails():
    low, high = np.array([-30.0, -1, 5, 30]), np.array([-29.0, 2, 6, 31])
    signed = np.where(low > 0, -1, 1)
    a, b = np.minimum(signed * low, signed * high), np.maximum(signed * low, signed * high)
    expected = stats.norm.logcdf(b) + np.log1p(-np.exp(stats.norm.logcdf(a) - stats.norm.logcdf(b)))
    found = log_interval(torch.from_numpy(low), torch.from_numpy(high))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_mean_of_mixtures_is_the_mean_of_their_densities():
    numbers = torch.randn(2, 3, n_outputs(2, 4), generator=torch.Generator().manual_seed(0))
    one, two = (Mixture.of(part, BOX) for part in numbers)
    values = torch.tensor([[[-2.0, 8.0], [-1.1, 9.9]]]).expand(3, -1, -1)
    expected = (one.log_density(values).exp() + two.log_density(values).exp()) / 2
    found = Mixture.mean([one, two]).log_density(values).exp()
    torch.testing.assert_close(found, expected)
    blocks = torch.cat([part.log_density(values[: len(part.logits)]) for part in one.split(2)])
    torch.testing.assert_close(blocks, one.log_density(values))


@pytest.fixture(scope="module")
def toy():
    """A feature that is a number from -1 to 1 and noise of 0.4: posteriors are cut normals."""
    rng = np.random.default_rng(0)
    truths = rng.uniform(-1, 1, 3000)
    seen = truths + 0.4 * rng.normal(size=3000)
    features, targets = (torch.from_numpy(x).float()[:, None] for x in (seen, truths))
    arrays = torch.zeros(3000, 1, 8, 8), features, targets
    training, valid, asked = (tuple(a[part] for a in arrays) for part in (
        slice(1600), slice(1600, 2000), slice(2000, None)
    ))  # fmt: skip
    model = Model(
        patch_size=4, embed_dim=16, depth=1, num_heads=2, features=True, feature_dropout=0
    )
    train = Train(learning_rate=1e-2, epochs=8, batch_size=64, weight_decay=0.0)
    box = (-1.0,), (1.0,)
    learnt = learn_posterior(training, valid, box, model, train, components=2, progress=False)
    return learnt, posterior(learnt.model, *asked[:2], box), seen[2000:], truths[2000:]


def test_the_posterior_of_a_toy_is_learnt(toy):
    learnt, found, seen, truths = toy
    history = learnt.history["valid_log_density"]
    assert learnt.metrics(1600)["valid_log_density"] == history.max() > -np.log(2)  # of the prior
    grid = posteriors.cells(-1, 1, 200)
    points = torch.from_numpy(grid).float()[None, :, None].expand(1000, -1, -1)
    mean, sd, rank = posteriors.summarise(found.log_density(points).numpy(), grid, truths)
    exact = cut(seen, 0.4)  # the prior is even
    assert np.abs(mean - exact.mean()).mean() < 0.05 and np.abs(sd - exact.std()).mean() < 0.05
    assert stats.kstest(rank, exact.cdf(truths)).pvalue > 0.01
