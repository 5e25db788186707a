"""Soft-DTW on CUDA devices, by Triton kernels.

This module needs triton, which the CUDA builds of torch bring; only `alignment` imports it, on
demand.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from medvlp_video.soft_dtw import triton_kernels
from medvlp_video.soft_dtw.limits import limits

BLOCK = 1024
"""Steps of a strip at most: four lanes for each of eight warps' threads."""


def forward(
    cost_BTK: Tensor,
    drop_BT: Tensor | None,
    frames_B: Tensor,
    steps_B: Tensor,
    gamma: float,
    probability: bool,
    kept: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `cpu.forward`; the third table is D before the first step."""
    batch, frames, _ = cost_BTK.shape
    whole = cost_BTK.new_empty(cost_BTK.numel() if kept else 0)
    # Where frames are not dropped, any pointer will do for what is never used.
    shown, edge, drop = (whole, whole, whole)
    if drop_BT is not None:
        shown, edge, drop = torch.empty_like(whole), torch.empty_like(drop_BT), drop_BT
    value_B = cost_BTK.new_empty(batch)
    with _current(cost_BTK.device):
        triton_kernels.forward[(batch,)](
            cost_BTK,
            drop,
            frames_B.int(),
            steps_B.int(),
            cost_BTK.new_tensor(limits(cost_BTK.dtype, gamma)),
            shown,
            whole,
            edge,
            cost_BTK.new_empty(batch * 4 * frames),
            value_B,
            *cost_BTK.shape[1:],
            PROBABILITY=probability,
            DROP=drop_BT is not None,
            KEEP=kept,
            **_blocks(cost_BTK.shape[2]),
        )
    return value_B, (shown, whole, edge)


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
    """As `cpu.backward`."""
    shown, whole, edge = tables
    grad_cost = torch.zeros_like(whole)
    drop, grad_drop = (
        (whole, grad_cost) if drop_BT is None else (drop_BT, torch.zeros_like(drop_BT))
    )
    batch = len(value_B)
    with _current(whole.device):
        triton_kernels.backward[(batch,)](
            drop,
            frames_B.int(),
            steps_B.int(),
            whole.new_tensor(limits(whole.dtype, gamma)),
            shown,
            whole,
            edge,
            value_B,
            grad_B,
            whole.new_empty(batch * 4 * shape[0]),
            grad_cost,
            grad_drop,
            *shape,
            PROBABILITY=probability,
            DROP=drop_BT is not None,
            **_blocks(shape[1]),
        )
    return grad_cost.view(-1, *shape), None if drop_BT is None else grad_drop


def _blocks(steps: int) -> dict[str, Any]:
    block = min(max(triton.next_power_of_2(steps), 16), BLOCK)
    # Said outright, since Triton's default is about to change.
    return {"BLOCK": block, "num_warps": max(block // 128, 1), "enable_fp_fusion": True}


def _current(device: torch.device) -> torch.cuda.device:
    """Triton launches on the current device."""
    return torch.cuda.device(device.index if device.type == "cuda" else -1)
