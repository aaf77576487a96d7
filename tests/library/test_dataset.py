"""Splitting and storing of images, against arrays made by hand."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
from files import npy

from vitdm.__main__ import main
from vitdm.config import Preprocess
from vitdm.data.dataset import Dataset, merge_shards, new, write
from vitdm.data.splits import assign_splits
from vitdm.errors import InputError
from vitdm.preprocess import process

SIZES = {"train": 4, "valid": 2, "opt": 2, "test": 4}


def frame(ids, classes=None, splits=None):
    classes = classes or ["no_sub", "cdm"] * (len(ids) // 2)
    splits = splits or ["train"] * len(ids)
    return pd.DataFrame({"id": ids, "class": classes, "split": splits, "source": "made"})


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
        totals = generator.integers(5, 30, 3)
        spread = [3, 3, 3, 6] + generator.multinomial(totals.sum() - 15, [0.7, 0.1, 0.1, 0.1])
        sizes = dict(zip(SIZES, spread.tolist(), strict=True))
        classes = np.repeat(["no_sub", "cdm", "axion"], totals)
        table = pd.crosstab(classes, assign_splits(range(len(classes)), classes, sizes, 0))
        assert table.sum().to_dict() == sizes and table.to_numpy().min() >= 1
        assert table["test"].min() >= 2


@pytest.mark.parametrize("spread", [(45, 15, 15, 25), (300, 100, 100, 200), (4500, 1, 2, 3)])
def test_five_images_of_each_class_are_enough_for_any_proportions(spread):
    for n in (5, 6, 7):
        classes = ["no_sub", "cdm", "axion"] * n
        sizes = dict(zip(SIZES, spread, strict=True))
        table = pd.crosstab(np.array(classes), assign_splits(range(3 * n), classes, sizes, 0))
        assert (table[["train", "valid", "opt", "test"]] >= [1, 1, 1, 2]).all(axis=None)


def test_too_few_images_for_the_splits():
    with pytest.raises(InputError, match=r"found 4 of class 'cdm'; expected at least 5 .*2 test\)"):
        assign_splits(range(24), ["no_sub"] * 20 + ["cdm"] * 4, SIZES, 0)
    few = {"train": 20, "valid": 1, "opt": 9, "test": 10}
    with pytest.raises(InputError, match="n_images: valid: found 1; expected at least 2, 1 of"):
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


def test_images_are_written_and_read_as_numpy_does(tmp_path):
    images = np.random.default_rng(0).normal(size=(7, 3, 5))  # float64, to be stored as float32
    np.save(tmp_path / "expected.npy", images.astype("f4"))
    catalog = frame(list("abcdefg"), ["no_sub"] * 7)
    with new(tmp_path / "d", 7) as target:
        target.put(np.array([6, 0, 3]), images[[6, 0, 3]])
        target.put(4, images[4:6])
        target.put(1, images[1:3])
        target.finish(catalog)
    assert (tmp_path / "d/images.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    blocks = list(Dataset.open(tmp_path / "d").blocks(3))
    assert [len(block) for block in blocks] == [3, 3, 1]
    assert not any(isinstance(block, np.memmap) for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), images.astype("f4"))


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
    for old, changed, reason in (
        ("b,cdm,train,x\n", "", "1 rows; expected 2"),
        ("b,cdm", "a,cdm", "'a' occurs twice"),
        ("cdm", "wdm", "class: found 'wdm'"),
        ("train", "tain", "split: found 'tain'"),
        ("source", "origin", "columns missing: source"),
        ("b,cdm,train,x", '"b\rb",cdm,train,x', r"id: found 'b\\rb'; expected no line breaks"),
        ("b,cdm,train,x", '"b\nb",cdm,train,x', r"id: found 'b\\nb'; expected no line breaks"),
        ("b,cdm,train,x", "b,cdm,train,x,y", "cannot be read as a table"),
    ):
        write(folder, np.zeros((2, 3, 3)), frame(["a", "b"]))
        (folder / "catalog.csv").write_text(table.replace(old, changed))
        with pytest.raises(InputError, match=rf"catalog\.csv: .*{reason}"):
            Dataset.open(folder)
    write(folder, np.zeros((2, 3, 3)), frame(["a", "b"]))
    for content in (npy(np.zeros((2, 3, 3))), (folder / "images.npy").read_bytes()[:-4]):
        (folder / "images.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"images\.npy: "):
            Dataset.open(folder)


@pytest.mark.parametrize("order", ["C", "F"])
def test_images_are_read_rightly_in_any_order(tmp_path, order):
    images = np.random.default_rng(0).normal(size=(5, 24, 26)).astype("f4")
    write(tmp_path / "d", images, frame(list("abcde"), ["no_sub"] * 5))
    np.save(tmp_path / "d/images.npy", np.asarray(images, order=order))
    data = Dataset.open(tmp_path / "d")
    np.testing.assert_array_equal(np.concatenate(list(data.blocks(2))), images)
    assert main(["preprocess", str(tmp_path / "d"), "--out", str(tmp_path / "p")]) == 0
    processed = np.load(tmp_path / "p/images.npy")
    expected = [process(image, Preprocess())[0] for image in images]
    np.testing.assert_array_equal(processed, expected)
    np.save(tmp_path / "d/images.npy", images.astype(">f4"))
    with pytest.raises(InputError, match=r"found \(5, 24, 26\) >f4; expected \(n, H, W\) float32"):
        Dataset.open(tmp_path / "d")


ODD = [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"classes": 3}', b"\0\0"]
ODD += [b'{"classes": ["x y", 3]}', b'{"classes": {"x-y": 1}}']


@pytest.mark.parametrize("name", ["catalog.csv", "dataset.json", "images.npy"])
def test_damaged_files_are_no_traceback(tmp_path, capsys, name):
    """Each is opened, or refused with the name of the file."""
    write(tmp_path / "d", np.random.default_rng(0).normal(size=(2, 24, 24)), frame(["a", "b"]))
    whole, generator = (tmp_path / "d" / name).read_bytes(), np.random.default_rng(0)
    cut = [whole[: int(n)] for n in generator.integers(0, min(len(whole), 200), 20)]
    changed = []
    for _ in range(100):
        content = bytearray(whole)
        for place in generator.integers(0, min(len(whole), 300), 3):
            content[place] = generator.integers(256)
        changed.append(bytes(content))
    n_refused = 0
    for content in (*ODD, *cut, *changed):
        (tmp_path / "d" / name).write_bytes(content)
        try:
            Dataset.open(tmp_path / "d")
        except InputError as error:
            assert str(error).startswith(str(tmp_path / "d"))
            n_refused += 1
    assert n_refused > 20
    (tmp_path / "d" / name).write_bytes(b"{")
    assert main(["preprocess", str(tmp_path / "d"), "--out", str(tmp_path / "p")]) == 2
    assert f"d/{name}: " in capsys.readouterr().err


def test_a_catalog_with_line_breaks_is_not_written(tmp_path):
    for name in ("a\rb", "a\nb"):
        with pytest.raises(InputError, match="catalog: id: found .*; expected no line breaks"):
            write(tmp_path / "d", np.zeros((2, 3, 3)), frame([name, "c"]))
    assert not list(tmp_path.iterdir())


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
    merge_shards([tmp_path / "0", tmp_path / "1"], tmp_path / "all", pixel_scale=0.05)
    np.testing.assert_array_equal(np.load(tmp_path / "all" / "images.npy"), images)
    rows = list(csv.reader((tmp_path / "all" / "catalog.csv").open(newline="")))
    assert rows == [list(whole), *([str(value) for value in row] for row in whole.to_numpy())]
    assert json.loads((tmp_path / "all" / "dataset.json").read_text())["pixel_scale"] == 0.05
    with pytest.raises(InputError, match="id .* occurs twice"):
        merge_shards([tmp_path / "0", tmp_path / "0"], tmp_path / "twice")
    write(tmp_path / "2", np.zeros((2, 4, 3)), frame(["a", "b"]).assign(mass="", n=1))
    with pytest.raises(InputError, match="4 x 3 pixels; expected 2 x 3 pixels"):
        merge_shards([tmp_path / "0", tmp_path / "2"], tmp_path / "sizes")
    write(tmp_path / "2", np.zeros((2, 2, 3)), frame(["a", "b"]).assign(mass=""))
    with pytest.raises(InputError, match=r"columns differ .*: n$"):
        merge_shards([tmp_path / "0", tmp_path / "2"], tmp_path / "columns")
    assert not [path for path in tmp_path.iterdir() if path.name not in ("0", "1", "2", "all")]


def test_merge_keeps_what_the_shards_say_alike(tmp_path):
    for k, scale in enumerate((0.05, 0.05, 0.1)):
        catalog = frame([f"{k}a", f"{k}b"])
        said = {
            "pixel_scale": scale,
            "seed": 3,
            "config": {"a": 1},
            "band": "iz"[k % 2],
            "rule": "x",
        }
        write(tmp_path / str(k), np.zeros((2, 3, 3)), catalog, **said)
    merge_shards([tmp_path / "0", tmp_path / "1"], tmp_path / "all")
    shard, found = (json.loads((tmp_path / k / "dataset.json").read_text()) for k in ("0", "all"))
    assert (found["pixel_scale"], found["seed"], found["rule"], found["n"]) == (0.05, 3, "merge", 4)
    assert found["config_sha256"] == shard["config_sha256"] is not None
    assert "band" not in found  # i and z
    with pytest.raises(
        InputError, match=r"2.dataset\.json: pixel_scale: found 0\.1; expected 0\.05"
    ):
        merge_shards([tmp_path / "0", tmp_path / "2"], tmp_path / "scales")
    (tmp_path / "1" / "dataset.json").write_text("half")
    with pytest.raises(InputError, match=r"1.dataset\.json: cannot be read as JSON"):
        merge_shards([tmp_path / "0", tmp_path / "1"], tmp_path / "broken")
