"""Masks: pixels that are not fitted are NaN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitdm.preprocess.background import as_image


def without(image: NDArray, circles: Sequence[tuple[float, float, float]]) -> NDArray:
    """Return an image (H, W) with NaN, which is not fitted, in circles x, y, radius (px)."""
    y, x = np.indices(image.shape)
    image = as_image(image).astype(float)
    for x0, y0, radius in circles:
        image[np.hypot(x - x0, y - y0) <= radius] = np.nan
    return image
