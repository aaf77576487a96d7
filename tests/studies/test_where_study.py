"""The study of where subhalos are, on toys whose maps point at the true ones."""

import numpy as np
import pandas as pd
import pytest
from test_maps import CONTENT, TINY

from studies import config as workflow
from studies import where
from studies.plots.where import where as figure
from studies.story.where import drawn, read_where, where_numbers
from vitdm.config import CHANNELS
from vitdm.data import dataset
from vitdm.data.dataset import Dataset
from vitdm.data.simulated import planned
from vitdm.errors import InputError
from vitdm.provenance import write_json
from vitdm.simulation import draw, load_population

SIDE, STEP, SEED = 16, 0.32, 5
AXIS = (np.arange(SIDE) - (SIDE - 1) / 2) * STEP
TRAIN = {"epochs": 6, "patience": 6, "learning_rate": 1e-2, "turns": True}
MODEL = TINY | {"maps": ["snr_point", "snr_clump"], "spt": False}
ROWS = {
    "vit": {"label": "ViT", "model": MODEL, "train": TRAIN},
    "search": {"label": "search", "trained": False, "model": MODEL | {"maps": ["snr_clump"]}},
    "blind": {"label": "noise", "trained": False, "model": MODEL | {"maps": ["residual"]}},
}
CHOSEN = {"population": "realistic", "n_valid": 20, "seeds": 2, "against": "blind", "rows": ROWS}
CHOSEN |= {"log_masses": [8.5, 9.0, 10.0], "radius": 0.3, "apart": 0.4}
MAPS = CONTENT["maps"] | {"populations": ["realistic"]}


def settings_with(**changes):
    content = CONTENT | {"maps": MAPS, "where": CHOSEN | changes}
    return workflow.build(content | {"evaluation": {"bootstrap": 50}})


@pytest.fixture(scope="module")
def lenses(tmp_path_factory):
    """Lenses of `realistic` with maps in which subhalos stand out as they are heavy."""
    folder = tmp_path_factory.mktemp("where") / "realistic"
    population = load_population("realistic")
    catalog = planned(population, {"train": 140, "opt": 100, "test": 4}, SEED)
    n = len(catalog)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, 32, 32)).astype(np.float32)
    dataset.write(folder / "processed", images, catalog, rule="toy")
    maps = rng.normal(size=(n, len(CHANNELS), SIDE, SIDE))
    for k, kind in enumerate(catalog["class"]):
        lens = draw(k, kind, SEED, population)
        for x, y, mass in zip(lens.x, lens.y, lens.masses, strict=True):
            near = np.exp(-((AXIS - x) ** 2 + (AXIS[:, None] - y) ** 2) / 0.05)
            maps[k, CHANNELS.index("snr_clump")] += 12 * (mass / 1e9) * near
    (folder / "lensfit").mkdir()
    np.save(folder / "lensfit/maps.npy", maps.astype(np.float16))
    np.save(folder / "lensfit/residuals.npy", images)
    catalog[["id"]].to_csv(folder / "lensfit/fits.csv", index=False)
    camera = {"lensfit": {"size": 64}, "pixel_scale": SIDE * STEP / 64}
    told = {"rule": "lensfit", "channels": list(CHANNELS), "camera": camera}
    write_json(folder / "lensfit/provenance.json", told)
    return folder


@pytest.fixture(scope="module")
def measured(lenses):
    parts = [lenses / "where" / name for name in ROWS]
    for part in parts:
        where.train_row(lenses, "realistic", settings_with(), part.name, part)
    out = lenses.parent / "all"
    where.merge(parts, settings_with(), out)
    return out


def test_subhalos_are_those_that_were_drawn(lenses):
    data = Dataset.open(lenses / "processed")
    subhalos = where.subhalos_of(data, "realistic")
    population = load_population("realistic")
    for k in (0, 5, 17):
        lens = draw(k, data.catalog["class"][k], SEED, population)
        own = subhalos[subhalos["lens"] == k]
        np.testing.assert_array_equal(own["mass"], lens.masses)
        np.testing.assert_array_equal(own[["x", "y"]], np.column_stack([lens.x, lens.y]))


def test_places_are_marked_near_a_subhalo():
    own = pd.DataFrame({"lens": [1], "x": [AXIS[3]], "y": [AXIS[10] + 0.1], "mass": [1e9]})
    marked = where.marked(own, 2, AXIS).numpy()
    assert marked.sum() == 1 and marked[1, 10, 3]
    fine = np.arange(-20, 21) * 0.02
    assert where.marked(own.assign(x=0.0, y=0.0), 2, fine)[1].sum() == pytest.approx(201, abs=8)


def test_peaks_that_point_at_subhalos_find_them(measured):
    table = pd.read_csv(measured / "where.csv").set_index(["row", "low"])
    assert table.loc[("search", 9.0), "found"] > 0.8
    assert table.loc[("blind", 9.0), "found"] < 0.3
    for row in ("vit", "search"):
        heavy = table.loc[(row, 9.0)]
        assert heavy["gain"] == pytest.approx(heavy["found"] - table.loc[("blind", 9.0), "found"])
        assert heavy["found_low"] <= heavy["found"] <= heavy["found_high"]
        assert heavy["gain_low"] > 0.2 and heavy["chance"] < 0.3
    assert table.loc[("vit", 9.0), "sd"] >= 0 and table.loc["search", "sd"].isna().all()
    assert table.loc["blind", "gain"].isna().all()
    history = pd.read_csv(measured / "where_history.csv")
    assert history.groupby("row").size().to_dict() == {"vit": 12}


def test_shares_are_counted_at_the_allowed_false_peaks(lenses, measured):
    part = lenses / "where/search"
    subhalos, tops = pd.read_csv(part / "subhalos.csv"), pd.read_csv(part / "peaks.csv")
    wrong = np.sort(tops.loc[~tops["right"], "height"])[::-1]
    above = wrong[100]  # one false peak each of 100 lenses
    heavy = subhalos[(subhalos["mass"] >= 1e9) & (subhalos["mass"] < 1e10)]
    table = pd.read_csv(measured / "where.csv").set_index(["row", "low"])
    assert table.loc[("search", 9.0), "n"] == len(heavy)
    share = (heavy["height"] > above).mean()
    assert table.loc[("search", 9.0), "found"] == pytest.approx(share)


def test_figure_and_numbers(measured):
    table, shown = read_where(measured)
    assert drawn(table) == ("vit", "search")
    axes = figure(table, shown, "vit", "search").axes
    assert len(axes) == 1 + 2 * len(shown["lenses"]) and len(axes[0].containers) == 3
    numbers = where_numbers(table)
    found = table.query("row == 'vit' and low == 9.0")["found"].iloc[0]
    assert numbers["where_vit_90_found"] == found and "where_blind_90_gain" not in numbers


def test_what_does_not_fit_is_refused(lenses, tmp_path):
    with pytest.raises(InputError, match="--row mine: no such row of where.rows; .* vit"):
        where.train_row(lenses, "realistic", settings_with(), "mine", tmp_path / "x")
    with pytest.raises(InputError, match=r"140 lenses in split train, .* where.n_valid = 140"):
        where.train_row(lenses, "realistic", settings_with(n_valid=140), "vit", tmp_path / "x")
    with pytest.raises(InputError, match="found no row vit; expected all rows"):
        where.merge([lenses / "where/search"], settings_with(), tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"population": "hubble"}, r"where\.population: found hubble; .*: realistic"),
        ({"rows": {}, "against": None}, r"where\.rows: found none; expected at least one"),
        ({"against": "cnn"}, r"where\.against: found 'cnn'; expected one of where\.rows"),
        ({"log_masses": [9.0, 8.0]}, r"log_masses: .*rising"),
        (
            {"rows": ROWS | {"search": ROWS["vit"] | {"trained": False}}},
            r"rows\.search\.model\.maps: found snr_point, snr_clump; expected the map whose peaks",
        ),
        (
            {"rows": ROWS | {"vit": {"label": "x", "model": MODEL | {"architecture": "cnn"}}}},
            r"rows\.vit\.model\.architecture: found cnn; expected vit",
        ),
        (
            {"rows": ROWS | {"vit": {"label": "x", "model": TINY | {"maps": []}}}},
            r"rows\.vit\.model\.maps: found none; expected some of the maps",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        settings_with(**changes)
