"""How Lightning writes and reads checkpoints: at once, or by a thread while training goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import CheckpointIO
from torch import Tensor

from medvlp.errors import MedvlpError, RunError
from medvlp.train.checkpoint import Packed, pack, read_checkpoint, write_packed


class SaveError(RunError):
    """A checkpoint that the disk does not take."""

    exit_code = 3


class SafeCheckpointIO(CheckpointIO):
    """Lightning's door to `medvlp.train.checkpoint`.

    A write that fails raises nothing where it happens, because the other ranks would wait for the
    first for ever: it is kept in `failed`, and whoever asked for the write looks there.

    Args:
        previous: Where the file goes that stands under a name; others are replaced.
        asynchronous: Copy the tensors and let a thread write them. The copies' memory is kept
            for the next write to the same file.
    """

    def __init__(
        self, previous: Mapping[Path, Path] | None = None, *, asynchronous: bool = False
    ) -> None:
        self._previous = dict(previous or {})
        self._writer = ThreadPoolExecutor(1, "checkpoint") if asynchronous else None
        self._running: dict[Path, Future[None]] = {}
        self._copies: dict[Path, dict[str, Tensor]] = {}
        self._failure: MedvlpError | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write the training state, or begin to; never raises for what the disk does."""
        target = Path(path)
        previous = self._previous.get(target)
        try:
            packed = pack(checkpoint)
            if self._writer is None:
                write_packed(_on_cpu(packed), target, previous=previous)
                return
            self._wait(target)
            copied = _copy(packed, self._copies.get(target, {}))
            self._copies[target] = copied.tensors
            self._running[target] = self._writer.submit(
                write_packed, copied, target, previous=previous
            )
        except (MedvlpError, OSError) as error:
            self._keep(error, target)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the training state, on the CPU; Lightning moves it."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)

    @property
    def failed(self) -> MedvlpError | None:
        """The first write that failed so far, without waiting for those that still run."""
        for path in [path for path, future in self._running.items() if future.done()]:
            self._wait(path)
        return self._failure

    def finish(self) -> None:
        """Wait until everything is written, or has failed."""
        for path in list(self._running):
            self._wait(path)

    def teardown(self) -> None:
        """Let the writer end."""
        if self._writer is not None:
            self._writer.shutdown()

    def _wait(self, path: Path) -> None:
        future = self._running.pop(path, None)
        error = None if future is None else future.exception()
        if error is not None:
            self._keep(error, path)

    def _keep(self, error: BaseException, path: Path) -> None:
        if not isinstance(error, MedvlpError | OSError):
            raise error
        self._failure = self._failure or save_error(error, path)


def save_error(error: MedvlpError | OSError, path: Path) -> MedvlpError:
    """What a failed write means for the user."""
    if isinstance(error, MedvlpError):
        return error
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return SaveError(
        f"checkpoint {path.name} cannot be written ({reason}); the one before it is kept",
        remedy="make room on the run folder's disk and repeat the command",
    )


def check_room(folder: Path, size: int) -> None:
    """Refuse to begin where the disk has no room for the two checkpoints that are kept.

    Args:
        folder: The checkpoints' folder.
        size: Bytes of one checkpoint.

    Raises:
        SaveError: Fewer than twice `size` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        raise SaveError(
            f"two checkpoints of {size / 1e6:.0f} MB do not fit on the run folder's disk "
            f"({free / 1e6:.0f} MB free)",
            remedy="make room, or name another folder with --out",
        )


def _on_cpu(packed: Packed) -> Packed:
    return Packed(packed.tree, {name: t.cpu() for name, t in packed.tensors.items()})


def _copy(packed: Packed, kept: Mapping[str, Tensor]) -> Packed:
    """The state as it is now, in the memory of an earlier copy where that fits."""
    copies = {}
    for name, tensor in packed.tensors.items():
        old = kept.get(name)
        if old is None or old.shape != tensor.shape or old.dtype != tensor.dtype:
            pinned = tensor.device.type == "cuda"
            old = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        copies[name] = old.copy_(tensor, non_blocking=True)
    if any(tensor.device.type == "cuda" for tensor in packed.tensors.values()):
        torch.cuda.synchronize()
    return Packed(packed.tree, copies)
