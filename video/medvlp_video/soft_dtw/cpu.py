"""Soft-DTW on the CPU: samples shared out among threads, each a compiled sweep.

Loading this module loads numba, so only `alignment` imports it, on demand.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medvlp_video.soft_dtw import kernels
from medvlp_video.soft_dtw.limits import limits

_GRAIN = 150_000
"""Cells that a thread should have to be worth waking, half a millisecond's."""

_PARTS = 4
"""Parts of the work for each thread."""


def forward(
    cost_BTK: Tensor,
    drop_BT: Tensor | None,
    frames_B: Tensor,
    steps_B: Tensor,
    gamma: float,
    probability: bool,
    kept: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Values (B,), and the tables P and D for `backward` where they are `kept`.

    Args:
        cost_BTK: float32 or float64, contiguous.
        drop_BT: Of the same type; None where no frame may be dropped.
        frames_B: Each sample's frames, int64.
        steps_B: Each sample's steps, int64.
        gamma: Temperature.
        probability: The soft minimum ``probability``, not ``logsumexp``.
        kept: Whether there will be a backward pass.
    """
    whole = cost_BTK.new_empty(cost_BTK.numel() if kept else 0)
    shown = cost_BTK.new_empty(0) if drop_BT is None else torch.empty_like(whole)
    value_B = cost_BTK.new_empty(len(cost_BTK))
    shape, typed = tuple(cost_BTK.shape[1:]), _typed(cost_BTK.dtype, gamma)
    costs = cost_BTK.view(-1).numpy(), _flat(drop_BT, cost_BTK.dtype)
    lengths, results = _arrays(frames_B, steps_B), _arrays(shown, whole, value_B)

    def sweep(start: int, stop: int) -> None:
        kernels.forward(*costs, *lengths, shape, typed, probability, *results, start, stop)

    _share_out(sweep, tuple(cost_BTK.shape), frames_B, steps_B)
    return value_B, (shown, whole)


def backward(
    shape: tuple[int, int],
    drop_BT: Tensor | None,
    frames_B: Tensor,
    steps_B: Tensor,
    gamma: float,
    probability: bool,
    tables: tuple[Tensor, ...],
    value_B: Tensor,
    grad_B: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """The gradients of ``Σ grad · value`` with respect to costs and drop costs."""
    shown, whole = tables
    grad_cost = torch.zeros_like(whole)
    grad_drop = None if drop_BT is None else torch.zeros_like(drop_BT)
    typed, drop = _typed(whole.dtype, gamma), _flat(drop_BT, whole.dtype)
    lengths, given = _arrays(frames_B, steps_B), _arrays(shown, whole, value_B, grad_B)
    results = grad_cost.numpy(), _flat(grad_drop, whole.dtype)

    def sweep(start: int, stop: int) -> None:
        kernels.backward(drop, *lengths, shape, typed, probability, *given, *results, start, stop)

    _share_out(sweep, (len(value_B), *shape), frames_B, steps_B)
    return grad_cost.view(-1, *shape), grad_drop


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(tensor.numpy() for tensor in tensors)


@lru_cache(2)
def _none(dtype: torch.dtype) -> np.ndarray:
    return torch.empty(0, dtype=dtype).numpy()


def _flat(drop_BT: Tensor | None, dtype: torch.dtype) -> np.ndarray:
    """Drop costs as the kernels take them: an empty array where there are none."""
    return _none(dtype) if drop_BT is None else drop_BT.view(-1).numpy()


@lru_cache(8)
def _typed(dtype: torch.dtype, gamma: float) -> tuple[Any, ...]:
    kind = np.float32 if dtype == torch.float32 else np.float64
    return tuple(kind(number) for number in limits(dtype, gamma))


def _share_out(
    sweep: Callable[[int, int], None], shape: tuple[int, ...], frames_B: Tensor, steps_B: Tensor
) -> None:
    """Run a sweep over all samples, in parts of about as many cells as there are threads."""
    batch, frames, steps = shape
    threads = min(torch.get_num_threads(), batch, batch * frames * steps // _GRAIN)
    if threads <= 1:
        sweep(0, batch)
        return
    # Several parts each: whoever wakes late takes fewer.
    count = min(_PARTS * threads, batch)
    cells = torch.cumsum(frames_B * steps_B, 0)
    goals = torch.arange(1, count) * cells[-1] // count
    cuts = [0, *(torch.searchsorted(cells, goals) + 1).tolist(), batch]
    parts = ((start, stop) for start, stop in pairwise(cuts) if start < stop)
    lock = Lock()

    def work() -> None:
        while True:
            with lock:
                part = next(parts, None)
            if part is None:
                return
            sweep(*part)

    pool = _pool(threads, os.getpid())
    waiting = [pool.submit(work) for _ in range(threads - 1)]
    work()
    for other in waiting:
        other.result()


@lru_cache(1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process: those of one from which it was forked do not run in it."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="soft-dtw")
