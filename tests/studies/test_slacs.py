"""Real lenses fitted one by one: what is kept of a fit, the table, and a lens if it is there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from free_form import TRUTH, made

from studies import slacs, slacs_search
from studies.__main__ import main
from studies.config import Slacs, load
from studies.config.part import load_part, text_of
from studies.plots import slacs as slacs_plots
from studies.stages import stages
from studies.story import slacs as story
from studies.targets import LENS, Targets
from vitdm.config import FreeForm
from vitdm.errors import InputError
from vitdm.lens.free_form import FLAGS

ROOT = Path(__file__).parents[2]
REAL = ROOT / "data/real/slacs_hst"
NAMES = "J0001", "J0002", "J0003"
PUBLISHED = """# where they are from
name,theta_E_sie,q_sie,theta_E,theta_E_low,theta_E_high
J0001,1.15,0.8,1.30,1.2,1.4
J0003,1.40,0.7,1.18,1.1,1.3
J0009,1.00,0.7,1.00,0.9,1.1
"""


def model(name="J0001", shape=(131, 131), **changes):
    """A model of which all within 2.2 arcsec was fitted, but for a neighbour."""
    whole = made(name, shape=shape, **changes)
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in shape)
    near = np.hypot(rows[:, None], columns) * whole.observation.pixel_scale < 2.2
    return replace(whole, fitted=whole.fitted & near)


@pytest.fixture(scope="module")
def lenses(tmp_path_factory):
    """Three folders with image, noise map and PSF, and a table of published radii."""
    place = tmp_path_factory.mktemp("lenses")
    for k, name in enumerate(NAMES):
        (place / name).mkdir()
        seen = model(name, seed=k).observation
        for file, image in (("image", seen.data), ("noise", seen.noise), ("psf", seen.psf)):
            fits.writeto(place / name / f"{file}.fits", np.asarray(image, np.float32))
    (place / "published.csv").write_text(PUBLISHED)
    (place / "notes.yaml").write_text("J0002: no published radius\nJ0009: not here\n")
    return place


@pytest.fixture(scope="module")
def files(tmp_path_factory, lenses):
    """The settings of the two stages, for these lenses."""
    config = load(ROOT / "config/smoke.yaml")
    chosen = {"images": str(lenses), "names": list(NAMES), "shown": ["J0003", "J0001"]}
    config = config.model_copy(update={"slacs": Slacs(**chosen)})
    place, content = tmp_path_factory.mktemp("stages"), stages(config, Targets(config))
    for name in ("slacs", "merge_slacs"):
        (place / name).write_text(text_of(content[name]))
    return place


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, lenses, files):
    """The folders of their fits, each the truth of its lens in the place of a fit."""
    place, asked = tmp_path_factory.mktemp("fits"), []

    def fit(observation, settings):
        asked.append((observation, settings))
        name = Path(observation.name).name
        flags = {"J0001": (), "J0002": ("poor", "far"), "J0003": ("not_converged",)}[name]
        return model(name, seed=NAMES.index(name), flags=flags, converged=name != "J0003")

    def search(name, model, settings, redshifts):
        return {"name": name, "score": 3.0}, None

    def write(searches, settings, folder):  # what it holds: test_slacs_search.py
        for file in slacs_search.FILES:
            (folder / file).write_text("name\n" + "\n".join(searches) + "\n")
        slacs_search.write_maps({}, folder / "search.npz")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slacs.lens, "fit", fit)
        patch.setattr(slacs_search, "search_lens", search)
        patch.setattr(slacs_search, "write", write)
        for name in NAMES:
            options = ["--config", str(files / "slacs"), "--out", str(place / name)]
            assert main(["slacs", str(lenses / name), *options]) == 0
    for observation, settings in asked:
        assert observation.pixel_scale == 0.05 and observation.unknown == ()
        assert settings == load(ROOT / "config/smoke.yaml").freeform  # nothing for a single lens
    return place


@pytest.fixture(scope="module")
def merged(tmp_path_factory, lenses, files, fitted):
    out = tmp_path_factory.mktemp("merged") / "all"
    options = ["--published", str(lenses / "published.csv"), "--notes", str(lenses / "notes.yaml")]
    options += ["--config", str(files / "merge_slacs"), "--out", str(out)]
    folders = [str(fitted / name) for name in reversed(NAMES)]
    assert main(["merge-slacs", *folders, *options]) == 0
    return out


# --------------------------------------------------------------------------------- what is kept


def test_a_row_has_the_numbers_of_the_fit(fitted):
    row = pd.read_csv(fitted / "J0002/lens.csv").iloc[0]
    truth = model("J0002", seed=1)
    assert row["name"] == "J0002" and row["flags"] == "poor far" and row["converged"] == 1
    assert row["shear"] == pytest.approx(np.hypot(TRUTH["gamma1"], TRUTH["gamma2"]))
    assert row["ellipticity"] == pytest.approx(np.hypot(TRUTH["e1"], TRUTH["e2"]))
    for name in ("chi2", "chi2_arcs", "n_pixels"):
        assert row[name] == pytest.approx(getattr(truth, name), rel=1e-6)
    assert (row["neighbours"], row["cosmic_rays"]) == (1, 0)


def test_maps_are_those_of_the_model_in_units_of_the_noise(fitted):
    maps, truth = slacs.read_maps(fitted / "J0001/maps.npz"), model()
    height = len(maps.image)
    cut = (len(truth.fitted) - height) // 2
    assert cut > 0 and maps.image.shape == maps.fitted.shape == (height, height)
    assert maps.fitted.sum() == truth.fitted.sum()  # none is cut away
    assert (len(truth.fitted) - height) % 2 == 0  # about the middle
    square = np.s_[cut : cut + height, cut : cut + height]
    noise = truth.noise[square] / np.median(truth.noise[truth.fitted])
    left = (maps.image.astype(float) - maps.light - maps.arcs) / noise
    np.testing.assert_allclose(left[maps.fitted], maps.residual[maps.fitted], atol=0.05)
    # brightness is conserved: the source is as bright as the brightest arcs, before the PSF
    assert maps.arcs.max() < maps.source.max() < 2 * maps.arcs.max()


def test_the_chi2_of_the_sky_is_that_of_its_noise():
    truth = model()
    y, x = np.mgrid[:131, :131] - 65
    far = (np.hypot(x, y) * 0.06 > 3) & ~truth.fitted & ~truth.observation.mask
    assert slacs.noise_of_sky(truth) == pytest.approx(np.mean(truth.residual[far] ** 2), rel=0.1)
    half = model()
    half.residual[...] *= 0.5  # pixels that share noise
    half.residual[100:104, :10] = 30  # a neighbour
    assert slacs.noise_of_sky(half) == pytest.approx(slacs.noise_of_sky(truth) / 4, rel=0.05)
    assert np.isnan(slacs.noise_of_sky(model(shape=(60, 60))))


# ----------------------------------------------------------------------------------- the table


def test_fits_stand_beside_published_radii(merged):
    table = pd.read_csv(merged / "slacs.csv")
    assert list(table["name"]) == list(NAMES)  # in the order of the names
    radius = TRUTH["theta_E"]
    assert table["ratio"][0] == pytest.approx(radius / 1.15, rel=1e-5)
    assert list(table["within"].fillna(-1)) == [1, -1, 0]
    assert list(table["within_cao"].fillna(-1)) == [0, -1, 1]
    assert table["theta_E_cao_high"][2] == 1.3
    assert list(table["why"].fillna("")) == ["", "no published radius", ""]
    assert (table["cpu_seconds"] >= 0).all() and len(table) == 3


def test_the_maps_are_those_of_the_lenses_that_are_shown(merged, fitted, files):
    maps = slacs.read_maps(merged / "slacs_maps.npz")
    assert list(maps) == ["J0003", "J0001"]
    own = slacs.read_maps(fitted / "J0003/maps.npz")
    for found, expected in zip(maps["J0003"], own, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_same_fits_give_the_same_bytes(merged, fitted, files, lenses, tmp_path):
    settings = load_part(files / "merge_slacs")
    known = (lenses / "published.csv", lenses / "notes.yaml")
    slacs.merge([fitted / name for name in NAMES], settings, tmp_path / "again", *known)
    for name in slacs.MERGED[:2]:
        assert (merged / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_without_published_radii_and_notes_the_columns_are_empty(fitted, files, tmp_path):
    settings = load_part(files / "merge_slacs")
    table = slacs.merge([fitted / "J0002"], settings, tmp_path / "all")
    assert table["ratio"].isna().all() and table["within"].isna().all()
    assert list(table["why"]) == [""]
    assert list(slacs.read_maps(tmp_path / "all/slacs_maps.npz")) == ["J0002"]  # none is named
    assert np.isnan(story.slacs_numbers(table)["slacs_ratio_median"])


def test_what_is_wrong_is_named(lenses, fitted, files, tmp_path, capsys):
    settings = load_part(files / "slacs")
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "gone"):
        with pytest.raises(InputError, match=folder):
            slacs.fit_lens(tmp_path / folder, settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="no fit of slacs: lens.csv, maps.npz, search.csv"):
        slacs.merge([lenses / "J0001"], settings, tmp_path / "out")
    with pytest.raises(InputError, match="of the same lens"):
        slacs.merge([fitted / "J0001", fitted / "J0001"], settings, tmp_path / "out")
    bad = tmp_path / "bad"
    bad.write_text("name,theta_E\nJ0001,1\n")
    with pytest.raises(InputError, match="found no column theta_E_sie, theta_E_low"):
        slacs.read_published(bad)
    with pytest.raises(InputError, match="cannot be read"):
        slacs.read_published(tmp_path / "gone")
    bad.write_text("J0001: [1, 2]\n")
    with pytest.raises(InputError, match="J0001: .*expected words"):
        slacs.read_notes(bad)


def test_the_notes_are_words_about_lenses():
    notes = slacs.read_notes(ROOT / "config/slacs_notes.yaml")
    table = ROOT / "paper/extended/slacs.csv"
    known = set(pd.read_csv(table)["name"]) if table.exists() else set(notes)
    assert all(name.startswith("J") and words for name, words in notes.items())
    assert set(notes) <= known or len(known) < 44  # of a run with all lenses


def test_lenses_are_present_if_their_images_are(lenses, tmp_path):
    (tmp_path / "J0009").mkdir()
    assert Slacs().present == Slacs(images=str(tmp_path)).present == []
    assert Slacs(images=str(lenses)).present == list(NAMES)
    assert Slacs(images=str(lenses), names=["J0003", "J0009"]).present == ["J0003"]


# --------------------------------------------------------------------------- what notebooks show


def test_numbers_count_what_agrees(merged):
    numbers = story.slacs_numbers(story.read_catalog(merged / "slacs.csv"))
    expected = {"n": 3, "n_published": 2, "n_within": 1, "n_within_cao": 1, "n_within_either": 2}
    expected |= {"n_published_within": 0, "n_clean": 1, "n_clean_within": 1, "n_converged": 2}
    expected |= {"n_reached": 1, "n_reached_within": 1}
    assert {key: numbers[f"slacs_{key}"] for key in expected} == expected
    assert numbers["slacs_ratio_median"] == pytest.approx(1.2 * (1 / 1.15 + 1 / 1.4) / 2, rel=1e-4)
    agreement = story.agreement(story.read_catalog(merged / "slacs.csv"))
    assert agreement.loc["fitted, Bolton et al."].tolist() == [1, 2]


def test_the_table_of_the_article_is_compact(merged):
    table = story.compact(story.read_catalog(merged / "slacs.csv"))
    assert table["theta_E"][0] == "1.200\u00a0±\u00a00.010"
    assert table["remarks"].tolist() == ["", "poor, far; no published radius", "not converged"]


def test_the_fits_of_a_run_go_before_the_committed_ones(merged, tmp_path):
    smoke = load(ROOT / "config/smoke.yaml")
    assert story.read_fits(smoke, tmp_path) is None
    (tmp_path / "slacs").mkdir()
    (tmp_path / "slacs/all").symlink_to(merged)
    table, maps = story.read_fits(smoke, tmp_path)
    assert len(table) == 3 and list(maps) == ["J0003", "J0001"]


def test_without_real_images_a_simulated_lens_is_fitted(lenses):
    smoke = load(ROOT / "config/smoke.yaml")
    absent = smoke.model_copy(update={"slacs": Slacs(images="nowhere")})
    simulated = story.lens_to_fit(absent)
    assert simulated.unknown == () and simulated.shape[0] > 100
    there = smoke.model_copy(update={"slacs": Slacs(images=str(lenses), pixel_scale=0.06)})
    real = story.lens_to_fit(there, "J0002")
    assert real.shape == (131, 131) and real.pixel_scale == 0.06


def test_figures_show_the_maps(merged):
    table, maps = pd.read_csv(merged / "slacs.csv"), slacs.read_maps(merged / "slacs_maps.npz")
    figure = slacs_plots.fitted_lenses(maps, table)
    panels = np.array(figure.axes[:10]).reshape(2, 5)
    names = [row[0].get_ylabel().split("\n")[0] for row in panels]
    assert names == ["J0003", "J0001"]
    residual = panels[1, 3].get_images()[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(residual, 0)[40, 40], maps["J0001"].residual[40, 40])
    assert panels[0, 2].lines and panels[0, 4].lines  # critical curve and caustic
    steps = slacs_plots.one_lens(maps["J0001"])
    assert [axes.get_title(loc="left")[:3] for axes in steps.axes[:6]] == [
        f"({c})" for c in "abcdef"
    ]


def test_the_figure_of_radii_tells_flags_apart(merged):
    table = pd.read_csv(merged / "slacs.csv")
    figure = slacs_plots.fitted_radii(table)
    left = figure.axes[0]
    drawn = [line.lines[0].get_xydata() for line in left.containers]
    assert [len(points) for points in drawn] == [1, 1, 1]
    assert drawn[0][0].tolist() == pytest.approx([1.15, 1.2])
    assert [text.get_text() for text in left.texts] == []  # 1.4 / 1.2 is below 1.4
    table["theta_E"] *= 0.8
    assert [t.get_text() for t in slacs_plots.fitted_radii(table).axes[0].texts] == ["J0003"]


# ------------------------------------------------------------------------------------ real lenses


@pytest.mark.skipif(not (REAL / LENS).is_dir(), reason="no data/real/slacs_hst (docs/data.md)")
def test_a_real_lens(tmp_path):
    config = load(ROOT / "config/smoke.yaml").model_copy(update={"freeform": FreeForm()})
    row = slacs.fit_lens(REAL / LENS, config, tmp_path / LENS)
    published = slacs.read_published(REAL / "published.csv").set_index("name")
    assert row["theta_E"] == pytest.approx(published["theta_E_bolton"][LENS], rel=slacs.AGREES)
    assert 0.9 < row["chi2"] / row["chi2_sky"] < 1.5
    assert set(row["flags"].split()) <= set(FLAGS)
