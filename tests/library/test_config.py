"""What a wrong configuration gets: a message with the file, the key and what would be right."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from conftest import SETTINGS

from studies import config as workflow
from vitdm import config
from vitdm.config.sections import Section, checked
from vitdm.errors import InputError
from vitdm.simulation.population import load_population

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ("config/paper.yaml", "config/smoke.yaml")
DELETE = object()


REAL = {"type": "real", "low": 0.1, "high": 0.9}


def integers(low, high):
    return {"type": "integer", "low": low, "high": high}


def choices(*values):
    return {"type": "categorical", "choices": list(values)}


def with_change(key, value, content=SETTINGS):
    content = copy.deepcopy(content)
    *path, last = key.split(".")
    place = content
    for part in path:
        place = place.setdefault(part, {})
    if value is DELETE:
        del place[last]
    else:
        place[last] = value
    return content


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "colour",
            1,
            "colour: unknown key; expected one of: audit, benchmark, compare, data, .*train, tune",
        ),
        (
            "model.dept",
            4,
            "model.dept: unknown key; expected one of: architecture, average, depth, dropout",
        ),
        ("train.lr", 4, "train.lr: unknown key; expected one of: .*learning_rate"),
        ("model.depth", "four", "model.depth: .*valid integer.*found 'four'"),
        ("train.learning_rate", -1, "train.learning_rate: .*greater than 0, found -1"),
        ("train.learning_rate", float("nan"), "train.learning_rate: .*finite number, found nan"),
        ("model", [1], r"model: .*dictionary.*found \[1\]"),
        ("seed", None, "seed: .*valid integer, found None"),
        ("name", "a/b", "name: .*found 'a/b'"),
        ("task", "regression", "task: .*'multiclass' or 'binary', found 'regression'"),
        ("preprocess.crop", "left", "preprocess.crop: .*'centre' or 'roi', found 'left'"),
        ("features.levels", [0.5, 2], "features.levels.1: .*less than 1, found 2"),
        ("selection.fdr", 1, "selection.fdr: .*less than 1, found 1"),
        ("selection.corelation", 0.9, "selection.corelation: unknown key; expected .*correlation"),
        ("model.feature_set", "best", "model.feature_set: .*'lensfit' or 'all', found 'best'"),
        ("name", DELETE, "name: missing"),
        ("tune", DELETE, "tune: missing"),
        ("n_images", DELETE, "n_images: missing"),
        (
            "n_images.opt",
            DELETE,
            "n_images: needs train, valid, opt, test, found test, train, valid",
        ),
        ("n_images.trian", 5, "n_images.trian.*found 'trian'"),
        ("model.patch_size", 7, r"\(file\): patch_size = 7 does not divide .*preprocess.size = 32"),
        ("model.num_heads", 3, "model: embed_dim = 16 is not a multiple of num_heads = 3"),
        (
            "tune.space.lr",
            REAL,
            "tune.space.lr: unknown key; expected one of: architecture, .*warmup",
        ),
        ("tune.space.depth", {"type": "integer", "low": 3, "high": 3}, "tune.space.depth.*low < h"),
        ("tune.space.depth", {"type": "reel"}, "tune.space.depth: .*'reel'.*'real', 'integer'"),
        ("tune.space.dropout", {"type": "real", "low": 0, "high": 0.5, "log": True}, "low > 0"),
        ("tune.space.depth", {"type": "categorical", "choices": [1]}, "tune.space.depth.*choices"),
        ("tune.space", {}, "tune.space: .*at least 1"),
        ("tune.n_initial_points", 2, "tune: n_calls = 3: expected more than .* together, 3"),
        (
            "study.arms",
            {"fast": {"label": "x", "tune": {"n_cals": 2}}},
            "study.arms.fast.tune.n_cals",
        ),
        (
            "rates.recipes",
            {"a": {"label": "x", "model": {"depth": 0}}},
            "rates.recipes.a.model.depth",
        ),
        ("runs.plain.label", DELETE, "runs.plain.label: missing"),
        (
            "runs.plain.modle",
            {},
            "runs.plain.modle: unknown key; expected one of: label, model, tr",
        ),
        (
            "runs.plain.model.dept",
            4,
            "runs.plain.model.dept: unknown key; expected one of: architecture, average",
        ),
        ("runs.plain.model.depth", "x", "runs.plain.model.depth: .*valid integer.*found 'x'"),
        ("runs.plain.model.num_heads", 3, "runs.plain.model: .*embed_dim = 16 .*num_heads = 3"),
        ("runs.plain.model.patch_size", 7, "runs.plain: patch_size = 7 does not divide"),
        ("runs.plain.train", {"epochs": 0}, "runs.plain.train.epochs: .*found 0"),
        ("runs.my run", {"label": "x"}, r"runs\.my run: .*pattern.*found 'my run'"),
        ("runs.2nd", {"label": "x"}, r"runs\.2nd: .*pattern.*found '2nd'"),
        ("runs.a/b", {"label": "x"}, r"runs\.a/b: .*pattern.*found 'a/b'"),
        ("runs", {3: {"label": "x"}}, r"runs\.3: .*valid string, found 3"),
        ("name", ".hidden", "name: .*pattern.*found '.hidden'"),
        ("name", "..", r"name: .*pattern.*found '\.\.'"),
        ("data", "", "data: expected 'simulate', or a folder or archive of images, found ''"),
        ("data", " ", "data: expected 'simulate', or a folder or archive of images, found ' '"),
        ("train.accelerator", "gpu", "train.accelerator: .*'cpu' or 'auto', found 'gpu'"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(tmp_path, key, value, message):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(with_change(key, value)))
    with pytest.raises(InputError, match=r"mine\.yaml: .*" + message) as caught:
        workflow.load(path)
    assert "pydantic" not in str(caught.value) and "validation error" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "entry", "key", "message"),
    [
        # the start of the search, which is the configuration itself
        ("depth", integers(2, 4), "", "the start, model.depth = 1, .*expected a value from 2 to 4"),
        ("depth", choices(2, 3), "", r"the start, model.depth = 1, .*expected one of \[2, 3\]"),
        ("learning_rate", REAL, "", "the start, train.learning_rate = 0.001, .*from 0.1 to 0.9"),
        ("spt", choices("no", "off"), ".choices", r"found \[False, F.* once"),
        # what the key itself would refuse
        (
            "embed_dim",
            choices("a", 16),
            ".choices.0",
            "Input should be a valid integer.* found 'a'",
        ),
        ("embed_dim", choices(16, [8]), ".choices.1", r"Input .* valid integer, found \[8\]"),
        ("depth", integers(0, 4), ".low", "Input .*greater than or equal to 1, found 0"),
        ("dropout", {"type": "real", "low": 0, "high": 1}, ".high", "Input .*less than 1, found 1"),
        ("pool", choices("cls", "max"), ".choices.1", "Input .*'cls' or 'mean', found 'max'"),
        ("learning_rate", choices(0, 1e-3), ".choices.0", "Input .*greater than 0, found 0"),
        ("dropout", REAL | {"high": float("inf")}, ".high", "Input .*finite number, found inf"),
        # numbers between those that the key takes
        ("depth", {"type": "real", "low": 1, "high": 4}, ".type", "found 'real'; .*integer or cat"),
        ("spt", integers(0, 1), ".type", "found 'integer'; expected categorical"),
        ("pool", REAL, ".type", "found 'real'; expected categorical"),
        # without effect
        ("epochs", integers(1, 9), "", "has no effect: .*final.epochs.*; expected one of: arch"),
        (
            "patience",
            integers(1, 9),
            "",
            "has no effect: .*; expected one of: architecture, average, batch_size, clip, crop, d",
        ),
        (
            "accelerator",
            choices("cpu", "auto"),
            "",
            "has no effect: .*expected one of: architecture, average, batch_size",
        ),
        # keys of the dimension
        (
            "depth",
            integers(1, 2) | {"foo": 1},
            ".foo",
            "unknown key; expected one of: high, log, low, t",
        ),
        (
            "depth",
            choices(1, 2) | {"log": 1},
            ".log",
            "unknown key; expected one of: choices, type",
        ),
        ("depth", {"type": "integer", "low": 1}, ".high", "missing"),
    ],
)
def test_what_no_search_may_vary(name, entry, key, message):
    with pytest.raises(InputError) as caught:
        workflow.build(with_change(f"tune.space.{name}", entry), "mine.yaml")
    (line,) = str(caught.value).splitlines()
    assert re.match(rf"mine\.yaml: tune\.space\.{name}{re.escape(key)}: {message}", line), line


def test_choices_get_the_type_of_the_key():
    space = {"learning_rate": choices("1e-3", 1), "spt": choices(True, False)}
    entries = workflow.build(with_change("tune.space", space)).tune.space
    assert entries["learning_rate"].choices == [1e-3, 1.0]  # YAML 1.1 reads 1e-3 as text
    assert entries["spt"].choices == [True, False]
    edges = {"depth": integers(1, 2), "dropout": {"type": "real", "low": 0, "high": 0.5}}
    assert set(workflow.build(with_change("tune.space", edges)).tune.space) == set(edges)


def test_a_name_that_is_no_text(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SETTINGS | {1: 2}))
    for load in (workflow.load, load_population, config.load_run_settings):
        with pytest.raises(InputError, match=r"mine\.yaml: 1: Keys should be strings"):
            load(path)


def test_every_wrong_run_and_dimension_gets_its_line():
    content = with_change("runs.plain.model", {"dept": 1, "depth": 0})
    content = with_change("runs.other", {"label": "x", "model": {"patch_size": 7}}, content)
    content = with_change("tune.space.depth", integers(2, 3), content)
    with pytest.raises(InputError) as caught:
        workflow.build(content, "mine.yaml")
    assert [line.split(": ")[:2] for line in str(caught.value).splitlines()] == [
        ["mine.yaml", key]
        for key in ("runs.plain.model.depth", "runs.plain.model.dept", "runs.other")
        + ("tune.space.depth",)
    ]


def test_a_key_where_nothing_is_known_is_just_unknown():
    class Loose(Section):
        pairs: tuple[workflow.Final, ...]

    with pytest.raises(InputError, match=r"^f: pairs\.0\.sead: unknown key$"):
        checked(Loose, {"pairs": [{"sead": 1}]}, "f")


def test_every_wrong_key_gets_its_line():
    content = with_change("model.dept", 1, with_change("train.epochs", "many"))
    with pytest.raises(InputError) as caught:
        workflow.build(content, "mine.yaml")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["mine.yaml", "model.dept"],
        ["mine.yaml", "train.epochs"],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"a: [1", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"- 1", "expected keys and values, found list"),
        (b"", "expected keys and values, found NoneType"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    for load in (workflow.load, load_population, config.load_run_settings):
        with pytest.raises(InputError, match=r"mine\.yaml: " + message):
            load(path)


def test_values_take_their_place():
    settings = workflow.build(SETTINGS | {"train": {"learning_rate": "1e-3"}})
    assert settings.train.learning_rate == 1e-3  # YAML 1.1 reads 1e-3 as text
    assert settings.model.num_heads == 2 and settings.model.spt is True
    changed = settings.changed(model={"depth": 5}, train={"epochs": 9})
    model, train = changed.model, changed.train
    assert (model.depth, model.embed_dim, train.epochs) == (5, 16, 9)
    assert settings.model.depth == 1


# ------------------------------------------------------------------------ files of the project


def keys(content, prefix=()):
    """Every key of nested dictionaries, as a path."""
    if not isinstance(content, dict):
        return {prefix}
    return {path for key, value in content.items() for path in keys(value, (*prefix, key))}


def test_paper_and_smoke_have_the_same_keys():
    contents = [yaml.safe_load((ROOT / name).read_text()) for name in WORKFLOWS]
    for content in contents:
        for section, own in (("study", "tune"), ("rates", "model"), ("tune", "fixed")):
            content[section][own] = {}  # of keys of other sections
        content["study"]["arms"] = content["rates"]["recipes"] = {}
        del content["compare"]["rows"]  # those of the article are in config/extended.yaml
        for study in ("maps", "posterior", "where"):  # and these
            del content[study]["rows"]
        del content["benchmark"]["rivals"]
        del content["audit"]["steps"]
        del content["real_sky"]["sets"]
    first, second = map(keys, contents)
    assert first == second and len(first) > 50


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_of_the_project_are_valid(name):
    settings = workflow.load(ROOT / name)
    assert settings.name == Path(name).stem and settings.publish == (settings.name == "paper")
    written = yaml.safe_load((ROOT / name).read_text())
    resolved = settings.model_dump(mode="json")
    for section in (
        "preprocess",
        "features",
        "selection",
        "model",
        "train",
        "tune",
        "final",
        "compare",
        "study",
        "rates",
        "audit",
        "real_sky",
    ):
        assert set(written[section]) == set(resolved[section]), section  # nothing left to defaults
    population = load_population(settings.population)
    assert sum(population.class_fractions.values()) == 1


FITTING = {
    "features": {"groups": ["proposal", "morphology", "lensfit"]},
    "runs": SETTINGS["runs"]
    | {
        "fit": {"label": "fit", "model": {"features": True, "feature_set": "lensfit"}},
        "map": {"label": "map", "model": {"residual": True}},
    },
}


def test_images_without_a_pixel_scale_are_not_fitted():
    assert len(workflow.build(SETTINGS | FITTING).runs) == len(SETTINGS["runs"]) + 2
    settings = workflow.build(SETTINGS | FITTING | {"data": "images"})
    assert settings.features.groups == ["proposal", "morphology"]
    assert len(settings.runs) == len(SETTINGS["runs"])
    scaled = workflow.build(SETTINGS | FITTING | {"data": "i", "ingest": {"pixel_scale": 0.05}})
    assert "lensfit" in scaled.features.groups and "map" in scaled.runs


@pytest.mark.parametrize(
    "change",
    [
        {"features": {"groups": ["morphology"]}, "runs": {"map": FITTING["runs"]["map"]}},
        {"preprocess": {"size": 32, "derotate": True}},
        {"preprocess": {"size": 32, "crop": "roi"}},
        {"preprocess": {"size": 128}},
    ],
)
def test_residual_maps_must_match_the_images(change):
    with pytest.raises(InputError, match="runs.map: model.residual is on: "):
        workflow.build(SETTINGS | FITTING | change)


# ------------------------------------------------------------------------ data and saving


@pytest.mark.parametrize(
    ("data", "name"),
    [("simulate", "tiny"), ("../x/lenses.tgz", "tiny_lenses.tgz"), ("/a/b/", "tiny_b")]
    + [("my images", "tiny_my_images_0999b2"), ("..", "tiny_data")],
)
def test_data_from_files_gets_a_name_of_its_own(data, name, tmp_path, monkeypatch):
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")  # ".." is looked into: other tests must not lie there
    settings = workflow.build(SETTINGS | {"data": data, "publish": True})
    assert settings.name == name and settings.publish == (data == "simulate")
    assert settings.results == f"results/{name}" and settings.data == data


def test_results_of_different_data_are_never_shared():
    names = [
        "lenses",
        "lenses.tgz",
        "lenses.zip",
        "lenses_tgz",
        "линзы",
        "レンズ",
        "lentilles à",
        "lentilles é",
        "my lenses",
        "my_lenses",
        "my-lenses",
    ]
    found = [workflow.build(SETTINGS | {"data": f"x/{name}"}).results for name in names]
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"results/tiny_[A-Za-z0-9_.-]+", name) for name in found)
    for data in names:  # building what was built, as the workflow does with its record, is the same
        once = workflow.build(SETTINGS | {"data": data})
        assert workflow.build(once.model_dump(mode="json")).name == once.name


@pytest.mark.parametrize("data", [123456, 1.5, True, None, ["a"]])
def test_data_that_yaml_does_not_read_as_text_gets_a_hint(data):
    with pytest.raises(InputError, match=r"data: found .*; expected a path: .*write data=\./NAME"):
        workflow.build(SETTINGS | {"data": data})


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "me" / "lenses").mkdir(parents=True)
    settings = workflow.build(SETTINGS | {"data": "~/lenses/"})
    assert settings.data == f"{tmp_path}/me/lenses/" and settings.name == "tiny_lenses"
    workflow.check_data(settings)
    assert workflow.build(SETTINGS | {"data": "~"}).name == "tiny_me"


def test_data_that_is_not_there(tmp_path):
    workflow.check_data(workflow.build(SETTINGS | {"data": str(tmp_path)}))
    with pytest.raises(InputError, match="data: .*gone: no such file or folder; expected 'simu"):
        workflow.check_data(workflow.build(SETTINGS | {"data": str(tmp_path / "gone")}))
    with pytest.raises(InputError, match="gone.yaml: cannot be read"):
        workflow.check_data(workflow.build(SETTINGS | {"population": "gone.yaml"}))


def test_save_writes_only_what_changes(tmp_path):
    path = tmp_path / "new" / "config.yaml"
    settings = workflow.build(SETTINGS)
    config.save(settings, path)
    assert workflow.load(path) == settings
    path.touch()
    before = path.stat()
    config.save(settings, path)
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    config.save(workflow.build(SETTINGS | {"seed": 8}), path)
    assert workflow.load(path).seed == 8 and [p.name for p in path.parent.iterdir()] == [path.name]
