"""Finished runs on image files, against the stages called one by one."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from astropy.io import fits
from files import signed

from vitdm import Observation
from vitdm.__main__ import main
from vitdm.data.dataset import Dataset
from vitdm.data.readers import suffix_of
from vitdm.errors import InputError
from vitdm.model.runs import load_run
from vitdm.predict import COLUMNS, predict, predict_files

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def files(lenses, tmp_path_factory):
    """The same lens as npy, FITS and png, and another of another size and unit."""
    folder = tmp_path_factory.mktemp("images")
    image = np.array(Dataset.open(lenses).images[0])
    np.save(folder / "a.npy", image)
    fits.PrimaryHDU(image).writeto(folder / "b.fits")
    bright = np.clip(image / image.max() * 255, 0, 255).astype(np.uint8)
    cv2.imwrite(str(folder / "c.png"), bright)
    np.save(folder / "d.npy", 1e-12 * np.pad(image, 7))
    return folder


def test_predictions_are_those_of_the_stages(lenses, run_folder, processed, features_csv):
    run, data = load_run(run_folder), Dataset.open(lenses)
    rows = [0, 5, 9]
    answer = predict([run], [data.images[i] for i in rows])
    table = pd.read_csv(features_csv)[run.feature_names].to_numpy()[rows]
    expected = run.predict(Dataset.open(processed).images[rows], table)
    np.testing.assert_allclose(answer.filter(like="p_"), expected, atol=1e-5)
    assert (
        answer["lens_found"].tolist()
        == (Dataset.open(processed).catalog["roi_found"][rows] == 1).tolist()
    )


def test_table_of_files(files, run_folder):
    table = predict_files([files], [run_folder])
    assert list(table) == ["file", "p_no_sub", "p_cdm", "p_axion", *COLUMNS]
    assert table["fit_chi2"].isna().all() and (table["fit_flags"] == "").all()
    assert (table["unknown"] == "noise pixel_scale").all() and (table["warning"] == "").all()
    assert [Path(name).name for name in table["file"]] == ["a.npy", "b.fits", "c.png", "d.npy"]
    p = table[["p_no_sub", "p_cdm", "p_axion"]]
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert table["class"].tolist() == p.idxmax(axis=1).str.removeprefix("p_").tolist()
    np.testing.assert_allclose(p.iloc[0], p.iloc[1], atol=1e-5)  # FITS and npy hold the same
    np.testing.assert_allclose(p.iloc[0], p.iloc[2], atol=0.1)  # 8 bits, nearly
    assert (table["lens_found"] == 1).all()


def test_runs_are_averaged(files, run_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run_folder, other)
    path = other / "model.safetensors"
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    tensors["head.bias"] = tensors["head.bias"] + np.array([0, 2, 0], np.float32)
    save_file(tensors, path)
    signed(other)
    tables = [
        predict_files([files / "a.npy"], folders).filter(like="p_").to_numpy()
        for folders in ([run_folder], [other], [run_folder, other])
    ]
    assert tables[1][0, 1] > tables[0][0, 1] + 0.1
    np.testing.assert_allclose(tables[2], (tables[0] + tables[1]) / 2, atol=2e-6)


def test_runs_of_another_kind_are_refused(files, run_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run_folder, other)
    path = other / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["preprocess"]["stretch"] = "linear"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="other: found other classes, processing"):
        predict_files([files], [run_folder, signed(other)])


def test_images_without_a_lens_get_an_answer(run_folder):
    images = [np.zeros((40, 40)), np.random.default_rng(0).normal(size=(64, 50))]
    answer = predict([load_run(run_folder)], images)
    p = answer.filter(like="p_")
    assert not answer["lens_found"].any() and np.isfinite(p).all(axis=None)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)


def test_real_images(run_folder):
    if not SHARED.is_dir():
        pytest.skip(f"real images absent: {SHARED}")
    scale = load_run(run_folder).settings.pixel_scale
    table = predict_files([SHARED], [run_folder], pixel_scale=scale)
    files = [path for path in SHARED.rglob("*") if suffix_of(path.name)]
    beside = [path for path in files if path.stem in ("noise", "psf")]  # of an image, no image
    assert len(table) == len(files) - len(beside) > 40
    np.testing.assert_allclose(table.filter(like="p_").sum(axis=1), 1, atol=1e-5)
    assert set(table["class"]) <= {"no_sub", "cdm", "axion"}
    assert table["lens_found"].mean() > 0.9


def test_a_model_without_fits_knows_the_scale_of_its_images(run_folder, files):
    """Its network sees sizes in pixels: an image at another scale is refused all the same."""
    run = load_run(run_folder)
    assert run.settings.pixel_scale == 0.1 and not run.settings.lensfit.gain
    image = np.load(files / "a.npy")
    with pytest.raises(
        InputError, match="found 0.262 arcsec a pixel; the model was trained at 0.1"
    ):
        predict([run], [Observation(image, pixel_scale=0.262)])
    assert len(predict([run], [Observation(image, pixel_scale=0.1)])) == 1


def test_one_damaged_file_among_others_does_not_end_them(files, run_folder, capsys, tmp_path):
    """It has a row that says what is wrong, and a line of its own; the exit status tells."""
    good = predict_files([files], [run_folder])
    folder = shutil.copytree(files, tmp_path / "images")
    (folder / "b2.fits").write_bytes((folder / "b.fits").read_bytes()[:4000])
    header = fits.Header({"PIXSCALE": 0.3})
    fits.PrimaryHDU(np.load(folder / "a.npy"), header).writeto(folder / "b3.fits")
    table = predict_files([folder], [run_folder])
    assert list(table) == list(good)
    names = ["a.npy", "b.fits", "b2.fits", "b3.fits", "c.png", "d.npy"]
    assert [Path(name).name for name in table["file"]] == names
    wrong = table["class"].isna()
    assert [Path(name).name for name in table["file"][wrong]] == ["b2.fits", "b3.fits"]
    assert table["warning"][2].startswith("is a truncated FITS file")
    assert table["warning"][3].startswith("found 0.3 arcsec a pixel; the model was trained at 0.1")
    pd.testing.assert_frame_equal(
        table[~wrong].drop(columns="file").reset_index(drop=True),
        good.drop(columns="file"),
        check_dtype=False,
    )
    command = ["predict", str(folder), "--run", str(run_folder), "--out", str(tmp_path / "p.csv")]
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and "does not know whether images look like those" in said.pop()
    assert all(line.startswith("vitdm predict: error: ") for line in said)
    assert "b2.fits: is a truncated" in said[0] and "b3.fits: found 0.3 arcsec" in said[1]
    text = (tmp_path / "p.csv").read_text().splitlines()
    assert text[0] == ",".join(table) and ",,,,,,,,,is a truncated" in text[3]
    with pytest.raises(InputError, match=r"b2\.fits: is a truncated FITS file"):
        predict_files([folder / "b2.fits"], [run_folder])


def test_a_stack_is_predicted_image_by_image(files, run_folder, tmp_path):
    image = np.load(files / "a.npy")
    stack = np.stack([image, image[::-1], 2 * image])
    np.save(tmp_path / "stack.npy", stack)
    run = load_run(run_folder)
    of_file, alone = predict_files([tmp_path / "stack.npy"], [run_folder]), predict([run], stack)
    assert of_file["file"].tolist() == [f"{tmp_path}/stack.npy[{k}]" for k in range(3)]
    p = [table.filter(like="p_") for table in (of_file, alone)]
    np.testing.assert_allclose(*p, atol=1e-6)
    one = predict_files([tmp_path / "stack.npy"], [run_folder], band=1)
    np.testing.assert_allclose(one.filter(like="p_"), p[0][1:2], atol=1e-6)


def test_an_image_smaller_than_what_is_cut_of_it_is_told(files, run_folder):
    run = load_run(run_folder)
    size = run.settings.preprocess.size
    image = np.load(files / "a.npy")
    cut = (len(image) - size) // 2 + 2
    table = predict([run], [image, image[cut:-cut]])
    assert table["warning"][0] == ""
    assert f"of the {size} x {size} that the model sees" in table["warning"][1]


def test_an_image_without_light_is_told_also_without_a_fit(run_folder):
    noise = np.random.default_rng(0).normal(size=(64, 64))
    assert predict([load_run(run_folder)], [noise])["warning"][0].startswith("no light was found")
