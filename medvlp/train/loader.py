"""The loader of a run: read ahead, pinned for a GPU, and it tells how long it was waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from medvlp.data.items import DataConfig


class WatchedLoader(DataLoader[Any]):
    """A loader that counts the seconds in which its batches were waited for, in `waited_s`."""

    waited_s = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The batches."""
        batches = super().__iter__()
        while True:
            since = time.perf_counter()
            batch = next(batches, None)
            self.waited_s += time.perf_counter() - since
            if batch is None:
                return
            yield batch


def build_loader(
    dataset: Dataset[Any],
    sampler: Sampler[Any],
    collate: Callable[[Sequence[Any]], Any],
    config: DataConfig,
    accelerator: str,
) -> WatchedLoader:
    """The loader of batches that `sampler` names.

    Args:
        dataset: What a batch's samples are read from, by the sampler's indices.
        sampler: Gives lists of indices, a batch each.
        collate: Makes a batch of samples.
        config: How many processes read, and how far ahead.
        accelerator: Where the batches go: for a GPU they are laid into page-locked memory.
    """
    ahead: dict[str, Any] = {}
    if config.workers > 0:
        ahead = {"persistent_workers": True, "prefetch_factor": config.prefetch}
    return WatchedLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=config.workers,
        pin_memory=accelerator != "cpu" and torch.cuda.is_available(),
        **ahead,
    )
