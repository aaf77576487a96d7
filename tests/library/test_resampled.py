"""Copies of fitted lenses: against fits of lenses that were rendered, and what files must keep."""

import dataclasses

import numpy as np
import pytest
import torch

from vitdm import config, lens
from vitdm.config import CHANNELS, LensFit, Settings, Train
from vitdm.data.dataset import Dataset
from vitdm.data.simulated import simulate_dataset
from vitdm.errors import InputError
from vitdm.lens.resampled import RESAMPLED, Copies
from vitdm.model.inputs import Tables, copies_of, inputs_for, with_copies
from vitdm.model.runs import load_run, train_run
from vitdm.preprocess import process_dataset
from vitdm.simulation import draw, load_population, render

SEEN = ["snr_point", "sensitivity_clump", "residual"]
PLACE = {name: k for k, name in enumerate(RESAMPLED)}


@pytest.fixture(scope="module")
def population():
    """Lenses without light of their own, whose fits take little time."""
    return load_population("realistic").model_copy(update={"lens_light": None})


@pytest.fixture(scope="module")
def settings(population):
    return lens.settings_for(population, LensFit(size=64, maps="matched", batch=8))


@pytest.fixture(scope="module")
def folder(population, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("copied")
    simulate_dataset(
        population, {"train": 6, "valid": 3, "opt": 3}, 5, folder / "dataset", progress=False
    )
    lens.fit_dataset(folder / "dataset", folder / "fits", settings, progress=False)
    process_dataset(
        folder / "dataset", folder / "processed", config.Preprocess(size=64), progress=False
    )
    given = folder / "dataset", folder / "fits", population, 4, folder / "copies"
    lens.resample(*given, progress=False)
    return folder


class Fixed:
    """Random numbers of which the noise is known."""

    def __init__(self, noise):
        self.noise = noise

    def standard_normal(self, shape):
        return np.broadcast_to(self.noise, shape).copy()


def test_a_copy_is_what_a_fit_would_have_found(population, settings, monkeypatch):
    """The same subhalos and the same noise, fitted: the maps of S/N and residual agree."""
    many = min(range(20), key=lambda k: abs(draw(k, "cdm", 4, population).truth["f_sub"] - 0.01))
    system = dataclasses.replace(draw(many, "no_sub", 4, population), exposure_time=1.0)
    perturbed = draw(many, "cdm", 4, population)
    perturbed = dataclasses.replace(perturbed, exposure_time=1.0)
    smooth, other = render(system, population), render(perturbed, population)
    rng, sigma = np.random.default_rng(0), 0.005 * smooth.max()
    before, noise = rng.standard_normal((2, *smooth.shape))
    known = {"pixel_scale": population.instrument.pixel_scale}
    settings = settings.model_copy(update={"gain": 0.0})
    image = smooth + sigma * before
    given = lens.fit(image[None], settings, **known)
    wanted = lens.fit((other + sigma * noise)[None], settings, **known)
    copies = Copies(
        image, given.values[0], given.maps[0], settings, known["pixel_scale"], population
    )
    # the substructure is that of the other lens, about the fitted halo
    shift = perturbed.theta_E_halo / perturbed.theta_E
    own = dataclasses.replace(
        copies.lens,
        theta_E_halo=copies.lens.theta_E * shift,
        **{name: getattr(perturbed, name) for name in ("x", "y", "masses", "truncation")},
    )
    monkeypatch.setattr(copies, "_perturbed", lambda kind, rng: own)
    (maps,), _ = copies.draw(["cdm"], [Fixed(copies.window.cut(noise))])
    for name, most in (("snr_point", 0.3), ("snr_clump", 0.3), ("residual", 0.3)):
        copy, fitted = maps[PLACE[name]].astype(float), wanted.maps[0, CHANNELS.index(name)]
        known_there = (fitted != 0) & (copy != 0)
        assert np.corrcoef(copy[known_there], fitted[known_there])[0, 1] > 0.95, name
        assert np.std((copy - fitted)[known_there]) < most, name
    assert abs(wanted.maps[0, CHANNELS.index("snr_clump")]).max() > 5  # there is something to see


def test_smooth_copies_have_no_signal_and_keep_the_sensitivity(folder):
    maps, table = lens.read_copies(folder / "copies")
    given = lens.read_maps(folder / "fits", Dataset.open(folder / "dataset"))
    ids = list(Dataset.open(folder / "dataset").catalog["id"])
    smooth = np.flatnonzero(table["class"] == "no_sub")
    known = maps[smooth, PLACE["sensitivity_point"]] > 0
    snr = maps[smooth, PLACE["snr_point"]].astype(float)[known]
    assert abs(snr.mean()) < 0.2 and 0.8 < snr.std() < 1.25
    for row in (0, len(table) - 1):
        own = given[ids.index(table["id"][row])]
        for name in ("sensitivity_point", "sensitivity_clump"):
            np.testing.assert_array_equal(maps[row, PLACE[name]], own[CHANNELS.index(name)])


def test_what_is_left_is_orthogonal_to_the_derivatives(population, settings, folder):
    data = Dataset.open(folder / "dataset")
    fits = lens.fit(data.images[:1], settings, pixel_scale=data.pixel_scale)
    copies = Copies(
        data.images[0],
        fits.values[0],
        fits.maps[0],
        settings.model_copy(update={"gain": float(fits.gain[0])}),
        data.pixel_scale,
        population,
    )
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 64, 64))).float()
    information = torch.ones(2, *fits.maps.shape[2:])
    _, left = copies.search.again(copies.rows, copies.source, noise, information)
    J = copies.rows[1:].flatten(1)
    J = J / J.norm(dim=1, keepdim=True).clamp(min=1e-9)
    before, after = (abs(rows.flatten(1) @ J.T).max() for rows in (noise, left))
    assert before > 1 and after < 0.05


def test_copies_depend_on_seed_and_lens_alone(folder, population, tmp_path):
    given = folder / "dataset", folder / "fits", population
    lens.resample(*given, 4, tmp_path / "again", progress=False)
    lens.resample(*given, 4, tmp_path / "other", seed=1, progress=False)
    names = ("maps.npy", "catalog.csv")
    first, again, other = (
        [(place / name).read_bytes() for name in names]
        for place in (folder / "copies", tmp_path / "again", tmp_path / "other")
    )
    assert first == again and first != other
    lens.resample(*given, 2, tmp_path / "fewer", progress=False)
    whole, fewer = (lens.read_copies(place)[0] for place in (folder / "copies", tmp_path / "fewer"))
    np.testing.assert_allclose(fewer[2:4], whole[4:6], rtol=0.01, atol=0.01)
    _, table = lens.read_copies(folder / "copies")
    catalog = Dataset.open(folder / "dataset").catalog
    splits = catalog.set_index("id")["split"]
    assert set(splits[table["id"]]) == {"train"} and len(table) == 24
    perturbed = table[table["class"] == "cdm"]
    assert perturbed["f_sub"].between(1e-3, 10**-1.5).all()
    assert table[table["class"] == "no_sub"]["f_sub"].isna().all()


def settings_of(**model):
    model = {"maps": SEEN, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2} | model
    return Settings(
        model=model,
        train=Train(epochs=1, batch_size=4),
        features={"groups": ["morphology", "lensfit"]},
        lensfit=LensFit(size=64, maps="matched"),
        preprocess={"size": 64},
    )


def test_a_training_learns_from_copies_of_its_own_lenses(folder, tmp_path):
    settings, data = settings_of(), Dataset.open(folder / "processed")
    tables = Tables(fits=folder / "fits", copies=folder / "copies")
    rows = data.rows("train")[:2]
    arrays, _ = inputs_for(settings, data, tables)
    images, features, labels = with_copies(arrays(rows), settings, data, rows, folder / "copies")
    maps, table = lens.read_copies(folder / "copies")
    own = table["id"].isin(data.catalog["id"].iloc[rows]).to_numpy()
    assert own.sum() == 8 and len(images) == len(features) == len(labels) == 10
    np.testing.assert_array_equal(labels[2:], (table["class"][own] == "cdm").astype(int))
    residual = maps[own, PLACE["residual"]]
    np.testing.assert_allclose(images[2:, 2].float(), residual.astype(np.float32), atol=1e-3)
    train_run(folder / "processed", tmp_path / "run", settings, tables=tables, progress=False)
    train_run(
        folder / "processed",
        tmp_path / "plain",
        settings,
        tables=dataclasses.replace(tables, copies=None),
        progress=False,
    )
    run, plain = (load_run(tmp_path / name).model.state_dict() for name in ("run", "plain"))
    assert any((run[name] != plain[name]).any() for name in run)


def test_copies_of_a_class_come_with_their_truth(folder):
    data = Dataset.open(folder / "processed")
    images, table = copies_of(settings_of().model, data.catalog["id"], folder / "copies", ["cdm"])
    maps, every = lens.read_copies(folder / "copies")
    chosen = (every["class"] == "cdm").to_numpy()
    assert len(images) == len(table) == chosen.sum() > 0 and table["f_sub"].notna().all()
    np.testing.assert_allclose(
        images[:, 2].float(), maps[chosen, PLACE["residual"]].astype(np.float32), atol=1e-3
    )


def test_what_copies_cannot_be_made_or_used_for_is_refused(folder, population, tmp_path):
    data = Dataset.open(folder / "processed")
    rows = data.rows("train")
    tables = Tables(fits=folder / "fits", copies=folder / "copies")

    def joined(**model):
        settings = settings_of(**model)
        arrays, _ = inputs_for(settings, data, tables)
        return with_copies(arrays(rows), settings, data, rows, folder / "copies")

    with pytest.raises(InputError, match="model.maps: snr_string: copies have none"):
        joined(maps=["snr_string"])
    with pytest.raises(InputError, match="expected maps alone"):
        joined(maps=[])
    with pytest.raises(InputError, match="found no copies of the lenses that are learned from"):
        settings, others = settings_of(), data.rows("opt")
        arrays, _ = inputs_for(settings, data, tables)
        with_copies(arrays(others), settings, data, others, folder / "copies")
    with pytest.raises(InputError, match=r"nothing: no copies of lenses: maps\.npy"):
        lens.read_copies(tmp_path / "nothing")
    hubble, model = load_population("hubble"), load_population("lenses")
    given = folder / "dataset", folder / "fits"
    with pytest.raises(InputError, match="population hubble: found a source with structure"):
        lens.resample(*given, hubble, 2, tmp_path / "copies", progress=False)
    with pytest.raises(InputError, match="population lenses: found drizzled images, or grey"):
        lens.resample(*given, model, 2, tmp_path / "copies", progress=False)
    with pytest.raises(InputError, match="found no fit of split test that converged"):
        out = tmp_path / "copies"
        lens.resample(*given, population, 2, out, splits=("test",), progress=False)
    assert not (tmp_path / "copies").exists()
