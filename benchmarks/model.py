"""How fast the network trains and predicts, beside vit-pytorch's, and where the time goes.

``python benchmarks/model.py``: some two minutes, one thread. vit-pytorch asks for torchvision,
which does not fit beside the torch that is pinned here; the module that is compared needs it not:

    pip download --no-deps vit-pytorch einops && pip install --no-deps --target build/vit *.whl
    python benchmarks/model.py --vit-pytorch build/vit

Both networks have SPT and LSA, the same width, depth, heads, patches and batch; ours without
dropout, its default, the other with 0.1 in all places, as its page shows it. Steps of both
alternate, so that other work on the machine slows both alike; ratios are of the medians. The rate
of one large product of matrices (SGEMM), measured in between, tells what the processor can do; the
share of it that a step reaches counts the products of the network only.

``python benchmarks/model.py --scaling`` (two to ten minutes, Linux) draws docs/model_cost.png: time
and memory of a training against the number of images and of tokens. ``--ideas`` (a few minutes)
tries what might make a training faster.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import argparse
import importlib.util
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import LogLocator
from ratios import turns
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from studies.plots import style as plots
from vitdm.config import Model
from vitdm.model.training import Batches
from vitdm.model.vit import ViT

ROOT = Path(__file__).resolve().parents[1]
SIDE, CLASSES, BATCH = 96, 3, 64
IMAGES = (500, 1000, 2000, 4000, 8000, 16000)
TOKENS = (  # patch_size, side of the image
    *((patch, SIDE) for patch in (48, 32, 24, 16, 12, 8)),
    *((8, side) for side in (128, 160, 192, 256)),
)
SETTINGS = (  # patch_size, embed_dim, depth, num_heads, mlp_ratio
    (32, 64, 3, 4, 2.0),
    (24, 96, 4, 4, 2.0),
    (12, 96, 4, 4, 2.0),
)


def vit_pytorch(folder: Path, model: Model) -> torch.nn.Module:
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


def training_step(
    net: torch.nn.Module, fused: bool | None = None
) -> Callable[[torch.Tensor, torch.Tensor], None]:
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=fused)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimiser.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        optimiser.step()

    return step


def medians(functions: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each function; they take turns, after two that do not count."""
    taken = turns(functions, repeats + 1)
    return {name: float(np.median(seconds[1:])) for name, seconds in taken.items()}


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


def compare(model: Model, package: Path | None, repeats: int) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, 1, SIDE, SIDE), torch.randint(CLASSES, (BATCH,))
    nets = {"ours": ViT(model, SIDE, CLASSES)}
    if package:
        nets["vit-pytorch"] = vit_pytorch(package, model)
    matrix = torch.randn(1024, 1024)
    work: dict[str, Callable[[], None]] = {"sgemm": lambda: matrix @ matrix}
    for name, net in nets.items():
        step = training_step(net)
        work[name] = lambda step=step: step(images, labels)
    found = medians(work, repeats)
    shape = f"patch {model.patch_size}, width {model.embed_dim}, depth {model.depth}"
    print(f"{shape}: training, images/s:", end=" ")
    print({name: round(BATCH / found[name]) for name in nets}, end="")
    print(f", ratio {found['vit-pytorch'] / found['ours']:.2f}" if package else "")
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
    print(f", ratio {found['vit-pytorch'] / found['ours']:.2f}" if package else "")


def where_time_goes(model: Model) -> None:
    net = ViT(model, SIDE, CLASSES)
    images, labels = torch.randn(BATCH, 1, SIDE, SIDE), torch.randint(CLASSES, (BATCH,))
    step = training_step(net)
    step(images, labels)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(5):
            step(images, labels)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))


# ---------------------------------------------------------------------------------------- scaling


def ideas(repeats: int) -> None:
    """Print the time of a training step, per image, with one change each, over that without."""
    for more in (
        {"patch_size": 32, "embed_dim": 64, "depth": 3},
        {"patch_size": 12},
        {"patch_size": 16, "embed_dim": 64, "depth": 2, "stem": 3},
    ):
        model = Model(**more)
        images, labels = torch.randn(256, 1, SIDE, SIDE), torch.randint(CLASSES, (256,))

        def steps(
            n: int = BATCH,
            fused: bool | None = None,
            change: Callable[[torch.nn.Module], torch.nn.Module] = lambda net: net,
            autocast: bool = False,
            model: Model = model,
            images: torch.Tensor = images,
            labels: torch.Tensor = labels,
        ) -> Callable[[], None]:
            step = training_step(change(ViT(model, SIDE, CLASSES)), fused)

            def run() -> None:
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    step(images[:n], labels[:n])

            return run

        loader = Batches((images, torch.empty(256, 0), labels), BATCH, torch.Generator(), True)
        work = {
            "as it is": steps(),
            "fused AdamW": steps(fused=True),
            "torch.compile": steps(change=torch.compile),
            "channels last": steps(change=lambda net: net.to(memory_format=torch.channels_last)),
            "not channels last": steps(
                change=lambda n: n.to(memory_format=torch.contiguous_format)
            ),
            "bfloat16 autocast": steps(autocast=True),
            "batches of 16": steps(16),
            "batches of 128": steps(128),
            "batches of 256": steps(256),
            "images and flips": lambda loader=loader: list(loader),
        }
        found = medians(work, repeats)
        size = {"batches of 16": 16, "batches of 128": 128} | dict.fromkeys(
            ("batches of 256", "images and flips"), 256
        )
        base = found["as it is"] / BATCH
        ratios = {name: seconds / size.get(name, BATCH) / base for name, seconds in found.items()}
        print(more, {name: round(ratio, 2) for name, ratio in ratios.items()})


def scaling() -> None:
    """Print and draw time and memory of a training, each sample in a process of its own."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
        by_images = [pool.submit(cost, n, Model().patch_size, SIDE).result() for n in IMAGES]
        by_tokens = [pool.submit(cost, BATCH, *shape).result() for shape in TOKENS]
    (epoch, held), (step, memory) = np.transpose(by_images), np.transpose(by_tokens)
    draw_scaling(epoch, held, 1e3 * step / BATCH, memory)


def draw_scaling(epoch: np.ndarray, held: np.ndarray, step: np.ndarray, memory: np.ndarray) -> None:
    """Print and draw s an epoch and MB of each of IMAGES, ms an image and MB of each of TOKENS."""
    tokens = [(side // patch) ** 2 for patch, side in TOKENS]
    plots.style()
    figure, grid = plt.subplots(2, 2, figsize=(plots.WIDTH, 4.8), layout="constrained")
    panels = (
        ("a", "images", IMAGES, epoch, "s an epoch"),
        ("b", "tokens", tokens, step, "ms an image"),
        ("c", "images held", IMAGES, held, "peak memory [MB]"),
        ("d", f"tokens, batches of {BATCH}", tokens, memory, "peak memory [MB]"),
    )
    for axes, (letter, xlabel, x, y, ylabel) in zip(grid.flat, panels, strict=True):
        power_law(axes, np.array(x), y)
        axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
        if "MB" in ylabel:
            axes.set_ylim(50, 2000)
        axes.set_title(f"({letter})", loc="left")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if axis is axes.yaxis else (1, 3)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        axes.legend(fontsize=7, loc="upper left")
        print(f"({letter}) {ylabel}:", ", ".join(f"{a} {b:.3g}" for a, b in zip(x, y, strict=True)))
        slopes = np.diff(np.log(y)) / np.diff(np.log(x))
        print("    power from each to the next:", slopes.round(2).tolist())
    figure.savefig(ROOT / "docs/model_cost.png", dpi=110, metadata={"Software": None})
    print("drawn: docs/model_cost.png")


def cost(n: int, patch_size: int, side: int) -> tuple[float, float]:
    """Return seconds of an epoch of ``n`` images, and the most that resident memory grew, in MB.

    Time is that of the processor, which other work on the machine stretches less than the clock,
    the least disturbed of three epochs if there are few images. Memory grows from the process that
    has imported everything and done nothing.
    """
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    idle = resident("VmRSS")
    arrays = torch.randn(n, 1, side, side), torch.randint(CLASSES, (n,))
    step = training_step(ViT(Model(patch_size=patch_size), side, CLASSES))
    step(*(array[:BATCH] for array in arrays))  # to warm up
    used = []
    for _ in range(3 if n < 2000 else 1):
        started = time.process_time()
        for batch in Batches(arrays, BATCH, torch.Generator(), flips=True):
            step(*batch)
        used.append(time.process_time() - started)
    return min(used), resident("VmHWM") - idle


def resident(key: str) -> float:
    """Return a line of the process's status, in MB: VmRSS, or VmHWM, the largest so far."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) / 1024


def power_law(axes: plt.Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Draw samples and the power of x that the last four follow."""
    power, start = np.polyfit(np.log(x[-4:]), np.log(y[-4:]), 1)
    axes.plot(x, y, "o", ms=4)
    label = f"power {power:.2f} ({x[-4]} to {x[-1]})"
    axes.plot(x[-4:], np.exp(start) * x[-4:] ** power, "-", lw=1, label=label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vit-pytorch", type=Path, help="folder with vit_pytorch and einops")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--profile", action="store_true", help="of the first setting")
    parser.add_argument("--scaling", action="store_true", help="draw docs/model_cost.png, only")
    parser.add_argument("--ideas", action="store_true", help="what might train faster, only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.ideas:
        ideas(arguments.repeats)
        return
    if arguments.scaling:
        scaling()
        return
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
        compare(model, arguments.vit_pytorch, arguments.repeats)


if __name__ == "__main__":
    main()
