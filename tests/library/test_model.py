"""The Vision Transformer against loops over patches, tokens and heads in plain NumPy."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn
from torch.nn import functional

from studies.plots import model as model_plots
from vitdm import config
from vitdm.errors import InputError
from vitdm.model import vit as model
from vitdm.model.networks import NETWORKS, ResNet, new_network, probabilities
from vitdm.model.resnet18 import ResNet18
from vitdm.model.vit import ViT, parameter_groups, shift_patches

SIZE = 12


def vit(features=0, channels=1, size=SIZE, classes=3, seed=0, **settings):
    """A small model whose parameters are all random, those that start at 0 or 1 as well."""
    small = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3}
    torch.manual_seed(seed)
    settings = config.Model(**(small | settings))
    net = NETWORKS[settings.architecture](settings, size, classes, features, channels)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net.eval()


def pixels(batch=2, channels=1, size=SIZE, seed=1):
    sides = (size, size) if isinstance(size, int) else size
    return torch.from_numpy(
        np.random.default_rng(seed).normal(size=(batch, channels, *sides)).astype(np.float32)
    )


def array(tensor):
    return tensor.detach().numpy().astype(float)


# ------------------------------------------------------------------------ the same in loops


def shift(image, dy, dx):
    """Image (C, H, W) whose pixel (y, x) is pixel (y + dy, x + dx) of the original, or 0."""
    c, height, width = image.shape
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                out[:, y, x] = image[:, y + dy, x + dx]
    return out


def layer_norm(values, layer):
    spread = np.sqrt(((values - values.mean()) ** 2).mean() + 1e-5)
    return (values - values.mean()) / spread * array(layer.weight) + array(layer.bias)


def features_by_loops(net, features):
    """The hidden layer (D,) of the raw features (F,) of one image."""
    known = np.isfinite(features)
    rows = [np.arcsinh((features - array(net.feature_middle)) / array(net.feature_width))]
    edges = array(net.feature_edges)
    for k in range(len(edges) - 1):
        ends = zip(features, edges[k], edges[k + 1], strict=True)
        rows.append([np.interp(x, [low, high], [-1, 1]) * (low < high) for x, low, high in ends])
    values = np.concatenate([*np.where(known, rows, 0), ~known])
    hidden = array(net.feature_embed[0].weight) @ values + array(net.feature_embed[0].bias)
    return hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))


def tokens_by_loops(net, image, features=None):
    """Tokens (N, D) that enter the first block, for one image (C, H, W)."""
    p, spt = net.settings.patch_size, net.settings.spt
    h = p // 2
    moves = [(h, h), (h, -h), (-h, h), (-h, -h)]
    if net.settings.architecture == "vit_pytorch":
        moves = [(0, -1), (0, 1), (-1, 0), (1, 0)]
    moves = [(0, 0), *(moves if spt else [])]
    stack = np.concatenate([shift(image, *move) for move in moves])
    tokens = []
    for y in range(0, image.shape[1], p):
        for x in range(0, image.shape[2], p):
            values = [
                channel[y + j, x + i] for channel in stack for j in range(p) for i in range(p)
            ]
            assert len(values) == (5 if spt else 1) * len(image) * p * p
            values = layer_norm(np.array(values), net.embed.norm) if spt else np.array(values)
            layer = net.embed.project
            tokens.append(array(layer.weight) @ values + array(layer.bias))
    if net.settings.pool == "cls":
        tokens.insert(0, array(net.cls_token)[0, 0])
    if net.joins == "token":
        tokens.append(features_by_loops(net, features))
    return np.array(tokens) + array(net.position)[0]


def attention_by_loops(layer, tokens, lsa):
    """softmax(s_h Q K^T + mask) V of each head, and the weights (h, N, N)."""
    n, width = tokens.shape
    d = width // layer.num_heads
    w = array(layer.qkv.weight)  # rows: queries, keys, values
    mixed, all_weights = np.zeros((n, width)), np.zeros((layer.num_heads, n, n))
    for h in range(layer.num_heads):
        part = slice(h * d, (h + 1) * d)
        q, k, v = (tokens @ w[i * width : (i + 1) * width][part].T for i in range(3))
        scale = 1 / math.sqrt(d)
        if lsa:  # a scale for each head, or the logarithm of one for all
            scale = (
                layer.scale[h, 0, 0].item() if layer.scale.ndim else math.exp(layer.scale.item())
            )
        for i in range(n):
            others = [j for j in range(n) if not (lsa and j == i)]
            logits = np.array([scale * q[i] @ k[j] for j in others])
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            all_weights[h, i, others] = weights
            mixed[i, part] = weights @ v[others]
    return mixed @ array(layer.project.weight).T + array(layer.project.bias), all_weights


def forward_by_loops(net, image, features=None):
    tokens = tokens_by_loops(net, image, features)

    def normed(layer):
        return np.array([layer_norm(token, layer) for token in tokens])

    for block in net.blocks:
        mixed, _ = attention_by_loops(block.attention, normed(block.norm1), net.settings.lsa)
        tokens = tokens + mixed
        first, _, second = block.mlp
        hidden = normed(block.norm2) @ array(first.weight).T + array(first.bias)
        hidden = hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))
        tokens = tokens + hidden @ array(second.weight).T + array(second.bias)
    tokens = normed(net.norm)
    return tokens[0] if net.settings.pool == "cls" else tokens.mean(axis=0)


# ------------------------------------------------------------------------ tokens


@pytest.mark.parametrize(("patch_size", "channels"), [(4, 1), (3, 1), (6, 2), (1, 1)])
def test_shifts_are_the_four_half_patch_diagonals(patch_size, channels):
    images = pixels(channels=channels)
    stack = shift_patches(images, patch_size)
    assert stack.shape == (2, 5 * channels, SIZE, SIZE)
    half = patch_size // 2
    diagonals = [(dy, dx) for dy in (-half, half) for dx in (-half, half)]
    for image, found in zip(images.numpy(), stack.numpy(), strict=True):
        np.testing.assert_array_equal(found[:channels], image)
        groups = found[channels:].reshape(4, channels, SIZE, SIZE)
        expected = [shift(image, *move) for move in diagonals]
        assert sorted(g.tobytes() for g in groups) == sorted(e.tobytes() for e in expected)


def test_shifts_move_the_content_as_the_names_say():
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 3, 4] = 1  # row, column
    places = [tuple(np.argwhere(channel)[0]) for channel in shift_patches(image, 4)[0].numpy()]
    assert places == [(3, 4), (1, 2), (1, 6), (5, 2), (5, 6)]


@pytest.mark.parametrize(
    ("settings", "channels", "size"),
    [
        ({}, 1, SIZE),
        ({"patch_size": 3}, 1, SIZE),
        ({"patch_size": 6}, 3, SIZE),
        ({"spt": False}, 2, SIZE),
        ({"pool": "mean"}, 1, SIZE),
        ({}, 1, (8, 20)),
        ({"patch_size": 3}, 2, (15, 6)),
        ({"patch_size": 5, "pool": "mean"}, 3, (5, 15)),
        ({"patch_size": 2}, 1, (4, 6)),
        ({"spt": False}, 2, (16, 4)),
    ],
)
def test_tokens(settings, channels, size):
    net, images = vit(channels=channels, size=size, **settings), pixels(2, channels, size)
    found = array(net.tokens(images))
    assert found.shape[1] == net.position.shape[1]
    for image, tokens in zip(images.numpy().astype(float), found, strict=True):
        np.testing.assert_allclose(tokens, tokens_by_loops(net, image), atol=1e-5)


# ------------------------------------------------------------------------ attention


@pytest.mark.parametrize("lsa", [True, False])
def test_attention(lsa):
    torch.manual_seed(0)
    layer = model.Attention(12, 3, 7, lsa, 0.0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    tokens = torch.randn(2, 7, 12)
    found, weights = array(layer(tokens)), array(layer.weights(tokens))
    for k in range(2):
        expected, expected_weights = attention_by_loops(layer, array(tokens[k]), lsa)
        np.testing.assert_allclose(found[k], expected, atol=1e-5 * np.abs(expected).max())
        np.testing.assert_allclose(weights[k], expected_weights, atol=1e-5)


def test_attention_without_lsa_is_torchs():
    torch.manual_seed(0)
    layer = model.Attention(12, 3, 7, False, 0.0)
    other = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        other.in_proj_weight.copy_(layer.qkv.weight)
        other.in_proj_bias.zero_()
        other.out_proj.load_state_dict(layer.project.state_dict())
    tokens = torch.randn(2, 7, 12)
    torch.testing.assert_close(layer(tokens), other(tokens, tokens, tokens)[0])


def test_weights_of_attention():
    maps = vit(lsa=True).attention(pixels())
    assert [tuple(m.shape) for m in maps] == [(2, 3, 10, 10)] * 2  # 9 patches and the class token
    for m in maps:
        assert (torch.diagonal(m, dim1=-2, dim2=-1) == 0).all()
        torch.testing.assert_close(m.sum(-1), torch.ones(2, 3, 10))
    for m in vit(lsa=False).attention(pixels()):
        assert (torch.diagonal(m, dim1=-2, dim2=-1) > 0).all()
        torch.testing.assert_close(m.sum(-1), torch.ones(2, 3, 10))


def test_attention_maps_are_those_of_the_forward_pass():
    net, images = vit(), pixels(batch=1)
    tokens = tokens_by_loops(net, images[0].numpy().astype(float))
    normed = np.array([layer_norm(token, net.blocks[0].norm1) for token in tokens])
    _, expected = attention_by_loops(net.blocks[0].attention, normed, lsa=True)
    np.testing.assert_allclose(array(net.attention(images)[0][0]), expected, atol=1e-5)


def test_scale_of_each_head_is_learnt():
    net = ViT(config.Model(patch_size=4, embed_dim=32, num_heads=2, depth=1), SIZE, 2)
    scale = net.blocks[0].attention.scale
    np.testing.assert_allclose(array(scale).ravel(), [16**-0.5] * 2, rtol=1e-6)
    net.head.weight.data.normal_()
    net(pixels())[:, 0].sum().backward()
    assert scale.grad.shape == scale.shape and (scale.grad != 0).all()
    plain = ViT(config.Model(patch_size=4, lsa=False), SIZE, 2)
    assert not [name for name, _ in plain.named_parameters() if "scale" in name]


# ------------------------------------------------------------------------ the whole model


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, SIZE),
        ({"spt": False}, SIZE),
        ({"lsa": False}, SIZE),
        ({"spt": False, "lsa": False}, SIZE),
        ({"pool": "mean"}, SIZE),
        ({"patch_size": 3, "num_heads": 2, "mlp_ratio": 3.0, "depth": 1}, SIZE),
        ({}, (8, 20)),
        ({"patch_size": 3, "pool": "mean"}, (15, 6)),
        ({"architecture": "vit_pytorch"}, SIZE),
        ({"architecture": "vit_pytorch", "patch_size": 3}, (15, 6)),
    ],
)
def test_forward(settings, size):
    net, images = vit(size=size, **settings), pixels(size=size)
    logits, vectors = array(net(images)), array(net.forward_features(images))
    for k, image in enumerate(images.numpy().astype(float)):
        expected = forward_by_loops(net, image)
        np.testing.assert_allclose(vectors[k], expected, atol=2e-5 * np.abs(expected).max())
        head = array(net.head.weight) @ expected + array(net.head.bias)
        np.testing.assert_allclose(logits[k], head, atol=5e-5 * np.abs(head).max())


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_without_spt_and_lsa_it_is_a_plain_vision_transformer(norm):
    """The same weights in torch's own convolution and encoder layers."""
    net = vit(spt=False, lsa=False, norm=norm, channels=2, size=(8, 20))
    images = pixels(2, 2, (8, 20))
    cut = nn.Conv2d(2, 12, kernel_size=4, stride=4)
    cut.weight.data.copy_(net.embed.project.weight.view(12, 2, 4, 4))
    cut.bias.data.copy_(net.embed.project.bias)
    tokens = cut(images).flatten(2).transpose(1, 2)
    tokens = torch.cat([net.cls_token.expand(2, -1, -1), tokens], dim=1) + net.position
    for block in net.blocks:
        layer = nn.TransformerEncoderLayer(
            12, 3, 24, 0.0, "gelu", batch_first=True, norm_first=norm == "pre"
        )
        own = block.attention
        layer.self_attn.in_proj_weight.data.copy_(own.qkv.weight)
        layer.self_attn.in_proj_bias.data.zero_()
        layer.self_attn.out_proj.load_state_dict(own.project.state_dict())
        for theirs, ours in (
            (layer.norm1, block.norm1),
            (layer.norm2, block.norm2),
            (layer.linear1, block.mlp[0]),
            (layer.linear2, block.mlp[2]),
        ):
            theirs.load_state_dict(ours.state_dict())
        tokens = layer.eval()(tokens)
    expected = net.head(net.norm(tokens)[:, 0])
    torch.testing.assert_close(net(images), expected, rtol=1e-5, atol=1e-5)


def stem_by_functions(stem, images):
    """The layers of a stem in order, batch normalisation with known means and variances."""

    def active(maps, layer):
        spread = torch.sqrt(layer.running_var + layer.eps)[:, None, None]
        standard = (maps - layer.running_mean[:, None, None]) / spread
        return (standard * layer.weight[:, None, None] + layer.bias[:, None, None]).clamp(min=0)

    first, *blocks, norm, _ = stem
    maps = functional.conv2d(images, first.weight, stride=2, padding=1)
    for block in blocks:
        seen = active(maps, block.norm1)
        inner = functional.conv2d(seen, block.conv1.weight, stride=2, padding=1)
        inner = functional.conv2d(active(inner, block.norm2), block.conv2.weight, padding=1)
        maps = functional.conv2d(seen, block.shortcut.weight, stride=2) + inner
    return active(maps, norm)


def test_with_a_stem_patches_are_of_its_maps():
    net = vit(stem=2, channels=2, size=16, patch_size=8)
    with torch.no_grad():
        net.train()(pixels(8, 2, 16))  # means and variances
        net.eval()
        maps = stem_by_functions(net.stem, pixels(1, 2, 16))
        assert maps.shape == (1, 32, 4, 4)
        found = net.stem(pixels(1, 2, 16))
        torch.testing.assert_close(found, maps, rtol=1e-4, atol=1e-4 * found.max().item())
        inner = vit(channels=32, size=4, patch_size=2)
        inner.load_state_dict({k: v for k, v in net.state_dict().items() if "stem" not in k})
        torch.testing.assert_close(net(pixels(1, 2, 16)), inner(found))


def test_a_resnet_is_a_stem_a_mean_and_a_head():
    torch.manual_seed(0)
    net = ResNet(config.Model(architecture="resnet", stem=3, patch_size=8), 16, 3, channels=2)
    with torch.no_grad():
        net(pixels(8, 2, 16))
        net.eval()
        maps = stem_by_functions(net.stem, pixels(2, 2, 16))
        assert maps.shape == (2, 64, 2, 2)
        expected = maps.flatten(2).mean(-1) @ net.head.weight.T + net.head.bias
        torch.testing.assert_close(net(pixels(2, 2, 16)), expected, rtol=1e-4, atol=1e-4)
    expected = "expected features off and a stem of 1 or more"
    for stem, features in ((1, 2), (0, 0)):
        found = f"'resnet': found {features} features, stem {stem}; {expected}"
        with pytest.raises(InputError, match=found):
            new_network(config.Model(architecture="resnet", stem=stem), 16, 3, features)


def resnet18_by_functions(state, x):
    """The 18 layers as He et al. (2016, table 1) list them, in order, from their weights alone."""
    weights = iter([v for k, v in state.items() if v.ndim == 4])
    norms = iter(
        [[state[k.replace("weight", n)] for n in ("running_mean", "running_var", "weight", "bias")]
         for k, v in state.items() if v.ndim == 1 and k.endswith("weight")]
    )  # fmt: skip

    def convolve(x, stride):
        w = next(weights)
        return functional.batch_norm(
            functional.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2), *next(norms)
        )

    x = functional.max_pool2d(functional.relu(convolve(x, 2)), 3, 2, 1)
    for width in (64, 64, 128, 128, 256, 256, 512, 512):
        stride = 1 if x.shape[1] == width else 2
        inner = convolve(functional.relu(convolve(x, stride)), 1)
        x = functional.relu(inner + (x if stride == 1 else convolve(x, 2)))
    return x.flatten(2).mean(-1) @ state["head.weight"].T + state["head.bias"]


def test_resnet18_has_the_layers_of_the_paper():
    """And 11 689 512 parameters with three channels and 1000 classes, as everywhere."""
    torch.manual_seed(0)
    net = ResNet18(config.Model(), 224, 1000, channels=3)
    assert sum(p.numel() for p in net.parameters()) == 11_689_512
    net = new_network(config.Model(architecture="resnet18"), 64, 3, 0)
    with torch.no_grad():
        net(pixels(8, 1, 64))  # batch norms learn
        net.eval()
        found = net(pixels(2, 1, 64))
        expected = resnet18_by_functions(net.state_dict(), pixels(2, 1, 64))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="'resnet18': found 2 features; expected features off"):
        new_network(config.Model(architecture="resnet18"), 64, 3, 2)


def test_a_cnn_is_six_convolutions_a_mean_and_a_head():
    torch.manual_seed(0)
    net = new_network(config.Model(architecture="cnn", maps=["residual", "chi2"]), 16, 3, 0)
    images = pixels(2, 2, 16)
    with torch.no_grad():
        net(pixels(8, 2, 16))
        net.eval()
        maps, k = images, 0
        for layer in net.layers:
            if isinstance(layer, nn.Conv2d):
                maps, k = functional.conv2d(maps, layer.weight, padding=1), k + 1
            elif isinstance(layer, nn.BatchNorm2d):
                scale = layer.weight / torch.sqrt(layer.running_var + layer.eps)
                maps = maps * scale[:, None, None]
                maps = maps + (layer.bias - layer.running_mean * scale)[:, None, None]
                maps = maps.clamp(min=0)
            elif isinstance(layer, nn.MaxPool2d):
                maps = maps.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
        assert k == 6 and maps.shape == (2, 96, 4, 4)
        expected = maps.flatten(2).mean(-1) @ net.head.weight.T + net.head.bias
        torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)
    assert 1.5e5 < sum(p.numel() for p in net.parameters()) < 2.5e5


def test_features_join_a_cnn_beside_the_mean():
    net = new_network(config.Model(architecture="cnn", feature_dropout=0.0), 12, 2, 3).eval()
    features = torch.randn(50, 3)
    net.standardise(features)
    images = pixels(2)
    with torch.no_grad():
        joined = torch.cat([net.layers(images).mean((2, 3)), net.embed_features(features[:2])], 1)
        torch.testing.assert_close(net(images, features[:2]), net.head(joined))
    for size, join in ((12, "token"), (2, "head")):
        with pytest.raises(InputError, match="'cnn': found sides .* expected at least 4 pixels"):
            new_network(config.Model(architecture="cnn", join=join), size, 2, 3)


@pytest.mark.parametrize("position", ["learned", "none"])
def test_without_positions_the_order_of_patches_is_unknown(position):
    net = vit(spt=False, lsa=False, pool="mean", position=position)
    assert (net.position is None) == (position == "none")
    images = pixels(2)
    moved = torch.cat([images[..., 4:8], images[..., :4], images[..., 8:]], dim=-1)
    with torch.no_grad():
        same = torch.allclose(net(images), net(moved), atol=1e-5)
    assert same == (position == "none")


def test_an_average_is_over_the_eight_views():
    net, images = vit(), pixels(3).half()
    views = [np.rot90(side, k, (2, 3)) for side in (images, images.mT) for k in range(4)]
    with torch.no_grad():
        answers = [net(torch.from_numpy(view.copy()).float()).softmax(1) for view in views]
    found = probabilities(net, images, None, average=True)
    np.testing.assert_allclose(found, torch.stack(answers).mean(0), atol=1e-6)
    turned = torch.from_numpy(np.rot90(images, 1, (2, 3)).copy())
    np.testing.assert_allclose(probabilities(net, turned, None, average=True), found, atol=1e-6)
    assert np.abs(probabilities(net, turned, None) - probabilities(net, images, None)).max() > 1e-3


def test_number_of_parameters():
    """Counted by hand for the article's model: 96 pixels in patches of 12, width 96."""
    net = ViT(config.Model(), 96, 3)
    values, width, hidden, tokens = 5 * 12 * 12, 96, 192, 65
    embed = 2 * values + (values + 1) * width + width + tokens * width
    attention = 3 * width**2 + (width + 1) * width + 4
    mlp = (width + 1) * hidden + (hidden + 1) * width
    block = attention + mlp + 2 * 2 * width
    assert sum(p.numel() for p in net.parameters()) == embed + 4 * block + 2 * width + 3 * width + 3


def test_dropout_acts_in_training_only():
    net, images = vit(dropout=0.5), pixels()
    assert torch.equal(net(images), net(images))
    net.train()
    assert not torch.equal(net(images), net(images))


def test_wrong_sizes_name_both_values():
    with pytest.raises(ValueError, match=r"patch_size = 5 does not divide .* = 12"):
        ViT(config.Model(patch_size=5), 12, 2)
    for size in ((20, 12), (12, 20)):
        with pytest.raises(ValueError, match=f"patch_size = 5 does .* = {size[0]} x {size[1]}"):
            ViT(config.Model(patch_size=5), size, 2)
    with pytest.raises(ValueError, match=r"embed_dim = 30 .* num_heads = 4"):
        config.Model(embed_dim=30, num_heads=4)
    with pytest.raises(ValueError, match=r"patch_size = 12 is not a multiple of 2\^stem = 8"):
        config.Model(patch_size=12, stem=3)


def test_what_a_network_cannot_take():
    with pytest.raises(AssertionError, match="images of 10 tokens, all of one size"):
        vit()(pixels(size=16))
    with pytest.raises(AssertionError, match="a token attends to the others"):
        vit(patch_size=12, pool="mean")  # one patch, nothing else
    with pytest.raises(AssertionError, match="needs 3 features, not 2"):
        vit(features=3).standardise(torch.zeros(4, 2))


# ------------------------------------------------------------------------ features


def test_of_features_that_hardly_vary_the_deviation_is_the_unit():
    net = vit(features=1)
    net.standardise(torch.tensor([[0.0]] * 99 + [[10.0]]))
    assert net.feature_middle.item() == 0
    assert net.feature_width.item() == pytest.approx(1.0)  # root of 100 / 100


def test_features_are_standardised_and_gaps_marked():
    net = vit(features=3).eval()
    raw = np.array([[1.0, 5, np.nan], [3, 5, np.nan], [np.nan, 5, np.nan], [8, 5, np.nan]])
    net.standardise(torch.from_numpy(raw).float())
    new = np.array([[4.0, 7, np.nan], [np.nan, 5, 2]])
    low, middle, high = np.quantile([1.0, 3, 8], [0.16, 0.5, 0.84])
    middle, width = np.array([middle, 5.0, 0]), np.array([(high - low) / 2, 1, 1])
    values = np.where(np.isnan(new), 0, np.arcsinh((new - middle) / width))
    # the first feature's quantiles are not flat, the others' are: these have no place
    edges = np.quantile([1.0, 3, 8], np.linspace(0, 1, 9))
    place = np.zeros((2, 8, 3))
    for k in range(8):
        place[0, k, 0] = np.interp(4.0, edges[k : k + 2], [-1, 1])
    values = np.concatenate([values[:, None], place, np.isnan(new)[:, None]], axis=1).reshape(2, 30)
    layer = net.feature_embed[0]
    hidden = values @ array(layer.weight).T + array(layer.bias)
    hidden = hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))
    found = net.embed_features(torch.from_numpy(new).float())
    np.testing.assert_allclose(array(found), hidden, atol=1e-5)
    images = pixels()
    joined = np.concatenate([array(net.forward_features(images)), hidden], axis=1)
    expected = joined @ array(net.head.weight).T + array(net.head.bias)
    logits = array(net(images, torch.from_numpy(new).float()))
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_features_as_a_token(pool):
    net, images = vit(features=2, join="token", pool=pool), pixels()
    net.standardise(torch.tensor([[1.0, 2], [3, 9], [4, 5]]))
    raw = np.array([[9.0, 7], [np.nan, 5]])
    logits = array(net(images, torch.from_numpy(raw).float()))
    for k, image in enumerate(images.numpy().astype(float)):
        expected = forward_by_loops(net, image, raw[k])
        head = array(net.head.weight) @ expected + array(net.head.bias)
        np.testing.assert_allclose(logits[k], head, atol=5e-5 * np.abs(head).max())
    tokens = 9 + (pool == "cls") + 1
    for weights in net.attention(images, torch.from_numpy(raw).float()):
        assert weights.shape == (2, 3, tokens, tokens)
    with pytest.raises(AssertionError, match="this model needs 2 features"):
        net(images)
    assert torch.equal(vit(join="token")(images), vit()(images))  # without features, no token


def test_features_join_the_head_by_default():
    assert config.Model().join == "head"
    assert vit(features=2).position.shape == vit().position.shape


@pytest.mark.parametrize("join", ["head", "token"])
def test_a_gap_trains_without_nan(join):
    net = vit(features=2, join=join)
    net(pixels(), torch.tensor([[math.nan, 1.0], [math.nan, math.nan]])).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_a_model_without_features_ignores_them():
    net, images = vit(), pixels()
    assert torch.equal(net(images), net(images, torch.full((2, 5), math.nan)))


# ------------------------------------------------------------------------ optimiser


@pytest.mark.parametrize(
    "settings", [{}, {"spt": False, "lsa": False, "pool": "mean"}, {"stem": 1}]
)
def test_weight_decay_acts_on_matrices_only(settings):
    net = vit(features=4, **settings)
    decayed, others = parameter_groups(net, 0.07)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.07, 0)
    found = [id(p) for group in (decayed, others) for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in net.parameters())
    matrices = {id(m.weight) for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert {id(p) for p in decayed["params"]} == matrices


# --------------------------------------------------------------------------------------- figures


def test_positions_are_drawn_where_their_patch_is():
    rng = np.random.default_rng(0)
    similarity = rng.uniform(-0.5, 0.5, (2, 2, 2, 2))
    for row, column in np.ndindex(2, 2):
        similarity[row, column, row, column] = 1
    axes = model_plots.position_similarity({"one": similarity, "two": similarity}).axes[1]
    drawn = {tuple(image.get_extent()[::2]): image.get_array() for image in axes.images}
    for (x, y), values in drawn.items():
        row, column = round(y / 1.15), round(x / 1.15)
        assert np.argwhere(np.ma.getmaskarray(np.ma.masked_invalid(values))).tolist() == [
            [row, column]
        ]
        np.testing.assert_array_equal(np.ma.filled(values, 1), similarity[row, column])
    assert len(drawn) == 4
