"""The table of `make benchmarks`: turns, ratios, what counts as a regression, and the figure."""

import importlib
from pathlib import Path

import pandas as pd
import pytest

from vitdm.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scripts():
    """The scripts' folder on the path, as it is when one of them runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("throughput")


@pytest.fixture(scope="module")
def ratios(scripts):
    return scripts.ratios


class Clock:
    """Seconds that pass only when a function says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, *seconds):
        """Return a function that takes so long in its first call, its second, …"""
        left = list(seconds)

        def run():
            self.now += left.pop(0)

        return run


def row(step="render", beside="lenstronomy", ratio=3.0, low=2.9, high=3.1, rate=300.0):
    other = rate / ratio
    return dict(zip(COLUMNS, (step, beside, 40, 7, rate, other, ratio, low, high), strict=True))


COLUMNS = ("step", "beside", "images", "turns", "rate", "other_rate", "ratio", "low", "high")


def table(*rows):
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def test_functions_take_turns_and_the_first_does_not_count(ratios):
    clock, order = Clock(), []
    work = {"a": clock.work(50, 1, 2), "b": clock.work(70, 3, 4)}

    def noted(name):
        order.append(name)
        work[name]()

    taken = ratios.turns({name: lambda name=name: noted(name) for name in work}, 2, clock)
    assert order == ["a", "b"] * 3
    assert {name: seconds.tolist() for name, seconds in taken.items()} == {"a": [1, 2], "b": [3, 4]}


def test_a_ratio_is_the_median_of_those_of_the_turns(ratios, monkeypatch):
    """A machine that is ten times as slow in one turn changes no ratio of that turn."""
    clock = Clock()
    work = ratios.Work(10, clock.work(9, 1, 10, 1, 2, 1), clock.work(9, 3, 30, 4, 6, 2))
    monkeypatch.setattr(ratios, "workload", lambda: clock.work(*[9] + [0.5] * 5))
    rows = ratios.measured("render", "lenstronomy", work, 5, clock)
    assert tuple(rows.columns) == COLUMNS
    rival, fixed = rows.to_dict("records")
    # of the ratios 3, 3, 4, 3, 2
    assert [rival[name] for name in ("ratio", "low", "high")] == pytest.approx([3, 3, 3])
    assert (rival["rate"], rival["other_rate"]) == pytest.approx((10 / 1, 10 / 4))
    assert fixed["beside"] == ratios.WORKLOAD and fixed["other_rate"] == pytest.approx(2)
    assert fixed["ratio"] == pytest.approx(0.5 * 10 / 1)  # images a run


def test_a_rival_that_is_not_there_has_no_row(ratios):
    rows = ratios.measured(
        "simulate", None, ratios.Work(1, lambda: None), 2, iter(range(99)).__next__
    )
    assert rows["beside"].tolist() == [ratios.WORKLOAD]


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        ({"ratio": 3.0}, "kept"),
        ({"ratio": 2.5, "low": 2.4, "high": 2.6}, "kept"),  # 17 % less
        ({"ratio": 2.3, "low": 2.2, "high": 2.4}, "slower"),
        ({"ratio": 2.3, "low": 1.5, "high": 3.2}, "unsure"),
        ({"ratio": 9.0, "low": 8.0, "high": 10.0}, "kept"),
    ],
)
def test_a_regression_is_worse_by_a_fifth_and_beyond_the_spread(ratios, now, verdict):
    (found,) = ratios.compared(table(row(**now)), table(row())).to_dict("records")
    assert (found["verdict"], found["committed"]) == (verdict, 3.0)


def test_rows_of_one_side_only_are_told(ratios):
    now = table(row(), row("search", "workload", 0.02, 0.02, 0.02))
    before = table(row(), row("training", "vit-pytorch", 1.8, 1.7, 1.9))
    rows = ratios.compared(now, before)
    assert dict(zip(rows["step"], rows["verdict"], strict=True)) == {
        "render": "kept",
        "search": "new",
        "training": "missing",
    }
    told = ratios.comparison(rows)
    assert "search beside workload: no committed ratio" in told
    assert "training beside vit-pytorch: not measured in this run" in told
    assert "No regression: none of 1 ratios" in told and "render" not in told


def test_a_regression_is_said_with_its_numbers(ratios):
    told = ratios.comparison(
        ratios.compared(table(row(ratio=2.0, low=1.9, high=2.1)), table(row()))
    )
    assert "render beside lenstronomy: SLOWER" in told
    assert "2 (1.9 to 2.1) instead of 3, 33% less" in told and "No regression" not in told


def test_ratios_are_read_as_they_were_written(ratios, tmp_path):
    file = tmp_path / "ratios.csv"
    assert ratios.read(file).empty
    ratios.write(file, table(row(ratio=2 / 3)), [*ratios.KEYS, *ratios.RATIO])
    (found,) = ratios.read(file).to_dict("records")
    assert found["ratio"] == pytest.approx(2 / 3, rel=1e-3)
    for wrong, said in (("step,beside\nrender,x\n", "column"), ("", "positive")):
        file.write_text(wrong or f"{','.join([*ratios.KEYS, *ratios.RATIO])}\nrender,x,-1,1,1\n")
        with pytest.raises(InputError, match=rf"ratios\.csv.*{said}"):
            ratios.read(file)


def test_new_ratios_take_the_place_of_older_ones(ratios):
    """Those that were not measured stay; those of a step that is no more go."""
    before = table(row("training"), row("render"), row("gone"), row("render", "workload"))
    rows = ratios.updated(before, table(row("render", ratio=4.0)), ["render", "training"])
    assert list(zip(rows["step"], rows["beside"], rows["ratio"], strict=True)) == [
        ("render", "lenstronomy", 4.0),
        ("render", "workload", 3.0),
        ("training", "lenstronomy", 3.0),
    ]


def test_the_table_is_markdown_and_names_what_a_run_is(ratios):
    lines = ratios.text(table(row(), row(beside="workload"))).splitlines()
    assert lines[2] == "| render | 300 | lenstronomy | 100 | 3 (2.9 to 3.1) |"
    assert lines[3] == "| render | 300 | workload | 100 runs | 3 (2.9 to 3.1) |"
    assert {line.count("|") for line in lines} == {6}


@pytest.mark.parametrize(
    ("value", "shown"), [(0.01234, "0.0123"), (3.0, "3"), (999.6, "1000"), (12345.0, "12300")]
)
def test_numbers_have_three_digits_and_no_exponent(ratios, value, shown):
    assert ratios.digits(value) == shown


def test_the_figure_has_a_bar_a_rate(ratios):
    """Of the workload, whose rate is not one of images, there is none."""
    rows = row(), row(beside="workload"), row("search", "workload", 0.02, rate=0.6)
    axes = ratios.drawn(table(*rows)).axes[0]
    widths = [bar.get_width() for bar in axes.patches if bar.get_width() > 0]
    assert sorted(widths) == pytest.approx([0.6, 100, 300])
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "images a second of one core"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["render", "search"]
    assert axes.get_xlim()[0] < 0.6 and axes.get_xlim()[1] > 300
    assert any("lenstronomy: ours 3 times as fast" in t.get_text() for t in axes.texts)
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["vitdm", "the other code"]


def test_a_run_leaves_out_what_is_not_installed(scripts, ratios, tmp_path, monkeypatch, capsys):
    """Table, figure and comparison are there, and the status is that of a success."""
    fast = ratios.Work(1, lambda: None, lambda: None)
    steps = {
        "render": (lambda: fast, "lenstronomy", "lenstronomy"),
        "training": (lambda: fast, "vit-pytorch", "no_such_module"),
    }
    monkeypatch.setattr(scripts, "STEPS", steps)
    monkeypatch.setattr(scripts, "COMMITTED", tmp_path / "ratios.csv")
    options = ["--out", str(tmp_path / "out"), "--turns", "2", "--only", *steps]
    scripts.main(options)
    said = capsys.readouterr().out
    assert "Not installed, and left out: vit-pytorch" in said and "No ratio of this run" in said
    rows = pd.read_csv(tmp_path / "out/throughput.csv")
    assert list(zip(rows["step"], rows["beside"], strict=True)) == [
        ("render", "lenstronomy"),
        ("render", "workload"),
        ("training", "workload"),
    ]
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {
        ".csv",
        ".png",
        ".pdf",
        ".json",
    }
    assert not (tmp_path / "ratios.csv").exists()
    scripts.main([*options, "--write"])
    assert len(ratios.read(tmp_path / "ratios.csv")) == 3


def test_committed_ratios_are_those_of_the_steps(scripts, ratios):
    committed = ratios.read(scripts.COMMITTED)
    expected = {(step, ratios.WORKLOAD) for step in scripts.STEPS}
    expected |= {(step, rival) for step, (_, rival, _) in scripts.STEPS.items() if rival}
    assert set(zip(committed["step"], committed["beside"], strict=True)) == expected
    page = (ROOT / "docs/benchmarks.md").read_text()
    assert not [step for step in scripts.STEPS if f"\n| {step} |" not in page]
