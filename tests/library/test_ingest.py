"""Every layout of images in files, from folder and archive; what is wrong, twice or interrupted."""

import gzip
import json
import lzma
import os
import shutil
import signal
import sys
import tarfile
import tokenize
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from files import (
    KINDS,
    SHAPE,
    class_folders,
    encoded,
    fits_bytes,
    folder,
    npy,
    npz,
    pair,
    picture,
    stored,
    tar,
    zipped,
)

from studies import config as workflow
from vitdm.__main__ import main
from vitdm.commands.ingest import PROPORTIONS
from vitdm.config.reading import read_yaml
from vitdm.data import layouts, readers
from vitdm.data.dataset import Dataset, merge_shards, write
from vitdm.data.ingest import ingest, known_scale
from vitdm.data.splits import assign_splits
from vitdm.errors import InputError
from vitdm.simulation.classes import CLASSES

ROOT = Path(__file__).parents[2]
SIZES = {"train": 4, "valid": 2, "opt": 2, "test": 4}


def made(path, out, **options):
    """Ingest, and return the dataset and its sidecar."""
    ingest(path, out, SIZES, 0, progress=False, **options)
    return Dataset.open(out), json.loads((out / "dataset.json").read_text())


def values(data):
    """Return the first pixel of each image by its id, which tells the file it must come from."""
    return {name: image[0, 0] for name, image in zip(data.catalog["id"], data.images, strict=True)}


def splits(data):
    return dict(zip(data.catalog["id"], data.catalog["split"], strict=True))


def refused(path, out, reason, **options):
    with pytest.raises(InputError, match=reason) as error:
        ingest(path, out, SIZES, 0, progress=False, **options)
    assert not out.exists() and not list(out.parent.glob(f".{out.name}*"))
    return str(error.value)


# ------------------------------------------------------------------------------ class folders


@pytest.mark.parametrize("suffix", [".npy", ".png", ".jpg", ".tif"])
def test_folder_of_classes(tmp_path, suffix):
    names = ("No Substructure", "SPHERE", "vort")
    members = class_folders(names, suffix=suffix)
    members |= {"SPHERE/Thumbs.db": b"x", f"vort/._0{suffix}": b"x", f".cache/0{suffix}": b"x"}
    data, sidecar = made(folder(tmp_path / "lenses", members), tmp_path / "d")
    expected = {f"{name}/{i}": 40 * k + i for k, name in enumerate(names) for i in range(6)}
    assert values(data) == pytest.approx(expected, abs=3 if suffix == ".jpg" else 0)
    assert data.images.shape == (18, *SHAPE)
    kinds = dict(zip(names, ("no_sub", "cdm", "axion"), strict=True))
    assert [kinds[name.split("/")[0]] for name in data.catalog["id"]] == list(data.catalog["class"])
    assert data.catalog["source"][0] == f"lenses/No Substructure/0{suffix}"
    split = assign_splits(data.catalog["id"], data.catalog["class"], SIZES, 0)
    assert data.catalog["split"].tolist() == split.tolist()
    assert sidecar["splits_published"] == [] and sidecar["files_ignored"] == 1
    assert list(data.catalog) == ["id", "class", "split", "source"]


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("wrapper", ["", "./lenses/", "a/b/"])
def test_archive_equals_its_folder(tmp_path, kind, wrapper):
    members = class_folders()
    plain, _ = made(folder(tmp_path / "in", members), tmp_path / "plain")
    members = {wrapper + name: content for name, content in reversed(members.items())}
    members |= {"__MACOSX/._x.npy": b"x", f"{wrapper}README.md": b"about"}
    path = stored(tmp_path, kind, members)
    packed, _ = made(path, tmp_path / "packed")
    np.testing.assert_array_equal(packed.images, plain.images)
    columns = ["id", "class", "split"]
    assert packed.catalog[columns].equals(plain.catalog[columns])
    source = f"in.{kind}/{wrapper.removeprefix('./')}no_sub/0.npy"
    assert packed.catalog["source"][0] == source
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["in", path.name, "packed", "plain"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_binary_set(tmp_path, kind):
    """lenses.tgz: three equal channels, 8 bit, sub and no_sub."""
    members = {
        f"lenses/{name}/image_{i}.jpg": encoded(
            ".jpg", np.dstack([picture(9 * k + i, (16, 16))] * 3)
        )
        for k, name in enumerate(("sub", "no_sub"))
        for i in range(6)
    }
    data, _ = made(stored(tmp_path, kind, members), tmp_path / "d")
    assert data.catalog["class"].value_counts().to_dict() == {"sub": 6, "no_sub": 6}
    raw = np.frombuffer(members["lenses/sub/image_3.jpg"], "u1")
    (row,) = np.flatnonzero(data.catalog["id"] == "sub/image_3")
    np.testing.assert_array_equal(data.images[row], cv2.imdecode(raw, cv2.IMREAD_GRAYSCALE))


@pytest.mark.parametrize("kind", KINDS)
def test_common_test_one(tmp_path, kind):
    """dataset.zip: train and val of (1, H, W) float64 in [0, 1]; opt and test come from train."""
    members, classes = {}, ("no", "sphere", "vort")
    for k, split in enumerate(("train", "val")):
        for j, name in enumerate(classes):
            for i in range(12 if split == "train" else 3):
                image = (picture(50 * k + 15 * j + i) / 255.0)[None]
                members[f"dataset/{split}/{name}/{i}.npy"] = npy(image)
    data, sidecar = made(stored(tmp_path, kind, members), tmp_path / "d")
    assert values(data)["train/sphere/4"] == np.float32(19 / 255)
    assert values(data)["val/no/2"] == np.float32(52 / 255)
    table = pd.crosstab(data.catalog["id"].str.split("/").str[0], data.catalog["split"])
    assert table.loc["val"].to_dict() == {"train": 0, "valid": 9, "opt": 0, "test": 0}
    # 36 of train, as 4 : 2 : 4
    assert table.loc["train", ["train", "opt", "test"]].sum() == 36
    assert (
        abs(table.loc["train"] - [7.2, 14.4, 14.4, 0]).max() < 1
        and table.loc["train", "valid"] == 0
    )
    assert (pd.crosstab(data.catalog["class"], data.catalog["split"]) > 0).all(axis=None)
    assert sidecar["splits_published"] == ["train", "valid"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [15, 6])
def test_model_one_two_three(tmp_path, kind, side):
    """Counts in .npy, the axion class as pickled pairs; the test set in a folder of its own."""
    members, masses = {}, {}
    for folder_name, n in (("Model_I", 8), ("Model_I_test", 2)):
        for j, name in enumerate(("axion", "cdm", "no_sub")):
            for i in range(n):
                image = picture(40 * j + i + 20 * (n == 2), (side, side)) * 1.5
                mass = 10.0 ** -(22 + i / n)
                path = f"{folder_name}/{name}/{name}_sim_{i}"
                members[f"{path}.npy"] = pair(image, mass) if name == "axion" else npy(image)
                masses |= {path: mass} if name == "axion" else {}
    data, sidecar = made(stored(tmp_path, kind, members), tmp_path / "d")
    assert data.images.shape == (30, side, side)
    assert values(data)["Model_I/axion/axion_sim_3"] == 4.5
    found = data.catalog.set_index("id")["axion_mass"]
    assert found.dropna().to_dict() == masses and found.isna().sum() == 20
    where = splits(data)
    assert {where[name] for name in where if name.startswith("Model_I_test/")} == {"test"}
    assert {where[name] for name in where if name.startswith("Model_I/")} == {
        "train",
        "valid",
        "opt",
    }
    assert sidecar["splits_published"] == ["train", "test"]


@pytest.mark.parametrize("kind", KINDS)
def test_fits_cutouts(tmp_path, kind):
    scale = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CDELT1": -7e-05, "CDELT2": 7e-05}
    members = {}
    for k, name in enumerate(("no_sub", "sub")):
        for i in range(5):
            image = picture(40 * k + i).astype(">f4")
            image[0, 1] = np.nan
            content = fits_bytes(image, header=scale)
            members[f"{name}/{i}.fits"] = content
    members["sub/4.fits.gz"] = gzip.compress(members.pop("sub/4.fits"))
    path = stored(tmp_path, kind, members)
    data, sidecar = made(path, tmp_path / "d")
    assert values(data)["sub/4"] == 44
    assert sidecar["pixel_scale"] == known_scale(path) == pytest.approx(0.252)
    assert known_scale(tmp_path / "d") == pytest.approx(0.252)
    # the workflow fits lenses where the scale is known
    smoke = read_yaml(ROOT / "config/smoke.yaml")
    assert "lensfit" in workflow.build(smoke | {"data": str(path)}).features.groups
    assert sidecar["images_with_missing_pixels"] == 10
    missing = np.isnan(data.images)  # they stay missing, for the fit and the processing
    assert missing[:, 0, 1].all() and missing.sum() == 10
    assert made(path, tmp_path / "e", pixel_scale=0.1)[1]["pixel_scale"] == 0.1


def test_missing_pixels_of_one_class_alone_are_told(tmp_path):
    """A hole in every image of a class, and in none of the other, is what a model would learn."""
    members = {}
    for k, name in enumerate(("no", "sub")):
        for i in range(6):
            image = picture(40 * k + i).astype("f4")
            image[3:5, 3] = np.nan if name == "sub" else image[3:5, 3]
            members[f"{name}/{i}.fits"] = fits_bytes(image)
    said = ingest(folder(tmp_path / "in", members), tmp_path / "d", SIZES, 0, progress=False)
    assert "WARNING: missing pixels tell the classes apart" in said
    assert "pixel scales tell" not in said


def test_pixel_scales_that_differ_are_not_recorded(tmp_path):
    members = {
        f"{name}/{i}.fits": fits_bytes(
            picture(40 * k + i).astype("f4"), header={"PIXSCALE": 0.1 * (k + 1)}
        )
        for k, name in enumerate(("no", "sub"))
        for i in range(6)
    }
    path = folder(tmp_path / "in", members)
    said = ingest(path, tmp_path / "d", SIZES, 0, progress=False)
    assert "WARNING: FITS headers tell pixel scales from 0.1 to 0.2 arcsec; none recorded" in said
    assert "WARNING: pixel scales tell the classes apart; a model may learn them" in said
    assert "missing pixels tell" not in said
    assert json.loads((tmp_path / "d/dataset.json").read_text())["pixel_scale"] is None
    assert known_scale(path) is None and known_scale(tmp_path / "nowhere") is None
    smoke = read_yaml(ROOT / "config/smoke.yaml")
    assert "lensfit" not in workflow.build(smoke | {"data": str(path)}).features.groups
    refused(path, tmp_path / "e", "pixel scale: found -1; expected a positive", pixel_scale=-1)


# ---------------------------------------------------------------------------- published splits


FOUR = ("train", "val", "opt", "test")


def published(names, classes=("no", "sub"), n=6):
    """Class folders in folders of splits; the images of different splits differ."""
    members = {}
    for k, split in enumerate(names):
        for name, content in class_folders(classes, n, first=8 * k).items():
            members[f"{split}/{name}"] = content
    return members


@pytest.mark.parametrize("names", [FOUR, ("Training", "VALIDATION", "Opt", "testing")])
def test_published_splits_are_kept(tmp_path, names):
    data, sidecar = made(folder(tmp_path / "in", published(names)), tmp_path / "d")
    expected = dict(zip(names, ("train", "valid", "opt", "test"), strict=True))
    assert all(split == expected[name.split("/")[0]] for name, split in splits(data).items())
    assert sidecar["splits_published"] == ["train", "valid", "opt", "test"]
    anew, sidecar = made(tmp_path / "in", tmp_path / "e", resplit=True)
    drawn = assign_splits(anew.catalog["id"], anew.catalog["class"], SIZES, 0)
    assert anew.catalog["split"].tolist() == drawn.tolist() and sidecar["splits_published"] == []
    np.testing.assert_array_equal(anew.images, data.images)


@pytest.mark.parametrize("names", [("train",), ("train", "test"), ("train", "val", "test")])
def test_missing_splits_are_drawn_from_train(tmp_path, names):
    data, _ = made(folder(tmp_path / "in", published(names, n=8)), tmp_path / "d")
    missing = [split for split in ("valid", "opt", "test") if split[:3] not in "".join(names)]
    part = data.catalog[data.catalog["id"].str.startswith("train/")]
    sizes = {split: SIZES[split] for split in ("train", *missing)}
    drawn = assign_splits(part["id"], part["class"], sizes, 0)
    assert part["split"].tolist() == drawn.tolist() and set(drawn) == set(sizes)
    kept = data.catalog[~data.catalog["id"].str.startswith("train/")]
    assert (kept["split"].str[:3] == kept["id"].str[:3]).all()


def test_splits_below_the_classes(tmp_path):
    members = {}
    for name, content in published(("train", "val")).items():
        split, kind, file = name.split("/")
        members[f"{kind}/{split}/{file}"] = content
    data, _ = made(folder(tmp_path / "in", members), tmp_path / "d")
    where = splits(data)
    assert {where[name] for name in where if "/val/" in name} == {"valid"}
    assert {where[name] for name in where if "/train/" in name} == {"train", "opt", "test"}


def test_published_splits_that_cannot_be_kept(tmp_path):
    path = folder(tmp_path / "a", published(("val", "test")))
    refused(path, tmp_path / "d", "found valid, test without train; --resplit draws")
    members = published(("train", "test"))
    members = {k: v for k, v in members.items() if not k.startswith("test/sub")}
    refused(folder(tmp_path / "b", members), tmp_path / "d", "split 'test': found no_sub only")


# ------------------------------------------------------------------- stacks with one-hot labels


def stacks(sizes=None, form=npz):
    """The four splits of the precursor; image i of split k starts at 50 k + i."""
    members = {}
    for k, (split, n) in enumerate(
        (sizes or {"train": 8, "valid": 4, "opt": 4, "test": 4}).items()
    ):
        images = np.stack([picture(50 * k + i) for i in range(n)]) / 255
        labels = np.eye(2, dtype="f4")[np.arange(n) % 2]
        members[f"images/X_{split}.npy"] = form(data=images)
        members[f"labels/y_{split}.npy"] = form(label=labels)
    return members


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapper", ["", "data/splitted/"])
def test_stacks_of_the_precursor(tmp_path, kind, wrapper):
    members = {wrapper + name: content for name, content in stacks().items()}
    data, sidecar = made(stored(tmp_path, kind, members), tmp_path / "d")
    sizes = {"train": 8, "valid": 4, "opt": 4, "test": 4}
    assert data.catalog["split"].value_counts().to_dict() == sizes
    expected = {
        f"{split}/{i:06d}": np.float32((50 * k + i) / 255)
        for k, (split, n) in enumerate(sizes.items())
        for i in range(n)
    }
    assert values(data) == expected
    kinds = dict(zip(data.catalog["id"], data.catalog["class"], strict=True))
    assert kinds["opt/000000"] == "no_sub" and kinds["opt/000001"] == "sub"
    source = data.catalog.set_index("id")["source"]["valid/000002"]
    assert source.endswith(f"/{wrapper}images/X_valid.npy[2]")
    assert sidecar["splits_published"] == ["train", "valid", "opt", "test"]


def test_stacks_saved_as_plain_arrays(tmp_path):
    members = stacks(form=lambda **arrays: npy(*arrays.values()))
    data, _ = made(folder(tmp_path / "in", members), tmp_path / "d")
    assert values(data)["test/000002"] == np.float32(152 / 255)


def test_stacks_that_are_wrong(tmp_path):
    images, labels = np.zeros((3, 4, 4)), np.eye(2)[[0, 1, 0]]
    for i, (change, reason) in enumerate(
        (
            ({"labels/y_opt.npy": None}, r"X_opt\.npy has no labels; expected labels/y_opt\.npy"),
            ({"labels/y_opt.npy": npz(label=labels)}, "found 3 labels; expected 4"),
            ({"labels/y_test.npy": npz(label=labels + 1)}, r"y_test\.npy\[0\]: found \[2.0, 1.0\]"),
            ({"labels/y_test.npy": npz(label=labels[None])}, r"\(1, 3, 2\); expected \(n,\), or"),
            (
                {"labels/y_test.npy": npz(label=np.eye(2)[[0, 1, 0, 1], 0])},
                "found label '1'; expec",
            ),
            ({"labels/y_test.npy": npz(label=np.full(4, np.nan))}, "found label 'nan'; expected"),
            (
                {"labels/y_test.npy": npz(lable=labels)},
                r"npz archive of lable\.npy; expected label",
            ),
            ({"images/X_test.npy": npz(data=images[0])}, r"shape \(4, 4\); expected \(n, H, W\)"),
            ({"images/X_test.npy": npz(data=images.astype(object))}, "expected numbers"),
            ({"images/X_test.npy": b""}, "is not a NumPy file"),
            ({"images/X_test.npy": npy(np.ones((4, 4, 4)))[:-330]}, "is truncated at image 1 of 4"),
            ({"images/X_test.npy": npz(data=images)[:-60]}, r"X_test\.npy: "),
            ({"no_sub/1.npy": npy(images[0])}, r"found both images/X_\w+\.npy and no_sub/1\.npy"),
            ({"b/images/X_opt.npy": npz(data=images)}, "several folders of images"),
        )
    ):
        members = {k: v for k, v in (stacks() | change).items() if v is not None}
        refused(folder(tmp_path / str(i), members), tmp_path / "d", reason)


# ---------------------------------------------------------------------------- files that are bad


BAD = {
    "no_sub/empty.npy": (b"", "is empty"),
    "no_sub/half.npy": (npy(picture(200))[:-9], "."),
    "no_sub/page.jpg": (b"<html>", "cannot be decoded"),
    "sub/constant.png": (encoded(".png", np.full(SHAPE, 7, "u1")), "is constant, every pixel is 7"),
    "sub/nan.npy": (npy(np.full(SHAPE, np.nan)), "no pixel has a finite value"),
    "sub/pickle.npy": (npy(np.array([print, 1], object), allow_pickle=True), "asks for .*print"),
    "sub/small.npy": (npy(picture(3, (4, 6))), r"has 4 x 6 pixels; most have 5 x 6 pixels"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_bad_files_are_listed_at_once(tmp_path, kind):
    members = class_folders() | {name: content for name, (content, _) in BAD.items()}
    path = stored(tmp_path, kind, members)
    lines = refused(path, tmp_path / "d", "cannot be used; --skip-bad").splitlines()
    assert "7 of 19 images" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == sorted(BAD)
    for line in lines[1:]:
        name, reason = line.split(maxsplit=1)
        assert pd.Series(reason).str.contains(BAD[name][1])[0], line
    data, sidecar = made(path, tmp_path / "d", skip_bad=True)
    assert len(data.images) == 12 and sidecar["images_skipped"] == 7
    skipped = pd.read_csv(tmp_path / "d" / "skipped.csv")
    assert skipped["source"].tolist() == [f"{path.name}/{name}" for name in sorted(BAD)]
    assert [f"{n}  {r}" for n, r in zip(sorted(BAD), skipped["reason"], strict=True)] == [
        " ".join(line.split(maxsplit=1)).replace(" ", "  ", 1) for line in lines[1:]
    ]


def test_a_long_list_goes_to_a_file(tmp_path):
    members = class_folders(n=30) | {f"sub/{i}.npy": b"" for i in range(25)}
    path, listing = folder(tmp_path / "in", members), tmp_path / "d_unusable.csv"
    lines = refused(path, tmp_path / "d", "25 of 60").splitlines()
    assert len(lines) == 22 and lines[-1].strip() == f"… and 5 more: {listing} lists them all"
    assert len(pd.read_csv(listing)) == 25
    made(path, tmp_path / "d", skip_bad=True)
    assert not listing.exists()  # of the last attempt only
    (path / "sub/30.npy").write_bytes(b"")
    (tmp_path / "d/notes.txt").write_text("mine")
    refused_later = r"d: found 'notes\.txt'; expected an empty folder"
    with pytest.raises(InputError, match=refused_later):
        ingest(path, tmp_path / "d", SIZES, 0, progress=False, skip_bad=True)
    assert (tmp_path / "d/notes.txt").exists()


def test_too_few_images_are_left(tmp_path):
    members = class_folders() | {f"sub/{i}.npy": b"" for i in range(6)}
    path = folder(tmp_path / "in", members)
    refused(
        path,
        tmp_path / "d",
        "can be used: found 0 of class 'sub'; expected at least 5",
        skip_bad=True,
    )


def test_a_file_that_changes_is_noticed(tmp_path, monkeypatch):
    path = folder(tmp_path / "in", class_folders())
    pictures, passes = layouts.pictures, []

    def changed(path):
        passes.append(path)
        if len(passes) == 2:
            (path / "sub/3.npy").write_bytes(npy(picture(99)))
        return pictures(path)

    monkeypatch.setattr(layouts, "pictures", changed)
    refused(path, tmp_path / "d", r"sub/3\.npy changed while it was read")


# ---------------------------------------------------------------------------------- duplicates


def test_duplicates_are_reported_and_dropped(tmp_path):
    members = published(("train", "test"))
    members["train/no/again.png"] = encoded(".png", picture(2))  # of train/no/2.npy
    members["train/sub/leak.npy"] = members["test/sub/9.npy"]
    members["train/sub/strange.npy"] = members["train/no/4.npy"]
    path = folder(tmp_path / "in", members)
    said = ingest(path, tmp_path / "d", SIZES, 0, progress=False)
    assert "WARNING: 6 images in 3 groups have the same pixels" in said
    assert "1 in several classes; --drop-duplicates" in said
    listed = pd.read_csv(tmp_path / "d/duplicates.csv")
    groups = {frozenset(group) for _, group in listed.groupby("group")["id"]}
    assert groups == {
        frozenset({"train/no/2", "train/no/again"}),
        frozenset({"test/sub/9", "train/sub/leak"}),
        frozenset({"train/no/4", "train/sub/strange"}),
    }
    catalog = Dataset.open(tmp_path / "d").catalog.set_index("id")
    assert (listed["kept"] == 1).all()
    assert listed["split"].tolist() == catalog["split"][listed["id"]].tolist()
    data, sidecar = made(path, tmp_path / "d", drop_duplicates=True)
    gone = {"train/no/again", "train/sub/leak", "train/no/4", "train/sub/strange"}
    assert set(catalog.index) - set(data.catalog["id"]) == gone and sidecar["images_dropped"] == 4
    listed = pd.read_csv(tmp_path / "d/duplicates.csv").set_index("id")
    assert set(listed.index[listed["kept"] == 0]) == gone and len(listed) == 6
    assert len({image.tobytes() for image in data.images}) == len(data.images)


def test_duplicates_of_one_split_and_class_are_no_warning(tmp_path):
    members = published(FOUR)
    members["train/no/again.npy"] = members["train/no/1.npy"]
    said = ingest(folder(tmp_path / "in", members), tmp_path / "d", SIZES, 0, progress=False)
    assert "2 images in 1 groups have the same pixels" in said and "WARNING" not in said
    assert not (tmp_path / "d/skipped.csv").exists()
    (tmp_path / "in/train/no/again.npy").unlink()
    made(tmp_path / "in", tmp_path / "d")
    assert not (tmp_path / "d/duplicates.csv").exists()


# ------------------------------------------------------------------------- a dataset, once more


def test_a_dataset_is_copied(tmp_path):
    members = class_folders(n=8) | {"sub/bad.npy": b""}
    made(folder(tmp_path / "in", members), tmp_path / "d", skip_bad=True, pixel_scale=0.05)
    _, sidecar = made(tmp_path / "d", tmp_path / "e")
    for name in ("images.npy", "catalog.csv"):
        assert (tmp_path / "d" / name).read_bytes() == (tmp_path / "e" / name).read_bytes()
    assert (sidecar["pixel_scale"], sidecar["images_skipped"]) == (0.05, 1)
    assert sidecar["rule"] == "ingest" and len(sidecar["inputs"]) == 3
    refused(tmp_path / "d", tmp_path / "f", "is a dataset already", resplit=True)


def test_progress_goes_to_stderr_only_if_wanted(tmp_path, capsys):
    path = folder(tmp_path / "in", class_folders())
    ingest(path, tmp_path / "d", SIZES, 0, progress=False)
    assert capsys.readouterr() == ("", "")
    ingest(path, tmp_path / "d", SIZES, 0)
    output = capsys.readouterr()
    assert output.out == "" and "checking" in output.err and "12/12" in output.err


# ------------------------------------------------------------------------------ wrong places


def test_folders_that_are_no_layout(tmp_path):
    out = tmp_path / "d"
    refused(tmp_path / "gone", out, "gone: does not exist")
    (tmp_path / "list.csv").write_text("a,b")
    refused(tmp_path / "list.csv", out, r"list\.csv: expected a folder, or an archive \(\.tgz")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", out, "empty: found no image; expected .jpg")
    one = folder(tmp_path / "one", class_folders(("sub",)) | {"no_sub/1.bmp": b"x"})
    refused(one, out, r"found sub only; expected no_sub .*1\.bmp")
    unknown = folder(tmp_path / "unknown", class_folders(("no", "sub", "warm")))
    refused(unknown, out, "unknown class folder 'warm'; expected .*no, .*axion")
    nested = folder(tmp_path / "nested", class_folders(("train/no", "train/wdm")))
    refused(nested, out, "unknown class folder 'wdm'")
    extra = folder(tmp_path / "extra", class_folders(("train/no", "train/sub", "spare/no")))
    refused(extra, out, "unknown folder 'spare'; expected train")
    flat = folder(tmp_path / "flat", {"0.npy": npy(picture(0))})
    refused(flat, out, r"0\.npy lies in no class folder; expected one of: no, ")
    both = class_folders() | class_folders(suffix=".png")
    both = folder(tmp_path / "double", both)
    refused(both, out, r"no_sub/0.* and no_sub/0.* would share the id 'no_sub/0'")
    inside = folder(tmp_path / "inside", class_folders())
    refused(inside, inside / "d", "lies inside")


@pytest.mark.parametrize("name", ["../sub/9.npy", "sub/../../9.npy", "/sub/9.npy", "..\\9.npy"])
def test_members_outside_the_archive_are_refused(tmp_path, name):
    members = class_folders() | {name: npy(picture(9))}
    for path in (tar(tmp_path / "in.tgz", members), zipped(tmp_path / "in.zip", members)):
        refused(path, tmp_path / "d", "points outside the archive")


def test_links_in_archives_are_refused(tmp_path):
    kinds = ((tarfile.SYMTYPE, "a link"), (tarfile.LNKTYPE, "a link"))
    for kind, reason in (*kinds, (tarfile.FIFOTYPE, "a special file")):
        with tarfile.open(tmp_path / "in.tar", "w") as archive:
            info = tarfile.TarInfo("sub/9.npy")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        refused(tmp_path / "in.tar", tmp_path / "d", f"'sub/9.npy' is {reason}")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        info = zipfile.ZipInfo("sub/9.npy")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path / "in.zip", tmp_path / "d", "'sub/9.npy' is a link")


@pytest.mark.parametrize("kind", ["tgz", "tar", "zip"])
def test_damaged_archives_are_refused(tmp_path, kind):
    path = stored(tmp_path, kind, class_folders(shape=(50, 60)))
    whole = path.read_bytes()
    for content in (b"<html>not found</html>", whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        refused(path, tmp_path / "d", rf"in\.{kind}: ")


# ------------------------------------------------------------------------------ kill -9


def in_child(work, kill_at=None):
    """Run in a child process; kill it at an audited event of Python's, or return their number."""
    read, written = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def watch(event, _):  # opening, listing, renaming and deleting files, starting processes
            nonlocal count
            if event.split(".")[0] in ("open", "os", "shutil", "subprocess"):
                count += 1
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            work()
            os.write(written, str(count).encode())
        finally:
            os._exit(0)
    os.close(written)
    os.waitpid(child, 0)
    with os.fdopen(read) as stream:
        return int(stream.read() or 0)


@pytest.mark.parametrize("job", ["ingest", "merge"])
def test_killed_at_any_point_and_run_again(tmp_path, job, monkeypatch):
    monkeypatch.setattr("vitdm.provenance._git", lambda *_: None)  # takes longer than all the rest
    generator = np.random.default_rng(3)
    shards = [tmp_path / str(k) for k in range(3)]
    for k, shard in enumerate(shards):
        ids = [f"{i:03d}" for i in generator.permutation(4) * 3 + k]
        catalog = pd.DataFrame({"id": ids, "class": "no_sub", "split": "train", "source": "x"})
        write(shard, generator.normal(size=(4, *SHAPE)), catalog)
    members = class_folders() | {"sub/again.npy": npy(picture(1)), "sub/bad.npy": b""}
    source, out = stored(tmp_path, "zip", members), tmp_path / "out"

    def work(out=out):
        if job == "ingest":
            ingest(source, out, SIZES, 0, skip_bad=True, progress=False)
        else:
            merge_shards(shards, out)

    def content(folder):
        names = [path.name for path in folder.iterdir() if path.name != "dataset.json"]
        return {name: (folder / name).read_bytes() for name in names}

    work(tmp_path / "expected")
    expected = content(tmp_path / "expected")
    before = {path.name for path in tmp_path.iterdir()}
    n = in_child(work)
    assert n > 20 and content(out) == expected
    for moment in sorted({*range(1, n, 5), *range(n - 9, n + 1)}):
        if moment % 2:
            shutil.rmtree(out, ignore_errors=True)
        assert in_child(work, kill_at=moment) == 0  # killed
        if moment % 5:  # else killed once more, on top of what was left
            work()
            assert content(out) == expected
            assert (out / "dataset.json").is_file()
            assert {path.name for path in tmp_path.iterdir()} == before | {"out"}


# ------------------------------------------------------------------ labels and classes, as a user


@pytest.fixture
def own_classes():
    """Forget the classes that a test declares, as another process would not know them."""
    known = dict(CLASSES)
    yield
    CLASSES.clear()
    CLASSES.update(known)


def commanded(capsys, path, out, *options):
    """Ingest with the command line; return exit status and what it said."""
    status = main(["ingest", str(path), *map(str, options), "--out", str(out)])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return status, said


def kinds(out):
    catalog = Dataset.open(out).catalog
    return dict(zip(catalog["id"], catalog["class"], strict=True))


FLAT = {f"cutouts/{k:02d}.npy": npy(picture(9 * k)) for k in range(12)}
WORDS = ["smooth", "CDM"] * 6


def table(files, words, *more, names=("file", "class"), separator=","):
    rows = [names, *zip(files, words, *more, strict=True)]
    return "".join(separator.join(map(str, row)) + "\n" for row in rows).encode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["labels.csv", "cutouts/about.tsv"])
def test_labels_from_a_table(tmp_path, capsys, kind, where):
    separator = "\t" if where.endswith("tsv") else ","
    files = [name.removeprefix("cutouts/") for name in FLAT]
    words = table(files, WORDS, names=("Filename ", "Label"), separator=separator)
    path = stored(tmp_path, kind, FLAT | {where: words})
    status, said = commanded(capsys, path, tmp_path / "d", "--class", "smooth=no_sub")
    assert status == 0, said
    assert kinds(tmp_path / "d") == {f"{k:02d}": "cdm" if k % 2 else "no_sub" for k in range(12)}
    data = Dataset.open(tmp_path / "d")
    assert values(data)["07"] == 63
    status, said = commanded(capsys, path, tmp_path / "e")
    assert status == 2 and "found class 'smooth'; expected one of: no, " in said
    assert "--class smooth=CLASS gives it a class" in said


def test_a_table_of_labels_elsewhere(tmp_path, capsys):
    """Of full paths on another machine, with a byte-order mark; splits in a third column."""
    told = ["train"] * 6 + ["dev"] * 2 + ["test-set"] * 4
    files = [f"/elsewhere/{name.removesuffix('.npy')}" for name in FLAT]
    rows = table(files, WORDS, told, names=("path", "type", "subset"))
    (tmp_path / "my labels.csv").write_bytes(b"\xef\xbb\xbf" + rows)
    path = folder(tmp_path / "in", FLAT)
    options = ("--labels", tmp_path / "my labels.csv", "--class", "smooth=no_sub")
    status, said = commanded(capsys, path, tmp_path / "d", *options)
    assert status == 0 and "published: train, valid, test" in said, said
    found = list(splits(Dataset.open(tmp_path / "d")).values())
    assert found[6:] == ["valid"] * 2 + ["test"] * 4 and set(found[:6]) == {"train", "opt"}
    sidecar = json.loads((tmp_path / "d/dataset.json").read_text())
    assert {Path(name).name for name in sidecar["inputs"]} == {"in", "my labels.csv"}
    assert commanded(capsys, path, tmp_path / "my labels.csv", *options)[0] == 2


def test_tables_that_are_wrong(tmp_path, capsys):
    files = [name.removeprefix("cutouts/") for name in FLAT]
    words = ["no", "cdm"] * 6
    twice = folder(tmp_path / "twice", FLAT | {f"b/{files[0]}": npy(picture(99))})
    path = folder(tmp_path / "in", FLAT)
    for name, content, reason in (
        ("short", table(files[:-1], words[:-1]), "1 of 12 images stand in no table of labels, "),
        ("gone", table([*files[1:], "9.npy"], words), "'9.npy': found no such image; expected the"),
        ("both", table([*files, files[0]], [*words, "cdm"]), "stands twice in tables"),
        (
            "split",
            table(files, words, ["holiday"] * 12, names=("file", "class", "split")),
            "found s",
        ),
        (
            "columns",
            table(files, words, names=("a", "b")),
            "found columns a, b; expected 'file' an",
        ),
        ("empty", b"", "cannot be read as a table"),
        ("binary", b"\x00\xff" * 99, "cannot be read as a table"),
        (
            "some",
            table(files, words, ["train"] * 11 + [""], names=("file", "class", "split")),
            "no s",
        ),
    ):
        (tmp_path / name).write_bytes(content)
        status, said = commanded(capsys, path, tmp_path / "d", "--labels", tmp_path / name)
        assert status == 2 and reason in said, said
    (tmp_path / "good").write_bytes(table(files, words))
    status, said = commanded(capsys, twice, tmp_path / "d", "--labels", tmp_path / "good")
    assert status == 2 and "'00.npy': found 2 images of that name" in said
    assert "gone.csv: cannot be read: No such" in refused(
        path, tmp_path / "d", "No such file", labels=tmp_path / "gone.csv"
    )


def test_tables_beside_class_folders_do_not_matter(tmp_path):
    members = class_folders() | {"redshifts.csv": table(["0.npy"], ["x"], names=("file", "class"))}
    data, sidecar = made(folder(tmp_path / "in", members), tmp_path / "d")
    assert len(data.images) == 12 and sidecar["files_ignored"] == 1


@pytest.mark.parametrize("keys", [("images", "labels"), ("X", "y"), ("data", "label")])
@pytest.mark.parametrize("place", ["set.npz", "folder", "tgz"])
def test_one_npz_file(tmp_path, capsys, keys, place):
    images = np.stack([picture(9 * k) for k in range(12)])
    content = npz(**{keys[0]: images, keys[1]: np.arange(12) % 3, "ids": np.arange(12)})
    path = tmp_path / "set.npz"
    if place == "set.npz":
        path.write_bytes(content)
    else:
        path = stored(tmp_path, place, {"set.npz": content})
    options = ("--class", "0=no_sub", "--class", "1=sphere", "--class", "2=axion")
    status, said = commanded(capsys, path, tmp_path / "d", *options)
    assert status == 2 and "found 4 of class 'axion', 4 of class 'cdm', 4 of" in said
    images = np.concatenate([images, images + np.uint8(1)])
    content = npz(**{keys[0]: images[:, None], keys[1]: np.arange(24) % 3})
    path.unlink() if path.is_file() else (path / "set.npz").unlink()
    if place == "set.npz":
        path.write_bytes(content)
    else:
        path = stored(tmp_path, place, {"set.npz": content})
    status, said = commanded(capsys, path, tmp_path / "d", *options)
    assert status == 0, said
    data = Dataset.open(tmp_path / "d")
    np.testing.assert_array_equal(data.images, images)
    assert data.catalog["class"].tolist() == ["no_sub", "cdm", "axion"] * 8
    source = "set.npz/" if place == "set.npz" else f"{path.name}/set.npz/"
    assert data.catalog["source"][3] == f"{source}{keys[0]}[3]"
    status, said = commanded(capsys, path, tmp_path / "e", *options[:4])
    assert status == 2 and "found label '2'; expected one of: " in said
    assert "--class 2=CLASS" in said


def test_one_npz_file_with_splits(tmp_path, capsys):
    arrays, number = {}, 0
    for split, n in (("train", 12), ("val", 4), ("test", 6)):
        arrays[f"x_{split}"] = np.stack([picture(number + k) for k in range(n)]) / 7
        arrays[f"y_{split}"] = np.array(["smooth", "spherical"])[np.arange(n) % 2]
        number += n
    (tmp_path / "set.npz").write_bytes(npz(**arrays))
    status, said = commanded(
        capsys, tmp_path / "set.npz", tmp_path / "d", "--class", "smooth=no_sub"
    )
    assert status == 0 and "published: train, valid, test; opt drawn from train" in said, said
    found = kinds(tmp_path / "d")
    assert found["test/000001"] == "cdm" and found["valid/000002"] == "no_sub"
    assert values(Dataset.open(tmp_path / "d"))["test/000005"] == np.float32(21 / 7)
    (tmp_path / "one.npz").write_bytes(npz(images=arrays["x_train"], z=np.zeros(3)))
    status, said = commanded(capsys, tmp_path / "one.npz", tmp_path / "e")
    assert status == 2 and "one.npz: found arrays images, z; expected images and labels" in said
    (tmp_path / "one.npz").write_bytes(b"PK")
    assert commanded(capsys, tmp_path / "one.npz", tmp_path / "e")[0] == 2


def test_one_hot_labels_of_several_classes(tmp_path, capsys):
    images = np.stack([picture(9 * k) for k in range(15)])
    (tmp_path / "set.npz").write_bytes(npz(images=images, labels=np.eye(3)[np.arange(15) % 3]))
    options = [f"--class={k}={name}" for k, name in enumerate(("no_sub", "axion", "cdm"))]
    status, said = commanded(capsys, tmp_path / "set.npz", tmp_path / "d", *options)
    assert status == 0 and kinds(tmp_path / "d")["000001"] == "axion", said


def test_a_class_of_ones_own_goes_all_the_way(tmp_path, capsys, monkeypatch, own_classes):
    """No command knows what another has declared, as if each ran in a process of its own."""
    generator, side = np.random.default_rng(0), 24
    y, x = np.mgrid[:side, :side] - 11.5
    members = {}
    for k, name in enumerate(("lens", "wdm", "no_sub", "Zeta_2")):
        for i in range(8):
            ring = np.exp(-((np.hypot(x, y) - 5 - k) ** 2) / 4) * 50
            members[f"{name}/{i}.npy"] = npy(ring + generator.normal(0, 1, (side, side)))
    path = folder(tmp_path / "in", members)
    (tmp_path / "c.yaml").write_text(
        "ingest: {classes: {wdm: wdm, lens: cdm}}\npreprocess: {size: 24}\n"
        "model: {patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}\n"
        "train: {epochs: 1, batch_size: 8}\nevaluation: {bootstrap: 20}\n"
    )
    status, said = commanded(capsys, path, tmp_path / "d", "--config", tmp_path / "c.yaml")
    assert status == 2 and "unknown class folder 'Zeta_2'; expected one of" in said
    assert "--class FOLDER=CLASS" in said
    monkeypatch.chdir(tmp_path)
    for line in (
        "ingest in --config c.yaml --class Zeta_2=Zeta_2 --out d",
        "ingest d --out copy",
        "preprocess copy --config c.yaml --out processed",
        "features copy --config c.yaml --out features.csv",
        "select processed --features features.csv --config c.yaml --ranking-only --out s",
        "train processed --config c.yaml --out run",
        "evaluate processed run --config c.yaml --out test",
        "predict in/wdm/1.npy --run run --out answer.csv",
    ):
        for name in [name for name, known in CLASSES.items() if known.declared]:
            del CLASSES[name]
        assert main(line.split()) == 0, capsys.readouterr().err
    names = ["no_sub", "cdm", "Zeta_2", "wdm"]  # the library's first, then by name
    assert Dataset.open(tmp_path / "processed").labels("multiclass")[1] == names
    columns = [f"p_{name}" for name in names]
    predictions = pd.read_csv(tmp_path / "test/predictions.csv")
    assert [column for column in predictions if column in columns] == columns
    assert list(pd.read_csv(tmp_path / "answer.csv"))[1:5] == columns
    sidecar = json.loads((tmp_path / "processed/dataset.json").read_text())
    assert sidecar["classes"] == dict.fromkeys(names, 8)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            "wdm=cmd",
            "found 'cmd'; expected one of: no_sub, sub, cdm, axion; or cmd: cmd, a class of",
        ),
        ("w m=w m", "class 'w m': expected a letter first, then letters"),
        ("wdm", "argument --class: found 'wdm'; expected NAME=CLASS"),
    ],
)
def test_mappings_that_are_wrong(tmp_path, capsys, own_classes, given, reason):
    path = folder(tmp_path / "in", class_folders())
    command = ["ingest", str(path), "--class", given, "--out", str(tmp_path / "d")]
    try:
        assert main(command) == 2
    except SystemExit as error:
        assert error.code == 2
    assert reason in capsys.readouterr().err


def test_a_mapping_in_yaml(tmp_path, capsys):
    path = folder(tmp_path / "in", class_folders(("0", "1")))
    (tmp_path / "c.yaml").write_text("ingest: {classes: {0: no_sub, 1: sphere}}")
    assert commanded(capsys, path, tmp_path / "d", "--config", tmp_path / "c.yaml")[0] == 0
    assert set(kinds(tmp_path / "d").values()) == {"no_sub", "cdm"}
    (tmp_path / "c.yaml").write_text("ingest: {classes: {no: no_sub}}")  # YAML 1.1 reads false
    status, said = commanded(capsys, path, tmp_path / "d", "--config", tmp_path / "c.yaml")
    assert status == 2 and "ingest.classes" in said and "quote it" in said


@pytest.mark.parametrize(
    ("name", "split"),
    [("Train", "train"), ("TRAINING", "train"), ("train_data", "train"), ("training-set", "train")]
    + [("val", "valid"), ("valid", "valid"), ("Validation Set", "valid"), ("dev", "valid")]
    + [("test_set", "test"), ("test-images", "test"), ("testing", "test"), ("X_test", "test")]
    + [("optimisation", "opt"), ("trainer", None), ("contest", None), ("images", None), ("", None)],
)
def test_names_of_splits(name, split):
    assert layouts.split_of(name) == split


# ------------------------------------------------------------------ few images, damaged images


@pytest.mark.parametrize("config", [None, ROOT / "config/smoke.yaml"])
def test_one_rule_says_how_many_images_are_needed(tmp_path, capsys, config):
    """Whatever the proportions: five a class; the test needs two for DeLong's interval."""
    for n, others, status in ((40, 4, 2), (4, 4, 2), (5, 5, 0), (6, 6, 0), (40, 5, 0)):
        members = class_folders(("no", "sub"), n) | class_folders(("vort",), others)
        members = {name: npy(picture(k)) for k, name in enumerate(members)}
        path = folder(tmp_path / f"{n}_{others}", members)
        n_images = PROPORTIONS if config is None else read_yaml(config)["n_images"]
        out = tmp_path / "out" / path.name
        (tmp_path / "c.yaml").write_text(json.dumps({"n_images": n_images}))
        found, said = commanded(capsys, path, out, "--config", tmp_path / "c.yaml")
        assert found == status, said
        if status:
            assert (
                "expected at least 5 images of each class (1 train + 1 valid + 1 opt + 2 test"
                in said
            )
            assert f"4 of class {'axion'!r}" in said and not out.exists()
        else:
            catalog = Dataset.open(out).catalog
            counts = pd.crosstab(catalog["class"], catalog["split"])
            assert (counts[["train", "valid", "opt", "test"]] >= [1, 1, 1, 2]).all(axis=None)


def test_a_published_test_set_that_is_too_small(tmp_path, capsys):
    members = published(("train", "test"), n=8)
    members = {k: v for k, v in members.items() if not k.startswith("test/sub") or "/8." in k}
    status, said = commanded(capsys, folder(tmp_path / "in", members), tmp_path / "d")
    assert status == 2 and "split 'test': found 1 of class 'sub'; expected at least 2" in said


def test_no_class_vanishes_with_bad_files(tmp_path, capsys):
    members = class_folders(("no", "sub")) | {f"vort/{i}.npy": b"x" for i in range(6)}
    path = folder(tmp_path / "in", members)
    status, said = commanded(capsys, path, tmp_path / "d", "--skip-bad")
    assert status == 2 and "found 0 of class 'axion'; expected at least 5" in said
    assert not (tmp_path / "d").exists()


def test_no_damaged_file_ends_skip_bad(tmp_path, capsys, monkeypatch):
    """Whatever a library raises while it reads one file is a reason in the list."""
    path = folder(tmp_path / "in", class_folders(n=8) | {"sub/8.npy": npy(picture(99))})
    read = readers.read_picture
    errors = [OverflowError("x"), tokenize.TokenError("EOF"), IndentationError(), MemoryError()]
    errors += [lzma.LZMAError("x"), ZeroDivisionError(), AttributeError("x"), RecursionError()]
    for error in errors:

        def reading(name, content=None, error=error):
            if name == "sub/8.npy":
                raise error
            return read(name, content)

        monkeypatch.setattr(readers, "read_picture", reading)
        assert commanded(capsys, path, tmp_path / "d", "--skip-bad")[0] == 0
        skipped = pd.read_csv(tmp_path / "d/skipped.csv")
        assert skipped["source"].tolist() == ["in/sub/8.npy"]
        status, said = commanded(capsys, path, tmp_path / "e")
        assert status == 2 and "sub/8.npy  cannot be read" in said


@pytest.mark.parametrize("name", ["sub/a\rb.npy", "sub/a\nb.npy", "sub/a\x85b.npy"])
def test_file_names_with_line_breaks(tmp_path, capsys, name):
    path = folder(tmp_path / "in", class_folders() | {name: npy(picture(99))})
    status, said = commanded(capsys, path, tmp_path / "d")
    assert status == 2 and "has a line break; rename the file" in said
    path = folder(tmp_path / "in\r2", class_folders())
    status, said = commanded(capsys, path, tmp_path / "d")
    assert status == 2 and "expected a name without line breaks" in said


# ------------------------------------------------------------------ missing pixels, links


def test_missing_pixels_stay_missing_all_the_way(tmp_path, capsys):
    generator, side = np.random.default_rng(1), 40
    y, x = np.mgrid[:side, :side] - 19.5
    members, whole = {}, {}
    for k, name in enumerate(("no_sub", "sub")):
        for i in range(6):
            image = 80 * np.exp(-((np.hypot(x, y) - 8 - k) ** 2) / 4)
            image = (image + generator.normal(100, 1, image.shape)).astype("f4")
            whole[f"{name}/{i}"] = image.copy()
            image[:4, :7] = [[np.nan], [np.inf], [-np.inf], [np.nan]]
            members[f"{name}/{i}.npy"] = npy(image)
    image[:4, :7] = np.inf
    members["sub/again.npy"] = npy(image)  # the same pixels, missing in another way
    constant = np.full((side, side), 7.0)
    constant[0] = np.nan
    members["sub/constant.npy"] = npy(constant)
    path = folder(tmp_path / "in", members)
    status, said = commanded(capsys, path, tmp_path / "d", "--skip-bad", "--drop-duplicates")
    assert status == 0 and "2 images in 1 groups have the same pixels; 1 dropped" in said
    skipped = pd.read_csv(tmp_path / "d/skipped.csv")["reason"].tolist()
    assert skipped == ["is constant, every pixel is 7"]
    data = Dataset.open(tmp_path / "d")
    missing = np.isnan(data.images)
    assert missing[:, :4, :7].all() and missing.sum() == 12 * 28
    assert json.loads((tmp_path / "d/dataset.json").read_text())["images_with_missing_pixels"] == 12
    (tmp_path / "c.yaml").write_text(
        "preprocess: {size: 40, crop: roi, derotate: true, resize: true}"
    )
    config = ("--config", str(tmp_path / "c.yaml"))
    assert main(["preprocess", str(tmp_path / "d"), *config, "--out", str(tmp_path / "p")]) == 0
    assert main(["features", str(tmp_path / "d"), *config, "--out", str(tmp_path / "f.csv")]) == 0
    processed = np.load(tmp_path / "p/images.npy")
    assert np.isfinite(processed).all()
    with_gaps = pd.read_csv(tmp_path / "f.csv").set_index("id")
    # far from the lens, missing sky changes next to nothing
    for name, image in whole.items():
        np.save(path / f"{name}.npy", image)
    (path / "sub/again.npy").unlink()
    (path / "sub/constant.npy").unlink()
    assert commanded(capsys, path, tmp_path / "d2")[0] == 0
    assert main(["preprocess", str(tmp_path / "d2"), *config, "--out", str(tmp_path / "p2")]) == 0
    assert main(["features", str(tmp_path / "d2"), *config, "--out", str(tmp_path / "f2.csv")]) == 0
    table = [pd.read_csv(tmp_path / p / "catalog.csv").set_index("id") for p in ("p", "p2")]
    shared = table[1].index.intersection(table[0].index)
    columns = ["roi_x", "roi_y", "noise_sigma"]
    difference = (table[0].loc[shared, columns] - table[1].loc[shared, columns]).abs()
    assert difference.max().max() < 0.1
    without = pd.read_csv(tmp_path / "f2.csv").set_index("id").loc[shared]
    assert (with_gaps.loc[shared].notna() == without.notna()).all(axis=None)


def test_class_folders_behind_links(tmp_path, capsys):
    members = class_folders()
    (tmp_path / "in").mkdir()
    for name in ("no_sub", "sub"):
        own = {k: v for k, v in members.items() if k.startswith(f"{name}/")}
        folder(tmp_path / "elsewhere", own)
        (tmp_path / "in" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert commanded(capsys, tmp_path / "in", tmp_path / "d")[0] == 0
    sidecar = json.loads((tmp_path / "d/dataset.json").read_text())
    before = workflow.fingerprint(tmp_path / "in")
    (tmp_path / "elsewhere/sub/new.npy").write_bytes(npy(picture(77)))
    assert workflow.fingerprint(tmp_path / "in") != before
    assert commanded(capsys, tmp_path / "in", tmp_path / "d")[0] == 0
    assert json.loads((tmp_path / "d/dataset.json").read_text())["inputs"] != sidecar["inputs"]
    assert len(Dataset.open(tmp_path / "d").images) == 13
