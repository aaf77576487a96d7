"""What one model depends on, from the image to its score; the configuration of a command."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from vitdm.bounds import LARGEST_SEED, MOST_IMAGES, MOST_PATCHES, MOST_STEPS
from vitdm.config.free_form import FreeForm
from vitdm.config.images import Features, Ingest, LensFit, Preprocess, Selection
from vitdm.config.network import Model, Train
from vitdm.config.perturbers import Perturbers
from vitdm.config.search import TUNED, Constraint, Tune, by_section, outside
from vitdm.config.sections import Section
from vitdm.errors import InputError, shown

Split = Literal["train", "valid", "opt", "test"]


class Evaluation(Section):
    """How scores are computed (``vitdm.evaluation``)."""

    bootstrap: int = Field(
        2000, ge=10, le=MOST_STEPS, description="resamplings of the images for an interval"
    )


class Settings(Section):
    """The sections that commands of the library read; each has defaults and may be left out.

    Which sections go together is checked by ``check``, when a model is trained: a file that only
    says how images are processed need not say which network will see them.
    """

    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="of all random numbers")
    test_seed: int | None = Field(
        None, ge=0, le=LARGEST_SEED, description="of simulated lenses of the split test; null: seed"
    )
    task: Literal["multiclass", "binary"] = Field(
        "multiclass", description="each class of its own, or no_sub against any substructure"
    )
    n_images: dict[Split, Annotated[int, Field(ge=2, le=MOST_IMAGES)]] | None = Field(
        None, description="images of each split; for data from files, their proportions"
    )
    ingest: Ingest = Ingest()
    preprocess: Preprocess = Preprocess()
    features: Features = Features()
    lensfit: LensFit = LensFit()
    freeform: FreeForm = FreeForm()
    perturbers: Perturbers = Perturbers()
    selection: Selection = Selection()
    model: Model = Model()
    train: Train = Train()
    tune: Tune | None = None
    evaluation: Evaluation = Evaluation()

    def changed(self, **sections: dict[str, Any]) -> Settings:
        """Return the same with some keys of some sections replaced.

        ``changed(model={"depth": 2}, train={"epochs": 5})``. Raises pydantic's ValidationError if
        a value is wrong.
        """
        made = {}
        for name, keys in sections.items():
            section = getattr(self, name)
            made[name] = type(section)(**(section.model_dump() | keys))
        return self.model_copy(update=made)

    def check(self) -> None:
        """Raise InputError unless network, processing and features go together."""
        model, side = self.model, self.preprocess.size
        if model.maps:
            side = model.side(self.lensfit.map_side)
        check_patches(self.model, side)
        check_joined(self.model, self.features, self.preprocess, self.lensfit)

    @property
    def start(self) -> dict[str, Any]:
        """The point that a search starts from: the settings themselves."""
        values: dict[str, Any] = {}
        for section in TUNED:
            values |= getattr(self, section).model_dump()
        return {name: values[name] for name in self.tune.space}

    def wrong_starts(self) -> list[tuple[str, str]]:
        """Return which first points of the search lie outside, or do not fit together, and why."""
        lines = []
        for name, value in self.start.items():
            if expected := outside(value, self.tune.space[name]):
                section = next(key for key, schema in TUNED.items() if name in schema.model_fields)
                message = f"the start, {section}.{name} = {shown(value)}, lies outside"
                lines.append((f"tune.space.{name}", f"{message}; expected {expected}"))
        named: list[tuple[str, dict[str, Any]]] = []
        if self.tune.fixed or self.tune.constraints:
            named.append(("tune.fixed", {}))
        named += [(f"tune.x0.{k}", point) for k, point in enumerate(self.tune.x0)]
        for key, point in named if not lines else ():
            try:
                self.trial(point)
            except ValueError as error:
                lines.append((key, " ".join(str(error).split())))
        return lines

    def check_search(self) -> None:
        """Raise InputError unless there is a search whose first points are allowed."""
        if self.tune is None:
            raise InputError("tune: found none; expected the section of the search, with a space")
        if lines := self.wrong_starts():
            raise InputError("\n".join(f"{key}: {message}" for key, message in lines))

    def trial(self, params: dict[str, Any]) -> Settings:
        """Return the settings of a trial: ``tune.fixed`` and some parameters put in.

        Raises ValueError if they do not go together or break a constraint.
        """
        chosen = self.changed(**by_section(self.tune.fixed | params))
        chosen.check()
        values: dict[str, Any] = {}
        for section in TUNED:
            values |= getattr(chosen, section).model_dump()
        for text in self.tune.constraints:
            if not Constraint(text)(values):
                raise InputError(f"the constraint {shown(text)} does not hold")
        return chosen


def check_joined(model: Model, features: Features, cut: Preprocess, lensfit: LensFit) -> None:
    """Raise InputError unless what a model wants of features and residual maps is there."""
    groups = features.groups
    if model.features and model.feature_set not in ("selected", "all", *groups):
        raise InputError(
            f"model.feature_set = {model.feature_set!r} is not among features.groups = {groups}"
        )
    if model.maps and ("lensfit" not in groups or lensfit.maps is None):
        raise InputError(
            f"model.maps: found {', '.join(model.maps)}; expected lensfit.maps: matched, or "
            "free_form, and lensfit in features.groups"
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
    name = "side of maps, of lensfit.size in places," if model.maps else f"image {name}"
    if any(side % model.patch_size for side in sides):
        found = " x ".join(map(str, sides))
        raise InputError(f"patch_size = {model.patch_size} does not divide the {name} = {found}")
    if (patches := math.prod(side // model.patch_size for side in sides)) > MOST_PATCHES:
        raise InputError(
            f"patch_size = {model.patch_size} makes {patches} patches of an image; expected up to "
            f"{MOST_PATCHES}"
        )
