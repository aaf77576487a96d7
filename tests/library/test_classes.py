"""Classes of substructure: a class of one's own, from a population file to a prediction."""

import ast
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from vitdm.classifier import ViTClassifier
from vitdm.config.reading import read_yaml
from vitdm.data import layouts
from vitdm.data.dataset import Dataset
from vitdm.data.simulated import simulate_dataset
from vitdm.errors import InputError
from vitdm.predict import predict_files
from vitdm.preprocess import process_dataset
from vitdm.simulation import classes, draw, load_population, population_file, population_of
from vitdm.simulation.drawing import TRUTH
from vitdm.simulation.priors import Mass, Part, Position

ROOT = Path(__file__).parents[2]


class DarkSubhalo(Part):
    mass: Mass
    position: Position


def draw_dark_subhalo(system, rng, population):
    """Add one point mass at a random place."""
    dark = population.dark_subhalo
    x, y = dark.position.draw(rng, 1)
    truth = {"dark_x": x[0], "dark_y": y[0]}
    return replace(system, x=x, y=y, masses=np.array([dark.mass]), truth=truth)


DARK = classes.SubstructureClass(
    name="dark",
    label="dark subhalo",
    short="dark",
    colour="#56B4E9",
    aliases=("dark", "dark_subhalo"),
    section="dark_subhalo",
    schema=DarkSubhalo,
    draw=draw_dark_subhalo,
    truth=("dark_x", "dark_y"),
    middle=("dark_x", "dark_y"),
)


@pytest.fixture
def dark():
    classes.register(DARK)
    yield DARK
    del classes.CLASSES[DARK.name]


def content(**changes):
    """Model I on 48 pixels, with dark subhalos among its classes."""
    instrument = read_yaml(population_file("model_i"))["instrument"]
    coarse = {"instrument": instrument | {"pixel_scale": 0.1, "psf_fwhm": 0.17}, "num_pix": 48}
    fractions = {"no_sub": 0.25, "cdm": 0.25, "axion": 0.25, "dark": 0.25}
    section = {"mass": 1e10, "position": {"disc": 1.5}}
    all_classes = {"class_fractions": fractions, "dark_subhalo": section}
    return read_yaml(population_file("model_i")) | coarse | all_classes | changes


def test_a_new_class_from_population_to_prediction(tmp_path, settings, dark):
    file = tmp_path / "four.yaml"
    file.write_text(yaml.safe_dump(content(name="four")))
    population = load_population(file)
    simulate_dataset(population, {"train": 24}, 7, tmp_path / "dataset", progress=False)
    data = Dataset.open(tmp_path / "dataset")
    # each class has its share, and the new one a label after the others
    labels, names = data.labels("multiclass")
    assert names == ["no_sub", "cdm", "axion", "dark"] and np.bincount(labels).tolist() == [6] * 4
    # its truth comes after that of the classes that ship, and gives back the lens
    assert list(data.catalog)[4:] == [*TRUTH, "dark_x", "dark_y"]
    known = data.catalog["dark_x"].notna()
    assert (known == (data.catalog["class"] == "dark")).all()
    row = data.catalog[known].iloc[0]
    system = draw(int(row["id"][-6:]), row["class"], row["seed"], population)
    assert system.kind == "dark" and system.masses.tolist() == [1e10] == [row["substructure_mass"]]
    assert (system.x[0], system.y[0]) == (row["dark_x"], row["dark_y"])
    # a lens of the class changes nothing of the smooth lens
    smooth = draw(int(row["id"][-6:]), "no_sub", row["seed"], population)
    assert (system.theta_E, system.source) == (smooth.theta_E, smooth.source)

    process_dataset(tmp_path / "dataset", tmp_path / "processed", settings.preprocess, False)
    assert Dataset.open(tmp_path / "processed").labels("multiclass")[1] == names

    sizes = {"model": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}}
    sizes |= {"train": {"epochs": 1, "batch_size": 8}, "preprocess": {"size": 32}}
    model = ViTClassifier(random_state=0, **sizes).fit(data.images, data.catalog["class"])
    assert set(model.predict(data.images)) <= set(names)
    model.save(tmp_path / "run")
    cv2.imwrite(str(tmp_path / "lens.png"), data.images[0].clip(0, 255).astype(np.uint8))
    answer = predict_files([tmp_path / "lens.png"], [tmp_path / "run"])
    assert "p_dark" in answer and len(answer.filter(like="p_").columns) == 4


def test_folders_of_a_new_class(dark):
    assert layouts.class_of("Dark-Subhalo") == "dark" and layouts.class_of("vort") == "axion"


def test_without_it_the_file_is_refused():
    with pytest.raises(InputError) as error:
        population_of(content(), "four.yaml")
    text = str(error.value)
    assert "four.yaml: dark_subhalo: unknown key; expected one of: " in text and "subhalos" in text
    allowed = content()
    del allowed["dark_subhalo"]
    with pytest.raises(
        InputError, match=r"class_fractions\.dark: unknown class; expected .* axion"
    ):
        population_of(allowed)


def test_a_class_needs_its_section(dark):
    with pytest.raises(InputError, match="dark_subhalo: missing; the class dark needs it"):
        population_of(content(dark_subhalo=None))
    with pytest.raises(InputError, match=r"dark_subhalo\.mass: "):
        population_of(content(dark_subhalo={"mass": -1, "position": {"disc": 1.5}}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "cdm"}, "class 'cdm': 'cdm' is a name of 'cdm'"),
        ({"aliases": ("vortex",)}, "class 'dark': 'vortex' is a name of 'axion'"),
        ({"section": "subhalos"}, "section 'subhalos' is of 'cdm'"),
        ({"schema": None}, "expected both a section and its schema"),
    ],
)
def test_names_that_are_taken(change, message):
    with pytest.raises(InputError, match=message):
        classes.register(replace(DARK, **change))
    assert "dark" not in classes.CLASSES


def test_a_section_cannot_be_a_key_of_all_populations(monkeypatch):
    monkeypatch.setitem(classes.CLASSES, "dark", replace(DARK, section="halo"))
    with pytest.raises(InputError, match="section 'halo' of a class"):
        load_population("model_i")


def test_a_population_can_be_sent_to_another_process(dark):
    for population in (load_population("marginal"), population_of(content())):
        assert pickle.loads(pickle.dumps(population)) == population


def test_populations_that_ship():
    names = ["lenses", "marginal", "model_i", "model_i_sizes", "model_ii", "model_iii"]
    for name in (*names, "realistic"):
        population = load_population(name)
        assert population.name == name and population == load_population(population_file(name))
    with pytest.raises(InputError, match="population 'marginals': unknown; .* marginal, model_i, "):
        load_population("marginals")
    with pytest.raises(InputError, match=r"marginals\.yaml: cannot be read"):
        load_population("marginals.yaml")


def test_only_one_module_names_the_classes():
    """Everything else asks the registry: these names are strings of no other module."""
    places = set()
    sources = [file for room in ("vitdm", "studies") for file in (ROOT / room).rglob("*.py")]
    for file in (*sources, *(ROOT / "notebooks").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and node.value in ("cdm", "axion"):
                places.add(file.relative_to(ROOT).as_posix())
    assert places == {"vitdm/simulation/classes.py"}
