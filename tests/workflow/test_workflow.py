"""The Snakefile: what it plans for simulated lenses and for images in files; what it refuses."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from project import parsed

from studies import config as workflow
from studies.stages import stages

ROOT = Path(__file__).resolve().parents[2]
SMOKE = workflow.load(ROOT / "config/smoke.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty working directory with the repository's inputs and none of its results."""
    place = tmp_path_factory.mktemp("workflow")
    link(place)
    return place


def link(place):
    """Link the inputs of the workflow into a folder."""
    for name in ("config", "notebooks", "paper", "environment.yml", "vitdm", "studies"):
        (place / name).symlink_to(ROOT / name)
    parsed(place)


def snakemake(folder, *options):
    """Call Snakemake on a folder: exit status, and what it said."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    answer = subprocess.run(
        [*command, "--directory", str(folder), *options],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    return answer.returncode, answer.stdout + answer.stderr


def plan(folder, *options):
    """A dry run: exit status, what it said, and the number of jobs of each rule."""
    status, text = snakemake(folder, "-n", *options)
    # the table of jobs is printed before and after the plan
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", text, re.M))
    return status, text, {name: int(count) for name, count in jobs.items()}


@pytest.fixture(scope="module")
def smoke(folder):
    """The plan of simulated lenses, without the real images of a clone."""
    return plan(folder, "--configfile", "config/smoke.yaml")


NOTEBOOKS = {f"notebook_0{k}": 1 for k in range(7)}
REST = {
    "preprocess": 1,
    "features": 1,
    "select": 1,
    "train": len(SMOKE.runs),
    "tune": 1,
    "search": len(SMOKE.study.arms) * SMOKE.study.seeds,
    "rates": len(SMOKE.rates.recipes),
    "join_trials": 2,
    "evaluate": 1,
}
blocks = sum(map(SMOKE.misspecification.blocks, SMOKE.misspecification.parts))
MATRIX = {"misspecification": blocks, "merge_misspecification": 1}  # of lenses of its own
MATRIX |= {"benchmark": len(SMOKE.benchmark.parts), "merge_benchmark": 1}
REST |= {"train_final": 1, "paper": 1, "explorer": 1, "all": 1} | NOTEBOOKS


def test_plan_of_simulated_lenses(folder, smoke, monkeypatch):
    monkeypatch.chdir(folder)  # without the real images of a clone
    status, text, jobs = smoke
    assert status == 0, text
    jobs = dict(jobs)
    total = jobs.pop("total")
    shown = len(SMOKE.populations.files)
    curves = SMOKE.efficiency.curves
    fitted = sum(curve.runs is None for curve in curves)
    mapped = len(SMOKE.maps.populations)
    samples = shown + len(curves) + mapped + 1  # that of the audit
    extra = {
        "simulate_sample": samples,
        "ideal_observer": shown,
        "features": 1 + shown + fitted + mapped,
    }
    extra |= {"rank_population": shown, "invariance": shown, "preprocess": 2 + len(curves) + mapped}
    extra |= {"lensfit": SMOKE.shards, "merge_fits": 1, "lensfit_sample": shown + fitted}
    default = SMOKE.efficiency.seeds
    trainings = sum(len(curve.trainings(default)) for curve in curves)
    extra |= {"efficiency": trainings, "merge_efficiency": 1}
    extra |= {"compare": len(SMOKE.compare.rows), "merge_compare": 1}
    copied = mapped * any(row.copies for row in SMOKE.maps.rows.values())
    extra |= {"resample": copied} if copied else {}
    extra |= {"lensfit_maps": mapped, "maps": mapped * len(SMOKE.maps.rows), "merge_maps": 1}
    inferred = len(SMOKE.posterior.populations) * len(SMOKE.posterior.rows)
    extra |= {"posterior": inferred, "merge_posterior": 1}
    extra |= {"where": len(SMOKE.where.rows), "merge_where": 1}
    extra |= {"known_model": 1, "audit": 1, "gain": 1, "train_final": 2}
    settings = jobs.pop("settings")
    assert settings == len(stages(SMOKE)) - 1  # nothing is ingested
    total -= settings
    assert jobs == REST | MATRIX | {"simulate": SMOKE.shards, "merge": 1} | extra
    assert total == sum(jobs.values())
    left = [path.name for path in (folder / "results").rglob("*.*")]
    assert left == ["code.json"]  # which was there before: a dry run leaves nothing
    blocks = {
        match[1]: match[2]
        for match in re.finditer(r"^rule (\w+):\n(.*?)(?:\n\n|\n\[|\Z)", text, re.M | re.S)
    }
    assert {name for name, block in blocks.items() if "evaluation/metrics" in block} == {
        "evaluate",
        "notebook_05",
    }
    # the reference beside the final test comes after it; its notebook and the explorer show it
    readers = {
        name
        for name, block in blocks.items()
        if re.search("^    input:.*known_model/", block, re.M)
    }
    assert readers == {"notebook_05", "explorer"}
    assert (
        "evaluation/predictions.csv" in re.search("^    input: .*", blocks["known_model"], re.M)[0]
    )
    assert "images.npy" not in blocks["known_model"]
    # nothing of a workflow that is not to be published lands in the repository's folders
    written = re.findall(r"^    output: (.*)$", text, re.M)
    assert all(path.startswith("results/") for line in written for path in line.split(", "))


def test_plan_of_images_in_files(folder, tmp_path):
    layout = tmp_path / "my lenses"
    for name in ("no_sub", "sub"):
        (layout / name).mkdir(parents=True)
        for i in range(4):
            image = np.random.default_rng(i).integers(0, 255, (64, 64)).astype(np.uint8)
            cv2.imwrite(str(layout / name / f"{i}.jpg"), image)
    options = ("--configfile", "config/smoke.yaml", "--config", f"data={layout}")
    status, text, jobs = plan(folder, *options)
    assert status == 0, text
    for name in ("total", "settings"):
        jobs.pop(name)
    # without a pixel scale no lens is fitted
    fitted = {"spt_lsa_lensfit", "spt_lsa_residual", "spt_lsa_all"}
    runs = {"train": len(set(SMOKE.runs) - fitted)}
    assert jobs == REST | {"ingest": 1, "invariance": 1} | runs
    assert str(layout) in text
    assert re.search("results/smoke_my_lenses_[0-9a-f]{6}/dataset/images.npy", text)
    assert "sensitivity" not in text  # needs the truth of simulated lenses


def test_what_the_workflow_refuses(folder, tmp_path):
    """Each in one message without a traceback, and no results folder is made."""
    before = sorted(path.name for path in (folder / "results").glob("*"))
    for setting, message in (
        (f"data={tmp_path}/gone", f"data: {tmp_path}/gone: no such file or folder"),
        ("colour=3", "smoke.yaml: colour: unknown key; expected one of: audit, benchmark, compare"),
    ):
        status, text, _ = plan(folder, "--configfile", "config/smoke.yaml", "--config", setting)
        assert status != 0 and message in text and "Traceback" not in text
    assert sorted(path.name for path in (folder / "results").glob("*")) == before


# ----------------------------------------------------------------------------- names in the shell


def test_each_value_in_a_command_is_quoted():
    """A path with a space stays one word, and what stands in backticks is not run."""
    commands = []
    for file in (ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))):
        blocks = re.findall(r'^ +shell:\n((?: +".*"\n)+)', file.read_text(), re.M)
        assert len(blocks) == file.read_text().count("shell:")
        commands += [(file.name, command) for command in blocks]
    assert len(commands) >= 35
    for name, command in commands:
        values = re.findall(r"(?<!\{)\{([^{}]+)\}(?!\})", command)
        assert values
        plain = [value for value in values if not value.endswith(":q") and value != "threads"]
        assert not plain, f"{name}: {plain} in {command}"


def test_a_population_may_have_any_name(folder, tmp_path, config_file):
    """It is planned under its name, and its lenses are simulated without running a part of it."""
    odd = tmp_path / "my 'own' \"lenses\" $(touch one) `touch two`; touch three.yaml"
    content = yaml.safe_load(config_file.read_text())
    shutil.copy(content["population"], odd)
    content |= {"name": "odd", "population": str(odd)}
    content["populations"] = {"files": [str(odd)], "n_images": 12, "n_invariance": 2}
    (tmp_path / "odd settings.yaml").write_text(yaml.safe_dump(content))
    options = ("--configfile", str(tmp_path / "odd settings.yaml"))
    status, text, jobs = plan(folder, "--printshellcmds", *options)
    assert status == 0 and jobs["simulate"] == 2 and jobs["simulate_sample"] == 1, text
    written = re.findall(r"^Shell command: ((?:vitdm|python) .*)$", text, re.M)
    words = [word for line in written for word in shlex.split(line)]
    assert str(odd) in words
    assert not [word for word in words if "touch" in word and odd.stem not in word]

    shard = "results/odd/shards/0-of-2/images.npy"
    status, text = snakemake(folder, "--cores", "1", *options, "--", shard)
    assert status == 0 and (folder / shard).is_file(), text
    assert not [name for name in ("one", "two", "three") if (folder / name).exists()]


# ----------------------------------------------------------------------- what is run again, and why


def test_a_key_that_occurs_twice_is_refused(folder, tmp_path):
    (tmp_path / "more.yaml").write_text("seed: 1\nseed: 2\n")
    status, text, _ = plan(folder, "--configfile", "config/smoke.yaml", str(tmp_path / "more.yaml"))
    assert status != 0 and "more.yaml: seed: occurs twice; expected once (line 2)" in text


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workflow that is finished, as far as Snakemake knows: its files are there, and empty."""
    place = tmp_path_factory.mktemp("finished")
    link(place)
    _, text = snakemake(place, "-n", "--configfile", "config/smoke.yaml")
    for line in re.findall(r"^    output: (.*)$", text, re.M):
        for name in line.split(", "):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).touch()
    options = ("--touch", "--forceall", "--cores", "1", "--configfile", "config/smoke.yaml")
    status, text = snakemake(place, *options)
    assert status == 0, text
    return place


ARTICLE = {"paper", "all"}
AFTER_TEST = {"evaluate", "known_model", "notebook_05", "explorer"} | ARTICLE
AFTER_TUNE = {"train_final", "gain", "notebook_04"} | AFTER_TEST


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (
            {"evaluation": {"bootstrap": 201}},
            {"audit", "merge_compare", "merge_maps", "merge_where", "gain"}
            | {f"notebook_0{k}" for k in range(2, 5)}
            | AFTER_TEST,
        ),
        ({"tune": {"metric": "average_precision"}}, {"rates", "tune", "search", "join_trials"}),
        ({"runs": {"plain": {"label": "plain"}}}, {"notebook_02", "notebook_03"} | ARTICLE),
        ({"compare": {"rows": {"resnet": {"label": "R"}}}}, {"compare", "merge_compare"}),
        ({"final": {"epochs": 3}}, {"train_final", "gain", "notebook_04"} | AFTER_TEST),
        ({"ingest": {"resplit": True}}, set()),  # nothing is ingested
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_change_runs_again_what_reads_it(finished, tmp_path, change, rules):
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(change))
    status, text, jobs = plan(
        finished, "--configfile", "config/smoke.yaml", str(tmp_path / "more.yaml")
    )
    assert status == 0, text
    jobs.pop("total", None)
    if "tune" in rules:
        rules = rules | AFTER_TUNE
    if "compare" in rules:
        rules = rules | {"notebook_03"} | ARTICLE
        assert jobs["compare"] == 1
    assert set(jobs) == (rules | {"settings"} if rules else set())


def test_nothing_is_run_again_without_a_change(finished):
    assert "Nothing to be done" in snakemake(finished, "-n", "--configfile", "config/smoke.yaml")[1]


def test_an_edit_of_the_code_runs_again_what_runs_it(finished):
    """Here of the hash that is kept for runs that do not watch the code."""
    kept = finished / "results/smoke/code.json"
    hashes = {"vitdm.commands.evaluate": "another"}
    kept.write_text(json.dumps({"hashes": hashes, "parsed": {}}))
    options = ("--configfile", "config/smoke.yaml")
    status, text, jobs = plan(finished, *options, "--config", "watch_code=false")
    assert status == 0, text
    assert set(jobs) - {"total"} == AFTER_TEST
    assert "Nothing to be done" in snakemake(finished, "-n", *options)[1]


# ------------------------------------------------------------------------ who reads the test split


def readers_of_the_test_split(source):
    """Names of the functions in which the split "test" is named."""
    return {
        function.name
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Constant) and node.value == "test"
    }


def test_readers_are_found():
    source = 'def f(d): return d.rows("test")\ndef g(d): return d.rows("train")\n'
    source += 'def h(d): return fit(**{"train_splits": ("train", "test")})'
    assert readers_of_the_test_split(source) == {"f", "h"}


def test_only_the_final_test_reads_the_test_split():
    found = {
        (path.name, name)
        for path in (ROOT / "vitdm").rglob("*.py")
        for name in readers_of_the_test_split(path.read_text())
    }
    # a simulation draws its lenses, and a benchmark has one of its own
    others = {("simulated.py", "planned"), ("sets.py", "test")}
    assert found == {("final_test.py", "evaluate"), *others}
    shown = {
        path.name
        for path in (ROOT / "notebooks").glob("*.py")
        if re.search(r"rows\([^)]*['\"]test['\"]", path.read_text())
    }
    assert shown <= {"05_final_test.py"}  # which draws what ``evaluate`` found


@pytest.mark.parametrize("name", ["SDSSJ0946+1006_npix100.npy", "another.npy"])
def test_real_lenses_are_fitted_if_something_is_known_of_them(folder, name, tmp_path):
    elsewhere, sky = tmp_path / "elsewhere", tmp_path / "sky"
    elsewhere.mkdir()
    sky.mkdir()
    np.save(elsewhere / name, np.zeros((100, 100)))
    (sky / "linked").symlink_to(elsewhere, target_is_directory=True)
    options = ("--configfile", "config/smoke.yaml", "--config", f"real_images={sky}")
    status, text, _ = plan(folder, *options)
    assert status == 0, text
    assert "real_lenses.png" in text
    for made in ("real_residuals.png", "real_fits.csv"):
        assert (made in text) == name.startswith("SDSS")


def test_real_images_are_asked_if_they_are_there(folder, smoke, tmp_path):
    """One sample, and as many trainings as seeds, of each set whose folder is there."""
    options, chosen = ("--configfile", "config/smoke.yaml"), SMOKE.real_sky
    before = smoke[2]
    assert "real_sky" not in before
    for name in ("lenses", "slacs"):
        place = tmp_path / name
        place.mkdir()
        np.save(place / "one.npy", np.zeros((100, 100)))
        more = tmp_path / f"{name}.yaml"
        more.write_text(yaml.safe_dump({"real_sky": {"sets": {name: {"images": str(place)}}}}))
        status, text, jobs = plan(folder, *options, str(more))
        assert status == 0, text
        assert jobs["real_sky"] == chosen.seeds and jobs["merge_real_sky"] == 1
        assert jobs["simulate_sample"] == before["simulate_sample"] + 1
        fitted = before["lensfit_sample"] + ("lensfit" in chosen.sets[name].groups)
        assert jobs["lensfit_sample"] == fitted
        assert "real_sky.png" in text


def test_lenses_unlike_the_model_are_searched_in_blocks(folder, smoke, tmp_path):
    """Those that are learned from, those of thresholds, and the rows that are named."""
    options, chosen = ("--configfile", "config/smoke.yaml"), SMOKE.misspecification
    assert ("misspecification" in smoke[2]) == bool(chosen.rows)
    more = tmp_path / "more.yaml"
    sizes = {"n_smooth": 3, "n_perturbed": 3, "n_calibration": 4, "n_training": 12}
    rows = {"block": 5, "rows": ["nominal", "psf_wings"]}
    more.write_text(yaml.safe_dump({"misspecification": sizes | rows}))
    status, text, jobs = plan(folder, *options, str(more), "--printshellcmds")
    assert status == 0, text
    assert jobs["misspecification"] == 3 + 1 + 2 + 2 and jobs["merge_misspecification"] == 1
    assert re.search(r"misspecification psf_wings --block 1 .*--out \S+/misspecification ", text)
    assert "figures/misspecification.png" in text and "tables/misspecification.csv" in text


def test_real_lenses_are_fitted_one_by_one_if_they_are_there(folder, smoke, tmp_path):
    """A job each, of those that are named, and the table with what is known of them."""
    options, names = ("--configfile", "config/smoke.yaml"), SMOKE.slacs.names
    _, text, before = smoke
    assert "slacs" not in before and "figures/slacs" not in text
    for name in (*names, "another"):
        (tmp_path / name).mkdir()
        for file in ("image.fits", "noise.fits", "psf.fits"):
            (tmp_path / name / file).touch()
    (tmp_path / "published.csv").touch()
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({"slacs": {"images": str(tmp_path)}}))
    status, text, jobs = plan(folder, *options, str(more), "--printshellcmds")
    assert status == 0, text
    assert jobs["slacs"] == len(names) == 2 and jobs["merge_slacs"] == 1
    (merge,) = re.findall(r"python -m studies merge-slacs .*", text)
    assert f"--published {tmp_path}/published.csv --notes config/slacs_notes.yaml" in merge
    assert "figures/slacs.png" in text and "figures/slacs_radii.png" in text
    both = {"real_images": str(tmp_path), "slacs": {"images": str(tmp_path)}}
    more.write_text(yaml.safe_dump(both))
    _, text, _ = plan(folder, *options, str(more))
    assert "real_lenses.png" not in text  # noise maps and PSFs are no images to look at
