"""Images that are unlike the training images, against distributions whose p-values are known."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from scipy import stats
from torch import nn

from vitdm import ViTClassifier
from vitdm.__main__ import main
from vitdm.errors import InputError
from vitdm.model import novelty
from vitdm.model.networks import representation
from vitdm.model.novelty import FEWEST, NAME, UNLIKE, Cloud, Novelty, statistics
from vitdm.model.runs import load_run
from vitdm.predict import OUTSIDE, predict

SIDE = 32


def rings(n, seed, radius=8.0):
    """Images (n, SIDE, SIDE) of rings in noise, half of them broken, and labels."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    bright = rng.uniform(20, 40, n)[:, None, None]
    images = bright * np.exp(-0.5 * ((np.hypot(x, y) - radius) / 1.5) ** 2)
    labels = np.array(["smooth", "broken"])[np.arange(n) % 2]
    images[labels == "broken"] *= x < 0
    return images + rng.normal(size=images.shape), labels


@pytest.fixture(scope="module")
def fitted():
    """A classifier of rings, which chose its epoch on 100 of 300 of them."""
    sections = {
        "preprocess": {"size": SIDE, "crop": "centre", "resize": False, "derotate": False},
        "model": {"patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2},
        "train": {"epochs": 2},
    }
    return ViTClassifier(valid_fraction=1 / 3, random_state=0, **sections).fit(*rings(300, 1))


# ------------------------------------------------------------------------- statistics of pixels


def test_statistics_of_white_noise_of_a_wave_and_of_one_value():
    n = len(novelty.QUANTILES)
    steps = slice(n, n + len(novelty.STEPS))
    noise = np.random.default_rng(0).normal(0, 3, (4, 128, 128))
    expected = math.log10(3 * math.sqrt(2) * stats.norm.ppf(0.75))  # of differences, sqrt(2) sigma
    found = statistics(noise)
    np.testing.assert_allclose(found[:, steps], expected, atol=0.02)
    np.testing.assert_allclose(found[:, n // 2], 0, atol=0.1)
    flat = statistics(np.full((1, 64, 64), 7.0))[0]
    assert (flat[:n] == 7).all() and (flat[steps] == math.log10(novelty.LEAST)).all()
    # all of a wave is in the band of its frequency, 1/16 a pixel: sqrt(1/16) / sqrt(sqrt(1/2))
    wave = np.sin(2 * np.pi * np.arange(64) / 16)[None, None].repeat(64, axis=1)
    power = statistics(wave)[0, -5 - novelty.BANDS : -5]
    assert power.argmax() == int(math.sqrt(1 / 16) / 0.5**0.25 * novelty.BANDS)


def test_statistics_tell_where_the_light_is():
    y, x = np.indices((64, 64)) - 31.5
    images = np.stack([np.hypot(x - dx, y) < 4 for dx in (0, 16)]).astype(float)
    found = statistics(images)
    np.testing.assert_allclose(found[:, -5:-3], [[0, 0], [16 / 31.5, 0]], atol=1e-9)
    first = len(novelty.QUANTILES) + len(novelty.STEPS)  # the mean of the innermost ring
    inner = np.hypot(x, y) < 31.5 * math.sqrt(2) / novelty.RINGS
    np.testing.assert_allclose(found[0, first], images[0][inner].mean())


# ------------------------------------------------------------------------- distances, p-values


def normal(n, seed, width=6):
    """Numbers (n, width) of two classes, correlated by 0.95, on scales of their own, and labels."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 2
    mixed = np.sqrt(0.95) * rng.normal(size=(n, 1)) + np.sqrt(0.05) * rng.normal(size=(n, width))
    return (mixed + 3.0 * labels[:, None]) * 10.0 ** np.arange(width), labels


def test_the_squared_distance_of_normal_numbers_is_chi_squared():
    """As it is for one class: P degrees of freedom, within what the bent tails take away."""
    values = normal(20000, 0)[0][::2]
    cloud = Cloud.of(values[:9000], np.zeros(9000))
    squared = cloud.distances(values[9000:]) ** 2
    assert stats.kstest(squared, stats.chi2(6).cdf).pvalue > 1e-3


@pytest.mark.parametrize("held_out", [True, False])
def test_p_values_are_uniform_for_images_of_the_same_kind(held_out):
    """Whether others are held out, or each half of the training images from the other."""
    train, labels = normal(1500, 1)
    others = {"image": normal(1500, 2)[0]} if held_out else None
    known = Novelty.of({"image": train}, labels, others)
    p = known.p_values({"image": normal(3000, 3)[0]})
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert np.mean(p <= UNLIKE) < 0.02 and p.min() >= 1 / 1501


def test_what_is_unlike_in_one_kind_of_numbers_alone_is_found():
    train, labels = normal(1000, 1)
    known = Novelty.of({"image": train, "network": train[::-1]}, labels)
    usual = normal(200, 4)[0]
    strange = usual.copy()
    strange[:, 2] += 30 * train[:, 2].std()
    assert (known.p_values({"image": usual, "network": strange}) <= 2 / 1001).all()
    assert (known.p_values({"image": strange, "network": usual}) <= 2 / 1001).all()
    # a combination that never occurs, of numbers that do
    mixed = np.column_stack([usual[:, :3], normal(200, 5)[0][:, 3:]])
    assert np.mean(known.p_values({"image": mixed, "network": usual}) <= UNLIKE) > 0.3


def test_missing_and_constant_numbers_count():
    train, labels = normal(1000, 1)
    train = np.column_stack([train, np.zeros(1000)])
    known = Novelty.of({"features": train}, labels)
    usual = np.column_stack([normal(50, 6)[0], np.zeros(50)])
    assert np.mean(known.p_values({"features": usual}) <= UNLIKE) < 0.1
    for change in (np.nan, 1.0):
        changed = usual.copy()
        changed[:, -1] = change
        assert (known.p_values({"features": changed}) <= UNLIKE).all()


# --------------------------------------------------------------------------------- networks, runs


def test_the_representation_is_what_enters_the_head(fitted):
    network, images = fitted.run_.model, torch.randn(7, 1, SIDE, SIDE)
    expected = network.forward_features(images).detach().numpy()
    np.testing.assert_allclose(representation(network, images, None, batch=3), expected, atol=1e-6)
    assert not network.head._forward_pre_hooks

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, images, features=None):
            return self.layer(images.flatten(1))

    plain, images = Plain(), torch.randn(3, 1, 2, 2)
    np.testing.assert_allclose(representation(plain, images, None), plain(images).detach())


def test_rings_are_usual_and_other_images_are_not(fitted):
    usual = fitted.predict_table(rings(100, 2)[0])
    assert np.mean(usual["ood_pvalue"] <= UNLIKE) <= 0.05
    assert (usual["ood_pvalue"] > UNLIKE).equals(usual["warning"] == "")
    rng, (y, x) = np.random.default_rng(3), np.indices((SIDE, SIDE)) - 15.5
    others = {
        "noise": rng.normal(size=(SIDE, SIDE)),
        "one value": np.ones((SIDE, SIDE)),
        "a gradient": x,
        "a galaxy": 60 * np.exp(-np.hypot(x, y) / 6) + rng.normal(size=(SIDE, SIDE)),
        "stripes": 20.0 * (x % 8 < 4) + rng.normal(size=(SIDE, SIDE)),
        "larger rings": rings(1, 4, radius=12)[0][0],
    }
    table = fitted.predict_table(list(others.values()))
    found = dict(zip(others, table["ood_pvalue"], strict=True))
    assert all(p <= UNLIKE for p in found.values()), found
    assert table["warning"].str.endswith(OUTSIDE).all()


def test_it_is_written_with_the_run_and_read_again(fitted, tmp_path):
    images = rings(20, 5)[0]
    fitted.save(tmp_path / "run")
    assert (tmp_path / "run" / NAME).stat().st_size < 200_000
    assert NAME in json.loads((tmp_path / "run/run.json").read_text())["outputs"]
    run = load_run(tmp_path / "run")
    expected = fitted.predict_table(images)
    np.testing.assert_array_equal(predict([run], images)["ood_pvalue"], expected["ood_pvalue"])


def test_a_run_without_it_says_so(fitted, tmp_path, capsys):
    fitted.save(tmp_path / "run")
    told = json.loads((tmp_path / "run/run.json").read_text())
    del told["outputs"][NAME]
    (tmp_path / "run/run.json").write_text(json.dumps(told))
    (tmp_path / "run" / NAME).unlink()
    np.save(tmp_path / "image.npy", np.ones((SIDE, SIDE)))
    assert main(["predict", str(tmp_path / "image.npy"), "--run", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert "does not know whether images look like those of its training" in said.err
    assert ",,noise pixel_scale," in said.out


def test_another_file_in_its_place_is_refused(fitted, tmp_path):
    fitted.save(tmp_path / "run")
    path = tmp_path / "run" / NAME
    arrays = load_file(path)
    shutil.copyfile(path, tmp_path / "kept")
    save_file(arrays | {"held_out": arrays["held_out"] + 1}, path)
    with pytest.raises(InputError, match="is not the file that run.json"):
        load_run(tmp_path / "run")
    with pytest.raises(InputError, match="kept: found NaN or infinity"):
        save_file(arrays | {"scale": np.nan * arrays["scale"]}, tmp_path / "kept")
        novelty.load(tmp_path / "kept")
    del arrays["held_out"]
    save_file(arrays, path)
    with pytest.raises(InputError, match=f"{NAME}: cannot be read"):
        novelty.load(path)


def test_too_few_images_tell_nothing():
    few = np.zeros((FEWEST - 1, 4, 4), np.float32)
    assert novelty.learn(nn.Identity(), (few, ())) is None
