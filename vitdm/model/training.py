"""Training of a network on arrays in memory: AdamW, warm-up and cosine decay, early stopping."""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from vitdm.config import Model, Train
from vitdm.errors import InputError
from vitdm.model.networks import in_single, new_network
from vitdm.model.vit import parameter_groups
from vitdm.provenance import atomic
from vitdm.threads import one_thread

#: images (n, C, H, W), features (n, F), F = 0 for none, and targets: labels (n,) from 0 to K - 1,
#: or whatever a loss of one's own compares the outputs with
Arrays = tuple[Tensor, Tensor, Tensor]
#: returns an untrained network of settings, size, ``n_outputs`` and number of features
Build = Callable[[Model, int | tuple[int, int], int, int], nn.Module]
#: what is minimised, of outputs (B, K) and targets; by default of logits and labels (B,)
Loss = Callable[[Tensor, Tensor], Tensor]
#: whether to end a training, from its validation scores (ROC-AUC) after each epoch so far
Watch = Callable[[list[float]], bool]

VALID_BATCH = 256  # images validated at once; does not change the result of one


@dataclass(frozen=True)
class Validation:
    """What is computed of the validation images after each epoch.

    ``scores`` returns the ``columns`` of the history, of outputs (n, K) and targets; the epoch with
    the largest ``best``, one of them, is kept.
    """

    columns: tuple[str, ...]
    best: str
    scores: Callable[[Tensor, Tensor], dict[str, float]]


class Diverged(RuntimeError):
    """The loss or a weight is not finite; the message names epoch, batch and learning rate."""


class Batches:
    """Batches of arrays held in memory: images (n, C, H, W), features (n, F), labels (n,).

    With a generator they come shuffled and, if ``flips``, with random mirror images, and if
    ``turns`` with random quarter turns; without, in order and as they are. What is a map, too, of
    other arrays (n, H, W), is turned with its image. Images that are kept in half precision come in
    single.
    """

    def __init__(
        self,
        arrays: tuple[Tensor, ...],
        size: int,
        generator: torch.Generator | None = None,
        flips: bool = False,
        turns: bool = False,
    ):
        self.arrays = arrays
        self.size = size
        self.generator = generator
        self.flips = flips
        self.turns = turns

    def __len__(self) -> int:
        return math.ceil(len(self.arrays[0]) / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if self.generator is None:
            split = (array.split(self.size) for array in self.arrays)
            for images, *others in zip(*split, strict=True):
                yield in_single(images), *others
            return
        order = torch.randperm(len(self.arrays[0]), generator=self.generator)
        for rows in order.split(self.size):
            images, *others = (array[rows] for array in self.arrays)
            turned = [images, *(other for other in others if other.ndim > 2)]
            if self.flips:
                flip_y, flip_x = torch.rand(2, len(rows), 1, 1, 1, generator=self.generator) < 0.5
                for flip, axis in ((flip_y, -2), (flip_x, -1)):
                    chosen = flip.flatten()
                    for maps in turned:
                        maps[chosen] = maps[chosen].flip(axis)  # a copy: indexed by rows
            if self.turns:  # a mirror image about the diagonal: with the others every quarter turn
                chosen = torch.rand(len(rows), generator=self.generator) < 0.5
                for maps in turned:
                    maps[chosen] = maps[chosen].transpose(-2, -1)
            yield in_single(images), *others


@dataclass(frozen=True)
class Learnt:
    """A trained network, one row of ``history`` an epoch, and the time that its epochs took.

    ``seconds`` on the clock, ``cpu_seconds`` of all threads; without validation. ``score`` is the
    column of the history by which an epoch was kept.
    """

    model: nn.Module
    history: pd.DataFrame
    seconds: float
    cpu_seconds: float
    score: str = "valid_roc_auc"

    def metrics(self, n_train: int) -> dict[str, Any]:
        """Return what the training came to: the same whenever it is repeated."""
        scores = {
            "epochs": len(self.history),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "n_train": n_train,
        }
        if self.history[self.score].notna().any():
            best = self.history[self.score].idxmax()
            scores["best_epoch"] = int(self.history["epoch"][best])
            scores[self.score] = float(self.history[self.score][best])
        return scores

    def timing(self, n_train: int) -> dict[str, float]:
        """Return what it cost: seconds, cpu_seconds and images_per_second."""
        speed = n_train * len(self.history) / self.seconds
        return {
            "seconds": round(self.seconds, 2),
            "cpu_seconds": round(self.cpu_seconds, 2),
            "images_per_second": round(speed, 1),
        }


def class_scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the cross-entropy, and the ROC-AUC of any substructure and averaged over classes.

    Both ROC-AUCs are 1/2 where they have no value.
    """
    truth, probabilities = labels.numpy(), logits.softmax(dim=1).numpy()  # (n,), (n, K)
    each = [_auc(truth == k, probabilities[:, k]) for k in range(probabilities.shape[1])]
    return {
        "valid_loss": functional.cross_entropy(logits, labels).item(),
        "valid_roc_auc": _auc(truth > 0, 1 - probabilities[:, 0]),
        "valid_macro_roc_auc": float(np.mean(each)),
    }


CLASSES = Validation(
    ("valid_loss", "valid_roc_auc", "valid_macro_roc_auc"), "valid_roc_auc", class_scores
)


@one_thread()
def learn(
    training: Arrays,
    valid: Arrays | None,
    n_outputs: int,
    model: Model,
    train: Train,
    *,
    seed: int = 0,
    loss: Loss | None = None,
    validation: Validation = CLASSES,
    build: Build = new_network,
    watch: Watch | None = None,
    weights: Tensor | None = None,
    device: str | None = None,
    checkpoint: Path | None = None,
    label: str = "train",
    progress: bool = True,
) -> Learnt:
    """Train one network on arrays in memory.

    With ``valid`` the weights of the epoch with the best validation ROC-AUC (class 0, no
    substructure, against the others) are kept, and training stops after ``train.patience`` epochs
    without a better one; without, all epochs are run and the last weights kept. ``watch`` may end
    it earlier. ``n_outputs`` is the number of classes; ``loss`` replaces cross-entropy with label
    smoothing, ``validation`` the ROC-AUC; with both, targets need not be labels. ``build`` makes
    the network, by default one of ``model.architecture``. ``weights`` (n,)
    of the training images multiply their losses; only their ratios matter. ``device`` replaces
    ``train.accelerator`` (``device_of``). ``checkpoint`` is a file from which the same training
    continues if it was killed; the result is that of an uninterrupted one, on a CPU to the last
    bit. Raises Diverged if the loss or a weight becomes NaN or infinite.
    """
    images, features, _ = training
    if train.turns and images.shape[2] != images.shape[3]:
        raise InputError(
            f"train.turns is on: found images of {images.shape[2]} x {images.shape[3]}; expected "
            "square ones"
        )
    training = (*training, *_relative(weights, loss))
    with torch.random.fork_rng():  # leaves the caller's random numbers as they are
        torch.manual_seed(seed)  # of the first weights and of dropout
        network = build(model, tuple(images.shape[2:]), n_outputs, features.shape[1])
        if features.shape[1]:
            network.standardise(features)
        shuffle = torch.Generator().manual_seed(seed)
        batches = Batches(training, train.batch_size, shuffle, train.flips, train.turns)
        run = Training(network, train, batches, loss, device, validation)
        saved = None
        if checkpoint is not None:
            settings = seed, n_outputs, model.model_dump(), train.model_dump()
            identity = [*settings, _name(loss), torch.__version__]
            saved = Checkpoint(checkpoint, _hash(identity, *training, *(valid or ())))
            saved.restore(run)  # if there is one
        total = train.epochs * len(batches)
        with _bar(label, total, progress) as bar:
            bar.update(len(run.history) * len(batches))  # steps before the checkpoint
            while not run.finished(watch):
                run.epoch(valid, bar)
                if saved:
                    saved.save(run)
        return run.result()


class Training:
    """A training between two epochs: all that the next epoch depends on.

    ``history`` has one row an epoch, ``best`` the weights of the epoch that validated best.
    """

    def __init__(
        self,
        network: nn.Module,
        train: Train,
        batches: Batches,
        loss: Loss | None,
        device: str | None = None,
        validation: Validation = CLASSES,
    ):
        self.validation = validation
        self.device = device_of(train.accelerator if device is None else device)
        self.network = network.to(self.device)
        self.train, self.batches = train, batches
        self.loss = loss or functools.partial(
            functional.cross_entropy, label_smoothing=train.label_smoothing
        )
        self.optimiser = torch.optim.AdamW(
            parameter_groups(network, train.weight_decay), lr=train.learning_rate
        )
        steps = train.epochs * len(batches)
        warmup = max(1, round(train.warmup * steps))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, functools.partial(relative_rate, steps=steps, warmup=warmup)
        )
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.seconds = self.cpu_seconds = 0.0  # of training, without validation

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.optimiser.param_groups[0]["lr"]

    @property
    def scores(self) -> list[float]:
        """The validation score (ROC-AUC) after each epoch; empty without validation."""
        scores = [row[self.validation.best] for row in self.history]
        return [score for score in scores if not math.isnan(score)]

    @property
    def best_epoch(self) -> int | None:
        """The first of the epochs, counted from 1, that validated best; None without validation."""
        return int(np.argmax(self.scores)) + 1 if self.scores else None

    def finished(self, watch: Watch | None = None) -> bool:
        """Return whether no further epoch is to be run; ``watch`` is asked after each."""
        if self.best_epoch is not None:
            stale = len(self.history) - self.best_epoch
            if stale >= self.train.patience or (watch is not None and watch(self.scores)):
                return True
        return len(self.history) >= self.train.epochs

    def epoch(self, valid: Arrays | None, bar: tqdm) -> None:
        """Show the network each training image once, then validate it."""
        wall, cpu = time.perf_counter(), time.process_time()
        losses = []
        for number, batch in enumerate(self.batches, start=1):
            losses.append(self.step(number, *(array.to(self.device) for array in batch)))
            bar.update()
        row = {
            "epoch": len(self.history) + 1,
            "train_loss": torch.stack(losses).mean().item(),
            **dict.fromkeys(self.validation.columns, math.nan),
            "learning_rate": self.rate,
        }
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu
        self.history.append(row)
        if valid is None:
            return
        row |= self.validate(valid)
        if self.best_epoch == len(self.history):
            self.best = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        bar.set_postfix(epoch=len(self.history), best=f"{max(self.scores):.4f}", refresh=False)

    def step(
        self,
        number: int,
        images: Tensor,
        features: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Change the weights by one batch, the ``number``-th of its epoch; return its loss."""
        logits = self.network(images, features)
        if weights is None:
            loss = self.loss(logits, labels)
        else:
            # not divided by the batch's own sum: the mean step over all batches is then that of
            # images that are there as often as they weigh
            loss = (weights * self.loss(logits, labels, reduction="none")).mean()
        if not torch.isfinite(loss):
            raise Diverged(
                f"the loss became {loss.item()} in epoch {len(self.history) + 1}, batch {number}, "
                f"at learning rate {self.rate:.3g}"
            )
        self.optimiser.zero_grad()
        loss.backward()
        # in the order of the optimiser, on which the rounding of their norm depends
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.train.clip)
        self.optimiser.step()
        self.schedule.step()
        return loss.detach()

    @torch.inference_mode()
    def validate(self, valid: Arrays) -> dict[str, float]:
        """Return the scores of the validation images: by default ``class_scores``."""
        self.network.eval()
        parts = []
        for images, features, _ in Batches(valid, VALID_BATCH):
            parts.append(self.network(images.to(self.device), features.to(self.device)))
        self.network.train()
        scores = self.validation.scores(torch.cat(parts).cpu(), valid[2])
        # the network answers in single precision: further digits are noise
        return {name: float(np.float32(score)) for name, score in scores.items()}

    def result(self) -> Learnt:
        """Return the network, on the CPU, with the best weights if there was a validation."""
        if self.best:
            self.network.load_state_dict(self.best)
        if not all(parameter.isfinite().all() for parameter in self.network.parameters()):
            raise Diverged(
                f"the weights are not finite after epoch {len(self.history)}, "
                f"at learning rate {self.train.learning_rate:.3g}"
            )
        history = pd.DataFrame(self.history)
        spent = self.seconds, self.cpu_seconds
        return Learnt(self.network.cpu().eval(), history, *spent, self.validation.best)

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on, as tensors, numbers, lists, dictionaries."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
            "best": self.best,
            "spent": [self.seconds, self.cpu_seconds],
            "random": [self.batches.generator.get_state(), torch.get_rng_state()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what ``state`` returned in another process."""
        for name in ("network", "optimiser", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.history, self.best = state["history"], state["best"]
        self.seconds, self.cpu_seconds = state["spent"]
        shuffle, everything_else = state["random"]
        self.batches.generator.set_state(shuffle)
        torch.set_rng_state(everything_else)


class Checkpoint:
    """The file from which a training that was killed continues.

    Written at the end of an epoch if the last one is older than ``EVERY`` seconds. ``identity``
    is a hash of settings and data: a checkpoint of others, or one that cannot be read, is ignored.
    """

    EVERY = 5.0  # seconds: what a kill costs at most, besides an epoch

    def __init__(self, path: Path, identity: str):
        self.path, self.identity = path, identity
        self._written = time.monotonic()

    def save(self, run: Training) -> None:
        if time.monotonic() - self._written < self.EVERY:
            return
        with atomic(self.path) as temporary:
            torch.save({"identity": self.identity, **run.state()}, temporary)
        self._written = time.monotonic()

    def restore(self, run: Training) -> None:
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            known = state["identity"] == self.identity
        except Exception:  # torch raises many kinds; one that cannot be read is as good as none
            return
        if known:
            run.restore(state)


def relative_rate(step: int, steps: int, warmup: int) -> float:
    """Return the learning rate of a step, from 0, relative to its maximum.

    It rises linearly over the first ``warmup`` steps and falls to 0 as half a cosine over the rest.
    """
    if step < warmup:
        return (step + 1) / warmup
    decay = max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / decay))


def _auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the ROC-AUC, 1/2 where it has no value: a class is absent, or a score not finite."""
    known = np.isfinite(scores).all() and 0 < labels.mean() < 1
    return float(roc_auc_score(labels, scores)) if known else 0.5


def _relative(weights: Tensor | None, loss: Loss | None) -> tuple[Tensor, ...]:
    """Return weights (n,) of mean 1, as a tuple of one; of none if all are alike."""
    if weights is None or (weights == weights[0]).all():
        return ()
    assert loss is None, "weights are for cross-entropy: another loss returns one number a batch"
    return ((weights / weights.mean()).float(),)


DEVICES = ("cpu", "cuda", "mps", "xpu")  # and auto


def device_of(name: str) -> torch.device:
    """Return a device by its name, such as cuda or cuda:1; auto: a GPU if there is one, or the CPU.

    InputError if there is none of this name here.
    """
    if name == "auto":
        there = torch.accelerator.is_available()
        return torch.accelerator.current_accelerator() if there else torch.device("cpu")
    try:
        device = torch.device(str(name))
        if device.type in DEVICES:
            torch.empty(0, device=device)  # which fails where there is none
            return device
        reason = "of no use here"
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # by kind of device
        reason = str(error).partition("\n")[0]
    raise InputError(
        f"device: found {name!r} ({reason}); expected one that this machine has, of "
        f"{', '.join(DEVICES)}, or auto"
    )


def _bar(label: str, total: int, progress: bool) -> tqdm:
    """Return one bar for the whole training."""
    return tqdm(
        total=total, desc=label, unit="batch", mininterval=5, ncols=100, disable=not progress
    )


def _name(loss: Loss | None) -> str:
    return "" if loss is None else getattr(loss, "__qualname__", repr(loss))


def _hash(identity: Any, *arrays: Tensor) -> str:
    digest = hashlib.sha256(repr(identity).encode())
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array.numpy()).data)
    return digest.hexdigest()
