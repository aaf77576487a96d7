"""The DeepLense benchmark: what its sets are, what a repair changes, how answers are scored."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score

from vitdm import benchmark
from vitdm.__main__ import main
from vitdm.benchmark.sets import BenchmarkSet, changed, definition
from vitdm.benchmark.shortcut import einstein_radius
from vitdm.data.dataset import Dataset
from vitdm.errors import InputError
from vitdm.simulation import load_population
from vitdm.simulation.cosmology import theta_E_point
from vitdm.simulation.system import System

EVERY = ("noise", "mass", "halos", "vortex", "sources")
#: of version 1, size full: ids of the first image and the sum of its brightness
VERSION_1 = {
    "model_i": ("model_i_d37fd7f2_000000", 349854),
    "model_i_repaired": ("model_i_repaired_149e88a7_000000", 1.11509e06),
    "model_ii": ("model_ii_50c7c923_000000", 808.749),
    "model_ii_repaired": ("model_ii_repaired_8743af19_000000", 122.562),
    "model_iii": ("model_iii_4522f94d_000000", 4916.53),
    "model_iii_repaired": ("model_iii_repaired_aa5456fe_000000", 759.95),
}


def run(*arguments):
    return main(["benchmark", *map(str, arguments)])


def perfect(chosen):
    """Return the table of answers that are all right."""
    labels = chosen.catalog["label"].to_numpy()[chosen.test]
    return chosen.table(np.eye(3)[labels])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "model_ii_repaired"
    benchmark.make("model_ii_repaired", folder, "tiny", progress=False)
    return folder


# ------------------------------------------------------------------------------------- the sets


@pytest.mark.parametrize("name", VERSION_1)
def test_version_1_is_what_it_was(name):
    """A change of ids or images is another version of the benchmark."""
    assert definition().version == "1"
    chosen = BenchmarkSet(name)
    catalog = chosen.catalog
    assert len(catalog) == catalog["id"].nunique() == 15000
    assert catalog["split"].value_counts().to_dict() == {"train": 9000, "valid": 1500, "test": 4500}
    for split in ("train", "valid", "test"):
        shares = catalog["label"][catalog["split"] == split].value_counts(normalize=True)
        assert shares.round(3).tolist() == [0.333] * 3
    first, brightness = VERSION_1[name]
    assert catalog["id"].iloc[0] == first
    assert image_of(chosen, 0).sum(dtype=float) == pytest.approx(brightness, rel=1e-4)


def image_of(chosen, row):
    from vitdm.data.simulated import index_of
    from vitdm.simulation import simulate_one

    entry = chosen.catalog.iloc[row]
    seed = definition().seed
    return simulate_one(index_of(entry["id"]), entry["class"], seed, chosen.population)[0]


def test_a_set_as_published_is_the_population():
    for name in definition().models:
        ours, published = BenchmarkSet(name).population, load_population(name)
        told = {"name", "description", "references", "class_fractions"}
        assert ours.model_dump(exclude=told) == published.model_dump(exclude=told)


@pytest.mark.parametrize(
    ("repair", "keys"),
    [
        ("noise", {"instrument.noise", "instrument.double_image"}),
        ("mass", {"compensate_mass"}),
        ("halos", {"halo.mass", "halo.theta_E"}),
        ("vortex", {"vortex.position"}),
        (
            "sources",
            {f"source.{key}" for key in ("e1", "e2", "ellipticity", "R_sersic", "n_sersic")}
            | {"source.magnitude"},
        ),
    ],
)
def test_a_repair_changes_its_keys_and_no_others(repair, keys):
    before, after = (
        BenchmarkSet(name).population.model_dump() for name in ("model_ii", f"model_ii_{repair}")
    )
    found = set()
    for key, value in before.items():
        if isinstance(value, dict) and isinstance(after[key], dict):
            found |= {f"{key}.{k}" for k in value if value[k] != after[key].get(k)}
        elif value != after[key]:
            found.add(key)
    assert found - {"name", "description"} == keys


def test_names_of_the_same_repairs_are_one_set():
    assert BenchmarkSet("model_ii_mass_noise") == BenchmarkSet("model_ii_noise_mass")
    assert BenchmarkSet("model_ii_" + "_".join(EVERY)).name == "model_ii_repaired"
    assert BenchmarkSet("model_i").model == "model_i" and BenchmarkSet("model_iii").repairs == []
    assert BenchmarkSet("model_iii_repaired").repairs == list(EVERY) == list(definition().repairs)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("model_iv", "full", "set 'model_iv': unknown; expected its name to begin: model_i, "),
        ("model_ii_nois", "full", "'model_ii_nois': found repair 'nois'; expected repaired, or"),
        ("model_ii_", "huge", "size 'huge': unknown; expected one of: full, small, tiny"),
    ],
)
def test_what_is_no_set_is_named(name, size, message):
    with pytest.raises(InputError, match=message):
        BenchmarkSet(name, size)


def test_changed_keys():
    content = {"halo": {"mass": 1, "e1": 0.1}, "source": {"position": {"box": 1}}, "a": {"b": 1}}
    changes = {
        "halo": {"mass": None, "e1": 0.2},
        "source": {"position": {"disc": 2}},
        "a": {"c": 2},
    }
    expected = {"halo": {"e1": 0.2}, "source": {"position": {"disc": 2}}, "a": {"c": 2}}
    assert changed(content, changes) == expected
    assert content["halo"] == {"mass": 1, "e1": 0.1}


def test_no_source_of_the_test_set_is_in_training(tiny):
    """As published, one galaxy is in all images."""
    catalog = Dataset.open(tiny).catalog
    shape = catalog[["source_R_sersic", "source_n_sersic", "source_e1", "source_e2"]]
    seen = {split: set(map(tuple, shape[catalog["split"] == split].to_numpy())) for split in
            ("train", "valid", "test")}  # fmt: skip
    assert len(seen["test"]) == 30
    assert not seen["test"] & (seen["train"] | seen["valid"])
    published = BenchmarkSet("model_ii", "tiny")
    assert len({tuple(published.lens(row).source[k] for k in ("R_sersic", "e1"))
                for row in range(20)}) == 1  # fmt: skip


def test_a_written_set_is_known_by_its_folder(tiny, tmp_path):
    chosen, data = benchmark.opened(tiny)
    assert chosen == BenchmarkSet("model_ii_repaired", "tiny")
    np.testing.assert_array_equal(data.images[7], image_of(chosen, 7))
    assert run("make", "model_ii", "--size", "tiny", "--shard", "0/2", "--out", tmp_path / "a") == 0
    with pytest.raises(InputError, match="holds no set of version 1 of the benchmark"):
        benchmark.opened(tmp_path / "a")


# -------------------------------------------------------------------------------- the shortcut


def test_einstein_radius_of_all_mass():
    """The largest root of the mean convergence, found numerically."""
    rng, cosmology = np.random.default_rng(3), BenchmarkSet("model_i").population.cosmology
    for _ in range(10):
        x, y = rng.uniform(-2, 2, (2, 30))
        masses = 10 ** rng.uniform(7, 10, 30)
        lens = System(1.2, 1.2, 0.1, 0.0, 0.0, 0.0, {}, x=x, y=y, masses=masses)

        def excess(radius, lens=lens):
            inside = np.hypot(lens.x, lens.y) < radius
            squares = theta_E_point(lens.masses[inside], cosmology) ** 2
            return radius**2 - 1.2 * radius - squares.sum()

        grid = np.linspace(0.01, 4, 5000)
        below = np.flatnonzero([excess(radius) <= 0 for radius in grid])[-1]
        root = brentq(excess, grid[below], grid[below + 1])
        assert einstein_radius(lens, cosmology) == pytest.approx(root, abs=1e-9)
    smooth = System(1.2, 1.2, 0.1, 0.0, 0.0, 0.0, {})
    assert einstein_radius(smooth, cosmology) == pytest.approx(1.2)


def test_what_the_radius_alone_tells():
    """All of it as published; nearly all with the mean mass compensated, since a halo that is
    always the same gives every scatter away; nothing once halos differ."""
    told = {}
    for name in ("model_ii", "model_ii_mass", "model_ii_mass_halos"):
        chosen = BenchmarkSet(name, "small")
        table = benchmark.ring_predictions(chosen)
        smooth = chosen.catalog["label"].to_numpy()[chosen.test] == 0
        told[name] = roc_auc_score(~smooth, 1 - table["p_no_sub"])
    assert told["model_ii"] > 0.999 and told["model_ii_mass"] > 0.99
    assert abs(told["model_ii_mass_halos"] - 0.5) < 0.03


# ---------------------------------------------------------------------------------- the scores


def test_scores_are_those_of_scikit_learn():
    chosen, rng = BenchmarkSet("model_iii", "tiny"), np.random.default_rng(0)
    labels = chosen.catalog["label"].to_numpy()[chosen.test]
    answers = rng.dirichlet([1, 1, 1], len(labels)) + 0.4 * np.eye(3)[labels]
    answers /= answers.sum(axis=1, keepdims=True)
    table = chosen.table(answers).sample(frac=1, random_state=1)  # in any order
    row = benchmark.score_predictions(table, "model_iii", "tiny", "mine")
    macro = roc_auc_score(labels, answers, multi_class="ovr", average="macro")
    assert row["macro_roc_auc"] == pytest.approx(macro)
    assert row["roc_auc"] == pytest.approx(roc_auc_score(labels > 0, 1 - answers[:, 0]))
    assert row["accuracy"] == pytest.approx((answers.argmax(1) == labels).mean())
    for key in ("macro_roc_auc", "roc_auc", "accuracy", "above_ring"):
        assert row[f"{key}_low"] < row[key] < row[f"{key}_high"]
    ring = benchmark.ring_predictions(chosen).drop(columns="id").to_numpy()
    alone = roc_auc_score(labels, ring, multi_class="ovr", average="macro")
    assert row["ring_macro_roc_auc"] == pytest.approx(alone)
    assert row["above_ring"] == pytest.approx(macro - alone)
    assert (row["set"], row["size"], row["version"]) == ("model_iii", "tiny", "1")
    assert (row["model"], row["n_test"]) == ("mine", 30)


def test_one_function_is_a_row(tiny):
    """It is given the images of training and validation, and never the labels of the test."""
    given = {}

    def brightest(train, labels, test):
        given.update(train=train, labels=labels, test=test)
        return np.tile([0.5, 0.25, 0.25], (len(test), 1))

    row = benchmark.score(brightest, tiny)
    assert row["model"] == "brightest" and row["macro_roc_auc"] == 0.5
    chosen, data = benchmark.opened(tiny)
    split = data.catalog["split"]
    np.testing.assert_array_equal(given["train"], data.images[split != "test"])
    np.testing.assert_array_equal(given["test"], data.images[split == "test"])
    names = np.array(["no_sub", "cdm", "axion"])[given["labels"]]
    assert names.tolist() == data.catalog["class"][split != "test"].tolist()
    with pytest.raises(InputError, match=r"returned shape \(30, 2\); expected \(30, 3\)"):
        benchmark.score(lambda train, labels, test: np.ones((len(test), 2)), tiny)


CHOSEN = BenchmarkSet("model_ii", "tiny")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda t: t.drop(columns="p_cdm"), "a.csv: found columns id, p_no_sub.* p_cdm is missing"),
        (lambda t: pd.concat([t, t[:1]]), "id 'model_ii_.*' occurs twice"),
        (lambda t: t[3:], "no row for 3 of 30 test images of model_ii, size tiny, such as model_"),
        (lambda t: pd.concat([t, t[:1].assign(id="x")]), "id 'x': is no test image of model_ii"),
        (lambda t: t.assign(p_cdm=2.0), "a.csv: id model_ii_.*: found .*2.0.*; expected probab"),
        (lambda t: t.assign(p_cdm=np.nan), "expected probabilities of no_sub, cdm, axion"),
        (lambda t: t.assign(p_cdm="yes"), "found .*'yes'.*; expected probabilities"),
        (lambda t: t.assign(p_cdm=t["p_cdm"] - 0.5), "expected probabilities"),
    ],
)
def test_wrong_answers_are_named(wrong, message, tmp_path):
    wrong(perfect(CHOSEN)).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(InputError, match=message):
        benchmark.score_predictions(tmp_path / "a.csv", "model_ii", "tiny")


def test_answers_to_another_set_are_refused():
    with pytest.raises(InputError, match="no row for 30 of 30 test images of model_ii_repaired"):
        benchmark.score_predictions(perfect(CHOSEN), "model_ii_repaired", "tiny")


def test_several_trainings_are_one_row():
    rows = pd.DataFrame(
        [
            {"set": "s", "size": "full", "version": "1", "model": "m", "ring_macro_roc_auc": 0.5}
            | {f"{k}{end}": value + shift for k in ("macro_roc_auc", "roc_auc", "accuracy")
               for end, shift in (("", 0), ("_low", -0.03), ("_high", 0.03))}
            | {f"above_ring{end}": 0.1 for end in ("", "_low", "_high")}
            for value in (0.80, 0.84)
        ]
    )  # fmt: skip
    (row,) = benchmark.over_seeds(rows).to_dict("records")
    scatter = 1.96 * np.std([0.80, 0.84], ddof=1) / 2**0.5
    assert row["macro_roc_auc"] == pytest.approx(0.82) and row["n_trained"] == 2
    assert row["macro_roc_auc_high"] == pytest.approx(0.82 + np.hypot(0.03, scatter))
    (alone,) = benchmark.over_seeds(rows[:1]).to_dict("records")
    assert alone["accuracy_low"] == pytest.approx(0.77)


# --------------------------------------------------------------------------------- the command


def test_command(tmp_path, capsys):
    assert run("list") == 0
    said = capsys.readouterr().out
    assert "version 1" in said and all(name in said for name in (*EVERY, "model_iii_repaired"))
    file, out = tmp_path / "mine.csv", tmp_path / "table.csv"
    perfect(CHOSEN).to_csv(file, index=False)
    assert run("score", "model_ii", file, file, "--size", "tiny", "--out", out) == 0
    said = capsys.readouterr().out
    assert "| model_ii (tiny) | mine | 1.000 (" in said
    table = pd.read_csv(out)
    assert len(table) == 2 and table["accuracy"].tolist() == [1.0, 1.0]
    assert run("score", "model_ii", tmp_path / "none.csv") == 2
    assert "none.csv" in capsys.readouterr().err
    assert run("make", "model_v", "--out", tmp_path / "set") == 2
    assert "set 'model_v': unknown" in capsys.readouterr().err
