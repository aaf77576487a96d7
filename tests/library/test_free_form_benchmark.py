"""The benchmark of free-form fits: pulls of simulated lenses, and the trace of another code."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("free_form", ROOT / "benchmarks/free_form.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_lens_is_validated_against_its_truth(benchmark):
    (row,) = benchmark.validated(range(2, 3), 77).to_dict("records")
    assert row["chi2"] < 1.2
    for name in benchmark.PULLED:
        pull = (row[name] - row[f"{name}_true"]) / row[f"{name}_error"]
        assert row[f"pull_{name}"] == pytest.approx(pull)
        assert abs(pull) < 6


def test_moments_of_normal_pulls(benchmark):
    pull = np.random.default_rng(0).normal(0.5, 2, 100_000)
    text = benchmark.moments(pull)
    assert "mean +0.50, s.d. 2.00" in text
    assert "robust s.d. 2.0" in text


def test_trace_tells_when_chi2_was_reached(benchmark):
    traced = benchmark.Traced(lambda values: values, limit=10.0)
    for value in (3.0, 2.0, 4.0, 1.0):
        traced(np.array([value, value]))
    assert traced.until(4.0)[1] == 2
    assert traced.until(1.5)[1] == 4
    assert traced.until(0.5) is None
    assert traced.best[0] == 1.0
