"""Inside the networks of notebook 03: one lens on its way, tokens, attention, positions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from studies.config import Config
from studies.plots.diagrams import Lens
from vitdm import lens, preprocess
from vitdm.config import LensFit
from vitdm.data.dataset import Dataset, read_catalog
from vitdm.features.selected import feature_groups, joined_features
from vitdm.model.networks import new_network
from vitdm.model.runs import Run
from vitdm.model.vit import ViT, shift_patches

# ------------------------------------------------------------------------------- the pipeline


def row_at_rank(results: Path, rows: NDArray[np.intp], rank: float) -> int:
    """Return which of some rows of the dataset stands at a rank, 0 to 1, of the residual's power.

    Ranked is the fourth power of the residual of the lens fit, of the fits that converged.
    """
    fits = read_catalog(results / "lensfit" / "fits.csv")
    power = fits["fit_fourth_power"].where(fits["fit_converged"] == 1)[rows]
    return int((power.rank(pct=True) - rank).abs().idxmin())


def fitted_lens(image: NDArray, results: Path) -> tuple[NDArray, NDArray]:
    """Fit a smooth lens to an image (H, W) as the fits of the dataset were made.

    Returns the model and the residual in units of the noise, (size, size) both.
    """
    camera = json.loads((results / "lensfit" / "provenance.json").read_text())["camera"]
    settings = LensFit(**camera["lensfit"])
    fit = lens.fit(image[None], settings, pixel_scale=camera["pixel_scale"])
    return lens.modelled(fit)[0][0], fit.residual[0]


def lens_with_scores(row: int, run: str, classes: list[str], config: Config, results: Path) -> Lens:
    """Return a row of the dataset with all that the pipeline makes of it.

    ``run`` is the name of the run whose first seed gives the probabilities of the ``classes``.
    """
    raw = Dataset.open(results / "dataset")
    image = np.array(raw.images[row])
    square, roi = preprocess.process(image, config.preprocess)
    window = preprocess.window(image.shape, roi, config.preprocess)
    fitted = "lensfit" in config.features.groups
    fit = fitted_lens(image, results) if fitted else (None, None)
    table = pd.read_csv(results / f"runs/{run}_seed0/predictions.csv", dtype={"id": str})
    scores = table.set_index("id").loc[raw.catalog["id"][row], [f"p_{name}" for name in classes]]
    return Lens(image, roi, window, square, *fit, dict(zip(classes, scores, strict=True)))


def feature_counts(config: Config, results: Path) -> dict[str, int]:
    """Return how many features there are of the image, of the fit, and joined to the network."""
    groups = feature_groups(config.features)
    selection = results / "selection" / "selection.json"
    joined = joined_features(config.model, config.features, selection)
    n_fit = sum(group == "lensfit" for group in groups.values())
    n_joined = len(groups if joined is None else joined) if config.model.features else 0
    return {"image": len(groups) - n_fit, "fit": n_fit, "joined": n_joined}


# -------------------------------------------------------------------------- tokens, attention


def images_alone(runs: Mapping[str, Run]) -> dict[str, Run]:
    """Return the runs whose tokens are patches of the image and nothing else."""
    return {
        name: run
        for name, run in runs.items()
        if not run.settings.model.residual and run.model.joins != "token"
    }


def network_with_both(runs: Mapping[str, Run], config: Config, side: int, n_classes: int) -> ViT:
    """Return the first network that has SPT and LSA, or an untrained one if there is none."""
    for run in runs.values():
        if run.model.settings.spt and run.model.settings.lsa:
            return run.model.eval()
    switched = config.model.model_copy(update={"spt": True, "lsa": True, "features": False})
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return new_network(switched, side, n_classes, 0).eval()


def brightest_patch(square: NDArray, p: int) -> tuple[int, int]:
    """Return row and column of the brightest patch of side p of an image (side, side)."""
    n = len(square) // p
    light = square.reshape(n, p, n, p).mean(axis=(1, 3))
    row, column = np.unravel_index(light.argmax(), light.shape)
    return int(row), int(column)


def shifted_tokens(
    network: ViT, square: NDArray, patch: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what SPT makes of an image (side, side) and of one of its patches (row, column).

    The image with its four shifts (5, side, side); the numbers (5 p^2,) of which the token of the
    patch is made, normalised; all tokens (1, N, D), that of the class first if there is one.
    """
    p = network.settings.patch_size
    stack = shift_patches(torch.from_numpy(square)[None, None], p)[0]
    rows, columns = (slice(k * p, (k + 1) * p) for k in patch)
    with torch.inference_mode():
        values = network.embed.norm(stack[:, rows, columns].flatten())
        return stack, values, network.tokens(stack[None, :1])


def first_attention(network: ViT, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first block's attention to tokens (1, N, D), three times (heads, N, N).

    The similarities Q K^T, their softmax at the temperature sqrt(d) without LSA, and the attention
    of the network.
    """
    first = network.blocks[0]
    with torch.inference_mode():
        seen = first.norm1(tokens) if first.pre else tokens
        similarity, local = first.attention.similarity(seen)[0], first.attention.weights(seen)[0]
        return similarity, (similarity / start_temperature(network)).softmax(dim=-1), local


def start_temperature(network: ViT) -> float:
    """Return sqrt(d), d being the numbers of a head: the temperature before any training."""
    return (network.settings.embed_dim // network.settings.num_heads) ** 0.5


def temperatures(network: ViT) -> NDArray[np.float32]:
    """Return the temperature of each head, (blocks, heads), in units of sqrt(d)."""
    with torch.inference_mode():
        scales = torch.stack([block.attention.scales().flatten() for block in network.blocks])
    return 1 / (scales * start_temperature(network)).numpy()


def attention_weights(run: Run, images: NDArray[np.float32]) -> list[Tensor]:
    """Return the attention of each block, (n, heads, N, N), on images (n, side, side)."""
    with torch.inference_mode():
        return run.model.attention(torch.from_numpy(images)[:, None])


def attention_to_patches(run: Run, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the last block's attention to each patch, (n, heads, rows, columns).

    That of the class token, or the mean over all tokens if there is none.
    """
    last, chosen = attention_weights(run, images)[-1], run.settings.model
    paid = last[:, :, 0, 1:] if chosen.pool == "cls" else last.mean(dim=2)
    return paid.unflatten(-1, (images.shape[-1] // chosen.patch_size,) * 2).numpy()


def attention_table(
    runs: Mapping[str, Run], labels: Mapping[str, str], images: NDArray[np.float32]
) -> pd.DataFrame:
    """Return how sharp the attention of runs is on images (n, side, side), a row a run.

    Columns: ``run`` (its label), ``LSA``, the mean and largest weight of a token on itself,
    ``tokens heard``, the exponential of the entropy, and the range of the inverse temperatures in
    units of d^(-1/2).
    """
    rows = []
    for name, run in runs.items():
        weights, lsa = attention_weights(run, images), run.settings.model.lsa
        itself = torch.cat([w.diagonal(dim1=-2, dim2=-1).flatten() for w in weights])
        heard = torch.cat([torch.special.entr(w).sum(dim=-1).exp().flatten() for w in weights])
        scales = [1.0]
        if lsa:
            learnt = torch.cat([block.attention.scale.flatten() for block in run.model.blocks])
            scales = [start_temperature(run.model) * scale for scale in learnt.tolist()]
        values = map(float, (itself.mean(), itself.max(), heard.mean(), min(scales), max(scales)))
        rows.append((labels[name], lsa, *values))
    columns = ["run", "LSA", "weight on itself", "largest", "tokens heard"]
    return pd.DataFrame(rows, columns=[*columns, "inverse temperature (low)", "(high)"])


# ---------------------------------------------------------------------------------- positions


def position_similarity(run: Run, side: int) -> NDArray[np.float32]:
    """Return the cosine similarity of the positions of all pairs of patches, (n, n, n, n).

    ``side`` [px] is that of the images.
    """
    chosen, n = run.settings.model, side // run.settings.model.patch_size
    patches = run.model.position[0, int(chosen.pool == "cls") :][: n * n].detach()
    unit = torch.nn.functional.normalize(patches, dim=1)
    return (unit @ unit.T).view(n, n, n, n).numpy()


def similarity_by_distance(similarity: NDArray) -> tuple[float, float]:
    """Return the mean similarity (n, n, n, n) of neighbouring patches, and of all others."""
    place = np.stack(np.indices(similarity.shape[:2]), axis=-1).reshape(-1, 2)
    apart = np.abs(place[:, None] - place).sum(axis=-1)  # rows and columns between two patches
    pairs = similarity.reshape(apart.shape)
    return float(pairs[apart == 1].mean()), float(pairs[apart > 1].mean())


def n_parameters(config: Config, side: int, n_classes: int, n_features: int) -> int:
    """Return how many numbers the configured network learns."""
    network: Any = new_network(config.model, side, n_classes, n_features)
    return sum(parameter.numel() for parameter in network.parameters())
