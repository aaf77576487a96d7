"""The files of a workflow that depend on its configuration: which samples, runs, tables there are.

Paths are relative to the repository. The rules (``rules/*.smk``) and the contents of the article
(``studies.contents``) read them from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from studies.config import Config, Curve, RealSet, load_cutouts
from studies.config.studies import MapRow, PosteriorRow
from vitdm import simulation
from vitdm.config import by_section
from vitdm.provenance import files_below
from vitdm.simulation import load_population, population_name
from vitdm.simulation.classes import truth_of

#: what folders of the results hold
DATASET = ("images.npy", "catalog.csv", "dataset.json")  # also of processed images
FITS = ("fits.csv", "residuals.npy", "provenance.json")
RUN = ("metrics.json", "history.csv", "config.yaml", "model.safetensors")
RUN += ("predictions.csv", "run.json")
SEARCH = ("best.json", "trials.csv")
SCORES = ("efficiency.csv", "sensitivity.csv", "efficiency.json")
COMPARISON = tuple(f"comparison{end}" for end in (".csv", "_gains.csv", "_history.csv", ".json"))
SKY_TABLES = tuple(f"real_sky{end}.csv" for end in ("", "_images", "_scores", "_shift", "_ranks"))
SKY = (*SKY_TABLES, "real_sky.json")
SLACS_LENS = ("lens.csv", "maps.npz", "search.csv", "peaks.csv", "injections.csv", "search.npz")
SLACS_LENS += ("lens.json",)
SLACS_FITS = ("slacs.csv", "slacs_maps.npz")
SLACS_SEARCH = tuple(f"slacs_{end}" for end in ("search.csv", "peaks.csv", "injections.csv"))
SLACS_SEARCH += ("slacs_search.npz",)
SLACS = (*SLACS_FITS, *SLACS_SEARCH, "slacs.json")
MAPPED = ("maps.csv", "maps_gains.csv", "maps_trials.csv", "maps_history.csv", "maps.json")
POSTERIOR = tuple(f"posterior{end}.csv" for end in ("", "_lenses", "_groups", "_history"))
POSTERIOR += ("posterior.json",)
WHERE = ("where.csv", "where_history.csv", "where_maps.npz", "where.json")
WHERE_ROW = ("subhalos.csv", "peaks.csv", "history.csv", "shown.npz", "where.json")
MATRIX = ("misspecification.csv", "misspecification.json")
RIVALS = ("benchmark.csv", "benchmark.md", "benchmark.json")
#: sources of the article and of the report on a user's own images, which name settings
ARTICLE = ("paper.md", "report.md", "tables.yaml", "claims.yaml")
#: a real lens that notebooks fit, if it is there
LENS = "J0946+1006"
#: what is known of real lenses
CUTOUTS = "config/slacs.yaml"
#: committed results of config/extended.yaml, which the article shows
EXTENDED = "paper/extended"


def population_file(population: str) -> str:
    """Return the file of a population, relative to the repository if it ships with the library."""
    file = simulation.population_file(population)
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def any_of(names: Iterable[str]) -> str:
    """Return the pattern of a wildcard; names of population files may hold any character."""
    return "|".join(map(re.escape, names)) or "none"


@dataclass(frozen=True)
class Sample:
    """Lenses that are simulated beside those of the article's model."""

    population: str
    n_images: dict[str, int]
    seed: int


@dataclass(frozen=True)
class Targets:
    """What there is to be made with a configuration."""

    config: Config
    results: str | None = None  # default: the folder that the configuration names

    # ------------------------------------------------------------------------------- the folders

    @property
    def out(self) -> str:
        """The folder of the results."""
        return self.results or self.config.results

    @property
    def figures(self) -> str:
        """The folder of the figures."""
        return "figures" if self.config.publish else f"{self.out}/figures"

    @property
    def tables(self) -> str:
        """The folder of the tables."""
        return "paper/tables" if self.config.publish else f"{self.out}/tables"

    @property
    def paper(self) -> str:
        """The folder of the article."""
        return "paper" if self.config.publish else f"{self.out}/paper"

    def files(self, folder: str, names: tuple[str, ...]) -> list[str]:
        """Return some files of a folder of the results."""
        return [f"{self.out}/{folder}/{name}" for name in names]

    @property
    def document(self) -> str:
        """The files of the article, or of the report on a user's images, but for their suffix."""
        return f"{self.paper}/{'paper' if self.simulated else 'report'}"

    # ------------------------------------------------------------ the images of the article's model

    @property
    def simulated(self) -> bool:
        """Whether the images are simulated, not read from files."""
        return self.config.data == "simulate"

    @property
    def main(self) -> str:
        """The name of the population of the images, if they are simulated."""
        return population_name(self.config.population)

    @property
    def population(self) -> list[str]:
        """Its file: the instrument that took the images, and what they are drawn from."""
        return [population_file(self.config.population)] if self.simulated else []

    @property
    def dataset(self) -> list[str]:
        return self.files("dataset", DATASET)

    @property
    def processed(self) -> list[str]:
        return self.files("processed", DATASET)

    @property
    def shards(self) -> list[str]:
        """The folders of the parts in which the images are simulated."""
        n = self.config.shards
        return [f"{self.out}/shards/{k}-of-{n}" for k in range(n)]

    @property
    def features(self) -> str:
        return f"{self.out}/features.csv"

    @property
    def selection(self) -> str:
        return f"{self.out}/selection/selection.json"

    # ----------------------------------------------------------------------------- their lens fits

    @property
    def fitted(self) -> bool:
        """Whether a smooth lens is fitted to each image."""
        return bool({"lensfit", "search"} & set(self.config.features.groups))

    @property
    def fits(self) -> list[str]:
        return self.files("lensfit", FITS) if self.fitted else []

    @property
    def fit_shards(self) -> list[str]:
        """The folders of the parts in which the images are fitted."""
        n = self.config.shards
        return [f"{self.out}/shards/fits-{k}-of-{n}" for k in range(n)]

    # -------------------------------------------------------------------- other samples of lenses

    @cached_property
    def populations(self) -> dict[str, str]:
        """The populations shown side by side, and their files."""
        shown = self.config.populations.files if self.simulated else []
        return {population_name(entry): population_file(entry) for entry in shown}

    @cached_property
    def noisy_populations(self) -> list[str]:
        """Those of them with independent noise in each pixel: there is an ideal observer."""
        return [name for name, file in self.populations.items() if _noisy(file)]

    @cached_property
    def clumpy_populations(self) -> list[str]:
        """Those of them with subhalos."""
        return [
            name
            for name, file in self.populations.items()
            if "max_subhalo_mass" in truth_of(list(load_population(file).class_fractions))
        ]

    @property
    def invariance(self) -> list[str]:
        """The folders of samples whose processing is tested by turning and moving the images."""
        if self.populations:
            return [f"{self.out}/populations/{name}/invariance" for name in self.populations]
        return [f"{self.out}/invariance"]

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """The curves of data efficiency by the names of their samples."""
        return {
            population_name(curve.population) + "_images" * (curve.runs is not None): curve
            for curve in self.config.efficiency.curves
        }

    @property
    def audited(self) -> str | None:
        """The name of the population of the audit."""
        chosen = self.config.audit.population
        return population_name(chosen) if chosen else None

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """The samples by their folders below the results."""
        settings, drawn = self.config, {}
        if not self.simulated:
            return {}
        n_images = {"train": settings.populations.n_images}
        for name, file in self.populations.items():
            drawn[f"populations/{name}"] = Sample(file, n_images, settings.seed)
        for name, curve in self.curves.items():
            n_images = {"train": self._largest(curve), "opt": settings.efficiency.n_scored}
            file = population_file(curve.population)
            drawn[f"efficiency/{name}"] = Sample(file, n_images, settings.seed + 1)
        if self.audited:
            chosen = settings.audit
            n_images = {"train": chosen.n_train + chosen.n_valid, "opt": chosen.n_scored}
            file = population_file(chosen.population)
            drawn[f"audit/{self.audited}"] = Sample(file, n_images, settings.seed + 1)
        for name, file in self.mapped.items():
            chosen = settings.maps
            n_images = {"train": chosen.sizes[-1] + chosen.n_valid, "opt": chosen.n_scored}
            drawn[f"maps/{name}"] = Sample(file, n_images, settings.seed + 1)
        for name, chosen in self.sky.items():
            n_images = {"train": chosen.n_train, "opt": chosen.n_scored}
            sample = Sample(population_file(chosen.population), n_images, settings.seed + 1)
            drawn.setdefault(self.sky_samples[name], sample)
        return drawn

    @cached_property
    def mapped(self) -> dict[str, str]:
        """The populations whose lenses networks see as maps, and their files."""
        named = self.config.maps.populations if self.simulated else []
        return {population_name(entry): population_file(entry) for entry in named}

    @property
    def plain_samples(self) -> list[str]:
        """The samples whose fits need leave no maps."""
        return [name for name in self.samples if not name.startswith("maps/")]

    def sample_settings(self, sample: str) -> str:
        """Return the file of the settings with which a sample is simulated."""
        return f"{self.out}/config/simulate_{sample.replace('/', '_')}.yaml"

    def _largest(self, curve: Curve) -> int:
        """Return the number of training images of a curve's sample.

        Samples that share models have as many lenses: then the k-th of each is the same draw.
        """
        shared = [
            other
            for other in self.curves.values()
            if other is curve
            or (other.runs is None and other.population in curve.also)
            or (curve.runs is None and curve.population in other.also)
        ]
        return max(size for other in shared for size in other.sizes)

    # ---------------------------------------------------------------------------------- trainings

    @property
    def runs(self) -> list[str]:
        """The names of the comparison runs, one for each seed."""
        return self._seeds(self.config.runs)

    @property
    def feature_runs(self) -> list[str]:
        """Those by which the features are judged."""
        return self._seeds(self.config.feature_runs)

    def _seeds(self, names) -> list[str]:
        return [f"{name}_seed{k}" for name in names for k in range(self.config.run_seeds)]

    def joined(self, run: str) -> dict[str, str]:
        """Return the files that a run reads beside the images, by the option that names them."""
        model = self.config.run(run).model
        files = {"features": self.features} if model.features else {}
        if model.features and model.feature_set == "selected":
            files["selection"] = self.selection
        return files | ({"fits": f"{self.out}/lensfit/fits.csv"} if model.sees_fits else {})

    @property
    def joined_by_model(self) -> dict[str, str]:
        """The same for the article's model, in the search and in the final training."""
        return {"features": self.features, "selection": self.selection} | self._residual(self.out)

    @property
    def joined_by_any(self) -> dict[str, str]:
        """What any model may read."""
        fits = {"fits": f"{self.out}/lensfit/fits.csv"} if self.fitted else {}
        return {"features": self.features, "selection": self.selection} | fits

    @property
    def joined_in_test(self) -> dict[str, str]:
        """What finished models read of the images that they are tested on."""
        return {"features": self.features} | self._residual(self.out)

    @property
    def joined_when_fresh(self) -> dict[str, str]:
        """The same of lenses that no search and no training has seen."""
        return {"features": f"{self.fresh}/features.csv"} | self._residual(self.fresh)

    def _residual(self, folder: str) -> dict[str, str]:
        return {"fits": f"{folder}/lensfit/fits.csv"} if self.config.model.sees_fits else {}

    @staticmethod
    def options(files: dict[str, str]) -> list[str]:
        """Return the words of a command that hand files over; of fits their folder."""
        given = {n: str(Path(file).parent) if n == "fits" else file for n, file in files.items()}
        return [word for name, file in given.items() for word in (f"--{name}", file)]

    # -------------------------------------------------------------------------------- the studies

    @property
    def trainings(self) -> list[str]:
        """The folders of the trainings of all curves of data efficiency."""
        return [
            f"{self.out}/efficiency/{name}/n{n}_seed{k}"
            for name, curve in self.curves.items()
            for n, k in curve.trainings(self.config.efficiency.seeds)
        ]

    def networks(self, curve: str) -> list[str]:
        """Return the names of the runs whose networks are trained for a curve."""
        return self.curves[curve].runs or self.config.efficiency.runs

    def scored(self, curve: str) -> list[str]:
        """Return the folders of the samples on which the models of a curve are scored."""
        names = [curve, *(population_name(entry) for entry in self.curves[curve].also)]
        return [f"{self.out}/efficiency/{name}" for name in names]

    @staticmethod
    def seen(folder: str, images_only: bool = False) -> list[str]:
        """Return the files of a sample that models see."""
        images = [f"{folder}/processed/images.npy"]
        fitted = [f"{folder}/features.csv", f"{folder}/lensfit/residuals.npy"]
        return images if images_only else [*images, *fitted]

    def seen_by_curve(self, name: str) -> list[str]:
        """Return the files that the models of a curve see."""
        images_only = self.curves[name].runs is not None
        return [file for folder in self.scored(name) for file in self.seen(folder, images_only)]

    @property
    def seen_by_rows(self) -> list[str]:
        """The files that the models of the comparison on equal terms see."""
        known = [f"{self.compared}/dataset/images.npy", *self.seen(self.compared)]
        return known if self.rows else []

    @property
    def seen_by_audit(self) -> list[str]:
        """The files that the models of the audit see."""
        folder = f"{self.out}/audit/{self.audited}"
        seen = self.seen(folder, images_only=not self.config.audit_fits)
        return [f"{folder}/dataset/images.npy", *seen] if self.audited else []

    def seen_by_maps(self, name: str, row: MapRow | PosteriorRow) -> list[str]:
        """Return the files that a network on maps sees of a population, or trees."""
        folder = f"{self.out}/maps/{name}"
        files = [*self.seen(folder), f"{folder}/lensfit/maps.npy"]
        if row.copies:
            files += [f"{folder}/copies/{file}" for file in ("maps.npy", "catalog.csv")]
        return files

    def seen_by_where(self, name: str) -> list[str]:
        """Return the files that a network sees of a population which tells where subhalos are."""
        folder = f"{self.out}/maps/{name}"
        fits = (f"{folder}/lensfit/{file}" for file in ("maps.npy", "residuals.npy"))
        return [*self.seen(folder, images_only=True), *fits]

    @property
    def map_rows(self) -> list[str]:
        """The folders of the rows of the study of maps, of all populations."""
        rows = self.config.maps.rows
        return [f"{self.out}/maps/{name}/rows/{row}" for name in self.mapped for row in rows]

    @property
    def posterior_rows(self) -> list[str]:
        """The folders of the rows of the posteriors, of all populations."""
        named = [population_name(entry) for entry in self.config.posterior.populations]
        rows = self.config.posterior.rows
        mapped = [name for name in named if name in self.mapped]
        return [f"{self.out}/maps/{name}/posterior/{row}" for name in mapped for row in rows]

    @property
    def where_rows(self) -> list[str]:
        """The folders of the rows of the study of where subhalos are."""
        chosen = self.config.where
        name = population_name(chosen.population) if chosen.population else None
        rows = chosen.rows if name in self.mapped else {}
        return [f"{self.out}/maps/{name}/where/{row}" for row in rows]

    @property
    def map_bounds(self) -> list[str]:
        """What the known perturbation is worth in populations of that study, where it is known."""
        known = [name for name in self.noisy_populations if name in self.mapped]
        file = "ideal_observer/ideal_observer.json"
        return [f"{self.out}/populations/{name}/{file}" for name in known]

    def seen_by_real_set(self, name: str) -> list[str]:
        """Return the files from which the models of a set of real images learn, and the set's."""
        chosen, folder = self.sky[name], f"{self.out}/{self.sky_samples[name]}"
        files = [f"{folder}/dataset/images.npy"]
        files += [f"{folder}/lensfit/fits.csv"] if "lensfit" in chosen.groups else []
        files += map(str, files_below(chosen.images))
        return files + ([chosen.cutouts] if chosen.cutouts else [])

    @property
    def rows(self) -> list[str]:
        """The rows of the comparison on equal terms."""
        return list(self.config.compare.rows)

    @property
    def compared(self) -> str:
        """The folder of their sample."""
        return f"{self.out}/efficiency/{population_name(self.config.compare.population or 'none')}"

    @cached_property
    def sky(self) -> dict[str, RealSet]:
        """The sets of real images that are there, for models of simulated lenses."""
        return self.config.real_sky.present if self.simulated else {}

    @cached_property
    def sky_samples(self) -> dict[str, str]:
        """Their simulated samples; that of a curve is used again."""
        names = {name: population_name(chosen.population) for name, chosen in self.sky.items()}
        return {
            name: f"efficiency/{population}" if population in self.curves else f"sky/{name}"
            for name, population in names.items()
        }

    @property
    def sky_parts(self) -> list[str]:
        """The folders of the answers on real images, one for each training."""
        seeds = range(self.config.real_sky.seeds)
        return [f"{self.out}/sky/{name}/seed{k}" for name in self.sky for k in seeds]

    @property
    def studies(self) -> dict[str, list[str]]:
        """The folders whose trials are joined, by the name of the table; only those there are."""
        arms, seeds = self.config.study.arms, range(self.config.study.seeds)
        folders = {
            "searches": [f"{self.out}/searches/{arm}_{k}" for arm in arms for k in seeds],
            "rates": [f"{self.out}/rates/{recipe}" for recipe in self.config.rates.recipes],
        }
        return {name: paths for name, paths in folders.items() if paths}

    # ---------------------------------------------------------------- the search and the final test

    @property
    def tuned(self) -> list[str]:
        """The images as the search chose to process them, if it did."""
        varied = by_section(self.config.tune.space)["preprocess"]
        return self.files("tuned/processed", DATASET) if varied else self.processed

    @property
    def final(self) -> list[str]:
        """The folders of the final models."""
        return [f"{self.out}/final/seed{k}" for k in range(self.config.final.seeds)]

    @property
    def final_start(self) -> list[str]:
        """The folders of models with the settings from which the search started."""
        return [f"{self.out}/final/start{k}" for k in range(self.config.final.seeds)]

    @property
    def fresh(self) -> str:
        """The folder of lenses of the same population that no search and no training has seen."""
        return f"{self.out}/efficiency/{self.main}"

    @property
    def gain(self) -> list[str]:
        """What the search brought, on fresh lenses, if there are such."""
        known = self.main in self.curves and self.tuned == self.processed
        return [f"{self.out}/tune/gain.json"] if known else []

    @property
    def known_model(self) -> list[str]:
        """The scores of test images with the smooth lens known, a reference for the final test."""
        known = self.simulated and _noisy(population_file(self.config.population))
        return [f"{self.out}/known_model/scores.csv"] if known else []

    # -------------------------------------------------------- real lenses, and committed results

    @cached_property
    def real(self) -> list[str]:
        """The files in the folder of real lenses, but for those that are fitted one by one."""
        place, others = self.config.real_images, self.config.slacs.images
        files = files_below(place) if place else []
        return [str(f) for f in files if not (others and f.is_relative_to(others))]

    @cached_property
    def real_known(self) -> list[str]:
        """Those of which enough is known to fit a lens."""
        return [file for file in self.real if Path(file).name in load_cutouts(CUTOUTS).cutouts]

    @cached_property
    def slacs_lenses(self) -> list[str]:
        """The names of the lenses that are fitted with a source of free form."""
        return self.config.slacs.present

    def slacs_images(self, name: str) -> list[str]:
        """Return the files of one of them: image, noise map and PSF."""
        return sorted(map(str, Path(f"{self.config.slacs.images}/{name}").glob("*.fits")))

    @property
    def slacs_lens(self) -> list[str]:
        """The files of the lens that notebooks fit, if it is there."""
        return self.slacs_images(LENS) if self.config.slacs.images else []

    @property
    def slacs_known(self) -> dict[str, str]:
        """What is known of these lenses beside their images, by the option that names it."""
        chosen = self.config.slacs
        files = {"published": f"{chosen.images}/published.csv", "notes": chosen.notes}
        return {name: file for name, file in files.items() if file and Path(file).is_file()}

    @property
    def slacs_redshifts(self) -> list[str]:
        """The file of their redshifts, if it is there."""
        file = self.config.slacs.redshifts
        return [file] if file and Path(file).is_file() else []

    @property
    def slacs(self) -> list[str]:
        """The table of their fits, and the images of some."""
        own = self.files("slacs/all", SLACS_FITS) if self.slacs_lenses else []
        return own or self.extended(*SLACS_FITS)

    @property
    def slacs_search(self) -> list[str]:
        """The tables of the search of these lenses, and the maps of some."""
        own = self.files("slacs/all", SLACS_SEARCH) if self.slacs_lenses else []
        return own or self.extended(*SLACS_SEARCH)

    @property
    def rivals(self) -> list[str]:
        """The folders of the scores of the benchmark: a set, and a rival on it."""
        parts = self.config.benchmark.parts if self.simulated else []
        return [f"{self.out}/benchmark/{part}" for part in parts]

    @property
    def benchmark(self) -> list[str]:
        """The table of the benchmark."""
        own = self.files("benchmark/all", RIVALS[:1]) if self.rivals else []
        return own or self.extended(*RIVALS[:1])

    @property
    def searched_blocks(self) -> list[str]:
        """The folders of the lenses that are searched although the model is wrong, by block."""
        chosen = self.config.misspecification
        return [
            f"{self.out}/misspecification/{part}/{k}"
            for part in chosen.parts
            for k in range(chosen.blocks(part))
        ]

    @property
    def misspecification(self) -> list[str]:
        """The table of false alarms and completeness of these searches."""
        own = self.files("misspecification/all", MATRIX) if self.searched_blocks else []
        return own or self.extended(*MATRIX)

    def extended(self, *names: str) -> list[str]:
        """Return committed results of config/extended.yaml, if the article is published."""
        files = [f"{EXTENDED}/{name}" for name in names]
        return [file for file in files if self.config.publish and Path(file).exists()]

    @property
    def sensitivity(self) -> list[str]:
        """Completeness by lens property in other populations."""
        own = [f"{self.out}/efficiency/all/sensitivity.csv"] if self.curves else []
        return self.extended("sensitivity.csv") or own

    @property
    def comparison(self) -> list[str]:
        """The comparison on equal terms."""
        own = self.files("compare/all", COMPARISON[:3]) if self.rows else []
        return self.extended(*COMPARISON[:3]) or own

    @property
    def maps(self) -> list[str]:
        """The study of networks on maps of perturbers."""
        own = self.files("maps/all", MAPPED[:2]) if self.map_rows else []
        return self.extended(*MAPPED[:2]) or own

    @property
    def posterior(self) -> list[str]:
        """The study of posteriors of the mass fraction in subhalos."""
        own = self.files("posterior", POSTERIOR[:3]) if self.posterior_rows else []
        return self.extended(*POSTERIOR[:3]) or own

    @property
    def where(self) -> list[str]:
        """The study of where subhalos are."""
        own = self.files("where", (WHERE[0], WHERE[2])) if self.where_rows else []
        return self.extended(WHERE[0], WHERE[2]) or own

    @property
    def audit(self) -> list[str]:
        """The table of the audit."""
        own = [f"{self.out}/audit/table/audit.csv"] if self.audited else []
        return own or self.extended("audit.csv")

    @property
    def real_sky(self) -> list[str]:
        """The answers of models of simulated lenses on real ones."""
        return (self.files("sky/all", SKY) if self.sky else []) or self.extended(*SKY)

    def study(self, name: str) -> list[str]:
        """Return the table of searches, or of learning rates."""
        own = [f"{self.out}/{name}/{name}.csv"] if name in self.studies else []
        return own or self.extended(f"{name}.csv")

    @property
    def committed(self) -> list[str]:
        """What config/extended.yaml makes for the article, as it is committed."""
        return [f"{EXTENDED}/{Path(file).name}" for file in self.to_commit]

    @property
    def to_commit(self) -> list[str]:
        """The same as it is made."""
        paths = self.files("efficiency/all", SCORES)
        paths += self.files("compare/all", COMPARISON) if self.rows else []
        paths += self.files("maps/all", MAPPED) if self.map_rows else []
        paths += self.files("posterior", POSTERIOR) if self.posterior_rows else []
        paths += self.files("where", WHERE) if self.where_rows else []
        paths += self.files("audit/table", ("audit.csv", "audit.json")) if self.audited else []
        paths += self.files("sky/all", SKY) if self.sky else []
        paths += self.files("slacs/all", SLACS) if self.slacs_lenses else []
        paths += self.files("misspecification/all", MATRIX) if self.searched_blocks else []
        paths += self.files("benchmark/all", RIVALS) if self.rivals else []
        for name in self.studies:
            paths += self.files(name, (f"{name}.csv", f"{name}.json"))
        return paths

    @property
    def efficiency(self) -> list[str]:
        """The curves of data efficiency; those of config/extended.yaml beside ours."""
        own = [f"{self.out}/efficiency/all/efficiency.csv"] if self.curves else []
        return [*own, *self.extended("efficiency.csv")]

    @property
    def shortcut(self) -> bool:
        """Whether models of Model I are scored on lenses whose size tells nothing, too."""
        return bool(self.extended("efficiency.csv")) or {"model_i", "model_i_sizes"} <= set(
            self.curves
        )


def _noisy(file: str) -> bool:
    instrument = load_population(file).instrument
    return instrument.noise != "none" and instrument.drizzle is None
