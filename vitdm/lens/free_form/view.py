"""What is fitted of an image: its pixels, their noise, and the light of the lens galaxy in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import convolve2d

from vitdm.lens.free_form.galaxy import Galaxy
from vitdm.lens.free_form.optics import Optics

FREE_LIGHT = 0.1  # s.d. of each Gaussian of the lens galaxy about its first fit, of its flux


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with all that a fit needs to know of it.

    ``data`` and ``noise`` (H, W), in one unit; ``good`` (H, W): pixels that may be fitted;
    ``kernel`` (h, w) of the PSF; ``light`` (k, H, W): the components of the lens galaxy, as bright
    as a first fit has made them, and the sky, 1 noise of the median pixel bright; ``galaxy_light``
    (H, W): their sum with the sky, as first fitted. ``center`` (x, y) ["] is that of the galaxy, or
    else of the image, with its ``center_sd``.
    """

    data: NDArray
    noise: NDArray
    good: NDArray
    kernel: NDArray
    pixel_scale: float
    galaxy: Galaxy | None
    galaxy_light: NDArray
    light: NDArray
    center: tuple[float, float]
    center_sd: float

    @property
    def above(self) -> NDArray:
        """The image (H, W) without the galaxy's light, 0 where it is not good."""
        return np.where(self.good, self.data - self.galaxy_light, 0.0)

    def distance(self) -> NDArray:
        """Return the distance ["] (H, W) of the pixels from the centre."""
        height, width = self.data.shape
        x = (np.arange(width) - (width - 1) / 2) * self.pixel_scale - self.center[0]
        y = (np.arange(height) - (height - 1) / 2) * self.pixel_scale - self.center[1]
        return np.hypot(y[:, None], x)

    def error(self, share: float) -> NDArray:
        """Return the noise (H, W) with the model's error, a ``share`` of the galaxy's light."""
        sky = self.galaxy.sky if self.galaxy else 0.0
        return np.hypot(self.noise, share * np.clip(self.galaxy_light - sky, 0, None))


class View:
    """The pixels ``fitted`` (H, W) of a scene, in blocks of ``binning`` pixels squared.

    ``optics`` are theirs; ``data``, ``noise`` (pixels,) and ``light`` (pixels, k) are sums over
    blocks. ``samples`` (H, W) are the parts of each pixel along both axes, those of its binning if
    none are given.
    """

    def __init__(
        self,
        scene: Scene,
        fitted: NDArray,
        noise: NDArray,
        binning: int = 1,
        samples: NDArray | None = None,
    ) -> None:
        k, (height, width) = binning, scene.data.shape
        self.scene, scale = scene, scene.pixel_scale * k
        weight = np.where(scene.good & fitted, noise**-2.0, 0.0)
        total = _blocks(weight, k)
        self.fitted = total > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = _blocks(weight * scene.above, k) / total * k**2
            light = np.array([_blocks(weight * part, k) / total * k**2 for part in scene.light])
            error = k**2 / np.sqrt(total)
        self.image = np.where(self.fitted, mean, 0.0)
        self.data, self.noise = mean[self.fitted], error[self.fitted]
        self.light = light[:, self.fitted].T
        self.light_sd = np.full(self.light.shape[1], FREE_LIGHT)
        self.light_sd[-1:] = 1.0  # the sky, in units of the noise
        # the middle of the blocks, as seen from the middle of the image
        offset = tuple(-(side % k) / 2 * scene.pixel_scale for side in (width, height))
        if samples is None:  # the middle of each pixel of a block
            samples = np.full(self.fitted.shape, k)
        self.samples = samples
        self.optics = Optics(self.fitted, _binned(scene.kernel, k), scale, samples, offset)


def _blocks(image: NDArray, k: int) -> NDArray:
    """Return the sums over blocks of k x k pixels; what is left over is left out."""
    height, width = (side // k for side in image.shape)
    return image[: height * k, : width * k].reshape(height, k, width, k).sum((1, 3))


def _binned(kernel: NDArray, k: int) -> NDArray:
    """Return the kernel between blocks of k x k pixels, averaged over the pixels of both."""
    if k == 1:
        return kernel
    # the middle of an even kernel lies between pixels; a mean of neighbours moves it onto one
    odd = np.ones([1 + (side + 1) % 2 for side in kernel.shape])
    kernel = convolve2d(kernel, odd / odd.size)
    box = np.ones((k, k))
    wide = convolve2d(convolve2d(kernel, box), box) / k**2
    kernel = wide[tuple(slice((side - 1) // 2 % k, None, k) for side in wide.shape)]
    return kernel / kernel.sum()
