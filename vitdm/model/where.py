"""Where the substructure of a lens is: a transformer that answers for each place of its maps.

Each token answers for the places of its own patch, so that the map of answers has the resolution of
what the network sees. It learns, by the cross-entropy of each place, the probability that a subhalo
lies there: of maps (n, H, W) that are 1 near the subhalos of a simulated lens, and 0 elsewhere.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitdm.config import Model, Train
from vitdm.errors import InputError
from vitdm.model.networks import outputs
from vitdm.model.training import Arrays, Learnt, Validation, learn
from vitdm.model.vit import ViT


class PlaceViT(ViT):
    """A ViT whose head turns each token into the logits of the places of its patch.

    ``rate`` is the share of places with a subhalo, from which the answers start. InputError if
    features join, for they lie nowhere, or if the settings name another network than the ViT.
    """

    def __init__(
        self,
        settings: Model,
        image_size: int | tuple[int, int],
        num_features: int,
        channels: int,
        rate: float,
    ):
        if num_features:
            raise InputError(
                f"model.features: found {num_features} features; expected none: a map of places is "
                "made of maps"
            )
        if settings.architecture != "vit":
            raise InputError(
                f"model.architecture: found {settings.architecture!r}; expected 'vit', whose "
                "tokens answer for places"
            )
        super().__init__(settings, image_size, settings.patch_size**2, channels=channels)
        nn.init.constant_(self.head.bias, math.log(rate / (1 - rate)))

    def forward(self, images: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the logit of each place, (B, H, W), of images (B, C, H, W)."""
        tokens = self.tokens(images)  # (B, N, D)
        for block in self.blocks:
            tokens = block(tokens)
        if self.cls_token is not None:
            tokens = tokens[:, 1:]
        p = self.settings.patch_size
        patches = self.head(self.norm(tokens)).transpose(1, 2)  # (B, p p, N)
        patches = patches.unflatten(2, (images.shape[2] // p, -1))  # (B, p p, H / p, W / p)
        return functional.pixel_shuffle(patches, p)[:, 0]


def learn_where(
    training: Arrays, valid: Arrays | None, model: Model, train: Train, **options: Any
) -> Learnt:
    """Train a ``PlaceViT`` on images and maps of places (n, H, W); see ``training.learn``.

    With ``valid`` the weights of the epoch with the largest mean log probability are kept.
    """
    rate = float(training[2].float().mean())
    if not 0 < rate < 1:
        raise InputError(
            f"where: found subhalos at {rate:.0%} of the places to learn from; expected some, but "
            "not everywhere"
        )

    def build(
        settings: Model, size: int | tuple[int, int], n_outputs: int, n_features: int
    ) -> nn.Module:
        return PlaceViT(settings, size, n_features, training[0].shape[1], rate)

    validation = Validation(("valid_log_probability",), "valid_log_probability", _scores)
    return learn(
        *(training, valid, model.patch_size**2, model, train),
        **{"loss": _loss, "validation": validation, "build": build} | options,
    )


def _loss(logits: Tensor, places: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, places.float())


def _scores(logits: Tensor, places: Tensor) -> dict[str, float]:
    return {"valid_log_probability": -_loss(logits, places).item()}


def where(network: nn.Module, images: Tensor, average: bool = False) -> Tensor:
    """Return the probability of a subhalo at each place (n, H, W) of images (n, C, H, W).

    With ``average`` the mean over the eight mirror images and quarter turns of square images.
    """
    parts = []
    for views in outputs(network, images, None, average=average):
        back = [_upright(view.sigmoid(), k) for k, view in enumerate(views)]
        parts.append(torch.stack(back).mean(dim=0).cpu())
    return torch.cat(parts)


def _upright(answers: Tensor, k: int) -> Tensor:
    """Return the answers (B, H, W) to the k-th of ``networks.symmetries`` as the image lies."""
    mirrored = answers.flip([[], [1], [2], [1, 2]][k % 4])
    return mirrored.transpose(1, 2) if k >= 4 else mirrored
