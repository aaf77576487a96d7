"""The noise of an image: of normal noise that is clipped at zero, and how it is measured."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Clipped(NamedTuple):
    """The mean of max(x, 0), x normal, and its derivatives by mean and sigma of x."""

    mean: Tensor
    by_mean: Tensor
    by_sigma: Tensor


def clipped_normal(mean: Tensor, sigma: Tensor) -> Clipped:
    r"""Return the mean of max(x, 0), x normal with ``mean`` and ``sigma``.

    :math:`E = m \Phi(m / \sigma) + \sigma \varphi(m / \sigma)`, whose derivatives are
    :math:`\Phi` by m and :math:`\varphi` by sigma.
    """
    a = mean / sigma
    above, density = torch.special.ndtr(a), torch.exp(-0.5 * a**2)
    expected = mean * above + sigma * density / math.sqrt(2 * math.pi)
    return Clipped(expected, above, density / math.sqrt(2 * math.pi))


def clipped_variance(mean: Tensor, sigma: Tensor) -> Tensor:
    """Return the variance of max(x, 0), x normal with ``mean`` and ``sigma``."""
    first, above, _ = clipped_normal(mean, sigma)
    return mean * first + sigma**2 * above - first**2


def roughness(images: Tensor, lag: int = 1) -> Tensor:
    """Return the second differences along both axes of images (n, H, W): 2 ``lag`` pixels less.

    White noise keeps its variance, and so does noise that pixels ``lag`` apart do not share; what
    is smooth disappears (Immerkaer 1996, doi:10.1006/cviu.1996.0060).
    """
    rows = images[:, : -2 * lag] - 2 * images[:, lag:-lag] + images[:, 2 * lag :]
    return (rows[:, :, : -2 * lag] - 2 * rows[:, :, lag:-lag] + rows[:, :, 2 * lag :]) / 6


def noise_of_the_faint(image: NDArray, lag: int = 1) -> float:
    """Return the sigma of normal noise from the roughness of the fainter half of an image (H, W).

    In the units of the image; ``lag`` as in ``roughness``.
    """
    rough = roughness(torch.from_numpy(image)[None], lag)[0].numpy()
    smooth = cv2.GaussianBlur(image, (0, 0), 2.0)[lag:-lag, lag:-lag]
    return 1.4826 * float(np.median(np.abs(rough[smooth <= np.median(smooth)])))


def photon_noise(residual: Tensor, model: Tensor, lag: int = 1) -> Tensor:
    """Return the detector's gain (n,): variance of the photon noise per brightness.

    It solves the likelihood equation for the variance 1 + gain m of the roughness of ``residual``
    (n, H, W) in the bright pixels of the ``model`` m (n, H, W), both in units of the sky noise.
    """
    # the squared weights of the differences, summed: the variance that the roughness should have
    kernel = torch.zeros(2 * lag + 1)
    kernel[::lag] = torch.tensor([1.0, 4.0, 1.0]) / 6
    brightness = torch.nn.functional.conv2d(model[:, None], (kernel[:, None] * kernel)[None, None])
    brightness = brightness[:, 0].flatten(1).double().clamp(min=0)
    bright = brightness > 3  # where the noise is that of photons, and not clipped at zero
    excess = roughness(residual, lag).flatten(1).double() ** 2 - 1
    gain = torch.full((len(model), 1), 0.1, dtype=torch.float64)
    for _ in range(20):  # a fixed point: weights are those of the last gain
        weights = bright * brightness / (1 + gain * brightness) ** 2
        gain = (weights * excess).sum(1, keepdim=True) / (weights * brightness).sum(1, keepdim=True)
        gain = gain.clamp(min=0).nan_to_num(0.0)
    return gain[:, 0]
