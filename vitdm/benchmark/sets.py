"""The sets of the benchmark: populations with some of their faults repaired, seed, sizes, ids.

A set is named after the population that it starts from and its repairs: ``model_ii`` as published,
``model_ii_noise`` with one repair, ``model_ii_noise_mass`` with two, ``model_ii_repaired`` with
all. ``benchmark.yaml`` defines them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vitdm.config.reading import read_yaml
from vitdm.config.sections import Section, checked
from vitdm.data.dataset import Dataset
from vitdm.data.simulated import index_of, planned, population_of_id, simulate_dataset
from vitdm.errors import InputError, shown
from vitdm.simulation import CLASSES, Population, System, draw, population_file, population_of

FILE = Path(__file__).with_name("benchmark.yaml")
ALL = "repaired"  # the name of all repairs together
FULL = "full"  # the size of the benchmark itself


class Repair(Section):
    """A repair: which keys of a population it changes, of one model ``own`` ones as well."""

    meaning: str
    changes: dict[str, Any]
    own: dict[str, dict[str, Any]] = {}


class Definition(Section):
    """What the benchmark consists of."""

    version: str
    seed: int
    sizes: dict[str, dict[str, int]]
    class_fractions: dict[str, float]
    models: dict[str, str]
    repairs: dict[str, Repair]


@functools.cache
def definition() -> Definition:
    """Return what the benchmark consists of, as ``benchmark.yaml`` has it."""
    return checked(Definition, read_yaml(FILE), str(FILE))


@dataclass(frozen=True)
class BenchmarkSet:
    """One set of the benchmark by its ``name``, in one ``size``.

    InputError if there is no such set or size. Two names of the same repairs are one set.
    """

    name: str
    size: str = FULL

    def __post_init__(self) -> None:
        known = definition()
        if self.size not in known.sizes:
            sizes = ", ".join(known.sizes)
            raise InputError(f"size {shown(self.size)}: unknown; expected one of: {sizes}")
        parts = [ALL] if len(self.repairs) == len(known.repairs) else self.repairs
        name = "_".join([self.model, *parts])
        object.__setattr__(self, "name", name)

    @property
    def model(self) -> str:
        """The population that the set starts from."""
        for model in sorted(definition().models, key=len, reverse=True):
            if self.name == model or self.name.startswith(f"{model}_"):
                return model
        models = ", ".join(definition().models)
        raise InputError(f"set {shown(self.name)}: unknown; expected its name to begin: {models}")

    @property
    def repairs(self) -> list[str]:
        """The names of its repairs, in the order of the definition."""
        known, written = definition().repairs, self.name.removeprefix(self.model).lstrip("_")
        names = [] if not written else list(known) if written == ALL else written.split("_")
        if wrong := [name for name in names if name not in known]:
            raise InputError(
                f"set {shown(self.name)}: found repair {shown(wrong[0])}; expected "
                f"{ALL}, or some of: {', '.join(known)}"
            )
        return [name for name in known if name in names]

    @property
    def n_images(self) -> dict[str, int]:
        """The images of each split."""
        return definition().sizes[self.size]

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of labels and probabilities."""
        return [name for name in CLASSES if name in definition().class_fractions]

    @property
    def population(self) -> Population:
        """The population from which it is drawn."""
        return _population(self.name)

    @functools.cached_property
    def catalog(self) -> pd.DataFrame:
        """A row for each image: id, class, split, source, seed, and ``label``, from 0."""
        table = planned(self.population, self.n_images, definition().seed)
        return table.assign(label=table["class"].map(self.classes.index))

    @property
    def learned(self) -> np.ndarray:
        """The rows (n,) of the catalog that a model may learn from."""
        return np.flatnonzero(self.catalog["split"].isin(("train", "valid")))

    @property
    def test(self) -> np.ndarray:
        """The rows (m,) of the catalog that score."""
        return np.flatnonzero(self.catalog["split"] == "test")

    def table(self, probabilities: np.ndarray) -> pd.DataFrame:
        """Return id and p_<class> of the test images, of their probabilities (m, K)."""
        table = pd.DataFrame(probabilities, columns=[f"p_{name}" for name in self.classes])
        table.insert(0, "id", self.catalog["id"].to_numpy()[self.test])
        return table

    def lens(self, row: int) -> System:
        """Return the lens of a row of the catalog, with its substructure."""
        entry = self.catalog.iloc[row]
        return draw(index_of(entry["id"]), entry["class"], entry["seed"], self.population)


def shown_sets() -> list[str]:
    """Return the names of the sets that the benchmark shows: as published, and repaired."""
    return [name for model in definition().models for name in (model, f"{model}_{ALL}")]


@functools.cache
def _population(name: str) -> Population:
    """Return the population of a set; its ids depend on no text but its name."""
    chosen, known = BenchmarkSet(name), definition()
    content = read_yaml(population_file(chosen.model))
    for repair in (known.repairs[entry] for entry in chosen.repairs):
        for changes in (repair.changes, repair.own.get(chosen.model, {})):
            content = changed(content, changes)
    content |= {"name": name, "references": [], "class_fractions": known.class_fractions}
    content["description"] = f"{known.models[chosen.model]}, benchmark {known.version}"
    return population_of(content, f"set {name}")


def changed(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a file with some keys changed; one that becomes None is left out.

    A section is changed key by key; a dictionary whose content no section has, such as a prior, is
    replaced.
    """
    result = dict(content)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(content.get(key), dict) and key in SECTIONS:
            result[key] = changed(content[key], value)
        else:
            result[key] = value
    return result


#: keys of a population that have keys of their own, which a repair changes one by one
SECTIONS = ("instrument", "cosmology", "halo", "shear", "source", "subhalos", "vortex")


def make(
    name: str,
    out: str | Path,
    size: str = FULL,
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> None:
    """Write a set to the folder ``out``: images.npy (n, H, W), catalog.csv, dataset.json.

    A ``shard`` (k, of) is one part of it; parts are joined by ``vitdm.data.dataset.merge_shards``.
    InputError if there is no such set or size.
    """
    chosen = BenchmarkSet(name, size)
    simulate_dataset(
        chosen.population, chosen.n_images, definition().seed, out, shard, progress=progress
    )


def opened(folder: str | Path) -> tuple[BenchmarkSet, Dataset]:
    """Return which set a folder of ``make`` holds, and its images with their catalog.

    InputError if it holds no set of this version of the benchmark, or not all of it.
    """
    data = Dataset.open(folder)
    ids, known = data.catalog["id"], definition()
    sizes = {sum(n_images.values()): size for size, n_images in known.sizes.items()}
    if len(ids) in sizes and (name := population_of_id(ids.iloc[0])).startswith(
        tuple(known.models)
    ):
        chosen = BenchmarkSet(name, sizes[len(ids)])
        told = ("id", "class", "split")
        if all(np.array_equal(chosen.catalog[key], data.catalog[key]) for key in told):
            return chosen, data
    raise InputError(
        f"{folder}: holds no set of version {known.version} of the benchmark; expected a folder "
        "of vitdm benchmark make, whole and as it was written"
    )
