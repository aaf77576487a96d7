"""The networks by name, and rivals of the ViT: a CNN, a ResNet, vit-pytorch's SPT and LSA.

A network of one's own is a class with ``@register("name")`` above it; ``model.architecture: name``
then selects it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from vitdm.config import ARCHITECTURES, Model
from vitdm.errors import InputError, shown
from vitdm.model.resnet18 import ResNet18
from vitdm.model.vit import Attention, JoinsFeatures, PatchEmbedding, Shifts, Stem, ViT

#: by ``model.architecture``
NETWORKS: dict[str, type[nn.Module]] = {}


def register(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Make a class of networks known by a name, in settings that are read from now on.

    It is called with ``settings`` (Model), ``image_size`` (side, or height and width, pixels),
    ``num_classes``, ``num_features`` and ``channels``, and raises InputError if it cannot be built
    with them. The network returns logits (B, K) of images (B, C, H, W) and raw features (B, F),
    NaN where missing; if it takes features, ``standardise`` gets those of all training images.
    """

    def add(network: type[nn.Module]) -> type[nn.Module]:
        assert name not in NETWORKS, f"there is a network {name!r} already"
        NETWORKS[name] = network
        if name not in ARCHITECTURES:
            ARCHITECTURES.append(name)
        return network

    return add


def new_network(
    model: Model, size: int | tuple[int, int], n_classes: int, n_features: int
) -> nn.Module:
    """Return an untrained network for these settings; InputError if there is no such network."""
    if model.architecture not in NETWORKS:
        known = ", ".join(sorted(NETWORKS))
        raise InputError(
            f"model.architecture: found {shown(model.architecture)}; expected one of: {known}"
        )
    channels = len(model.maps) or (3 if model.residual else 1)
    return NETWORKS[model.architecture](model, size, n_classes, n_features, channels=channels)


def probabilities(
    network: nn.Module,
    images: Tensor,
    features: Tensor | None,
    batch: int = 256,
    average: bool = False,
) -> np.ndarray:
    """Return a network's probability of each class, (n, K), of images (n, C, H, W).

    It is asked on the device that it is on; with ``average`` the answer is the mean of the
    probabilities of the eight mirror images and quarter turns, of square images.
    """
    batches = []
    for answers in outputs(network, images, features, batch, average):
        views = [answer.softmax(dim=1) for answer in answers]
        batches.append(torch.stack(views).mean(dim=0).cpu().numpy())
    return np.concatenate(batches).astype(np.float64)


@torch.inference_mode()
def outputs(
    network: nn.Module,
    images: Tensor,
    features: Tensor | None,
    batch: int = 256,
    average: bool = False,
) -> Iterator[list[Tensor]]:
    """Give the outputs (B, K) of a network for each batch of images: of each view, or of the one.

    With ``average`` there are eight views, as of ``symmetries``. On the network's device.
    """
    network.eval()
    device = next(network.parameters()).device
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        extra = None if features is None else features[rows].to(device)
        given = in_single(images[rows]).to(device)
        views = symmetries(given) if average else [given]
        yield [network(view, extra) for view in views]


def representation(
    network: nn.Module, images: Tensor, features: Tensor | None, batch: int = 256
) -> np.ndarray:
    """Return what enters a network's last layer ``head``, (n, D); its logits if there is no such.

    Arguments as of ``probabilities``.
    """
    network.eval()
    device, seen = next(network.parameters()).device, []
    head = getattr(network, "head", None)
    with torch.inference_mode(), contextlib.ExitStack() as stack:
        if head is not None:
            hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
            stack.callback(hook.remove)
        for start in range(0, len(images), batch):
            rows = slice(start, start + batch)
            extra = None if features is None else features[rows].to(device)
            logits = network(in_single(images[rows]).to(device), extra)
            seen += [logits] if head is None else []
    return torch.cat(seen).flatten(1).cpu().numpy().astype(np.float64)


def in_single(images: Tensor) -> Tensor:
    """Return images that are kept in half precision in single, others as they are."""
    return images.float() if images.dtype == torch.float16 else images


def symmetries(images: Tensor) -> list[Tensor]:
    """Return square images (n, C, H, H) with their mirror images and quarter turns, eight."""
    turned = images, images.transpose(2, 3)
    mirrors = [], [2], [3], [2, 3]
    return [image.flip(axes) for image in turned for axes in mirrors]


register("vit")(ViT)
register("resnet18")(ResNet18)


# ------------------------------------------------------------------------- baseline networks


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


@register("vit_pytorch")
class VitPytorch(ViT):
    """The ViT with SPT and LSA as vit-pytorch's ``vit_for_small_dataset`` has them.

    They differ from Lee, Lee & Song (2021, arXiv:2112.13492), whose shifts are diagonal, by half a
    patch, and whose scales are one for each head; all else is the same.
    """

    patch_embedding = AxialEmbedding
    attention_layer = OneTemperature


@register("resnet")
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
        if num_features or not settings.stem:
            raise InputError(
                f"model.architecture = 'resnet': found {num_features} features, stem "
                f"{settings.stem}; expected features off and a stem of 1 or more"
            )
        self.stem = Stem(channels, settings.stem)
        self.head = nn.Linear(self.stem.channels, num_classes)

    def forward(self, images: Tensor, features: Tensor | None = None) -> Tensor:
        return self.head(self.stem(images).mean(dim=(2, 3)))  # (B, C, H, W) to (B, K)


@register("cnn")
class CNN(JoinsFeatures, nn.Module):
    """Six convolutions of 3 x 3, the mean over the image, a linear head: a rival for maps.

    Two convolutions, each with batch normalisation and ReLU, at each of three resolutions, of 24,
    48 and 96 channels; the largest of 2 x 2 goes on to the next. Features join beside the mean, as
    with ``join: head``. Of the settings only those of features count.
    """

    WIDTHS = (24, 48, 96)

    def __init__(
        self,
        settings: Model,
        image_size: int | tuple[int, int],
        num_classes: int,
        num_features: int = 0,
        channels: int = 1,
    ):
        super().__init__()
        sides = (image_size,) * 2 if isinstance(image_size, int) else image_size
        if min(sides) < 4 or (num_features and settings.join == "token"):
            raise InputError(
                f"model.architecture = 'cnn': found sides {sides}, join {settings.join!r}; "
                "expected at least 4 pixels, and join: head if features join"
            )
        layers: list[nn.Module] = []
        for k, width in enumerate(self.WIDTHS):
            layers += [nn.MaxPool2d(2)] * (k > 0)
            for before in (channels if k == 0 else self.WIDTHS[k - 1], width):
                layers += [nn.Conv2d(before, width, 3, padding=1, bias=False)]
                layers += [nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self._take_features(num_features, width, settings.feature_dropout)
        self.head = nn.Linear(width * (2 if num_features else 1), num_classes)

    def forward(self, images: Tensor, features: Tensor | None = None) -> Tensor:
        """Return logits (B, K) of images (B, C, H, W) and features (B, F), if there are any."""
        pooled = self.layers(images).mean(dim=(2, 3))  # (B, D)
        if self.num_features:
            pooled = torch.cat([pooled, self.embed_features(features)], dim=1)  # (B, 2D)
        return self.head(pooled)
