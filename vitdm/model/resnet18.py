"""ResNet18, written from the paper: He, Zhang, Ren & Sun 2016, CVPR, arXiv:1512.03385, table 1."""

from __future__ import annotations

from torch import Tensor, nn

from vitdm.config import Model
from vitdm.errors import InputError

WIDTHS = (64, 128, 256, 512)  # of the four stages, of two blocks each


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is projected where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            *convolved(channels, width, 3, stride), nn.ReLU(), *convolved(width, width, 3, 1)
        )
        same = stride == 1 and channels == width
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(*convolved(channels, width, 1, stride))
        )

    def forward(self, maps: Tensor) -> Tensor:
        return (self.body(maps) + self.shortcut(maps)).relu()


def convolved(channels: int, width: int, size: int, stride: int) -> tuple[nn.Module, nn.Module]:
    """Return a convolution and its batch normalisation, by which it needs no bias."""
    convolution = nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution, nn.BatchNorm2d(width)


class ResNet18(nn.Module):
    """The 18-layer ResNet: a 7x7 convolution, max pooling, eight blocks, mean pooling, a head.

    It takes images of any size, of which it halves the sides five times, and no features; of the
    settings of a model it reads none but these.
    """

    def __init__(
        self,
        settings: Model,
        image_size: int | tuple[int, int],
        num_classes: int,
        num_features: int = 0,
        channels: int = 1,
    ):
        super().__init__()
        if num_features:
            raise InputError(
                f"model.architecture = 'resnet18': found {num_features} features; expected "
                "features off"
            )
        self.first = nn.Sequential(
            *convolved(channels, WIDTHS[0], 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
        )
        blocks, before = [], WIDTHS[0]
        for stage, width in enumerate(WIDTHS):
            blocks += [BasicBlock(before, width, 1 + (stage > 0)), BasicBlock(width, width, 1)]
            before = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, num_classes)

    def forward(self, images: Tensor, features: Tensor | None = None) -> Tensor:
        maps = self.blocks(self.first(images))  # (B, 512, H / 32, W / 32)
        return self.head(maps.mean(dim=(2, 3)))
