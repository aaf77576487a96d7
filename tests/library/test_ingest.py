"""Every layout of images in files, from folder and archive; what is wrong, twice or interrupted."""

import gzip
import json
import os
import shutil
import signal
import sys
import tarfile
import zipfile

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

from vitdm.data import layouts
from vitdm.data.dataset import Dataset, merge_shards, write
from vitdm.data.ingest import ingest
from vitdm.data.splits import assign_splits
from vitdm.errors import InputError

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
    assert sidecar["pixel_scale"] == pytest.approx(0.252)
    assert sidecar["images_with_missing_pixels"] == 10
    missing = np.isnan(data.images)  # they stay missing, for the fit and the processing
    assert missing[:, 0, 1].all() and missing.sum() == 10
    assert made(path, tmp_path / "e", pixel_scale=0.1)[1]["pixel_scale"] == 0.1


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
    assert json.loads((tmp_path / "d/dataset.json").read_text())["pixel_scale"] is None
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
