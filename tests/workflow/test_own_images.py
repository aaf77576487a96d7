"""Images of one's own: the worked examples of docs/data.md and the table of the README, as written.

The commands are taken from the pages and run in a temporary folder, on images that the simulator
makes (``own_images``).
"""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import own_images as own
import pandas as pd
import pytest
import yaml
from astropy.io import fits
from files import class_folders, folder, npy, npz

import vitdm
from vitdm import config, lens
from vitdm.__main__ import main
from vitdm.data import Dataset
from vitdm.data.readers import load_observations, read_observation
from vitdm.simulation.classes import CLASSES

ROOT = Path(__file__).parents[2]
DATA, README = ((ROOT / name).read_text() for name in ("docs/data.md", "README.md"))


def section(heading, page=DATA):
    return re.split(r"\n##+ ", page.split(f"# {heading}\n")[1])[0]


def blocks(language, text):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [content for known, content in found if known == language]


def rows(text):
    """Return the cells of the first table of a text, but for its header."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


class Said(NamedTuple):
    """What a command prints, and what it says besides which model it takes."""

    out: str
    err: str


def run(words, capsys):
    """Run a command of vitdm, and return what it prints and what it says."""
    assert main(words) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines(keepends=True) if not line.startswith("model: ")]
    return Said(out, "".join(told))


def run_section(heading, capsys):
    """Run the commands of vitdm of a section, and return what they say and the section."""
    text = section(heading)
    lines = [shlex.split(line) for block in blocks("sh", text) for line in block.splitlines()]
    said = [run(words, capsys).err for program, *words in lines if program == "vitdm"]
    assert said
    return "".join(said), text


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of its own to work in; classes that a command declares are forgotten after it."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    known = dict(CLASSES)
    yield tmp_path
    CLASSES.clear()
    CLASSES.update(known)


# --------------------------------------------------------------------------- the worked examples


def test_a_cutout_with_noise_map_and_psf(place, capsys):
    truth = own.hst_cutout(Path("data/lens.fits"))
    said, text = run_section("A cutout with noise map and PSF", capsys)
    answer = pd.read_csv("data/answer.csv", keep_default_na=False)
    columns = [name for row in rows(text) for name in re.findall(r"`(.*?)`", row[0])]
    assert list(answer) == columns and len(answer) == 1 and not said
    (row,) = answer.to_dict("records")
    assert row["unknown"] == row["fit_flags"] == row["warning"] == ""
    assert 0.9 < row["fit_chi2"] < 1.1 and row["lens_found"] == 1
    assert row["p_no_sub"] + row["p_cdm"] + row["p_axion"] == pytest.approx(1, abs=1e-5)

    names = {}
    exec(blocks("python", text)[0], names)
    observation, fitted = names["observation"], names["fits"]
    assert observation.pixel_scale == pytest.approx(0.05) and observation.unit == "electron"
    assert observation.noise.shape == observation.shape and observation.psf.shape == (11, 11)
    printed, line = capsys.readouterr().out.strip().splitlines()
    assert printed.endswith("electron ()") and line.startswith("theta_E = ") and "±" in line
    theta_E, error = names["theta_E"], names["error"]
    assert abs(theta_E - truth["theta_E"]) < 3 * error and error < 0.01 * theta_E
    assert fitted.unknown == [""] and (fitted.gain == 0).all()


def test_a_lens_galaxy_that_shines_needs_its_light(place, capsys):
    """As the page says, the reference model's fit is then poor."""
    truth = own.hst_cutout(Path("galaxy.fits"), lens_light=own.GALAXY)
    fitted = lens.fit(read_observation("galaxy.fits"), config.LensFit(lens_light=True))
    error = fitted.errors[0, fitted.names.index("theta_E")]
    assert abs(fitted.column("theta_E")[0] - truth["theta_E"]) < 3 * error
    assert 0.9 < fitted.chi2[0] < 1.1 and fitted.flags == [""]
    assert "poor" in run(["predict", "galaxy.fits"], capsys).out


def test_priors_of_the_centre_are_those_of_the_page():
    text = section("A cutout with noise map and PSF")
    for name, unit in (("center_offset", "″"), ("light_offset", "″"), ("size", " pixels")):
        assert f"`lensfit.{name}`, {getattr(config.LensFit(), name)}{unit}" in text


def test_a_folder_with_a_table_of_labels(place, capsys):
    own.survey(Path("data/survey"))
    said, text = run_section("A folder with a table of labels", capsys)
    first, told = blocks("", text)
    assert Path("data/survey/labels.csv").read_text().startswith(first)
    assert said.endswith(told)
    data = Dataset.open("data/survey_dataset")
    labels = pd.read_csv("data/survey/labels.csv")
    catalog = data.catalog.set_index("id").loc[labels["file"].str.removesuffix(".fits")]
    classes = labels["class"].map({"smooth": "no_sub", "clumpy": "cdm"})
    assert catalog["class"].tolist() == classes.tolist()
    splits = labels["split"].replace("val", "valid").to_numpy()
    drawn = catalog["split"].to_numpy() == "opt"
    assert drawn.sum() == 2 and (splits[drawn] == "train").all()
    assert (catalog["split"].to_numpy() == splits)[~drawn].all()
    told = json.loads(Path("data/survey_dataset/dataset.json").read_text())
    assert told["pixel_scale"] == pytest.approx(0.05)
    image = fits.getdata("data/survey/images/lens_03.fits")
    row = data.catalog["id"].tolist().index("lens_03")
    np.testing.assert_array_equal(data.images[row], image)


def test_a_deeplense_archive(place, capsys):
    own.deeplense(Path("data/dataset.zip"))
    said, text = run_section("A DeepLense archive", capsys)
    assert said.endswith(blocks("", text)[0])
    catalog = Dataset.open("data/three_classes").catalog
    parts = catalog["source"].str.split("/", expand=True)
    folders = {"no": "no_sub", "sphere": "cdm", "vort": "axion"}
    assert parts[3].map(folders).tolist() == catalog["class"].tolist()
    assert set(zip(parts[2], catalog["split"], strict=True)) == {
        ("val", "valid"),
        *(("train", split) for split in ("train", "opt", "test")),
    }
    assert (catalog.groupby("split")["class"].nunique() == 3).all()


# ------------------------------------------------------------------------- the table of the README


TABLE = dict(row[:2] for row in rows(section("Your own images", README)))
PREDICTED = re.findall(r"`vitdm predict (.*?)`", " ".join(TABLE.values()))
GIVEN = [
    (what, words)
    for what, cell in TABLE.items()
    for words in re.findall(r"`--config (data=.*?)`", cell)
]


def images_of_the_table():
    """Write the images that the commands of the table name."""
    image, rms, _ = own.smooth_lens()
    own.hst_cutout(Path("lens.fits"))
    frames = [fits.ImageHDU(array, own.header()) for array in (image, rms, own.kernel())]
    for k, frame in enumerate(frames):
        frame.name = f"FRAME{k + 1}"
    fits.HDUList([fits.PrimaryHDU(), *frames]).writeto("other.fits")
    Path("lens").mkdir()
    for name, letter, array in zip(
        ("image", "noise", "psf"), "abc", (image, rms, own.kernel()), strict=True
    ):
        fits.writeto(f"lens/{name}.fits", array, own.header())
        shutil.copy(f"lens/{name}.fits", f"{letter}.fits")
    fits.writeto("cube.fits", np.stack([0 * image, 2 * image, image]), own.header())
    many = [fits.ImageHDU(k * image, own.header(), name="SCI", ver=k) for k in (1, 2)]
    fits.HDUList([fits.PrimaryHDU(), *many]).writeto("many.fits")
    fits.writeto("rate.fits", image / 2000, own.header(unit="ELECTRONS/S"))


@pytest.mark.parametrize("words", [words for words in PREDICTED if "--run" not in words])
def test_images_are_classified_as_the_table_says(words, place, capsys):
    images_of_the_table()
    answer = run(["predict", *shlex.split(words), "--out", "answer.csv"], capsys)
    (row,) = pd.read_csv("answer.csv", keep_default_na=False).to_dict("records")
    with_noise = words.split()[0] in ("lens.fits", "lens/", "a.fits", "other.fits")
    assert row["unknown"] == ("" if with_noise else row["unknown"]) and row["fit_flags"] == ""
    assert "gain" not in row["unknown"] or "rate" not in words
    assert 0.85 < row["fit_chi2"] < 1.15 and not answer.err


def test_rows_of_images():
    assert len(PREDICTED) == 8 and len(GIVEN) == 7


def test_counts_per_second_without_a_gain_are_told(place, capsys):
    images_of_the_table()
    assert main(["predict", "rate.fits", "--out", "answer.csv"]) == 0
    assert "photon noise per brightness is taken to be" in capsys.readouterr().err
    assert "electron/s" in pd.read_csv("answer.csv")["warning"][0]


def test_another_pixel_scale_is_refused_with_both(place, capsys):
    image, _, _ = own.smooth_lens()
    fits.writeto("cutout.fits", image, own.header(scale=0.262))
    assert main(["predict", "cutout.fits"]) == 2
    said = capsys.readouterr().err
    assert "0.262 arcsec" in said and "0.05" in said
    assert main(["predict", "cutout.fits", "--pixel-scale", "0.05"]) == 0


def test_an_array_with_a_mask(place):
    """The code of the row; what lies under the mask does not matter."""
    (code,) = re.findall(r"`(vitdm\.Observation\(.*?\))`", TABLE["an array with a mask, in Python"])
    image, rms, truth = own.smooth_lens()
    bad = np.zeros(image.shape, bool)
    bad[70:80, 90:100] = True
    image = np.where(bad, 1e6, image)
    names = {"vitdm": vitdm, "np": np, "image": image, "bad": bad, "rms": rms}
    observation = eval(code, names | {"kernel": own.kernel()})
    fitted = lens.fit(observation, config.LensFit())
    assert fitted.column("theta_E")[0] == pytest.approx(truth["theta_E"], abs=0.01)
    assert 0.9 < fitted.chi2[0] < 1.1 and fitted.unknown == [""]
    table = vitdm.predict.predict([vitdm.load_pretrained()], [observation])
    assert table["fit_chi2"][0] == pytest.approx(fitted.chi2[0], rel=1e-3)


def test_off_centre_oblong_and_padded_images_have_the_same_lens():
    image, rms, truth = own.smooth_lens()
    padded = np.zeros((170, 161), np.float32)
    padded[8:-12, 7:-4] = image
    images = [image, image[3:], image[:-4, 5:], padded]
    fitted = lens.fit(images, config.LensFit(), pixel_scale=0.05, gain=1)
    pulls = (fitted.column("theta_E") - truth["theta_E"]) / fitted.errors[:, 0]
    assert (np.abs(pulls) < 3).all() and (np.abs(fitted.chi2 - 1) < 0.1).all()
    moved = np.diff(fitted.values[:, [fitted.names.index(f"center_{c}") for c in "xy"]], axis=0)
    assert moved[0] == pytest.approx([0, -1.5 * 0.05], abs=0.02)


def test_padded_images_are_learnt_from_as_they_are_classified(place):
    """A border of zeros is missing in a data set as it is in an observation."""
    image, _, _ = own.smooth_lens()
    rng, content = np.random.default_rng(0), {}
    for k in range(10):
        padded = image + rng.normal(0, 1, image.shape).astype(np.float32)
        padded[:, :40] = padded[:35] = 0
        content[f"{('no_sub', 'sub')[k % 2]}/{k}.npy"] = npy(padded)
    assert main(["ingest", str(folder(Path("images"), content)), "--out", "out"]) == 0
    stored = Dataset.open("out").images[0]
    (_, seen), *_ = load_observations(["images/no_sub/0.npy"])
    assert seen.mask[:35].all() and seen.mask[:, :40].all() and not seen.mask[35:, 40:].any()
    np.testing.assert_array_equal(stored, seen.data)


def data_of(what):
    """Write the images of a row of the table, and return what stands for PATH."""
    plain = {"a folder or archive of class folders": ("no_sub", "cdm", "axion")}
    plain |= {"integer labels, or classes of your own": ("0", "1", "wdm")}
    if what in plain:
        return folder(Path("images"), class_folders(plain[what]))
    if what.startswith("bad files"):
        content = class_folders() | {"sub/bad.npy": b""}
        return folder(Path("images"), content | {"sub/twice.npy": content["sub/0.npy"]})
    if what.startswith("a DeepLense"):
        return own.deeplense(Path("dataset.zip"))
    if what.startswith("one `.npz`"):
        images = np.random.default_rng(0).normal(size=(12, 8, 8))
        return Path("images.npz").write_bytes(npz(images=images, labels=["no_sub", "sub"] * 6))
    own.survey(Path("survey"))
    labels = pd.read_csv("survey/labels.csv")
    labels["class"] = labels["class"].map({"smooth": "no_sub", "clumpy": "cdm"})
    labels.to_csv("survey/labels.csv", index=False)
    return shutil.copy("survey/labels.csv", "table.csv") and Path("survey")


@pytest.mark.parametrize(("what", "words"), GIVEN, ids=[words for _, words in GIVEN])
def test_data_sets_are_read_as_the_table_says(what, words, place, capsys):
    stands_for = data_of(what)
    given = dict(word.split("=", 1) for word in shlex.split(words.replace("PATH", str(stands_for))))
    settings = {"ingest": yaml.safe_load(given.get("ingest", "{}"))}
    Path("settings.yaml").write_text(yaml.safe_dump(settings))
    said = run(["ingest", given["data"], "--config", "settings.yaml", "--out", "out"], capsys).err
    catalog = pd.read_csv("out/catalog.csv")
    assert "no_sub" in set(catalog["class"]) and "splits: train" in said
    assert set(catalog["split"]) == {"train", "valid", "opt", "test"}
    if "wdm" in words:
        assert set(catalog["class"]) == {"no_sub", "sub", "wdm"}
    if "skip_bad" in words:
        assert len(catalog) == 12 and Path("out/skipped.csv").exists()
        assert "1 dropped" in said


def test_too_few_images_are_refused_with_the_number_needed(place, capsys):
    assert TABLE["few images"].startswith("five of each class are the least")
    folder(Path("images"), class_folders(n=4))
    assert main(["ingest", "images", "--out", "out"]) == 2
    assert "at least 5 images of each class" in capsys.readouterr().err
    shutil.rmtree("images")
    folder(Path("images"), class_folders(n=5))
    assert main(["ingest", "images", "--out", "out"]) == 0
