"""Verdicts of a rebuild against a reference, with hand-made numbers."""

import json
import math

import pytest

from studies import check
from vitdm.errors import InputError

REFERENCE = {
    "auc": {"value": 0.99, "tolerance": 0.004, "kind": "absolute"},
    "n": {"value": 5000, "tolerance": 0, "kind": "absolute"},
    "scale": {"value": -2.0, "tolerance": 0.1, "kind": "relative"},
}


def status(numbers):
    return {v.key: v.status for v in check.compare(numbers, REFERENCE)}


def written(tmp_path, numbers, reference=REFERENCE):
    folder = tmp_path / "results" / "numbers"
    folder.mkdir(parents=True)
    for name, content in numbers.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(reference))
    return tmp_path / "results", path


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"auc": 0.99, "n": 5000, "scale": -2.0}, "ok ok ok"),
        ({"auc": 0.994, "n": 5000, "scale": -2.2}, "ok ok ok"),  # on the edges
        ({"auc": 0.9941, "n": 5001, "scale": -2.21}, "FAILED FAILED FAILED"),
        ({"auc": 0.9859, "n": 4999, "scale": -1.79}, "FAILED FAILED FAILED"),
        ({"n": 5000}, "MISSING ok MISSING"),
        ({"auc": None, "n": "5000", "scale": math.nan}, "FAILED FAILED FAILED"),
    ],
)
def test_verdicts(numbers, expected):
    assert list(status(numbers).values()) == expected.split()


def test_check_counts_and_names_what_is_wrong(tmp_path, capsys):
    results, reference = written(tmp_path, {"01": {"n": 5000}, "05": {"auc": 0.98}})
    assert check.check(results, reference) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:4]] == ["FAILED", "ok", "MISSING"]
    assert "0.99" in lines[1] and "0.98" in lines[1] and "-0.01" in lines[1]
    assert lines[-1].startswith("2 of 3 ") and lines[-1].endswith("auc scale")


def test_a_rebuild_equal_to_its_reference_passes(tmp_path, capsys):
    numbers = {"01": {"n_images": 14000, "pixel_scale": 0.05}, "05": {"test_auc": 0.9912345}}
    results, path = written(tmp_path, numbers)
    check.write_reference(check.read_numbers(results), path)
    reference = check.read_reference(path)
    assert reference["test_auc"] == {"value": 0.9912345, "tolerance": 0.01, "kind": "absolute"}
    assert set(reference) == {"n_images", "test_auc"}  # pixel_scale is no headline number
    assert check.check(results, path) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("All 2 numbers agree")


def test_tolerances_cover_the_headline_and_nothing_accidental():
    assert check.tolerance_of("test_auc") == (0.01, "absolute")
    assert check.tolerance_of("run_spt_lsa_auc") == (0.06, "absolute")
    assert check.tolerance_of("test_auc_low") == (0.01, "absolute")
    for key in ("test_auc_cdm_high", "run_spt_sd", "best_feature", "tune_seconds"):
        assert check.tolerance_of(key) is None
    assert all(t >= 0 and kind in ("absolute", "relative") for t, kind in check.TOLERANCES.values())


@pytest.mark.parametrize(
    "entry",
    [0.99, {"value": 0.99}, {"value": "a", "tolerance": 0, "kind": "absolute"}]
    + [{"value": 1.0, "tolerance": 0, "kind": "sigma"}],
)
def test_a_wrong_reference_is_refused_by_name(tmp_path, entry):
    results, path = written(tmp_path, {"05": {"auc": 0.99}}, {"auc": entry})
    with pytest.raises(InputError, match=r"reference\.json: auc: found"):
        check.check(results, path)


def test_missing_and_broken_files_are_input_errors(tmp_path):
    results, path = written(tmp_path, {"05": {"auc": 0.99}})
    with pytest.raises(InputError, match=r"nowhere/numbers: found no \.json"):
        check.check(tmp_path / "nowhere", path)
    with pytest.raises(InputError, match=r"nothing\.json: cannot be read"):
        check.check(results, tmp_path / "nothing.json")
    (results / "numbers" / "05.json").write_text("{")
    with pytest.raises(InputError, match=r"05\.json: is not JSON"):
        check.check(results, path)


def test_two_notebooks_that_disagree_are_refused(tmp_path):
    results, path = written(tmp_path, {"01": {"n": 5000}, "05": {"n": 4999}})
    with pytest.raises(InputError, match=r"05\.json: n: found 4999; expected 5000"):
        check.check(results, path)


def test_no_reference_without_headline_numbers(tmp_path):
    with pytest.raises(InputError, match="headline"):
        check.write_reference({"colour": 1}, tmp_path / "reference.json")
    with pytest.raises(InputError, match="test_auc: found nan"):
        check.write_reference({"test_auc": math.nan}, tmp_path / "reference.json")
    assert list(tmp_path.iterdir()) == []


def test_fill_numbers_replaces_what_was_there(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("AUC <!-- number: auc -->0.1. And <!-- number: low --> | x 0.5\n")
    check.fill_numbers(page, {"auc": 0.98765, "low": 0.9})
    filled = "AUC <!-- number: auc -->0.988. And <!-- number: low -->0.900 | x 0.5\n"
    assert page.read_text() == filled
    with pytest.raises(InputError, match="low"):
        check.fill_numbers(page, {"auc": 0.98765})
