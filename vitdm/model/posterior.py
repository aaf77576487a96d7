r"""Posteriors of the properties of lenses: networks whose outputs are a mixture of Gaussians.

A network that gives the truth of simulated lenses the largest mean log density learns
p(properties | what it sees), for the prior they were drawn from (neural posterior estimation,
Papamakarios & Murray 2016, arXiv:1605.06376). Any network of ``vitdm.model.networks`` will do: its
head has an output for each parameter of the mixture (Bishop 1994, NCRG/94/004).

The prior has bounds, a box, and so has the posterior: a component with Cholesky factor L is
x = mean + L e, of which e_1, e_2, … are standard normal, each cut so that x stays in the box given
those before it (as in the sampler of Geweke, Hajivassiliou and Keane). Each component is normalised
in the box, and that of the first property alone is a normal distribution cut at its bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.special import log_ndtr, ndtr, ndtri

from vitdm.config import Model, Train
from vitdm.model.networks import outputs
from vitdm.model.training import Arrays, Learnt, Validation, learn

#: lower and upper bounds of the d properties
Box = tuple[Sequence[float], Sequence[float]]
NARROWEST = 0.01  # standard deviation of a component, in units of half the box


@dataclass(frozen=True)
class Mixture:
    """Gaussian mixtures in a box, one a lens.

    ``logits`` (B, K) of the weights; ``means`` (B, K, d) and ``factors`` (B, K, d, d), lower
    triangles, in units in which the box is from -1 to 1. Values are in those of ``box``.
    """

    logits: Tensor
    means: Tensor
    factors: Tensor
    box: Box

    @classmethod
    def of(cls, outputs: Tensor, box: Box) -> Mixture:
        """Return the mixtures of a network's outputs (B, ``n_outputs``)."""
        d = len(box[0])
        outputs = outputs.unflatten(1, (-1, n_outputs(d, 1)))
        logits, means, numbers = outputs.split([1, d, d * (d + 1) // 2], dim=2)
        spread = torch.linspace(-1, 1, outputs.shape[1]).to(outputs)  # or all would start alike
        diagonal = NARROWEST + functional.softplus(numbers[..., :d])
        factors = torch.diag_embed(diagonal)
        rows, columns = torch.tril_indices(d, d, -1)
        factors[..., rows, columns] = numbers[..., d:]
        return cls(logits[..., 0], means + spread[:, None], factors, box)

    @classmethod
    def mean(cls, mixtures: Sequence[Mixture]) -> Mixture:
        """Return the mean of several mixtures of the same lenses: all their components."""
        logits = torch.cat([mixture.logits.log_softmax(dim=1) for mixture in mixtures], dim=1)
        means = torch.cat([mixture.means for mixture in mixtures], dim=1)
        factors = torch.cat([mixture.factors for mixture in mixtures], dim=1)
        return cls(logits, means, factors, mixtures[0].box)

    def split(self, size: int) -> Iterator[Mixture]:
        """Give the mixtures of ``size`` lenses after another."""
        parts = (each.split(size) for each in (self.logits, self.means, self.factors))
        for part in zip(*parts, strict=True):
            yield Mixture(*part, self.box)

    def log_density(self, values: Tensor) -> Tensor:
        """Return the log density (B, n) of values (B, n, m) of the first m properties."""
        middle, half = self._scale(values)
        x = ((values - middle) / half)[:, :, None]  # (B, n, 1, m)
        total = self.logits.log_softmax(dim=1)[:, None]  # (B, 1, K)
        drawn: list[Tensor] = []  # the e of the properties before, (B, n, K) each
        for j in range(values.shape[2]):
            mean, sd = _given(self.means[:, None], self.factors[:, None], drawn)
            drawn.append((x[..., j] - mean) / sd)
            inside = log_interval((-1 - mean) / sd, (1 - mean) / sd)
            total = total - drawn[-1] ** 2 / 2 - sd.log() - inside
        constant = values.shape[2] * math.log(2 * math.pi) / 2
        return total.logsumexp(dim=2) - constant - half.log().sum()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n draws of each lens, (B, n, d), in double precision."""
        weights = self.logits.double().softmax(dim=1)
        chosen = torch.multinomial(weights, n, replacement=True, generator=generator)  # (B, n)
        lenses = torch.arange(len(chosen))[:, None]
        means, factors = (each.double()[lenses, chosen] for each in (self.means, self.factors))
        values, drawn = [], []
        for _ in range(means.shape[2]):
            mean, sd = _given(means, factors, drawn)  # (B, n)
            low, high = (-1 - mean) / sd, (1 - mean) / sd
            flipped = low > 0  # in the lower tail numbers keep their digits
            a, b = torch.where(flipped, -high, low), torch.where(flipped, -low, high)
            share = torch.rand(mean.shape, generator=generator, dtype=torch.float64)
            e = ndtri(ndtr(a) + share * (ndtr(b) - ndtr(a)))
            e = torch.where(ndtr(b) > 1e-290, e, b)  # farther out all lies at the bound
            values.append((mean + sd * torch.where(flipped, -e, e)).clamp(-1, 1))
            drawn.append((values[-1] - mean) / sd)
        middle, half = self._scale(means)
        return middle + half * torch.stack(values, dim=2)

    def _scale(self, values: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (torch.tensor(ends).to(values) for ends in self.box)
        m = values.shape[2]
        return (low + high)[:m] / 2, (high - low)[:m] / 2


def _given(means: Tensor, factors: Tensor, drawn: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and s.d. of the next property of means (…, d), given the e of those before it."""
    j = len(drawn)
    mean = means[..., j]
    for i, e in enumerate(drawn):
        mean = mean + factors[..., j, i] * e
    return mean, factors[..., j, j]


def log_interval(low: Tensor, high: Tensor) -> Tensor:
    """Return the logarithm of a standard normal's probability between two bounds, low < high."""
    flipped = low > 0
    a = log_ndtr(torch.where(flipped, -high, low))
    b = log_ndtr(torch.where(flipped, -low, high))
    return b + torch.log(-torch.expm1(a - b))


def n_outputs(n_properties: int, components: int) -> int:
    """Return how many numbers a mixture has: weights, means, and lower triangles."""
    return components * (1 + n_properties + n_properties * (n_properties + 1) // 2)


def mean_log_density(outputs: Tensor, targets: Tensor, box: Box) -> Tensor:
    """Return the mean log density of targets (B, d) by the mixtures of a network's outputs."""
    return Mixture.of(outputs, box).log_density(targets[:, None]).mean()


def learn_posterior(
    training: Arrays,
    valid: Arrays | None,
    box: Box,
    model: Model,
    train: Train,
    *,
    components: int = 8,
    **options: Any,
) -> Learnt:
    """Train one network for the posterior of targets (n, d) in a box; see ``training.learn``.

    With ``valid`` the weights of the epoch with the largest mean log density are kept.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return -mean_log_density(outputs, targets, box)

    def scores(outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"valid_log_density": mean_log_density(outputs, targets, box).item()}

    validation = Validation(("valid_log_density",), "valid_log_density", scores)
    n = n_outputs(len(box[0]), components)
    return learn(training, valid, n, model, train, loss=loss, validation=validation, **options)


def posterior(
    network: nn.Module, images: Tensor, features: Tensor | None, box: Box, average: bool = False
) -> Mixture:
    """Return the posteriors of images; with ``average`` the mean over their eight symmetries."""
    batches = list(outputs(network, images, features, average=average))
    views = zip(*batches, strict=True)  # of each view its batches
    return Mixture.mean([Mixture.of(torch.cat(view).cpu(), box) for view in views])
