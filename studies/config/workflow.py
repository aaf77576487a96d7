"""All settings of the workflow, and which of them do not go together."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import Field, ValidationError, field_validator, model_validator

from studies.config.studies import (
    Audit,
    Benchmark,
    Comparison,
    Efficiency,
    Final,
    Maps,
    Misspecification,
    Override,
    Populations,
    Posterior,
    Quickstart,
    Rates,
    RealSky,
    Report,
    Slacs,
    Study,
    Where,
)
from vitdm.bounds import MOST_IMAGES, MOST_PARTS
from vitdm.config import SPLITS, Features, Model, Preprocess, Settings, Split, Train, Tune
from vitdm.config.network import Name
from vitdm.config.sections import report, wrong
from vitdm.errors import InputError, shown

#: runs by which the features are judged: images alone, then with features beside them
FEATURE_RUNS = ("spt_lsa", "spt_lsa_proposal", "spt_lsa_features")
#: what is wrong: keys, and a message each
Wrong = list[tuple[str, str]]
#: sections whose keys a study may change, by the name of their schema
CHANGED = {Model: "model", Train: "train", Preprocess: "preprocess", Features: "features"}


class Config(Settings):
    """The whole workflow: the settings of the article's model, and what each study adds."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="results go to results/<name>/"
    )
    publish: bool = Field(False, description="figures, tables and paper into figures/ and paper/")
    data: str = Field("simulate", description="'simulate', or a folder or archive of images")
    population: str = Field("marginal", description="its name, or a file")
    n_images: dict[Split, Annotated[int, Field(ge=2, le=MOST_IMAGES)]] = Field(
        description="images of each split; for data from files, their proportions"
    )
    populations: Populations = Populations()
    real_images: str | None = Field(
        None, description="folder of real lenses, shown in notebook 01 if it is there"
    )
    shards: int = Field(
        8, ge=1, le=MOST_PARTS, description="jobs in which images are simulated and fitted"
    )
    runs: dict[Name, Override] = Field(min_length=1, description="compared in notebooks 02 and 03")
    run_seeds: int = Field(1, ge=1, le=MOST_PARTS, description="seeds of each comparison run")
    efficiency: Efficiency = Efficiency()
    compare: Comparison = Comparison()
    maps: Maps = Maps()
    posterior: Posterior = Posterior()
    where: Where = Where()
    audit: Audit = Audit()
    real_sky: RealSky = RealSky()
    slacs: Slacs = Slacs()
    misspecification: Misspecification = Misspecification()
    benchmark: Benchmark = Benchmark()
    tune: Tune
    study: Study = Study()
    rates: Rates = Rates()
    final: Final = Final()
    quickstart: Quickstart = Quickstart()
    report: Report = Report()

    # ----------------------------------------------------------------- the settings of each model

    @property
    def settings(self) -> Settings:
        """The settings of the article's model alone, without the studies."""
        return Settings.model_construct(**{n: getattr(self, n) for n in Settings.model_fields})

    def override(self, override: Override) -> Settings:
        """Return the settings with what a run, a row or a recipe changes of them."""
        names = set(CHANGED.values()) & set(type(override).model_fields)
        return self.settings.changed(**{name: getattr(override, name) for name in names})

    def run(self, name: str) -> Settings:
        """Return the settings of a comparison run."""
        return self.override(self.runs[name])

    def row(self, name: str) -> Settings:
        """Return the settings of a row of the comparison on equal terms."""
        return self.override(self.compare.rows[name])

    def map_row(self, name: str) -> Settings:
        """Return the settings of a row of the study of maps, whose lenses have them."""
        return self._mapped(self.maps.rows[name])

    def posterior_row(self, name: str) -> Settings:
        """Return the settings of a row of the posteriors, which sees the same lenses."""
        return self._mapped(self.posterior.rows[name])

    def where_row(self, name: str) -> Settings:
        """Return the settings of a row of the study of places, which sees the same lenses."""
        return self._mapped(self.where.rows[name])

    def _mapped(self, override: Override) -> Settings:
        chosen = self.override(override)
        mapped = self.lensfit.model_copy(update={"maps": self.maps.source})
        return chosen.model_copy(update={"lensfit": mapped})

    def real_set(self, name: str) -> Settings:
        """Return the settings of the models that are applied to a set of real images."""
        chosen = self.real_sky.sets[name]
        changed = self.override(chosen).changed(features={"groups": chosen.groups})
        return changed.model_copy(update={"task": "binary"})

    def rival(self, name: str) -> Settings:
        """Return the settings of a model of the benchmark's table."""
        return self.override(self.benchmark.rivals[name])

    def arm(self, name: str, k: int) -> Settings:
        """Return the settings whose search is the k-th of a kind that is compared."""
        arm = self.study.arms[name]
        first = self.seed if self.tune.seed is None else self.tune.seed
        tune = self.tune.model_dump() | self.study.tune | arm.tune
        tune |= {"random": arm.random, "seed": first + k}
        return self.settings.model_copy(update={"tune": Tune(**tune)})

    def recipe(self, name: str) -> Settings:
        """Return the settings of a recipe of ``rates``."""
        chosen = self.rates.recipes[name]
        return self.override(chosen.model_copy(update={"model": self.rates.model | chosen.model}))

    # ------------------------------------------------------------------------------- what is there

    @property
    def audit_fits(self) -> bool:
        """Whether a row of ours in the audit needs features, or residual maps."""
        models = [self.override(row).model for row in self.audit.ours]
        return any(model.features or model.sees_fits for model in models)

    @property
    def feature_runs(self) -> list[str]:
        """The runs of FEATURE_RUNS that there are; none if nothing can be compared."""
        runs = [run for run in FEATURE_RUNS if run in self.runs]
        return runs if runs[:1] == [FEATURE_RUNS[0]] and len(runs) > 1 else []

    @property
    def results(self) -> str:
        """The folder of the results."""
        return f"results/{self.name}"

    # ----------------------------------------------------------------------------------- the checks

    @field_validator("data")
    @classmethod
    def _data_named(cls, data: str) -> str:
        if not data.strip():
            raise ValueError("expected 'simulate', or a folder or archive of images")
        return os.path.expanduser(data)

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if set(self.n_images) != set(SPLITS):
            raise ValueError(
                f"n_images: needs {', '.join(SPLITS)}, found {', '.join(self.n_images)}"
            )
        self.check()
        lines = self._wrong_runs() + self.settings.wrong_starts() + self._wrong_curves()
        lines += self._wrong_map_rows() + self._wrong_posteriors() + self._wrong_places()
        lines += self._wrong_rows() + self._wrong_audit() + self._wrong_searches()
        lines += self._wrong_real_sets() + self._wrong_rivals()
        if lines:
            raise wrong(lines)
        return self

    def _settings_of(
        self, key: str, override: Override, maps: str | None = None
    ) -> tuple[Settings | None, Wrong]:
        """Return the settings of an override, or what is wrong with it."""
        try:
            settings = self.override(override)
            if maps:
                lensfit = self.lensfit.model_copy(update={"maps": maps})
                settings = settings.model_copy(update={"lensfit": lensfit})
            settings.check()
        except ValidationError as error:
            schema = next(s for s in CHANGED if s.__name__ == error.title)
            return None, report(error, schema, f"{key}.{CHANGED[schema]}")
        except InputError as error:
            return None, [(key, str(error))]
        return settings, []

    def _wrong_runs(self) -> Wrong:
        problems = [self._settings_of(f"runs.{name}", run)[1] for name, run in self.runs.items()]
        return [line for lines in problems for line in lines]

    def _wrong_curves(self) -> Wrong:
        """Return what is wrong with the runs and populations of ``efficiency``."""
        lines: Wrong = []
        chosen, known = self.efficiency, ", ".join(self.runs)
        names = [curve.name for curve in chosen.curves]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            lines.append(("efficiency.curves", f"found {twice[0]} twice; expected one"))
        images_only = [name for curve in chosen.curves for name in curve.runs or ()]
        for key, run in [("efficiency.runs", name) for name in chosen.runs] + [
            ("efficiency.curves", name) for name in images_only
        ]:
            if run not in self.runs:
                place = "" if key == "efficiency.runs" else "runs: "
                lines.append((key, f"{place}found {shown(run)}; expected some of: {known}"))
                continue
            settings, wrong_run = self._settings_of(key, self.runs[run])
            if wrong_run:
                continue  # _wrong_runs names it
            model = settings.model
            if key == "efficiency.curves" and (model.features or model.sees_fits):
                found = f"runs: found {shown(run)}, which needs lens fits; expected images alone"
                lines.append((key, found))
            elif model.features and model.feature_set == "selected":
                lines.append((key, f"{run}: found feature_set 'selected'; expected another"))
        own = [curve.population for curve in chosen.curves]
        for curve in chosen.curves:
            if isinstance(curve.seeds, list) and len(curve.seeds) != len(curve.sizes):
                found = f"seeds: found {len(curve.seeds)}; expected one for each size"
                lines.append(("efficiency.curves", found))
            if absent := [file for file in curve.also if file not in own]:
                found = f"also: found {absent[0]}; expected one with a curve"
                lines.append(("efficiency.curves", found))
        if chosen.curves and "lensfit" not in self.features.groups:
            lines.append(("efficiency.curves", "features.groups needs lensfit"))
        return lines

    @property
    def _sizes(self) -> dict[str, int]:
        """The largest training set of each population with a curve whose lenses are fitted."""
        curves = [curve for curve in self.efficiency.curves if curve.runs is None]
        return {curve.population: max(curve.sizes) for curve in curves}

    def _wrong_rows(self) -> Wrong:
        """Return what is wrong with the rows of ``compare``."""
        chosen, sizes, lines = self.compare, self._sizes, []
        if not chosen.rows:
            return []
        wanted = chosen.n_train + chosen.n_valid
        if chosen.population not in sizes:
            expected = f"one with a curve: {', '.join(sizes) or 'none'}"
            lines.append(("compare.population", f"found {chosen.population}; expected {expected}"))
        elif wanted > (most := sizes[chosen.population]):
            found = f"n_train + n_valid: found {wanted}; expected up to {most}, the curve's"
            lines.append(("compare", found))
        for name, row in chosen.rows.items():
            key = f"compare.rows.{name}"
            if row.against is not None and row.against not in chosen.rows:
                lines.append(
                    (f"{key}.against", f"found {shown(row.against)}; expected another row")
                )
            if "learning_rate" in row.train:
                found = "learning_rate has no effect: compare.rates are tried"
                lines.append((f"{key}.train", found))
            settings, wrong_row = self._settings_of(key, row)
            lines += wrong_row
            if settings and not row.boosting:
                lines += _selected(key, settings)
        return lines

    def _wrong_map_rows(self) -> Wrong:
        """Return what is wrong with the study of maps."""
        lines: Wrong = []
        if self.maps.populations and not self.maps.rows:
            lines.append(("maps.rows", "found none; expected at least one"))
        if self.maps.populations and "lensfit" not in self.features.groups:
            lines.append(("maps.populations", "features.groups needs lensfit"))
        for name, row in self.maps.rows.items():
            key = f"maps.rows.{name}"
            if others := [other for other in row.against if other not in self.maps.rows]:
                lines.append((f"{key}.against", f"found {shown(others[0])}; expected other rows"))
            if "learning_rate" in row.train:
                found = "learning_rate has no effect: maps.rates are tried"
                lines.append((f"{key}.train", found))
            if row.kind != "network":
                continue
            settings, wrong_row = self._settings_of(key, row, self.maps.source)
            lines += wrong_row or _selected(key, settings)
            if row.copies and (self.maps.source != "matched" or row.model.get("features")):
                found = "copies: expected maps.source = matched, and no features that join"
                lines.append((key, found))
        return lines

    def _wrong_posteriors(self) -> Wrong:
        """Return what is wrong with the posteriors."""
        lines: Wrong = []
        chosen, known = self.posterior, self.maps.populations
        if absent := [name for name in chosen.populations if name not in known]:
            expected = f"some of maps.populations: {', '.join(known) or 'none'}"
            lines.append(("posterior.populations", f"found {absent[0]}; expected {expected}"))
        if chosen.populations and not chosen.rows:
            lines.append(("posterior.rows", "found none; expected at least one"))
        for name, row in chosen.rows.items():
            key = f"posterior.rows.{name}"
            settings, wrong_row = self._settings_of(key, row, self.maps.source)
            lines += wrong_row or _selected(key, settings)
        return lines

    def _wrong_places(self) -> Wrong:
        """Return what is wrong with the study of where subhalos are."""
        lines: Wrong = []
        chosen, known = self.where, self.maps.populations
        if chosen.population and chosen.population not in known:
            expected = f"one of maps.populations: {', '.join(known) or 'none'}"
            lines.append(("where.population", f"found {chosen.population}; expected {expected}"))
        if chosen.population and not chosen.rows:
            lines.append(("where.rows", "found none; expected at least one"))
        if chosen.against and chosen.against not in chosen.rows:
            found = f"found {shown(chosen.against)}; expected one of where.rows"
            lines.append(("where.against", found))
        for name, row in chosen.rows.items():
            key = f"where.rows.{name}"
            settings, wrong_row = self._settings_of(key, row, self.maps.source)
            lines += wrong_row
            if settings is None:
                continue
            if settings.model.features:
                lines.append((f"{key}.model.features", "found true; expected false"))
            if settings.model.architecture != "vit":
                found = f"found {settings.model.architecture}; expected vit"
                lines.append((f"{key}.model.architecture", found))
            if not settings.model.maps or (not row.trained and len(settings.model.maps) > 1):
                expected = "some of the maps" if row.trained else "the map whose peaks are taken"
                found = ", ".join(settings.model.maps) or "none"
                lines.append((f"{key}.model.maps", f"found {found}; expected {expected}"))
        return lines

    def _wrong_audit(self) -> Wrong:
        """Return what is wrong with the rows of ``audit``."""
        lines: Wrong = []
        if self.audit.population and not self.audit.steps:
            lines.append(("audit.steps", "found none; expected at least one"))
        for k, row in enumerate(self.audit.ours):
            settings, wrong_row = self._settings_of(f"audit.ours.{k}", row)
            lines += wrong_row or _selected(f"audit.ours.{k}", settings)
        return lines

    def _wrong_real_sets(self) -> Wrong:
        """Return what is wrong with the sets of ``real_sky``."""
        lines: Wrong = []
        for name, chosen in self.real_sky.sets.items():
            key = f"real_sky.sets.{name}"
            try:
                Features(**(self.features.model_dump() | {"groups": chosen.groups}))
            except ValidationError as error:
                lines += report(error, Features, f"{key}.groups")
                continue
            settings, wrong_set = self._settings_of(key, chosen)
            lines += wrong_set
            model = settings.model if settings else None
            if model and (model.sees_fits or not model.features or model.feature_set == "selected"):
                lines.append(
                    (key, "expected features, feature_set other than 'selected', no residual, maps")
                )
            if "lensfit" in chosen.groups and (
                chosen.cutouts is None or "lensfit" not in self.features.groups
            ):
                expected = "cutouts, and lensfit in features.groups, too"
                lines.append((f"{key}.groups", f"found lensfit; expected {expected}"))
            most = self._sizes.get(chosen.population, chosen.n_train)
            if chosen.n_train > most:
                found = f"found {chosen.n_train}; expected up to {most}, the curve's"
                lines.append((f"{key}.n_train", found))
        return lines

    def _wrong_rivals(self) -> Wrong:
        """Return what is wrong with the rivals of ``benchmark``."""
        lines: Wrong = []
        for name, rival in self.benchmark.rivals.items():
            settings, wrong_rival = self._settings_of(f"benchmark.rivals.{name}", rival)
            lines += wrong_rival
            if rival.sees != "images" and (rival.model or rival.train):
                found = "model and train have no effect without sees: images"
                lines.append((f"benchmark.rivals.{name}", found))
            model = settings.model if settings and rival.sees == "images" else None
            if model and (model.features or model.residual):
                found = "model: found features or residual maps; expected images alone"
                lines.append((f"benchmark.rivals.{name}", found))
        return lines

    def _wrong_searches(self) -> Wrong:
        """Return what is wrong with the searches and recipes that are compared."""
        lines: Wrong = []
        for name in self.study.arms:
            try:
                settings = self.arm(name, 0)
            except ValidationError as error:
                lines += report(error, Tune, f"study.arms.{name}.tune")
            else:
                wrong_arm = settings.wrong_starts()
                lines += [(f"study.arms.{name}: {key}", text) for key, text in wrong_arm]
        for name, chosen in self.rates.recipes.items():
            merged = chosen.model_copy(update={"model": self.rates.model | chosen.model})
            lines += self._settings_of(f"rates.recipes.{name}", merged)[1]
        return lines


def _selected(key: str, settings: Settings) -> Wrong:
    """Return that a model wants selected features, where no selection is made."""
    if settings.model.features and settings.model.feature_set == "selected":
        return [(key, "found feature_set 'selected'; expected another")]
    return []
