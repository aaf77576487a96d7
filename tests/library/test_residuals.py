"""Lens fits joined to the features and to the network, from a dataset on disk to predictions."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from memory import bounded

from vitdm import config, lens, predict
from vitdm.config import Model
from vitdm.data import dataset
from vitdm.errors import InputError
from vitdm.features import LENSFIT, measure_dataset
from vitdm.features.definitions import definitions
from vitdm.features.selected import joined_features
from vitdm.features.tables import read_fits
from vitdm.model.inputs import Tables, channels, inputs_for, network_input
from vitdm.model.runs import Splits, load_run, train_run
from vitdm.simulation.population import load_population

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fitted(lenses, population, settings, tmp_path_factory):
    """Settings with lens fits; folders of the fits, and the feature table with them."""
    chosen = settings.model_copy(
        update={
            "features": config.Features(groups=["proposal", "morphology", "lensfit"]),
            "lensfit": config.LensFit(size=48, batch=16),
        }
    )
    out = tmp_path_factory.mktemp("fitted")
    camera = lens.settings_for(population, chosen.lensfit)
    lens.fit_dataset(lenses, out / "fits", camera, progress=False)
    table = out / "features.csv"
    measure_dataset(lenses, table, chosen.preprocess, chosen.features, out / "fits", progress=False)
    return chosen, out / "fits", table


def test_the_population_tells_camera_and_noise(population):
    found = lens.settings_for(population, config.LensFit())
    assert (found.psf_fwhm, found.gain, found.lens_light) == (0.17, 2.0, False)  # Model I
    for name, gain, light in (("marginal", 1.0, False), ("realistic", 1.0, True)):
        other = load_population(name)
        found = lens.settings_for(other, config.LensFit())
        assert (found.gain, found.lens_light) == (gain, light)
    other = load_population("lenses")
    assert lens.settings_for(other, config.LensFit()).gain is None  # grey levels


def test_features_of_fits_join_the_table(fitted, lenses):
    settings, fits, table = fitted
    measured = dataset.read_catalog(table)
    assert list(measured) == ["id", *definitions(settings.features)]
    raw = dataset.read_catalog(fits / "fits.csv")
    converged = raw["fit_converged"] == 1
    assert converged.mean() > 0.5
    for name in LENSFIT:
        np.testing.assert_allclose(measured[name][converged], raw[name][converged], rtol=1e-5)
        assert measured[name][~converged].isna().all()


def test_of_a_fit_that_did_not_converge_nothing_is_used(fitted, lenses, tmp_path, monkeypatch):
    settings, fits, _ = fitted
    table = dataset.read_catalog(fits / "fits.csv")
    table["fit_converged"] = np.arange(len(table)) != 5
    table.astype({"fit_converged": int}).to_csv(tmp_path / "fits.csv", index=False)
    told = json.loads((fits / "provenance.json").read_text())
    (tmp_path / "provenance.json").write_text(json.dumps(told | {"outputs": {}}))
    found = read_fits(tmp_path / "fits.csv", dataset.Dataset.open(lenses))
    assert found.loc[5].isna().all()
    assert found.drop(index=5)["fit_theta_E"].notna().all()

    def failing(*arguments, **options):
        return dataclasses.replace(fit(*arguments, **options), converged=np.array([False]))

    fit, image = lens.fit, np.random.default_rng(0).normal(0, 1, (48, 48))
    image += 60 * np.exp(-0.5 * ((np.hypot(*np.indices((48, 48)) - 23.5) - 12) / 2) ** 2)
    run = SimpleNamespace(
        pixel_scale=0.1,
        lensfit=settings.lensfit,
        image_size=32,
        preprocess=settings.preprocess,
    )
    measured = partial(predict.prepare, [image], run, ["fit_theta_E"], False)
    assert measured().features["fit_theta_E"].notna().all()
    monkeypatch.setattr(lens, "fit", failing)
    assert measured().features.isna().all(axis=None)


def test_fits_that_are_missing_or_of_other_images_are_refused(fitted, lenses, tmp_path):
    settings, fits, _ = fitted
    out = (tmp_path / "f.csv", settings.preprocess, settings.features)
    with pytest.raises(InputError, match="features.groups: found lensfit; expected the folder"):
        measure_dataset(lenses, *out, progress=False)
    table = dataset.read_catalog(fits / "fits.csv")
    (tmp_path / "fits.csv").write_text(table.iloc[1:].to_csv(index=False))
    with pytest.raises(InputError, match="found no fit of 1 images"):
        measure_dataset(lenses, *out, tmp_path, progress=False)
    data = dataset.Dataset.open(lenses)
    with pytest.raises(InputError, match="residuals.npy, provenance.json missing"):
        lens.read_residuals(tmp_path, data, 48)
    other = dataclasses.replace(data, catalog=data.catalog[::-1])
    with pytest.raises(InputError, match="of other images"):
        lens.read_residuals(fits, other, 48)
    with pytest.raises(InputError, match=r"found residuals of shape \(48, 48, 48\)"):
        lens.read_residuals(fits, data, 64)


def test_fits_of_another_data_set_are_refused(fitted, lenses, tmp_path):
    """Its ids are the same, its images are not; that shards were merged changes nothing."""
    settings, fits, _ = fitted
    data, part = dataset.Dataset.open(lenses), tmp_path / "part"
    images, table = np.array(data.images), tmp_path / "f.csv"
    dataset.write(tmp_path / "other", images[::-1], data.catalog, pixel_scale=0.1)
    other = dataset.Dataset.open(tmp_path / "other")
    lens.merge_fits([fits], tmp_path / "merged")
    for folder in (fits, tmp_path / "merged"):
        assert len(lens.read_residuals(folder, data, 48)) == len(images)
        assert len(read_fits(folder / "fits.csv", data)) == len(images)
        with pytest.raises(InputError, match=rf"{folder}: belongs to another dataset: .*{lenses}"):
            lens.read_residuals(folder, other, 48)
        options = table, settings.preprocess, settings.features, folder
        with pytest.raises(InputError, match=r"fits\.csv: belongs to another dataset"):
            measure_dataset(other.folder, *options, progress=False)
    shutil.copytree(fits, part)
    (part / "residuals.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"residuals\.npy: cannot be read as an array"):
        lens.read_residuals(part, data, 48)
    for broken in ("{", "[]"):
        (part / "provenance.json").write_text(broken)
        with pytest.raises(InputError, match=r"provenance\.json: "):
            measure_dataset(lenses, table, *options[1:3], part, progress=False)


def test_photon_noise_is_not_measured_on_the_test_split(lenses, tmp_path):
    """Brighter images of that split change nothing; of another they do."""
    data, gains = dataset.Dataset.open(lenses), []
    for k, split in enumerate((None, "test", "opt")):
        images = np.array(data.images)
        chosen = (data.catalog["split"] == split).to_numpy()
        images[chosen] += np.random.default_rng(0).normal(0, 30, images[chosen].shape)
        dataset.write(tmp_path / f"d{k}", images, data.catalog, pixel_scale=0.1)
        # a shard without images: only the noise is measured
        settings = config.LensFit(size=48, batch=48)
        lens.fit_dataset(tmp_path / f"d{k}", tmp_path / f"f{k}", settings, (0, 2), progress=False)
        sidecar = json.loads((tmp_path / f"f{k}" / "provenance.json").read_text())
        gains.append(sidecar["camera"]["lensfit"]["gain"])
    assert gains[1] == gains[0] != gains[2]


def test_of_larger_maps_the_middle_is_taken(fitted, lenses):
    _, fits, _ = fitted
    data = dataset.Dataset.open(lenses)
    whole, middle = (lens.read_residuals(fits, data, size) for size in (48, 32))
    np.testing.assert_array_equal(whole[:, 8:40, 8:40], middle)


@pytest.mark.parametrize("joined", ["lensfit", "residual"])
def test_a_network_with_fits_predicts_from_raw_images(fitted, lenses, processed, tmp_path, joined):
    settings, fits, table = fitted
    update = {"features": joined == "lensfit", "feature_set": "lensfit"}
    model = settings.model.model_copy(update=update | {"residual": joined == "residual"})
    names = joined_features(model, settings.features, None)
    assert names is None if joined == "residual" else names == list(LENSFIT)
    train_run(
        processed,
        tmp_path / "run",
        settings.model_copy(update={"model": model}),
        tables=Tables(table, None, fits),
        splits=Splits(valid=None),
        progress=False,
    )
    run = load_run(tmp_path / "run")
    assert run.model.embed.project.in_features == 8 * 8 * 5 * (3 if joined == "residual" else 1)
    data = dataset.Dataset.open(lenses)
    rows = data.rows("opt")
    camera = run.settings.lensfit
    assert (camera.psf_fwhm, camera.gain, run.settings.pixel_scale) == (0.17, 2.0, 0.1)
    answer = predict.predict([run], [np.array(data.images[row]) for row in rows])
    found = answer.filter(like="p_").to_numpy()
    expected = pd.read_csv(tmp_path / "run" / "predictions.csv")
    expected = expected[[f"p_{name}" for name in run.classes]].to_numpy()
    assert np.abs(found - expected).mean() < 0.02  # fits alone and in batches end close together


def test_a_network_with_fits_asks_for_them(fitted, processed, tmp_path):
    settings, _, table = fitted
    model = settings.model.model_copy(update={"features": False, "residual": True})
    with pytest.raises(InputError, match="model.residual is on: the folder of the lens fits"):
        changed = settings.model_copy(update={"model": model})
        inputs_for(changed, dataset.Dataset.open(processed), Tables(table))


@pytest.mark.parametrize("kind", ["blank", "nan", "star", "two"])
def test_what_is_no_lens_is_flagged(kind):
    y, x = np.indices((96, 96)) - 47.5
    image = np.random.default_rng(0).normal(0, 1, (96, 96))
    spot = np.exp(-0.5 * ((x - 8) ** 2 + y**2) / 4)
    image += {"blank": 0, "nan": np.nan, "star": 200 * spot, "two": 0}[kind]
    if kind == "two":
        for x0 in (-22, 22):
            image += 60 * np.exp(-0.5 * ((np.hypot(x - x0, y) - 13) / 2) ** 2)
    fits = lens.fit(image[None], config.LensFit(gain=0.0), pixel_scale=0.05)
    assert fits.flags[0], kind


def test_what_a_network_sees_takes_little_more_memory_than_itself(tmp_path):
    """The images and residuals of a data set lie on disk; 6 000 of them, in parts of 1 000."""
    rng, shape = np.random.default_rng(0), (6000, 64, 64)
    for name in ("images", "residuals"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=shape).astype(np.float32))
    given = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("images", "residuals")]
    rows, own = np.arange(shape[0]), 3 * given[0].nbytes  # 300 MB
    expected = channels(np.array(given[0][-5:]), np.array(given[1][-5:]))
    with bounded(2 * own):
        seen = network_input(Model(residual=True), rows, *given)
    assert torch.equal(seen[-5:], expected)
