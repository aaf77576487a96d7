"""What a search varies: dimensions for scikit-optimize, what is allowed, the first points."""

from __future__ import annotations

import functools
import itertools
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from skopt import sampler
from skopt import space as skopt_space
from skopt.utils import normalize_dimensions

from vitdm.config import Categorical, Constraint, Dimension, Integer, Real, Settings, tuned_fields
from vitdm.errors import InputError

N_DRAWN = 4000  # random points, of which
LEAST = 0.005  # must be allowed, or scikit-optimize would draw for minutes
SAMPLERS = {
    "lhs": functools.partial(sampler.Lhs, iterations=100),
    "sobol": sampler.Sobol,
    "halton": sampler.Halton,
    "hammersly": sampler.Hammersly,
    "grid": sampler.Grid,
}


def dimensions(space: Mapping[str, Dimension]) -> list[skopt_space.Dimension]:
    """Return scikit-optimize's dimensions for the ``tune.space`` section of a configuration."""
    built = []
    for name, entry in space.items():
        match entry:
            case Real():
                prior = "log-uniform" if entry.log else "uniform"
                dimension = skopt_space.Real(entry.low, entry.high, prior=prior, name=name)
            case Integer():
                prior = "log-uniform" if entry.log else "uniform"
                dimension = skopt_space.Integer(entry.low, entry.high, prior=prior, name=name)
            case Categorical():
                dimension = skopt_space.Categorical(entry.choices, name=name)
        built.append(dimension)
    return built


def entries(
    space: Mapping[str, Any] | Sequence[skopt_space.Dimension],
) -> dict[str, dict[str, Any]]:
    """Return a space given in Python as it would be written in YAML.

    ``space``: scikit-optimize's dimensions, each with a name, or a dictionary from names to such
    dimensions or to what stands in YAML. InputError names the entry that is none.
    """
    if not isinstance(space, Mapping | Sequence) or isinstance(space, str):
        raise InputError(f"space: found {space!r}; expected a list of dimensions or a dictionary")
    if not isinstance(space, Mapping):
        names = [getattr(dimension, "name", None) for dimension in space]
        if None in names:
            raise InputError(f"space: entry {names.index(None)} has no name; expected name=…")
        space = dict(zip(names, space, strict=True))
    return {name: _entry(name, dimension) for name, dimension in space.items()}


def _entry(name: str, dimension: Any) -> dict[str, Any]:
    match dimension:
        case dict():
            return dimension
        case skopt_space.Real() | skopt_space.Integer():
            kind = type(dimension).__name__.lower()
            log = dimension.prior == "log-uniform"
            return {"type": kind, "low": dimension.low, "high": dimension.high, "log": log}
        case skopt_space.Categorical():
            return {"type": "categorical", "choices": list(dimension.categories)}
    raise InputError(
        f"space.{name}: found {dimension!r}; expected Real, Integer or Categorical of "
        "scikit-optimize, or a dictionary with type, low, high, log or choices"
    )


def plain(point: Sequence[Any]) -> list[Any]:
    """Return a point with Python's own types: scikit-optimize gives NumPy's."""
    return [value.item() if hasattr(value, "item") else value for value in point]


class Allowed:
    """Whether the settings of a point go together: a constraint for scikit-optimize.

    It is asked of ten thousand points before each trial, and the settings' own checks take long.
    So their answer is kept for each combination of the choices and whole numbers: no check looks at
    a real number, other than at its bounds, but the user's constraints, which are called each time.
    """

    def __init__(self, settings: Settings):
        search = settings.tune
        self.settings = settings.model_copy(
            update={"tune": search.model_copy(update={"constraints": []})}
        )
        self.names = list(search.space)
        self.discrete = [k for k, d in enumerate(search.space.values()) if not isinstance(d, Real)]
        self.constraints = [Constraint(text) for text in search.constraints]
        values = (getattr(settings, key).model_dump() for key in ("model", "train", "preprocess"))
        self.others = {name: value for section in values for name, value in section.items()}
        self.others = {k: v for k, v in self.others.items() if k in tuned_fields()} | search.fixed
        self.known: dict[str, bool] = {}

    def __call__(self, point: Sequence[Any]) -> bool:
        params = dict(zip(self.names, plain(point), strict=True))
        key = json.dumps([params[self.names[k]] for k in self.discrete])
        if key not in self.known:
            self.known[key] = self._together(params)
        return self.known[key] and all(holds(self.others | params) for holds in self.constraints)

    def _together(self, params: dict[str, Any]) -> bool:
        try:
            self.settings.trial(params)
        except ValueError:
            return False
        return True


def first_points(settings: Settings, allowed: Allowed, seed: int) -> list[list[Any]]:
    """Return what a search tries before the Gaussian process is asked.

    The start, ``start_seeds`` times; ``x0``; then ``n_initial_points`` of the generator, of which
    those that are not allowed are left out. scikit-optimize's own first points would break a
    constraint. A small space may have fewer points than that: none is drawn twice. InputError if
    nearly no point is allowed.
    """
    search, start = settings.tune, settings.start
    given = [start] * search.start_seeds + [start | point for point in search.x0]
    points = [list(point.values()) for point in given]
    for point in _drawn(settings, allowed, seed):
        if point not in points:
            points.append(point)
    return points


def _drawn(settings: Settings, allowed: Allowed, seed: int) -> list[list[Any]]:
    """Return ``n_initial_points`` allowed points of the generator; some may be alike."""
    search = settings.tune
    space = skopt_space.Space(normalize_dimensions(dimensions(search.space)))
    drawn = [plain(row) for row in space.rvs(N_DRAWN, random_state=seed)]
    kept = [row for row in drawn if allowed(row)]
    if len(kept) < max(N_DRAWN * LEAST, search.n_initial_points):
        raise InputError(
            f"tune.space: {len(kept)} of {N_DRAWN} random points are allowed; expected at least "
            f"{LEAST:.1%}: a smaller space, or constraints that more can meet"
        )
    if search.initial_point_generator == "random":
        return kept[: search.n_initial_points]
    # as few as possible, for the points of a design are only even together
    n, kept = search.n_initial_points, []
    generator = SAMPLERS[search.initial_point_generator]()
    while len(kept) < search.n_initial_points:
        kept = [row for row in _generate(generator, space, n, seed) if allowed(row)]
        n += max(1, n // 2)
    spread = np.linspace(0, len(kept) - 1, search.n_initial_points).round().astype(int)
    return [kept[k] for k in spread]


def every_point(space: Mapping[str, Dimension], allowed: Allowed) -> list[list[Any]] | None:
    """Return all allowed points of a space, None if there is no end of them, or more than N_DRAWN.

    Of so many, those that a search tries hardly ever repeat.
    """
    values = []
    for entry in space.values():
        match entry:
            case Real():
                return None
            case Integer():
                values.append(range(entry.low, entry.high + 1))
            case Categorical():
                values.append(entry.choices)
    if math.prod(map(len, values)) > N_DRAWN:
        return None
    return [list(point) for point in itertools.product(*values) if allowed(point)]


def _generate(
    generator: sampler.InitialPointGenerator, space: skopt_space.Space, n: int, seed: int
) -> list[list[Any]]:
    transformer = space.get_transformer()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*power of 2.*")  # of Sobol's sequence
        drawn = generator.generate(space.dimensions, n, random_state=seed)
    space.set_transformer(transformer)
    return [plain(row) for row in drawn]
