r"""Maps of a lens for networks: S/N and sensitivity of perturbers, the residual, the image.

All lie on one grid: the pixels of the square that was fitted, binned to about 48 places a side. The
channels are, by name (``vitdm.config.CHANNELS``):

- ``snr_point``, ``snr_clump``, ``snr_string``: the amplitude of a point mass, of an isothermal
  clump that is cut, or of a string at each place, over its error, with all that a smooth lens
  could imitate taken out;
- ``sensitivity_...``: :math:`\ln(\theta_E^2 / \delta m)`, :math:`\delta m` that error in the unit
  of a mass, the squared Einstein radius of a point [arcsec²]; from 0, where an error is as large as
  the lens, to ``MOST``;
- ``residual``: arcsinh of the residual, summed over the pixels of a place, in units of the noise of
  that sum;
- ``chi2``: :math:`\ln(1 + \langle s^2 \rangle)` over the pixels of a place, s being the residual
  summed over 3 x 3 pixels, in units of its noise;
- ``image``: arcsinh of half the image above the sky, in units of the sky's noise, both binned.

Where nothing is known, or a fit did not converge, S/N and sensitivity are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vitdm.config.images import CHANNELS

MOST = 12.0  # of a sensitivity: an error of 6e-6 of the lens
LARGEST = 1e4  # of a S/N, either sign
SOFTENING = 2.0  # of the image, as that of ``vitdm.config.Preprocess``


def perturber_channels(snr: Tensor, information: Tensor, theta_E: Tensor) -> Tensor:
    """Return the channels (n, 6, g, g) of S/N and D [arcsec⁻⁴], (n, 3, g, g) each.

    They are those of the ``PROFILES``; D is the inverse variance of the mass, 0 where nothing is
    known, and ``theta_E`` (n,) in arcsec.
    """
    told = torch.isfinite(snr) & (information > 0)
    unit = 2 * theta_E.to(snr)[:, None, None, None].log()
    sensitivity = torch.where(told, information, 1.0).log() / 2 + unit
    sensitivity = torch.where(told, sensitivity, 0.0).nan_to_num(0.0).clamp(0, MOST)
    snr = torch.where(told, snr, 0.0).clamp(-LARGEST, LARGEST)
    return torch.cat([snr, sensitivity], 1)


def pixel_channels(residual: Tensor, image: Tensor, places: int) -> Tensor:
    """Return the channels ``residual``, ``chi2`` and ``image`` (n, 3, places, places) of squares.

    ``residual`` and ``image`` (n, size, size) are in units of the noise, the latter of the sky's.
    """
    k = residual.shape[-1] // places
    maps = torch.stack([residual, image], 1).float()
    summed, light = (k * functional.avg_pool2d(maps, k)).unbind(1)
    # the sum of 9 pixels, whose noise is 3, is 9 times their mean
    s = 3 * functional.avg_pool2d(maps[:, :1], 3, stride=1, padding=1)
    local = functional.avg_pool2d(s**2, k)[:, 0]
    channels = torch.arcsinh(summed), torch.log1p(local), torch.arcsinh(light / SOFTENING)
    return torch.stack(channels, 1)


def standardised(maps: Tensor, names: tuple[str, ...] | list[str]) -> Tensor:
    """Return what a network sees of channels (n, C, g, g) of these names: values of order one.

    S/N by an arcsinh, which leaves noise as it is and draws in what stands out; sensitivity and
    image over 4.
    """
    known = set(names)
    assert known <= set(CHANNELS), f"expected some of {', '.join(CHANNELS)}"
    kinds = [name.partition("_")[0] for name in names]
    scale = [0.25 if kind in ("sensitivity", "image") else 1.0 for kind in kinds]
    maps = maps.float() * torch.tensor(scale)[:, None, None]
    bounded = torch.tensor([kind == "snr" for kind in kinds])[:, None, None]
    return torch.where(bounded, torch.arcsinh(maps), maps)
