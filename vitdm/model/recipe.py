"""The training recipe as Lightning runs it: one epoch after another, with checkpoints and a bar."""

from __future__ import annotations

import logging
import math
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from vitdm.config import Train
from vitdm.model.train import Batches, Diverged, Watch
from vitdm.model.vit import ViT, parameter_groups
from vitdm.provenance import atomic


class Recipe(lightning.LightningModule):
    """AdamW, warm-up and cosine decay, label smoothing; validation by the binary ROC-AUC.

    With validation the weights of the best epoch are kept in ``best``, and training stops after
    ``settings.patience`` epochs without a better one. A checkpoint holds whatever the next epoch
    depends on: to Lightning's it adds these weights, the history and the states of the random
    numbers, those of ``shuffle`` (the order of the images) among them.
    """

    def __init__(
        self,
        model: ViT,
        settings: Train,
        total_steps: int,
        shuffle: torch.Generator | None = None,
        watch: Watch | None = None,
    ):
        super().__init__()
        self.model = model
        self.watch = watch
        self.settings = settings
        self.total_steps = total_steps
        self.shuffle = shuffle or torch.Generator()
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.spent = torch.zeros(2, dtype=torch.float64)  # seconds: on the wall, of the processor
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._losses: list[Tensor] = []

    @property
    def best_epoch(self) -> int | None:
        """The first of the epochs, counted from 1, that validated best; None without validation."""
        aucs = [row["valid_roc_auc"] for row in self.history]
        return int(np.argmax(aucs)) + 1 if aucs and not math.isnan(aucs[-1]) else None

    def _stop_if_stale(self) -> None:
        stale = len(self.history) - (self.best_epoch or len(self.history))
        if stale >= self.settings.patience:
            self.trainer.should_stop = True
        elif self.watch is not None and self.best_epoch is not None:
            self.trainer.should_stop |= self.watch([row["valid_roc_auc"] for row in self.history])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name in ("history", "best", "spent"):
            checkpoint[name] = getattr(self, name)
        checkpoint["random"] = [self.shuffle.get_state(), torch.get_rng_state()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name in ("history", "best", "spent"):
            setattr(self, name, checkpoint[name])
        shuffle, everything_else = checkpoint["random"]
        self.shuffle.set_state(shuffle)
        torch.set_rng_state(everything_else)

    def on_train_start(self) -> None:
        self._stop_if_stale()  # a checkpoint of the last epoch

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> Tensor:
        images, features, labels = batch
        logits = self.model(images, features)
        if self.settings.softmax_twice:
            logits = logits.softmax(dim=1)
        loss = functional.cross_entropy(
            logits, labels, label_smoothing=self.settings.label_smoothing
        )
        if not torch.isfinite(loss):
            rate = self.optimizers().param_groups[0]["lr"]
            raise Diverged(
                f"the loss became {loss.item()} in epoch {self.current_epoch + 1}, batch "
                f"{index + 1}, at learning rate {rate:.3g}"
            )
        self._losses.append(loss.detach())
        return loss

    def on_train_epoch_start(self) -> None:
        self._started = _clocks()

    def on_validation_epoch_start(self) -> None:
        self._paused = _clocks()

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> None:
        images, features, labels = batch
        self._logits.append(self.model(images, features))
        self._labels.append(labels)

    def on_validation_epoch_end(self) -> None:
        logits, labels = torch.cat(self._logits).cpu(), torch.cat(self._labels).cpu()
        self._logits.clear()
        self._labels.clear()
        found = logits.softmax(dim=1).numpy()
        self.log("valid_loss", functional.cross_entropy(logits, labels))
        self.log("valid_roc_auc", _auc(labels.numpy() > 0, 1 - found[:, 0]))
        rest = [_auc(labels.numpy() == k, found[:, k]) for k in range(found.shape[1])]
        self.log("valid_macro_roc_auc", float(np.mean(rest)))
        self._started += _clocks() - self._paused

    def on_train_epoch_end(self) -> None:
        self.spent += _clocks() - self._started
        metrics = self.trainer.callback_metrics
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                "train_loss": torch.stack(self._losses).mean().item(),
                "valid_loss": float(metrics.get("valid_loss", math.nan)),
                "valid_roc_auc": float(metrics.get("valid_roc_auc", math.nan)),
                "valid_macro_roc_auc": float(metrics.get("valid_macro_roc_auc", math.nan)),
                "learning_rate": self.optimizers().param_groups[0]["lr"],
            }
        )
        self._losses.clear()
        if self.best_epoch == len(self.history):
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self._stop_if_stale()

    def configure_optimizers(self) -> dict[str, Any]:
        optimiser = torch.optim.AdamW(
            parameter_groups(self.model, self.settings.weight_decay), lr=self.settings.learning_rate
        )
        warmup = max(1, round(self.settings.warmup * self.total_steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            decay = max(1, self.total_steps - warmup)
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / decay))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the ROC-AUC, 1/2 where it has no value: a class is absent, or a score not finite."""
    known = np.isfinite(scores).all() and 0 < labels.mean() < 1
    return float(roc_auc_score(labels, scores)) if known else 0.5


def _clocks() -> Tensor:
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


class Resume(Checkpoint):
    """A checkpoint from which a training that was killed goes on, at ``path``.

    Written at the end of an epoch, when all else is done, if the last one is older than ``EVERY``
    seconds. ``made_of`` identifies settings and data: a checkpoint of others is no use.
    """

    EVERY = 5.0  # seconds: what a kill costs at most, besides an epoch

    def __init__(self, path: Path, made_of: str):
        self.path, self.made_of = path, made_of
        self._written = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Recipe) -> None:
        if time.monotonic() - self._written >= self.EVERY:
            with atomic(self.path) as temporary:
                trainer.save_checkpoint(temporary)
            self._written = time.monotonic()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: Recipe, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["made_of"] = self.made_of

    def found(self) -> Path | None:
        """Return the file if it is there, whole, and of the same settings and data."""
        try:
            made_of = torch.load(self.path, weights_only=True)["made_of"]
        except Exception:  # torch raises many kinds; one that cannot be read is as good as none
            return None
        return self.path if made_of == self.made_of else None


class Progress(Callback):
    """One bar for the whole run, with the best validation ROC-AUC so far."""

    def __init__(self, label: str, total: int):
        self.bar = tqdm(total=total, desc=label, unit="batch", mininterval=5, ncols=100)

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.bar.update(trainer.global_step)  # of a checkpoint

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Recipe) -> None:
        aucs = [row["valid_roc_auc"] for row in module.history]
        if aucs and not math.isnan(aucs[-1]):
            self.bar.set_postfix(epoch=len(aucs), best_auc=f"{max(aucs):.4f}", refresh=False)

    def teardown(self, *_: Any, **__: Any) -> None:
        self.bar.close()

    def on_exception(self, *_: Any) -> None:
        self.bar.close()  # what is said next gets a line of its own


def run_trainer(
    recipe: Recipe,
    batches: Batches,
    valid: Batches | None,
    train: Train,
    callbacks: list[Callback],
    resume: Path | None,
) -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        accelerator=train.accelerator,
        devices=1,
        max_epochs=train.epochs,
        gradient_clip_val=train.clip,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=any(isinstance(c, Resume) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
        warnings.filterwarnings("ignore", message=".*isinstance.*LeafSpec.*")
        trainer.fit(recipe, batches, valid, ckpt_path=resume, weights_only=True)
    recipe.model.to("cpu")
