"""The study of posteriors of the mass fraction in subhalos, on toys in which a map tells it."""

import json

import numpy as np
import pandas as pd
import pytest
from test_efficiency import sample
from test_maps import CONTENT, TINY, settings_of

from studies import config as workflow
from studies import posterior
from studies.plots.posterior import posterior as draw
from studies.story.posterior import posterior_numbers, posterior_table
from vitdm.config import CHANNELS
from vitdm.data.dataset import Dataset
from vitdm.errors import InputError
from vitdm.provenance import write_json

TRAIN = {"epochs": 30, "patience": 30, "learning_rate": 1e-2}
ROWS = {"vit": {"label": "ViT", "model": TINY, "train": TRAIN}}
CHOSEN = {"populations": ["realistic"], "n_valid": 8, "seeds": 2, "components": 2, "draws": 40}
CHOSEN |= {"group_sizes": [1, 5], "rows": ROWS}
MAPS = CONTENT["maps"] | {"populations": ["realistic"]}


def settings_with(**changes):
    return workflow.build(CONTENT | {"maps": MAPS, "posterior": CHOSEN | changes})


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    place = tmp_path_factory.mktemp("posterior")
    folder = place / "realistic"
    folder.mkdir()
    sample(folder, shortcut=False, seed=0)
    catalog = pd.read_csv(folder / "processed/catalog.csv", dtype={"id": str})
    rng = np.random.default_rng(0)
    truth = rng.uniform(-3, -1.5, 120)
    some = catalog["class"] == "cdm"
    catalog["f_sub"] = np.where(some, 10**truth, np.nan)
    catalog["max_subhalo_mass"] = np.where(some, 10 ** rng.uniform(7, 10, 120), np.nan)
    catalog.loc[np.flatnonzero(some)[0], "max_subhalo_mass"] = 0.0  # no subhalo was drawn
    catalog.to_csv(folder / "processed/catalog.csv", index=False)
    (folder / "processed/dataset.json").unlink(missing_ok=True)
    write_json(folder / "processed/dataset.json", {"rule": "toy"})
    values = rng.normal(size=(120, len(CHANNELS), 16, 16)).astype(np.float16)
    values[:, 0] += 3 * (truth + 2.25)[:, None, None]
    np.save(folder / "lensfit/maps.npy", values)
    catalog[["id"]].to_csv(folder / "lensfit/fits.csv", index=False)
    told = {"rule": "lensfit", "channels": list(CHANNELS)}
    write_json(folder / "lensfit/provenance.json", told)
    part = folder / "posterior/vit"
    posterior.train_row(folder, "realistic", settings_with(), "vit", part)
    posterior.merge([part], settings_with(), place / "all")
    return place


def test_lenses_with_subhalos_alone_are_asked(measured):
    lenses = pd.read_csv(measured / "all/posterior_lenses.csv", dtype={"id": str})
    catalog = Dataset.open(measured / "realistic/processed").catalog.set_index("id")
    own = catalog.loc[lenses["id"]]
    assert (own["class"] == "cdm").all() and (own["split"] == "opt").all() and len(own) == 20
    np.testing.assert_allclose(10 ** lenses["log_f_sub"], own["f_sub"])
    told = json.loads((measured / "realistic/posterior/vit/posterior.json").read_text())
    assert told["lenses"] == {"train": 11, "valid": 8, "score": 20}  # and one without a subhalo


def test_groups_are_neighbours_and_tell_more(measured):
    groups = pd.read_csv(measured / "all/posterior_groups.csv")
    assert groups.groupby("n_lenses").size().to_dict() == {1: 20, 5: 4}
    many = groups[groups["n_lenses"] == 5]
    assert many["log_f_sub"].is_monotonic_increasing and (many["scatter"] > 0).all()
    alone = groups[groups["n_lenses"] == 1]
    assert many["log_f_sub_sd"].mean() < 0.8 * alone["log_f_sub_sd"].mean()
    lenses = pd.read_csv(measured / "all/posterior_lenses.csv").sort_values("log_f_sub")
    # the grid and the draws say the same of a lens
    np.testing.assert_allclose(alone["log_f_sub_sd"], lenses["log_f_sub_sd"], atol=0.15)
    np.testing.assert_allclose(alone["log_f_sub_mean"], lenses["log_f_sub_mean"], atol=0.25)


def test_a_line_says_what_the_lenses_say(measured):
    rows = pd.read_csv(measured / "all/posterior.csv")
    assert list(dict.fromkeys(rows["seed"])) == ["0", "1", "mean"]
    groups = pd.read_csv(measured / "all/posterior_groups.csv").query("n_lenses == 1")
    line = rows.query("seed == 'mean' and n_lenses == 1 and range == 'all'").iloc[0]
    error = groups["log_f_sub_mean"] - groups["log_f_sub"]
    assert line["bias"] == pytest.approx(error.mean())
    assert line["rms"] == pytest.approx(np.sqrt((error**2).mean()))
    inside = (groups["log_f_sub_rank"] - 0.5).abs() < 0.34
    assert line["coverage_68"] == pytest.approx(inside.mean())
    rich = rows.query("seed == 'mean' and n_lenses == 1 and range == 'rich'").iloc[0]
    assert rich["n"] == (groups["log_f_sub"] >= -2).sum() and np.isnan(rich["coverage_68"])
    history = pd.read_csv(measured / "all/posterior_history.csv")
    assert len(history) == 60 and history["valid_log_density"].notna().all()


def test_figure_table_and_numbers(measured):
    tables = [
        pd.read_csv(measured / f"all/posterior{end}.csv") for end in ("", "_lenses", "_groups")
    ]
    axes = draw(*tables[1:]).axes
    assert len(axes) == 3 and len(axes[2].lines) == 2
    table = posterior_table(tables[0])
    assert table["n_lenses"].tolist() == [1, 1, 5, 5] or len(table) == 3
    assert table["sigma_sd"].notna().all()
    numbers = posterior_numbers(tables[0])
    line = tables[0].query("seed == 'mean' and n_lenses == 5 and range == 'all'").iloc[0]
    assert numbers["posterior_realistic_vit_5_all_sigma"] == line["sigma"]


def test_the_prior_is_that_of_the_population():
    low, high = posterior.prior_box("realistic")
    np.testing.assert_allclose([low, high], [[-3, 7], [-1.5, 10]])
    with pytest.raises(InputError, match="marginal: subhalos.f_sub: .*; expected {log_uniform"):
        posterior.prior_box("marginal")


def test_what_does_not_fit_is_refused(measured, tmp_path):
    place = measured / "realistic"
    with pytest.raises(InputError, match="--row mine: no such row of posterior.rows; .* vit"):
        posterior.train_row(place, "realistic", settings_with(), "mine", tmp_path / "x")
    with pytest.raises(InputError, match=r"19 lenses with f_sub in split train, 20 in opt; .* 21"):
        posterior.train_row(
            place, "realistic", settings_with(group_sizes=[1, 21]), "vit", tmp_path / "x"
        )
    rows = settings_with(rows=ROWS | {"cnn": ROWS["vit"] | {"label": "CNN"}})
    with pytest.raises(InputError, match="found no row cnn of realistic; expected all rows"):
        posterior.merge([place / "posterior/vit"], rows, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"populations": ["hubble"]}, r"posterior\.populations: found hubble; .*: realistic"),
        ({"rows": {}}, r"posterior\.rows: found none; expected at least one"),
        (
            {"rows": {"a": {"label": "x", "model": TINY | {"patch_size": 5}}}},
            r"rows\.a: patch_size = 5 does not divide the side of maps",
        ),
        ({"group_sizes": [10, 1]}, r"posterior\.group_sizes: expected rising numbers"),
    ],
)
def test_a_wrong_study_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        settings_with(**changes)


def test_the_study_of_maps_needs_no_posteriors():
    assert settings_of().posterior.populations == []
