r"""The chi^2 of images as a function of the parameters of a smooth lens.

:math:`\chi^2 = \sum r^2` over the pixels of a square, with :math:`r = (y - \mu) / \sqrt v` and
:math:`v = \sigma^2 + \mathrm{gain} \cdot m`: the noise without the photons of the lens, and that
of the photons of the model m. Where noise was clipped at zero, the mean brightness of a pixel of
noiseless brightness m is not m, and the model goes through the clip too (``vitdm.lens.noise``).
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from vitdm.lens.model import SmoothLens
from vitdm.lens.noise import clipped_normal, clipped_variance


class LensProblem:
    """The chi^2 of some images as a function of the parameters of their lenses.

    ``images`` is (n, size, size) in units of the noise of the sky, ``weight`` the number of pixels
    that a pixel is the mean of (0: none), ``gain`` (n,) the variance per brightness of the photon
    noise, ``clipped`` (n,) whether the noise was cut at zero, ``variance`` (n, size, size) that of
    the noise without those photons (default: 1). ``precision`` (p,) are the inverse variances of
    normal priors about 0, which are part of chi^2 (default: none).
    """

    def __init__(
        self,
        model: SmoothLens,
        images: Tensor,
        weight: Tensor,
        gain: Tensor,
        clipped: Tensor,
        variance: Tensor | None = None,
        precision: Tensor | None = None,
    ) -> None:
        self.model, self.images, self.weight = model, images, weight
        self.gain, self.clipped = gain.to(images.dtype), clipped
        self.variance = torch.ones_like(images) if variance is None else variance
        self.precision = precision
        self.pixels = (weight > 0).flatten(1).sum(1).clamp(min=1)
        # until there is a model, the image itself, smoothed, tells how many photons there are
        smooth = [cv2.GaussianBlur(image, (0, 0), 1.0) for image in images.numpy()]
        self.renew(torch.from_numpy(np.array(smooth)))

    def renew(self, brightness: Tensor, rows: Tensor | slice = slice(None)) -> None:
        """Take the noise of some images to be that of a brightness (k, size, size)."""
        if not hasattr(self, "sigma"):
            self.sigma, self.inverse = torch.ones_like(self.images), self.weight.clone()
        gain, at_zero = self.gain[rows, None, None], self.clipped[rows]
        variance = self.variance[rows] + gain * brightness.clamp(min=0)
        self.sigma[rows] = sigma = torch.sqrt(variance)
        if at_zero.any():
            variance[at_zero] = clipped_variance(brightness[at_zero], sigma[at_zero]).clamp(
                min=1e-3
            )
        self.inverse[rows] = torch.sqrt(self.weight[rows] / variance)

    def expected(self, brightness: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the mean of the pixels, and its derivative where that is not 1."""
        at_zero = self.clipped[rows]
        if not at_zero.any():
            return brightness, None
        # sigma is that of the last ``renew``: it does not move with the parameters
        mean, above, _ = clipped_normal(brightness, self.sigma[rows])
        at_zero = at_zero[:, None, None]
        return torch.where(at_zero, mean, brightness), torch.where(at_zero, above, 1.0)

    def residual(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the residuals (k, size, size) of some images, in units of their noise."""
        mean, _ = self.expected(self.model.image(values), rows)
        return (self.images[rows] - mean) * self.inverse[rows]

    def linear(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return r and J of a few images in one array (k, 1 + p, size, size).

        Residuals, and derivatives of the model, in units of the noise. The next call overwrites it.
        """
        both = self.model.image_and_derivatives(values)
        mean, slope = self.expected(both[:, 0], rows)
        inverse = self.inverse[rows]
        r = (self.images[rows] - mean) * inverse
        both *= (inverse if slope is None else inverse * slope)[:, None]
        both[:, 0] = r
        return both

    def normal_equations(self, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return chi^2 (k,), J J^T (k, p, p) and J r (k, p) at ``values`` (k, p), double precision.

        J (p, pixels) are the derivatives of the model in units of the noise, r the residuals.
        """
        parts = []
        chunk = self.model.chunk
        for some, index in zip(values.split(chunk), rows.split(chunk), strict=True):
            both = self.linear(some, index).flatten(2)
            product = both @ both.mT  # one product gives J J^T and J r
            chi2 = both[:, 0].square().sum(1, dtype=torch.float64)
            parts.append((chi2, product[:, 1:, 1:].double(), product[:, 1:, 0].double()))
        chi2, curvature, gradient = (torch.cat(part) for part in zip(*parts, strict=True))
        if self.precision is not None:
            chi2 = chi2 + self.penalty(values)
            curvature = curvature + torch.diag(self.precision)
            gradient = gradient - self.precision * values
        return chi2, curvature, gradient

    def penalty(self, values: Tensor) -> Tensor:
        """Return what the priors add to chi^2 (n,) at ``values`` (n, p)."""
        if self.precision is None:
            return torch.zeros(len(values), dtype=values.dtype)
        return (self.precision * values**2).sum(1)
