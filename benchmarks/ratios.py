"""Functions timed in turns; the table and the figure of their ratios; ratios of an earlier run.

Seconds are those of the processor, which other work on the machine stretches less than the clock,
and all that is timed has one thread: n images in s seconds are n / s images a second and a core.
Machines differ, and so does the load of one. What can be compared are ratios of functions that
took turns: in each turn ours and the other follow one another, and a ratio is the median over the
turns, its spread the quartiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.plots import style as plots
from vitdm.errors import InputError
from vitdm.provenance import atomic

WORKLOAD = "workload"  # beside which every step is timed
TOLERANCE = 0.2  # a ratio that is worse by more than this part is a regression
KEYS = ["step", "beside"]
RATIO = ["ratio", "low", "high"]
COLUMNS = [*KEYS, "images", "turns", "rate", "other_rate", *RATIO]
SIDE, PASSES = 512, 10  # of the workload: the side of its arrays, how often in a run


@dataclass(frozen=True)
class Work:
    """What is timed: functions that treat the same ``images`` (a number) in one call."""

    images: int
    ours: Callable[[], Any]
    rival: Callable[[], Any] | None = None


def workload() -> Callable[[], None]:
    """Return fixed work of some 0.1 s, of the kinds that lenses and networks consist of.

    A product of matrices of 4-byte numbers, a Fourier transform, exponentials, and sums of numbers
    from all over the memory.
    """
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(SIDE, SIDE))
    matrix, order = plane.astype(np.float32), rng.permutation(plane.size)

    def run() -> None:
        for _ in range(PASSES):
            matrix @ matrix
            np.fft.fft2(plane)
            np.exp(plane)
            plane.ravel()[order].cumsum()

    return run


def turns(
    functions: Mapping[str, Callable[[], Any]],
    n: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, NDArray[np.float64]]:
    """Return the seconds (n,) of each function; all are called before, to compile and load."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(n + 1):
        for name, function in functions.items():
            started = clock()
            function()
            if turn:
                taken[name].append(clock() - started)
    return {name: np.array(seconds) for name, seconds in taken.items()}


def measured(
    step: str,
    rival: str | None,
    work: Work,
    n: int,
    clock: Callable[[], float] = time.process_time,
) -> pd.DataFrame:
    """Return the rows of a step (``COLUMNS``): beside the rival, if it is there, and the workload.

    Rates are images, or runs of the workload, a second; a ratio is ours over the other's.
    """
    others = ({rival: work.rival} if rival and work.rival else {}) | {WORKLOAD: workload()}
    taken = turns({"ours": work.ours} | others, n, clock)
    ours = taken["ours"] / work.images
    rows = []
    for beside in others:
        other = taken[beside] / (1 if beside == WORKLOAD else work.images)
        low, ratio, high = np.quantile(other / ours, [0.25, 0.5, 0.75])
        rates = 1 / np.median(ours), 1 / np.median(other)
        rows.append((step, beside, work.images, n, *rates, ratio, low, high))
    return pd.DataFrame(rows, columns=COLUMNS)


# ------------------------------------------------------------------------- beside an earlier run


def read(path: Path) -> pd.DataFrame:
    """Return committed ratios; InputError if a column is missing or a ratio is no positive number.

    A file that does not exist has no rows.
    """
    if not path.is_file():
        return pd.DataFrame(columns=[*KEYS, *RATIO]).astype(dict.fromkeys(RATIO, float))
    table = pd.read_csv(path)
    if missing := [name for name in (*KEYS, *RATIO) if name not in table]:
        raise InputError(f"{path}: found no column {', '.join(missing)}; make it with --write")
    if not (pd.to_numeric(table["ratio"], errors="coerce") > 0).all():
        raise InputError(f"{path}: expected positive numbers in the column ratio")
    return table[[*KEYS, *RATIO]]


def write(path: Path, table: pd.DataFrame, columns: list[str]) -> None:
    """Write some columns of a table as CSV, numbers with four digits."""
    with atomic(path) as temporary:
        table[columns].to_csv(temporary, index=False, float_format="%.4g")


def updated(committed: pd.DataFrame, table: pd.DataFrame, steps: list[str]) -> pd.DataFrame:
    """Return committed rows with those of a table in the place of older ones, in order of steps."""
    rows = pd.concat([table, committed[committed["step"].isin(steps)]]).drop_duplicates(KEYS)
    return rows.sort_values("step", key=lambda names: names.map(steps.index), kind="stable")


def compared(table: pd.DataFrame, committed: pd.DataFrame) -> pd.DataFrame:
    """Return rows of both with a ``verdict`` on each ratio.

    ``slower``: below the committed ratio by more than ``TOLERANCE``, with the upper quartile of
    the turns below the committed ratio as well. ``unsure``: as much below, but within that spread.
    ``new`` has no committed ratio, ``missing`` was not measured; all others are ``kept``.
    """
    rows = table[[*KEYS, *RATIO]].merge(
        committed[[*KEYS, "ratio"]].rename(columns={"ratio": "committed"}), how="outer", on=KEYS
    )
    below = rows["ratio"] < (1 - TOLERANCE) * rows["committed"]
    beyond = rows["high"] < rows["committed"]
    cases = [rows["committed"].isna(), rows["ratio"].isna(), below & beyond, below]
    verdicts = ["new", "missing", "slower", "unsure"]
    return rows.assign(verdict=np.select(cases, verdicts, "kept"))


SAID = {
    "slower": "SLOWER than the committed ratio",
    "unsure": "below the committed ratio, but within the spread of this run",
    "new": "no committed ratio",
    "missing": "not measured in this run",
}


def comparison(rows: pd.DataFrame) -> str:
    """Return what ``compared`` found in words, a line for each ratio that is not as committed."""
    lines = []
    for verdict, text in SAID.items():
        for row in rows[rows["verdict"] == verdict].itertuples():
            numbers = ""
            if verdict in ("slower", "unsure"):
                part = 1 - row.ratio / row.committed
                numbers = f": {number(row)} instead of {digits(row.committed)}, {part:.0%} less"
            lines.append(f"{row.step} beside {row.beside}: {text}{numbers}")
    told = rows["verdict"].isin(["slower", "unsure", "kept"]).sum()
    if not told:
        lines.append("No ratio of this run has a committed one to be compared with.")
    elif not (rows["verdict"] == "slower").any():
        lines.append(
            f"No regression: none of {told} ratios is more than {TOLERANCE:.0%} worse than the "
            "committed one beyond the spread of this run."
        )
    return "\n".join(lines)


def number(row: Any) -> str:
    """Return a ratio with its quartiles."""
    return f"{digits(row.ratio)} ({digits(row.low)} to {digits(row.high)})"


def digits(value: float) -> str:
    """Return three digits of a number, without an exponent where it is large."""
    return f"{value:.3g}" if value < 999.5 else f"{float(f'{value:.3g}'):.0f}"


# ---------------------------------------------------------------------------- table and figure


def text(table: pd.DataFrame) -> str:
    """Return the table as it is printed, in Markdown."""
    head = ("step", "images a second", "beside", "its rate", "ratio (quartiles)")
    lines = [head, ("---", "---:", "---", "---:", "---:")]
    for row in table.itertuples():
        unit = " runs" if row.beside == WORKLOAD else ""
        rates = digits(row.rate), f"{digits(row.other_rate)}{unit}"
        lines.append((row.step, rates[0], row.beside, rates[1], number(row)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def drawn(table: pd.DataFrame) -> plt.Figure:
    """Draw images a second and a core of each step, ours and the rival's, on one logarithmic axis.

    Bars are medians. The number beside a rival's bar is how many times as fast ours is.
    """
    plots.style()
    steps = list(dict.fromkeys(table["step"]))
    size = (plots.WIDTH, 0.8 + 0.38 * len(steps))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    labels = {"vitdm": plots.BLUE, "the other code": plots.VERMILION}
    for label, colour in labels.items():  # also in grey, a rival's bar is told by its hatch
        axes.barh(0, np.nan, color=colour, hatch="" if label == "vitdm" else "////", label=label)
    for k, step in enumerate(steps):
        rows = table[table["step"] == step]
        rivals = rows[rows["beside"] != WORKLOAD]
        rate, lower = rows["rate"].iloc[0], len(rivals) * 0.2
        axes.barh(k - lower, rate, 0.38, color=plots.BLUE)
        beside(axes, rate, k - lower, digits(rate))
        for row in rivals.itertuples():
            axes.barh(k + 0.2, row.other_rate, 0.38, color=plots.VERMILION, hatch="////")
            times = f"{digits(row.other_rate)}  {row.beside}: ours {row.ratio:.2g} times as fast"
            beside(axes, row.other_rate, k + 0.2, times)
    lowest = table["rate"].where(table["beside"] == WORKLOAD, table["other_rate"])
    lowest = min(table["rate"].min(), lowest.min())
    highest = table["rate"].max()
    axes.set(xscale="log", xlim=(lowest / 3, highest * 3), xlabel="images a second of one core")
    axes.set_yticks(range(len(steps)), steps)
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2)
    return figure


def beside(axes: plt.Axes, x: float, y: float, said: str) -> None:
    axes.annotate(said, (x, y), (3, 0), textcoords="offset points", va="center", fontsize=7)
