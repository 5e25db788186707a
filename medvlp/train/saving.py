"""When a run is saved, and from which checkpoint it goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from medvlp.data.batch import Batch
from medvlp.errors import MedvlpError, RunError
from medvlp.progress import tell
from medvlp.train.callbacks import completes_step, is_validated
from medvlp.train.checkpoint import read_checkpoint, remove_orphans
from medvlp.train.checkpoint_io import SafeCheckpointIO, SaveError, check_room
from medvlp.train.experiment import TrainerConfig
from medvlp.train.ranks import combine
from medvlp.train.signals import Stopped, StopSignals

LAST, PREVIOUS, BEST = (f"{name}.safetensors" for name in ("last", "previous", "best"))


def checkpoint_io(folder: Path, config: TrainerConfig) -> SafeCheckpointIO:
    """What writes the checkpoints of `folder`: the last one and the one before it are kept."""
    return SafeCheckpointIO({folder / LAST: folder / PREVIOUS}, asynchronous=config.save_async)


def resume_point(folder: Path, *, first: bool) -> tuple[Path | None, int]:
    """The newest sound checkpoint and its step; None and 0 for a run that has none yet.

    Args:
        folder: The checkpoints' folder.
        first: Whether this is the first process, which alone clears up and tells the user.

    Raises:
        RunError: There are checkpoints, and none of them is sound.
    """
    if first and folder.is_dir():
        remove_orphans(folder)
    damaged: RunError | None = None
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            step = int(read_checkpoint(path)["global_step"])
        except RunError as error:
            damaged = error
            continue
        if damaged is not None and first:
            tell(f"{LAST} is damaged; going on from the checkpoint before it, step {step}")
            # Kept, it would take the place of the sound one at the next save.
            (folder / LAST).unlink(missing_ok=True)
        return path, step
    if damaged is not None:
        raise damaged
    return None, 0


def final_state(folder: Path) -> dict[str, Any]:
    """What a finished run is exported from: the best weights, or the last.

    Raises:
        RunError: Neither is sound.
    """
    if (folder / BEST).exists():
        try:
            return read_checkpoint(folder / BEST)
        except RunError:
            tell(f"{BEST} is damaged; the bundle takes the last weights")
    return read_checkpoint(folder / LAST)


class Checkpoints(Callback):
    """Keeps ``last`` and the one before it, and, by validation loss, ``best``; stops when asked.

    A step that is validated is saved after that. If a stop is asked for before validation has
    ended, the checkpoint says so, and the resumed run validates the step first.

    Args:
        folder: The checkpoints' folder.
        config: The trainer's configuration.
        io: What writes them.
        signals: Who asks for a stop.
    """

    def __init__(
        self, folder: Path, config: TrainerConfig, io: SafeCheckpointIO, signals: StopSignals
    ) -> None:
        self.folder = folder
        self.config = config
        self.io = io
        self.signals = signals
        self.lowest = math.inf
        self.failure: MedvlpError | None = None
        self.unvalidated = False

    def state_dict(self) -> dict[str, Any]:
        """The lowest validation loss so far."""
        return {"lowest": self.lowest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up `state_dict`."""
        self.lowest = state_dict["lowest"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make an unfinished validation one that has only begun."""
        if self.unvalidated:
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress.update(total=begun, current=dict(begun))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals back from Lightning; see that there is room, and one common step.

        Raises:
            RunError: No room for two checkpoints, or ranks that go on from different ones.
        """
        self.signals.install()
        self.signals.training = True
        step = trainer.global_step
        self.signals.saved = step
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                check_room(self.folder, _size(pl_module))
            except SaveError as error:
                self.failure = error
        self._agree(trainer)
        if combine(trainer, [step, -step], "max") != [step, -step]:
            raise RunError(
                f"the processes go on from different checkpoints, this one from step {step}",
                remedy="see that all machines read the same run folder, and repeat the command",
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch,
        batch_idx: int,
    ) -> None:  # fmt: skip
        """Save if the step is due and is not validated first."""
        if not completes_step(self.config, batch_idx):
            return
        step, asked = trainer.global_step, self._agree(trainer)
        if step == self.config.steps:
            trainer.should_stop = True  # Lightning validates once more when it is told to stop.
        if not is_validated(trainer, self.config, step):
            self._save(trainer, asked)
        elif asked and step < self.config.steps:
            self._save_unvalidated(trainer, asked)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Stop before validation has ended, where that is asked for."""
        asked = self._agree(trainer)
        if asked and trainer.global_step < self.config.steps:
            self._save_unvalidated(trainer, asked)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the best weights; save the step."""
        loss = float(trainer.callback_metrics["valid_loss"])
        if loss < self.lowest:
            self.lowest = loss
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)
        self._save(trainer, self._agree(trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let what is being written end."""
        self.io.finish()

    def _save_unvalidated(self, trainer: Trainer, asked: int) -> None:
        self.unvalidated = True
        self._save(trainer, asked)

    def _save(self, trainer: Trainer, asked: int) -> None:
        step = trainer.global_step
        if not (asked or step % self.config.save_every == 0 or step == self.config.steps):
            return
        trainer.save_checkpoint(self.folder / LAST)
        if asked or step == self.config.steps:
            self.io.finish()
        self._agree(trainer)
        self.signals.saved = step
        if asked:
            raise Stopped(asked, step)

    def _agree(self, trainer: Trainer) -> int:
        """The signal that any rank has got; where the first could not write, all ranks end.

        Raises:
            MedvlpError: In the first rank, what happened.
            SystemExit: In the others.
        """
        error = self.failure or self.io.failed
        asked, failed = combine(trainer, [self.signals.asked, int(error is not None)], "max")
        if failed:
            raise error or SystemExit(SaveError.exit_code)
        return asked


def _size(module: LightningModule) -> int:
    """Bytes of a checkpoint: the weights, and AdamW's two moments of those that learn."""
    weights = sum(t.nbytes for t in [*module.parameters(), *module.buffers()])
    return weights + 2 * sum(p.nbytes for p in module.parameters() if p.requires_grad)
