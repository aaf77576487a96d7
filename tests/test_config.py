"""What a wrong configuration gets: a message with the file, the key and what would be right."""

import copy
from pathlib import Path

import pytest
import yaml
from conftest import SETTINGS

from vitdm import config
from vitdm.config import InputError

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ("config/paper.yaml", "config/smoke.yaml")
DELETE = object()


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
        ("colour", 1, "colour: unknown key; expected one of: data, .*train, tune"),
        ("model.dept", 4, "model.dept: unknown key; expected one of: depth, dropout, embed_dim"),
        ("train.lr", 4, "train.lr: unknown key; expected one of: .*learning_rate"),
        ("model.depth", "four", "model.depth: .*valid integer.*found 'four'"),
        ("train.learning_rate", -1, "train.learning_rate: .*greater than 0, found -1"),
        ("train.learning_rate", float("nan"), "train.learning_rate: .*greater than 0"),
        ("model", [1], r"model: .*dictionary.*found \[1\]"),
        ("seed", None, "seed: .*valid integer, found None"),
        ("name", "a/b", "name: .*found 'a/b'"),
        ("task", "regression", "task: .*'multiclass' or 'binary', found 'regression'"),
        ("preprocess.crop", "left", "preprocess.crop: .*'centre' or 'roi', found 'left'"),
        ("features.levels", [0.5, 2], "features.levels.1: .*less than 1, found 2"),
        ("name", DELETE, "name: missing"),
        ("tune", DELETE, "tune: missing"),
        ("n_images", DELETE, "n_images: missing"),
        (
            "n_images.opt",
            DELETE,
            "n_images: needs train, valid, opt, test, found test, train, valid",
        ),
        ("n_images.trian", 5, "n_images.trian.*found 'trian'"),
        ("model.patch_size", 7, "patch_size = 7 does not divide .*preprocess.size = 32"),
        ("model.num_heads", 3, "model: embed_dim = 16 is not a multiple of num_heads = 3"),
        ("tune.space.lr", {"type": "real", "low": 1, "high": 2}, "tune: .*'lr' is no key of model"),
        ("tune.space.depth", {"type": "integer", "low": 3, "high": 3}, "tune.space.depth.*low < h"),
        ("tune.space.depth", {"type": "reel"}, "tune.space.depth: .*'reel'.*'real', 'integer'"),
        ("tune.space.dropout", {"type": "real", "low": 0, "high": 0.5, "log": True}, "low > 0"),
        ("tune.space.depth", {"type": "categorical", "choices": [1]}, "tune.space.depth.*choices"),
        ("tune.space", {}, "tune.space: .*at least 1"),
        ("tune.n_initial_points", 2, "tune: n_initial_points = 2 is not below n_calls = 2"),
        ("runs.plain.label", DELETE, "runs.plain.label: missing"),
        ("runs.plain.modle", {}, "runs.plain.modle: unknown key"),
        ("runs.plain.model.dept", 4, "runs.plain.model: dept: unknown key; expected one of: depth"),
        ("runs.plain.model.depth", "x", "runs.plain.model: depth: .*valid integer.*found 'x'"),
        ("runs.plain.model.num_heads", 3, "runs.plain.model: .*embed_dim = 16 .*num_heads = 3"),
        ("runs.plain.model.patch_size", 7, "runs.plain: patch_size = 7 does not divide"),
        ("runs.plain.train", {"epochs": 0}, "runs.plain.train: epochs: .*found 0"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(tmp_path, key, value, message):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(with_change(key, value)))
    with pytest.raises(InputError, match=r"mine\.yaml: .*" + message) as caught:
        config.load(path)
    assert "pydantic" not in str(caught.value) and "validation error" not in str(caught.value)


def test_every_wrong_key_gets_its_line():
    content = with_change("model.dept", 1, with_change("train.epochs", "many"))
    with pytest.raises(InputError) as caught:
        config.build(content, "mine.yaml")
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
    for load in (config.load, config.load_population, config.load_run_settings):
        with pytest.raises(InputError, match=r"mine\.yaml: " + message):
            load(path)


def test_a_wrong_population_is_named(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("name: x\ndescription: y\nz_lens: far\nz_sorce: 1\n")
    with pytest.raises(InputError) as caught:
        config.load_population(path)
    first, second = str(caught.value).splitlines()
    assert "p.yaml: z_lens: " in first and "found 'far'" in first
    assert "p.yaml: z_sorce: unknown key; expected one of: H0, Om0" in second


def test_values_take_their_place():
    settings = config.build(SETTINGS | {"train": {"learning_rate": "1e-3"}})
    assert settings.train.learning_rate == 1e-3  # YAML 1.1 reads 1e-3 as text
    assert settings.model.num_heads == 2 and settings.model.spt is True
    model, train = settings.settings({"depth": 5}, {"epochs": 9})
    assert (model.depth, model.embed_dim, train.epochs) == (5, 16, 9)
    assert settings.model.depth == 1


# ------------------------------------------------------------------------ files of the project


def keys(content, prefix=()):
    """Every key of nested dictionaries, as a path."""
    if not isinstance(content, dict):
        return {prefix}
    return {path for key, value in content.items() for path in keys(value, (*prefix, key))}


def test_paper_and_smoke_have_the_same_keys():
    first, second = (keys(yaml.safe_load((ROOT / name).read_text()), ()) for name in WORKFLOWS)
    assert first == second and len(first) > 50


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_of_the_project_are_valid(name):
    settings = config.load(ROOT / name)
    assert settings.name == Path(name).stem and settings.publish == (settings.name == "paper")
    written = yaml.safe_load((ROOT / name).read_text())
    resolved = settings.model_dump(mode="json")
    for section in ("preprocess", "features", "model", "train", "tune", "final"):
        assert set(written[section]) == set(resolved[section]), section  # nothing left to defaults
    population = config.load_population(ROOT / settings.population)
    assert sum(population.class_fractions.values()) == 1


def test_every_setting_of_the_population_is_written_down():
    content = yaml.safe_load((ROOT / "config/populations/model_i.yaml").read_text())
    assert set(content) == set(config.Population.model_fields)


# ------------------------------------------------------------------------ data and saving


@pytest.mark.parametrize(
    ("data", "name"),
    [("simulate", "tiny"), ("../x/lenses.tgz", "tiny_lenses"), ("/a/b/", "tiny_b")]
    + [("my images", "tiny_my_images"), ("..", "tiny_data")],
)
def test_data_from_files_gets_a_name_of_its_own(data, name):
    settings = config.build(SETTINGS | {"data": data, "publish": True})
    assert settings.name == name and settings.publish == (data == "simulate")
    assert settings.results == f"results/{name}" and settings.data == data


def test_data_that_is_not_there(tmp_path):
    config.check_data(config.build(SETTINGS | {"data": str(tmp_path)}))
    with pytest.raises(InputError, match="data: .*gone: no such file or folder; expected 'simu"):
        config.check_data(config.build(SETTINGS | {"data": str(tmp_path / "gone")}))
    with pytest.raises(InputError, match="gone.yaml: cannot be read"):
        config.check_data(config.build(SETTINGS | {"population": "gone.yaml"}))


def test_save_writes_only_what_changes(tmp_path):
    path = tmp_path / "new" / "config.yaml"
    settings = config.build(SETTINGS)
    config.save(settings, path)
    assert config.load(path) == settings
    path.touch()
    before = path.stat()
    config.save(settings, path)
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    config.save(config.build(SETTINGS | {"seed": 8}), path)
    assert config.load(path).seed == 8 and [p.name for p in path.parent.iterdir()] == [path.name]
