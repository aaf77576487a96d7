"""The partial dependence against averages over whole points, transformed by scikit-optimize."""

from types import SimpleNamespace

import numpy as np
import pytest
import skopt
from skopt.space import Space

from vitdm import config
from vitdm.tuning import result as tune
from vitdm.tuning.space import dimensions

SPACE = {
    "learning_rate": config.Real(type="real", low=1e-4, high=1e-2, log=True),
    "embed_dim": config.Categorical(type="categorical", choices=[16, 32, 48]),
    "depth": config.Integer(type="integer", low=1, high=4),
    "num_heads": config.Categorical(type="categorical", choices=[2, 4]),
}


class Quadratic:
    """Stands for the Gaussian process: settings interact, and no two columns count alike."""

    def predict(self, columns):
        return (columns @ np.arange(1.0, columns.shape[1] + 1)) ** 2


@pytest.fixture
def search():
    normal = skopt.utils.normalize_dimensions(dimensions(SPACE))
    return SimpleNamespace(space=Space(normal), models=[Quadratic()])


@pytest.mark.parametrize("names", [("embed_dim",), ("learning_rate",), ("depth", "embed_dim")])
def test_equals_the_average_over_whole_points(search, names):
    result = tune.partial_dependence(search, names, samples=20, seed=3)
    where = [list(SPACE).index(name) for name in names]
    grids = [tune.setting_grid(search.space.dimensions[i]) for i in where]
    points = search.space.rvs(20, random_state=3)
    assert result.shape == tuple(map(len, grids))
    for index in np.ndindex(result.shape):
        replaced = [list(point) for point in points]
        for point in replaced:
            for i, grid, k in zip(where, grids, index, strict=True):
                point[i] = grid[k]
        expected = Quadratic().predict(search.space.transform(replaced)).mean()
        assert result[index] == pytest.approx(expected, rel=1e-12)


def test_grids_span_the_dimensions_on_their_own_scale(search):
    rate, width, depth, heads = map(tune.setting_grid, search.space.dimensions)
    assert (rate[0], rate[-1]) == (1e-4, 1e-2)
    np.testing.assert_allclose(np.diff(np.log10(rate)), 2 / 24)
    assert (width, depth, heads) == ([16, 32, 48], [1, 2, 3, 4], [2, 4])
