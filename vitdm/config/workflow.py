"""All settings of a workflow, and which of them do not go together."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from vitdm.config.images import (
    SPLITS,
    Features,
    Ingest,
    LensFit,
    Populations,
    Preprocess,
    Selection,
)
from vitdm.config.network import Model, Name, Override, Train
from vitdm.config.search import TUNED, Constraint, Tune, by_section, outside
from vitdm.config.sections import Section, report, wrong
from vitdm.config.settings import check_joined, check_patches
from vitdm.config.studies import (
    Audit,
    Comparison,
    Efficiency,
    Final,
    Rates,
    RealSet,
    RealSky,
    Row,
    Study,
)
from vitdm.errors import InputError

#: runs by which the features are judged: images alone, then with features beside them
FEATURE_RUNS = ("spt_lsa", "spt_lsa_proposal", "spt_lsa_features")


class Config(Section):
    """A whole workflow."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="results go to results/<name>/"
    )
    publish: bool = Field(False, description="figures, tables and paper into figures/ and paper/")
    seed: int = Field(0, ge=0)
    data: str = Field("simulate", description="'simulate', or a folder or archive of images")
    population: str = Field("marginal")
    n_images: dict[Literal["train", "valid", "opt", "test"], Annotated[int, Field(ge=2)]] = Field(
        description="images of each split; for data from files, their proportions"
    )
    populations: Populations = Populations()
    real_images: str | None = Field(
        None, description="folder of real lenses, shown in notebook 01 if it is there"
    )
    ingest: Ingest = Ingest()
    shards: int = Field(8, ge=1)
    task: Literal["multiclass", "binary"] = "multiclass"
    preprocess: Preprocess = Preprocess()
    features: Features = Features()
    selection: Selection = Selection()

    lensfit: LensFit = LensFit()
    model: Model = Model()
    train: Train = Train()
    runs: dict[Name, Override] = Field(min_length=1, description="compared in notebooks 02 and 03")
    run_seeds: int = Field(1, ge=1, description="seeds of each comparison run")
    efficiency: Efficiency = Efficiency()
    compare: Comparison = Comparison()
    audit: Audit = Audit()
    real_sky: RealSky = RealSky()
    tune: Tune
    study: Study = Study()
    rates: Rates = Rates()
    final: Final = Final()

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
        check_patches(self.model, self.preprocess.size)
        self._check_joined(self.model)
        lines = self._wrong_runs() + self._wrong_starts() + self._wrong_curves()
        lines += self._wrong_rows() + self._wrong_audit() + self._wrong_studies()
        lines += self._wrong_sky()
        if lines:
            raise wrong(lines)
        return self

    def _wrong_runs(self) -> list[tuple[str, str]]:
        return [
            line
            for name, override in self.runs.items()
            for line in self._wrong_override(f"runs.{name}", override, self.preprocess)
        ]

    def _wrong_override(
        self, key: str, override: Override, cut: Preprocess
    ) -> list[tuple[str, str]]:
        """Return what is wrong with a named run, for images that are cut in some way."""
        try:
            model, _ = self.settings(override.model, override.train)
            check_patches(model, cut.size)
            check_joined(model, self.features, cut, self.lensfit)
        except ValidationError as error:
            schema = Model if error.title == Model.__name__ else Train
            return report(error, schema, f"{key}.{error.title.lower()}")
        except InputError as error:
            return [(key, str(error))]
        return []

    def _wrong_rows(self) -> list[tuple[str, str]]:
        """Return what is wrong with the rows of ``compare``."""
        chosen, lines = self.compare, []
        if not chosen.rows:
            return []
        curves = {curve.population: curve for curve in self.efficiency.curves if curve.runs is None}
        if chosen.population not in curves:
            expected = f"one with a curve: {', '.join(curves) or 'none'}"
            lines.append(("compare.population", f"found {chosen.population}; expected {expected}"))
        elif chosen.n_train + chosen.n_valid > (most := max(curves[chosen.population].sizes)):
            found = chosen.n_train + chosen.n_valid
            lines.append(
                ("compare", f"n_train + n_valid: found {found}; expected up to {most}, the curve's")
            )
        for name, row in chosen.rows.items():
            key = f"compare.rows.{name}"
            if row.against is not None and row.against not in chosen.rows:
                lines.append((f"{key}.against", f"found {row.against!r}; expected another row"))
            if "learning_rate" in row.train:
                lines.append(
                    (f"{key}.train", "learning_rate has no effect: compare.rates are tried")
                )
            try:
                cut = self.processing(row)
            except ValidationError as error:
                lines += report(error, Preprocess, f"{key}.preprocess")
                continue
            lines += self._wrong_override(key, row, cut)
            model = row.model if isinstance(row.model, dict) else {}
            if (
                model.get("features", self.model.features)
                and not row.boosting
                and (model.get("feature_set", self.model.feature_set) == "selected")
            ):
                lines.append((key, "found feature_set 'selected'; expected another"))
        return lines

    def _wrong_audit(self) -> list[tuple[str, str]]:
        """Return what is wrong with the rows of ``audit``."""
        chosen, lines = self.audit, []
        if chosen.population and not chosen.steps:
            lines.append(("audit.steps", "found none; expected at least one"))
        for k, row in enumerate(chosen.ours):
            wrong_row = self._wrong_override(f"audit.ours.{k}", row, self.preprocess)
            lines += wrong_row
            model, _ = (None, None) if wrong_row else self.settings(row.model, row.train)
            if model and model.features and model.feature_set == "selected":
                found = "found feature_set 'selected'; expected another"
                lines.append((f"audit.ours.{k}", found))
        return lines

    def _wrong_sky(self) -> list[tuple[str, str]]:
        """Return what is wrong with the sets of ``real_sky``."""
        lines = []
        curves = {curve.population: curve for curve in self.efficiency.curves if curve.runs is None}
        for name, chosen in self.real_sky.sets.items():
            key = f"real_sky.sets.{name}"
            try:
                settings = self.for_real(name)
            except ValidationError as error:
                schema = Preprocess if error.title == Preprocess.__name__ else Features
                part = "preprocess" if schema is Preprocess else "groups"
                lines += report(error, schema, f"{key}.{part}")
                continue
            wrong_set = settings._wrong_override(key, chosen, settings.preprocess)
            lines += wrong_set
            model, _ = (None, None) if wrong_set else self.settings(chosen.model, chosen.train)
            if model and (model.residual or not model.features or model.feature_set == "selected"):
                lines.append(
                    (key, "expected features, a feature_set other than 'selected', no residual map")
                )
            if "lensfit" in chosen.groups and (
                chosen.cutouts is None or "lensfit" not in self.features.groups
            ):
                expected = "cutouts, and lensfit in features.groups, too"
                lines.append((f"{key}.groups", f"found lensfit; expected {expected}"))
            if chosen.population in curves:
                most = max(curves[chosen.population].sizes)
                if chosen.n_train > most:
                    found = f"found {chosen.n_train}; expected up to {most}, the curve's"
                    lines.append((f"{key}.n_train", found))
        return lines

    def for_real(self, name: str) -> Config:
        """Return the configuration of the models of a set of real images."""
        chosen = self.real_sky.sets[name]
        features = Features(**(self.features.model_dump() | {"groups": chosen.groups}))
        cut = self.processing(chosen)
        return self.model_copy(update={"task": "binary", "features": features, "preprocess": cut})

    def processing(self, row: Row | RealSet) -> Preprocess:
        """Return how the images of a row of the comparison, or of a real set, are processed."""
        return Preprocess(**(self.preprocess.model_dump() | row.preprocess))

    def _wrong_curves(self) -> list[tuple[str, str]]:
        """Return what is wrong with the runs and populations of ``efficiency``."""
        lines, known = [], ", ".join(self.runs)
        names = [curve.name for curve in self.efficiency.curves]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            lines.append(("efficiency.curves", f"found {twice[0]} twice; expected one"))
        for curve in self.efficiency.curves:
            for name in curve.runs or ():
                if name not in self.runs:
                    found = f"found {name!r}; expected some of: {known}"
                    lines.append(("efficiency.curves", f"runs: {found}"))
                elif (model := self.settings(self.runs[name].model)[0]).features or model.residual:
                    found = f"found {name!r}, which needs lens fits; expected images alone"
                    lines.append(("efficiency.curves", f"runs: {found}"))
        for name in self.efficiency.runs:
            if name not in self.runs:
                lines.append(("efficiency.runs", f"found {name!r}; expected some of: {known}"))
            elif (model := self.settings(self.runs[name].model)[0]).features and (
                model.feature_set == "selected"
            ):
                lines.append(
                    ("efficiency.runs", f"{name}: found feature_set 'selected'; expected another")
                )
        for curve in self.efficiency.curves:
            own = [other.population for other in self.efficiency.curves]
            if absent := [file for file in curve.also if file not in own]:
                lines.append(
                    ("efficiency.curves", f"also: found {absent[0]}; expected one with a curve")
                )
        if self.efficiency.curves and "lensfit" not in self.features.groups:
            lines.append(("efficiency.curves", "features.groups needs lensfit"))
        return lines

    def _check_joined(self, model: Model) -> None:
        check_joined(model, self.features, self.preprocess, self.lensfit)

    def _wrong_starts(self) -> list[tuple[str, str]]:
        """Return where the first trials of the search lie outside, or do not fit together."""
        lines = []
        for name, value in self.tune_start.items():
            if expected := outside(value, self.tune.space[name]):
                section = next(key for key, schema in TUNED.items() if name in schema.model_fields)
                message = f"the start, {section}.{name} = {value!r}, lies outside"
                lines.append((f"tune.space.{name}", f"{message}; expected {expected}"))
        named = [("tune.fixed", {})] * bool(self.tune.fixed or self.tune.constraints)
        named += [(f"tune.x0.{k}", point) for k, point in enumerate(self.tune.x0)]
        for key, point in named if not lines else ():
            try:
                self.trial(point)
            except ValueError as error:
                lines.append((key, " ".join(str(error).split())))
        return lines

    def _wrong_studies(self) -> list[tuple[str, str]]:
        """Return what is wrong with the searches and recipes that are compared."""
        lines = []
        for name in self.study.arms:
            try:
                chosen = self.for_arm(name, 0)
            except ValidationError as error:
                lines += report(error, Tune, f"study.arms.{name}.tune")
            else:
                lines += [(f"study.arms.{name}: {k}", text) for k, text in chosen._wrong_starts()]
        for name in self.rates.recipes:
            override = self.recipe(name)
            lines += self._wrong_override(f"rates.recipes.{name}", override, self.preprocess)
        return lines

    def for_arm(self, name: str, seed: int) -> Config:
        """Return the configuration whose search is the k-th of a kind that is compared."""
        arm = self.study.arms[name]
        first = self.seed if self.tune.seed is None else self.tune.seed
        changed = self.tune.model_dump() | self.study.tune | arm.tune | {"seed": first + seed}
        return self.model_copy(update={"tune": Tune(**changed)})

    def recipe(self, name: str) -> Override:
        """Return what a recipe of ``rates`` changes, what all of them change among it."""
        chosen = self.rates.recipes[name]
        return chosen.model_copy(update={"model": self.rates.model | chosen.model})

    @property
    def tune_start(self) -> dict[str, Any]:
        """The point that the search starts from: the configuration itself."""
        values = {key: getattr(self, key).model_dump() for key in TUNED}
        values = {name: value for section in values.values() for name, value in section.items()}
        return {name: values[name] for name in self.tune.space}

    def trial(self, params: dict[str, Any]) -> tuple[Model, Train, Preprocess]:
        """Return the settings of a trial: ``tune.fixed`` and some parameters put in.

        Raises ValueError if they do not go together or break a constraint.
        """
        chosen = by_section(self.tune.fixed | params)
        model, recipe = self.settings(chosen["model"], chosen["train"])
        cut = Preprocess(**(self.preprocess.model_dump() | chosen["preprocess"]))
        check_patches(model, cut.size)
        check_joined(model, self.features, cut, self.lensfit)
        values = model.model_dump() | recipe.model_dump() | cut.model_dump()
        for text in self.tune.constraints:
            if not Constraint(text)(values):
                raise InputError(f"the constraint {text!r} does not hold")
        return model, recipe, cut

    def settings(
        self, model: dict[str, Any] | None = None, train: dict[str, Any] | None = None
    ) -> tuple[Model, Train]:
        """Return the model and training settings with some keys replaced."""
        return (
            Model(**(self.model.model_dump() | (model or {}))),
            Train(**(self.train.model_dump() | (train or {}))),
        )

    @property
    def audit_fits(self) -> bool:
        """Whether a row of ours in the audit needs features, or residual maps."""
        models = [self.settings(row.model)[0] for row in self.audit.ours]
        return any(model.features or model.residual for model in models)

    @property
    def feature_runs(self) -> list[str]:
        """The runs of FEATURE_RUNS that there are; none if nothing can be compared."""
        found = [run for run in FEATURE_RUNS if run in self.runs]
        return found if found[:1] == [FEATURE_RUNS[0]] and len(found) > 1 else []

    @property
    def results(self) -> str:
        return f"results/{self.name}"
