"""The command line: every stage on a folder of images, and what wrong input gets."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import POPULATION, SETTINGS
from files import class_folders, signed
from files import folder as stored_in

from studies import __main__ as studies_main
from vitdm import __main__ as vitdm_main
from vitdm.__main__ import COMMANDS, main
from vitdm.config import Settings
from vitdm.data.dataset import Dataset
from vitdm.model.training import Checkpoint, Training
from vitdm.predict import COLUMNS as COLUMNS_OF_ANSWERS
from vitdm.provenance import sha256


def run(*arguments):
    return main([str(argument) for argument in arguments])


def snapshot(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def jpgs(tmp_path_factory):
    """A DeepLense layout: 24 rings of 40 pixels a class, those of ``sub`` with a gap."""
    folder, rng = tmp_path_factory.mktemp("jpgs") / "lenses", np.random.default_rng(0)
    y, x = np.indices((40, 40)) - 19.5
    for name in ("sub", "no_sub"):
        (folder / name).mkdir(parents=True)
        for i in range(24):
            ring = 200 * np.exp(-((np.hypot(x, y) - 12) ** 2) / 8)
            if name == "sub":
                ring *= np.cos(np.arctan2(y, x) - rng.uniform(0, 6.28)) < 0.8
            image = np.clip(ring + rng.normal(20, 5, ring.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / name / f"image_{i}.jpg"), np.dstack([image] * 3))
    return folder


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory):
    """The settings of the commands: of a model with features, of one without, of the last one."""
    folder = tmp_path_factory.mktemp("settings")
    common = {key: SETTINGS[key] for key in Settings.model_fields.keys() & SETTINGS.keys()}
    plain = {"model": common["model"] | {"spt": False, "lsa": False, "features": False}}
    files = {"tiny": common, "plain": common | plain}
    files |= {"final": common | {"train": common["train"] | {"epochs": 2}}}
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    (folder / "population.yaml").write_text(yaml.safe_dump(POPULATION))
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def done(jpgs, settings_file, tmp_path_factory):
    """The results of all stages; no stage before the last is shown the test split."""
    out = tmp_path_factory.mktemp("results")
    plain, final = (settings_file.with_name(f"{name}.yaml") for name in ("plain", "final"))
    with_config = ("--config", settings_file, "--out")
    assert run("ingest", jpgs, *with_config, out / "dataset") == 0
    assert run("preprocess", out / "dataset", *with_config, out / "processed") == 0
    assert run("features", out / "dataset", *with_config, out / "features.csv") == 0

    blind = out / "blind"
    shutil.copytree(out / "processed", blind / "processed")
    test = (Dataset.open(out / "processed").catalog["split"] == "test").to_numpy()
    images = np.load(blind / "processed" / "images.npy")
    images[test] = np.nan
    np.save(blind / "processed" / "images.npy", images)
    signed(blind / "processed")
    table = pd.read_csv(out / "features.csv").set_index("id").astype(float)
    table[test] = 1e30
    table.reset_index().to_csv(blind / "features.csv", index=False)

    seen = (blind / "processed", "--features", blind / "features.csv")
    assert run("select", *seen, *with_config, out / "selection") == 0
    seen = (*seen, "--selection", out / "selection" / "selection.json")
    command = ("train", *seen, "--config", plain, "--seed", 1)
    assert run(*command, "--out", out / "runs" / "plain_seed1") == 0
    assert run("tune", *seen, *with_config, out / "tune") == 0
    command = ("train", *seen, "--config", final, "--final", "--tuned", out / "tune")
    assert run(*command, "--out", out / "final" / "seed0") == 0
    # the final test is of the images as they are: else it would, rightly, be refused
    blank, whole = (sha256(folder / "processed" / "images.npy") for folder in (blind, out))
    sidecar = out / "final" / "seed0" / "run.json"
    sidecar.write_text(sidecar.read_text().replace(blank, whole))
    command = ("evaluate", out / "processed", out / "final" / "seed0")
    assert run(*command, "--features", out / "features.csv", *with_config, out / "evaluation") == 0
    return out


def test_stages_from_a_folder_of_images(done, jpgs):
    catalog = Dataset.open(done / "dataset").catalog
    assert len(catalog) == 48 and set(catalog["class"]) == {"sub", "no_sub"}
    assert catalog["split"].value_counts().to_dict() == {
        "train": 20,
        "test": 12,
        "valid": 8,
        "opt": 8,
    }
    row = catalog.iloc[3]
    written = cv2.imread(str(jpgs / f"{row['id']}.jpg"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(Dataset.open(done / "dataset").images[3], written)
    assert Dataset.open(done / "processed").images.shape == (48, 32, 32)
    assert pd.read_csv(done / "features.csv")["id"].tolist() == catalog["id"].tolist()


def test_a_run_has_its_settings(done):
    folder = done / "runs" / "plain_seed1"
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["model"]["spt"] is settings["model"]["features"] is False
    assert settings["model"]["embed_dim"] == 16
    assert settings["seed"] == 8 and settings["classes"] == ["no_sub", "sub"]
    assert settings["train_splits"] == ["train"] and settings["feature_names"] == []
    scored = pd.read_csv(folder / "predictions.csv")["id"]
    catalog = Dataset.open(done / "dataset").catalog
    assert set(scored) == set(catalog["id"][catalog["split"] == "opt"])


def test_several_seeds_of_a_run(done, settings_file, tmp_path, monkeypatch):
    """They are the runs of each, also if a finished folder is lost with a killed process."""
    command = (
        "train",
        done / "blind" / "processed",
        "--config",
        settings_file.parent / "plain.yaml",
    )
    command += ("--seed", 0, 1, "--out", tmp_path / "plain_seed{seed}")
    started, epoch = [], Training.epoch

    def counted(self, *arguments):
        started.append(self)
        if len(started) == 2:  # the only epoch of the second seed
            raise SystemExit
        epoch(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Training, "epoch", counted)
        patch.setattr(Checkpoint, "EVERY", 0.0)
        run(*command)
    assert {path.name for path in tmp_path.iterdir()} == {".plain_seed0.checkpoint", "plain_seed0"}
    shutil.rmtree(tmp_path / "plain_seed0")  # as Snakemake does
    monkeypatch.setattr(Training, "epoch", counted)
    assert run(*command) == 0
    assert len(started) == 3  # the first seed was not trained again
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["plain_seed0", "plain_seed1"]
    for file in ("model.safetensors", "predictions.csv", "config.yaml"):
        alone = (done / "runs" / "plain_seed1" / file).read_bytes()
        assert (tmp_path / "plain_seed1" / file).read_bytes() == alone
    assert yaml.safe_load((tmp_path / "plain_seed0/config.yaml").read_text())["seed"] == 7


def test_the_final_run_has_the_best_settings_and_holds_valid_out(done):
    best = json.loads((done / "tune" / "best.json").read_text())
    stages = pd.read_csv(done / "tune" / "trials.csv")["stage"].value_counts().to_dict()
    assert stages == {"start": 1, "design": 1, "process": 1, "again": 4} and best["failed"] == 0
    settings = yaml.safe_load((done / "final" / "seed0" / "config.yaml").read_text())
    assert settings["train"]["learning_rate"] == best["params"]["learning_rate"]
    assert settings["train_splits"] == ["train", "opt"] and settings["n_train"] == 28
    selected = json.loads((done / "selection" / "selection.json").read_text())["features"]
    assert settings["feature_names"] == selected and len(selected) > 0
    metrics = json.loads((done / "final" / "seed0" / "metrics.json").read_text())
    assert metrics["epochs"] == 2  # those of its file: the search had its own
    held_out = set(pd.read_csv(done / "final" / "seed0" / "predictions.csv")["id"])
    catalog = Dataset.open(done / "dataset").catalog
    assert held_out == set(catalog["id"][catalog["split"] == "valid"])


def test_features_one_by_one(done, settings_file, tmp_path):
    command = ("select", done / "dataset", "--features", done / "features.csv", "--ranking-only")
    assert run(*command, "--config", settings_file, "--out", tmp_path / "out") == 0
    assert snapshot(tmp_path / "out") == ["ranking.csv", "select.json"]
    names = set(pd.read_csv(done / "features.csv", nrows=0)) - {"id"}
    assert set(pd.read_csv(tmp_path / "out" / "ranking.csv")["name"]) == names


def test_only_the_last_stage_sees_the_test_split(done):
    predictions = pd.read_csv(done / "evaluation" / "predictions.csv")
    assert len(predictions) == 12 and (predictions["split"] == "test").all()
    np.testing.assert_allclose(predictions[["p_no_sub", "p_sub"]].sum(axis=1), 1, atol=1e-6)
    metrics = json.loads((done / "evaluation" / "metrics.json").read_text())
    assert metrics["n_test"] == 12 and 0 <= metrics["test_auc"] <= 1


def test_predict(done, jpgs, tmp_path, capsys):
    command = ("predict", jpgs, "--run", done / "final" / "seed0")
    assert run(*command) == 0
    captured = capsys.readouterr().out
    assert run(*command, "--out", tmp_path / "new" / "p.csv") == 0
    assert (tmp_path / "new" / "p.csv").read_text() == captured
    assert snapshot(tmp_path) == ["new", "new/p.csv"]
    table = pd.read_csv(tmp_path / "new" / "p.csv")
    assert list(table) == ["file", "p_no_sub", "p_sub", *COLUMNS_OF_ANSWERS]
    assert len(table) == 48
    np.testing.assert_allclose(table[["p_no_sub", "p_sub"]].sum(axis=1), 1, atol=2e-6)
    # the test images again, this time from their files
    known = pd.read_csv(done / "evaluation" / "predictions.csv").set_index("id")
    table.index = table["file"].str.removeprefix(f"{jpgs}/").str.removesuffix(".jpg")
    np.testing.assert_allclose(table.loc[known.index, "p_sub"], known["p_sub"], atol=1e-4)


def test_raw_and_processed_images_are_not_mixed_up(
    lenses, processed, settings_file, tmp_path, capsys
):
    """Each was taken for the other without a word, and the features or answers were wrong."""
    options = ("--config", settings_file, "--out", tmp_path / "o")
    for command in ("preprocess", "features", "fit"):
        assert run(command, processed, *options) == 2
        assert "holds processed images; expected those they were made of" in capsys.readouterr().err
    assert run("train", lenses, *options) == 2
    assert "holds raw images; expected processed ones" in capsys.readouterr().err
    assert run("fit", lenses, *options, "--population", "model_ii") == 2
    assert "expected that population" in capsys.readouterr().err
    assert snapshot(tmp_path) == []


def test_simulated_shards_are_the_whole(settings_file, lenses, tmp_path):
    population = ("--population", settings_file.parent / "population.yaml")
    for k in range(2):
        options = ("--config", settings_file, "--shard", f"{k}/2", "--out", tmp_path / str(k))
        assert run("simulate", *population, *options) == 0
    command = ["merge-shards", tmp_path / "0", tmp_path / "1", "--out", tmp_path / "all"]
    assert studies_main.main(list(map(str, command))) == 0
    merged = (tmp_path / "all" / "images.npy").read_bytes()
    assert merged == (lenses / "images.npy").read_bytes()


def test_simulate_without_settings(settings_file, tmp_path):
    command = ("simulate", "--population", settings_file.parent / "population.yaml", "--n", 5)
    assert run(*command, "--n-opt", 3, "--seed", 2, "--out", tmp_path) == 0
    counts = Dataset.open(tmp_path).catalog["split"].value_counts().to_dict()
    assert counts == {"train": 5, "opt": 3}


def test_ingest_with_options(settings_file, tmp_path, capsys):
    """Bad files stop it; the options leave them out, drop a leak, draw anew, tell the scale."""
    members = class_folders(("train/no", "train/sub"), 24) | class_folders(("test/no", "test/sub"))
    members["train/no/bad.npy"] = b""
    command = ("ingest", stored_in(tmp_path / "in", members), "--config", settings_file)
    assert run(*command, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "1 of 61 images cannot be used" in said and "train/no/bad.npy  is empty" in said
    assert not (tmp_path / "out").exists()
    options = ("--out", tmp_path / "out", "--skip-bad", "--pixel-scale", "0.05")
    assert run(*command, *options) == 0
    said = capsys.readouterr().err
    assert "60 of 61 images written" in said and "(published: train, test; valid, opt drawn" in said
    assert "WARNING: 24 images in 12 groups" in said
    catalog = Dataset.open(tmp_path / "out").catalog
    assert (catalog["id"].str.startswith("test/") == (catalog["split"] == "test")).all()
    assert json.loads((tmp_path / "out/dataset.json").read_text())["pixel_scale"] == 0.05
    assert run(*command, *options, "--drop-duplicates", "--resplit") == 0
    assert "48 of 61 images written" in (said := capsys.readouterr().err) and "(drawn)" in said
    assert len(Dataset.open(tmp_path / "out").images) == 48
    chosen = yaml.safe_load(settings_file.read_text()) | {"ingest": {"skip_bad": True}}
    (tmp_path / "chosen.yaml").write_text(yaml.safe_dump(chosen))
    assert run(*command[:2], "--config", tmp_path / "chosen.yaml", *options[:2]) == 0
    assert "60 of 61 images written" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(*command, *options[:2], "--pixel-scale", "small")


# ------------------------------------------------------------------------ wrong input


def change(source, folder, **keys):
    content = yaml.safe_load(source.read_text()) | keys
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


WRONG = {
    "missing config": (
        "tune {done}/processed --config {tmp}/no.yaml --out {tmp}/out",
        r"no\.yaml: cannot be read",
    ),
    "wrong key": (
        "tune {done}/processed --config {bad} --out {tmp}/out",
        r"changed\.yaml: colour: unknown key; expected one of",
    ),
    "settings of a workflow": (
        "tune {done}/processed --config {workflow} --out {tmp}/out",
        r"workflow\.yaml: name: unknown key; expected one of: .*evaluation, features, ",
    ),
    "no space to search": (
        "tune {done}/processed --config {empty_file} --out {tmp}/out",
        r"empty_file\.yaml: tune: missing; expected the space of the search",
    ),
    "how many lenses": (
        "simulate --population {population} --out {tmp}/out",
        "n_images: found none; expected --n, or n_images in the file of --config",
    ),
    "patches that do not tile the image": (
        "train {done}/processed --config {patches} --out {tmp}/out",
        "patch_size = 12 does not divide the image side preprocess.size = 32",
    ),
    "one folder for two seeds": (
        "train {done}/processed --config {plain} --seed 0 1 --out {tmp}/out",
        r"out: found one folder for 2 seeds; expected different seeds, and {seed} in its name",
    ),
    "a seed twice": (
        "train {done}/processed --config {plain} --seed 1 1 --out {tmp}/out",
        "found one folder for 2 seeds; expected different seeds",
    ),
    "no data set": (
        "preprocess {done}/final --config {config} --out {tmp}/out",
        "no dataset: images.npy, catalog.csv, dataset.json missing",
    ),
    "missing folder of images": (
        "ingest {tmp}/gone --config {config} --out {tmp}/out",
        "gone: does not exist; expected a folder or archive",
    ),
    "features needed": (
        "train {done}/processed --config {config} --selection {selection} --out {tmp}/out",
        "model.features is on: a feature table is needed",
    ),
    "missing features": (
        "train {done}/processed --config {config} --features {tmp}/no.csv"
        " --selection {selection} --out {tmp}/out",
        r"no\.csv: ",
    ),
    "selection needed": (
        "train {done}/processed --config {config} --features {done}/features.csv --out {tmp}/out",
        "model.feature_set is 'selected': found no selection; expected --selection",
    ),
    "selection needed by the search": (
        "tune {done}/processed --config {config} --features {done}/features.csv --out {tmp}/out",
        "model.feature_set is 'selected': found no selection; expected --selection",
    ),
    "no features to judge": (
        "select {done}/processed --config {config} --features {tmp}/no.csv --out {tmp}/out",
        r"no\.csv: ",
    ),
    "no search": (
        "train {done}/processed --config {config} --tuned {done}/final --out {tmp}/out",
        r"best\.json: no such file; run the search first",
    ),
    "start of no search": (
        "train {done}/processed --config {config} --start --out {tmp}/out",
        "--start: found no --tuned; expected the folder of a search",
    ),
    "search without its section": (
        "train {done}/processed --config {empty_file} --tuned {search} --out {tmp}/out",
        "search: found no section tune in the settings; expected the search's",
    ),
    "search of another space": (
        "train {done}/processed --config {config} --tuned {search} --out {tmp}/out",
        "search: found .*num_heads.*does not fit the configuration: .*embed_dim = 16 .* = 3",
    ),
    "divergence": (
        "train {blind}/processed --config {hot} --out {tmp}/out",
        "out: .*learning rate 1e.09.*; expected a lower learning rate",
    ),
    "incomplete run": (
        "evaluate {done}/processed {broken} --config {config} --out {tmp}/out",
        "broken: incomplete run; missing model.safetensors",
    ),
    "run folder": ("predict {image} --run {tmp}/gone", "gone: no such run folder"),
    "missing image": ("predict {tmp}/gone.png --run {run}", r"gone\.png: does not exist"),
    "damaged image": ("predict {damaged} --run {run}", r"damaged\.jpg: .*truncated"),
    "no image": ("predict {config} --run {run}", r"tiny\.yaml: unknown kind of file; expected"),
    "empty folder": ("predict {empty} --run {run}", "empty: found no image"),
    "output below a file": ("predict {image} --run {run} --out {config}/p.csv", r"tiny\.yaml"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_gets_one_message(done, jpgs, settings_file, tmp_path, capsys, name):
    out, inputs = tmp_path / "here", tmp_path / "inputs"
    for folder in (out, inputs, inputs / "empty", inputs / "search", inputs / "hot"):
        folder.mkdir()
    image = jpgs / "sub" / "image_0.jpg"
    (inputs / "damaged.jpg").write_bytes(image.read_bytes()[:-50])
    (inputs / "search" / "best.json").write_text('{"params": {"num_heads": 3}, "start": {}}')
    shutil.copytree(done / "final" / "seed0", inputs / "broken")
    (inputs / "broken" / "model.safetensors").unlink()
    recipe = {"learning_rate": 1e9, "epochs": 30, "batch_size": 8, "warmup": 0.0}
    hot = {"model": {**SETTINGS["model"], "features": False}, "train": recipe}
    (inputs / "empty_file.yaml").write_text("{}")
    (inputs / "patches.yaml").write_text("preprocess: {size: 32}")
    (inputs / "workflow.yaml").write_text(yaml.safe_dump(SETTINGS))
    places = {
        "tmp": out,
        "done": done,
        "config": settings_file,
        "plain": settings_file.parent / "plain.yaml",
        "population": settings_file.parent / "population.yaml",
        "image": image,
        "run": done / "final" / "seed0",
        "blind": done / "blind",
        "selection": done / "selection" / "selection.json",
        "bad": change(settings_file, inputs, colour=1),
        "hot": change(settings_file, inputs / "hot", **hot),
    }
    places |= {path.name.split(".")[0]: path for path in inputs.iterdir()} | {"hot": places["hot"]}
    command, message = WRONG[name]
    assert run(*(word.format(**places) for word in command.split())) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    errors = [line for line in captured.err.splitlines() if ": error: " in line]
    assert len(errors) == 1 and errors[0].startswith(f"vitdm {command.split()[0]}: error: ")
    assert re.search(message, captured.err, re.S), captured.err
    (out / "out.failed.json").unlink(missing_ok=name != "divergence")
    assert captured.out == "" and snapshot(out) == []  # nothing half-written


def test_a_fault_of_the_disk_is_no_traceback(jpgs, tmp_path, monkeypatch, capsys):
    for fault in (OSError("disk on fire"), OSError(28, "No space left", "/x")):

        def burn(*_, fault=fault, **__):
            raise fault

        monkeypatch.setattr("vitdm.predict.answer_files", burn)
        assert run("predict", jpgs, "--run", tmp_path) == 2
    said = "vitdm predict: error: {}\n"
    assert capsys.readouterr().err == said.format("disk on fire") + said.format("/x: No space left")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "required: COMMAND"),
        ("trian", "invalid choice: 'trian'"),
        ("tune images --out x", "required: --config"),
        ("simulate --population p --out x --shard one", "found 'one'; expected k/n, such as 0/8"),
        ("simulate --population p --out x --shard 2/2", "found '2/2'; .* with 0 <= k < n <= 10000"),
        ("simulate --population p --out x --n -5", "--n: found '-5'; expected a whole number from"),
        ("simulate --population p --out x --n 0", "--n: found '0'; expected a whole number from 1"),
        ("simulate --population p --out x --n-opt -3", "--n-opt: found '-3'; expected .* from 0"),
        ("train x --out y --seed 0 -1", "--seed: found '-1'; expected a whole number from 0"),
        ("tune x --config c --out y --parallel 0", "--parallel: found '0'; .* from 1 to 1024"),
        ("ingest x --out y --pixel-scale nan", "--pixel-scale: found 'nan'; expected a number fr"),
    ],
)
def test_wrong_usage(capsys, command, message):
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    assert stopped.value.code == 2 and re.search(message, capsys.readouterr().err)


VALUES = ("-1", "0", "1000000000", "1e9", "1" * 5000, "nan", "inf", "", "x", "1/0", "-1/2")


def numeric_options():
    """Every option of every command that is no text: its parser, what is required, itself."""
    for module in (vitdm_main, studies_main):
        listed = next(a for a in module.parser()._actions if isinstance(a.choices, dict))
        for name, parser in listed.choices.items():
            needed = [a for a in parser._actions if a.required]
            given = {"--figure": "12.pdf"}  # by the name of what is required
            words = [
                word
                for a in needed
                for option in [a.option_strings[:1]]
                for word in (*option, given.get("".join(option), "12"))
            ]
            for action in parser._actions:
                if action.type not in (None, str, Path):
                    yield pytest.param(parser, words, action, id=f"{name}{action.option_strings}")


@pytest.mark.parametrize(("parser", "words", "action"), numeric_options())
def test_no_number_is_taken_that_makes_no_sense(parser, words, action, capsys):
    """A traceback, a result of other images than asked for, or a full memory: none of these."""
    option, taken = action.option_strings[0], []
    for value in VALUES:
        try:
            found = getattr(parser.parse_args([*words, f"{option}={value}"]), action.dest)
        except SystemExit as stopped:
            said = capsys.readouterr().err
            assert stopped.code == 2 and f"{option}: found " in said and len(said) < 2000
            assert "; expected " in said
        else:
            taken.append(value)
            assert found in (int(value), [int(value)])
    assert set(taken) <= ({"0", "1000000000"} if "seed" in option else {"0"}), taken
    may_be_none = ("--n-opt", "--gain", "--block", "--peaks", "--twins", "--refitted-twins")
    assert taken != ["0"] or option in may_be_none


# ------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize(("module", "n"), [(vitdm_main, 16), (studies_main, None)])
def test_help_shows_each_command_with_an_example(module, n, capsys):
    """One line and one example each, within 80 columns; the examples are commands that exist."""
    assert n in (None, len(module.COMMANDS))
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0 and max(map(len, shown.splitlines())) <= 80
    text = re.sub(r"\s+", " ", shown.replace("\\\n", " "))
    for name, command in module.COMMANDS.items():
        assert command.HELP.endswith(".") and f" {name} {command.HELP} " in text
        assert command.EXAMPLE in text and "\n" not in command.HELP + command.EXAMPLE
        program = f"{module.parser().prog} {name} "
        assert command.EXAMPLE.startswith(program)
        words = command.EXAMPLE.removeprefix(program).split()
        assert module.parser().parse_args([name, *words]).command == name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0 and max(map(len, shown.splitlines())) <= 80
    assert COMMANDS[name].HELP in shown and f"example: {COMMANDS[name].EXAMPLE}" in shown


@pytest.mark.parametrize(
    ("code", "unloaded"),
    [
        ("import vitdm.__main__ as m; m.parser()", {"numpy", "torch", "numba", "pydantic"}),
        ("import vitdm.features, vitdm.evaluation.selection", {"torch"}),  # features, select
    ],
)
def test_what_is_not_needed_is_not_loaded(code, unloaded):
    code += "; import sys; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not unloaded & set(found.stdout.split())
