"""The loop of a search: ``gp_minimize``, one trial after another or several at once."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import joblib
import numpy as np
import skopt
from scipy.optimize import OptimizeResult
from skopt import space as skopt_space
from skopt.acquisition import gaussian_lcb
from skopt.learning import GaussianProcessRegressor
from skopt.learning.gaussian_process.kernels import WhiteKernel
from skopt.utils import cook_estimator, create_result, normalize_dimensions

from vitdm.errors import InputError

T = TypeVar("T")
R = TypeVar("R")
Point = list[Any]
#: the value of a point: point, number of the call, number of calls known when it was chosen
Evaluate = Callable[[Point, int, int], float]
#: of scikit-optimize: called with the result so far, ends the search if it returns True
Callback = Callable[[OptimizeResult], bool | None]
BACKENDS = ("loky", "threading", "dask")


class KnownNoise(GaussianProcessRegressor):
    """scikit-optimize's Gaussian process, told the standard deviation of the values that it sees.

    Its own ``noise`` is a variance of *normalised* values: with ``normalize_y`` it means another
    noise after each trial, and one of chance makes it far too large. Here it is divided by the
    variance of the values first.
    """

    def __init__(
        self,
        kernel=None,
        alpha=1e-10,
        optimizer="fmin_l_bfgs_b",
        n_restarts_optimizer=0,
        normalize_y=True,
        copy_X_train=True,
        random_state=None,
        noise=None,
        sd=0.0,
    ):
        super().__init__(
            kernel,
            alpha,
            optimizer,
            n_restarts_optimizer,
            normalize_y,
            copy_X_train,
            random_state,
            noise,
        )
        self.sd = sd

    def fit(self, X: np.ndarray, y: Sequence[float]) -> KnownNoise:
        level = self.sd**2 / (np.var(y) or 1.0)
        signal, self.noise = self.kernel, "gaussian"  # which the kernel has, and is not fitted
        self.kernel = signal + WhiteKernel(max(level, 1e-10), noise_level_bounds="fixed")
        try:
            return super().fit(X, y)
        finally:
            self.kernel, self.noise = signal, None


def process(
    space: Sequence[skopt_space.Dimension], noise: float | None, seed: int
) -> GaussianProcessRegressor:
    """Return the Gaussian process of ``gp_minimize``; ``noise`` None: it fits the noise, too."""
    cooked = cook_estimator("GP", space=normalize_dimensions(space), random_state=seed)
    if noise is None:
        return cooked
    return KnownNoise(
        cooked.kernel,
        n_restarts_optimizer=cooked.n_restarts_optimizer,
        random_state=seed,
        sd=noise,
    )


class TooManyFailures(InputError):
    """So many trials in a row failed that the rest would, too."""


class Stopped(Exception):
    """The search is to end: a callback returned True."""


def minimise(
    evaluate: Evaluate,
    space: Sequence[skopt_space.Dimension],
    first: Sequence[Point],
    *,
    n_calls: int,
    seed: int,
    noise: float | None = None,
    acquisition: str = "gp_hedge",
    allowed: Callable[[Point], bool] | None = None,
    points: Sequence[Point] | None = None,
    parallel: int = 1,
    random: bool = False,
    callbacks: Sequence[Callback] = (),
) -> str:
    """Search for the minimum of a function in ``n_calls`` calls; return why the search ended.

    ``first`` are the first calls; ``evaluate`` returns the value of a point and keeps what it wants
    to keep. One at a time this is scikit-optimize's ``gp_minimize``. With ``parallel`` others run
    meanwhile: then a point is chosen when all but the last ``parallel`` before it are known, and
    these are taken to have found what was expected (``ask``). That depends on no clock: the same
    seed gives the same points. ``points`` are all that a finite space has, None if it is not
    finite: each is tried once, and the search ends when none is left. ``random``: random points
    instead. ``callbacks`` are called with the result so far after each call, in the order of the
    calls. Ends early when one of them returns True, or when ``evaluate`` raises Stopped.
    """
    first = [list(point) for point in first[:n_calls]]
    if random and n_calls > len(first):
        first += _random(space, allowed, points, first, n_calls - len(first), seed)
    options = {
        "base_estimator": process(space, noise, seed),
        "acq_func": acquisition,
        "random_state": seed,
        "space_constraint": allowed,
    }
    told = {"n_calls": n_calls, "random_state": seed}
    hear = functools.partial(_hear, callbacks, told) if callbacks else None
    try:
        with warnings.catch_warnings():  # scikit-optimize tells of each point that it replaces
            warnings.filterwarnings("ignore", message="The objective has been evaluated")
            if parallel == 1 and points is None:
                _one_at_a_time(evaluate, space, first, n_calls, hear, options)
                return "all calls were made"
            return _several(evaluate, space, first, n_calls, hear, options, points, parallel)
    except Stopped:
        return "a callback ended the search"


def _random(
    space: Sequence[skopt_space.Dimension],
    allowed: Callable[[Point], bool] | None,
    points: Sequence[Point] | None,
    tried: Sequence[Point],
    n: int,
    seed: int,
) -> list[Point]:
    """Return up to ``n`` random points; of a finite space those not tried, each once."""
    if points is None:
        drawn = skopt_space.Space(normalize_dimensions(space), constraint=allowed)
        return drawn.rvs(n, random_state=seed)
    left = [point for point in points if point not in tried]
    return [left[k] for k in np.random.default_rng(seed).permutation(len(left))[:n]]


def _hear(callbacks: Sequence[Callback], told: dict[str, Any], result: OptimizeResult) -> None:
    """Call the callbacks with a result that can be pickled; Stopped if one of them says so."""
    result.specs = {"args": told, "function": "vitdm.tuning.search.minimise"}
    result.space = skopt_space.Space(result.space.dimensions)  # without the constraint
    if any([callback(result) for callback in callbacks]):  # all are called
        raise Stopped


def _one_at_a_time(
    evaluate: Evaluate,
    space: Sequence[skopt_space.Dimension],
    first: Sequence[Point],
    n_calls: int,
    hear: Callable[[OptimizeResult], None] | None,
    options: dict[str, Any],
) -> None:
    """Call ``gp_minimize``; the values of the first points are found before, one by one."""
    calls, values = itertools.count(), []

    def function(point: Point) -> float:
        k = next(calls)
        return evaluate(point, k, k)

    for k, point in enumerate(first, start=1):
        values.append(function(point))
        if hear and k < len(first):  # gp_minimize itself tells when all are known
            known = skopt_space.Space(normalize_dimensions(space))
            hear(create_result(first[:k], values[:], known, models=[]))
    skopt.gp_minimize(
        function,
        space,
        x0=first,
        y0=values,
        n_calls=n_calls - len(first),
        n_initial_points=0,
        callback=hear,
        **options,
    )


def _several(
    evaluate: Evaluate,
    space: Sequence[skopt_space.Dimension],
    first: Sequence[Point],
    n_calls: int,
    hear: Callable[[OptimizeResult], None] | None,
    options: dict[str, Any],
    points: Sequence[Point] | None,
    parallel: int,
) -> str:
    """Run ``parallel`` calls at once, none twice if the space is finite; return why it ended."""
    untold = skopt.Optimizer(space, n_initial_points=len(first), **options)
    optimiser = untold.copy(random_state=options["random_state"])
    proposed: list[Point] = []
    values: list[float] = []  # of the first of those proposed, in their order

    def untried() -> list[Point]:
        return [point for point in points if point not in proposed]

    def know() -> None:
        for k in range(len(optimiser.yi), len(values)):
            fit = k + 1 == len(values) and len(proposed) >= len(first)
            optimiser.tell(proposed[k], values[k], fit=fit)

    def propose(k: int, _: list[float]) -> tuple[Point, int, int] | None:
        if k == n_calls or (points is not None and k >= len(first) and not untried()):
            return None
        know()
        if k < len(first):
            point = first[k]
        else:
            left = None if points is None else untried()
            point = ask(optimiser, proposed[len(values) :], untold, left)
        proposed.append(point)
        return point, k, len(values)

    # closed here, not some time later: that waits for what is running
    with contextlib.closing(in_order(propose, lambda call: evaluate(*call), parallel)) as results:
        for value in results:
            values.append(value)
            if hear:
                know()
                hear(optimiser.get_result())
    if len(values) == n_calls:
        return "all calls were made"
    return f"all {len(points)} points of the space were tried"


def ask(
    optimiser: skopt.Optimizer,
    running: Sequence[Point],
    untold: skopt.Optimizer,
    untried: Sequence[Point] | None = None,
) -> Point:
    """Return the next point while others are running, which are taken to be as good as expected.

    That is the kriging believer of Ginsbourger, Le Riche & Carraro (2010, section 4.1). Their
    constant liar, which scikit-optimize offers, contradicts what is already known around a point:
    of Branin's function, two at once, it is 0.1 to 5 above the minimum after 30 calls, this 0.00.
    If only the points ``untried`` may follow and the process asks for another, it is the one of
    these with the lowest lower confidence bound.
    """
    believer = optimiser
    if running:
        expected = [float(np.mean(optimiser.yi or 0.0))] * len(running)  # 0 if none is known
        if optimiser.models:
            transformed = optimiser.space.transform(list(running))
            expected = optimiser.models[-1].predict(transformed).tolist()
        believer = untold.copy(random_state=optimiser.rng.randint(0, np.iinfo(np.int32).max))
        if hasattr(optimiser, "gains_"):
            believer.gains_ = np.copy(optimiser.gains_)  # of the acquisition functions, so far
        believer.tell([*optimiser.Xi, *running], [*optimiser.yi, *expected])
    point = believer.ask()
    if untried is None or point in untried:
        return point
    bound = gaussian_lcb(believer.space.transform(list(untried)), believer.models[-1])
    return untried[int(np.argmin(bound))]


def in_order(
    make: Callable[[int, list[R]], T | None], run: Callable[[T], R], parallel: int
) -> Iterator[R]:
    """Yield the results of tasks in order; up to ``parallel`` of them run at once, in threads.

    ``make(k, results)`` returns the k-th task from the results of all but the last few before it
    (none if ``parallel`` is 1), None if there is no further one. How many are missing does not
    depend on which of them is done: one task more than can run waits for a thread, or a long
    one would leave the others idle.
    """
    results: list[R] = []
    if parallel == 1:
        while (task := make(len(results), results)) is not None:
            results.append(run(task))
            yield results[-1]
        return
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(parallel)
    try:
        while True:
            task = make(len(results) + len(waiting), results)
            if task is not None:
                waiting.append(pool.submit(run, task))
            if task is None or len(waiting) == parallel + 1:
                if not waiting:
                    return
                results.append(waiting.popleft().result())
                yield results[-1]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Workers:
    """Where trials run: in this process, or through joblib on what ``backend`` names.

    ``backend``: "loky" (processes of this machine), "dask", or "threading", whose trials share
    PyTorch's random numbers and so do not repeat. With "=" and an address, such as
    "dask=tcp://scheduler:8786", Dask is a cluster that is already there; without, one is started on
    this machine. InputError if a backend cannot be used.
    """

    def __init__(self, parallel: int, backend: str = "loky"):
        self.parallel = parallel
        self.name, _, self.address = str(backend).partition("=")
        if self.name not in BACKENDS:
            raise InputError(f"backend: found {backend!r}; expected one of: {', '.join(BACKENDS)}")
        if self.address and self.name != "dask":
            raise InputError(f"backend: found {backend!r}; expected no address of {self.name}")
        self._client: Any = None

    def __enter__(self) -> Workers:
        if self.parallel > 1 and self.name == "dask":
            try:
                self._client = _dask(self.address, self.parallel)
            except ImportError as error:
                raise InputError(
                    f"backend: {self.name} is not installed ({error}); expected "
                    "pip install dask distributed"
                ) from error
            except (OSError, ValueError) as error:
                raise InputError(f"backend: {self.name}={self.address}: {error}") from error
        return self

    def __exit__(self, *_: Any) -> None:
        if self._client is not None:
            self._client.close()

    def __call__(self, function: Callable[..., R], *arguments: Any) -> R:
        """Return what a function returns that is called there; several threads may ask at once."""
        if self.parallel == 1:
            return function(*arguments)
        # Snakemake lets each process of a rule have as many threads as the rule
        options = {}
        if self.name == "loky":
            options = {"inner_max_num_threads": 1}
            function, arguments = _follow, (os.getpid(), function, *arguments)
        with joblib.parallel_config(backend=self.name, n_jobs=self.parallel, **options):
            return joblib.Parallel()([joblib.delayed(function)(*arguments)])[0]


def _follow(parent: int, function: Callable[..., R], *arguments: Any) -> R:
    """Call a function in a process that ends soon after its parent, even if that was killed.

    joblib's own would stay, with all that they hold.
    """
    name = "end with the parent"
    if all(thread.name != name for thread in threading.enumerate()):

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(1)
            os._exit(1)

        threading.Thread(target=watch, name=name, daemon=True).start()
    return function(*arguments)


def _dask(address: str, parallel: int) -> Any:
    from dask.distributed import Client

    if address:
        return Client(address)
    return Client(n_workers=parallel, threads_per_worker=1, dashboard_address=None)


def opinion(
    space: Sequence[skopt_space.Dimension],
    points: Sequence[Point],
    values: Sequence[float],
    noise: float | None,
    seed: int,
) -> OptimizeResult:
    """Return scikit-optimize's result of a search, its Gaussian process fitted to all points.

    Its tools (plots of convergence, evaluations, partial dependence) work on it.
    """
    optimiser = skopt.Optimizer(
        space, process(space, noise, seed), n_initial_points=1, random_state=seed
    )
    return optimiser.tell([list(point) for point in points], list(values))
