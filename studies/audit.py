"""The audit of the precursor: its recipe with each fault a switch, on the same images as ours.

The network and the training of github.com/SVJLucas/ViT-for-Dark-Matter-Morphology (notebook 3), in
our own words, in its initial settings (307 827 parameters, Adam at 5e-5, 20 epochs). The rows of
the table: the precursor as it was; each step of ``audit.steps`` fixed alone; the steps fixed one
after the other; ours. All rows learn from the same images with the same seeds, and are scored on
split ``opt``. "claimed" is the number that a row would have reported as its ROC-AUC: the precursor
computed it from decisions, and thereby the balanced accuracy; "believed" is what it showed for
validation.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from studies import precursor
from studies.compare import Bench, network
from studies.config import Audit, Config, Faults, Override
from studies.efficiency import Sample
from vitdm.data.dataset import Dataset
from vitdm.errors import InputError
from vitdm.evaluation.metrics import (
    NULL_CLASS,
    bootstrap_interval,
    paired_difference,
    roc_auc,
    weighted_auc,
)
from vitdm.model.training import Arrays, Batches
from vitdm.model.vit import Attention, PatchEmbedding, shift_patches
from vitdm.provenance import atomic, check_replaceable, sidecar

AUDIT_FILES = ("audit.csv", "audit.json")
PATCH, BATCH, DROPOUT, PATIENCE = 8, 64, 0.1, 3  # as published
SIZE = (precursor.COLUMNS, precursor.ROWS)  # height and width that the network sees, px


# ------------------------------------------------------------------------------------- network


class Tokens(nn.Module):
    """SPT: the image and its shifts, cut into patches; the LayerNorm comes after the projection."""

    def __init__(self, width: int):
        super().__init__()
        self.project = nn.Conv2d(5, width, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.project(shift_patches(images, PATCH))
        return self.norm(tokens.flatten(2).transpose(1, 2))  # (B, N, D)


class OneTemperature(nn.Module):
    """Attention with a masked diagonal; one temperature divides what the queries are made of."""

    def __init__(self, width: int, heads: int, num_tokens: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, DROPOUT, batch_first=True)
        self.temperature = nn.Parameter(torch.ones(1))
        mask = torch.eye(num_tokens, dtype=torch.bool)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        query = tokens / self.temperature
        return self.attention(query, tokens, tokens, attn_mask=self.mask, need_weights=False)[0]


class Block(nn.Module):
    """Attention and a perceptron, each with a shortcut and a LayerNorm after it; fixed, before."""

    def __init__(self, width: int, heads: int, hidden: int, num_tokens: int, faults: Faults):
        super().__init__()
        self.post = faults.post_norm
        self.attention = (
            OneTemperature(width, heads, num_tokens)
            if faults.one_temperature
            else Attention(width, heads, num_tokens, lsa=True, dropout=DROPOUT)
        )
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.Tanh(), nn.Dropout(DROPOUT), nn.Linear(hidden, width)
        )
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.post:
            tokens = self.norm1(tokens + self.attention(tokens))
            return self.drop(self.norm2(tokens + self.mlp(tokens)))
        tokens = tokens + self.attention(self.norm1(tokens))
        return self.drop(tokens + self.mlp(self.norm2(tokens)))


class Network(nn.Module):
    """The precursor's ViT: logits (B, 2) of images (B, 1, 88, 64) and features (B, F).

    Tokens, blocks, one hidden layer on all tokens (or on the class token: fixed), the features
    beside it, a perceptron of ``1 + layers`` hidden layers.
    """

    def __init__(
        self,
        faults: Faults,
        num_features: int = 13,
        *,
        width: int = 128,
        heads: int = 8,
        hidden: int = 16,
        layers: int = 5,
        blocks: int = 1,
    ):
        super().__init__()
        num_tokens = 1 + math.prod(side // PATCH for side in SIZE)
        self.flattened = faults.flattened
        self.embed = (
            Tokens(width)
            if faults.norm_after_projection
            else PatchEmbedding(PATCH, 1, width, spt=True)
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, num_tokens, width))
        self.blocks = nn.Sequential(
            *(Block(width, heads, hidden, num_tokens, faults) for _ in range(blocks))
        )
        self.norm = nn.Identity() if faults.post_norm else nn.LayerNorm(width)
        self.compress = nn.Linear(width * (num_tokens if faults.flattened else 1), hidden)
        sizes = [hidden + num_features] + [hidden] * (1 + layers)
        steps = [
            (nn.Linear(*pair), nn.GELU(), nn.Dropout(DROPOUT)) for pair in itertools.pairwise(sizes)
        ]
        self.head = nn.Sequential(*itertools.chain(*steps), nn.Linear(hidden, 2))

    def forward(self, images: Tensor, features: Tensor) -> Tensor:
        tokens = self.embed(images)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.norm(self.blocks(tokens + self.position))
        pooled = tokens.flatten(1) if self.flattened else tokens[:, 0]
        pooled = functional.gelu(self.compress(pooled))
        return self.head(torch.cat([pooled, features], dim=1))


# ------------------------------------------------------------------------------------ training


def loss_of(logits: Tensor, labels: Tensor, faults: Faults) -> Tensor:
    """Return the cross-entropy; with the fault, of probabilities: at least ln(1 + 1/e) = 0.3133."""
    given = logits.softmax(dim=1) if faults.softmax_in_loss else logits
    return functional.cross_entropy(given, labels)


class Learnt(NamedTuple):
    """A trained network, its epochs, its loss in the last of them, and what it cost."""

    model: Network
    epochs: int
    train_loss: float
    cpu_seconds: float


def learn(training: Arrays, valid: Arrays, faults: Faults, chosen: Audit, seed: int) -> Learnt:
    """Train the precursor's network: images (n, 1, 88, 64), features (n, F), labels (n,).

    With ``never_stops`` off, ``PATIENCE`` epochs without a smaller loss in validation end it, and
    the weights of the best are kept.
    """
    started = time.process_time()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Network(faults, training[1].shape[1])
        optimiser = torch.optim.Adam(model.parameters(), lr=chosen.learning_rate)
        shuffle = None if faults.unshuffled else torch.Generator().manual_seed(seed)
        batches = Batches(training, BATCH, shuffle)
        checked = training if faults.validation_on_training else valid
        best, weights, stale, epochs = math.inf, None, 0, 0
        while epochs < chosen.epochs and stale < PATIENCE:
            model.train()
            losses, epochs = [], epochs + 1
            for images, features, labels in batches:
                optimiser.zero_grad()
                loss = loss_of(model(images, features), labels, faults)
                loss.backward()
                optimiser.step()
                losses.append(loss.detach())
            if faults.never_stops:
                continue
            logits = logits_of(model, *checked[:2])
            valid_loss = loss_of(logits, checked[2], faults).item()
            stale += 1
            if valid_loss < best:
                best, stale = valid_loss, 0
                weights = {name: value.clone() for name, value in model.state_dict().items()}
        if weights is not None:
            model.load_state_dict(weights)
    seconds = time.process_time() - started
    return Learnt(model, epochs, torch.stack(losses).mean().item(), seconds)


def logits_of(model: Network, images: Tensor, features: Tensor) -> Tensor:
    """Return the logits (n, 2) of images and features."""
    model.eval()
    with torch.inference_mode():
        parts = zip(images.split(256), features.split(256), strict=True)
        return torch.cat([model(*part) for part in parts])


def shown(logits: Tensor, labels: Tensor, faults: Faults) -> float:
    """Return the 'AUC' that the precursor showed for validation.

    With the fault, of its batches of training images, the mean; one of a single class has none.
    """
    if not faults.validation_on_training:
        return claim(labels.numpy(), logits.softmax(dim=1)[:, 1].numpy(), faults)
    parts = zip(labels.split(BATCH), logits.softmax(dim=1)[:, 1].split(BATCH), strict=True)
    return float(
        np.mean([claim(y.numpy(), p.numpy(), faults) for y, p in parts if len(y.unique()) > 1])
    )


def claim(labels: np.ndarray, scores: np.ndarray, faults: Faults) -> float:
    """Return what is reported as ROC-AUC: with the fault, that of decisions at one half."""
    return roc_auc(labels, scores > 0.5 if faults.hard_labels else scores)


# ---------------------------------------------------------------------------------------- rows


#: the switches of the processing and the features
PROCESSING = (
    *("rewrapped", "upright_cut", "first_contour"),
    *("low_level_twice", "holes_counted", "placeholders"),
)


def inputs_of(images: np.ndarray, faults: Faults) -> tuple[np.ndarray, pd.DataFrame]:
    """Return what the network sees of raw images: (n, 88, 64) in [0, 1], and features (n, F)."""
    pairs = [precursor.process_and_measure(image, faults) for image in images]
    seen = np.stack([image for image, _ in pairs]).astype(np.float32)
    return seen, pd.DataFrame([values for _, values in pairs])


def filled(features: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """Return features (n, F) without gaps: the mean of ``rows``, and an indicator beside them.

    Of features without gaps nothing changes; dmax and dmin lack values together and share one.
    """
    gaps = features.filter(like="dmax_").isna()
    known = features.fillna(features.iloc[rows].mean()).fillna(0.0)
    return np.hstack([known, gaps.loc[:, gaps.any()]]).astype(np.float32)


@dataclass(frozen=True)
class Row:
    """A row of the audit: the precursor with some faults, or a recipe of ours."""

    label: str
    kind: str  # as it was, alone, cumulative, ours
    faults: Faults | None = None
    ours: Override | None = None


def rows_of(chosen: Audit) -> list[Row]:
    """Return the rows of the table in their order; the first is the precursor as it was."""
    rows = [Row("the precursor, as it was", "as it was", Faults())]
    for label, names in chosen.steps.items():
        rows.append(Row(label, "alone", Faults().fixed(names)))
    mended: list[str] = []
    for label, names in chosen.steps.items():
        mended += names
        if len(mended) > len(names):  # the first is the same as alone
            rows.append(Row(label, "cumulative", Faults().fixed(mended)))
    return rows + [Row(row.label, "ours", ours=row) for row in chosen.ours]


class Outcome(NamedTuple):
    """One training of a row: predictions of the images that score, and what it showed."""

    predictions: pd.DataFrame
    told: dict[str, Any]


def train_rows(folder: str | Path, settings: Config, out: str | Path) -> pd.DataFrame:
    """Train all rows of the audit on the sample in ``folder``; write ``out``, return its table.

    ``audit.csv``, a row each: row, kind, mended (faults that are off), seeds, parameters, epochs,
    learning_rate, cpu_seconds, train_loss, believed, claimed, balanced_accuracy (means over the
    seeds), roc_auc with its 95 % interval (low, high), gain over the precursor as it was (paired;
    gain_low, gain_high, gain_sd), population, n_train, n_scored. InputError if the sample is too
    small or the audit has no rows.
    """
    started = time.time()
    check_replaceable(out, AUDIT_FILES)
    chosen, sample = settings.audit, Sample(Path(folder))
    if not chosen.steps:
        raise InputError("audit.steps: found none; expected at least one fault to mend")
    settings = settings.model_copy(update={"task": "binary"})
    sizes = chosen.n_train, chosen.n_valid
    bench = Bench.of(sample.processed, settings.task, *sizes, settings.seed)
    raw = Dataset.open(sample.folder / "dataset")
    trained, first, lines = Precursor(bench, raw, settings), None, []
    for row in rows_of(chosen):
        outcomes = list(
            _ours(bench, sample, settings, row.ours) if row.ours else trained.outcomes(row.faults)
        )
        lines.append({"row": row.label, "kind": row.kind, **_line(outcomes, row, first, settings)})
        first = first or outcomes
        print({key: value for key, value in lines[-1].items() if key != "mended"}, flush=True)
    table = pd.DataFrame(lines).assign(population=sample.name, n_train=len(bench.train))
    table = table.assign(n_scored=len(bench.scored))
    files = [sample.processed / "catalog.csv", sample.folder / "dataset/images.npy"]
    with atomic(out) as temporary:
        temporary.mkdir()
        table.to_csv(temporary / "audit.csv", index=False)
        sidecar(
            temporary / "audit.json",
            rule="audit",
            inputs=files + [sample.features] * settings.audit_fits,
            started=started,
            seed=settings.seed,
            config=recipe(settings),
            cpu_seconds=round(float((table["cpu_seconds"] * table["seeds"]).sum()), 1),
        )
    return table


def recipe(settings: Config) -> dict[str, Any]:
    """Return all settings that the audit depends on, but for the images."""
    return {name: getattr(settings, name) for name in ("audit", "model", "train", "seed")}


class Precursor:
    """Trainings of the precursor's network; those that differ in the report only happen once."""

    def __init__(self, bench: Bench, raw: Dataset, settings: Config):
        self.bench, self.raw, self.settings = bench, raw, settings
        self.rows = np.concatenate([bench.train, bench.valid, bench.scored])
        self._seen: dict[Faults, tuple[np.ndarray, pd.DataFrame]] = {}
        self._learnt: dict[tuple[Faults, int], Learnt] = {}

    def outcomes(self, faults: Faults) -> Iterator[Outcome]:
        """Train with each seed, or remember."""
        training, valid, scored = self._arrays(faults)
        for seed in range(self.settings.audit.seeds):
            key = faults.model_copy(update={"hard_labels": True}), seed
            if key not in self._learnt:
                settings = self.settings.audit, self.settings.seed + seed
                self._learnt[key] = learn(training, valid, faults, *settings)
            model, epochs, train_loss, seconds = self._learnt[key]
            predictions = self.bench.predictions(
                self.bench.scored, logits_of(model, *scored[:2]).softmax(dim=1).numpy()
            )
            checked = training if faults.validation_on_training else valid
            believed = shown(logits_of(model, *checked[:2]), checked[2], faults)
            told = {"parameters": sum(p.numel() for p in model.parameters()), "epochs": epochs}
            told |= {"learning_rate": self.settings.audit.learning_rate}
            told |= {"cpu_seconds": seconds, "train_loss": train_loss, "believed": believed}
            yield Outcome(predictions, told)

    def _arrays(self, faults: Faults) -> Iterator[Arrays]:
        """Return images, features and labels to learn from, to validate on, and to score."""
        key = Faults(**{name: getattr(faults, name) for name in PROCESSING})
        if key not in self._seen:
            self._seen = {key: inputs_of(self.raw.images[self.rows], key)}  # memory: one at a time
        images, features = self._seen[key]
        sizes = [len(part) for part in (self.bench.train, self.bench.valid, self.bench.scored)]
        values = filled(features, np.arange(sizes[0]))
        labels = self.bench.labels[self.rows]
        parts = (torch.from_numpy(array) for array in (images[:, None], values, labels))
        yield from zip(*(part.split(sizes) for part in parts), strict=True)


def _ours(bench: Bench, sample: Sample, settings: Config, override: Override) -> Iterator[Outcome]:
    """Train a recipe of ours with each seed; the best epoch of validation is kept."""
    recipe = network(bench, sample, settings.override(override), override.label)
    rate = settings.override(override).train.learning_rate
    for seed in range(settings.audit.seeds):
        learnt = recipe(rate, settings.seed + seed, 1.0)
        table = bench.predictions(bench.scored, learnt.probabilities(bench.scored))
        told = {"parameters": learnt.parameters, "epochs": len(learnt.history)}
        told |= {"learning_rate": rate}
        told |= {
            "cpu_seconds": learnt.cpu_seconds,
            "train_loss": learnt.history["train_loss"].iloc[-1],
        }
        yield Outcome(table, told | {"believed": learnt.history["valid_roc_auc"].max()})


def _line(
    outcomes: list[Outcome], row: Row, first: list[Outcome] | None, settings: Config
) -> dict[str, Any]:
    """Return a line of the table but for its names."""
    faults = row.faults or Faults().fixed(Faults.model_fields)
    mended = [] if row.ours else [name for name, on in faults if not on]
    tables, told = [outcome.predictions for outcome in outcomes], [o.told for o in outcomes]
    labels = tables[0]["label"].to_numpy()
    scores = [1 - table[f"p_{NULL_CLASS}"].to_numpy() for table in tables]
    n = settings.evaluation.bootstrap, settings.seed
    auc = bootstrap_interval(weighted_auc, labels, scores, *n)
    line = {"mended": " ".join(mended), "seeds": len(outcomes)}
    line |= pd.DataFrame(told).mean().to_dict()
    line |= {"claimed": float(np.mean([claim(labels, score, faults) for score in scores]))}
    decided = [claim(labels, score, Faults()) for score in scores]
    line |= {"balanced_accuracy": float(np.mean(decided))}
    line |= {"roc_auc": auc.value, "low": auc.low, "high": auc.high}
    if first is not None:
        gain = paired_difference([outcome.predictions for outcome in first], tables, *n)
        line |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
        line |= {"gain_sd": gain.sd}
    return line
