"""Settings of what is compared: searches, amounts of data, models, faults, real images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from vitdm.benchmark.sets import BenchmarkSet
from vitdm.bounds import MOST_EPOCHS, MOST_IMAGES, MOST_PARTS, MOST_STEPS, PIXEL_SCALES
from vitdm.config import LensFit
from vitdm.config.network import Name
from vitdm.config.sections import Section
from vitdm.errors import shown
from vitdm.simulation import population_name

Seeds = Annotated[int, Field(ge=1, le=MOST_PARTS)]


class Quickstart(Section):
    """The parameters of notebook 00, which needs nothing else of the workflow."""

    n_train: int = Field(300, ge=6, le=MOST_IMAGES, description="images a classifier learns from")
    n_test: int = Field(100, ge=6, le=MOST_IMAGES, description="images that it is tested on")
    epochs: int = Field(30, ge=1, le=MOST_EPOCHS, description="of its training")
    twins: int = Field(100, ge=0, le=MOST_IMAGES, description="smooth twins of the lens searched")


class Report(Section):
    """The report on a user's own images."""

    title: str | None = Field(None, description="by default the name of the images' folder")
    author: str | None = Field(None, description="who signs; null: nobody")


class Override(Section):
    """What one named run changes of the ``model`` and ``train`` sections."""

    label: str = Field(description="its name in figures and tables")
    model: dict[str, Any] = Field({}, description="changed keys of ``model``")
    train: dict[str, Any] = Field({}, description="changed keys of ``train``")


class Populations(Section):
    """Lens populations shown side by side: gallery, shortcut, ideal observer, single features."""

    files: list[str] = Field([], description="names of populations, or files")
    n_images: int = Field(600, ge=12, le=MOST_IMAGES, description="images simulated of each")
    n_ideal_observer: int = Field(
        300, ge=12, le=MOST_IMAGES, description="images of each for the ideal observer"
    )
    n_invariance: int = Field(
        200,
        ge=2,
        le=MOST_IMAGES,
        description="images of each, turned, mirrored and moved, to test the processing",
    )

    @field_validator("files")
    @classmethod
    def _once(cls, files: list[str]) -> list[str]:
        names = [population_name(file) for file in files]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} occurs twice; expected each population once")
        return files


class Cutout(Section):
    """What is known of a real image of a lens."""

    name: str
    theta_E: float = Field(gt=0, description="published Einstein radius, arcsec")
    mask: list[tuple[float, float, Annotated[float, Field(gt=0)]]] = Field(
        [], description="circles that are not fitted: x, y, radius (px)"
    )


class Cutouts(Section):
    """Real images that a smooth lens is fitted to, by file name (``config/slacs.yaml``)."""

    pixel_scale: float = Field(
        ge=PIXEL_SCALES[0], le=PIXEL_SCALES[1], description="arcsec per pixel"
    )
    lensfit: LensFit
    cutouts: dict[str, Cutout]


class Arm(Section):
    """A kind of search that is compared with others."""

    label: str = Field(description="its name in figures and tables")
    tune: dict[str, Any] = Field({}, description="what it changes of ``study.tune``")
    random: bool = Field(False, description="random points instead of the Gaussian process's")


class Study(Section):
    """Kinds of search on equal terms: is the Gaussian process worth it? (``vitdm.tuning``)"""

    tune: dict[str, Any] = Field({}, description="what all of them change of ``tune``")
    seeds: int = Field(5, ge=1, le=MOST_PARTS, description="searches of each kind")
    arms: dict[Name, Arm] = {}


class Recipe(Override):
    """A recipe of training, at each of the learning rates."""

    softmax_in_loss: bool = Field(
        False, description="a fault of the precursor: the loss gets probabilities, not logits"
    )


class Rates(Section):
    """Learning rate against recipe: where training stops to work, and what moves that limit."""

    values: list[Annotated[float, Field(gt=0)]] = Field(
        [1e-4, 1e-3, 1e-2], min_length=1, description="learning rates"
    )
    seeds: int = Field(2, ge=1, le=MOST_PARTS, description="trainings at each rate")
    n_train: int | None = Field(
        None, ge=1, le=MOST_IMAGES, description="training images; null: all"
    )
    epochs: int = Field(6, ge=1, le=MOST_EPOCHS, description="of each training")
    model: dict[str, Any] = Field({}, description="what all recipes change of ``model``")
    recipes: dict[Name, Recipe] = {}


class Curve(Section):
    """The curve of one population."""

    population: str = Field(description="its name, or a file")
    sizes: list[Annotated[int, Field(ge=3, le=MOST_IMAGES)]] = Field(
        min_length=1, description="numbers of training images"
    )
    also: list[str] = Field([], description="populations on which its models are scored, too")
    runs: list[str] | None = Field(
        None, description="networks on images alone: nothing is fitted; null: efficiency.runs"
    )
    seeds: Seeds | list[Seeds] | None = Field(
        None, description="trainings; a list: with each of the sizes; null: efficiency.seeds"
    )

    @property
    def name(self) -> str:
        """The name of its folder."""
        return population_name(self.population) + ("_images" if self.runs is not None else "")

    def trainings(self, seeds: int) -> list[tuple[int, int]]:
        """Return the number of images and the seed of each training, ``seeds`` by default."""
        n_seeds = self.seeds if isinstance(self.seeds, list) else [self.seeds] * len(self.sizes)
        pairs = zip(self.sizes, n_seeds, strict=True)
        return [(n, k) for n, trained in pairs for k in range(trained or seeds)]


class Efficiency(Section):
    """ROC-AUC against the number of training images (``studies.efficiency``)."""

    curves: list[Curve] = Field([], description="none: no images are simulated for it")
    runs: list[str] = Field([], description="networks: names of runs")
    n_scored: int = Field(3000, ge=3, le=MOST_IMAGES, description="images that score")
    seeds: int = Field(
        3, ge=1, le=MOST_PARTS, description="trainings of each, on other images each"
    )
    min_steps: int = Field(
        300, ge=1, le=MOST_STEPS, description="of the optimiser, however few the images"
    )


class Row(Override):
    """A model of the comparison: what it changes of ``model``, ``train`` and ``preprocess``."""

    preprocess: dict[str, Any] = Field({}, description="changed keys of ``preprocess``")
    boosting: bool = Field(False, description="no network: gradient boosting on all features")
    against: str | None = Field(None, description="the row that it is compared with, pair by pair")


class Comparison(Section):
    """Models on equal terms: images, tuning, time of the processor (``studies.compare``)."""

    population: str | None = Field(None, description="one with a curve in efficiency; null: none")
    n_train: int = Field(8000, ge=3, le=MOST_IMAGES, description="images to learn from")
    n_valid: int = Field(
        1000, ge=3, le=MOST_IMAGES, description="images that choose learning rate and epoch"
    )
    rates: list[Annotated[float, Field(gt=0)]] = Field(
        [1e-3, 3e-3, 1e-2], min_length=1, description="learning rates that are tried"
    )
    boosting_rates: list[Annotated[float, Field(gt=0)]] = Field(
        [0.02, 0.05, 0.1], min_length=1, description="the same of gradient boosting"
    )
    trial: float = Field(0.5, gt=0, le=1, description="share of the epochs when rates are tried")
    seeds: int = Field(3, ge=1, le=MOST_PARTS, description="trainings of each row")
    rows: dict[Name, Row] = {}


class MapRow(Override):
    """A model of the study of maps: a network, trees on a table, or a number that needs none."""

    kind: Literal["network", "trees", "score"] = Field(
        "network", description="network, trees on a table, or a number that is not trained"
    )
    table: Literal["features", "maps", "both"] = Field(
        "both", description="of trees: all features, the maps summarised, or both"
    )
    score: str = Field("fit_point_evidence", description="a feature, larger with substructure")
    curve: bool = Field(False, description="trained on each number of lenses, not on all alone")
    copies: bool = Field(False, description="a network learns from copies of the lenses, too")
    against: list[Name] = Field([], description="rows that it is compared with, pair by pair")


class Maps(Section):
    """Networks on maps of perturbers, and their rivals on the same lenses (``studies.maps``)."""

    populations: list[str] = Field([], description="names or files; none: no maps are made")
    source: Literal["matched", "free_form"] = Field("matched", description="as lensfit.maps")
    sizes: list[Annotated[int, Field(ge=3, le=MOST_IMAGES)]] = Field(
        [1000], min_length=1, description="numbers of training lenses; the largest for all rows"
    )
    n_valid: int = Field(
        500, ge=3, le=MOST_IMAGES, description="lenses that choose learning rate and epoch"
    )
    n_scored: int = Field(2000, ge=3, le=MOST_IMAGES, description="lenses that score")
    copies: int = Field(
        16, ge=1, le=MOST_PARTS, description="of each training lens (vitdm.lens.resampled)"
    )
    rates: list[Annotated[float, Field(gt=0)]] = Field(
        [1e-3, 3e-3, 1e-2], min_length=2, description="learning rates that are tried first"
    )
    boosting_rates: list[Annotated[float, Field(gt=0)]] = Field(
        [0.02, 0.05, 0.1], min_length=2, description="the same of gradient boosting"
    )
    widen: int = Field(
        3, ge=0, le=20, description="rates tried beyond the best one, if it lies at the end"
    )
    trial: float = Field(0.5, gt=0, le=1, description="share of the epochs when rates are tried")
    min_steps: int = Field(
        300, ge=1, le=MOST_STEPS, description="of the optimiser, however few the lenses"
    )
    seeds: int = Field(3, ge=1, le=MOST_PARTS, description="trainings of each row")
    rows: dict[Name, MapRow] = {}

    @field_validator("sizes")
    @classmethod
    def _rising(cls, sizes: list[int]) -> list[int]:
        if sorted(set(sizes)) != sizes:
            raise ValueError("expected rising numbers, each once")
        return sizes


class Faults(Section):
    """Faults of the precursor (``studies.precursor``, ``studies.audit``); on: as it was."""

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

    def fixed(self, names: Iterable[str]) -> Faults:
        """Return the same with some of them fixed, by name."""
        return self.model_copy(update=dict.fromkeys(names, False))


class PosteriorRow(Override):
    """A network of the study of posteriors."""

    copies: bool = Field(False, description="learns from copies of the lenses, too")


class Posterior(Section):
    """Posteriors of the mass fraction in subhalos from maps (``studies.posterior``)."""

    populations: list[str] = Field(
        [], description="some of maps.populations, which draw f_sub evenly in its logarithm"
    )
    n_valid: int = Field(
        500, ge=2, le=MOST_IMAGES, description="lenses with subhalos that choose the epoch"
    )
    seeds: int = Field(3, ge=1, le=MOST_PARTS, description="trainings of each row")
    components: int = Field(8, ge=1, le=256, description="Gaussians of a posterior")
    draws: int = Field(
        1000, ge=10, le=MOST_STEPS, description="from each posterior, to test whether it holds"
    )
    group_sizes: list[Annotated[int, Field(ge=1, le=MOST_IMAGES)]] = Field(
        [1, 10, 100], min_length=1, description="numbers of lenses that share their f_sub"
    )
    rows: dict[Name, PosteriorRow] = {}

    @field_validator("group_sizes")
    @classmethod
    def _rising(cls, group_sizes: list[int]) -> list[int]:
        if sorted(set(group_sizes)) != group_sizes:
            raise ValueError("expected rising numbers, each once")
        return group_sizes


class WhereRow(Override):
    """A map of where subhalos are: a network's, or that of the search itself."""

    trained: bool = Field(True, description="false: no network, the peaks of its only map")
    within: float | None = Field(
        None, gt=0, description='", from the middle: the field of which there are peaks; null: all'
    )


class Where(Section):
    """Where the subhalos of a lens are (``studies.where``)."""

    population: str | None = Field(None, description="one of maps.populations; null: no study")
    n_valid: int = Field(500, ge=1, le=MOST_IMAGES, description="lenses that choose the epoch")
    seeds: int = Field(3, ge=1, le=MOST_PARTS, description="trainings of each network")
    least_mass: float = Field(
        10**8.5,
        gt=0,
        description="of subhalos that are to be named, and near which a peak is right",
    )
    log_masses: list[float] = Field(
        [8.0, 8.5, 9.0, 9.5, 10.0],
        min_length=2,
        description="edges of the bins of log10 of a subhalo's mass, in solar masses",
    )
    radius: float = Field(0.25, gt=0, description='", of a subhalo, within which a peak finds it')
    apart: float = Field(0.3, ge=0, description='", between two peaks')
    most_peaks: int = Field(8, ge=1, le=MOST_PARTS, description="of a lens, the highest")
    false_peaks: float = Field(1.0, gt=0, description="a lens, on average")
    against: Name | None = Field(None, description="the row that all others are compared with")
    rows: dict[Name, WhereRow] = {}

    @field_validator("log_masses")
    @classmethod
    def _rising(cls, log_masses: list[float]) -> list[float]:
        if sorted(set(log_masses)) != log_masses:
            raise ValueError("expected rising numbers, each once")
        return log_masses


class Audit(Section):
    """The precursor's recipe, its faults fixed one by one; then ours (``studies.audit``)."""

    population: str | None = Field(None, description="of a sample of its own; null: no audit")
    n_train: int = Field(4500, ge=3, le=MOST_IMAGES, description="images to learn from")
    n_valid: int = Field(
        500, ge=3, le=MOST_IMAGES, description="that may stop a training, or choose its epoch"
    )
    n_scored: int = Field(3000, ge=3, le=MOST_IMAGES, description="images that score")
    epochs: int = Field(20, ge=1, le=MOST_EPOCHS, description="of the precursor's recipe")
    learning_rate: float = Field(5e-5, gt=0, description="of the precursor's recipe")
    seeds: int = Field(2, ge=1, le=MOST_PARTS, description="trainings of each step")
    steps: dict[str, list[str]] = Field(
        {},
        description="label: faults (config.Faults) fixed together; alone, and after those above",
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
                raise ValueError(f"found {shown(name)}; expected some of {', '.join(known)}")
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
    n_train: int = Field(ge=3, le=MOST_IMAGES, description="simulated lenses to learn from")
    n_scored: int = Field(ge=12, le=MOST_IMAGES, description="others, held out")
    groups: list[str] = Field(description="of features; lensfit for cutouts only")
    preprocess: dict[str, Any] = Field({}, description="changed keys of ``preprocess``")


class RealSky(Section):
    """Models of simulated lenses on real ones, and how unlike these are (``studies.real_sky``)."""

    seeds: int = Field(
        5, ge=1, le=MOST_PARTS, description="trainings of each model, on other images each"
    )
    permutations: int = Field(9999, ge=19, le=MOST_STEPS, description="of the two-sample test")
    sets: dict[Name, RealSet] = {}

    @property
    def present(self) -> dict[str, RealSet]:
        """The sets whose images are there."""
        return {name: chosen for name, chosen in self.sets.items() if Path(chosen.images).is_dir()}


class SlacsSearch(Section):
    """The search of these lenses for subhalos, and of clumps injected into their images."""

    refitted_twins: int = Field(
        0, ge=0, le=1000, description="smooth twins of each lens that are fitted and searched"
    )
    more_twins: dict[str, Annotated[int, Field(ge=0, le=1000)]] = Field(
        {}, description="the same of single lenses"
    )
    masses: list[Annotated[float, Field(ge=5, le=12)]] = Field(
        [], description="log10 of the masses of injected clumps [solar masses]; none: no injections"
    )
    places: int = Field(8, ge=1, le=100, description="of injected clumps on the critical curve")
    refitted_masses: list[Annotated[float, Field(ge=5, le=12)]] = Field(
        [], description="of them that are also searched after a new fit, at one place each"
    )

    @field_validator("refitted_masses")
    @classmethod
    def _injected(cls, masses: list[float], known: ValidationInfo) -> list[float]:
        others = [m for m in masses if m not in known.data.get("masses", masses)]
        if others:
            raise ValueError(f"found {others}; expected some of masses")
        return masses


class Slacs(Section):
    """Real lenses, each fitted with a source of free form (``studies.slacs``)."""

    images: str | None = Field(
        None, description="folder with a folder of FITS files for each lens; without it none"
    )
    fitted: bool = Field(
        True, description="a minute or two of a core each; else the committed results are shown"
    )
    names: list[str] = Field([], description="those of them that are fitted; none named: all")
    pixel_scale: float = Field(
        0.05, ge=PIXEL_SCALES[0], le=PIXEL_SCALES[1], description="arcsec, of all of them"
    )
    notes: str | None = Field(None, description="file (YAML): lens, and what is special about it")
    shown: list[str] = Field([], description="lenses of the figure; none named: the first six")
    redshifts: str | None = Field(
        None, description="file (CSV): name, z_lens, z_source; without it no masses"
    )
    unmasked: list[str] = Field(
        [], description="lenses that are fitted and searched a second time, neighbours not masked"
    )
    search: SlacsSearch = SlacsSearch()

    @property
    def present(self) -> list[str]:
        """The names of the lenses that are fitted and whose images are there."""
        folder = Path(self.images) if self.images and self.fitted else None
        there = sorted(folder.glob("*/image.fits")) if folder else []
        names = [file.parent.name for file in there]
        return [name for name in names if not self.names or name in self.names]


#: sets of nominal lenses beside the rows: smooth ones that fix thresholds, and those learned from
CALIBRATION, TRAINING = "calibration", "training"


class Misspecification(Section):
    """Searches on lenses that are unlike what a fit is told (``studies.misspecification``)."""

    population: str = Field("marginal", description="of the nominal lenses")
    rows: list[str] = Field([], description="of studies.misspecified; none: nothing is searched")
    perturbed: list[str] = Field(
        [], description="their classes, in turn; none named: all of the population"
    )
    n_smooth: int = Field(
        200, ge=2, le=MOST_IMAGES, description="lenses of each row without substructure"
    )
    n_perturbed: int = Field(100, ge=2, le=MOST_IMAGES, description="and with some")
    n_calibration: int = Field(
        400, ge=2, le=MOST_IMAGES, description="nominal smooth lenses, which fix thresholds"
    )
    n_training: int = Field(
        600, ge=10, le=MOST_IMAGES, description="nominal lenses to learn from, half of them smooth"
    )
    block: int = Field(50, ge=1, le=MOST_IMAGES, description="lenses of a job")
    lens_light: bool = Field(False, description="whether the fits have light of the lens galaxy")
    splines: int = Field(18, ge=8, le=64, description="of the source along each axis")
    most_splines: int = Field(24, ge=8, le=64, description="where so few leave something of arcs")
    supersampling: int = Field(1, ge=1, le=8, description="parts of a pixel of bright arcs")
    twins: int = Field(200, ge=1, le=10_000, description="smooth twins of each lens")

    @field_validator("rows")
    @classmethod
    def _once(cls, rows: list[str]) -> list[str]:
        if twice := [name for name in rows if rows.count(name) > 1]:
            raise ValueError(f"{twice[0]} occurs twice; expected each row once")
        return rows

    @property
    def parts(self) -> list[str]:
        """The sets of lenses: those learned from, those of thresholds, and the rows."""
        return [TRAINING, CALIBRATION, *self.rows] if self.rows else []

    def blocks(self, part: str) -> int:
        """Return in how many blocks the lenses of a set are searched."""
        sets = {TRAINING: self.n_training, CALIBRATION: self.n_calibration}
        return -(-sets.get(part, self.n_smooth + self.n_perturbed) // self.block)


class Rival(Override):
    """A model of the table of the DeepLense benchmark."""

    sees: Literal["images", "features", "fits", "radius"] = Field(
        "images",
        description="a network on images; boosted trees on features of the image, on these and "
        "features of a fitted smooth lens, or on the true Einstein radius alone",
    )


class Benchmark(Section):
    """The table of the DeepLense benchmark (``studies.rivals``)."""

    sets: list[str] = Field([], description="of vitdm benchmark list; none: nothing is trained")
    set_size: str = Field("full", description="full, small or tiny")
    seeds: int = Field(3, ge=1, le=MOST_PARTS, description="trainings of each network")
    rivals: dict[Name, Rival] = {}

    @model_validator(mode="after")
    def _known(self) -> Benchmark:
        names = [BenchmarkSet(name, self.set_size).name for name in self.sets]
        if wrong := [name for name, own in zip(self.sets, names, strict=True) if name != own]:
            raise ValueError(f"sets: found {wrong[0]}; expected {BenchmarkSet(wrong[0]).name}")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"sets: {twice[0]} occurs twice; expected each set once")
        if self.sets and not self.rivals:
            raise ValueError("rivals: found none; expected at least one")
        return self

    @property
    def parts(self) -> list[str]:
        """The folders of all scores: a set, and a rival on it."""
        return [f"{name}/{rival}" for name in self.sets for rival in self.rivals]


class Final(Section):
    """The final test: the best settings, trained on ``train`` and ``opt``, ``valid`` held out."""

    seeds: int = Field(
        5, ge=1, le=MOST_PARTS, description="models that differ in their random seed only"
    )
    epochs: int = Field(16, ge=1, le=MOST_EPOCHS, description="of each training")
