"""The page of the test lenses: numbers and pictures in it are those of the run."""

import base64
import json
import re
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from studies import explorer
from studies.__main__ import main
from vitdm.data.dataset import Dataset
from vitdm.errors import InputError


@pytest.fixture(scope="module")
def results(lenses, processed, features_csv, tmp_path_factory):
    """What a run leaves of its final test: twelve lenses, half of them called wrong."""
    results = tmp_path_factory.mktemp("results")
    shutil.copytree(lenses, results / "dataset")
    shutil.copytree(processed, results / "processed")
    shutil.copy(features_csv, results / "features.csv")
    data = Dataset.open(lenses)
    tested = data.catalog[data.catalog["split"] == "test"].iloc[::-1]  # in an order of their own
    table = tested[["id", "class", "split"]].reset_index(drop=True)
    table.insert(1, "label", table["class"].map({"no_sub": 0, "cdm": 1, "axion": 2}))
    right = np.arange(len(table)) % 2 == 0
    for k, name in enumerate(("no_sub", "cdm", "axion")):
        own = table["label"] == k
        table[f"p_{name}"] = np.where(right, np.where(own, 0.8, 0.1), np.where(own, 0.0, 0.5))
    (results / "evaluation").mkdir()
    table.to_csv(results / "evaluation/predictions.csv", index=False)
    (results / "lensfit").mkdir()
    maps = np.zeros((len(data.catalog), 32, 32), np.float32)
    maps[:, 16, 20] = np.arange(len(maps))  # a pixel that tells the lens
    np.save(results / "lensfit/residuals.npy", maps)
    (results / "lensfit/provenance.json").write_text("{}")
    return results


@pytest.fixture(scope="module")
def page(results):
    out = results / "explorer.html"
    assert main(["explorer", str(results), "--out", str(out)]) == 0
    return out


def content(page):
    """Return the data of a page, as its script reads them."""
    return json.loads(re.search(r"^const D = (\{.*\});$", page.read_text(), re.M)[1])


def tile(data, what, k):
    """Return a picture of the page, as its script cuts it out of the sheets."""
    side, columns = data["tile"]["side"], data["tile"]["columns"]
    sheet, place = divmod(k, columns * data["tile"]["rows"])
    packed = base64.b64decode(data["sheets"][what][sheet].partition(",")[2])
    image = cv2.imdecode(np.frombuffer(packed, "u1"), cv2.IMREAD_GRAYSCALE)
    y, x = divmod(place, columns)
    return image[y * side : (y + 1) * side, x * side : (x + 1) * side][::-1]


def test_numbers_are_those_of_the_run(results, page):
    data, columns = content(page), content(page)["columns"]
    predictions = pd.read_csv(results / "evaluation/predictions.csv")
    catalog = Dataset.open(results / "dataset").catalog.set_index("id")
    assert columns["text"]["id"] == list(predictions["id"])
    assert columns["text"]["right"] == [k % 2 == 0 for k in range(len(predictions))]
    assert columns["scores"]["score"] == pytest.approx(list(1 - predictions["p_no_sub"]))
    truth = catalog.loc[predictions["id"], "source_x"]
    assert columns["truth"]["source_x"] == pytest.approx(list(truth), rel=1e-3)
    assert not {"seed", "theta_E", "slope"} & set(columns["truth"])  # alike, or absent
    measured = pd.read_csv(results / "features.csv").set_index("id")["ring_radius"]
    shown = [np.nan if v is None else v for v in columns["measured"]["ring_radius"]]
    assert shown == pytest.approx(list(measured.loc[predictions["id"]]), rel=1e-3, nan_ok=True)
    assert data["classes"] == ["no_sub", "cdm", "axion"]


def test_pictures_are_those_of_the_lens(results, page):
    """Each beside its own numbers, whatever the order of the predictions."""
    data, seen = content(page), Dataset.open(results / "processed")
    rows = {name: row for row, name in enumerate(seen.catalog["id"])}
    for k, name in enumerate(data["columns"]["text"]["id"]):
        image = cv2.resize(seen.images[rows[name]], (96, 96), interpolation=cv2.INTER_AREA)
        alike = np.corrcoef(image.ravel(), tile(data, "image", k).ravel())[0, 1]
        assert alike > 0.9, name
        bright = tile(data, "residual", k)[16 * 3 + 1, 20 * 3 + 1]
        assert (bright > 200) == (rows[name] > 10) or 3 < rows[name] < 20, name


def test_it_loads_nothing(page):
    text = page.read_text()
    assert not re.search(
        r"(src|href)=|https?:|@import|fetch\(", re.sub(r"data:image[^\"]*", "", text)
    )
    assert json.loads(page.with_suffix(".json").read_text())["rule"] == "explorer"


def test_many_lenses_have_small_pictures(results, tmp_path, monkeypatch):
    monkeypatch.setattr(explorer, "FEW", 5)
    monkeypatch.setattr(explorer, "COLUMNS", 4)
    monkeypatch.setattr(explorer, "ROWS", 2)
    explorer.explorer(results, tmp_path / "small.html")
    data = content(tmp_path / "small.html")
    assert data["tile"]["side"] == 48 and len(data["sheets"]["image"]) == 2
    assert tile(data, "image", 11).shape == (48, 48)


def test_classes_of_a_binary_model():
    """A lens with a clump is right if it is called one with substructure."""
    assert explorer._is_right("sub", "cdm", False) and not explorer._is_right(
        "no_sub", "cdm", False
    )
    assert explorer._is_right("no_sub", "no_sub", True) and not explorer._is_right(
        "cdm", "axion", True
    )


def test_predictions_of_another_run_are_refused(results, tmp_path):
    shutil.copytree(results, tmp_path / "other")
    file = tmp_path / "other/evaluation/predictions.csv"
    file.write_text(re.sub(r"^(\w+)_(\d+),", r"another_\2,", file.read_text(), flags=re.M))
    with pytest.raises(InputError, match="lacks another_.*expected those of one run"):
        explorer.explorer(tmp_path / "other", tmp_path / "page.html")
