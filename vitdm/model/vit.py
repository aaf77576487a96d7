"""A Vision Transformer for small datasets, in one file.

Two ideas of Lee, Lee & Song (2021, arXiv:2112.13492) are switches of the plain Vision Transformer
of Dosovitskiy et al. (2021, arXiv:2010.11929):

- Shifted Patch Tokenization (SPT): a token sees its patch and the four diagonal half-patch shifts.
- Locality Self-Attention (LSA): each head learns the scale of its logits, and no token attends to
  itself.

Read from the end: ``ViT.forward`` is the whole network, and uses the parts above it.

Letters in the shape comments: B images, C channels, H x W pixels, p patch side, N tokens, D width,
h heads, d = D / h, F features, K classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitdm import config

BINS = 8  # of the quantiles of a feature
Shifts = tuple[tuple[int, int], ...]  # down and right, pixels


# ------------------------------------------------------------------------------ convolutional stem


class Stem(nn.Sequential):
    """A small residual network in front of the patches, or by itself.

    (B, C, H, W) to (B, ``channels``, H / 2^n, W / 2^n): a convolution of stride 2 to 16 channels,
    then n - 1 residual blocks, each with twice the channels at half the resolution of the one
    before. A patch is then one of features, which see their neighbourhood (Xiao et al. 2021,
    arXiv:2106.14881).
    """

    def __init__(self, channels: int, halvings: int):
        assert halvings > 0, f"a stem halves the image at least once, not {halvings} times"
        widths = [16 * 2**k for k in range(halvings)]
        super().__init__(
            nn.Conv2d(channels, widths[0], 3, stride=2, padding=1, bias=False),
            *(ResidualBlock(*pair) for pair in itertools.pairwise(widths)),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
        )
        self.channels = widths[-1]
        # a training step takes three quarters of the time
        self.to(memory_format=torch.channels_last)


class ResidualBlock(nn.Module):
    """Two convolutions of 3 x 3 pixels beside one of 1 x 1; half the resolution comes out.

    Each is of what batch normalisation and ReLU leave (He et al. 2016, arXiv:1603.05027).
    """

    def __init__(self, before: int, width: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(before, width, 1, stride=2, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        active = torch.relu(self.norm1(maps))  # (B, before, H, W)
        inner = torch.relu(self.norm2(self.conv1(active)))  # (B, width, H / 2, W / 2)
        return self.shortcut(active) + self.conv2(inner)  # (B, width, H / 2, W / 2)


# --------------------------------------------------------------------- from pixels to tokens (SPT)


def shift_patches(images: Tensor, patch_size: int) -> Tensor:
    """Return the images with their four diagonal half-patch shifts on the channel axis.

    (B, C, H, W) to (B, 5C, H, W): the image, then its content moved left-up, right-up, left-down
    and right-down by ``patch_size // 2`` pixels, zeros where the image ends (arXiv:2112.13492,
    eq. 2).
    """
    return torch.cat([images, *_shifted(images, diagonal_shifts(patch_size))], dim=1)


def diagonal_shifts(patch_size: int) -> Shifts:
    """Return how far SPT moves the content of each shifted image, down and right, pixels."""
    half = patch_size // 2
    return (-half, -half), (-half, half), (half, -half), (half, half)


def _shifted(images: Tensor, shifts: Shifts) -> list[Tensor]:
    """Return the images (..., H, W) with their content moved, zeros where they end."""
    height, width = images.shape[-2:]
    r = _reach(shifts)
    padded = functional.pad(images, (r, r, r, r))  # (..., H + 2r, W + 2r)
    # content that moves down by y is found y rows further up
    return [padded[..., r - y : r - y + height, r - x : r - x + width] for y, x in shifts]


def _reach(shifts: Shifts) -> int:
    """Return the largest step of all shifts along one axis, pixels."""
    return max(abs(step) for shift in shifts for step in shift)


class PatchEmbedding(nn.Module):
    """Cut an image into patches and project each to a token; with SPT from the shifted stack.

    With SPT the token of a patch is E LN(x) + b, x (5 C p p,) being the patch and its shifts and LN
    a layer normalisation with scale g and offset c. As E LN(x) = (E g x - mean(x) E g) / s + E c,
    the stack is never made: E g x is one convolution with a kernel as large as all that the token
    sees, (p + 2 (p // 2)) squared, and mean and s come from sums over patches.
    """

    shifts: Callable[[int], Shifts] = staticmethod(diagonal_shifts)

    def __init__(self, patch_size: int, channels: int, embed_dim: int, spt: bool):
        super().__init__()
        self.patch_size = patch_size
        self.spt = spt
        values = channels * patch_size**2 * (5 if spt else 1)  # that a token sees
        self.norm = nn.LayerNorm(values) if spt else nn.Identity()
        self.project = nn.Linear(values, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        p, c = self.patch_size, images.shape[1]
        if self.spt:
            tokens = self._of_shifted_patches(images)  # (B, D, H / p, W / p)
        else:
            # a linear map of each patch is a convolution whose stride is the patch
            kernel = self.project.weight.view(-1, c, p, p)  # (D, C, p, p)
            tokens = functional.conv2d(images, kernel, self.project.bias, stride=p)
        return tokens.flatten(2).transpose(1, 2)  # (B, D, H / p, W / p) to (B, N, D)

    def _of_shifted_patches(self, images: Tensor) -> Tensor:
        """Return the tokens (B, D, H / p, W / p) of SPT; letters as in the formula above."""
        p, c = self.patch_size, images.shape[1]
        shifts = self.shifts(p)
        weight = self.project.weight * self.norm.weight  # E g, (D, 5 C p p)
        offset = self.project.bias + self.project.weight @ self.norm.bias  # b + E c, (D,)
        kernel = _joint_kernel(weight.view(-1, 5, c, p, p), shifts)  # (D, C, q, q)
        tokens = functional.conv2d(images, kernel, stride=p, padding=_reach(shifts))  # E g x
        mean, variance = _stack_moments(images, p, shifts)  # (B, H / p, W / p)
        tokens = tokens - mean[:, None] * weight.sum(dim=1)[:, None, None]  # - mean(x) E g
        tokens = tokens * torch.rsqrt(variance + self.norm.eps)[:, None]  # / s
        return tokens + offset[:, None, None]


def _joint_kernel(weight: Tensor, shifts: Shifts) -> Tensor:
    """Return one kernel (D, C, q, q) for an image and its shifts (D, 5, C, p, p).

    q = p + 2 reach: each of the five kernels lies where its patch is in the original image.
    """
    r = _reach(shifts)
    joint = functional.pad(weight[:, 0], (r, r, r, r))  # (D, C, q, q)
    for k, (y, x) in enumerate(shifts, start=1):
        # of content that moved down by y, the patch sees what lies y rows further up
        joint = joint + functional.pad(weight[:, k], (r - x, r + x, r - y, r + y))
    return joint


def _stack_moments(images: Tensor, patch_size: int, shifts: Shifts) -> tuple[Tensor, Tensor]:
    """Return mean and variance of all that each token sees with SPT, (B, H / p, W / p).

    The mean of the image and its shifts over a patch is that of five patches of the image. All of
    these are made of whole tiles of ``unit`` pixels, so that tiles are averaged first.
    """
    unit = math.gcd(patch_size, _reach(shifts))  # px: patches and shifts are multiples
    moments = torch.stack([images.mean(dim=1), images.square().mean(dim=1)], dim=1)  # (B, 2, H, W)
    moments = functional.avg_pool2d(moments, unit)  # (B, 2, H / unit, W / unit)
    seen = [moments, *_shifted(moments, tuple((y // unit, x // unit) for y, x in shifts))]
    mean, square = functional.avg_pool2d(sum(seen) / 5, patch_size // unit).unbind(dim=1)
    return mean, (square - mean**2).clamp(min=0)  # rounding may leave a negative variance


# ----------------------------------------------------------------------------- attention (LSA)


class Attention(nn.Module):
    """Multi-head self-attention; with LSA a learnt scale per head and a masked diagonal.

    softmax(s_h Q K^T + M) V with M = -inf on the diagonal and s_h starting at d^(-1/2)
    (arXiv:2112.13492, eqs. 5-7). Without LSA, s_h = d^(-1/2) and M = 0.
    """

    def __init__(self, embed_dim: int, num_heads: int, num_tokens: int, lsa: bool, dropout: float):
        super().__init__()
        assert embed_dim % num_heads == 0, (
            f"the heads share the width: {embed_dim} is not a multiple of {num_heads}"
        )
        self.num_heads = num_heads
        self.lsa = lsa
        self.dropout = dropout
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)  # rows: queries, keys, values
        self.project = nn.Linear(embed_dim, embed_dim)
        if lsa:
            assert num_tokens > 1, "with LSA a token attends to the others: it needs another one"
            self.scale = self.new_scale(num_heads, embed_dim // num_heads)
            mask = torch.zeros(num_tokens, num_tokens).fill_diagonal_(-math.inf)  # M, (N, N)
            self.register_buffer("mask", mask, persistent=False)

    def new_scale(self, num_heads: int, head_dim: int) -> nn.Parameter:
        """Return the parameter of LSA's scales at their start."""
        return nn.Parameter(torch.full((num_heads, 1, 1), head_dim**-0.5))

    def scales(self) -> Tensor:
        """Return LSA's s_h, (h, 1, 1), or one for all heads."""
        return self.scale

    def _split(self, tokens: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first ``queries`` (default: all), and keys and values, each (B, h, N, d)."""
        width = tokens.shape[-1]
        d = width // self.num_heads
        weight = self.qkv.weight[:width]  # of the queries, (D, D)
        if self.lsa:
            # scaled_dot_product_attention divides by sqrt(d): put the learnt scale into q, by way
            # of its weight, which is smaller
            scales = self.scales().expand(self.num_heads, 1, 1).flatten()  # (h,)
            weight = weight * (scales * d**0.5).repeat_interleave(d)[:, None]  # (D, D)
        q = functional.linear(tokens[:, :queries], weight)  # (B, queries, D)
        k, v = functional.linear(tokens, self.qkv.weight[width:]).chunk(2, dim=-1)  # (B, N, D)
        # (B, N, D) to (B, N, h, d) to (B, h, N, d)
        return tuple(part.unflatten(-1, (-1, d)).transpose(1, 2) for part in (q, k, v))

    def forward(self, tokens: Tensor, queries: int | None = None) -> Tensor:
        """Return what the first ``queries`` tokens (default: all) get from all, (B, N, D)."""
        q, k, v = self._split(tokens, queries)  # (B, h, N, d)
        mixed = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=self.mask[:queries] if self.lsa else None,
            dropout_p=self.dropout if self.training else 0.0,
        )  # (B, h, N, d)
        return self.project(mixed.transpose(1, 2).flatten(2))  # (B, N, h, d) to (B, N, D)

    def similarity(self, tokens: Tensor) -> Tensor:
        """Return Q K^T, (B, h, N, N), before scale and mask."""
        weight = self.qkv.weight[: 2 * tokens.shape[-1]]  # of queries and keys, (2D, D)
        q, k = functional.linear(tokens, weight).chunk(2, dim=-1)  # (B, N, D)
        q, k = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k))
        return q @ k.transpose(-2, -1)  # (B, h, N, d) @ (B, h, d, N) to (B, h, N, N)

    def weights(self, tokens: Tensor) -> Tensor:
        """Return the attention weights, (B, h, N, N); each row sums to 1."""
        if not self.lsa:
            d = tokens.shape[-1] // self.num_heads
            return (self.similarity(tokens) * d**-0.5).softmax(dim=-1)
        return (self.similarity(tokens) * self.scales() + self.mask).softmax(dim=-1)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each with a shortcut and a LayerNorm.

    The norm comes before each of both (pre-norm), or after their sum with the shortcut (post-norm,
    as in Vaswani et al. 2017; Xiong et al. 2020, arXiv:2002.04745, compare them).
    """

    def __init__(
        self, settings: config.Model, num_tokens: int, attention: type[Attention] = Attention
    ):
        super().__init__()
        width = settings.embed_dim
        hidden = round(width * settings.mlp_ratio)
        self.pre = settings.norm == "pre"
        self.norm1 = nn.LayerNorm(width)
        self.attention = attention(
            width, settings.num_heads, num_tokens, settings.lsa, settings.dropout
        )
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.drop = nn.Dropout(settings.dropout) if settings.dropout else nn.Identity()

    def forward(self, tokens: Tensor, queries: int | None = None) -> Tensor:
        """Return the first ``queries`` tokens (default: all N) after the block, (B, N, D)."""
        mixed = self.drop(self.attention(self.norm1(tokens) if self.pre else tokens, queries))
        tokens = tokens[:, :queries] + mixed  # (B, N, D)
        if self.pre:
            return tokens + self.drop(self.mlp(self.norm2(tokens)))
        tokens = self.norm1(tokens)
        return self.norm2(tokens + self.drop(self.mlp(tokens)))


# -------------------------------------------------------------------------------------- features


class JoinsFeatures:
    """What a network has that joins features: their quantiles, and one hidden layer."""

    def _take_features(self, num_features: int, width: int, dropout: float) -> None:
        """Make buffers and hidden layer of ``width`` for features, if there are any."""
        self.num_features = num_features
        if not num_features:
            return
        self.register_buffer("feature_middle", torch.zeros(num_features))
        self.register_buffer("feature_width", torch.ones(num_features))
        edges = torch.linspace(-1, 1, BINS + 1)[:, None].repeat(1, num_features)
        self.register_buffer("feature_edges", edges)  # (BINS + 1, F)
        self.feature_embed = nn.Sequential(
            nn.Linear((2 + BINS) * num_features, width), nn.GELU(), nn.Dropout(dropout)
        )

    def embed_features(self, features: Tensor | None) -> Tensor:
        """Return the hidden layer of the features, (B, D), from raw features (B, F)."""
        assert features is not None, f"this model needs {self.num_features} features"
        return self.feature_embed(self.encode(features))

    def encode(self, features: Tensor) -> Tensor:
        """Return what the hidden layer sees of raw features (B, F): (B, 10 F).

        Each feature is given as arcsinh of its standardised value, which leaves the middle of a
        distribution as it is and draws in its tails (residuals of lens fits span orders of
        magnitude); as its place among the quantiles of the training images, piecewise linear from
        -1 to 1 in each of 8 bins (Gorishniy, Rubachev & Babenko 2022, arXiv:2203.05556, eq. 1);
        and by an indicator of its absence (NaN), which puts the others to 0.
        """
        missing = features.isnan()  # (B, F)
        standard = torch.arcsinh((features - self.feature_middle) / self.feature_width)  # (B, F)
        low, width = self.feature_edges[:-1], self.feature_edges.diff(dim=0)  # (8, F)
        # a bin between equal quantiles says nothing: 0
        place = (features[:, None] - low) / torch.where(width > 0, width, 1.0)  # (B, 8, F)
        place = torch.where(width > 0, 2 * place.clamp(0, 1) - 1, 0.0)  # (B, 8, F)
        known = torch.cat([standard[:, None], place], dim=1)  # (B, 9, F)
        known = known.masked_fill(missing[:, None], 0.0)
        return torch.cat([known, missing[:, None].to(known)], dim=1).flatten(1)  # (B, 10 F)

    def standardise(self, features: Tensor) -> None:
        """Keep median, half the central 68 % and quantiles of the training features (n, F)."""
        assert features.shape[1] == self.num_features, (
            f"this model needs {self.num_features} features, not {features.shape[1]}"
        )
        quantiles = torch.tensor([0.16, 0.5, 0.84], dtype=features.dtype)
        # (F,) each; 0 where no image has a value
        low, middle, high = features.nanquantile(quantiles, dim=0).nan_to_num(0.0)
        width = (high - low) / 2
        spread = (features - middle).square().nanmean(dim=0).sqrt().nan_to_num(0.0)
        width = torch.where(width > 0, width, spread)  # most values are equal, but not all
        self.feature_middle.copy_(middle)
        self.feature_width.copy_(torch.where(width > 0, width, 1.0))  # all are equal
        edges = torch.linspace(0, 1, BINS + 1, dtype=features.dtype)
        self.feature_edges.copy_(features.nanquantile(edges, dim=0).nan_to_num(0.0))


# ------------------------------------------------------------------------------ the whole network


class ViT(JoinsFeatures, nn.Module):
    """Vision Transformer over images of one size, with or without physics features.

    ``settings`` says which ideas are on; ``image_size`` is the side, or (height, width), in pixels.
    Features are encoded by the quantiles of the training images (``encode``) and go through one
    hidden layer. What comes out joins by ``settings.join``: concatenated to the pooled token before
    the head, or as a further token, the last, to which the others attend.
    ValueError if the patches do not tile the image.
    """

    patch_embedding = PatchEmbedding
    attention_layer = Attention

    def __init__(
        self,
        settings: config.Model,
        image_size: int | tuple[int, int],
        num_classes: int,
        num_features: int = 0,
        channels: int = 1,
    ):
        super().__init__()
        config.check_patches(settings, image_size)
        self.settings = settings
        width = settings.embed_dim
        rows, columns = (
            side // settings.patch_size
            for side in ((image_size,) * 2 if isinstance(image_size, int) else image_size)
        )
        self.joins = settings.join if num_features else None
        self.stem = Stem(channels, settings.stem) if settings.stem else nn.Identity()
        if settings.stem:
            channels = self.stem.channels
        # N: the patches, and maybe a class token before and the features after them
        num_tokens = rows * columns + (settings.pool == "cls") + (self.joins == "token")
        patch_size = settings.patch_size // 2**settings.stem  # of the stem's maps
        self.embed = self.patch_embedding(patch_size, channels, width, settings.spt)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if settings.pool == "cls" else None
        self.num_tokens = num_tokens
        self.position = None
        if settings.position == "learned":
            self.position = nn.Parameter(torch.zeros(1, num_tokens, width))
        self.blocks = nn.ModuleList(
            Block(settings, num_tokens, self.attention_layer) for _ in range(settings.depth)
        )
        self.norm = nn.LayerNorm(width)
        self._take_features(num_features, width, settings.feature_dropout)
        self.head = nn.Linear(width * (2 if self.joins == "head" else 1), num_classes)
        self.apply(_initialise)
        if self.position is not None:
            nn.init.trunc_normal_(self.position, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor, features: Tensor | None = None) -> Tensor:
        """Return logits (B, K) of images (B, C, H, W) and features (B, F), if the model has any."""
        pooled = self.forward_features(images, features)  # (B, D)
        if self.joins == "head":
            pooled = torch.cat([pooled, self.embed_features(features)], dim=1)  # (B, 2D)
        return self.head(pooled)  # (B, K)

    def forward_features(self, images: Tensor, features: Tensor | None = None) -> Tensor:
        """Return one vector an image, (B, D): the class token, or the mean of all tokens."""
        tokens = self.tokens(images, features)  # (B, N, D)
        for block in self.blocks[:-1]:
            tokens = block(tokens)  # (B, N, D)
        # of the last block only what is pooled is needed: the class token, or all
        tokens = self.blocks[-1](tokens, None if self.cls_token is None else 1)
        return self.norm(tokens).mean(dim=1)  # (B, 1 or N, D) to (B, D)

    def tokens(self, images: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the tokens that enter the first block, (B, N, D): class, patches, features."""
        tokens = self.embed(self.stem(images))  # (B, H W / p^2, D)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        if self.joins == "token":
            tokens = torch.cat([tokens, self.embed_features(features)[:, None]], dim=1)
        n = self.num_tokens
        assert tokens.shape[1] == n, f"this network takes images of {n} tokens, all of one size"
        return tokens if self.position is None else tokens + self.position  # (B, N, D)

    def attention(self, images: Tensor, features: Tensor | None = None) -> list[Tensor]:
        """Return each block's attention weights, (B, h, N, N)."""
        tokens = self.tokens(images, features)  # (B, N, D)
        weights = []
        for block in self.blocks:
            weights.append(block.attention.weights(block.norm1(tokens) if block.pre else tokens))
            tokens = block(tokens)
        return weights


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Return optimiser groups: weight decay on matrices only (no biases, norms, embeddings)."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and name.endswith("weight")
        (matrices if decays else others).append(parameter)
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _initialise(module: nn.Module) -> None:
    """Draw the weights of linear layers from a narrow normal distribution; no biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
