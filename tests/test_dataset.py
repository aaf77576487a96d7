"""Reading, splitting and storing of images, against arrays made by hand."""

import csv
import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from vitdm import dataset
from vitdm.config import InputError
from vitdm.dataset import Dataset, assign_splits, ingest, load_images, merge, read_image, write
from vitdm.readers import suffix_of

RAMP = np.arange(12).reshape(3, 4)
SIZES = {"train": 4, "valid": 2, "opt": 2, "test": 4}
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def fits_bytes(*arrays):
    stream = io.BytesIO()
    hdus = [fits.PrimaryHDU(arrays[0]), *(fits.ImageHDU(array) for array in arrays[1:])]
    fits.HDUList(hdus).writeto(stream)
    return stream.getvalue()


def encoded(suffix, array):
    return cv2.imencode(suffix, array)[1].tobytes()


def frame(ids, classes=None, splits=None):
    classes = classes or ["no_sub", "cdm"] * (len(ids) // 2)
    splits = splits or ["train"] * len(ids)
    return pd.DataFrame({"id": ids, "class": classes, "split": splits, "source": "made"})


def layout(root, names=("no_sub", "sub"), n=6, suffix=".npy", shape=(5, 6)):
    """Write n images a class folder; pixel (0, 0) tells folder and number; return the members."""
    members = {}
    for k, name in enumerate(names):
        for i in range(n):
            image = np.full(shape, 20 * k + i, np.uint8)
            content = npy(image) if suffix == ".npy" else encoded(suffix, image)
            members[f"{name}/{i}{suffix}".lstrip("/")] = content
    for member, content in members.items():
        (root / member).parent.mkdir(parents=True, exist_ok=True)
        (root / member).write_bytes(content)
    return members


def tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def by_id(folder):
    data = Dataset.open(folder)
    return {
        row.id: image[0, 0]
        for row, image in zip(data.catalog.itertuples(), data.images, strict=True)
    }


# ------------------------------------------------------------------------------ one image


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("grey.png", encoded(".png", RAMP.astype("u1")), RAMP),
        ("deep.PNG", encoded(".png", (RAMP * 5000).astype("u2")), RAMP * 5000),
        (
            "colour.png",
            encoded(".png", np.stack([RAMP, RAMP + 1, RAMP + 5], -1).astype("u1")),
            RAMP + 2,
        ),
        (
            "alpha.png",
            encoded(".png", np.stack([RAMP, RAMP, RAMP, 255 - RAMP], -1).astype("u1")),
            RAMP,
        ),
        ("flat.jpeg", encoded(".jpg", np.full((16, 16, 3), 77, "u1")), np.full((16, 16), 77)),
        ("plain.npy", npy(RAMP.astype("f8")), RAMP),
        ("channel.npy", npy(RAMP[None]), RAMP),
        ("last.npy", npy(RAMP[..., None]), RAMP),
        ("rgb.npy", npy(np.stack([RAMP, RAMP, RAMP + 3], -1)), RAMP + 1),
        ("big_endian.npy", npy(RAMP.astype(">f4")), RAMP),
        ("fortran.npy", npy(np.asfortranarray(RAMP)), RAMP),
        ("sky.fits", fits_bytes(RAMP.astype(">f4")), RAMP),
        ("sky.fit", fits_bytes(RAMP.astype("i2")), RAMP),
        ("second.fits", fits_bytes(None, np.zeros((2, 3, 4)), RAMP, RAMP + 1), RAMP),
        ("packed.fits.gz", gzip.compress(fits_bytes(RAMP.astype("f8"))), RAMP),
    ],
)
def test_read_image(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    for image in (read_image(tmp_path / name), read_image(name, content)):
        assert image.dtype == np.float32 and image.dtype.isnative and image.flags.c_contiguous
        np.testing.assert_array_equal(image, expected)


def test_missing_pixels_stay_until_filled():
    image = np.array([[1.0, np.nan, 3.0], [8.0, np.inf, 2.0]])
    read = read_image("a.npy", npy(image))
    np.testing.assert_array_equal(read, image)
    filled = dataset.fill_missing(read, "a.npy")
    np.testing.assert_array_equal(filled, [[1, 2.5, 3], [8, 2.5, 2]])
    with pytest.raises(InputError, match=r"a\.npy: no pixel has a finite value"):
        dataset.fill_missing(np.full((3, 3), np.nan), "a.npy")


NOISE = np.random.default_rng(1).integers(0, 255, (64, 64)).astype("u1")
PICTURES = {suffix: encoded(suffix, NOISE) for suffix in (".jpg", ".png")}
PICTURES |= {".npy": npy(NOISE), ".fits": fits_bytes(NOISE.astype("f4"))}
PICTURES |= {".fits.gz": gzip.compress(PICTURES[".fits"])}


@pytest.mark.parametrize("suffix", PICTURES)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_truncated_or_foreign_files_are_refused(suffix, kept):
    whole = PICTURES[suffix]
    assert read_image("whole" + suffix, whole).shape == (64, 64)
    with pytest.raises(InputError, match=f"half{suffix}: ."):
        read_image("half" + suffix, whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match=f"page{suffix}: ."):
        read_image("page" + suffix, b"<html>not found</html>" * 99)


def test_truncation_is_found_where_the_decoder_does_not_tell(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: NOISE)  # as OpenCV 4 does with a grey rest
    for suffix in (".jpg", ".png"):
        assert read_image("a" + suffix, PICTURES[suffix]).shape == (64, 64)
        with pytest.raises(InputError, match="truncated"):
            read_image("a" + suffix, PICTURES[suffix][:-20])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy(np.array([RAMP, 1e-23], dtype=object), allow_pickle=True), "object array"),
        (npy(np.zeros((5, 3, 4))), r"shape \(5, 3, 4\)"),
        (npy(np.zeros(7)), r"shape \(7,\)"),
        (npy(np.zeros((0, 4))), r"shape \(0, 4\)"),
        (npy(np.array([["a", "b"], ["c", "d"]])), "real numbers"),
        (npy(RAMP * 1j), "real numbers"),
    ],
)
def test_arrays_that_are_no_image_are_refused(content, reason):
    with pytest.raises(InputError, match=r"x\.npy: .*" + reason):
        read_image("x.npy", content)


def test_npz_under_an_npy_name_is_refused():
    stream = io.BytesIO()
    np.savez(stream, data=RAMP, label=1)
    with pytest.raises(InputError, match="npz archive"):
        read_image("x.npy", stream.getvalue())


def test_load_images(tmp_path):
    members = layout(tmp_path / "in", n=2)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "._0.npy").write_bytes(b"resource fork")
    (tmp_path / "in" / "gap.npy").write_bytes(npy(np.array([[np.nan, 4.0], [4.0, 4.0]])))
    single = tmp_path / "in" / "sub" / "1.npy"
    found = list(load_images([tmp_path / "in", single]))
    expected = [tmp_path / "in" / name for name in (*sorted({*members, "gap.npy"}), single)]
    assert [path for path, _ in found] == expected
    assert found[-1][1][0, 0] == 21
    np.testing.assert_array_equal(dict(found)[tmp_path / "in" / "gap.npy"], np.full((2, 2), 4))
    (tmp_path / "empty").mkdir()
    for path, reason in (
        ("empty", "no image"),
        ("gone.npy", "does not exist"),
        ("in/notes.txt", "unknown kind"),
    ):
        with pytest.raises(InputError, match=f"{path}: .*{reason}"):
            load_images([tmp_path / path])  # at once, before anything is read


def test_real_images_are_read():
    if not SHARED.is_dir():
        pytest.skip(f"real images absent: {SHARED}")
    files = [path for path in SHARED.rglob("*") if suffix_of(path.name)]
    read = dict(load_images([SHARED]))
    assert set(read) == set(files) and len(files) > 40
    sides = {".png": 150, ".npy": 100, ".fits": 120}
    for path, image in read.items():
        assert image.shape == (sides[path.suffix],) * 2 and np.isfinite(image).all()
        assert image.std() > 0
    path = next(path for path in files if path.suffix == ".fits")
    content = path.read_bytes()
    start = (content.find(b"END" + b" " * 77) // 2880 + 1) * 2880  # the pixels follow the header
    raw = np.frombuffer(content, ">f4", 120 * 120, start)
    np.testing.assert_array_equal(read_image(path).ravel(), raw)


# ------------------------------------------------------------------------------ splits


def test_splits_meet_the_sizes_and_are_stratified():
    classes = ["no_sub"] * 700 + ["cdm"] * 350 + ["axion"] * 350
    ids = [f"{i:05d}" for i in range(1400)]
    sizes = {"train": 450, "valid": 225, "opt": 225, "test": 500}
    splits = assign_splits(ids, classes, sizes, 3)
    table = pd.crosstab(np.array(classes), splits)
    assert table.sum().to_dict() == sizes
    for split, size in sizes.items():
        for kind, share in (("no_sub", 0.5), ("cdm", 0.25), ("axion", 0.25)):
            assert abs(table.loc[kind, split] - share * size) < 1
    order = np.random.default_rng(0).permutation(1400)
    again = assign_splits([ids[i] for i in order], [classes[i] for i in order], sizes, 3)
    np.testing.assert_array_equal(again, splits[order])
    assert (assign_splits(ids, classes, sizes, 4) != splits).mean() > 0.5


def test_splits_of_other_numbers_are_proportions():
    classes = ["sub", "no_sub"] * 60
    sizes = {"train": 45, "valid": 15, "opt": 15, "test": 25}
    splits = assign_splits(range(120), classes, sizes, 0)
    assert dict(zip(*np.unique(splits, return_counts=True), strict=True)) == {
        "train": 54,
        "valid": 18,
        "opt": 18,
        "test": 30,
    }


def test_every_split_gets_every_class_however_rare():
    generator = np.random.default_rng(5)
    for _ in range(200):
        totals = generator.integers(4, 30, 3)
        spread = 3 + generator.multinomial(totals.sum() - 12, [0.7, 0.1, 0.1, 0.1])
        sizes = dict(zip(SIZES, spread.tolist(), strict=True))
        classes = np.repeat(["no_sub", "cdm", "axion"], totals)
        table = pd.crosstab(classes, assign_splits(range(len(classes)), classes, sizes, 0))
        assert table.sum().to_dict() == sizes and table.to_numpy().min() >= 1


def test_too_few_images_for_the_splits():
    with pytest.raises(InputError, match="class 'cdm': found 3 images; expected at least 4"):
        assign_splits(range(23), ["no_sub"] * 20 + ["cdm"] * 3, SIZES, 0)
    few = {"train": 100, "valid": 1, "opt": 50, "test": 50}
    with pytest.raises(InputError, match="split 'valid' would hold 0 of 40 .* at least 2"):
        assign_splits(range(40), ["no_sub", "cdm"] * 20, few, 0)
    with pytest.raises(InputError, match="'a' occurs twice"):
        assign_splits(["a", "a"], ["no_sub", "cdm"], SIZES, 0)


# ------------------------------------------------------------------------------ dataset on disk


def test_dataset_round_trip(tmp_path):
    ids = ["00012", "NA", "7", "x,y"]
    catalog = frame(ids).assign(theta_E=[0.1 + 0.2, 1e-24, np.nan, 1 / 3], seed=[1, 2, 3, 4])
    images = np.random.default_rng(0).normal(size=(4, 3, 5)).astype("f4")
    write(tmp_path / "d", images, catalog, rule="made", seed=9, pixel_scale=0.05)
    data = Dataset.open(tmp_path / "d")
    np.testing.assert_array_equal(data.images, images)
    assert isinstance(data.images, np.memmap)
    assert data.catalog["id"].tolist() == ids
    np.testing.assert_array_equal(data.catalog["theta_E"], catalog["theta_E"])
    assert data.catalog["seed"].dtype == np.int64
    sidecar = json.loads((tmp_path / "d" / "dataset.json").read_text())
    expected = {"n": 4, "shape": [3, 5], "classes": {"no_sub": 2, "cdm": 2}, "rule": "made"}
    expected |= {"pixel_scale": 0.05, "seed": 9}
    assert {key: sidecar[key] for key in expected} == expected


def test_write_takes_chunks_and_leaves_no_halves(tmp_path):
    images = np.arange(4 * 6, dtype="f4").reshape(4, 2, 3)
    write(tmp_path / "d", iter([images[:3], images[3:]]), frame(list("abcd")))
    np.testing.assert_array_equal(np.load(tmp_path / "d" / "images.npy"), images)
    for wrong in ([images[:3]], [images, images], [images[:2], np.zeros((2, 3, 3))], []):
        with pytest.raises(InputError, match="found"):
            write(tmp_path / "d", iter(wrong), frame(list("abcd")))

    def failing():
        yield images[:2]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write(tmp_path / "new", failing(), frame(list("abcd")))
    with pytest.raises(InputError, match="'a' occurs twice"):
        write(tmp_path / "new", images, frame(list("abca")))
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    np.testing.assert_array_equal(np.load(tmp_path / "d" / "images.npy"), images)  # still whole


def test_write_spares_other_files(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        write(tmp_path, np.zeros((2, 3, 3)), frame(["a", "b"]))
    assert (tmp_path / "thesis.tex").exists()


def test_open_names_what_is_wrong(tmp_path):
    folder = tmp_path / "d"
    with pytest.raises(InputError, match=r"images\.npy, catalog\.csv, dataset\.json missing"):
        Dataset.open(folder)
    for name in ("images.npy", "catalog.csv", "dataset.json"):
        write(folder, np.zeros((2, 3, 3)), frame(["a", "b"]))
        (folder / name).unlink()
        with pytest.raises(InputError, match=f"d: no dataset: {name} missing"):
            Dataset.open(folder)
    table = "id,class,split,source\na,no_sub,train,x\nb,cdm,train,x\n"
    for old, new, reason in (
        ("b,cdm,train,x\n", "", "1 rows; expected 2"),
        ("b,cdm", "a,cdm", "'a' occurs twice"),
        ("cdm", "wdm", "class: found 'wdm'"),
        ("train", "tain", "split: found 'tain'"),
        ("source", "origin", "columns missing: source"),
    ):
        write(folder, np.zeros((2, 3, 3)), frame(["a", "b"]))
        (folder / "catalog.csv").write_text(table.replace(old, new))
        with pytest.raises(InputError, match=rf"catalog\.csv: .*{reason}"):
            Dataset.open(folder)
    write(folder, np.zeros((2, 3, 3)), frame(["a", "b"]))
    for content in (npy(np.zeros((2, 3, 3))), (folder / "images.npy").read_bytes()[:-4]):
        (folder / "images.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"images\.npy: "):
            Dataset.open(folder)


def test_rows_and_labels(tmp_path):
    classes = ["cdm", "no_sub", "axion", "no_sub", "cdm", "cdm"]
    splits = ["train", "train", "test", "test", "valid", "opt"]
    catalog = frame(list("abcdef"), classes, splits)
    write(tmp_path / "d", np.zeros((6, 3, 3)), catalog)
    data = Dataset.open(tmp_path / "d")
    assert data.rows("train").tolist() == [0, 1]
    assert data.rows("test", "train").tolist() == [0, 1, 2, 3]
    assert data.rows().tolist() == [0, 1, 2, 3, 4, 5]
    labels, names = data.labels("multiclass")
    assert names == ["no_sub", "cdm", "axion"] and labels.tolist() == [1, 0, 2, 0, 1, 1]
    labels, names = data.labels("binary")
    assert names == ["no_sub", "sub"] and labels.tolist() == [1, 0, 1, 0, 1, 1]
    with pytest.raises(InputError, match="split 'valid': found cdm only"):
        data.rows("train", "valid")
    with pytest.raises(InputError, match="split: found 'val'"):
        data.rows("val")
    with pytest.raises(InputError, match="task: found 'ternary'"):
        data.labels("ternary")
    write(tmp_path / "d", np.zeros((1, 3, 3)), frame(["a"], ["no_sub"]))
    with pytest.raises(InputError, match="found no_sub only"):
        Dataset.open(tmp_path / "d").labels("binary")


def test_merge(tmp_path):
    generator = np.random.default_rng(2)
    images = generator.normal(size=(700, 2, 3)).astype("f4")
    ids = [f"{i:05d}" for i in range(700)]
    mass = [f"{value:.3e}" if value > 0 else "" for value in generator.normal(size=700)]
    whole = frame(ids).assign(mass=mass, n=range(700))
    order = generator.permutation(700)
    for k, part in enumerate((order[:600], order[600:])):
        write(tmp_path / str(k), images[part], whole.iloc[part])
    merge([tmp_path / "0", tmp_path / "1"], tmp_path / "all", pixel_scale=0.05)
    np.testing.assert_array_equal(np.load(tmp_path / "all" / "images.npy"), images)
    rows = list(csv.reader((tmp_path / "all" / "catalog.csv").open(newline="")))
    assert rows == [list(whole), *([str(value) for value in row] for row in whole.to_numpy())]
    assert json.loads((tmp_path / "all" / "dataset.json").read_text())["pixel_scale"] == 0.05
    with pytest.raises(InputError, match="'00000' occurs twice|id .* occurs twice"):
        merge([tmp_path / "0", tmp_path / "0"], tmp_path / "twice")
    write(tmp_path / "2", np.zeros((2, 4, 3)), frame(["a", "b"]).assign(mass="", n=1))
    with pytest.raises(InputError, match="4 x 3 pixels; expected 2 x 3 pixels"):
        merge([tmp_path / "0", tmp_path / "2"], tmp_path / "sizes")
    write(tmp_path / "2", np.zeros((2, 2, 3)), frame(["a", "b"]).assign(mass=""))
    with pytest.raises(InputError, match=r"columns differ .*: n$"):
        merge([tmp_path / "0", tmp_path / "2"], tmp_path / "columns")
    assert not [path for path in tmp_path.iterdir() if path.name not in ("0", "1", "2", "all")]


# ------------------------------------------------------------------------ folders and archives


@pytest.mark.parametrize("suffix", [".npy", ".png", ".jpg"])
def test_ingest_folder(tmp_path, suffix):
    layout(tmp_path / "lenses", ("No Substructure", "SPHERE", "vort"), suffix=suffix)
    (tmp_path / "lenses" / "SPHERE" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "lenses" / "vort" / f"._0{suffix}").write_bytes(b"x")
    (tmp_path / "lenses" / ".cache").mkdir()
    (tmp_path / "lenses" / ".cache" / f"0{suffix}").write_bytes(b"x")
    ingest(tmp_path / "lenses", tmp_path / "d", SIZES, 1, progress=False)
    data = Dataset.open(tmp_path / "d")
    assert data.images.shape == (18, 5, 6)
    folders = ("No Substructure", "SPHERE", "vort")
    expected = {f"{name}/{i}": 20 * k + i for k, name in enumerate(folders) for i in range(6)}
    assert by_id(tmp_path / "d") == expected
    kinds = dict(zip(folders, ("no_sub", "cdm", "axion"), strict=True))
    assert [kinds[name.split("/")[0]] for name in data.catalog["id"]] == list(data.catalog["class"])
    assert data.catalog["source"][0] == f"lenses/No Substructure/0{suffix}"
    split = assign_splits(data.catalog["id"], data.catalog["class"], SIZES, 1)
    assert data.catalog["split"].tolist() == split.tolist()
    sidecar = json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert sidecar["published_splits_ignored"] is False and sidecar["files_ignored"] == 1


@pytest.mark.parametrize("kind", ["tgz", "tar.gz", "tar", "zip"])
@pytest.mark.parametrize("wrapper", ["", "./lenses/", "a/b/"])
def test_ingest_archive_equals_its_folder(tmp_path, kind, wrapper):
    members = layout(tmp_path / "in")
    members = {wrapper + name: content for name, content in reversed(members.items())}
    members |= {"__MACOSX/._x.npy": b"x", f"{wrapper}README.md": b"about"}
    path = tmp_path / f"in.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        tar(path, members, "w" if kind == "tar" else "w:gz")
    ingest(path, tmp_path / "packed", SIZES, 0, progress=False)
    ingest(tmp_path / "in", tmp_path / "plain", SIZES, 0, progress=False)
    packed, plain = Dataset.open(tmp_path / "packed"), Dataset.open(tmp_path / "plain")
    np.testing.assert_array_equal(packed.images, plain.images)
    columns = ["id", "class", "split"]
    assert packed.catalog[columns].equals(plain.catalog[columns])
    source = f"in.{kind}/{wrapper.removeprefix('./')}no_sub/0.npy"
    assert packed.catalog["source"][0] == source
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["in", path.name, "packed", "plain"]
    )


def test_ingest_merges_published_splits(tmp_path):
    for k, split in enumerate(("train", "val")):
        layout(tmp_path / "in" / "dataset" / split, ("no", "sphere"), n=4 + k)
    ingest(tmp_path / "in", tmp_path / "d", SIZES, 0, progress=False)
    values = by_id(tmp_path / "d")
    assert len(values) == 18 and values["train/no/1"] == 1 and values["val/sphere/4"] == 24
    sidecar = json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert sidecar["published_splits_ignored"] is True


def test_ingest_fills_missing_pixels(tmp_path):
    layout(tmp_path / "in")
    image = np.array([[np.nan] * 6, [1.0] * 6, [2.0] * 6, [3.0] * 6, [9.0] * 6])
    (tmp_path / "in" / "sub" / "3.npy").write_bytes(npy(image))
    ingest(tmp_path / "in", tmp_path / "d", SIZES, 0, progress=False)
    assert by_id(tmp_path / "d")["sub/3"] == 2.5
    sidecar = json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert sidecar["images_with_missing_pixels"] == 1


def test_progress_goes_to_stderr_only_if_wanted(tmp_path, capsys):
    layout(tmp_path / "in")
    ingest(tmp_path / "in", tmp_path / "d", SIZES, 0, progress=False)
    assert capsys.readouterr() == ("", "")
    ingest(tmp_path / "in", tmp_path / "d", SIZES, 0)
    output = capsys.readouterr()
    assert output.out == "" and "12/12" in output.err


def refused(path, out, reason):
    with pytest.raises(InputError, match=reason):
        ingest(path, out, SIZES, 0, progress=False)
    assert not out.exists() and not list(out.parent.glob(f".{out.name}*"))


def test_ingest_refuses_wrong_folders(tmp_path):
    out = tmp_path / "d"
    refused(tmp_path / "gone", out, "gone: does not exist")
    (tmp_path / "list.csv").write_text("a,b")
    refused(tmp_path / "list.csv", out, r"list\.csv: expected a folder, or an archive \(\.tgz")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", out, "empty: found no image; expected .jpg")
    layout(tmp_path / "one", ("sub",))
    (tmp_path / "one" / "no_sub").mkdir()
    (tmp_path / "one" / "no_sub" / "1.tif").write_bytes(b"x")
    refused(tmp_path / "one", out, r"found sub only; expected no_sub .*1\.tif")
    layout(tmp_path / "unknown", ("no", "sub", "warm"))
    refused(tmp_path / "unknown", out, "unknown class folder 'warm'; expected .*no, .*axion")
    layout(tmp_path / "nested" / "train", ("no", "wdm"))
    refused(tmp_path / "nested", out, "unknown class folder 'wdm'")
    layout(tmp_path / "extra", ("train/no", "train/sub", "spare/no"))
    refused(tmp_path / "extra", out, "unknown folder 'spare'; expected train")
    layout(tmp_path / "flat", ("",))
    refused(tmp_path / "flat", out, r"0\.npy lies in no class folder; expected one of: no, ")
    layout(tmp_path / "double")
    layout(tmp_path / "double", suffix=".png")
    refused(tmp_path / "double", out, r"no_sub/0.* and no_sub/0.* would share the id 'no_sub/0'")
    layout(tmp_path / "inside")
    refused(tmp_path / "inside", tmp_path / "inside" / "d", "lies inside")


def test_ingest_refuses_mixed_sizes(tmp_path):
    layout(tmp_path / "in", ("no",))
    layout(tmp_path / "in", ("sub",), shape=(7, 6))
    expected = r"5 x 6 pixels \(no/0\.npy\), 7 x 6 pixels \(sub/0\.npy\)"
    refused(tmp_path / "in", tmp_path / "d", expected)


def test_ingest_lists_unreadable_files(tmp_path):
    layout(tmp_path / "in", n=30)
    (tmp_path / "in" / "sub" / "0.npy").write_bytes(npy(np.array([RAMP, 1], object)))
    (tmp_path / "in" / "sub" / "1.npy").write_bytes(npy(np.full((5, 6), np.nan)))
    with pytest.raises(InputError) as error:
        ingest(tmp_path / "in", tmp_path / "d", SIZES, 0, progress=False)
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and "2 of 60 files" in lines[0]
    assert "sub/0.npy: is an object array" in lines[1] and "sub/1.npy: no pixel" in lines[2]
    for i in range(25):
        (tmp_path / "in" / "no_sub" / f"{i}.npy").write_bytes(b"")
    with pytest.raises(InputError) as error:
        ingest(tmp_path / "in", tmp_path / "d", SIZES, 0, progress=False)
    lines = str(error.value).splitlines()
    assert len(lines) == 12 and lines[-1].strip() == "… and 17 more"


@pytest.mark.parametrize("name", ["../sub/9.npy", "sub/../../9.npy", "/sub/9.npy"])
def test_ingest_refuses_members_outside_the_archive(tmp_path, name):
    members = layout(tmp_path / "in") | {name: npy(RAMP)}
    refused(tar(tmp_path / "in.tgz", members), tmp_path / "d", "points outside the archive")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    refused(tmp_path / "in.zip", tmp_path / "d", "points outside the archive")


def test_ingest_refuses_links_in_archives(tmp_path):
    members = layout(tmp_path / "in")
    tar(tmp_path / "in.tar", members, "w")
    for kind, reason in ((tarfile.SYMTYPE, "a link"), (tarfile.FIFOTYPE, "a special file")):
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
def test_ingest_refuses_damaged_archives(tmp_path, kind):
    members = layout(tmp_path / "in", shape=(50, 60))
    path = tmp_path / f"in.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        tar(path, members, "w:gz" if kind == "tgz" else "w")
    whole = path.read_bytes()
    for content in (b"<html>not found</html>", whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        refused(path, tmp_path / "d", rf"in\.{kind}: ")
