"""What keeps a bad sample or a bad number out of the weights, and says whose it was."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from medvlp.data.batch import BadSample, Batch
from medvlp.errors import RunError
from medvlp.progress import tell
from medvlp.train.callbacks import keep_rows
from medvlp.train.clipping import clip, total_norm
from medvlp.train.ranks import combine, gather_text

MOST_SKIPPED = 3
"""Updates with a loss or gradient that is not finite, the last of which ends the run."""

_SPARED, _PER_MILLE = 3, 1
_NAMED = 8
"""Samples that a line on the terminal names; the file names all."""

_COLUMNS = ("step", "sample", "code")


class Guard(Callback):
    """Checks each update before it happens, and clips it; counts and lists bad samples.

    *Not finite.* If any rank's loss, or the norm of the gradient, is not finite, all ranks skip
    the update: weights, optimiser and running statistics stay what they were, the step counts,
    and the schedule goes on. The third such step of a run ends it.

    *Unreadable.* A sample that cannot be read has been replaced by the dataset
    (`medvlp.data.dataset.PairDataset`). A run may meet three of these, and beyond them one in a
    thousand of the samples that it has drawn; it ends before the update that would exceed this.
    Samples of the validation split count like those of training, each time they are drawn.

    Both are listed in ``bad_samples.csv`` of the run folder.

    Args:
        folder: The run folder.
        clip_norm: The gradient is scaled down to this norm; None leaves it.
        start: The step that the run resumes from; later rows of an earlier attempt are dropped.
    """

    def __init__(self, folder: Path, clip_norm: float | None, start: int) -> None:
        self.file = folder / "bad_samples.csv"
        self.clip_norm = clip_norm
        self.start = start
        self.counts = {"skipped": 0, "drawn": 0, "unreadable": 0}
        self.drawn: list[str] = []
        self.suspects: list[str] = []
        self.unreadable: list[BadSample] = []
        self.batch: Batch | None = None
        self.statistics: list[tuple[Tensor, Tensor]] = []
        self.validated = 0

    def state_dict(self) -> dict[str, Any]:
        """The counts so far, of all ranks."""
        return dict(self.counts)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up `state_dict`."""
        self.counts = dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop what an earlier attempt listed after the checkpoint."""
        if trainer.is_global_zero and self.file.is_file():
            keep_rows(self.file, _COLUMNS, self.start)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Remember whose turn it is, and the running statistics that the step will change."""
        if not self.drawn:
            self.statistics = [(live, live.clone()) for live in _running_statistics(pl_module)]
        self.batch = batch
        self._draw(batch)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Name the samples of a batch whose loss is not finite."""
        if self.batch is not None and not torch.isfinite(loss):
            self.suspects += _culprits(self.batch)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Judge the step, on all ranks alike, and clip its gradient.

        Raises:
            RunError: The third step that is not finite, or too many unreadable samples.
        """
        step = trainer.global_step + 1
        weights = [p for p in pl_module.parameters() if p.grad is not None]
        norm = total_norm([p.grad for p in weights if p.grad is not None])
        poisoned = bool(self.suspects) or not bool(torch.isfinite(norm))
        self._settle_unreadable(trainer, step)
        if combine(trainer, [int(poisoned)], "max")[0]:
            self._skip(trainer, step, poisoned)
            for weight in weights:
                weight.grad = None  # The optimiser passes over what has no gradient.
            for live, before in self.statistics:
                live.copy_(before)
        elif self.clip_norm is not None:
            clip(weights, self.clip_norm, norm)
        self.drawn.clear()
        self.suspects.clear()
        self.batch = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that the data end with the run: Lightning would begin again without a word.

        Raises:
            RunError: They ended before.
        """
        if trainer.global_step < trainer.max_steps:
            raise RunError(
                f"training ended at step {trainer.global_step} of {trainer.max_steps}",
                remedy="look for a StopIteration in the model or the objectives, and repeat the "
                "command to go on from the last checkpoint",
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self.validated = 0

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Collect what could not be read."""
        self.validated += 1
        self._draw(batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that validation is complete.

        Raises:
            RunError: It ended early, or too many samples are unreadable.
        """
        expected = int(sum(trainer.num_val_batches))
        if self.validated != expected:
            raise RunError(
                f"validation ended after {self.validated} of {expected} batches",
                remedy="look for a StopIteration in the model or the objectives",
            )
        self._settle_unreadable(trainer, trainer.global_step)
        self.drawn.clear()

    def _draw(self, batch: Batch) -> None:
        self.drawn += batch.sample
        self.unreadable += [bad for failed in batch.failed for bad in failed]

    def _settle_unreadable(self, trainer: Trainer, step: int) -> None:
        drawn, unreadable = combine(trainer, [len(self.drawn), len(self.unreadable)], "sum")
        self.counts["drawn"] += drawn
        if not unreadable:
            return
        self.counts["unreadable"] += unreadable
        rows = self._list(trainer, step, [(bad.sample, bad.reason) for bad in self.unreadable])
        self.unreadable.clear()
        count, of = self.counts["unreadable"], self.counts["drawn"]
        told = f"step {step}: {_some([f'{s} ({c})' for s, c in rows])} cannot be read"
        if 1000 * (count - _SPARED) > _PER_MILLE * of:
            raise RunError(
                f"{told}; {count} of {of} samples drawn so far, more than {_SPARED} and one in a "
                "thousand",
                remedy="run medvlp verify on the manifest, or index the archive again without "
                "the samples in the run folder's bad_samples.csv",
            )
        if trainer.is_global_zero:
            tell(f"{told}; replaced")

    def _skip(self, trainer: Trainer, step: int, mine: bool) -> None:
        self.counts["skipped"] += 1
        what = "loss" if self.suspects else "gradient"
        names = (self.suspects or self.drawn) if mine else []
        rows = self._list(trainer, step, [(name, f"nonfinite_{what}") for name in names])
        kinds = " and ".join(sorted({code.removeprefix("nonfinite_") for _, code in rows}))
        told = f"step {step}: {kinds} not finite; samples {_some([name for name, _ in rows])}"
        if self.counts["skipped"] >= MOST_SKIPPED:
            raise RunError(
                f"{told}; this has happened {MOST_SKIPPED} times, and no update was made of it",
                remedy="lower optim.lr, use trainer.precision=fp32, or leave out these samples; "
                "the last checkpoint is sound",
            )
        if trainer.is_global_zero:
            tell(f"{told}; update skipped ({self.counts['skipped']} of {MOST_SKIPPED})")

    def _list(
        self, trainer: Trainer, step: int, mine: Sequence[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """Every rank's samples and codes, written to the file by the first."""
        rows = [
            (s, c) for text in gather_text(trainer, json.dumps(mine)) for s, c in json.loads(text)
        ]
        if trainer.is_global_zero:
            fresh = not self.file.is_file()
            with self.file.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerows([_COLUMNS] if fresh else [])
                writer.writerows([step, sample, code] for sample, code in rows)
        return rows


def _running_statistics(module: nn.Module) -> list[Tensor]:
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    return [buffer for layer in layers for buffer in layer.buffers(recurse=False)]


def _culprits(batch: Batch) -> list[str]:
    """The samples whose image is not finite; all of them where every image is.

    Slices of a volume that are NaN throughout are not there (`medvlp.data.preprocess`).
    """
    image = batch.image
    finite = torch.isfinite(image)
    if image.ndim == 5:
        finite |= image.isnan().all(1, keepdim=True).flatten(3).all(3)[..., None, None]
    finite_B = finite.flatten(1).all(1).tolist()
    named = [name for name, finite in zip(batch.sample, finite_B, strict=True) if not finite]
    return named or list(batch.sample)


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
