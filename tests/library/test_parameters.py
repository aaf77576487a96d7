"""The table of parameters: each row is a column of the model, and each entry of a row is used."""

import math

import pytest
import torch

from vitdm.lens import Camera, SmoothLens
from vitdm.lens.fit import Bounds
from vitdm.lens.parameters import BRIGHTNESS, parameters
from vitdm.simulation.drawing import TRUTH

CAMERA = Camera(96, 0.05)


@pytest.mark.parametrize("lens_light", [0, 1, 2])
def test_each_row_is_a_column_that_changes_the_image(lens_light):
    model = SmoothLens(CAMERA, lens_light, dtype=torch.float64)
    rows = parameters(lens_light)
    assert model.parameters == rows and len({row.name for row in rows}) == len(rows)
    assert model.columns(rows) == list(range(len(rows)))
    values = torch.zeros(1, len(rows), dtype=torch.float64)
    for k, row in enumerate(rows):  # e-folds below 1 arcsec, and a little off the middle
        values[0, k] = -1.0 if row.logarithmic else 0.03
    values[0, 0] = 1.2
    _, derivatives = model.derivatives(values)
    for k, row in enumerate(rows):
        assert derivatives[0, k].abs().max() > 0, row.name


def test_names_are_those_of_the_catalog():
    names = {row.name for row in parameters(1)}
    assert names - set(TRUTH) == {"sky", "lens_light_x", "lens_light_y"}


def test_bounds_and_steps_are_those_of_the_rows():
    rows = parameters(2)
    bounds, start = (Bounds(rows, CAMERA, start) for start in (False, True))
    for k, row in enumerate(rows):
        ends = bounds.low[k].item(), bounds.high[k].item()
        if row.bounds is None:
            assert ends == (-math.inf, math.inf)
        else:
            expected = row.bounds(0.05, 96 * 0.05)
            found = [math.exp(end) for end in ends] if row.logarithmic else ends
            assert found == pytest.approx(expected)
        if row.start_bounds:
            assert start.low[k] > bounds.low[k] and start.high[k] < bounds.high[k]
        else:
            assert start.low[k] == bounds.low[k] and start.high[k] == bounds.high[k]
        assert bounds.step[k] == row.step
        assert row.logarithmic == (row.name.endswith(("_R_sersic", "_n_sersic", "_amp")))
        assert (row.unit == BRIGHTNESS) == row.name.endswith(("amp", "sky"))
    outside = torch.full((1, len(rows)), 9.0, dtype=torch.float64)
    inside = bounds.inside(outside)
    for columns, largest in bounds.pairs:
        assert inside[0, columns].norm().item() == pytest.approx(largest)
        assert len({rows[k].pair for k in columns}) == 1 and len(columns) == 2
    assert len(bounds.pairs) == 5  # mass, shear, source, two profiles of light
    assert bounds.at(inside).sum() == sum(
        row.pair is not None or row.bounds is not None for row in rows
    )
