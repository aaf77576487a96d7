"""The schema of ``config/*.yaml``, and nothing else.

Every setting of the workflow is declared here once, with its type, bounds and meaning; those of
simulated lenses are in ``vitdm.population``. A file that does not fit is refused before any work
starts, with a message that names the file and the key (``vitdm.messages``).
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from vitdm.messages import InputError, Section, checked, read_yaml, report, wrong
from vitdm.population import Population

SPLITS = ("train", "valid", "opt", "test")
#: runs by which the features are judged: images alone, then with features beside them
FEATURE_RUNS = ("spt_lsa", "spt_lsa_proposal", "spt_lsa_features")


# ------------------------------------------------------------------------------------ populations


class Populations(Section):
    """Lens populations shown side by side: gallery, shortcut, ceiling, single features."""

    files: list[str] = Field([], description="config/populations/*.yaml")
    n_images: int = Field(600, ge=12, description="images simulated of each")
    n_ceiling: int = Field(300, ge=12, description="images of each for the known-model ceiling")
    n_invariance: int = Field(
        200, ge=2, description="images of each, turned, mirrored and moved, to test the processing"
    )

    @field_validator("files")
    @classmethod
    def _once(cls, files: list[str]) -> list[str]:
        names = [Path(file).stem for file in files]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} occurs twice; expected each population once")
        return files


class Ingest(Section):
    """What becomes of images in files; see ``vitdm ingest --help``."""

    resplit: bool = Field(False, description="draw all splits anew, whatever was published")
    skip_bad: bool = Field(False, description="leave out files that cannot be used, list them")
    drop_duplicates: bool = Field(False, description="keep one of several images that are equal")
    pixel_scale: float | None = Field(None, gt=0, description="arcsec; default: FITS headers")


# ------------------------------------------------------------------------------ image processing


class Preprocess(Section):
    """From an image of any size to the square array that the network sees."""

    derotate: bool = Field(
        False, description="turn and mirror the lensed light: its longer tails to +x and +y"
    )
    crop: Literal["centre", "roi"] = Field(
        "centre", description="cut around the image centre, or around the region of interest"
    )
    resize: bool = Field(
        False, description="scale the image or region to fill the cut; else its native resolution"
    )
    size: int = Field(96, ge=8, description="side of the cut, in pixels of what the network sees")
    stretch: Literal["arcsinh", "linear"] = Field("arcsinh", description="of (x - sky) / sigma")
    softening: float = Field(2.0, gt=0, description="arcsinh(x / (softening sigma))")
    threshold: float = Field(5.0, gt=0, description="region of interest: above this many sigma")


class Features(Section):
    """Which features are measured (``vitdm.definitions``)."""

    groups: list[Literal["proposal", "morphology", "lensfit"]] = Field(
        ["proposal", "morphology"],
        description="lensfit: of a fitted smooth lens; for images in files if pixel_scale is known",
    )
    levels: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.2, 0.4, 0.6, 0.8], description="of bright points, fractions of the peak above the sky"
    )

    @field_validator("groups")
    @classmethod
    def _measured(cls, groups: list[str]) -> list[str]:
        if "morphology" not in groups or len(set(groups)) < len(groups):
            raise ValueError(f"found {groups}; expected morphology among them, each group once")
        return groups


class Selection(Section):
    """How features are judged, and which are kept for the model (``vitdm.selection``)."""

    fdr: float = Field(0.05, gt=0, lt=1, description="false discoveries among those significant")
    correlation: float = Field(
        0.9, gt=0, le=1, description="features of a cluster: |rank correlation| at least this"
    )
    importance_sd: float = Field(
        2.0, ge=0, description="permutation importance that counts, in its s.d."
    )
    n_bootstrap: int = Field(500, ge=10, description="resamplings of the images")
    n_subsamples: int = Field(50, ge=2, description="half samples, for the mutual information")
    n_repeats: int = Field(20, ge=2, description="shufflings for the permutation importance")


class LensFit(Section):
    """The smooth lens that is fitted to each image (``vitdm.lensfit``)."""

    size: int = Field(96, ge=24, multiple_of=2, description="side of the square fitted, px")
    # Of simulated lenses the population tells PSF, photon noise and whether lenses shine.
    psf_fwhm: float = Field(0.087, ge=0, description="FWHM of the Gaussian PSF, arcsec")
    psf_truncation: float = Field(3.0, gt=0, description="PSF kernel cut, in units of its sigma")
    gain: float | None = Field(
        None, ge=0, description="photon noise: variance per brightness; null: from the images"
    )
    lens_light: bool = Field(False, description="fit the light of the lens galaxy, and its centre")
    light_profiles: int = Field(1, ge=1, le=2, description="Sérsic profiles of that light")
    noise_lag: int = Field(
        1, ge=1, le=8, description="px between pixels that share no noise; 2 for drizzled images"
    )
    batch: int = Field(64, ge=1, description="images fitted side by side")
    seconds: float = Field(120.0, gt=0, description="time limit of a batch")

    @property
    def n_lights(self) -> int:
        """The number of profiles of the light of the lens galaxy."""
        return self.lens_light * self.light_profiles


# ----------------------------------------------------------------------------- model and training


class Model(Section):
    """A Vision Transformer for small data sets; each idea is a switch (``vitdm.model``)."""

    architecture: Literal["vit", "vit_pytorch", "resnet"] = Field(
        "vit", description="the others are there for comparison (vitdm.peers)"
    )
    patch_size: int = Field(12, ge=1, description="side of a patch, pixels; divides the image")
    stem: int = Field(
        0, ge=0, description="convolutions of stride 2 before the patches; 2^stem divides them"
    )
    embed_dim: int = Field(96, ge=1, description="width of a token; a multiple of num_heads")
    depth: int = Field(4, ge=1, description="transformer blocks")
    num_heads: int = Field(4, ge=1, description="attention heads")
    mlp_ratio: float = Field(2.0, gt=0, description="hidden width of a block's MLP / embed_dim")
    dropout: float = Field(0.0, ge=0, lt=1)
    spt: bool = Field(True, description="Shifted Patch Tokenization")
    lsa: bool = Field(True, description="Locality Self-Attention")
    norm: Literal["pre", "post"] = Field(
        "pre", description="LayerNorm before each part of a block, or after its shortcut"
    )
    pool: Literal["cls", "mean"] = Field("cls", description="what the head reads")
    features: bool = Field(False, description="join the physics features to the image")
    feature_dropout: float = Field(0.3, ge=0, lt=1, description="of the features' hidden layer")
    join: Literal["head", "token"] = Field(
        "head", description="where features join: beside the pooled token, or as a further token"
    )
    residual: bool = Field(False, description="what a fitted smooth lens leaves, two more channels")
    feature_set: Literal["selected", "proposal", "morphology", "lensfit", "all"] = Field(
        "selected", description="which: those kept by vitdm select, one group, or all"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Model:
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim = {self.embed_dim} is not a multiple of num_heads = {self.num_heads}"
            )
        if self.patch_size % 2**self.stem:
            raise ValueError(
                f"patch_size = {self.patch_size} is not a multiple of 2^stem = {2**self.stem}"
            )
        if self.architecture == "resnet" and (self.features or not self.stem):
            found = f"found features {'on' if self.features else 'off'}, stem {self.stem}"
            raise ValueError(
                f"architecture = 'resnet': {found}; expected features off and a stem of 1 or more"
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
    softmax_twice: bool = Field(
        False,
        description="a fault, to see what it does: the loss gets probabilities, not logits",
    )
    flips: bool = Field(True, description="random mirror images while training")
    patience: int = Field(6, ge=1, description="epochs without a better validation ROC-AUC")
    accelerator: Literal["cpu", "auto"] = Field(
        "cpu", description="cpu: runs side by side on the processor; auto: a GPU if there is one"
    )


class Override(Section):
    """What one named run changes of the ``model`` and ``train`` sections."""

    label: str
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}


# ------------------------------------------------------------------------------------------ tuning


class Real(Section):
    model_config = ConfigDict(allow_inf_nan=False)

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
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Integer:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"needs low < high (and low > 0 if log), found {self.low}, {self.high}"
            )
        return self


class Categorical(Section):
    type: Literal["categorical"]
    choices: list[Any] = Field(min_length=2)


Dimension = Annotated[Real | Integer | Categorical, Field(discriminator="type")]


#: the sections whose keys a search may vary or hold at a value
TUNED = {"model": Model, "train": Train, "preprocess": Preprocess}
#: keys of these that no search may vary, and why
NOT_TUNED = {
    "epochs": "tune.epochs and final.epochs take its place",
    "patience": "the final training has a fixed number of epochs",
    "accelerator": "it does not change what is learned",
    "threshold": "the features are measured with it, once for all trials",
}


def tuned_fields() -> dict[str, Any]:
    """Return the fields that a search may vary by their names, which no two sections share."""
    fields = {name: f for schema in TUNED.values() for name, f in schema.model_fields.items()}
    return {name: field for name, field in fields.items() if name not in NOT_TUNED}


def by_section(params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return parameters of a search by the section that each belongs to."""
    return {
        section: {name: value for name, value in params.items() if name in schema.model_fields}
        for section, schema in TUNED.items()
    }


class Tune(Section):
    """Bayesian optimisation (``vitdm.tuning``).

    Names in ``space``, ``fixed``, ``x0`` and ``constraints`` are keys of model, train, preprocess.
    """

    space: dict[str, Dimension] = Field(min_length=1)
    fixed: dict[str, Any] = Field({}, description="held at a value, in the final training too")
    constraints: list[str] = Field(
        [], description="what must hold in each trial, such as 'embed_dim * depth <= 256'"
    )
    x0: list[dict[str, Any]] = Field(
        [], description="tried first, after the configuration itself; what is left out is as there"
    )
    n_calls: int = Field(20, ge=2, description="trials, those of the start included")
    minutes: float | None = Field(None, gt=0, description="no trial starts later; null: no limit")
    n_initial_points: int = Field(6, ge=0, description="drawn by the generator, after x0")
    initial_point_generator: Literal["random", "lhs", "sobol", "halton", "hammersly", "grid"] = (
        "lhs"
    )
    acquisition: Literal["gp_hedge", "EI", "PI", "LCB"] = "gp_hedge"
    start_seeds: int = Field(
        5, ge=1, description="trainings of the start, whose scatter is the noise of a trial"
    )
    noise: float | None = Field(
        None, gt=0, description="s.d. of log10(1 - metric); null: measured if start_seeds > 1"
    )
    metric: Literal["roc_auc", "macro_roc_auc", "average_precision", "balanced_accuracy"] = (
        "roc_auc"
    )
    seed: int | None = Field(None, ge=0, description="null: that of the configuration")
    n_train: int | None = Field(None, ge=1, description="training images of a trial; null: all")
    epochs: int = Field(8, ge=1)
    hopeless: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="a trial ends early if its validation curve is below this quantile of those of "
        "the points before it, by more than the noise; 0: none does",
    )
    patience: int = Field(2, ge=1, description="epochs before a trial may end early")
    candidates: int = Field(3, ge=1, description="best trials that are trained anew, and the start")
    candidate_seeds: int = Field(3, ge=2, description="fresh seeds of each of them")
    parallel: int = Field(1, ge=1, description="trials at once")
    max_failures: int = Field(5, ge=1, description="as many failed trials in a row end the search")

    @field_validator("space")
    @classmethod
    def _values_allowed(cls, space: dict[str, Dimension]) -> dict[str, Dimension]:
        """Refuse what the key would refuse; the choices get the type of the key."""
        fields = tuned_fields()
        fitting, lines = {}, []
        for name, entry in space.items():
            if name not in fields:
                lines.append((name, _not_tuned(name)))
                continue
            kind = fields[name].annotation
            ranges = {int: ["integer"], float: ["real", "integer"]}.get(kind, [])
            if entry.type not in [*ranges, "categorical"]:
                expected = " or ".join([*ranges, "categorical"])
                lines.append((f"{name}.type", f"found {entry.type!r}; expected {expected}"))
                continue
            keys = ("choices",) if isinstance(entry, Categorical) else ("low", "high")
            value = Annotated[kind, fields[name]]
            check = TypeAdapter(dict[str, list[value] if "choices" in keys else value])
            try:
                update = check.validate_python({key: getattr(entry, key) for key in keys})
            except ValidationError as error:
                lines += report(error, None, name)
                continue
            choices = update.get("choices", [])
            if len(set(choices)) < len(choices):
                lines.append((f"{name}.choices", f"found {choices}; expected each value once"))
            fitting[name] = entry.model_copy(update=update) if choices else entry
        if lines:
            raise wrong(lines)
        return fitting

    @field_validator("fixed")
    @classmethod
    def _fixed_allowed(cls, fixed: dict[str, Any]) -> dict[str, Any]:
        """Refuse a value that the key would refuse."""
        fields, lines, fitting = tuned_fields(), [], {}
        for name, value in fixed.items():
            if name not in fields:
                lines.append((name, _not_tuned(name)))
                continue
            try:
                check = TypeAdapter(Annotated[fields[name].annotation, fields[name]])
                fitting[name] = check.validate_python(value)
            except ValidationError as error:
                lines += report(error, None, name)
        if lines:
            raise wrong(lines)
        return fitting

    @field_validator("constraints")
    @classmethod
    def _readable(cls, constraints: list[str]) -> list[str]:
        for text in constraints:
            Constraint(text)
        return constraints

    @model_validator(mode="after")
    def _consistent(self) -> Tune:
        lines = [
            (f"fixed.{name}", "is in space, too; expected one of both")
            for name in self.fixed
            if name in self.space
        ]
        for k, point in enumerate(self.x0):
            for name, value in point.items():
                if name not in self.space:
                    known = ", ".join(self.space)
                    lines.append((f"x0.{k}.{name}", f"not in space; expected some of: {known}"))
                elif expected := _outside(value, self.space[name]):
                    lines.append((f"x0.{k}.{name}", f"found {value!r}; expected {expected}"))
        known = tuned_fields()
        for k, text in enumerate(self.constraints):
            if absent := sorted(Constraint(text).names - known.keys()):
                lines.append((f"constraints.{k}", f"{absent[0]}: {_not_tuned(absent[0])}"))
        if lines:
            raise wrong(lines)
        if self.n_calls <= (first := self.start_seeds + len(self.x0) + self.n_initial_points):
            raise ValueError(
                f"n_calls = {self.n_calls}: expected more than start_seeds, x0 and "
                f"n_initial_points together, {first}: the process chooses only what is left"
            )
        return self


def _not_tuned(name: str) -> str:
    found = f"has no effect: {NOT_TUNED[name]}" if name in NOT_TUNED else "unknown key"
    return f"{found}; expected one of: {', '.join(sorted(tuned_fields()))}"


def _outside(value: Any, entry: Dimension) -> str | None:
    """Return what was expected of a value that lies outside a dimension, None if it does not."""
    if isinstance(entry, Categorical):
        return None if value in entry.choices else f"one of {entry.choices}"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and entry.low <= value <= entry.high:
        return None
    return f"a value from {entry.low} to {entry.high}"


class Constraint:
    """A comparison of parameters, such as ``embed_dim % num_heads == 0``, called with their values.

    Numbers, names, arithmetic, comparisons, and, or, not; ValueError for anything else.
    """

    ALLOWED = (
        *(ast.Expression, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Name, ast.Constant),
        *(ast.boolop, ast.unaryop, ast.operator, ast.cmpop, ast.expr_context, ast.Tuple, ast.List),
    )

    def __init__(self, text: str):
        try:
            tree = ast.parse(text, mode="eval")
        except SyntaxError as error:
            raise ValueError(f"{text!r}: is no expression ({error.msg})") from error
        nodes = list(ast.walk(tree))
        if strange := [node for node in nodes if not isinstance(node, self.ALLOWED)]:
            found = type(strange[0]).__name__
            raise ValueError(f"{text!r}: found {found}; expected numbers, names, comparisons")
        self.text = text
        self.names = {node.id for node in nodes if isinstance(node, ast.Name)}
        self._code = compile(tree, "<constraint>", "eval")

    def __call__(self, params: dict[str, Any]) -> bool:
        return bool(eval(self._code, {"__builtins__": {}}, params))


Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class Arm(Section):
    """A kind of search that is compared with others."""

    label: str
    tune: dict[str, Any] = Field({}, description="what it changes of ``study.tune``")
    random: bool = Field(False, description="random points instead of the Gaussian process's")


class Study(Section):
    """Kinds of search on equal terms: is the Gaussian process worth it? (``vitdm.tuning``)"""

    tune: dict[str, Any] = Field({}, description="what all of them change of ``tune``")
    seeds: int = Field(5, ge=1, description="searches of each kind")
    arms: dict[Name, Arm] = {}


class Rates(Section):
    """Learning rate against recipe: where training stops to work, and what moves that limit."""

    values: list[Annotated[float, Field(gt=0)]] = Field([1e-4, 1e-3, 1e-2], min_length=1)
    seeds: int = Field(2, ge=1, description="trainings at each rate")
    n_train: int | None = Field(None, ge=1, description="training images; null: all")
    epochs: int = Field(6, ge=1)
    model: dict[str, Any] = Field({}, description="what all recipes change of ``model``")
    recipes: dict[Name, Override] = {}


class Curve(Section):
    """The curve of one population."""

    population: str
    sizes: list[Annotated[int, Field(ge=3)]] = Field(
        min_length=1, description="numbers of training images"
    )
    also: list[str] = Field([], description="populations on which its models are scored, too")
    runs: list[str] | None = Field(
        None, description="networks on images alone: nothing is fitted; null: efficiency.runs"
    )
    seeds: int | None = Field(None, ge=1, description="null: efficiency.seeds")

    @property
    def name(self) -> str:
        """The name of its folder."""
        return Path(self.population).stem + ("_images" if self.runs is not None else "")


class Efficiency(Section):
    """ROC-AUC against the number of training images (``vitdm.efficiency``)."""

    curves: list[Curve] = Field([], description="none: no images are simulated for it")
    runs: list[str] = Field([], description="networks: names of runs")
    n_scored: int = Field(3000, ge=3, description="images that score")
    seeds: int = Field(3, ge=1, description="trainings of each, on other images each")
    min_steps: int = Field(300, ge=1, description="of the optimiser, however few the images")


class Row(Override):
    """A model of the comparison: what it changes of ``model``, ``train`` and ``preprocess``."""

    preprocess: dict[str, Any] = {}
    boosting: bool = Field(False, description="no network: gradient boosting on all features")
    against: str | None = Field(None, description="the row that it is compared with, pair by pair")


class Comparison(Section):
    """Models on equal terms: images, tuning, time of the processor (``vitdm.compare``)."""

    population: str | None = Field(None, description="one with a curve in efficiency; null: none")
    n_train: int = Field(8000, ge=3)
    n_valid: int = Field(1000, ge=3, description="images that choose learning rate and epoch")
    rates: list[Annotated[float, Field(gt=0)]] = Field([1e-3, 3e-3, 1e-2], min_length=1)
    boosting_rates: list[Annotated[float, Field(gt=0)]] = Field([0.02, 0.05, 0.1], min_length=1)
    trial: float = Field(0.5, gt=0, le=1, description="share of the epochs when rates are tried")
    seeds: int = Field(3, ge=1)
    rows: dict[Name, Row] = {}


class Faults(Section):
    """What went wrong in the precursor (``vitdm.precursor``, ``vitdm.audit``); on: as it was."""

    hard_labels: bool = Field(True, description="'AUC' of decisions: the balanced accuracy")
    rewrapped: bool = Field(True, description="64 x 88 px re-wrapped to 88 x 64, not transposed")
    upright_cut: bool = Field(True, description="the crop is cut upright, turned and clipped")
    first_contour: bool = Field(True, description="of several contours the first, not the largest")
    low_level_twice: bool = Field(True, description="objects at the very low level: of the low one")
    holes_counted: bool = Field(True, description="holes count as objects: a ring is two")
    placeholders: bool = Field(
        True, description="-1 for no distance, (0, 0) for the centre of a contour without area"
    )
    softmax_in_loss: bool = Field(True, description="probabilities where logits belong")
    validation_on_training: bool = Field(
        True, description="validation on the training images, 'AUC' averaged over batches"
    )
    never_stops: bool = Field(True, description="early stopping that cannot happen")
    unshuffled: bool = Field(True, description="the same batches in the same order, each epoch")
    norm_after_projection: bool = Field(True, description="LayerNorm of tokens, not of patches")
    post_norm: bool = Field(
        True, description="LayerNorm after the shortcut of each part of a block"
    )
    one_temperature: bool = Field(
        True, description="one temperature for all heads, which divides what queries are made of"
    )
    flattened: bool = Field(True, description="the head reads all tokens, not the class token")

    def mended(self, names: Iterable[str]) -> Faults:
        """Return the same without some of them."""
        return self.model_copy(update=dict.fromkeys(names, False))


class Audit(Section):
    """The precursor's recipe, its faults mended one by one; then ours (``vitdm.audit``)."""

    population: str | None = Field(None, description="of a sample of its own; null: no audit")
    n_train: int = Field(4500, ge=3)
    n_valid: int = Field(500, ge=3, description="that may stop a training, or choose its epoch")
    n_scored: int = Field(3000, ge=3)
    epochs: int = Field(20, ge=1, description="of the precursor's recipe")
    learning_rate: float = Field(5e-5, gt=0, description="of the precursor's recipe")
    seeds: int = Field(2, ge=1)
    steps: dict[str, list[str]] = Field(
        {},
        description="label: faults (config.Faults) mended together; alone, and after those above",
    )
    ours: list[Override] = Field([], description="rows of our own recipe on the same images")

    @field_validator("steps")
    @classmethod
    def _known(cls, steps: dict[str, list[str]]) -> dict[str, list[str]]:
        known, named = (
            list(Faults.model_fields),
            [name for names in steps.values() for name in names],
        )
        for name in named:
            if name not in known:
                raise ValueError(f"found {name!r}; expected some of {', '.join(known)}")
            if named.count(name) > 1:
                raise ValueError(f"found {name!r} twice; expected each fault once")
        return steps


class RealSet(Override):
    """Real images, and what a model for them is trained on and with."""

    images: str = Field(description="folder; of images without it nothing is done")
    cutouts: str | None = Field(
        None, description="what is known of lenses without labels (YAML); null: class folders"
    )
    population: str = Field(description="simulated lenses to train on")
    n_train: int = Field(ge=3)
    n_scored: int = Field(ge=12, description="others, held out")
    groups: list[str] = Field(description="of features; lensfit for cutouts only")
    preprocess: dict[str, Any] = {}


class RealSky(Section):
    """Models of simulated lenses on real ones, and how unlike these are (``vitdm.real_sky``)."""

    seeds: int = Field(5, ge=1, description="trainings of each model, on other images each")
    permutations: int = Field(9999, ge=19, description="of the two-sample test")
    sets: dict[Name, RealSet] = {}

    @property
    def present(self) -> dict[str, RealSet]:
        """The sets whose images are there."""
        return {name: chosen for name, chosen in self.sets.items() if Path(chosen.images).is_dir()}


class Final(Section):
    """The final test: the best settings, trained on ``train`` and ``opt``, ``valid`` held out."""

    seeds: int = Field(5, ge=1, description="models that differ in their random seed only")
    epochs: int = Field(16, ge=1)
    bootstrap: int = Field(2000, ge=10, description="resamplings of the test images")


# ------------------------------------------------------------------------------------------- runs


class RunSettings(Section):
    """What a finished run must know to be used again: ``config.yaml`` in its folder."""

    classes: list[str] = Field(min_length=2)
    image_size: int | list[int] = Field(description="side, or height and width, pixels")
    feature_names: list[str]
    model: Model
    train: Train
    preprocess: Preprocess
    features: Features
    lensfit: LensFit = LensFit()
    pixel_scale: float | None = None
    task: Literal["multiclass", "binary"]
    train_splits: list[str]
    n_train: int
    seed: int

    @field_validator("image_size", mode="plain")
    @classmethod
    def _side_or_sides(cls, size: Any) -> int | list[int]:
        sides = size if isinstance(size, (list, tuple)) else (size, size)
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise ValueError("expected the side, or height and width, in pixels")
        return list(sides) if sides[0] != sides[1] else sides[0]


# ------------------------------------------------------------------------------------ real lenses


class Cutout(Section):
    """What is known of a real image of a lens."""

    name: str
    theta_E: float = Field(gt=0, description="published Einstein radius, arcsec")
    mask: list[tuple[float, float, Annotated[float, Field(gt=0)]]] = Field(
        [], description="circles that are not fitted: x, y, radius (px)"
    )


class Cutouts(Section):
    """Real images that a smooth lens is fitted to, by file name (``config/slacs.yaml``)."""

    pixel_scale: float = Field(gt=0, description="arcsec per pixel")
    lensfit: LensFit
    cutouts: dict[str, Cutout]


# ------------------------------------------------------------------------------------------- all


class Config(Section):
    """A whole workflow."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="results go to results/<name>/"
    )
    publish: bool = Field(False, description="figures, tables and paper into figures/ and paper/")
    seed: int = Field(0, ge=0)
    data: str = Field("simulate", description="'simulate', or a folder or archive of images")
    population: str = Field("config/populations/marginal.yaml")
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
            if expected := _outside(value, self.tune.space[name]):
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


def check_joined(model: Model, features: Features, cut: Preprocess, lensfit: LensFit) -> None:
    """Raise InputError unless what a model wants of features and residual maps is there."""
    groups = features.groups
    if model.features and model.feature_set not in ("selected", "all", *groups):
        raise InputError(
            f"model.feature_set = {model.feature_set!r} is not among features.groups = {groups}"
        )
    if not model.residual:
        return
    if "lensfit" not in groups:
        raise InputError("model.residual is on: features.groups needs lensfit")
    rim = lensfit.size - cut.size
    if cut.derotate or cut.resize or cut.crop != "centre" or rim < 0 or rim % 2:
        raise InputError(
            "model.residual is on: expected preprocess.derotate, resize off, crop centre, an "
            f"even size up to lensfit.size = {lensfit.size}, for image and map must match"
        )


def check_patches(model: Model, size: int | tuple[int, int]) -> None:
    """Raise InputError, a ValueError, unless the patches tile an image of this side, or sides."""
    sides, name = ((size,), "side preprocess.size") if isinstance(size, int) else (size, "sides")
    if any(side % model.patch_size for side in sides):
        found = " x ".join(map(str, sides))
        raise InputError(
            f"patch_size = {model.patch_size} does not divide the image {name} = {found}"
        )


def load(path: str | Path) -> Config:
    """Read and check a workflow configuration; InputError names each wrong key."""
    return build(read_yaml(path), str(path))


def build(content: dict[str, Any], source: str = "configuration") -> Config:
    """Check a configuration given as a dictionary; data from files get a name of their own."""
    content = dict(content)
    data = content.get("data", "simulate")
    if isinstance(data, str) and data != "simulate":
        place = Path(os.path.expanduser(data).rstrip("/"))
        stem = re.sub(r"[^A-Za-z0-9_-]", "_", place.name.split(".")[0] or "data")
        name = str(content.get("name", "data")).removesuffix(f"_{stem}")
        content |= {"name": f"{name}_{stem}", "publish": False}
        # they are of simulated lenses
        content |= {"efficiency": {}, "compare": {}, "audit": {}, "real_sky": {}}
        if isinstance(ingest := content.get("ingest", {}), dict) and not ingest.get("pixel_scale"):
            content = _without_fits(content)
    return checked(Config, content, source)


def _without_fits(content: dict[str, Any]) -> dict[str, Any]:
    """Leave out what needs lens fits: without the scale of the pixels there are none."""
    features, runs = content.get("features"), content.get("runs")
    if isinstance(features, dict) and isinstance(features.get("groups"), list):
        groups = [group for group in features["groups"] if group != "lensfit"]
        content = content | {"features": features | {"groups": groups}}
    if isinstance(model := content.get("model"), dict):
        content = content | {"model": model | {"residual": False}}
    if isinstance(runs, dict):
        needs = ({"feature_set": "lensfit"}, {"residual": True})

        def fitted(run: Any) -> bool:
            model = run.get("model") if isinstance(run, dict) else None
            return isinstance(model, dict) and any(need.items() <= model.items() for need in needs)

        runs = {name: run for name, run in runs.items() if not fitted(run)}
        content = content | {"runs": runs}
    return content


def check_data(settings: Config) -> None:
    """Raise InputError at once if the images, or the population to simulate, are not there."""
    if settings.data == "simulate":
        curves = [curve.population for curve in settings.efficiency.curves]
        sky = [chosen.population for chosen in settings.real_sky.sets.values()]
        for file in (settings.population, *settings.populations.files, *curves, *sky):
            load_population(file)
    elif not Path(settings.data).exists():
        raise InputError(
            f"data: {settings.data}: no such file or folder; expected 'simulate', or a folder or "
            "archive of class folders"
        )


def fingerprint(path: str | Path) -> str:
    """Return a hash of the names, sizes and times of a file, or of all files in a folder."""
    path = Path(path)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    facts = [
        (str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns)
        for file in files
        if file.is_file()
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def load_population(path: str | Path) -> Population:
    """Read and check a population of lenses; InputError names each wrong key."""
    return checked(Population, read_yaml(path), str(path))


def load_cutouts(path: str | Path) -> Cutouts:
    """Read and check what is known of real images; InputError names each wrong key."""
    return checked(Cutouts, read_yaml(path), str(path))


def load_run_settings(path: str | Path) -> RunSettings:
    """Read the ``config.yaml`` of a run; InputError names each wrong key."""
    return checked(RunSettings, read_yaml(path), str(path))


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
