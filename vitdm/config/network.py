"""Settings of one network, of its training, and of a run that is finished."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vitdm.bounds import LARGEST_SEED, LARGEST_SIDE, MOST_EPOCHS, MOST_IMAGES, MOST_WEIGHTS
from vitdm.config.images import Channel, Features, LensFit, Preprocess
from vitdm.config.sections import Section
from vitdm.errors import InputError

#: names that ``model.architecture`` may have; ``vitdm.model.networks.register`` adds to them
ARCHITECTURES = ["vit", "vit_pytorch", "resnet", "resnet18", "cnn"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class Model(Section):
    """A Vision Transformer for small data sets; each idea is a switch (``vitdm.model.vit``)."""

    architecture: str = Field(
        "vit", description="name of a network (vitdm.model.networks): vit, resnet, cnn, …"
    )
    patch_size: int = Field(
        12, ge=1, le=LARGEST_SIDE, description="side of a patch, pixels; divides the image"
    )
    stem: int = Field(
        0,
        ge=0,
        le=8,
        description="convolutions of stride 2 before the patches; 2^stem divides them",
    )
    embed_dim: int = Field(
        96, ge=1, le=8192, description="width of a token; a multiple of num_heads"
    )
    depth: int = Field(4, ge=1, le=256, description="transformer blocks")
    num_heads: int = Field(4, ge=1, le=1024, description="attention heads")
    mlp_ratio: float = Field(
        2.0, gt=0, le=64, description="hidden width of a block's MLP / embed_dim"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="of tokens, and in each block")
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
    maps: list[Channel] = Field(
        [], description="channels of lensfit.maps that are seen instead of the image"
    )
    places: int = Field(
        0, ge=0, le=LARGEST_SIDE, description="the middle so many places of maps a side; 0: all"
    )
    position: Literal["learned", "none"] = Field(
        "learned", description="embedding of a patch's place, or none: then order is unknown"
    )
    average: bool = Field(
        False, description="answers are means over the eight mirror images and quarter turns"
    )
    feature_set: Literal["selected", "proposal", "morphology", "lensfit", "all"] = Field(
        "selected", description="which: those kept by vitdm select, one group, or all"
    )

    @field_validator("architecture")
    @classmethod
    def _registered(cls, name: str) -> str:
        if name not in ARCHITECTURES:
            raise ValueError(f"expected one of: {', '.join(sorted(ARCHITECTURES))}")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> Model:
        if len(set(self.maps)) < len(self.maps):
            raise ValueError(f"maps = {self.maps}: expected each channel once")
        if self.places and not self.maps:
            raise ValueError(f"places = {self.places}: expected maps, of which it is the middle")
        if self.maps and self.residual:
            raise ValueError("residual: expected it off, since maps have a residual of their own")
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim = {self.embed_dim} is not a multiple of num_heads = {self.num_heads}"
            )
        if self.patch_size % 2**self.stem:
            raise ValueError(
                f"patch_size = {self.patch_size} is not a multiple of 2^stem = {2**self.stem}"
            )
        # of a patch: its pixels in its channels, five shifts of each, or the maps of the stem
        shape = max(16, 5 * len(self.maps)) * 2**self.stem * (self.patch_size / 2**self.stem) ** 2
        blocks = self.depth * (4 + 2 * self.mlp_ratio) * self.embed_dim**2
        if (weights := shape * self.embed_dim + blocks) > MOST_WEIGHTS:
            raise ValueError(
                f"expected up to {MOST_WEIGHTS:.0e} weights, found some {weights:.0e}: depth, "
                "embed_dim, mlp_ratio or patch_size is too large"
            )
        return self

    @property
    def sees_fits(self) -> bool:
        """Whether it sees what a lens fit leaves, as residual or as maps."""
        return self.residual or bool(self.maps)

    def side(self, places: int) -> int:
        """Return how many places a side are seen of maps with ``places``; InputError if none."""
        side = self.places or places
        if side > places or (places - side) % 2:
            raise InputError(
                f"model.places: found {side}; expected up to {places}, the side of the maps, and "
                "both even or both odd"
            )
        return side


class Train(Section):
    """One training run (``vitdm.model.training``)."""

    learning_rate: float = Field(1e-3, gt=0, description="the highest, after the warm-up")
    weight_decay: float = Field(0.05, ge=0, description="on matrices only")
    batch_size: int = Field(64, ge=1, le=MOST_IMAGES, description="images of a step")
    epochs: int = Field(12, ge=1, le=MOST_EPOCHS, description="at most; see patience")
    warmup: float = Field(0.2, ge=0, lt=1, description="fraction of the steps with rising rate")
    label_smoothing: float = Field(
        0.05, ge=0, lt=1, description="share of each label that is spread over all classes"
    )
    clip: float = Field(1.0, gt=0, description="norm at which the gradient is clipped")
    flips: bool = Field(True, description="random mirror images while training")
    turns: bool = Field(False, description="and random quarter turns, of square images")
    patience: int = Field(6, ge=1, description="epochs without a better validation ROC-AUC")
    accelerator: Literal["cpu", "auto"] = Field(
        "cpu", description="cpu: runs side by side on the processor; auto: a GPU if there is one"
    )


class RunSettings(Section):
    """What a finished run must know to be used again: ``config.yaml`` in its folder."""

    classes: list[str] = Field(min_length=2, description="in the order of the probabilities")
    image_size: int | list[int] = Field(description="side, or height and width, pixels")
    feature_names: list[str] = Field(description="features that join, in their order")
    model: Model
    train: Train
    preprocess: Preprocess
    features: Features
    lensfit: LensFit = LensFit()
    pixel_scale: float | None = Field(None, description="of the training images, arcsec")
    task: Literal["multiclass", "binary"] = Field(description="see the settings")
    train_splits: list[str] = Field(description="from which it learned")
    n_train: int = Field(ge=0, le=MOST_IMAGES, description="images it learned from")
    seed: int = Field(ge=0, le=2 * LARGEST_SEED, description="of weights, order and flips")

    @field_validator("image_size", mode="plain")
    @classmethod
    def _side_or_sides(cls, size: Any) -> int | list[int]:
        sides = size if isinstance(size, (list, tuple)) else (size, size)
        fit = [type(side) is int and 0 < side <= LARGEST_SIDE for side in sides]
        if len(fit) != 2 or not all(fit):
            raise ValueError(
                f"expected the side, or height and width, in pixels, up to {LARGEST_SIDE}"
            )
        return list(sides) if sides[0] != sides[1] else sides[0]
