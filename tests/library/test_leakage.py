"""Copies across splits are found, whatever their orientation and noise; other lenses are not."""

import numpy as np
import pandas as pd
import pytest

from vitdm.evaluation import leakage


def arcs(n, seed, noise=0.1):
    """Noiseless blobs on rings at random places (n, 48, 48)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48] - 23.5
    images = []
    for _ in range(n):
        image = np.zeros((48, 48))
        for _ in range(4):
            r, angle = rng.uniform(8, 20), rng.uniform(0, 2 * np.pi)
            width = rng.uniform(2, 4)
            d2 = (x - r * np.cos(angle)) ** 2 + (y - r * np.sin(angle)) ** 2
            image += rng.uniform(1, 3) * np.exp(-d2 / 2 / width**2)
        images.append(image)
    return np.array(images, np.float32)


@pytest.fixture(scope="module")
def found():
    """120 lenses in two splits; 0 and 60 are one lens mirrored, 1 and 61 turned; 2 and 62 equal."""
    rng = np.random.default_rng(0)
    scenes = arcs(120, seed=1)
    scenes[60], scenes[61], scenes[62] = scenes[0][:, ::-1], np.rot90(scenes[1]), scenes[2]
    images = scenes + 0.1 * rng.normal(size=scenes.shape).astype(np.float32)
    images[62] = images[2]
    catalog = pd.DataFrame({"id": [f"{i:03d}" for i in range(120)]})
    catalog["split"] = np.repeat(["train", "test"], 60)
    return leakage.nearest(images, catalog, seed=0)


def test_copies_are_found(found):
    table = found.set_index("id")
    for first, second in (("000", "060"), ("001", "061"), ("002", "062")):
        assert table.loc[first, "nearest"] == second and table.loc[second, "nearest"] == first
        assert table.loc[first, "distance"] == pytest.approx(table.loc[second, "distance"])
    # another exposure lies as far away as the noise says, the same file not at all
    assert table.loc[["000", "060", "001", "061"], "distance"].between(0.7, 1.25).all()
    assert (table.loc[["002", "062"], "distance"] < 1e-3).all()
    others = table.drop(["000", "001", "002", "060", "061", "062"])
    assert others["distance"].min() > 2


def test_each_is_compared_with_other_splits_only(found):
    assert (found["split"] != found["nearest_split"]).all()
    assert list(found["id"]) == [f"{i:03d}" for i in range(120)]


def test_distance_is_that_of_all_pixels_if_all_components_are_kept(monkeypatch):
    monkeypatch.setattr(leakage, "COMPONENTS", 256)
    images = arcs(40, seed=3) + 0.1 * np.random.default_rng(0).normal(size=(40, 48, 48))
    catalog = pd.DataFrame({"id": [f"{i}" for i in range(40)], "split": ["train"] * 39 + ["test"]})
    row = leakage.nearest(images, catalog, seed=0).iloc[39]
    small = images.reshape(40, 16, 3, 16, 3).mean(axis=(2, 4))
    turned = [np.rot90(m, r) for m in (small[39], small[39][:, ::-1]) for r in range(4)]
    gaps = [min(((t - small[k]) ** 2).sum() for t in turned) for k in range(39)]
    assert int(row["nearest"]) == np.argmin(gaps)
    steps = np.abs(np.diff(images[[39, np.argmin(gaps)]], axis=2)).reshape(2, -1)
    variance = (1.4826 * np.median(steps, axis=1)) ** 2 / 2 / 9  # of a block of 3 x 3 pixels
    assert row["distance"] == pytest.approx((min(gaps) / 256 / variance.sum()) ** 0.5, rel=1e-4)


def test_nearly_all_second_exposures_are_near():
    """400 lenses observed twice: at most a few are farther than NEAR, other lenses all are."""
    rng = np.random.default_rng(5)
    scenes = arcs(400, seed=9)
    images = np.concatenate([scenes + 0.1 * rng.normal(size=scenes.shape) for _ in range(2)])
    catalog = pd.DataFrame({"id": [f"{i}" for i in range(800)]})
    catalog["split"] = np.repeat(["train", "test"], 400)
    found = leakage.nearest(images.astype(np.float32), catalog, seed=0)
    assert (found["distance"] <= leakage.NEAR).mean() > 0.99
    assert (found["nearest"].astype(int) % 400 == np.arange(800) % 400).all()
    # on these images, all of them light, neighbouring pixels differ by more than the noise
    assert 0.8 < found["distance"].mean() < 1.05
