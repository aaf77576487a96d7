"""What a search varies, and what is refused before the first trial."""

import numpy as np
import pytest
from conftest import SETTINGS
from skopt import space as skopt_space

from studies import config as workflow
from vitdm import config
from vitdm.config import Constraint
from vitdm.errors import InputError
from vitdm.tuning.space import Allowed, dimensions, entries, every_point, first_points

SPACE = {
    "learning_rate": {"type": "real", "low": 1e-5, "high": 1e-1, "log": True},
    "embed_dim": {"type": "categorical", "choices": [12, 16, 20]},
    "num_heads": {"type": "categorical", "choices": [2, 3, 4]},
    "pool": {"type": "categorical", "choices": ["cls", "mean"]},
    "depth": {"type": "integer", "low": 1, "high": 4},
    "weight_decay": {"type": "real", "low": 0.0, "high": 0.2},
    "batch_size": {"type": "integer", "low": 4, "high": 64, "log": True},
}


def searching(space=SPACE, **tune):
    search = {"n_calls": 14, "n_initial_points": 4, "start_seeds": 2, "epochs": 3} | tune
    content = SETTINGS | {"tune": search | {"space": space}}
    content["model"] = content["model"] | {"feature_set": "all"}
    content["train"] = content["train"] | {"learning_rate": 2e-5}
    return workflow.build(content)


def test_dimensions():
    real, width, _, pool, depth, decay, batch = dimensions(searching().tune.space)
    assert (real.low, real.high, real.prior) == (1e-5, 1e-1, "log-uniform")
    assert (decay.low, decay.high, decay.prior) == (0.0, 0.2, "uniform")
    assert (depth.low, depth.high, depth.prior) == (1, 4, "uniform")
    assert isinstance(batch, skopt_space.Integer) and batch.prior == "log-uniform"
    assert width.categories == (12, 16, 20) and pool.categories == ("cls", "mean")


def test_a_space_in_python_is_that_of_yaml():
    dims = dimensions(searching().tune.space)
    found = config.Tune(space=entries(dims), n_calls=20, n_initial_points=4).space
    assert found == searching().tune.space
    named = {"depth": skopt_space.Integer(1, 4), "embed_dim": SPACE["embed_dim"]}
    assert entries(named)["depth"] == {"type": "integer", "low": 1, "high": 4, "log": False}
    with pytest.raises(InputError, match="entry 0 has no name"):
        entries([skopt_space.Integer(1, 4)])
    with pytest.raises(InputError, match=r"space\.depth: found \(1, 4\); expected Real, Integer"):
        entries({"depth": (1, 4)})


@pytest.mark.parametrize(
    "tune, message",
    [
        ({"space": {"depht": SPACE["depth"]}}, r"tune\.space\.depht: unknown key; expected one of"),
        ({"space": {"epochs": SPACE["depth"]}}, r"epochs: has no effect: tune\.epochs"),
        ({"space": {"threshold": SPACE["learning_rate"]}}, r"threshold: has no effect"),
        (
            {"space": {"depth": {"type": "integer", "low": 0, "high": 3, "log": True}}},
            r"depth\.integer: .*needs low < high \(and low > 0 if log\)|depth: needs low < high",
        ),
        ({"fixed": {"dropout": 1.5}}, r"tune\.fixed\.dropout: .*less than 1"),
        ({"fixed": {"dropuot": 0.1}}, r"tune\.fixed\.dropuot: unknown key"),
        ({"fixed": {"depth": 2}}, r"tune\.fixed\.depth: is in space, too"),
        ({"x0": [{"depth": 9}]}, r"tune\.x0\.0\.depth: found 9; expected a value from 1 to 4"),
        ({"x0": [{"pool": "max"}]}, r"x0\.0\.pool: found 'max'; expected one of \['cls', 'mean'\]"),
        ({"x0": [{"dropout": 0.1}]}, r"x0\.0\.dropout: not in space"),
        (
            {"x0": [{"embed_dim": 16, "num_heads": 3}]},
            r"tune\.x0\.0: .*embed_dim = 16 is not a multiple of num_heads = 3",
        ),
        ({"constraints": ["depth <"]}, r"'depth <': is no expression"),
        ({"constraints": ["__import__('os')"]}, r"found Call; expected numbers, names"),
        ({"constraints": ["dept < 3"]}, r"constraints\.0: dept: unknown key"),
        ({"constraints": ["depth > 1"]}, r"the constraint 'depth > 1' does not hold"),
        ({"n_calls": 6}, r"n_calls = 6: expected more than start_seeds, x0 and .*together, 6"),
        ({"metric": "f1"}, r"tune\.metric"),
    ],
)
def test_a_wrong_search_is_refused_by_name(tune, message):
    with pytest.raises(InputError, match=message):
        searching(**{"space": SPACE} | tune)


def test_constraints_are_arithmetic_and_nothing_else():
    holds = Constraint("embed_dim % num_heads == 0 and (depth in [1, 2] or not depth * 2 > 8)")
    assert holds.names == {"embed_dim", "num_heads", "depth"}
    assert holds({"embed_dim": 16, "num_heads": 4, "depth": 4})
    assert not holds({"embed_dim": 16, "num_heads": 4, "depth": 5})
    for text in ("depth.real", "(lambda: 1)()", "[k for k in depth]", "f'{depth}'", "depth[0]"):
        with pytest.raises(ValueError, match="expected numbers, names, comparisons"):
            Constraint(text)


def test_allowed_points_are_those_whose_settings_go_together():
    settings = searching(constraints=["depth * embed_dim <= 40", "learning_rate < 0.01"])
    allowed = Allowed(settings)
    names = list(SPACE)
    points = skopt_space.Space(dimensions(settings.tune.space)).rvs(300, random_state=0)
    found = [allowed(point) for point in points]
    for point, answer in zip(points, found, strict=True):
        p = dict(zip(names, point, strict=True))
        fits = p["embed_dim"] % p["num_heads"] == 0 and p["depth"] * p["embed_dim"] <= 40
        assert answer == (fits and p["learning_rate"] < 0.01)
    assert 10 < sum(found) < 290


@pytest.mark.parametrize("generator", ["random", "lhs", "sobol", "halton", "hammersly", "grid"])
def test_first_points_start_with_the_configuration_and_are_allowed(generator):
    settings = searching(
        initial_point_generator=generator,
        x0=[{"depth": 3}],
        constraints=["depth * embed_dim <= 60"],
        n_initial_points=5,
    )
    allowed = Allowed(settings)
    points = first_points(settings, allowed, seed=3)
    start = [2e-5, 16, 2, "cls", 1, 0.05, 8]
    assert points[:2] == [start, start] and points[2] == [*start[:4], 3, *start[5:]]
    assert len(points) == 8 and all(map(allowed, points))
    assert all(type(value) in (int, float, str) for point in points for value in point)
    assert points == first_points(settings, Allowed(settings), seed=3)
    rates = np.log10([point[0] for point in points[3:]])
    assert np.ptp(rates) > 1  # of the four decades


def test_all_points_of_a_finite_space():
    space = {name: SPACE[name] for name in ("embed_dim", "num_heads", "pool")}
    settings = searching(space)
    points = every_point(settings.tune.space, Allowed(settings))
    together = [(12, 2), (12, 3), (12, 4), (16, 2), (16, 4), (20, 2), (20, 4)]
    assert sorted(points) == sorted([w, n, pool] for w, n in together for pool in ("cls", "mean"))
    wide = {"batch_size": SPACE["batch_size"] | {"high": 5000}}
    for endless in (SPACE, wide):  # real numbers, or so many that they hardly repeat
        settings = searching(endless)
        assert every_point(settings.tune.space, Allowed(settings)) is None


@pytest.mark.parametrize("generator", ["random", "lhs", "sobol", "halton", "hammersly", "grid"])
def test_no_first_point_of_a_small_space_is_drawn_twice(generator):
    settings = searching({"pool": SPACE["pool"]}, initial_point_generator=generator)
    points = first_points(settings, Allowed(settings), 0)
    assert points[:2] == [["cls"], ["cls"]] and points[2:] in ([], [["mean"]])  # start_seeds


def test_constraints_that_nothing_meets_are_refused():
    settings = searching(constraints=["depth <= 1"], n_initial_points=5)
    impossible = Allowed(settings)
    impossible.constraints = [Constraint("depth > 4")]
    for generator in ("random", "lhs"):
        tune = settings.tune.model_copy(update={"initial_point_generator": generator})
        with pytest.raises(InputError, match=r"tune\.space: .*(constraint|allowed)"):
            first_points(settings.model_copy(update={"tune": tune}), impossible, 0)


def test_processing_may_be_searched():
    space = {"stretch": {"type": "categorical", "choices": ["arcsinh", "linear"]}}
    settings = searching(space)
    assert settings.start == {"stretch": settings.preprocess.stretch}
    cut = settings.trial({"stretch": "linear"}).preprocess
    assert cut == settings.preprocess.model_copy(update={"stretch": "linear"})
