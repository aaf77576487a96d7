"""Masks of what is not fitted."""

import numpy as np

from vitdm.lens import without


def test_circles_are_left_out():
    image = np.ones((20, 30), np.float32)
    hidden = np.isnan(without(image, [(25, 3, 2), (0, 19, 1)]))
    assert hidden[3, 23] and hidden[5, 25] and not hidden[3, 22] and not hidden[5, 26]
    assert hidden.sum() == 13 + 3 and np.isfinite(image).all()
