"""What is told of the steps: rows of metrics and the bar."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from medvlp.data.batch import Batch
from medvlp.outputs import write_text
from medvlp.progress import progress_bar
from medvlp.train.experiment import TrainerConfig


def completes_step(config: TrainerConfig, batch_idx: int) -> bool:
    """Whether an optimiser step follows this batch."""
    return (batch_idx + 1) % config.accumulate == 0


def is_validated(trainer: Trainer, config: TrainerConfig, step: int) -> bool:
    """Whether the validation split is passed over after this step."""
    return sum(trainer.num_val_batches) > 0 and (
        step % config.valid_every == 0 or step == config.steps
    )


_WORTH_TELLING = 0.05
"""The bar tells of a wait for data from this share of the time."""


class MetricsLog(Callback):
    """Writes ``metrics.csv`` and TensorBoard events.

    ``data_wait`` is the share of the time in which the device had no batch to work on.

    Args:
        folder: The run folder.
        config: The trainer's configuration.
        names: The named losses.
        streams: The data streams, if there are several; each step's is named where it has one.
        start: The step that the run resumes from; later rows of an earlier attempt are dropped.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainerConfig,
        names: Sequence[str],
        start: int,
        streams: Sequence[str] = (),
    ) -> None:
        self.file = folder / "metrics.csv"
        self.board = folder / "tensorboard"
        self.config = config
        self.columns = ["step", "loss", *names, "lr", "samples_per_s", "data_wait", "valid_loss"]
        if streams:
            self.columns += ["stream", *(f"valid_{name}" for name in streams)]
        self.start = start
        self.micro: list[dict[str, Tensor]] = []
        self.row: dict[str, Any] = {}
        self.pending = False
        self.samples = 0
        self.since = 0.0
        self.waited_s = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The row that waits for the end of validation, where a checkpoint is taken before."""
        return {"row": self.row, "pending": self.pending}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up `state_dict`."""
        self.row, self.pending = state_dict["row"], state_dict["pending"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The rows up to a checkpoint are on the disk before it is."""
        if trainer.is_global_zero and self.file.is_file():
            with self.file.open("rb") as file:
                os.fsync(file.fileno())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the files."""
        self.since = time.perf_counter()
        self._waited(trainer)  # what the start took is no step's wait
        if trainer.is_global_zero:
            keep_rows(self.file, self.columns, self.start - self.pending)
            self.writer = SummaryWriter(str(self.board), purge_step=self.start + 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch,
        batch_idx: int,
    ) -> None:  # fmt: skip
        """Collect the step; write it if it is due."""
        self.micro.append(outputs["named"])
        self.samples += len(batch.sample) * trainer.world_size
        if not completes_step(self.config, batch_idx):
            return
        step = trainer.global_step
        due = is_validated(trainer, self.config, step)
        if due or step % self.config.log_every == 0 or step == self.config.steps:
            self.row = self._measure(trainer, step)
            self.pending = due
            if "stream" in self.columns:
                self.row["stream"] = "+".join(sorted(set(batch.stream)))
            if not due:
                self._write(trainer)
        self.micro.clear()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete the step's row."""
        for name in self.columns:
            if name.startswith("valid_") and name in trainer.callback_metrics:
                self.row[name] = float(trainer.callback_metrics[name])
        self._write(trainer)
        self.pending = False
        self.since, self.samples = time.perf_counter(), 0

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the event file."""
        if hasattr(self, "writer"):
            self.writer.close()

    def _measure(self, trainer: Trainer, step: int) -> dict[str, Any]:
        names = list(self.micro[0])
        values = torch.stack([torch.stack([m[n] for n in names]) for m in self.micro]).mean(0)
        values = trainer.strategy.reduce(values, reduce_op="mean")
        now = time.perf_counter()
        took_s = max(now - self.since, 1e-9)
        rate, wait = self.samples / took_s, self._waited(trainer) / took_s
        self.since, self.samples = now, 0
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        losses = dict(zip(names, values.tolist(), strict=True))
        return {
            "step": step,
            **losses,
            "lr": lr,
            "samples_per_s": round(rate, 2),
            "data_wait": round(wait, 4),
        }

    def _waited(self, trainer: Trainer) -> float:
        """Seconds for which batches were waited since the last row."""
        loader: Any = trainer.train_dataloader
        before, self.waited_s = self.waited_s, loader.waited_s
        return float(self.waited_s - before)

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        with self.file.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(self.row)
        for name, value in self.row.items():
            if name not in ("step", "stream"):
                self.writer.add_scalar(name, value, self.row["step"])


class StepBar(Callback):
    """A bar with the loss, samples a second and the time to go.

    Args:
        config: The trainer's configuration.
        log: Where the figures come from.
        start: The step that the run resumes from.
    """

    def __init__(self, config: TrainerConfig, log: MetricsLog, start: int) -> None:
        self.config = config
        self.metrics = log
        self.start = start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        self.bar = progress_bar()
        self.task = self.bar.add_task("train", total=self.config.steps, completed=self.start)
        if trainer.is_global_zero:
            self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch,
        batch_idx: int,
    ) -> None:  # fmt: skip
        """Advance the bar."""
        row = self.metrics.row
        figures = f"loss {row['loss']:.3f}, {row['samples_per_s']:.0f} samples/s" if row else ""
        if row and row["data_wait"] > _WORTH_TELLING:
            figures += f", {row['data_wait']:.0%} waiting for data"
        self.bar.update(
            self.task, completed=trainer.global_step, description=f"train {figures}".strip()
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hide the bar."""
        if hasattr(self, "bar"):
            self.bar.stop()


def keep_rows(file: Path, columns: Sequence[str], start: int) -> None:
    """Start the table, or drop what an attempt wrote after the checkpoint, or wrote in part."""
    whole = file.read_text(encoding="utf-8").rpartition("\n")[0] if file.is_file() else ""
    rows = [row for row in csv.DictReader(io.StringIO(whole)) if int(row["step"]) <= start]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())
