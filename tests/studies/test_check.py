"""Verdicts of a rebuild against a reference, with hand-made numbers."""

import json
import math
import shutil

import pandas as pd
import pytest
from conftest import ROOT
from test_evaluate import random_tables

from studies import check
from studies.__main__ import main
from vitdm.data.dataset import read_catalog
from vitdm.errors import InputError
from vitdm.evaluation import final_test, metrics
from vitdm.provenance import sidecar

REFERENCE = {
    "auc": {"value": 0.99, "tolerance": 0.004, "kind": "absolute"},
    "n": {"value": 5000, "tolerance": 0, "kind": "absolute"},
    "scale": {"value": -2.0, "tolerance": 0.1, "kind": "relative"},
}


def status(numbers):
    return {v.key: v.status for v in check.compare(numbers, REFERENCE)}


TOLERANCES = {key: (entry["tolerance"], entry["kind"]) for key, entry in REFERENCE.items()}


def evaluated(results, seed=5):
    """Write the final test of two networks below ``results``, and return its scores."""
    tables, held_out = random_tables(seeds=2, n=(40, 20, 20)), random_tables(2, (30, 20, 20))
    for folder in ("dataset", "evaluation"):
        (results / folder).mkdir(parents=True)
    catalog = tables[0][["id", "class", "split"]]
    pd.concat([catalog.assign(split="train", id="t" + catalog["id"]), catalog]).to_csv(
        results / "dataset" / "catalog.csv", index=False
    )
    folder = results / "evaluation"
    for k in range(2):
        tables[k].to_csv(folder / f"predictions_seed{k}.csv", index=False)
        held_out[k].to_csv(folder / f"held_out_seed{k}.csv", index=False)
        tables[k].to_csv(folder / f"rival_boosting_seed{k}.csv", index=False)
    metrics.ensemble(tables).to_csv(folder / "predictions.csv", index=False)
    sign(folder, seed)
    numbers = final_test.summarise(tables, held_out, n_bootstrap=20, seed=seed)
    return numbers | {"boosting_test_auc": numbers["test_auc"], "known_lens_test_auc": 0.99}


def sign(folder, seed=5):
    """Write the sidecar of a final test, as if all its files had been written with it."""
    files = [file for file in folder.iterdir() if file.suffix == ".csv"]
    sidecar(folder / "evaluation.json", rule="evaluate", seed=seed, outputs=files)


def written(tmp_path, numbers, reference=REFERENCE):
    evaluated(tmp_path / "results")
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
    assert check.check(results, reference, TOLERANCES) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:4]] == ["FAILED", "ok", "MISSING"]
    assert "0.99" in lines[1] and "0.98" in lines[1] and "-0.01" in lines[1]
    assert lines[-1].startswith("2 of 3 ") and lines[-1].endswith("auc scale")


def test_a_rebuild_equal_to_its_reference_passes(tmp_path, capsys):
    numbers = {"01": {"n_images": 14000, "pixel_scale": 0.05}, "05": {"tune_gain": 0.0012345}}
    results, path = written(tmp_path, numbers)
    check.write_reference(check.read_numbers(results), path)
    reference = check.read_reference(path)
    assert reference["tune_gain"] == {"value": 0.0012345, "tolerance": 0.005, "kind": "absolute"}
    assert set(reference) == {"n_images", "tune_gain"}  # pixel_scale is no headline number
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
    with pytest.raises(InputError, match=r"05\.json: cannot be read as JSON"):
        check.check(results, path)


# ------------------------------------------------------------------ the chain from the predictions


@pytest.fixture
def rebuilt(tmp_path):
    """A rebuild whose numbers follow from its predictions, and the reference made of it."""
    results, path = tmp_path / "results", tmp_path / "reference.json"
    numbers = evaluated(results)
    (results / "numbers").mkdir()
    (results / "numbers" / "05.json").write_text(json.dumps(numbers))
    check.write_reference(numbers | {"test_auc_no_sub": numbers["test_auc_no_sub"]}, path)
    return results, path


def test_scores_that_follow_from_the_predictions_pass(rebuilt, capsys):
    results, path = rebuilt
    assert main(["check", "--results", str(results), "--reference", str(path)]) == 0
    found = check.scores_of_predictions(results)
    numbers = check.read_numbers(results)
    for key in (
        "test_auc",
        "test_balanced_accuracy",
        "test_auc_macro",
        "test_ece",
        "test_ece_floor",
    ):
        assert found[key] == pytest.approx(numbers[key], abs=1e-9)


def garbled(table):
    """Predictions that are as good as drawn at random."""
    columns = [name for name in table if name.startswith("p_")]
    values = table[columns].sample(frac=1, random_state=0).to_numpy()
    return table.assign(**dict(zip(columns, values.T, strict=True)))


def test_garbage_in_the_predictions_does_not_agree(rebuilt, capsys):
    """The numbers alone agree, 205 of 205, whatever lies in the files."""
    results, path = rebuilt
    file = results / "evaluation" / "predictions_seed1.csv"
    garbled(read_catalog(file)).to_csv(file, index=False)
    command = ["check", "--results", str(results), "--reference", str(path)]
    assert main(command) == 2
    assert "predictions_seed1.csv: is not the file that evaluation" in capsys.readouterr().err
    sign(results / "evaluation")
    assert main(command) == 2
    assert "predictions.csv: is not the mean over the networks" in capsys.readouterr().err
    tables = [read_catalog(file.with_name(f"predictions_seed{k}.csv")) for k in range(2)]
    metrics.ensemble(tables).to_csv(file.with_name("predictions.csv"), index=False)
    sign(results / "evaluation")
    assert main(command) == 2
    assert "which the predictions in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "change"),
    [("test_auc", 1e-3), ("test_ece", -1e-3), ("boosting_test_auc", 1e-3), ("test_auc_macro", 1e-3)]
    + [("n_test_errors", 1), ("test_balanced_accuracy", 1e-3), ("test_accuracy", math.nan)],
)
def test_a_number_that_the_predictions_do_not_give_is_refused(rebuilt, key, change):
    results, path = rebuilt
    file = results / "numbers" / "05.json"
    numbers = json.loads(file.read_text())
    file.write_text(json.dumps(numbers | {key: numbers[key] + change}))
    with pytest.raises(InputError, match=rf"numbers: {key}: found .*; expected .*, which the pred"):
        check.check(results, path)


def test_predictions_of_other_images_are_refused(rebuilt):
    results, path = rebuilt
    file = results / "dataset" / "catalog.csv"
    text = file.read_text()
    file.write_text(text.replace("\n000,no_sub", "\n000,cdm"))
    with pytest.raises(InputError, match="predictions of other images or classes for seed0"):
        check.check(results, path)
    file.write_text(text)
    (results / "evaluation" / "held_out_seed0.csv").unlink()
    with pytest.raises(InputError, match="expected both of each network"):
        check.check(results, path)
    for old in (results / "evaluation").iterdir():
        old.unlink()
    with pytest.raises(InputError, match="evaluation: found predictions of no network"):
        check.check(results, path)


def test_a_run_whose_files_were_changed_is_refused(rebuilt, run_folder):
    results, path = rebuilt
    shutil.copytree(run_folder, results / "final" / "seed0")
    assert check.check(results, path) == 0
    (results / "final" / "seed0" / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match=r"seed0/metrics\.json: is not the file that run\.json"):
        check.check(results, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tolerance": 1e9},
            "test_auc: found a tolerance of 1e.09 absolute; expected at most 0.01",
        ),
        ({"kind": "relative"}, "test_auc: found a tolerance of 0.01 relative; expected at most"),
    ],
)
def test_a_reference_that_is_too_tolerant_is_refused(rebuilt, change, message):
    results, path = rebuilt
    reference = check.read_reference(path)
    reference["test_auc"] |= change
    path.write_text(json.dumps(reference))
    with pytest.raises(InputError, match=message):
        check.check(results, path)
    path.write_text(json.dumps({"colour": reference["test_ece"]}))
    with pytest.raises(InputError, match="colour: found a tolerance of 0.02 .*expected none of"):
        check.check(results, path)


def test_a_reference_of_a_single_number_is_refused(rebuilt):
    """Neither what the rebuild has to be compared, nor what the article prints."""
    results, path = rebuilt
    reference = check.read_reference(path)
    path.write_text(json.dumps({"test_auc": reference["test_auc"]}))
    with pytest.raises(
        InputError, match=r"reference\.json: found 1 numbers; expected \d+ more, such"
    ):
        check.check(results, path)
    path.write_text(json.dumps(reference))
    article = path.with_name("paper.md")
    article.write_text(
        "It reaches {{ test_auc:.3f }} in {{ colour }} and gains {{ tune_gain:.4f }}."
    )
    with pytest.raises(InputError, match="expected 1 more, such as tune_gain"):
        check.check(results, path)
    article.write_text("It reaches {{ test_auc:.3f }}.")
    assert check.check(results, path) == 0


def test_the_committed_reference_has_all_that_the_article_prints():
    path = ROOT / "paper" / "reference.json"
    numbers = json.loads((ROOT / "paper" / "numbers.json").read_text())
    check.check_reference(path, check.read_reference(path), numbers)


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
