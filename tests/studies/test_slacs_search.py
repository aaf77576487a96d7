"""The search for subhalos in real lenses: its numbers, injected clumps, tables and figures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from studies import slacs, slacs_search
from studies.config import Slacs, SlacsSearch, load
from studies.plots import slacs_search as plots
from studies.story import slacs_search as story
from vitdm import lens
from vitdm.config import FreeForm, Perturbers
from vitdm.data.simulated import observed
from vitdm.errors import InputError
from vitdm.lens.free_form import mass
from vitdm.lens.perturbers.maps import Marginal
from vitdm.simulation import NO_SUB, load_population

ROOT = Path(__file__).parents[2]
NAMES = "J0946+1006", "J0002"
REDSHIFTS = {NAMES[0]: (0.222, 0.609)}
HEAVY = 9.6  # log10 of a mass that is found


@pytest.fixture(scope="module")
def settings():
    config = load(ROOT / "config/smoke.yaml")
    chosen = SlacsSearch(
        masses=[7.0, HEAVY], places=3, refitted_masses=[7.0, HEAVY], more_twins={NAMES[0]: 1}
    )
    search = {"slacs": Slacs(search=chosen), "perturbers": Perturbers(profiles=("isothermal",))}
    return config.model_copy(update=search)


@pytest.fixture(scope="module")
def model():
    """The fit of a simulated smooth lens."""
    seen = observed(3, NO_SUB, 1, load_population("marginal"))
    return lens.fit(seen, FreeForm(splines=14, supersampling=1, lens_light=False))


@pytest.fixture(scope="module")
def searched(model, settings):
    return slacs_search.search_lens(NAMES[0], model, settings, REDSHIFTS)


@pytest.fixture(scope="module")
def found(searched):
    return searched[1]


@pytest.fixture(scope="module")
def injections(found, settings):
    return slacs_search.inject(NAMES[0], found, settings)


@pytest.fixture(scope="module")
def written(tmp_path_factory, model, searched, settings):
    """The files of two lenses; the second has no redshifts, and its neighbours are not masked."""
    place = tmp_path_factory.mktemp("lenses")
    bare = f"{NAMES[1]}{slacs_search.UNMASKED}"
    both = {n: slacs_search.search_lens(n, model, settings, REDSHIFTS) for n in (NAMES[1], bare)}
    for name, searches in ((NAMES[0], {NAMES[0]: searched}), (NAMES[1], both)):
        (place / name).mkdir()
        slacs_search.write(searches, settings, place / name)
    return place


@pytest.fixture(scope="module")
def merged(tmp_path_factory, written):
    out = tmp_path_factory.mktemp("merged")
    folders = [written / name for name in NAMES]
    slacs_search.merge(folders, NAMES[:1], {NAMES[1]: "a neighbour"}, out)
    return out


@pytest.fixture(scope="module")
def searches(tmp_path_factory, merged):
    results = tmp_path_factory.mktemp("results")
    (results / "slacs").mkdir()
    (results / "slacs/all").symlink_to(merged)
    return story.read_searches(load(ROOT / "config/smoke.yaml"), results)


# ---------------------------------------------------------------------------------- one search


def test_a_row_has_the_highest_peak_in_solar_masses(searched):
    row, found = searched
    high = np.nanargmax(found.maps["isothermal"].snr)
    assert (row["x"], row["y"]) == (found.x[high], found.y[high])
    amplitude = found.maps["isothermal"].amplitude[high]
    assert row["mass"] == pytest.approx(amplitude * found.solar_masses)
    assert row["z_lens"] == 0.222 and row["n_refitted"] == 1
    # (1 arcsec)^2 c^2 / 4 G D_L D_S / D_LS, with H0 = 70 and Om0 = 0.3
    assert found.solar_masses == pytest.approx(1.52e11, rel=0.02)


def test_the_threshold_is_the_lowest_score_with_a_small_p_value(found):
    least = slacs_search.threshold(found)
    for score, above in ((least * 1.0001, True), (least * 0.9999, False)):
        p_value = (1 + (found.twin_scores >= score).sum()) / (1 + len(found.twin_scores))
        assert (p_value <= slacs_search.FOUND) == above


def test_the_ring_is_where_the_magnification_diverges(model, found):
    places = slacs_search.ring(model)
    x, y, step = *places[::50].T, 1e-5
    by_x = [mass.deflection(model.values, x + s * step, y) for s in (1, -1)]
    by_y = [mass.deflection(model.values, x, y + s * step) for s in (1, -1)]
    xx, yx = (by_x[0] - by_x[1]) / (2 * step)
    xy, yy = (by_y[0] - by_y[1]) / (2 * step)
    np.testing.assert_allclose((1 - xx) * (1 - yy) - xy * yx, 0, atol=0.02)
    off = np.hypot(found.x[:, None] - places[:, 0], found.y[:, None] - places[:, 1]).min(1)
    np.testing.assert_array_equal(slacs_search.on_ring(found), off < slacs_search.RING)


def test_maps_are_images_of_the_search(found):
    maps = slacs_search.maps_of(found)
    k = np.nanargmax(found.maps["isothermal"].snr)
    there = found.row[k], found.column[k]
    assert maps.snr[there] == pytest.approx(found.maps["isothermal"].snr[k], rel=1e-3)
    least = 5 * found.maps["isothermal"].error[k] * found.solar_masses
    assert maps.sensitivity[there] == pytest.approx(np.log10(least), abs=0.01)
    assert maps.left.shape == maps.snr.shape and len(maps.twins) == 200


# ------------------------------------------------------------------------------ injected clumps


def test_a_light_clump_changes_what_its_template_says(found):
    problem, profile = found.model.problem, slacs_search.clump(found.settings)
    marginal = Marginal(problem, 0.05)
    x, y = slacs_search.ring(found.model)[0]
    template = marginal.templates(profile, np.array([x]), np.array([y]))[:, 0]
    change = slacs_search.imprints(problem, profile, [(x, y, 1e-6)])[0] * problem.posterior.weight
    change = change[marginal.rows] / 1e-6
    # templates leave out the faintest pixels
    assert np.corrcoef(change, template)[0, 1] > 0.99
    assert change @ template == pytest.approx(template @ template, rel=0.03)


def test_heavy_clumps_are_found_where_they_are_and_light_ones_are_not(injections):
    light, heavy = (rows for _, rows in injections.groupby("log_mass"))
    assert (heavy["p_value"] <= slacs_search.FOUND).any() and heavy["offset"].min() < 0.2
    assert (light["score"] < heavy["score"].min()).all() and (light["p_value"] > 0.005).all()
    again = injections.dropna(subset="score_refitted")
    assert len(again) == 2 and sorted(again["log_mass"]) == [7.0, HEAVY]


def test_an_injected_clump_can_be_taken_out_again(found):
    problem, profile = found.model.problem, slacs_search.clump(found.settings)
    change = slacs_search.imprints(problem, profile, [(1.0, 0.3, 0.02)])[0]
    there = slacs_search.with_change(problem, change)
    fitted = problem.view.fitted
    np.testing.assert_allclose((there.scene.data - problem.scene.data)[fitted], change, atol=1e-9)
    assert (there.scene.data == problem.scene.data)[~fitted].all()
    back = slacs_search.with_change(there, -change)
    np.testing.assert_allclose(back.scene.data, problem.scene.data, atol=1e-9)


def test_completeness_counts_what_is_near_and_significant():
    rows = [("a", 9.0, 0.004, 0.1), ("a", 9.0, 0.004, 0.3), ("b", 9.0, 0.006, 0.1)]
    rows += [("b", 9.0, 0.004, 0.1), ("a", 10.0, 0.001, 0.0), ("b", 10.0, 0.001, 0.0)]
    table = pd.DataFrame(rows, columns=["name", "log_mass", "p_value", "offset"]).assign(score=1.0)
    result = slacs_search.completeness(table)
    assert result["share"].tolist() == [0.5, 1.0] and result["n"].tolist() == [4, 2]
    assert result["anywhere"].tolist() == [0.75, 1.0]
    assert result["error"].tolist() == [0.0, 0.0]  # both lenses have one half


# ------------------------------------------------------------------------------------ the files


def test_tables_and_maps_of_all_lenses_are_joined(merged, searches):
    table, peaks, injections, maps = searches
    bare = f"{NAMES[1]}{slacs_search.UNMASKED}"
    assert table["name"].tolist() == [NAMES[0], NAMES[1], bare]
    assert table["why"].fillna("").tolist() == ["", "a neighbour", ""]
    assert set(peaks["name"]) == set(table["name"]) and set(maps) == {NAMES[0], bare}
    assert set(injections["name"]) == {NAMES[0]}  # no masses without redshifts
    assert table["mass"].isna().tolist() == [False, True, True]
    assert maps[NAMES[0]].refitted.shape == (1,)


def test_the_same_lens_gives_the_same_files(written, searched, settings, tmp_path):
    slacs_search.write({NAMES[0]: searched}, settings, tmp_path)
    for file in slacs_search.FILES:
        assert (tmp_path / file).read_bytes() == (written / NAMES[0] / file).read_bytes()


def test_redshifts_are_read_or_what_is_wrong_is_named(tmp_path):
    known = slacs_search.read_redshifts(ROOT / "config/slacs_redshifts.csv")
    assert known["J0946+1006"] == (0.222, 0.609) and len(known) == 44
    assert all(z_lens < z_source for z_lens, z_source in known.values())
    bad = tmp_path / "bad.csv"
    bad.write_text("name,z_lens\nJ1,0.2\n")
    for file in (bad, tmp_path / "gone"):
        with pytest.raises(InputError, match="expected a CSV table with the columns name, z_lens"):
            slacs_search.read_redshifts(file)


def test_pixels_that_the_noise_map_masks_can_be_used(tmp_path):
    from astropy.io import fits

    rng = np.random.default_rng(0)
    image = rng.uniform(1, 50, (60, 60)).astype(np.float32)
    noise = np.sqrt(0.5 + 0.2 * image).astype(np.float32)
    hidden = noise.copy()
    hidden[10:20, 10:20] = 1e8
    for file, values in (("image", image), ("noise", hidden), ("psf", np.ones((3, 3)))):
        fits.writeto(tmp_path / f"{file}.fits", np.asarray(values, np.float32))
    seen = slacs.read_observation(tmp_path, pixel_scale=0.05)
    whole = slacs.unmasked(seen, tmp_path)
    assert seen.mask.sum() == 100 and not whole.mask.any()
    np.testing.assert_allclose(whole.noise, noise, rtol=1e-3)
    np.testing.assert_array_equal(whole.data, image)


# --------------------------------------------------------------------------- what notebooks show


def test_numbers_and_tables_of_the_article(searches):
    numbers = story.search_numbers(searches)
    table = searches.table
    assert numbers["search_rank_good"] <= numbers["search_rank"]
    assert numbers["search_n"] == 2 and 1 <= numbers["search_rank"] <= 2
    x, y = table["x"][0], table["y"][0]
    assert numbers["search_lens_offset"] == pytest.approx(np.hypot(x + 0.651, y - 1.040))
    assert numbers["search_j0002_score"] == pytest.approx(table["score"][2])
    maps = searches.maps[story.LENS]
    near = {
        (x, y): maps.snr[k, i]
        for k, y in enumerate(maps.y)
        for i, x in enumerate(maps.x)
        if (x + 0.651) ** 2 + (y - 1.040) ** 2 <= 0.01 and np.isfinite(maps.snr[k, i])
    }
    assert numbers["search_lens_chance"] == pytest.approx(len(near) / np.isfinite(maps.snr).sum())
    assert numbers["search_lens_lowest"] == pytest.approx(np.nanmin(maps.snr))
    compact = story.compact(table)
    assert compact["score"].is_monotonic_decreasing
    assert "neighbours not masked" in " ".join(compact["remarks"])
    assert set(story.alarms(table)["name"]) == set(table["name"][table["p_value"] <= 0.01])


def test_numbers_of_completeness_are_named_by_the_mass():
    found = pd.DataFrame({"log_mass": [9.0, 9.5], "share": [0.1, 0.2], "anywhere": [0.3, 0.4]})
    expected = {"found_90": 0.1, "found_95": 0.2, "anywhere_90": 0.3, "anywhere_95": 0.4}
    assert story._shares(found, "") == expected


def test_figures_show_lens_sample_and_completeness(searches, model):
    maps = searches.maps[NAMES[0]]
    fit = slacs.Maps.of(model)
    figure = plots.searched_lens(NAMES[0], fit, maps, searches.table, searches.peaks)
    shown = figure.axes[2].get_images()[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(shown.astype(float), np.nan), maps.snr)
    cross = figure.axes[2].lines[-1]
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (-0.651, 1.040)
    left = plots.searched_lenses(searches.table).axes[0]
    assert [label.get_text() for label in left.get_yticklabels()] == list(
        searches.table[:2].sort_values("score")["name"]
    )
    both = [slacs_search.completeness(searches.injections, s) for s in ("", "_refitted")]
    axes = plots.found_injections(*both).axes[0]
    np.testing.assert_allclose(
        axes.containers[1].lines[0].get_ydata().astype(float), both[1]["share"]
    )


def test_only_masses_that_are_injected_are_searched_after_a_fit():
    assert SlacsSearch(masses=[9.0, 9.5], refitted_masses=[9.5]).refitted_masses == [9.5]
    with pytest.raises(ValueError, match="expected some of masses"):
        SlacsSearch(masses=[9.0], refitted_masses=[9.5])
