"""Networks that the ViT is compared with: a small ResNet, and another reading of SPT and LSA."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vitdm.config import Model
from vitdm.model.vit import Attention, PatchEmbedding, Shifts, Stem, ViT


def axial_shifts(patch_size: int) -> Shifts:
    """Return vit-pytorch's shifts, down and right: one pixel along each axis."""
    return (0, 1), (0, -1), (1, 0), (-1, 0)


class AxialEmbedding(PatchEmbedding):
    """vit-pytorch's SPT: the shifts are of one pixel, along the axes."""

    shifts = staticmethod(axial_shifts)


class OneTemperature(Attention):
    """vit-pytorch's LSA: one scale for all heads, learnt as its logarithm."""

    def new_scale(self, num_heads: int, head_dim: int) -> nn.Parameter:
        return nn.Parameter(torch.tensor(-0.5 * math.log(head_dim)))

    def scales(self) -> Tensor:
        return self.scale.exp()


class VitPytorch(ViT):
    """The ViT with SPT and LSA as vit-pytorch's ``vit_for_small_dataset`` has them.

    They differ from Lee, Lee & Song (2021, arXiv:2112.13492), whose shifts are diagonal, by half a
    patch, and whose scales are one for each head; all else is the same.
    """

    patch_embedding = AxialEmbedding
    attention_layer = OneTemperature


class ResNet(nn.Module):
    """A stem (``model.stem`` halvings), the mean of its maps over the image, a linear head."""

    def __init__(
        self,
        settings: Model,
        image_size: int | tuple[int, int],
        num_classes: int,
        num_features: int = 0,
        channels: int = 1,
    ):
        super().__init__()
        assert not num_features, "a ResNet takes images only"
        self.stem = Stem(channels, settings.stem)
        self.head = nn.Linear(self.stem.channels, num_classes)

    def forward(self, images: Tensor, features: Tensor | None = None) -> Tensor:
        return self.head(self.stem(images).mean(dim=(2, 3)))


#: by ``model.architecture``
NETWORKS: dict[str, type[ViT] | type[ResNet]] = {
    "vit": ViT,
    "vit_pytorch": VitPytorch,
    "resnet": ResNet,
}
