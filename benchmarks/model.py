"""How fast the network trains and predicts, beside vit-pytorch's, and where the time goes.

``python benchmarks/model.py``: some two minutes, one thread. vit-pytorch asks for torchvision,
which does not fit beside the torch that is pinned here; the module that is compared needs it not:

    pip download --no-deps vit-pytorch einops && pip install --no-deps --target build/peer *.whl
    python benchmarks/model.py --peer build/peer

Both networks have SPT and LSA, the same width, depth, heads, patches and batch; ours without
dropout, its default, the other with 0.1 in all places, as its page shows it. Steps of both
alternate, so that other work on the machine slows both alike; ratios are of the medians. The rate
of one large product of matrices (SGEMM), measured in between, tells what the processor can do; the
share of it that a step reaches counts the products of the network only.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from vitdm.config import Model
from vitdm.model import ViT

SIDE, CLASSES, BATCH = 96, 3, 64
SETTINGS = (  # patch_size, embed_dim, depth, num_heads, mlp_ratio
    (32, 64, 3, 4, 2.0),
    (24, 96, 4, 4, 2.0),
    (12, 96, 4, 4, 2.0),
)


def peer_of(folder: Path, model: Model) -> torch.nn.Module:
    """Return vit-pytorch's ViT for small data sets with the same dimensions."""
    sys.path.insert(0, str(folder))
    file = folder / "vit_pytorch" / "vit_for_small_dataset.py"
    spec = importlib.util.spec_from_file_location("vit_for_small_dataset", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ViT(
        image_size=SIDE,
        patch_size=model.patch_size,
        num_classes=CLASSES,
        dim=model.embed_dim,
        depth=model.depth,
        heads=model.num_heads,
        dim_head=model.embed_dim // model.num_heads,
        mlp_dim=round(model.mlp_ratio * model.embed_dim),
        channels=1,
        dropout=0.1,
        emb_dropout=0.1,
    )


def training_step(net: torch.nn.Module) -> Callable[[torch.Tensor, torch.Tensor], None]:
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimiser.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        optimiser.step()

    return step


def medians(functions: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each function; they take turns."""
    times = {name: [] for name in functions}
    for turn in range(repeats + 2):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if turn >= 2:
                times[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in times.items()}


def products(model: Model) -> float:
    """Return the floating-point operations of the forward products of one image.

    Of the last block only the class token is made, from keys and values of all.
    """
    n = (SIDE // model.patch_size) ** 2 + 1
    d, p, hidden = model.embed_dim, model.patch_size, round(model.mlp_ratio * model.embed_dim)
    kernel = (p + 2 * (p // 2)) ** 2  # of SPT as one convolution

    def block(queries: int) -> int:
        return n * 2 * d * d + queries * (2 * d * d + 2 * d * hidden + 2 * n * d)

    return 2 * ((n - 1) * kernel * d + (model.depth - 1) * block(n) + block(1))


def compare(model: Model, peer: Path | None, repeats: int) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, 1, SIDE, SIDE), torch.randint(CLASSES, (BATCH,))
    nets = {"ours": ViT(model, SIDE, CLASSES)}
    if peer:
        nets["vit-pytorch"] = peer_of(peer, model)
    matrix = torch.randn(1024, 1024)
    work: dict[str, Callable[[], None]] = {"sgemm": lambda: matrix @ matrix}
    for name, net in nets.items():
        step = training_step(net)
        work[name] = lambda step=step: step(images, labels)
    found = medians(work, repeats)
    shape = f"patch {model.patch_size}, width {model.embed_dim}, depth {model.depth}"
    print(f"{shape}: training, images/s:", end=" ")
    print({name: round(BATCH / found[name]) for name in nets}, end="")
    print(f", ratio {found['vit-pytorch'] / found['ours']:.2f}" if peer else "")
    rate = 2 * 1024**3 / found["sgemm"]
    # backward: twice the forward products, but for the embedding, whose input needs no gradient
    n = (SIDE // model.patch_size) ** 2
    kernel = (model.patch_size + 2 * (model.patch_size // 2)) ** 2
    flops = 3 * products(model) - 2 * n * kernel * model.embed_dim
    share = BATCH * flops / found["ours"] / rate
    print(f"  SGEMM {rate / 1e9:.0f} Gflop/s; a training step reaches {share:.0%} of it")
    for net in nets.values():
        net.eval()
    with torch.inference_mode():
        found = medians({name: lambda net=net: net(images) for name, net in nets.items()}, repeats)
    print("  inference, images/s:", {name: round(BATCH / found[name]) for name in nets}, end="")
    print(f", ratio {found['vit-pytorch'] / found['ours']:.2f}" if peer else "")


def where_time_goes(model: Model) -> None:
    net = ViT(model, SIDE, CLASSES)
    images, labels = torch.randn(BATCH, 1, SIDE, SIDE), torch.randint(CLASSES, (BATCH,))
    step = training_step(net)
    step(images, labels)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(5):
            step(images, labels)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", type=Path, help="folder with vit_pytorch and einops")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--profile", action="store_true", help="of the first setting")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for patch_size, embed_dim, depth, num_heads, mlp_ratio in SETTINGS:
        model = Model(
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
        )
        if arguments.profile:
            where_time_goes(model)
            return
        compare(model, arguments.peer, arguments.repeats)


if __name__ == "__main__":
    main()
