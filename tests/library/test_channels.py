"""Maps for networks: against dense algebra, a search of its own, and what files must keep."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from test_substructure import CAMERA, N_PIX, SCALE, SOURCE, beyond, lens_of, on_ring, rows_of

from studies.config import Maps
from vitdm import ViTClassifier, config, lens, predict
from vitdm.config import CHANNELS, LensFit, Model, Settings, Train
from vitdm.config.images import binning
from vitdm.config.sections import checked
from vitdm.data.dataset import Dataset
from vitdm.data.simulated import observed, simulate_dataset
from vitdm.errors import InputError
from vitdm.features.mapped import summary
from vitdm.lens import matched
from vitdm.lens.channels import MOST, perturber_channels, pixel_channels, standardised
from vitdm.lens.perturbers import measure_and_map
from vitdm.lens.perturbers.numbers import LOOKED_FOR, refitted
from vitdm.lens.perturbers.profiles import Profile
from vitdm.model.inputs import Tables
from vitdm.model.runs import load_run, predictions_table, train_run
from vitdm.preprocess import process_dataset
from vitdm.simulation import load_population

SEEN = ["snr_point", "sensitivity_point", "residual"]
MAPPED = LensFit(size=64, maps="matched", gain=0.0, batch=3)
PLACE = {name: k for k, name in enumerate(CHANNELS)}


@pytest.fixture
def exact():
    """The search without binning: its sums are those over pixels."""
    return matched.Search(CAMERA, N_PIX)


def mapped(search, rows):
    """S/N and D of all profiles, (2, 3, g, g), of one lens of 1 arcsec."""
    middle = torch.ones(1), torch.zeros(1), torch.zeros(1)
    return search.numbers_and_maps(rows[None], SOURCE, *middle)[1][0]


# ---------------------------------------------------------------------------------- the channels


def test_a_clump_is_a_sum_over_pixels(exact):
    rows = rows_of(1)
    rows[0] = torch.from_numpy(np.random.default_rng(1).standard_normal((N_PIX, N_PIX)))
    snr, D = (part.flatten() for part in mapped(exact, rows)[:, 1])
    axis = (np.arange(N_PIX) - (N_PIX - 1) / 2) * SCALE
    x, y = np.meshgrid(axis, axis)
    for at in (2000, 4444, 7000):
        dx, dy = x.ravel() - exact.x[at].item(), y.ravel() - exact.y[at].item()
        # softened: at the place itself the template is that of half a pixel
        r = np.hypot(dx, dy)
        far = np.sqrt(r**2 + exact.soft2) / np.maximum(r, 1e-9)
        profile = Profile("isothermal", matched.TRUNCATION)
        a = profile.deflection(dx * far, dy * far) / far
        S = rows[list(SOURCE)].flatten(1).numpy()
        T = beyond(torch.from_numpy((S * a).sum(0)).view(1, N_PIX, N_PIX), rows[1:])
        assert (T**2).sum().item() == pytest.approx(D[at].item(), rel=0.02)
        product = (T @ rows[0].flatten().double()).item()
        assert abs(product / D[at].item() ** 0.5 - snr[at].item()) < 0.02


def test_the_best_string_is_the_largest(exact):
    rows = rows_of(4)
    rows[0] = torch.from_numpy(np.random.default_rng(4).standard_normal((N_PIX, N_PIX)))
    lit, pairs = exact._lit(rows[None], SOURCE)
    seen, _ = exact._seen(lit, pairs, exact.point)
    inside = exact.inside(torch.zeros(1), torch.zeros(1))
    N, D = (part.view(12, 48, 48) for part in exact._string_maps(seen, pairs, inside))
    snr, information = mapped(exact, rows)[:, 2]
    for row, column in ((18, 24), (28, 22), (24, 30)):
        every = (N / D.sqrt())[:, row, column]
        for part, known in ((snr, every.max()), (information, D[every.argmax(), row, column])):
            block = part[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(block, known.expand(2, 2))


def test_sensitivity_is_of_the_mass_and_bounded():
    snr = torch.tensor([3.0, -2.0, math.nan, 5.0, 1e9]).expand(1, 3, 1, 5)
    D = torch.tensor([100.0, 1e-9, 4.0, 0.0, 1e30]).expand(1, 3, 1, 5)
    found = perturber_channels(snr, D, torch.tensor([2.0]))
    assert found.shape == (1, 6, 1, 5)
    assert found[0, 0, 0].tolist() == [3.0, -2.0, 0.0, 0.0, 1e4]
    # an error of a tenth, of a lens of four arcsec²: ln 40; then far less than the lens, nothing
    expected = [math.log(40), 0.0, 0.0, 0.0, MOST]
    assert found[0, 4, 0].tolist() == pytest.approx(expected)


def test_pixels_are_binned_in_units_of_their_noise():
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.standard_normal((40, 96, 96)))
    image = torch.full((40, 96, 96), 3.0)
    residual, chi2, light = pixel_channels(noise, image, 48).unbind(1)
    assert residual.shape == (40, 48, 48)
    assert residual.sinh().std().item() == pytest.approx(1, abs=0.01)
    assert residual[0, 5, 7].sinh().item() == pytest.approx(
        noise[0, 10:12, 14:16].sum().item() / 2, rel=1e-4
    )
    assert chi2.expm1().mean().item() == pytest.approx(1, abs=0.03)
    # the brightness of four pixels in units of twice their noise
    assert light[0, 3, 3].item() == pytest.approx(math.asinh(4 * 3 / 2 / 2), rel=1e-5)


def test_what_a_network_sees_is_of_order_one():
    maps = torch.tensor([100.0, 8.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    found = standardised(maps.half(), ["snr_clump", "sensitivity_clump", "residual"])
    assert found[0, :, 0, 0].tolist() == pytest.approx([math.asinh(100), 2.0, 2.0], rel=1e-3)


# -------------------------------------------------------------------------------------- the fits


@pytest.fixture(scope="module")
def population():
    return load_population("marginal").model_copy(update={"num_pix": 70})


@pytest.fixture(scope="module")
def pair(population):
    """A smooth lens and one with clumps, and their fits."""
    images = [observed(3, kind, 77, population) for kind in ("no_sub", "cdm")]
    return images, lens.fit(images, MAPPED)


def test_matched_maps_are_those_of_the_numbers(pair):
    _, fits = pair
    told = dict(zip(matched.NAMES, fits.perturbers.T, strict=True))
    snr, sensitivity = fits.maps[:, PLACE["snr_point"]], fits.maps[:, PLACE["sensitivity_point"]]
    assert fits.maps.shape == (2, len(CHANNELS), 64, 64) and np.isfinite(fits.maps).all()
    np.testing.assert_allclose(snr.max((1, 2)), told["point_snr"], rtol=1e-5)
    for k in range(2):
        at = np.unravel_index(snr[k].argmax(), snr[k].shape)
        mass = snr[k][at] * math.exp(-sensitivity[k][at])  # in theta_E²
        assert mass == pytest.approx(told["point_mass"][k], rel=1e-4)
    assert snr[1].max() > 8 > 5 > snr[0].max()


def test_without_maps_a_fit_is_the_same(pair):
    images, fits = pair
    plain = lens.fit(images, MAPPED.model_copy(update={"maps": None}))
    assert plain.maps.shape[1] == 0
    np.testing.assert_array_equal(plain.values, fits.values)
    np.testing.assert_array_equal(plain.perturbers, fits.perturbers)


def test_free_form_maps_are_those_of_a_search(pair):
    images, start = pair
    settings = MAPPED.model_copy(update={"maps": "free_form"})
    fits = lens.fit(images, settings)
    table, maps = measure_and_map(images, fits, settings, searched=True)
    np.testing.assert_array_equal(maps[:, PLACE["image"]], start.maps[:, PLACE["image"]])
    assert not np.array_equal(maps[:, PLACE["residual"]], start.maps[:, PLACE["residual"]])
    best = lens.search(next(refitted(images[1:], fits.row(1), settings)), LOOKED_FOR)
    found, clump = best.maps["isothermal"], maps[1, PLACE["snr_clump"]]
    assert clump.max() == pytest.approx(table["search_snr"][1], rel=0.1)  # on another grid
    assert np.nanmax(found.snr) == pytest.approx(table["search_snr"][1])
    row, column = np.unravel_index(clump.argmax(), clump.shape)
    at = np.nanargmax(found.snr)
    x, y = ((np.arange(64) - 31.5) * 0.05 for _ in range(2))
    assert math.hypot(x[column] - best.x[at], y[row] - best.y[at]) < 0.2
    assert maps[0, PLACE["snr_clump"]].max() < 5
    fits.converged[:] = False  # then nothing is told, but the image
    nothing = measure_and_map(images, fits, settings, searched=False)[1]
    assert (nothing[:, : PLACE["residual"]] == 0).all() and nothing[:, PLACE["image"]].any()


def test_of_a_blank_image_there_is_no_map():
    images = np.random.default_rng(0).normal(0, 1, (1, 96, 96))
    fits = lens.fit(images, LensFit(gain=1.0, maps="matched"), pixel_scale=SCALE)
    assert (fits.maps == 0).all()


@pytest.mark.parametrize("size", [48, 64, 80, 96, 150])
def test_the_side_of_maps_is_that_of_the_search(size):
    camera = type(CAMERA).of(size, 0.1, 0.1, 3.0)
    assert LensFit(size=size).map_side == matched.Search(camera).n == size // binning(size)
    fine = LensFit(size=size, places=2 * size)
    assert fine.map_side == matched.Search(camera, fine.places).n == size


# ----------------------------------------------------------------------------------- the files


@pytest.fixture(scope="module")
def folder(population, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mapped")
    sizes = {"train": 6, "valid": 3, "opt": 3}
    simulate_dataset(population, sizes, 5, folder / "dataset", progress=False)
    lens.fit_dataset(folder / "dataset", folder / "fits", MAPPED, progress=False)
    process_dataset(
        folder / "dataset", folder / "processed", config.Preprocess(size=64), progress=False
    )
    return folder


def test_shards_of_maps_are_the_whole(folder, tmp_path):
    shards = [tmp_path / f"shard{k}" for k in range(3)]
    for k, shard in enumerate(shards):
        lens.fit_dataset(folder / "dataset", shard, MAPPED, (k, 3), progress=False)
    lens.merge_fits(shards[::-1], tmp_path / "merged")
    for name in ("fits.csv", "residuals.npy", "maps.npy"):
        one, other = (
            (place / name).read_bytes() for place in (folder / "fits", tmp_path / "merged")
        )
        assert one == other
    maps = lens.read_maps(tmp_path / "merged", Dataset.open(folder / "processed"))
    assert maps.shape == (12, len(CHANNELS), 64, 64) and maps.dtype == np.float16
    (shards[1] / "maps.npy").unlink()
    with pytest.raises(InputError, match=r"shard1: no fits of lenses: maps\.npy missing"):
        lens.merge_fits(shards, tmp_path / "less")


def test_maps_on_disk_are_those_of_images_alone(folder):
    data = Dataset.open(folder / "dataset")
    alone = lens.fit(data.images[:3], MAPPED, pixel_scale=0.05).maps
    stored = lens.read_maps(folder / "fits", Dataset.open(folder / "processed"))[:3]
    np.testing.assert_allclose(stored, alone, rtol=1e-3, atol=1e-3)


def test_fits_without_maps_or_of_other_lenses_are_refused(folder, population, tmp_path):
    plain = MAPPED.model_copy(update={"maps": None})
    lens.fit_dataset(folder / "dataset", tmp_path / "plain", plain, progress=False)
    assert not (tmp_path / "plain/maps.npy").exists()
    processed = Dataset.open(folder / "processed")
    with pytest.raises(InputError, match="found no maps; expected fits with lensfit.maps: matched"):
        lens.read_maps(tmp_path / "plain", processed)
    simulate_dataset(population, {"train": 4}, 6, tmp_path / "other", progress=False)
    with pytest.raises(InputError, match="fits of other images than those of the dataset"):
        lens.read_maps(folder / "fits", Dataset.open(tmp_path / "other"))


# --------------------------------------------------------------------------------- the networks


def settings_of(**model):
    model = {"maps": SEEN, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2} | model
    return Settings(
        model=model,
        train=Train(epochs=2, batch_size=4, turns=True, learning_rate=1e-2),
        features={"groups": ["morphology", "lensfit"]},
        lensfit=MAPPED,
        preprocess={"size": 64},
        seed=1,
    )


@pytest.mark.parametrize("architecture", ["vit", "cnn"])
def test_a_run_answers_for_images_as_for_a_dataset(folder, tmp_path, architecture):
    """Maps of images alone are those on disk, and so are the answers; with the mean over turns."""
    settings, tables = (
        settings_of(architecture=architecture, average=True),
        Tables(None, None, folder / "fits"),
    )
    settings.check()
    train_run(folder / "processed", tmp_path / "run", settings, tables=tables, progress=False)
    run, data = load_run(tmp_path / "run"), Dataset.open(folder / "processed")
    assert run.settings.image_size == 64 and run.settings.lensfit.maps == "matched"
    rows = np.arange(4)
    table = predictions_table(run, data, rows, tables)
    alone = predict.predict([run], Dataset.open(folder / "dataset").images[:4])
    columns = [f"p_{name}" for name in run.classes]
    np.testing.assert_allclose(table[columns], alone[columns], atol=2e-3)
    assert table[columns].std().max() > 1e-4  # it sees the lenses
    turned = run.predict(*_turned(run, data, folder, rows))
    np.testing.assert_allclose(turned, table[columns], atol=1e-5)


def test_a_network_may_see_the_middle_of_maps_alone(folder, tmp_path):
    """What lies beyond changes nothing; what lies within does."""
    settings = settings_of(places=48)
    settings.check()
    tables = Tables(None, None, folder / "fits")
    train_run(folder / "processed", tmp_path / "run", settings, tables=tables, progress=False)
    run, data = load_run(tmp_path / "run"), Dataset.open(folder / "processed")
    assert run.settings.image_size == 48
    maps = np.array(lens.read_maps(folder / "fits", data)[:3])
    answers = run.predict(data.images[:3], maps=maps)
    beyond_it, within = maps.copy(), maps.copy()
    beyond_it[:, :, :8] = 5
    within[:, :, 8:16] = 5
    np.testing.assert_array_equal(run.predict(data.images[:3], maps=beyond_it), answers)
    assert abs(run.predict(data.images[:3], maps=within) - answers).max() > 1e-4
    with pytest.raises(InputError, match="model.places: found 47; expected up to 64"):
        settings_of(places=47).check()
    with pytest.raises(InputError, match="places = 48: expected maps"):
        checked(Model, {"places": 48}, "model")


def _turned(run, data, folder, rows):
    """What the run sees of lenses, turned by a quarter."""
    maps = lens.read_maps(folder / "fits", data)[rows]
    return data.images[rows], None, None, np.rot90(maps, axes=(2, 3))


def test_a_classifier_sees_maps(folder):
    data = Dataset.open(folder / "dataset")
    kinds = np.where(data.catalog["class"] == "no_sub", "smooth", "perturbed")
    one = ViTClassifier(
        pixel_scale=0.05,
        model={"maps": SEEN, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
        lensfit={"size": 64, "maps": "matched", "gain": 0.0},
        preprocess={"size": 64},
        train={"epochs": 1},
        random_state=0,
    )
    one.fit(np.array(data.images), kinds)
    assert one.predict_proba(np.array(data.images[:2])).shape == (2, 2)
    assert one.run_.model.embed.project.in_features == 5 * 3 * 64
    with pytest.raises(InputError, match="model.maps is on: found no pixel_scale"):
        ViTClassifier(model={"maps": SEEN, "patch_size": 8}).fit(np.array(data.images), kinds)


def test_what_maps_need_is_asked_for(folder, tmp_path):
    with pytest.raises(InputError, match="found snr_point.*; expected lensfit.maps: matched"):
        settings_of().model_copy(update={"lensfit": LensFit(size=64)}).check()
    with pytest.raises(InputError, match="patch_size = 7 does not divide the side of maps"):
        settings_of(patch_size=7).check()
    with pytest.raises(ValueError, match="expected each channel once"):
        Model(maps=["residual", "residual"])
    with pytest.raises(ValueError, match="residual: expected it off, since maps have"):
        Model(maps=SEEN, residual=True)
    with pytest.raises(InputError, match="model.maps is on: the folder of the lens fits"):
        train_run(folder / "processed", tmp_path / "x", settings_of(), progress=False)
    with pytest.raises(ValueError, match="expected rising numbers"):
        Maps(sizes=[20, 10])


# ------------------------------------------------------------------------------------- the table


def test_maps_are_summarised():
    rng = np.random.default_rng(0)
    maps = np.zeros((3, len(CHANNELS), 48, 48), np.float16)
    maps[:2] = rng.standard_normal((2, len(CHANNELS), 48, 48))
    maps[:2, PLACE["sensitivity_clump"]] = 3.0
    maps[1, PLACE["snr_clump"], 10, 12], maps[1, PLACE["snr_clump"], 30, 5] = 30.0, -20.0
    maps[1, PLACE["snr_clump"], 11, 13] = 25.0  # of the same peak
    table = summary(maps)
    assert len(table) == 3 and table.columns.is_unique
    assert table["map_clump_peak_0"][1] == 30 and table["map_clump_trough_0"][1] == 20
    assert table["map_clump_peak_1"][1] < 6
    noise = maps[0, PLACE["snr_clump"]].astype(float)
    assert table["map_clump_snr_q0.84"][0] == pytest.approx(np.quantile(noise, 0.84))
    assert table["map_clump_snr_rms"][0] == pytest.approx(np.sqrt((noise**2).mean()))
    bands = [name for name in table if name.startswith("map_clump_power")]
    assert np.abs(table.loc[0, bands]).max() < 0.6 and len(bands) == 5  # white noise: ln 1
    wave = np.zeros((1, len(CHANNELS), 48, 48))
    wave[0, PLACE["residual"]] = np.sin(2 * np.pi * 6 * np.arange(48) / 48)
    power = summary(wave)[[name for name in table if name.startswith("map_residual_power")]]
    assert power.loc[0].astype(float).idxmax() == "map_residual_power_5_8"
    assert isinstance(table, pd.DataFrame) and table.loc[2, "map_clump_peak_0"] == 0


def test_injected_clumps_are_where_they_are():
    """The peak of the matched map of a clump lies where the simulator put the mass."""
    images, places = [], []
    from vitdm import simulation

    population = load_population("marginal")
    for i in range(6):
        (at,) = on_ring(i)
        system = lens_of(i, [8e-3], [at])
        image = simulation.render(system, population)
        images.append(simulation.add_noise(image, system, np.random.default_rng(i), population))
        places.append((system.x[0], system.y[0]))
    fits = lens.fit(np.array(images), LensFit(gain=1.0, maps="matched"), pixel_scale=SCALE)
    axis = (np.arange(48) - 23.5) * 0.1
    apart = []
    for snr, (x, y) in zip(fits.maps[:, PLACE["snr_point"]], places, strict=True):
        row, column = np.unravel_index(snr.argmax(), snr.shape)
        apart.append(math.hypot(axis[column] - x, axis[row] - y))
    assert np.median(apart) < 0.12 and snr.max() > 6
