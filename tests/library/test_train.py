"""Training on toy images whose answer is known, and the run folder that it leaves."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.metrics import roc_auc_score

from vitdm import config
from vitdm.config import Model, Train
from vitdm.data import dataset
from vitdm.data.dataset import Dataset
from vitdm.errors import InputError
from vitdm.model import train as train_module
from vitdm.model.recipe import Recipe, Resume
from vitdm.model.train import Batches, Diverged, Run, fit, load_run, new_model, read_features
from vitdm.model.vit import ViT

TESTS = Path(__file__).parents[1]
MODEL = Model(patch_size=4, embed_dim=16, depth=1, num_heads=2)
SIZES = {"train": 128, "valid": 32, "opt": 32, "test": 16}
ALL = ("train", "valid", "opt")


def toy(folder, signal=1.0, poison=None, seed=0, shape=(16, 16)):
    """Noise of 16 pixels; ``sub`` has a bright blob at a random place; split ``poison`` is NaN."""
    rng = np.random.default_rng(seed)
    n = sum(SIZES.values())
    kinds = np.array(["no_sub", "sub"])[np.arange(n) % 2]
    splits = np.repeat(list(SIZES), list(SIZES.values()))
    images = rng.normal(size=(n, *shape)).astype(np.float32)
    for i in np.flatnonzero(kinds == "sub"):
        y, x = rng.integers(0, 9, size=2)
        images[i, y : y + 8, x : x + 8] += 4 * signal
    if poison:
        images[splits == poison] = np.nan
    ids = [f"{i:03d}" for i in range(n)]
    catalog = pd.DataFrame({"id": ids, "class": kinds, "split": splits, "source": "toy"})
    dataset.write(folder, images, catalog, rule="toy")
    return folder


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("toy") / "blobs")


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("toy") / "noise", signal=0)


def train(folder, settings, model=MODEL, features=None, splits=("train",), **options):
    keys = set(options) & set(Train.model_fields)
    recipe = {"epochs": 1, "batch_size": 16} | {key: options.pop(key) for key in keys}
    return fit(
        folder,
        features,
        settings,
        model,
        Train(**recipe),
        train_splits=splits,
        progress=False,
        **options,
    )


def toy_arrays(folder, *splits):
    data = Dataset.open(folder)
    arrays, _ = train_module.inputs_for(MODEL, data, "multiclass")
    return [arrays(data.rows(split)) for split in splits]


def weights(folder):
    return load_file(folder / "model.safetensors")


def contents(folder):
    """The bytes of all that a run consists of; only the sidecar tells when and how fast."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


def same(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


# ------------------------------------------------------------------------ learning


def test_a_bright_blob_is_learnt(blobs, settings):
    found = train(
        blobs, settings, epochs=25, learning_rate=3e-3, valid_split="valid", score_split="opt"
    )
    assert found["roc_auc"] > 0.95 and found["valid_roc_auc"] > 0.95


def test_the_seed_decides_everything(blobs, settings, tmp_path):
    options = {"valid_split": "valid", "score_split": "opt"}
    runs = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        torch.manual_seed(hash(name) % 1000)  # the global state plays no part …
        state = torch.get_rng_state()
        runs[name] = train(blobs, settings, seed=seed, out=tmp_path / name, **options)
        assert torch.equal(torch.get_rng_state(), state)  # … and is left alone
    auc = {name: (run["roc_auc"], run["valid_roc_auc"]) for name, run in runs.items()}
    assert auc["first"] == auc["again"] != auc["other"]
    assert contents(tmp_path / "first") == contents(tmp_path / "again")
    assert not same(weights(tmp_path / "first"), weights(tmp_path / "other"))


def test_the_best_weights_are_kept_and_training_stops(noise, settings, tmp_path):
    found = train(
        noise,
        settings,
        epochs=30,
        patience=2,
        learning_rate=3e-3,
        valid_split="valid",
        out=tmp_path / "run",
    )
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert found["epochs"] == len(history) == found["best_epoch"] + 2 < 30
    assert history["valid_roc_auc"].idxmax() + 1 == found["best_epoch"]
    data = Dataset.open(noise)
    rows = data.rows("valid")
    scores = load_run(tmp_path / "run").predict(data.images[rows])[:, 1]
    kinds = data.catalog["class"][rows] == "sub"
    assert roc_auc_score(kinds, scores) == pytest.approx(found["valid_roc_auc"], abs=2e-3)
    assert found["valid_roc_auc"] == history["valid_roc_auc"].max()


def test_a_second_softmax_bounds_the_loss(blobs, settings):
    losses = {}
    for twice in (False, True):
        learnt = train_module.learn(
            *toy_arrays(blobs, "train", "valid"),
            2,
            MODEL,
            Train(epochs=20, learning_rate=3e-3, label_smoothing=0, softmax_twice=twice),
            progress=False,
        )
        losses[twice] = learnt.history["train_loss"].min()
    # of probabilities 1 and 0, whose softmax is 1 / (1 + exp(-1))
    assert losses[True] > math.log(1 + math.exp(-1)) > 0.313
    assert losses[False] < 0.25


def test_a_training_that_is_watched_ends_when_told(blobs, settings):
    seen = []

    def watch(curve):
        seen.append(list(curve))
        return len(curve) == 2

    arrays = toy_arrays(blobs, "train", "valid")
    learnt = train_module.learn(*arrays, 2, MODEL, Train(epochs=5), watch=watch, progress=False)
    assert learnt.history["valid_roc_auc"].tolist() == seen[-1] and len(seen) == 2


def test_without_validation_all_epochs_run(noise, settings, tmp_path):
    found = train(noise, settings, epochs=3, patience=1, splits=ALL, out=tmp_path / "run")
    assert found["epochs"] == 3 and found["n_train"] == 192
    assert "valid_roc_auc" not in found and "roc_auc" not in found
    assert pd.read_csv(tmp_path / "run" / "history.csv")["valid_roc_auc"].isna().all()
    assert not (tmp_path / "run" / "predictions.csv").exists()


def test_the_test_split_is_never_read(tmp_path, settings):
    clean, poisoned = toy(tmp_path / "clean"), toy(tmp_path / "nan", poison="test")
    options = {"valid_split": "valid", "score_split": "opt"}
    assert np.isnan(Dataset.open(poisoned).images).any()
    for name, splits, more in (("one", ("train",), options), ("all", ALL, {})):
        for folder in (clean, poisoned):
            train(folder, settings, splits=splits, out=tmp_path / name / folder.name, **more)
        assert same(weights(tmp_path / name / "clean"), weights(tmp_path / name / "nan"))
    scores = [
        json.loads((tmp_path / "one" / name / "metrics.json").read_text())["roc_auc"]
        for name in ("clean", "nan")
    ]
    assert scores[0] == scores[1]


def test_fewer_training_images(blobs, settings, tmp_path):
    counts = {n: train(blobs, settings, n_train=n)["n_train"] for n in (10, 128, 1000)}
    assert counts == {10: 10, 128: 128, 1000: 128}


# ------------------------------------------------------------------------ interruption

LONG = {"epochs": 4, "valid_split": "valid", "score_split": "opt", "n_train": 100, "seed": 3}
DROPOUT = MODEL.model_copy(update={"dropout": 0.2})  # its random numbers, too, must go on


class Killed(Exception):
    """Stands for a kill: nothing handles it."""


def killed(patch, where, at):
    """Let the method ``where`` of the recipe raise when it is called for the ``at``-th time."""
    calls, method = [], getattr(Recipe, where)

    def deadly(*arguments):
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return method(*arguments)

    patch.setattr(Recipe, where, deadly)


@pytest.fixture
def checkpoints(monkeypatch):
    monkeypatch.setattr(Resume, "EVERY", 0.0)  # after every epoch


@pytest.fixture(scope="module")
def uninterrupted(blobs, settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    train(blobs, settings, DROPOUT, out=out, **LONG)
    return contents(out)


@pytest.mark.parametrize(
    ("where", "at", "left"),
    [
        ("on_train_epoch_start", 1, 0),
        ("on_train_epoch_start", 2, 1),
        ("training_step", 18, 2),  # of 7 in an epoch
        ("on_validation_epoch_end", 4, 3),
        ("on_train_end", 1, 4),
    ],
)
def test_a_killed_training_goes_on_to_the_same_end(
    where, at, left, blobs, settings, tmp_path, monkeypatch, checkpoints, uninterrupted
):
    out, checkpoint = tmp_path / "run", tmp_path / ".run.checkpoint"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed(patch, where, at)
        train(blobs, settings, DROPOUT, out=out, **LONG)
    assert not out.exists() and checkpoint.exists() == (left > 0)
    started, start = [], Recipe.on_train_epoch_start
    monkeypatch.setattr(
        Recipe, "on_train_epoch_start", lambda self: (started.append(1), start(self))
    )
    train(blobs, settings, DROPOUT, out=out, **LONG)
    assert len(started) == 4 - left
    assert contents(out) == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_training_that_had_stopped_early_does_not_start_again(
    noise, settings, tmp_path, monkeypatch, checkpoints
):
    options = {"epochs": 30, "patience": 2, "valid_split": "valid"}
    train(noise, settings, out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed(patch, "on_train_end", 1)
        train(noise, settings, out=tmp_path / "run", **options)
    train(noise, settings, out=tmp_path / "run", **options)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_process_killed_by_the_system_goes_on(blobs, settings, tmp_path, uninterrupted):
    script = f"""
import time
from pathlib import Path
from conftest import SETTINGS
from test_train import DROPOUT, LONG, Recipe, Resume, train
from vitdm import config

Resume.EVERY = 0.0
Recipe.on_validation_start = lambda self: time.sleep(60 * (self.current_epoch == 2))
out = {str(tmp_path / "run")!r}
train(Path({str(blobs)!r}), workflow.build(SETTINGS), DROPOUT, out=out, **LONG)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    checkpoint, deadline = tmp_path / ".run.checkpoint", time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL and checkpoint.exists()
    train(blobs, settings, DROPOUT, out=tmp_path / "run", **LONG)
    assert contents(tmp_path / "run") == uninterrupted


@pytest.mark.parametrize("change", ["settings", "seed", "images", "labels", "damage"])
def test_a_checkpoint_of_something_else_is_ignored(
    change, blobs, settings, tmp_path, monkeypatch, checkpoints
):
    out, folder, options = tmp_path / "run", tmp_path / "blobs", dict(LONG)
    shutil.copytree(blobs, folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed(patch, "on_train_epoch_start", 3)
        train(folder, settings, DROPOUT, out=out, **LONG)
    if change == "settings":
        options["learning_rate"] = 2e-3
    elif change == "seed":
        options |= {"seed": 4, "n_train": 1000}
    elif change == "images":
        images = np.load(folder / "images.npy")
        images[0, 0, 0] += 1
        np.save(folder / "images.npy", images)
        options["n_train"] = 1000
    elif change == "labels":
        catalog = (folder / "catalog.csv").read_text()
        (folder / "catalog.csv").write_text(catalog.replace("000,no_sub", "000,sub"))
    elif change == "damage":
        content = (tmp_path / ".run.checkpoint").read_bytes()
        (tmp_path / ".run.checkpoint").write_bytes(content[: len(content) // 2])
    train(folder, settings, DROPOUT, out=out, **options)
    train(folder, settings, DROPOUT, out=tmp_path / "anew", **options)
    assert contents(out) == contents(tmp_path / "anew")


def test_checkpoints_are_not_written_more_often_than_needed(blobs, settings, tmp_path, monkeypatch):
    def written(*_):
        raise AssertionError("a checkpoint was written")

    monkeypatch.setattr("lightning.Trainer.save_checkpoint", written)
    train(blobs, settings, epochs=2, out=tmp_path / "run")  # takes no five seconds
    with pytest.raises(AssertionError, match="a checkpoint was written"):
        monkeypatch.setattr(Resume, "EVERY", 0.0)
        train(blobs, settings, epochs=2, out=tmp_path / "run")


# ------------------------------------------------------------------------ divergence


def test_a_huge_learning_rate_diverges(blobs, settings, tmp_path):
    with pytest.raises(Diverged, match=r"epoch \d+, batch \d, at learning rate [\d.]+e\+\d+"):
        train(blobs, settings, learning_rate=1e9, epochs=20, batch_size=64, out=tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run.failed.json"]
    told = json.loads((tmp_path / "run.failed.json").read_text())
    assert "at learning rate" in told["error"] and told["seed"] == 0
    (tmp_path / "run.failed.json").unlink()
    with pytest.raises(Diverged):  # the same place, with a slash at its end
        train(blobs, settings, learning_rate=1e9, epochs=20, batch_size=64, out=f"{tmp_path}/run/")
    assert [path.name for path in tmp_path.iterdir()] == ["run.failed.json"]
    train(blobs, settings, out=tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_weights_lost_in_the_last_step_are_no_run(blobs, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Recipe, "on_train_end", lambda recipe: recipe.model.head.bias.data.fill_(math.nan)
    )
    with pytest.raises(Diverged, match=r"weights are not finite after epoch 1, .* rate 0\.001"):
        train(blobs, settings, out=tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run.failed.json"]


def test_nan_in_an_image_is_told_with_its_batch(tmp_path, settings):
    folder = toy(tmp_path / "nan", poison="valid")
    message = r"the loss became nan in epoch 1, batch \d+, at learning rate \d"
    with pytest.raises(Diverged, match=message):
        train(folder, settings, splits=("train", "valid"))


def test_a_run_that_cannot_be_written_whole_is_not_written(blobs, settings, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("vitdm.model.train.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        train(blobs, settings, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------ the recipe


def schedule(total, epochs=1, **settings):
    """The learning rate of each step, and after the last."""
    net = ViT(MODEL, 16, 2)
    recipe = Recipe(net, Train(learning_rate=0.1, epochs=epochs, **settings), total)
    made = recipe.configure_optimizers()
    rates = []
    for _ in range(total + 1):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert made["lr_scheduler"]["interval"] == "step"
    return rates


def test_learning_rate_rises_and_falls_like_a_cosine():
    rates = schedule(20, warmup=0.2)
    np.testing.assert_allclose(rates[:4], [0.025, 0.05, 0.075, 0.1])
    expected = [0.1 * math.cos(math.pi / 2 * k / 16) ** 2 for k in range(17)]
    np.testing.assert_allclose(rates[4:], expected, atol=1e-12)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0.2), (1, 0.0), (2, 0.9)])
def test_a_schedule_that_is_all_warmup(total, warmup):
    rates = schedule(total, warmup=warmup)
    assert rates[total - 1] == pytest.approx(0.1) and np.isfinite(rates).all()


def test_one_step_is_enough_to_train(blobs, settings):
    assert train(blobs, settings, n_train=8)["epochs"] == 1  # one batch: all warm-up


def test_batches_hold_every_image_once_with_its_label():
    n = 10
    arrays = (torch.arange(n * 4.0).view(n, 1, 2, 2), torch.zeros(n, 0), torch.arange(n))
    batches = Batches(arrays, 4, torch.Generator().manual_seed(0), flips=True)
    assert len(batches) == 3
    seen = {"labels": [], "flips": set()}
    for _ in range(8):
        for images, _, labels in batches:
            seen["labels"] += labels.tolist()
            for image, label in zip(images, labels, strict=True):
                value = (image[0] - 4 * label).int().flatten().tolist()
                seen["flips"].add(tuple(value))
    assert sorted(seen["labels"]) == sorted(list(range(n)) * 8)
    assert seen["labels"][:n] != list(range(n)) and seen["labels"][:n] != seen["labels"][n : 2 * n]
    # the image, mirrored up-down, left-right, and both
    assert seen["flips"] == {(0, 1, 2, 3), (2, 3, 0, 1), (1, 0, 3, 2), (3, 2, 1, 0)}
    plain = list(Batches(arrays, 4))
    assert torch.equal(torch.cat([images for images, *_ in plain]), arrays[0])


# ------------------------------------------------------------------------ features


def test_features_are_standardised_by_the_training_images(blobs, settings, tmp_path):
    catalog = Dataset.open(blobs).catalog
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"id": catalog["id"], "area": rng.normal(5, 2, len(catalog))})
    table["gap"] = np.where(rng.random(len(catalog)) < 0.5, np.nan, 3 * table["area"])
    table.loc[(catalog["split"] != "train").to_numpy(), ["area", "gap"]] += 1000
    shuffled = table.sample(frac=1, random_state=0)  # rows are found by their id
    shuffled.to_csv(tmp_path / "features.csv", index=False)
    model = MODEL.model_copy(update={"features": True})
    train(
        blobs, settings, model, tmp_path / "features.csv", valid_split="valid", out=tmp_path / "r"
    )
    run, known = load_run(tmp_path / "r"), table[catalog["split"] == "train"]
    assert run.feature_names == ["area", "gap"]
    low, middle, high = (known[["area", "gap"]].quantile(q) for q in (0.16, 0.5, 0.84))
    np.testing.assert_allclose(run.model.feature_middle, middle, rtol=1e-5)
    np.testing.assert_allclose(run.model.feature_width, (high - low) / 2, rtol=1e-4)


def test_features_join_as_a_token(processed, features_csv, settings, tmp_path):
    model = settings.model.model_copy(update={"join": "token"})
    train(processed, settings, model, features_csv, out=tmp_path / "run", score_split="opt")
    run, data = load_run(tmp_path / "run"), Dataset.open(processed)
    assert run.model.joins == "token" and run.model.head.in_features == model.embed_dim
    rows = data.rows("opt")
    table = read_features(features_csv, data.catalog["id"]).to_numpy()[rows]
    found = run.predict(data.images[rows], table)
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    np.testing.assert_allclose(found, predictions.filter(like="p_"), atol=1e-6)
    assert not np.allclose(run.predict(data.images[rows], table[::-1]), found)


def test_only_the_named_features_join(run_folder, processed, features_csv, settings, tmp_path):
    """In the order given; predictions and a later evaluation find them by name."""
    names = ["ring_radius", "lensed_area"]
    options = {"features": features_csv, "model": settings.model, "score_split": "opt"}
    train(processed, settings, feature_names=names, out=tmp_path / "run", **options)
    run, data = load_run(tmp_path / "run"), Dataset.open(processed)
    assert run.feature_names == names
    table = read_features(features_csv, data.catalog["id"])
    rows = data.rows("opt")
    found = run.predict(data.images[rows], table[names].to_numpy()[rows])
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    np.testing.assert_allclose(found, predictions.filter(like="p_"), atol=1e-6)
    assert set(names) < set(load_run(run_folder).feature_names)  # by default all of the table
    with pytest.raises(InputError, match=r"features\.csv: found no column dust; expected the feat"):
        train(processed, settings, feature_names=["dust"], **options)


def test_wrong_feature_tables_are_refused(tmp_path, blobs, settings):
    model = MODEL.model_copy(update={"features": True})
    with pytest.raises(InputError, match=r"model\.features is on: a feature table is needed"):
        train(blobs, settings, model)
    ids = Dataset.open(blobs).catalog["id"]
    path = tmp_path / "f.csv"
    for content, message in (
        ("id,area\n000,1\n", "no features of 207 images, such as '001'"),
        ("name,area\n000,1\n", "expected id"),
        ("id,area\n000,large\n", "area: found text; expected numbers"),
        ("", "cannot be read"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=r"f\.csv: .*" + message):
            read_features(path, ids)
    with pytest.raises(InputError, match=r"none\.csv: "):
        read_features(tmp_path / "none.csv", ids)


# ------------------------------------------------------------------------ run folders


def test_run_folder_is_complete(run_folder, processed, features_csv, settings):
    names = {"config.yaml", "metrics.json", "history.csv", "predictions.csv"}
    names |= {"model.safetensors", "run.json"}
    assert {path.name for path in run_folder.iterdir()} == names
    history = pd.read_csv(run_folder / "history.csv")
    columns = ["epoch", "train_loss", "valid_loss", "valid_roc_auc", "valid_macro_roc_auc"]
    assert list(history) == [*columns, "learning_rate"]
    written = json.loads((run_folder / "metrics.json").read_text())
    assert written["epochs"] == written["best_epoch"] == len(history) == 1
    assert written["n_train"] == 20
    made = json.loads((run_folder / "run.json").read_text())
    assert made["training"]["seconds"] > 0 and made["training"]["images_per_second"] > 0
    assert written["parameters"] == sum(
        value.size for name, value in weights(run_folder).items() if "feature_" not in name[:13]
    ) + sum(value.size for name, value in weights(run_folder).items() if "feature_embed" in name)

    data, run = Dataset.open(processed), load_run(run_folder)
    assert run.classes == ["no_sub", "cdm", "axion"]
    assert run.settings.preprocess == settings.preprocess and run.settings.seed == 3
    rows = data.rows("opt")
    predictions = pd.read_csv(run_folder / "predictions.csv")
    assert predictions["id"].tolist() == data.catalog["id"][rows].tolist()
    kinds = data.catalog["class"][rows]
    assert predictions["label"].tolist() == [run.classes.index(kind) for kind in kinds]
    assert written["roc_auc"] == pytest.approx(
        roc_auc_score(kinds != "no_sub", 1 - predictions["p_no_sub"])
    )
    table = pd.read_csv(features_csv).set_index("id").loc[predictions["id"]]
    found = run.predict(data.images[rows], table.to_numpy())
    np.testing.assert_allclose(found, predictions.filter(like="p_"), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_predictions_do_not_depend_on_the_company(run_folder, processed, features_csv):
    images = np.array(Dataset.open(processed).images)
    table = pd.read_csv(features_csv).drop(columns="id").to_numpy()
    run = load_run(run_folder)
    many = run.predict(np.tile(images, (6, 1, 1)), np.tile(table, (6, 1)))  # more than one batch
    np.testing.assert_allclose(many, np.tile(run.predict(images, table), (6, 1)), atol=1e-5)
    np.testing.assert_allclose(many[5], run.predict(images[5:6], table[5:6])[0], atol=1e-5)


def test_features_that_a_run_needs(run_folder, processed):
    run, images = load_run(run_folder), Dataset.open(processed).images[:2]
    n = len(run.feature_names)
    with pytest.raises(InputError, match=f"found 0 features .*expected {n}: lensed_area"):
        run.predict(images)
    with pytest.raises(InputError, match=f"found 3 features .*expected {n}"):
        run.predict(images, np.zeros((2, 3)))


@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.json", "history.csv", "model.safetensors"]
)
def test_an_incomplete_run_is_refused(run_folder, tmp_path, name):
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    with pytest.raises(InputError, match=f"run: incomplete run; missing {name}$"):
        load_run(tmp_path / "run")
    with pytest.raises(InputError, match="nowhere: no such run folder"):
        load_run(tmp_path / "nowhere")


def test_damaged_weights_are_refused(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"<html>" + whole):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"model\.safetensors: does not fit"):
            load_run(tmp_path / "run")
    tensors = weights(run_folder)
    for changed in ({"head.bias": np.zeros(7, np.float32)}, {"extra": np.zeros(2, np.float32)}):
        save_file(tensors | changed, path)
        with pytest.raises(InputError, match=r"model\.safetensors: does not fit"):
            load_run(tmp_path / "run")


def test_a_wrong_config_of_a_run_is_refused(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("image_size: 32", "image_size: 30"))
    with pytest.raises(InputError, match="patch_size = 8 does not divide .* = 30"):
        load_run(tmp_path / "run")
    path.write_text(text.replace("image_size: 32", "image_size: wide"))
    with pytest.raises(InputError, match=r"config\.yaml: image_size: .* found 'wide'"):
        load_run(tmp_path / "run")


def test_oblong_images_are_trained_on_and_predicted(settings, tmp_path):
    data = Dataset.open(toy(tmp_path / "oblong", shape=(16, 20)))
    train(tmp_path / "oblong", settings, out=tmp_path / "run", score_split="opt")
    run = load_run(tmp_path / "run")
    assert run.settings.image_size == [16, 20]
    with pytest.raises(InputError, match=r"found shape \(2, 20, 16\); expected \(n, 16, 20\)"):
        run.predict(np.zeros((2, 20, 16)))
    found = run.predict(data.images[data.rows("opt")])
    written = pd.read_csv(tmp_path / "run" / "predictions.csv").filter(like="p_")
    np.testing.assert_allclose(found, written, atol=1e-6)
    with pytest.raises(InputError, match="patch_size = 8 does not divide the .* = 16 x 20"):
        train(tmp_path / "oblong", settings, MODEL.model_copy(update={"patch_size": 8}))
    with pytest.raises(InputError, match="residual is on: found images of 16 x 20 pixels"):
        train(tmp_path / "oblong", settings, MODEL.model_copy(update={"residual": True}), fits="x")


def test_images_of_another_size_are_refused(blobs, settings):
    model = config.Model(patch_size=5, embed_dim=16, num_heads=2)
    with pytest.raises(InputError, match="patch_size = 5 does not divide .* = 16"):
        train(blobs, settings, model)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_attention_of_a_run_is_that_of_its_last_block(run_folder, processed, features_csv, pool):
    run = load_run(run_folder)
    chosen = run.settings.model.model_copy(update={"pool": pool})
    run = Run(
        run.settings.model_copy(update={"model": chosen}),
        new_model(chosen, 32, len(run.classes), len(run.feature_names)).eval(),
    )
    images = Dataset.open(processed).images[:3]
    features = np.zeros((3, len(run.feature_names)))
    found = run.attention(images, features)
    with torch.inference_mode():
        weights = run.model.attention(torch.from_numpy(np.array(images))[:, None])[-1]
    looks = weights[:, :, 0, 1:] if pool == "cls" else weights.mean(dim=2)
    np.testing.assert_allclose(found, looks.mean(dim=1).reshape(3, 4, 4), atol=1e-6)
    # LSA forbids the class token itself, so that all it looks at are patches
    np.testing.assert_allclose(found.sum(axis=(1, 2)), 1, atol=1e-5)
    run.model.__class__ = torch.nn.Module
    with pytest.raises(InputError, match="expected vit"):
        run.attention(images, features)
