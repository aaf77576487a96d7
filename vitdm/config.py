"""The schema of ``config/*.yaml``, and nothing else.

Every setting of the workflow is declared here once, with its type, bounds and meaning. A file that
does not fit is refused before any work starts, with a message that names the file and the key.
"""

from __future__ import annotations

import os
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SPLITS = ("train", "valid", "opt", "test")


class InputError(ValueError):
    """What the user gave (file, key, value) is wrong; the message says what would be right."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# ---------------------------------------------------------------------------- lens population


class Population(Section):
    """A population of simulated lenses (``config/populations/*.yaml``); see ``docs/data.md``."""

    name: str
    description: str
    references: list[str] = []
    num_pix: int = Field(150, ge=16, description="pixels on a side")
    pixel_scale: float = Field(0.05, gt=0, description="arcsec per pixel")
    psf_fwhm: float = Field(0.087, gt=0, description="FWHM of the Gaussian PSF, arcsec")
    psf_truncation: float = Field(3.0, gt=0, description="PSF kernel cut, in units of its sigma")
    z_lens: float = Field(0.5, gt=0)
    z_source: float = Field(1.0, gt=0)
    H0: float = Field(70.0, gt=0, description="km/s/Mpc")
    Om0: float = Field(0.3, gt=0, lt=1)
    halo_mass: float = Field(1e12, gt=0, description="solar masses; sets the SIE's theta_E")
    e1: float = 0.1
    e2: float = 0.0
    gamma1: float = 0.05
    gamma2: float = 0.0
    source_amp: float = Field(20.0, gt=0)
    source_R_sersic: float = Field(0.25, gt=0, description="arcsec")
    source_n_sersic: float = Field(1.0, gt=0)
    source_e1: float = -0.1
    source_e2: float = 0.1
    source_offset: float = Field(0.35, ge=0, description="source centre uniform in ± this, arcsec")
    background_rms: float = Field(0.01, ge=0, description="rms of the sky per pixel, counts/s")
    log10_exposure_time: tuple[float, float] = (3.0, 3.5)
    n_subhalos: int = Field(25, ge=0)
    n_subhalos_distribution: Literal["fixed", "poisson"] = "fixed"
    subhalo_mass_range: tuple[float, float] = (1e6, 1e10)
    subhalo_mass_slope: float = Field(-0.9, lt=0, description="dN/dm is proportional to m^slope")
    subhalo_radius_range: tuple[float, float] = (0.25, 2.0)
    log10_axion_mass: tuple[float, float] = (-24.0, -22.0)
    vortex_mass: float = Field(3e10, gt=0, description="solar masses")
    vortex_points: int = Field(100, ge=1)
    distances: Literal["luminosity", "angular_diameter"] = Field(
        "luminosity", description="the distances that turn a mass into theta_E of a point mass"
    )
    noise: Literal["double_poisson", "single"] = Field(
        "double_poisson", description="Poisson noise twice and a clip, as coded; or one realisation"
    )
    class_fractions: dict[str, float] = {"no_sub": 0.5, "cdm": 0.25, "axion": 0.25}


# ------------------------------------------------------------------------------ image processing


class Preprocess(Section):
    """From an image of any size to the square array that the network sees."""

    derotate: bool = Field(False, description="turn the major axis of the lensed light along x")
    crop: Literal["centre", "roi"] = Field(
        "centre", description="cut around the image centre, or around the region of interest"
    )
    size: int = Field(96, ge=8, description="side of the cut, in pixels of the native resolution")
    stretch: Literal["arcsinh", "linear"] = Field("arcsinh", description="of (x - sky) / sigma")
    softening: float = Field(2.0, gt=0, description="arcsinh(x / (softening sigma))")
    threshold: float = Field(5.0, gt=0, description="region of interest: above this many sigma")


class Features(Section):
    """The levels at which bright points are counted, as fractions of the peak above the sky."""

    levels: list[Annotated[float, Field(gt=0, lt=1)]] = [0.2, 0.4, 0.6, 0.8]


# ----------------------------------------------------------------------------- model and training


class Model(Section):
    """A Vision Transformer for small data sets; each idea is a switch (``vitdm.model``)."""

    patch_size: int = Field(12, ge=1, description="side of a patch, pixels; divides the image")
    embed_dim: int = Field(96, ge=1, description="width of a token; a multiple of num_heads")
    depth: int = Field(4, ge=1, description="transformer blocks")
    num_heads: int = Field(4, ge=1, description="attention heads")
    mlp_ratio: float = Field(2.0, gt=0, description="hidden width of a block's MLP / embed_dim")
    dropout: float = Field(0.0, ge=0, lt=1)
    spt: bool = Field(True, description="Shifted Patch Tokenization")
    lsa: bool = Field(True, description="Locality Self-Attention")
    pool: Literal["cls", "mean"] = Field("cls", description="what the head reads")
    features: bool = Field(False, description="join the physics features to the image")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Model:
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim = {self.embed_dim} is not a multiple of num_heads = {self.num_heads}"
            )
        return self


class Train(Section):
    """One training run (``vitdm.train``)."""

    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0, description="on matrices only")
    batch_size: int = Field(64, ge=1)
    epochs: int = Field(12, ge=1)
    warmup: float = Field(0.2, ge=0, lt=1, description="fraction of the steps with rising rate")
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    clip: float = Field(1.0, gt=0, description="norm at which the gradient is clipped")
    flips: bool = Field(True, description="random mirror images while training")
    patience: int = Field(6, ge=1, description="epochs without a better validation ROC-AUC")


class Override(Section):
    """What one named run changes of the ``model`` and ``train`` sections."""

    label: str
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}


# ------------------------------------------------------------------------------------------ tuning


class Real(Section):
    type: Literal["real"]
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Real:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"needs low < high (and low > 0 if log), found {self.low}, {self.high}"
            )
        return self


class Integer(Section):
    type: Literal["integer"]
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> Integer:
        if not self.low < self.high:
            raise ValueError(f"needs low < high, found {self.low}, {self.high}")
        return self


class Categorical(Section):
    type: Literal["categorical"]
    choices: list[Any] = Field(min_length=2)


Dimension = Annotated[Real | Integer | Categorical, Field(discriminator="type")]


class Tune(Section):
    """Bayesian optimisation (``vitdm.tune``): the names of ``space`` are keys of model or train."""

    n_calls: int = Field(16, ge=2)
    n_initial_points: int = Field(6, ge=1)
    n_train: int | None = Field(None, ge=1, description="training images of a trial; null: all")
    epochs: int = Field(8, ge=1)
    space: dict[str, Dimension] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_known(self) -> Tune:
        known = set(Model.model_fields) | set(Train.model_fields)
        for name in self.space:
            if name not in known:
                raise ValueError(f"space: {name!r} is no key of model or train: {sorted(known)}")
        if self.n_initial_points >= self.n_calls:  # the start is a call of its own
            raise ValueError(
                f"n_initial_points = {self.n_initial_points} is not below n_calls = {self.n_calls}"
            )
        return self


class Final(Section):
    """The final test: the best settings, trained on all development data."""

    seeds: int = Field(4, ge=1, description="models that differ in their random seed only")
    epochs: int = Field(16, ge=1)
    bootstrap: int = Field(2000, ge=10, description="resamplings of the test images")


# ------------------------------------------------------------------------------------------- runs


class RunSettings(Section):
    """What a finished run must know to be used again: ``config.yaml`` in its folder."""

    classes: list[str] = Field(min_length=2)
    image_size: int
    feature_names: list[str]
    model: Model
    train: Train
    preprocess: Preprocess
    features: Features
    task: Literal["multiclass", "binary"]
    train_splits: list[str]
    n_train: int
    seed: int


# ------------------------------------------------------------------------------------------- all


class Config(Section):
    """A whole workflow."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="results go to results/<name>/")
    publish: bool = Field(False, description="figures, tables and paper into figures/ and paper/")
    seed: int = Field(0, ge=0)
    data: str = Field("simulate", description="'simulate', or a folder or archive of images")
    population: str = Field("config/populations/model_i.yaml")
    n_images: dict[Literal["train", "valid", "opt", "test"], Annotated[int, Field(ge=2)]] = Field(
        description="images of each split; for data from files, their proportions"
    )
    shards: int = Field(8, ge=1)
    task: Literal["multiclass", "binary"] = "multiclass"
    preprocess: Preprocess = Preprocess()
    features: Features = Features()
    model: Model = Model()
    train: Train = Train()
    runs: dict[str, Override] = Field(min_length=1, description="compared in notebook 03")
    run_seeds: int = Field(1, ge=1, description="seeds of each comparison run")
    tune: Tune
    final: Final = Final()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if set(self.n_images) != set(SPLITS):
            raise ValueError(
                f"n_images: needs {', '.join(SPLITS)}, found {', '.join(self.n_images)}"
            )
        check_patches(self.model, self.preprocess.size)
        for name, override in self.runs.items():
            try:
                model, _ = self.settings(override.model, override.train)
                check_patches(model, self.preprocess.size)
            except ValidationError as error:
                schema = Model if error.title == Model.__name__ else Train
                where = f"runs.{name}.{error.title.lower()}"
                raise ValueError(str(_explain(error, schema, where))) from error
            except ValueError as error:
                raise ValueError(f"runs.{name}: {error}") from error
        return self

    def settings(
        self, model: dict[str, Any] | None = None, train: dict[str, Any] | None = None
    ) -> tuple[Model, Train]:
        """Return the model and training settings with some keys replaced."""
        return (
            Model(**(self.model.model_dump() | (model or {}))),
            Train(**(self.train.model_dump() | (train or {}))),
        )

    @property
    def results(self) -> str:
        return f"results/{self.name}"


def check_patches(model: Model, size: int) -> None:
    """Raise InputError, a ValueError, unless the patches tile the image."""
    if size % model.patch_size:
        raise InputError(
            f"patch_size = {model.patch_size} does not divide the image side "
            f"preprocess.size = {size}"
        )


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def _explain(error: ValidationError, schema: type[BaseModel], source: str) -> InputError:
    """Turn pydantic's report into lines that name the file, the key and what is expected."""
    lines = []
    for entry in error.errors():
        location = entry["loc"]
        key = ".".join(str(part) for part in location) or "(file)"
        if entry["type"] == "extra_forbidden":
            allowed = _keys_at(schema, location[:-1])
            expected = f"one of: {', '.join(allowed)}" if allowed else "no such key"
            lines.append(f"{source}: {key}: unknown key; expected {expected}")
        elif entry["type"] == "missing":
            lines.append(f"{source}: {key}: missing")
        else:
            found = entry.get("input")
            message = entry["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(found, dict) else f", found {found!r}"
            lines.append(f"{source}: {key}: {message}{shown}")
    return InputError("\n".join(lines))


def _keys_at(schema: Any, location: tuple[Any, ...]) -> list[str]:
    for part in location:
        field = getattr(schema, "model_fields", {}).get(part)
        annotation = field.annotation if field else None
        if isinstance(annotation, types.GenericAlias) or typing.get_origin(annotation):
            annotation = next(
                (a for a in typing.get_args(annotation) if isinstance(a, type)), annotation
            )
        schema = annotation
    return sorted(getattr(schema, "model_fields", {}))


def load(path: str | Path, overrides: dict[str, Any] | None = None) -> Config:
    """Read and check a workflow configuration; InputError names each wrong key."""
    return build(_read_yaml(path) | (overrides or {}), str(path))


def build(content: dict[str, Any], source: str = "configuration") -> Config:
    """Check a configuration given as a dictionary; data from files get a name of their own."""
    content = dict(content)
    data = content.get("data", "simulate")
    if isinstance(data, str) and data != "simulate":
        stem = re.sub(r"[^A-Za-z0-9_-]", "_", Path(data.rstrip("/")).name.split(".")[0] or "data")
        name = str(content.get("name", "data")).removesuffix(f"_{stem}")
        content |= {"name": f"{name}_{stem}", "publish": False}
    try:
        return Config(**content)
    except ValidationError as error:
        raise _explain(error, Config, source) from error


def check_data(settings: Config) -> None:
    """Raise InputError at once if the images, or the population to simulate, are not there."""
    if settings.data == "simulate":
        load_population(settings.population)
    elif not Path(settings.data).exists():
        raise InputError(
            f"data: {settings.data}: no such file or folder; expected 'simulate', or a folder or "
            "archive of class folders"
        )


def load_population(path: str | Path) -> Population:
    """Read and check a population of lenses; InputError names each wrong key."""
    try:
        return Population(**_read_yaml(path))
    except ValidationError as error:
        raise _explain(error, Population, str(path)) from error


def load_run_settings(path: str | Path) -> RunSettings:
    """Read the ``config.yaml`` of a run; InputError names each wrong key."""
    try:
        return RunSettings(**_read_yaml(path))
    except ValidationError as error:
        raise _explain(error, RunSettings, str(path)) from error


def save(config: BaseModel, path: str | Path) -> None:
    """Write a configuration as YAML, by rename, and only if it differs from what is there."""
    path = Path(path)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
