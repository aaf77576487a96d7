"""Training on toy images whose answer is known, and the run folder that it leaves."""

import gc
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from vitdm import config
from vitdm.config import ARCHITECTURES, Model, Settings, Train
from vitdm.data import dataset
from vitdm.data.dataset import Dataset, read_features
from vitdm.errors import InputError
from vitdm.evaluation.final_test import evaluate
from vitdm.features import measure_dataset
from vitdm.model.inputs import Tables, inputs_for
from vitdm.model.networks import NETWORKS, new_network, register
from vitdm.model.runs import Run, Splits, load_run, train_run
from vitdm.model.training import (
    Batches,
    Checkpoint,
    Diverged,
    Training,
    learn,
)
from vitdm.preprocess import process_dataset
from vitdm.provenance import check_outputs

TESTS = Path(__file__).parents[1]
MODEL = Model(patch_size=4, embed_dim=16, depth=1, num_heads=2)
JOINED = MODEL.model_copy(update={"features": True, "feature_set": "all"})
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


def train(folder, out, model=MODEL, valid=None, score=None, splits=("train",), **options):
    """Train a run; options of ``Train``, ``Tables`` and ``train_run`` by name, and the seed."""
    taken = {
        section: {key: options.pop(key) for key in set(options) & set(fields)}
        for section, fields in (
            ("train", Train.model_fields),
            ("settings", ("seed",)),
            ("tables", Tables.__dataclass_fields__),
        )
    }
    return train_run(
        folder,
        out,
        Settings(
            model=model,
            train=Train(**({"epochs": 1, "batch_size": 16} | taken["train"])),
            **taken["settings"],
        ),
        tables=Tables(**taken["tables"]),
        splits=Splits(splits, valid, score),
        progress=False,
        **options,
    )


def toy_arrays(folder, *splits):
    data = Dataset.open(folder)
    arrays, _ = inputs_for(Settings(model=MODEL), data)
    return [arrays(data.rows(split)) for split in splits]


def weights(folder):
    return load_file(folder / "model.safetensors")


def contents(folder):
    """The bytes of all that a run consists of; only the sidecar tells when and how fast."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


def same(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


# ------------------------------------------------------------------------ learning


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_labels_are_smoothed(blobs, smoothing):
    """The loss is (1 - e) -ln p of the class plus e times the mean of -ln p over all classes."""
    arrays = toy_arrays(blobs, "train")[0]
    recipe = Train(epochs=1, batch_size=1000, flips=False, label_smoothing=smoothing)
    found = learn(arrays, None, 2, MODEL, recipe, seed=3, progress=False).history["train_loss"][0]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = new_network(MODEL, (16, 16), 2, 0)  # as before the first and only step
    with torch.inference_mode():
        surprise = -network(arrays[0], arrays[1]).log_softmax(dim=1)
    of_truth = surprise[torch.arange(len(surprise)), arrays[2]]
    expected = ((1 - smoothing) * of_truth + smoothing * surprise.mean(dim=1)).mean()
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_a_bright_blob_is_learnt(blobs, tmp_path):
    options = {"epochs": 25, "learning_rate": 3e-3, "valid": "valid", "score": "opt"}
    found = train(blobs, tmp_path / "run", **options)
    assert found["roc_auc"] > 0.95 and found["valid_roc_auc"] > 0.95


def test_the_seed_decides_everything(blobs, tmp_path):
    options = {"valid": "valid", "score": "opt"}
    runs = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        torch.manual_seed(hash(name) % 1000)  # the global state plays no part …
        state = torch.get_rng_state()
        runs[name] = train(blobs, tmp_path / name, seed=seed, **options)
        assert torch.equal(torch.get_rng_state(), state)  # … and is left alone
    auc = {name: (run["roc_auc"], run["valid_roc_auc"]) for name, run in runs.items()}
    assert auc["first"] == auc["again"] != auc["other"]
    assert contents(tmp_path / "first") == contents(tmp_path / "again")
    assert not same(weights(tmp_path / "first"), weights(tmp_path / "other"))


def test_the_best_weights_are_kept_and_training_stops(noise, tmp_path):
    options = {"epochs": 30, "patience": 2, "learning_rate": 3e-3, "valid": "valid"}
    found = train(noise, tmp_path / "run", **options)
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert found["epochs"] == len(history) == found["best_epoch"] + 2 < 30
    assert history["valid_roc_auc"].idxmax() + 1 == found["best_epoch"]
    data = Dataset.open(noise)
    rows = data.rows("valid")
    scores = load_run(tmp_path / "run").predict(data.images[rows])[:, 1]
    kinds = data.catalog["class"][rows] == "sub"
    assert roc_auc_score(kinds, scores) == pytest.approx(found["valid_roc_auc"], abs=2e-3)
    assert found["valid_roc_auc"] == history["valid_roc_auc"].max()


def test_a_loss_of_ones_own_replaces_cross_entropy(blobs, tmp_path):
    """Of probabilities, cross-entropy is at least log(1 + exp(-1)) = 0.313."""

    def of_probabilities(logits, labels):
        return functional.cross_entropy(logits.softmax(dim=1), labels)

    losses = {}
    for loss in (None, of_probabilities):
        learnt = learn(
            *toy_arrays(blobs, "train", "valid"),
            2,
            MODEL,
            Train(epochs=20, learning_rate=3e-3, label_smoothing=0),
            loss=loss,
            progress=False,
        )
        losses[loss] = learnt.history["train_loss"].min()
    assert losses[of_probabilities] > math.log(1 + math.exp(-1)) > 0.313
    assert losses[None] < 0.25


def test_a_training_that_is_watched_ends_when_told(blobs):
    seen = []

    def watch(curve):
        seen.append(list(curve))
        return len(curve) == 2

    arrays = toy_arrays(blobs, "train", "valid")
    learnt = learn(*arrays, 2, MODEL, Train(epochs=5), watch=watch, progress=False)
    assert learnt.history["valid_roc_auc"].tolist() == seen[-1] and len(seen) == 2


def test_a_network_of_ones_own_is_trained_by_its_name(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr("vitdm.model.networks.NETWORKS", dict(NETWORKS))
    names = list(ARCHITECTURES)
    assert set(names) == set(NETWORKS)
    for module in ("config.network", "model.networks"):
        monkeypatch.setattr(f"vitdm.{module}.ARCHITECTURES", names)

    @register("brightness")
    class Brightness(torch.nn.Linear):
        """Logits from the sum of the pixels."""

        def __init__(self, settings, image_size, num_classes, num_features=0, channels=1):
            super().__init__(1, num_classes)

        def forward(self, images, features=None):
            return super().forward(images.sum(dim=(1, 2, 3))[:, None] / 100)

    model = MODEL.model_copy(update={"architecture": "brightness"})
    options = {"epochs": 5, "learning_rate": 0.1, "score": "opt"}
    assert train(blobs, tmp_path / "run", model, **options)["roc_auc"] > 0.95
    assert isinstance(load_run(tmp_path / "run").model, Brightness)
    with pytest.raises(AssertionError, match="there is a network 'brightness' already"):
        register("brightness")(Brightness)
    assert Settings(model={"architecture": "brightness"}).model.architecture == "brightness"
    with pytest.raises(
        ValueError, match="expected one of: brightness, cnn, resnet, resnet18, vit,"
    ):
        Settings(model={"architecture": "brightnes"})
    model = MODEL.model_copy(update={"architecture": "brightnes"})
    expected = "found 'brightnes'; expected one of: brightness, cnn, resnet, resnet18, vit,"
    with pytest.raises(InputError, match=rf"model\.architecture: {expected}"):
        train(blobs, tmp_path / "other", model)


def test_a_training_leaves_nothing_behind(blobs):
    """The network ends on the CPU, wherever it was trained, and the images are set free.

    A search trains hundreds of times. Of the first training of a process, torch keeps the frames
    until the garbage is collected.
    """
    settings, images = Train(epochs=1, accelerator="auto"), []
    gc.disable()
    try:
        for _ in range(2):
            arrays = toy_arrays(blobs, "train", "valid")
            images.append(weakref.ref(arrays[0][0]))
            learnt = learn(*arrays, 2, MODEL, settings, progress=False)
            del arrays
        assert images[1]() is None
    finally:
        gc.enable()
    assert {value.device.type for value in learnt.model.state_dict().values()} == {"cpu"}
    assert not learnt.model.training


def test_without_validation_all_epochs_run(noise, tmp_path):
    found = train(noise, tmp_path / "run", epochs=3, patience=1, splits=ALL)
    assert found["epochs"] == 3 and found["n_train"] == 192
    assert "valid_roc_auc" not in found and "roc_auc" not in found
    assert pd.read_csv(tmp_path / "run" / "history.csv")["valid_roc_auc"].isna().all()
    assert not (tmp_path / "run" / "predictions.csv").exists()


def test_the_test_split_is_never_read(tmp_path):
    clean, poisoned = toy(tmp_path / "clean"), toy(tmp_path / "nan", poison="test")
    options = {"valid": "valid", "score": "opt"}
    assert np.isnan(Dataset.open(poisoned).images).any()
    for name, splits, more in (("one", ("train",), options), ("all", ALL, {})):
        for folder in (clean, poisoned):
            train(folder, tmp_path / name / folder.name, splits=splits, **more)
        assert same(weights(tmp_path / name / "clean"), weights(tmp_path / name / "nan"))
    scores = [
        json.loads((tmp_path / "one" / name / "metrics.json").read_text())["roc_auc"]
        for name in ("clean", "nan")
    ]
    assert scores[0] == scores[1]


def test_fewer_training_images(blobs, tmp_path):
    sizes = (10, 128, 1000)
    counts = {n: train(blobs, tmp_path / "run", n_train=n)["n_train"] for n in sizes}
    assert counts == {10: 10, 128: 128, 1000: 128}


# ------------------------------------------------------------------------ interruption

LONG = {"epochs": 4, "valid": "valid", "score": "opt", "n_train": 100, "seed": 3}
DROPOUT = MODEL.model_copy(update={"dropout": 0.2})  # its random numbers, too, must go on


class Killed(Exception):
    """Stands for a kill: nothing handles it."""


def killed(patch, where, at):
    """Let the method ``where`` of the training raise when it is called for the ``at``-th time."""
    calls, method = [], getattr(Training, where)

    def deadly(*arguments):
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return method(*arguments)

    patch.setattr(Training, where, deadly)


@pytest.fixture
def checkpoints(monkeypatch):
    monkeypatch.setattr(Checkpoint, "EVERY", 0.0)  # after every epoch


@pytest.fixture(scope="module")
def uninterrupted(blobs, tmp_path_factory):
    """By seed, what a training leaves that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    for seed in (3, 4):
        train(blobs, folder / str(seed), DROPOUT, **(LONG | {"seed": seed}))
    return {seed: contents(folder / str(seed)) for seed in (3, 4)}


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize(
    ("where", "at", "left"),
    [
        ("epoch", 1, 0),
        ("epoch", 2, 1),
        ("step", 18, 2),  # of 7 in an epoch
        ("validate", 4, 3),
        ("result", 1, 4),
    ],
)
def test_a_killed_training_goes_on_to_the_same_end(
    where, at, left, seed, blobs, tmp_path, monkeypatch, checkpoints, uninterrupted
):
    out, checkpoint, options = tmp_path / "run", tmp_path / ".run.checkpoint", LONG | {"seed": seed}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed(patch, where, at)
        train(blobs, out, DROPOUT, **options)
    assert not out.exists() and checkpoint.exists() == (left > 0)
    started, epoch = [], Training.epoch
    monkeypatch.setattr(
        Training, "epoch", lambda self, *arguments: (started.append(1), epoch(self, *arguments))
    )
    train(blobs, out, DROPOUT, **options)
    assert len(started) == 4 - left
    assert contents(out) == uninterrupted[seed]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_two_kills_are_no_worse_than_one(blobs, tmp_path, monkeypatch, checkpoints, uninterrupted):
    for where, at in (("epoch", 2), ("step", 12)):  # the second time, in the third epoch
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed(patch, where, at)
            train(blobs, tmp_path / "run", DROPOUT, **LONG)
    train(blobs, tmp_path / "run", DROPOUT, **LONG)
    assert contents(tmp_path / "run") == uninterrupted[3]


def test_a_training_that_had_stopped_early_does_not_start_again(
    noise, tmp_path, monkeypatch, checkpoints
):
    options = {"epochs": 30, "patience": 2, "valid": "valid"}
    train(noise, tmp_path / "whole", **options)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed(patch, "result", 1)
        train(noise, tmp_path / "run", **options)
    with monkeypatch.context() as patch:
        killed(patch, "epoch", 1)  # none is run
        train(noise, tmp_path / "run", **options)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_process_killed_by_the_system_goes_on(blobs, tmp_path, uninterrupted):
    script = f"""
import time
from pathlib import Path
from test_train import DROPOUT, LONG, Checkpoint, Training, train

Checkpoint.EVERY = 0.0
result = Training.result
Training.result = lambda self: time.sleep(60) or result(self)
train(Path({str(blobs)!r}), {str(tmp_path / "run")!r}, DROPOUT, **LONG)
"""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS / "library"), str(TESTS.parent)])
    }
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    checkpoint, deadline = tmp_path / ".run.checkpoint", time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL and checkpoint.exists()
    train(blobs, tmp_path / "run", DROPOUT, **LONG)
    assert contents(tmp_path / "run") == uninterrupted[3]


@pytest.mark.parametrize("change", ["settings", "seed", "images", "labels", "damage"])
def test_a_checkpoint_of_something_else_is_ignored(
    change, blobs, tmp_path, monkeypatch, checkpoints
):
    out, folder, options = tmp_path / "run", tmp_path / "blobs", dict(LONG)
    shutil.copytree(blobs, folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed(patch, "epoch", 3)
        train(folder, out, DROPOUT, **LONG)
    if change == "settings":
        options["learning_rate"] = 2e-3
    elif change == "seed":
        options |= {"seed": 4, "n_train": 1000}
    elif change in ("images", "labels"):
        images, catalog = np.load(folder / "images.npy"), Dataset.open(folder).catalog.copy()
        if change == "images":
            images[0, 0, 0] += 1
            options["n_train"] = 1000
        else:
            catalog.loc[0, "class"] = "sub"
        dataset.write(folder, images, catalog, rule="toy")
    elif change == "damage":
        content = (tmp_path / ".run.checkpoint").read_bytes()
        (tmp_path / ".run.checkpoint").write_bytes(content[: len(content) // 2])
    train(folder, out, DROPOUT, **options)
    train(folder, tmp_path / "anew", DROPOUT, **options)
    assert contents(out) == contents(tmp_path / "anew")


def test_a_checkpoint_of_another_loss_is_ignored(blobs, tmp_path, monkeypatch, checkpoints):
    def halved(logits, labels):
        return functional.cross_entropy(logits, labels) / 2

    arrays = toy_arrays(blobs, "train", "valid")
    recipe = {"model": MODEL, "train": Train(epochs=2), "progress": False}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed(patch, "epoch", 2)
        learn(*arrays, 2, **recipe, checkpoint=tmp_path / "c")
    assert (tmp_path / "c").exists()
    found = learn(*arrays, 2, **recipe, checkpoint=tmp_path / "c", loss=halved)
    pd.testing.assert_frame_equal(found.history, learn(*arrays, 2, **recipe, loss=halved).history)


def test_checkpoints_are_not_written_more_often_than_needed(blobs, tmp_path, monkeypatch):
    def written(*_):
        raise AssertionError("a checkpoint was written")

    monkeypatch.setattr("vitdm.model.training.torch.save", written)
    monkeypatch.setattr(Checkpoint, "EVERY", 60.0)
    train(blobs, tmp_path / "run", epochs=2)
    with pytest.raises(AssertionError, match="a checkpoint was written"):
        monkeypatch.setattr(Checkpoint, "EVERY", 0.0)
        train(blobs, tmp_path / "run", epochs=2)


# ------------------------------------------------------------------------ divergence


def test_a_huge_learning_rate_diverges(blobs, tmp_path):
    hot = {"learning_rate": 1e9, "epochs": 20, "batch_size": 64}
    with pytest.raises(Diverged, match=r"epoch \d+, batch \d, at learning rate [\d.]+e\+\d+"):
        train(blobs, tmp_path / "run", **hot)
    assert [path.name for path in tmp_path.iterdir()] == ["run.failed.json"]
    told = json.loads((tmp_path / "run.failed.json").read_text())
    assert "at learning rate" in told["error"] and told["seed"] == 0
    (tmp_path / "run.failed.json").unlink()
    with pytest.raises(Diverged):  # the same place, with a slash at its end
        train(blobs, f"{tmp_path}/run/", **hot)
    assert [path.name for path in tmp_path.iterdir()] == ["run.failed.json"]
    train(blobs, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_weights_lost_in_the_last_step_are_no_run(blobs, tmp_path, monkeypatch):
    step = Training.step

    def last(self, *batch):
        loss = step(self, *batch)
        self.network.head.bias.data.fill_(math.nan)
        return loss

    monkeypatch.setattr(Training, "step", last)
    with pytest.raises(Diverged, match=r"weights are not finite after epoch 1, .* rate 0\.001"):
        train(blobs, tmp_path / "run", n_train=16)
    assert [path.name for path in tmp_path.iterdir()] == ["run.failed.json"]


def test_nan_in_an_image_is_told_with_its_batch(tmp_path):
    folder = toy(tmp_path / "nan", poison="valid")
    message = r"the loss became nan in epoch 1, batch \d+, at learning rate \d"
    with pytest.raises(Diverged, match=message):
        train(folder, tmp_path / "run", splits=("train", "valid"))


def test_a_run_that_cannot_be_written_whole_is_not_written(blobs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("vitdm.model.runs.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        train(blobs, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------ one step


def schedule(total, warmup):
    """The learning rate of each step, and after the last, as the optimiser has it."""
    arrays = torch.zeros(total, 1, 16, 16), torch.zeros(total, 0), torch.arange(total) % 2
    settings = Train(learning_rate=0.1, epochs=1, batch_size=1, warmup=warmup)
    run = Training(new_network(MODEL, 16, 2, 0), settings, Batches(arrays, 1), None)
    rates = [run.rate]
    for number, batch in enumerate(run.batches):
        run.step(number, *batch)
        rates.append(run.rate)
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


def test_one_step_is_enough_to_train(blobs, tmp_path):
    found = train(blobs, tmp_path / "run", n_train=8)  # one batch: all warm-up
    assert found["epochs"] == 1


class Linear(torch.nn.Module):
    """Logits W x + b of images of one pixel and features; parameters as a network has them."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.bias = torch.nn.Parameter(torch.tensor(bias, dtype=torch.float64))

    def forward(self, images, features):
        return torch.cat([images.flatten(1), features], dim=1) @ self.weight.T + self.bias


@pytest.mark.parametrize("clip", [0.1, 100.0])
def test_three_steps_of_a_linear_model_written_out(clip):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2) in plain NumPy.

    Smoothed cross-entropy, the gradient clipped at its norm, decay of the matrix only, warm-up of
    two steps.
    """
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), np.arange(12) % 2
    weight, bias = rng.normal(size=(2, 3)), rng.normal(size=2)
    settings = Train(
        learning_rate=0.1, weight_decay=0.5, warmup=0.5, label_smoothing=0.1, clip=clip,
        batch_size=4, epochs=1,
    )  # fmt: skip
    arrays = torch.from_numpy(x[:, :1, None, None]), torch.from_numpy(x[:, 1:]), torch.from_numpy(y)
    run = Training(Linear(weight, bias), settings, Batches(arrays, 4), None)
    losses = [run.step(k, *batch).item() for k, batch in enumerate(run.batches, start=1)]

    rates, expected = [0.05, 0.1, 0.1], []
    first = second = np.zeros(8)
    for k, rate in enumerate(rates):
        rows = slice(4 * k, 4 * k + 4)
        logits = x[rows] @ weight.T + bias
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        wanted = 0.9 * np.eye(2)[y[rows]] + 0.1 / 2
        expected.append(-(wanted * np.log(p)).sum(axis=1).mean())
        slope = (p - wanted) / 4  # of the mean, by the logits
        gradient = np.concatenate([(slope.T @ x[rows]).ravel(), slope.sum(axis=0)])
        norm = np.sqrt((gradient**2).sum())
        assert (norm > clip) == (clip < 1)
        gradient = gradient * min(1, clip / (norm + 1e-6))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        change = first / (1 - 0.9 ** (k + 1))
        change = rate * change / (np.sqrt(second / (1 - 0.999 ** (k + 1))) + 1e-8)
        weight = weight * (1 - rate * 0.5) - change[:6].reshape(2, 3)
        bias = bias - change[6:]
    np.testing.assert_allclose(losses, expected, rtol=1e-10)
    np.testing.assert_allclose(run.network.weight.detach(), weight, rtol=1e-9)
    np.testing.assert_allclose(run.network.bias.detach(), bias, rtol=1e-9)


def test_validation_scores_each_class_against_the_rest():
    logits = torch.tensor([[2.0, 0, 1], [1, 0, 2], [0, 3, 1], [1, 1, 0], [0, 1, 3], [2, 0, 2.5]])
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    network = Linear(np.zeros((3, 4)), np.zeros(3))
    network.forward = lambda images, features: features
    arrays = torch.zeros(6, 1, 1, 1), logits, labels
    found = Training(network, Train(), Batches(arrays, 4), None).validate(arrays)
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)

    def auc(positive, score):  # the share of pairs in the right order
        pairs = score[positive][:, None] - score[~positive]
        return ((pairs > 0) + 0.5 * (pairs == 0)).mean()

    truth = labels.numpy()
    assert found["valid_roc_auc"] == pytest.approx(auc(truth > 0, 1 - p[:, 0]))
    each = [auc(truth == k, p[:, k]) for k in range(3)]
    assert found["valid_macro_roc_auc"] == pytest.approx(np.mean(each))
    loss = -np.log(p[np.arange(6), truth]).mean()
    assert found["valid_loss"] == pytest.approx(loss, rel=1e-6)
    alone = tuple(array[:2] for array in arrays)  # of one class
    assert Training(network, Train(), Batches(alone, 4), None).validate(alone) == {
        "valid_loss": pytest.approx(-np.log(p[:2, 0]).mean(), rel=1e-6),
        "valid_roc_auc": 0.5,
        "valid_macro_roc_auc": 0.5,
    }


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


def test_turned_batches_have_all_eight_views():
    images = torch.arange(4.0).view(1, 1, 2, 2).repeat(400, 1, 1, 1).half()
    arrays = images, torch.zeros(400, 0), torch.zeros(400)
    batches = Batches(arrays, 50, torch.Generator().manual_seed(0), flips=True, turns=True)
    seen = [tuple(image.flatten().tolist()) for images, *_ in batches for image in images]
    square = images[0, 0].float().numpy()
    turned = [np.rot90(side, k) for side in (square, square.T) for k in range(4)]
    assert set(seen) == {tuple(view.ravel().tolist()) for view in turned}
    assert min(seen.count(view) for view in set(seen)) > 25  # of 50
    whole = next(iter(batches))[0]
    assert whole.dtype == torch.float32 and arrays[0].dtype == torch.float16
    assert torch.equal(arrays[0], images)  # what is kept is not turned


def test_images_that_are_not_square_cannot_be_turned():
    arrays = torch.zeros(8, 1, 8, 12), torch.zeros(8, 0), torch.arange(8) % 2
    with pytest.raises(InputError, match="train.turns is on: found images of 8 x 12"):
        learn(arrays, None, 2, MODEL, Train(turns=True), progress=False)


# ------------------------------------------------------------------------ features


def test_features_are_standardised_by_the_training_images(blobs, tmp_path):
    catalog = Dataset.open(blobs).catalog
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"id": catalog["id"], "area": rng.normal(5, 2, len(catalog))})
    table["gap"] = np.where(rng.random(len(catalog)) < 0.5, np.nan, 3 * table["area"])
    table.loc[(catalog["split"] != "train").to_numpy(), ["area", "gap"]] += 1000
    shuffled = table.sample(frac=1, random_state=0)  # rows are found by their id
    shuffled.to_csv(tmp_path / "features.csv", index=False)
    train(blobs, tmp_path / "r", JOINED, "valid", features=tmp_path / "features.csv")
    run, known = load_run(tmp_path / "r"), table[catalog["split"] == "train"]
    assert run.feature_names == ["area", "gap"]
    low, middle, high = (known[["area", "gap"]].quantile(q) for q in (0.16, 0.5, 0.84))
    np.testing.assert_allclose(run.model.feature_middle, middle, rtol=1e-5)
    np.testing.assert_allclose(run.model.feature_width, (high - low) / 2, rtol=1e-4)


def test_features_join_as_a_token(processed, features_csv, tmp_path):
    model = JOINED.model_copy(update={"join": "token"})
    train(processed, tmp_path / "run", model, score="opt", features=features_csv)
    run, data = load_run(tmp_path / "run"), Dataset.open(processed)
    assert run.model.joins == "token" and run.model.head.in_features == model.embed_dim
    rows = data.rows("opt")
    table = read_features(features_csv, data).to_numpy()[rows]
    found = run.predict(data.images[rows], table)
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    np.testing.assert_allclose(found, predictions.filter(like="p_"), atol=1e-6)
    assert not np.allclose(run.predict(data.images[rows], table[::-1]), found)


def test_only_selected_features_join(run_folder, processed, features_csv, tmp_path):
    """In the order given; predictions and a later evaluation find them by name."""
    names = ["ring_radius", "lensed_area"]
    kept = tmp_path / "selection.json"
    kept.write_text(json.dumps({"features": names}))
    model = JOINED.model_copy(update={"feature_set": "selected"})
    options = {"features": features_csv, "selection": kept, "score": "opt"}
    train(processed, tmp_path / "run", model, **options)
    run, data = load_run(tmp_path / "run"), Dataset.open(processed)
    assert run.feature_names == names
    table = read_features(features_csv, data)
    rows = data.rows("opt")
    found = run.predict(data.images[rows], table[names].to_numpy()[rows])
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    np.testing.assert_allclose(found, predictions.filter(like="p_"), atol=1e-6)
    assert set(names) < set(load_run(run_folder).feature_names)  # which joins all of the table
    kept.write_text(json.dumps({"features": ["dust"]}))
    with pytest.raises(InputError, match=r"features\.csv: found no column dust; expected the feat"):
        train(processed, tmp_path / "run", model, **options)


@pytest.mark.parametrize("joined", [False, True])
def test_a_run_knows_the_camera_of_the_fits_it_needs(joined, blobs, tmp_path):
    camera = {"pixel_scale": 0.05, "lensfit": {"gain": 2.0, "psf_fwhm": 0.09}}
    catalog = Dataset.open(blobs).catalog
    table = pd.DataFrame({"id": catalog["id"], "fit_peak": np.arange(len(catalog))})
    table.to_csv(tmp_path / "features.csv", index=False)
    (tmp_path / "features.json").write_text(json.dumps({"camera": camera}))
    model, given = (JOINED, tmp_path / "features.csv") if joined else (MODEL, None)
    train(blobs, tmp_path / "run", model, features=given, fits=tmp_path / "unused")
    found = load_run(tmp_path / "run").settings
    assert found.pixel_scale == (0.05 if joined else None)
    assert found.lensfit.gain == (2.0 if joined else None)
    read = json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]
    names = {Path(file).name for file in read}
    assert names == {"images.npy", "catalog.csv"} | ({"features.csv"} if joined else set())


def test_wrong_feature_tables_are_refused(tmp_path, blobs):
    with pytest.raises(InputError, match=r"model\.features is on: a feature table is needed"):
        train(blobs, tmp_path / "run", JOINED)
    data = Dataset.open(blobs)
    path = tmp_path / "f.csv"
    for content, message in (
        ("id,area\n000,1\n", "no features of 207 images, such as '001'"),
        ("name,area\n000,1\n", "expected id"),
        ("id,area\n000,large\n", "area: found text; expected numbers"),
        ("", "cannot be read"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=r"f\.csv: .*" + message):
            read_features(path, data)
    with pytest.raises(InputError, match=r"none\.csv: "):
        read_features(tmp_path / "none.csv", data)


def test_an_infinite_feature_is_refused_by_name(blobs, tmp_path):
    """One of them made the ROC-AUC of a whole run 1/2; a missing one has its own answer."""
    data, path = Dataset.open(blobs), tmp_path / "f.csv"
    table = pd.DataFrame({"id": data.catalog["id"], "area": 1.0, "gap": np.arange(208.0)})
    table.loc[3, "gap"] = np.nan
    table.to_csv(path, index=False)
    assert read_features(path, data)["gap"].isna().tolist().index(True) == 3
    table.loc[7, "gap"] = -np.inf
    table.to_csv(path, index=False)
    with pytest.raises(InputError, match=r"f\.csv: gap: found an infinite value for id '007'"):
        train(blobs, tmp_path / "run", JOINED, features=path)


# ------------------------------------------------------------- what belongs to which data set


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two data sets of other seeds whose ids repeat, each raw, processed, and with its features."""
    folders = []
    for seed in (1, 2):
        place = tmp_path_factory.mktemp("measured")
        toy(place / "raw", seed=seed)
        cut = config.Preprocess(size=16)
        process_dataset(place / "raw", place / "processed", cut, progress=False)
        features = config.Features(groups=["morphology"])
        measure_dataset(place / "raw", place / "features.csv", cut, features, progress=False)
        folders.append(place)
    return folders


def test_features_of_another_data_set_are_refused(measured, tmp_path):
    first, second = measured
    assert train(first / "processed", tmp_path / "run", JOINED, features=first / "features.csv")
    with pytest.raises(InputError) as told:
        train(first / "processed", tmp_path / "no", JOINED, features=second / "features.csv")
    for words in (f"{second}/features.csv: belongs to another dataset", f"{second}/raw/images.npy"):
        assert words in str(told.value)
    assert f"expected one of {first}/processed" in str(told.value)
    assert not (tmp_path / "no").exists()


def test_folders_that_were_moved_still_belong_together(measured, tmp_path):
    """Not the path is compared, but the content."""
    for name in ("processed", "features.csv", "features.json"):
        copy = shutil.copytree if name == "processed" else shutil.copy
        copy(measured[0] / name, tmp_path / name)
    assert train(tmp_path / "processed", tmp_path / "r", JOINED, features=tmp_path / "features.csv")


@pytest.mark.parametrize("name", ["catalog.csv", "images.npy"])
def test_a_file_of_another_data_set_in_the_folder_is_refused(measured, tmp_path, name):
    first, second = measured
    shutil.copytree(first / "processed", tmp_path / "processed")
    shutil.copy(second / "processed" / name, tmp_path / "processed" / name)
    with pytest.raises(InputError, match=f"{name}: is not the file that dataset.json beside it"):
        train(tmp_path / "processed", tmp_path / "run")


def test_a_table_that_is_not_its_sidecars_is_refused(measured, tmp_path):
    for name in ("features.csv", "features.json"):
        shutil.copy(measured[0] / name, tmp_path / name)
    data, table = Dataset.open(measured[0] / "processed"), tmp_path / "features.csv"
    table.write_text((measured[1] / "features.csv").read_text())
    with pytest.raises(InputError, match=r"features\.csv: is not the file that features\.json"):
        read_features(table, data)
    for broken in ("{", "[" * 10000, "[]"):
        (tmp_path / "features.json").write_text(broken)
        with pytest.raises(InputError, match=r"features\.json: "):
            read_features(table, data)
        with pytest.raises(InputError, match=r"features\.json: "):
            Tables(table).camera()
    (tmp_path / "features.json").unlink()
    assert len(read_features(table, data)) == len(data.catalog)  # a table of one's own


def test_a_run_of_another_data_set_is_not_evaluated(processed, run_folder, features_csv, tmp_path):
    """The tiny lenses, and others with the same ids; and predictions that the run did not write."""
    data, other, out = Dataset.open(processed), tmp_path / "other", tmp_path / "out"

    def refused(message, folder=processed, features=features_csv, run=run_folder):
        with pytest.raises(InputError, match=message):
            evaluate(folder, features, [run], out, n_bootstrap=10)
        assert not out.exists()

    dataset.write(other, np.array(data.images)[::-1], data.catalog)
    refused(r"features\.csv: belongs to another dataset: .*images\.npy", other)
    table = tmp_path / "own.csv"  # without sidecar
    shutil.copy(features_csv, table)
    refused(r"joint_seed0: belongs to another dataset: .*images\.npy", other, table)

    changed = tmp_path / "run"
    shutil.copytree(run_folder, changed)
    predictions = pd.read_csv(changed / "predictions.csv", dtype={"id": str})
    predictions["p_no_sub"] = 1 - predictions["p_no_sub"]
    predictions.to_csv(changed / "predictions.csv", index=False)
    refused(r"predictions\.csv: is not the file that run\.json", run=changed)

    shutil.copytree(processed, tmp_path / "mixed")
    shutil.copy(other / "images.npy", tmp_path / "mixed")
    refused(r"mixed/images\.npy: is not the file that dataset\.json", tmp_path / "mixed")
    shutil.copytree(processed, tmp_path / "moved")
    found = evaluate(tmp_path / "moved", features_csv, [run_folder], out, n_bootstrap=10)
    assert found["n_test"] == 12 and found["test_auc_low"] < found["test_auc_high"]
    check_outputs(out / "evaluation.json", *(file.name for file in out.iterdir()))


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
    table = np.zeros((2, n))
    table[1, 2] = np.inf
    name = run.feature_names[2]
    with pytest.raises(InputError, match=f"features: {name}: found an infinite value in row 1"):
        run.predict(images, table)
    table[1, 2] = np.nan
    assert np.isfinite(run.predict(images, table)).all()


@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.json", "history.csv", "model.safetensors", "run.json"]
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


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("model", lambda model: model | {"norm": "post"}),
        ("classes", lambda classes: classes[::-1]),
        ("classes", lambda classes: [*classes[:-1], "wdm"]),
        ("feature_names", lambda names: names[::-1]),
        ("lensfit", lambda lensfit: lensfit | {"psf_fwhm": 0.2}),
        ("pixel_scale", lambda _: 0.3),
    ],
)
def test_weights_under_other_settings_are_refused(run_folder, tmp_path, key, change):
    """All of these load, and answer wrong without a word."""
    shutil.copytree(run_folder, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    path.write_text("# a remark changes nothing\n" + yaml.safe_dump(settings))
    assert load_run(tmp_path / "run").settings == load_run(run_folder).settings
    settings[key] = change(settings[key])
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(InputError, match=r"config\.yaml: is not the configuration that the weigh"):
        load_run(tmp_path / "run")


def test_weights_of_another_run_are_refused(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    path, tensors = tmp_path / "run" / "model.safetensors", weights(run_folder)
    save_file(tensors | {"head.bias": tensors["head.bias"] + 1}, path)
    with pytest.raises(InputError, match=r"model\.safetensors: is not the file that run\.json"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(run_folder, tmp_path, value):
    shutil.copytree(run_folder, tmp_path / "run")
    tensors = weights(run_folder)
    tensors["head.bias"][1] = value
    save_file(tensors, tmp_path / "run" / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: head\.bias: found NaN or infinity"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 10000])
def test_a_broken_sidecar_of_a_run_is_refused(run_folder, tmp_path, content):
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json: "):
        load_run(tmp_path / "run")


def test_oblong_images_are_trained_on_and_predicted(tmp_path):
    data = Dataset.open(toy(tmp_path / "oblong", shape=(16, 20)))
    train(tmp_path / "oblong", tmp_path / "run", score="opt")
    run = load_run(tmp_path / "run")
    assert run.settings.image_size == [16, 20]
    with pytest.raises(InputError, match=r"found shape \(2, 20, 16\); expected \(n, 16, 20\)"):
        run.predict(np.zeros((2, 20, 16)))
    found = run.predict(data.images[data.rows("opt")])
    written = pd.read_csv(tmp_path / "run" / "predictions.csv").filter(like="p_")
    np.testing.assert_allclose(found, written, atol=1e-6)
    for update, message in (
        ({"patch_size": 8}, "patch_size = 8 does not divide the .* = 16 x 20"),
        ({"residual": True}, "residual is on: found images of 16 x 20 pixels"),
    ):
        with pytest.raises(InputError, match=message):
            model = MODEL.model_copy(update=update)
            train(tmp_path / "oblong", tmp_path / "other", model, fits="x")


def test_images_of_another_size_are_refused(blobs, tmp_path):
    model = config.Model(patch_size=5, embed_dim=16, num_heads=2)
    with pytest.raises(InputError, match="patch_size = 5 does not divide .* = 16"):
        train(blobs, tmp_path / "run", model)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_attention_of_a_run_is_that_of_its_last_block(run_folder, processed, features_csv, pool):
    run = load_run(run_folder)
    chosen = run.settings.model.model_copy(update={"pool": pool})
    run = Run(
        run.settings.model_copy(update={"model": chosen}),
        new_network(chosen, 32, len(run.classes), len(run.feature_names)).eval(),
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
